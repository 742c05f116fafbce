"""Where to set a threshold (docs/method.md, section 8): by expected value, by a measured budget, or
at the cost of another router.

Thresholds ascend from expensive (escalate iff score >= threshold) to cheap. Costs are measured on
live episodes at each threshold: a quantile of scores recorded at another threshold is wrong,
because the states shift with it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def bayes_threshold(cost_teacher: float, cost_slm: float, failure_cost: float) -> float:
    """The least escalation value rho - rho1 at which one teacher step pays, (c_T - c_S) / kappa
    (docs/method.md, section 8).
    """
    return (cost_teacher - cost_slm) / failure_cost


def bayes_escalates(
    rho_N: Array, rho1_N: Array, cost_teacher: float, cost_slm: float, failure_cost: float
) -> npt.NDArray[np.bool_]:
    """Whether one teacher step pays, for every state (docs/method.md, section 8)."""
    threshold = bayes_threshold(cost_teacher, cost_slm, failure_cost)
    escalates_N: npt.NDArray[np.bool_] = rho_N - rho1_N >= threshold
    return escalates_N


@dataclass(frozen=True)
class Mix:
    """Play an episode at `expensive` with probability `share`, else at `cheap`; the expected cost
    is `cost`.
    """

    expensive: float
    cheap: float
    share: float
    cost: float


def meet_budget(thresholds: Sequence[float], cost: Callable[[float], float], budget: float) -> Mix:
    """The two adjacent thresholds around `budget`, mixed to meet it exactly. `cost` plays episodes
    at a threshold and is called O(log P) times, by bisection.

    A budget above the cost of the most expensive threshold is not spent in full. Raises ValueError
    when thresholds do not ascend, or when even the cheapest costs more than the budget.
    """
    if not thresholds or list(thresholds) != sorted(set(thresholds)):
        raise ValueError("meet_budget needs ascending thresholds")
    dear = 0
    cheap = len(thresholds) - 1
    dear_cost = cost(thresholds[dear])
    cheap_cost = cost(thresholds[cheap])
    if cheap_cost > budget:
        raise ValueError(
            f"budget {budget:g}: the cheapest threshold, {thresholds[cheap]:g}, already costs "
            f"{cheap_cost:g}"
        )
    if dear_cost <= budget:
        return Mix(thresholds[dear], thresholds[dear], 1.0, dear_cost)
    # Invariant: cost(dear) > budget >= cost(cheap), also where sampling noise breaks monotonicity.
    while cheap - dear > 1:
        middle = (dear + cheap) // 2
        middle_cost = cost(thresholds[middle])
        if middle_cost > budget:
            dear = middle
            dear_cost = middle_cost
        else:
            cheap = middle
            cheap_cost = middle_cost
    share = (budget - cheap_cost) / (dear_cost - cheap_cost)
    return Mix(thresholds[dear], thresholds[cheap], share, budget)


def at_cost(cost_P: Sequence[float] | Array, values_PT: Array, cost: float) -> Array:
    """Per-task values [T] of a router that spends `cost`, by mixing the two operating points around
    that cost.

    Rows of `values_PT` are operating points, `cost_P` their mean costs. Operating points of equal
    cost are averaged. Raises ValueError outside the costs of the router's points: nothing is
    extrapolated.
    """
    costs, group_P = np.unique(np.asarray(cost_P, dtype=np.float64), return_inverse=True)
    if not costs[0] <= cost <= costs[-1]:
        raise ValueError(f"cost {cost:g} lies outside the measured {costs[0]:g} to {costs[-1]:g}")
    means_T = [values_PT[group_P == group].mean(axis=0) for group in range(len(costs))]
    values_GT = np.stack(means_T)
    right = bisect_left(costs.tolist(), cost)
    if costs[right] == cost:
        exact_T: Array = values_GT[right]
        return exact_T
    share = (cost - costs[right - 1]) / (costs[right] - costs[right - 1])
    mixed_T: Array = (1 - share) * values_GT[right - 1] + share * values_GT[right]
    return mixed_T
