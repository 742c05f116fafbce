"""What a policy would come to, from conversations that another one played (docs/method.md,
section 12).

The estimator is doubly robust (Dudík, Langford and Li, "Doubly robust policy evaluation and
learning", 2011), with normalised weights (Thomas and Brunskill, "Data-efficient off-policy policy
evaluation", 2016). Its regression is fitted on other clusters than those it predicts
(cross-fitting), so that a poor one costs precision and biases nothing.

Axes: N conversations, Y outcomes, X covariates, C clusters.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
_FOLDS = 5
_RIDGE = 1.0
"""Penalty of a slope, in conversations of weight one."""


@dataclass(frozen=True)
class Estimate:
    """Means [Y] of the outcomes, and what each cluster [C, Y] adds to their errors; columns of
    `influence_CY` sum to 0. `effective` is the number of equally weighted clusters that tell as
    much (Kish), `heaviest` the largest share of a cluster in the means. `mean_weight` is 1 but for
    chance where the propensities are true.
    """

    mean_Y: Array
    influence_CY: Array
    covariance_YY: Array
    effective: float
    heaviest: float
    mean_weight: float
    mean_weight_error: float

    def of(self, combination_Y: Array) -> float:
        """The mean of a linear combination of the outcomes."""
        return float(self.mean_Y @ combination_Y)

    def error(self, combination_Y: Array) -> float:
        """Standard error of that mean. One cluster more that is as heavy as the heaviest counts in
        it, because weights are skewed: few clusters seldom show how much the rarest would add."""
        spread = math.sqrt(float(combination_Y @ self.covariance_YY @ combination_Y))
        return math.hypot(standard_error(self.influence_CY @ combination_Y), self.heaviest * spread)

    def ratio(self, above: int, below: int) -> tuple[float, float]:
        """The quotient of two means and its standard error, linearised."""
        quotient = float(self.mean_Y[above] / self.mean_Y[below])
        combination_Y = np.zeros(len(self.mean_Y))
        combination_Y[above] = 1.0
        combination_Y[below] = -quotient
        return quotient, self.error(combination_Y) / float(self.mean_Y[below])


def doubly_robust(
    outcome_NY: Array, weight_N: Array, covariate_NX: Array, cluster_N: npt.NDArray[np.int64]
) -> Estimate:
    """The means of the outcomes under a policy. `weight_N` is the probability of what was done
    under that policy over its probability as it was played, 0 where the policy would have done
    something else. `covariate_NX` are known before anything was done. Clusters are independent,
    numbered from 0. Raises ValueError where every weight is 0.
    """
    if not weight_N.any():
        raise ValueError("no conversation went as it would under this policy")
    predicted_NY = _cross_fitted(outcome_NY, weight_N, covariate_NX, cluster_N)
    relative_N = weight_N / weight_N.mean()
    residual_NY = relative_N[:, None] * (outcome_NY - predicted_NY)
    correction_Y = residual_NY.mean(axis=0)
    baseline_Y = predicted_NY.mean(axis=0)
    influence_NY = predicted_NY - baseline_Y + residual_NY - relative_N[:, None] * correction_Y
    count = len(weight_N)
    weight_C = np.bincount(cluster_N, weight_N)
    share_C = np.bincount(cluster_N) / count
    return Estimate(
        mean_Y=baseline_Y + correction_Y,
        influence_CY=np.stack(
            [np.bincount(cluster_N, column) / count for column in influence_NY.T], axis=1
        ),
        covariance_YY=np.atleast_2d(np.cov(outcome_NY, rowvar=False, bias=True)),
        effective=float(weight_C.sum() ** 2 / (weight_C**2).sum()),
        heaviest=float(weight_C.max() / weight_C.sum()),
        mean_weight=float(weight_N.mean()),
        mean_weight_error=standard_error(weight_C / count - share_C * weight_N.mean()),
    )


def standard_error(influence_C: Array) -> float:
    """Of a mean whose independent parts have these errors; they sum to 0."""
    clusters = len(influence_C)
    if clusters < 2:
        return math.inf
    return math.sqrt(clusters / (clusters - 1) * float((influence_C**2).sum()))


def mean_interval(mean: float, error: float, effective: float, level: float = 0.95) -> Interval:
    """Student's interval, with as many degrees of freedom as effective clusters less one."""
    reach = student_quantile(level, effective - 1) * error
    return mean - reach, mean + reach


