"""Whether perturbation seeds differ beyond noise; where they do not, a bound on CVaR has no effect.

If seeds do not differ, the losses of a task are exchangeable between seeds. The test permutes the
seeds within every task and compares the variance over seeds of the failure rate with the observed
variance (a permutation test within blocks: Good, "Permutation, Parametric and Bootstrap Tests of
Hypotheses", 2005; p-values as in Phipson and Smyth, 2010). The CVaR of the same permutations is the
noise floor: the CVaR of noisy rates lies above their mean even where all seeds are alike.
Axes: T tasks, Z seeds, B permutations, M tasks with different losses under different seeds.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.stats.cvar import cvar, cvar_weights

Array = npt.NDArray[np.float64]
PERMUTATIONS = 10_000
LEVEL = 0.01
"""Seeds count as different when the permutation test rejects at this level."""
_CHUNK = 1_000
"""Permutations at once: bounds memory."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class SeedDifference:
    """The test and the noise floor for one router. No p-value is below 1 / (permutations + 1)."""

    name: str
    variance: float
    p_value: float
    permutations: int
    cvar_failure: float
    cvar_noise_floor: float
    cvar_noise_floor_upper_95: float

    @property
    def differ(self) -> bool:
        """Whether the seeds differ beyond noise."""
        return self.p_value < LEVEL

    @property
    def at_floor(self) -> bool:
        """Whether the p-value is the least value that this number of permutations can give."""
        return self.p_value * (self.permutations + 1) < 1.5

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"differ": self.differ, "p_at_floor": self.at_floor}


def seed_difference(
    name: str,
    losses_TZ: Array,
    alpha: float,
    seed: int,
    permutations: int = PERMUTATIONS,
) -> SeedDifference:
    """Test whether the failure rate differs by seed. Losses lie in [0, 1], a row for every task."""
    rates_Z = losses_TZ.mean(axis=0)
    rates_BZ = permuted_rates(losses_TZ, permutations, seed)
    variance_B = rates_BZ.var(axis=1)
    as_large = int((variance_B >= rates_Z.var() - _ROUNDING).sum())
    tails_B = tail_means(rates_BZ, alpha)
    return SeedDifference(
        name=name,
        variance=float(rates_Z.var()),
        p_value=(1 + as_large) / (1 + permutations),
        permutations=permutations,
        cvar_failure=cvar(rates_Z, alpha),
        cvar_noise_floor=float(tails_B.mean()),
        cvar_noise_floor_upper_95=float(np.quantile(tails_B, 0.95)),
    )


def permuted_rates(losses_TZ: Array, permutations: int, seed: int) -> Array:
    """Failure rate by seed under every permutation of the seeds within tasks."""
    rng = np.random.default_rng(seed)
    tasks = len(losses_TZ)
    # A task with equal losses under every seed is the same after any permutation.
    mixed_MZ = losses_TZ[np.ptp(losses_TZ, axis=1) > 0]
    constant = (losses_TZ.sum() - mixed_MZ.sum()) / losses_TZ.shape[1]
    parts = []
    for start in range(0, permutations, _CHUNK):
        count = min(_CHUNK, permutations - start)
        copies_BMZ = np.broadcast_to(mixed_MZ, (count, *mixed_MZ.shape))
        permuted_BMZ = rng.permuted(copies_BMZ, axis=2)
        parts.append((permuted_BMZ.sum(axis=1) + constant) / tasks)
    return np.concatenate(parts)


def tail_means(rates_BZ: Array, alpha: float) -> Array:
    """CVaR of every row (r2v_dist/stats/cvar.py)."""
    descending_BZ = -np.sort(-rates_BZ, axis=1)
    ranks_Z = np.arange(rates_BZ.shape[1], 0, -1, dtype=np.float64)
    tails_B: Array = descending_BZ @ cvar_weights(ranks_Z, alpha)
    return tails_B
