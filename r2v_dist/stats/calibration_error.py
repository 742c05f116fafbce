"""How good a risk is (docs/method.md, section 9), against soft labels: `failures` out of `n`
branches (or outcomes, n = 1) at each state.

Every branch counts as one observation, so that a state weighs n. Bins are closed above, except the
first, which is closed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BINS = 15


@dataclass(frozen=True)
class BrierParts:
    """brier = reliability - resolution + uncertainty + within_bins, the mean of (p - Y)^2 over
    branches.

    `against_shares` leaves out the branches' own noise: the mean of (p - failures / n)^2 weighted
    by n. `within_bins` is what binning forecasts neglects, and 0 when they are not binned.
    `constant` is the score of always forecasting the mean.
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
    """One point of a reliability diagram."""

    forecast: float
    observed: float
    branches: float


@dataclass(frozen=True)
class PerfectEce:
    """ECE that a perfect forecaster would show on as many branches, which is not 0."""

    mean: float
    upper_95: float


def brier_parts(p: Array, failures: Array, n: Array, bins: int | None = BINS) -> BrierParts:
    """Murphy's decomposition, over equal-width bins or (None) over distinct forecasts, where it is
    exact.
    """
    total = n.sum()
    share = _share(failures, n)
    groups_N = np.unique(p, return_inverse=True)[1] if bins is None else equal_width(p, bins)
    forecast_B, observed_B, weight_B = _means(groups_N, p, failures, n)
    mean = float(failures.sum() / total)
    against_shares = float((n * (p - share) ** 2).sum() / total)
    brier = against_shares + float((n * share * (1 - share)).sum() / total)
    reliability = float((weight_B * (forecast_B - observed_B) ** 2).sum() / total)
    resolution = float((weight_B * (observed_B - mean) ** 2).sum() / total)
    uncertainty = mean * (1 - mean)
    return BrierParts(
        brier,
        against_shares,
        reliability,
        resolution,
        uncertainty,
        brier - (reliability - resolution + uncertainty),
    )


def reliability_bins(
    p: Array, failures: Array, n: Array, bins_N: npt.NDArray[np.int64]
) -> list[ReliabilityBin]:
    """Mean forecast and observed share of every bin that holds a branch; `bins_N` from
    `equal_width` or `equal_mass`.
    """
    return [
        ReliabilityBin(*map(float, row))
        for row in zip(*_means(bins_N, p, failures, n), strict=True)
    ]


def ece(p: Array, failures: Array, n: Array, bins: int = BINS) -> float:
    """Expected calibration error over equal-width bins."""
    return _gap(equal_width(p, bins), p, failures, n)


def adaptive_ece(p: Array, failures: Array, n: Array, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal numbers of branches; equal forecasts share a
    bin.
    """
    return _gap(equal_mass(p, n, bins), p, failures, n)


def perfect_ece(
    p: Array, n: Array, seed: int, bins: int = BINS, repetitions: int = 500
) -> PerfectEce:
    """ECE when the truth is `p`, by simulation. Branches count as independent given their state."""
    rng = np.random.default_rng(seed)
    bins_N = equal_width(p, bins)
    values = [
        _gap(bins_N, p, rng.binomial(n.astype(np.int64), p).astype(np.float64), n)
        for _ in range(repetitions)
    ]
    return PerfectEce(float(np.mean(values)), float(np.quantile(values, 0.95)))


def auroc(p: Array, failures: Array, n: Array) -> float:
    """Probability that a failed branch was given more risk than a successful one, ties counting
    half.

    Raises ValueError where one of both is missing.
    """
    levels, level_N = np.unique(p, return_inverse=True)
    failed_L = np.bincount(level_N, failures, len(levels))
    won_L = np.bincount(level_N, n - failures, len(levels))
    if failed_L.sum() == 0 or won_L.sum() == 0:
        raise ValueError("AUROC needs failures and successes")
    below_L = np.cumsum(won_L) - won_L
    return float((failed_L * (below_L + won_L / 2)).sum() / (failed_L.sum() * won_L.sum()))


def equal_width(p: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin of every forecast, of width 1 / bins."""
    return np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)


def equal_mass(p: Array, n: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin of every forecast, by where the middle of its level lies among all branches."""
    levels, level_N = np.unique(p, return_inverse=True)
    weight_L = np.bincount(level_N, n, len(levels))
    middle_L = (np.cumsum(weight_L) - weight_L / 2) / weight_L.sum()
    bins_L: npt.NDArray[np.int64] = np.minimum((middle_L * bins).astype(np.int64), bins - 1)
    return bins_L[level_N]


def _share(failures: Array, n: Array) -> Array:
    return np.divide(failures, n, out=np.zeros(len(n)), where=n > 0)


def _means(
    bins_N: npt.NDArray[np.int64], p: Array, failures: Array, n: Array
) -> tuple[Array, Array, Array]:
    """Mean forecast, observed share and branches of every bin with branches."""
    weight_B: Array = np.bincount(bins_N, n).astype(np.float64)
    used_B = weight_B > 0
    weights = weight_B[used_B]
    return (
        np.bincount(bins_N, n * p)[used_B] / weights,
        np.bincount(bins_N, failures)[used_B] / weights,
        weights,
    )


def _gap(bins_N: npt.NDArray[np.int64], p: Array, failures: Array, n: Array) -> float:
    forecast_B, observed_B, weight_B = _means(bins_N, p, failures, n)
    return float((weight_B * np.abs(forecast_B - observed_B)).sum() / weight_B.sum())