def proportion_interval(
    mean: float, error: float, heaviest: float, level: float = 0.95
) -> Interval:
    """The gamma interval of Fay and Feuer ("Confidence intervals for directly standardized rates",
    1997) for the rarer of both outcomes. `heaviest` is what one more of them could add to its mean:
    where few or none were seen, the standard error alone would promise too much."""
    mean = min(1.0, max(0.0, mean))
    rarer = min(mean, 1 - mean)
    tail = (1 - level) / 2
    variance = error**2
    low = _gamma_quantile(rarer, variance, tail)
    high = _gamma_quantile(rarer + heaviest, variance + heaviest**2, 1 - tail)
    low, high = max(0.0, low), min(1.0, high)
    return (low, high) if rarer == mean else (1 - high, 1 - low)


def _gamma_quantile(mean: float, variance: float, probability: float) -> float:
    """Of the gamma distribution, by the cube root of Wilson and Hilferty (1931)."""
    if mean <= 0 or variance <= 0:
        return mean
    ninth = variance / mean**2 / 9
    root = 1 - ninth + NormalDist().inv_cdf(probability) * math.sqrt(ninth)
    return mean * max(0.0, root) ** 3


def student_quantile(level: float, freedom: float) -> float:
    """The two-sided quantile of Student's t, by the series of Abramowitz and Stegun, 26.7.5: within
    .005 from 5 degrees of freedom on at the level .95."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    freedom = max(freedom, 1.0)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _cross_fitted(
    outcome_NY: Array, weight_N: Array, covariate_NX: Array, cluster_N: npt.NDArray[np.int64]
) -> Array:
    """Predictions [N, Y] of the outcomes, each from a regression on other clusters."""
    spread_X = covariate_NX.std(axis=0)
    centred_NX = covariate_NX - covariate_NX.mean(axis=0)
    scaled_NX = centred_NX / np.where(spread_X > 1e-12, spread_X, 1.0)
    design_ND = np.column_stack([np.ones(len(weight_N)), scaled_NX])
    fold_N = cluster_N % _FOLDS
    predicted_NY = np.zeros_like(outcome_NY)
    for fold in np.unique(fold_N):
        held_out_N = fold_N == fold
        training_N = ~held_out_N & (weight_N > 0)
        if training_N.any():
            slopes_DY = _ridge(design_ND[training_N], outcome_NY[training_N], weight_N[training_N])
            fitted_NY = design_ND[held_out_N] @ slopes_DY
            least_Y = outcome_NY[training_N].min(axis=0)
            most_Y = outcome_NY[training_N].max(axis=0)
            predicted_NY[held_out_N] = np.clip(fitted_NY, least_Y, most_Y)
    return predicted_NY


def _ridge(design_ND: Array, outcome_NY: Array, weight_N: Array) -> Array:
    """Weighted ridge regression [D, Y]; the intercept, the first column, is hardly penalised."""
    trials = weight_N.sum() ** 2 / (weight_N**2).sum()
    scaled_ND = design_ND * (weight_N * trials / weight_N.sum())[:, None]
    penalty_D = np.full(design_ND.shape[1], _RIDGE)
    penalty_D[0] = 1e-9
    slopes_DY: Array = np.linalg.solve(
        scaled_ND.T @ design_ND + np.diag(penalty_D), scaled_ND.T @ outcome_NY
    )
    return slopes_DY
