"""Exact and Monte-Carlo tests; a p-value is never smaller than its method can tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FLIPS = 100_000
"""Random sign flips of a test whose flips are too many to enumerate."""


EXACT_TASKS = 16
"""Up to so many tasks that differ, all flips are enumerated: 65,536 at the most."""


_CHUNK = 10_000
"""Flips at once: bounds memory."""


_SAME = 1e-12
"""A difference that rounding can make is none."""


@dataclass(frozen=True)
class PValue:
    """A p-value. `at_floor`: no random flip reached what was seen, so p is `value` at the most."""

    value: float
    at_floor: bool = False


@dataclass(frozen=True)
class SignFlips:
    """A sign-flip test, and on how many tasks its two sides differ at all."""

    p: PValue
    differing: int


def hoeffding_bentkus(empirical: float, n: int, risk: float) -> float:
    """p-value of "the mean of n independent losses in [0, 1] exceeds `risk`", given their empirical
    mean.
    """
    hoeffding = math.exp(-n * bernoulli_kl(min(empirical, risk), risk))
    # n * mean is a whole number for losses in {0, 1}; rounding must not push it to the next one.
    bentkus = math.e * binomial_cdf(math.ceil(n * empirical - 1e-9), n, risk)
    return min(1.0, hoeffding, bentkus)


def bernoulli_kl(a: float, b: float) -> float:
    """h1(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)), for 0 < b < 1."""
    return (a * math.log(a / b) if a > 0 else 0.0) + (
        (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    )


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k) for 0 < p < 1, by summing the terms in logarithms."""
    if k >= n:
        return 1.0
    log_p = math.log(p)
    log_q = math.log1p(-p)
    whole = math.lgamma(n + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(
                whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q
            )
            for i in range(k + 1)
        ),
    )


def holm(p_values: Sequence[PValue]) -> list[PValue]:
    """Holm's adjusted p-values, in the order given; one that comes from a p-value at its floor is
    at its floor.
    """
    adjusted = [PValue(1.0)] * len(p_values)
    running = PValue(0.0)
    order = np.argsort([p.value for p in p_values], kind="stable").tolist()
    for rank, index in enumerate(order):
        own = PValue((len(p_values) - rank) * p_values[index].value, p_values[index].at_floor)
        if own.value > running.value:
            running = own if own.value < 1.0 else PValue(1.0)
        adjusted[index] = running
    return adjusted


def sign_flip_test(differences_T: Array, seed: int, flips: int = FLIPS) -> SignFlips:
    """One-sided test of "the mean paired difference is not above 0".

    Under the null each task's difference is as likely to have the other sign. A task without a
    difference changes no sum, so the test is over those that differ: exact for up to `EXACT_TASKS`
    of them, else by random flips.
    """
    differing_D = differences_T[np.abs(differences_T) > _SAME]
    count = len(differing_D)
    total = float(differing_D.sum())
    # The sum under a flip is 2 x (the sum of what keeps its sign) - total.
    least_kept = total - _SAME * max(1.0, float(np.abs(differing_D).sum()))
    if count <= EXACT_TASKS:
        kept_FD = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return SignFlips(PValue(float((kept_FD @ differing_D >= least_kept).mean())), count)
    rng = np.random.default_rng(seed)
    reached = 0
    for start in range(0, flips, _CHUNK):
        kept_FD = rng.integers(0, 2, (min(_CHUNK, flips - start), count), dtype=np.int8)
        reached += int((kept_FD @ differing_D >= least_kept).sum())
    return SignFlips(PValue((1 + reached) / (1 + flips), at_floor=reached == 0), count)
