"""Exact and Monte-Carlo tests. No p-value is smaller than the resolution of its method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FLIPS = 100_000
"""Random sign flips of a test whose flips are too many to enumerate."""

EXACT_TASKS = 16
"""Most differing tasks for which all flips, at most 65,536, are enumerated."""

_CHUNK = 10_000
"""Flips at once: bounds memory."""

_SAME = 1e-12
"""A smaller difference counts as rounding."""


@dataclass(frozen=True)
class PValue:
    """A p-value; with `at_floor`, an upper bound: no random flip reached the observed sum."""

    value: float
    at_floor: bool = False


@dataclass(frozen=True)
class SignFlips:
    """The p-value of a sign-flip test, and the number of tasks on which its two sides differ."""

    p: PValue
    differing: int


def hoeffding_bentkus(empirical: float, n: int, risk: float) -> float:
    """p-value of "the mean of n independent losses in [0, 1] exceeds `risk`", given their empirical
    mean: the Hoeffding-Bentkus bound (Bates et al., "Distribution-free, risk-controlling prediction
    sets", 2021).
    """
    hoeffding = math.exp(-n * bernoulli_kl(min(empirical, risk), risk))
    # n * mean is a whole number for losses in {0, 1}; rounding must not push it to the next number.
    bentkus = math.e * binomial_cdf(math.ceil(n * empirical - 1e-9), n, risk)
    return min(1.0, hoeffding, bentkus)


def bernoulli_kl(a: float, b: float) -> float:
    """h1(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)), for 0 < b < 1."""
    failure_term = a * math.log(a / b) if a > 0 else 0.0
    success_term = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return failure_term + success_term


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k) for 0 < p < 1, by summing the terms in logarithms."""
    if k >= n:
        return 1.0
    log_p = math.log(p)
    log_q = math.log1p(-p)
    log_n_factorial = math.lgamma(n + 1)
    terms = []
    for i in range(k + 1):
        log_choices = log_n_factorial - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        terms.append(math.exp(log_choices + i * log_p + (n - i) * log_q))
    return min(1.0, math.fsum(terms))


def holm(p_values: Sequence[PValue]) -> list[PValue]:
    """Adjusted p-values, in the order given (Holm, "A simple sequentially rejective multiple test
    procedure", 1979). An adjusted value is at its floor where the p-value that it comes from is.
    """
    count = len(p_values)
    adjusted = [PValue(1.0)] * count
    largest = PValue(0.0)
    order = np.argsort([p.value for p in p_values], kind="stable").tolist()
    for rank, index in enumerate(order):
        p = p_values[index]
        scaled = PValue((count - rank) * p.value, p.at_floor)
        if scaled.value > largest.value:
            largest = scaled if scaled.value < 1.0 else PValue(1.0)
        adjusted[index] = largest
    return adjusted


def sign_flip_test(differences_T: Array, seed: int, flips: int = FLIPS) -> SignFlips:
    """One-sided test of "the mean paired difference is not above 0" (Fisher, "The Design of
    Experiments", 1935, section 21; the random flips count as in Phipson and Smyth, "Permutation
    p-values should never be zero", 2010).

    Under the null hypothesis the difference of a task has either sign with equal probability. A
    task without a difference changes no sum and is left out. The test is exact for up to
    `EXACT_TASKS` differing tasks, and uses random flips for more.
    """
    differing_D = differences_T[np.abs(differences_T) > _SAME]
    count = len(differing_D)
    total = float(differing_D.sum())
    # The sum under a flip is 2 x (the sum of the differences that keep their sign) - total.
    least_sum = total - _SAME * max(1.0, float(np.abs(differing_D).sum()))
    if count <= EXACT_TASKS:
        unflipped_FD = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        extreme_F = unflipped_FD @ differing_D >= least_sum
        return SignFlips(PValue(float(extreme_F.mean())), count)
    rng = np.random.default_rng(seed)
    extremes = 0
    for start in range(0, flips, _CHUNK):
        chunk = min(_CHUNK, flips - start)
        unflipped_FD = rng.integers(0, 2, (chunk, count), dtype=np.int8)
        extremes += int((unflipped_FD @ differing_D >= least_sum).sum())
    return SignFlips(PValue((1 + extremes) / (1 + flips), at_floor=extremes == 0), count)
