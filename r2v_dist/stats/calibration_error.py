"""How well a forecast of risk is calibrated (docs/method.md, section 9), against soft labels:
`failures` out of `n` branches (or outcomes, n = 1) at each state.

Every branch counts as one observation, so that a state weighs n. Bins are open below and closed
above; the first bin is closed on both sides. Axes: N states, B bins, L distinct forecasts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BINS = 15


@dataclass(frozen=True)
class BrierParts:
    """brier = reliability - resolution + uncertainty + within_bins, where `brier` is the mean of
    (p - Y)^2 over branches.

    `against_shares` leaves out the noise of single branches: it is the mean of (p - failures / n)^2
    weighted by n. `within_bins` is the error of treating the forecasts of a bin as equal, and 0
    when forecasts are not binned.
    """

    brier: float
    against_shares: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float

    @property
    def constant(self) -> float:
        """Brier score of the best constant forecast."""
        return self.uncertainty


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability diagram: mean forecast, share of failures, number of branches."""

    forecast: float
    observed: float
    branches: float


@dataclass(frozen=True)
class PerfectEce:
    """The ECE that a perfect forecaster has on finitely many branches, which is above 0."""

    mean: float
    upper_95: float


def brier_parts(p: Array, failures: Array, n: Array, bins: int | None = BINS) -> BrierParts:
    """Brier score and its decomposition (Murphy, "A new vector partition of the probability score",
    1973), over equal-width bins, or over distinct forecasts (`bins` None), where it is exact.
    """
    total = n.sum()
    share = _share(failures, n)
    groups_N = _levels(p)[1] if bins is None else equal_width(p, bins)
    forecast_B, observed_B, weight_B = _means(groups_N, p, failures, n)
    mean = float(failures.sum() / total)
    against_shares = float((n * (p - share) ** 2).sum() / total)
    noise = float((n * share * (1 - share)).sum() / total)
    brier = against_shares + noise
    reliability = float((weight_B * (forecast_B - observed_B) ** 2).sum() / total)
    resolution = float((weight_B * (observed_B - mean) ** 2).sum() / total)
    uncertainty = mean * (1 - mean)
    return BrierParts(
        brier=brier,
        against_shares=against_shares,
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within_bins=brier - (reliability - resolution + uncertainty),
    )


def reliability_bins(
    p: Array, failures: Array, n: Array, bins_N: npt.NDArray[np.int64]
) -> list[ReliabilityBin]:
    """Mean forecast and observed share of every bin that holds a branch (Murphy and Winkler,
    "Reliability of subjective probability forecasts", 1977). `bins_N` comes from `equal_width` or
    `equal_mass`.
    """
    forecast_B, observed_B, weight_B = _means(bins_N, p, failures, n)
    rows = zip(forecast_B.tolist(), observed_B.tolist(), weight_B.tolist(), strict=True)
    return [ReliabilityBin(*row) for row in rows]


def ece(p: Array, failures: Array, n: Array, bins: int = BINS) -> float:
    """Expected calibration error over equal-width bins (Naeini et al., "Obtaining well calibrated
    probabilities using Bayesian binning", 2015; Guo et al., "On calibration of modern neural
    networks", 2017, equation 3).
    """
    return _gap(equal_width(p, bins), p, failures, n)


def adaptive_ece(p: Array, failures: Array, n: Array, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal numbers of branches (Nguyen and O'Connor,
    "Posterior calibration and exploratory analysis for natural language processing models", 2015).
    Equal forecasts share a bin.
    """
    return _gap(equal_mass(p, n, bins), p, failures, n)


def perfect_ece(
    p: Array, n: Array, seed: int, bins: int = BINS, repetitions: int = 500
) -> PerfectEce:
    """ECE when `p` is the true risk, by the consistency resampling of Bröcker and Smith
    ("Increasing the reliability of reliability diagrams", 2007). Branches count as independent
    given their state.
    """
    rng = np.random.default_rng(seed)
    bins_N = equal_width(p, bins)
    branches_N = n.astype(np.int64)
    values = []
    for _ in range(repetitions):
        failures_N = rng.binomial(branches_N, p).astype(np.float64)
        values.append(_gap(bins_N, p, failures_N, n))
    return PerfectEce(float(np.mean(values)), float(np.quantile(values, 0.95)))


def auroc(p: Array, failures: Array, n: Array) -> float:
    """Probability that a failed branch has a higher forecast than a successful branch, where a tie
    counts half (Hanley and McNeil, "The meaning and use of the area under a receiver operating
    characteristic curve", 1982).

    Raises ValueError where no branch failed, or none succeeded.
    """
    levels, level_N = _levels(p)
    failures_L = np.bincount(level_N, failures, len(levels))
    successes_L = np.bincount(level_N, n - failures, len(levels))
    if failures_L.sum() == 0 or successes_L.sum() == 0:
        raise ValueError("AUROC needs failures and successes")
    below_L = np.cumsum(successes_L) - successes_L
    pairs = failures_L.sum() * successes_L.sum()
    return float((failures_L * (below_L + successes_L / 2)).sum() / pairs)


def equal_width(p: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin of every forecast, where all bins have width 1 / bins."""
    above_N = np.ceil(p * bins).astype(np.int64)
    return np.clip(above_N - 1, 0, bins - 1)


def equal_mass(p: Array, n: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin of every forecast, by the rank of its level's middle branch among all branches."""
    levels, level_N = _levels(p)
    weight_L = np.bincount(level_N, n, len(levels))
    rank_L = np.cumsum(weight_L) - weight_L / 2
    share_L = rank_L / weight_L.sum()
    bins_L = (share_L * bins).astype(np.int64)
    clipped_L: npt.NDArray[np.int64] = np.minimum(bins_L, bins - 1)
    return clipped_L[level_N]


def _levels(p: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """The distinct forecasts, and which of them each state has."""
    levels, level_N = np.unique(p, return_inverse=True)
    return levels, level_N


def _share(failures: Array, n: Array) -> Array:
    return np.divide(failures, n, out=np.zeros(len(n)), where=n > 0)


def _means(
    bins_N: npt.NDArray[np.int64], p: Array, failures: Array, n: Array
) -> tuple[Array, Array, Array]:
    """Mean forecast, observed share and number of branches of every bin that holds a branch."""
    weight_B: Array = np.bincount(bins_N, n).astype(np.float64)
    used_B = weight_B > 0
    weights = weight_B[used_B]
    forecasts = np.bincount(bins_N, n * p)[used_B] / weights
    observed = np.bincount(bins_N, failures)[used_B] / weights
    return forecasts, observed, weights


def _gap(bins_N: npt.NDArray[np.int64], p: Array, failures: Array, n: Array) -> float:
    forecast_B, observed_B, weight_B = _means(bins_N, p, failures, n)
    gap_B = np.abs(forecast_B - observed_B)
    return float((weight_B * gap_B).sum() / weight_B.sum())
