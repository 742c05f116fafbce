"""Where to set a threshold (docs/method.md, section 8): by expected value, by a budget that is
rolled out, or at another router's cost.

Thresholds ascend from expensive (escalate iff score >= threshold) to cheap. Costs are measured on
live episodes at each threshold: a quantile of scores recorded at another threshold is wrong,
because the states shift with it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r2v_dist.seeding import rng_for

Array = npt.NDArray[np.float64]


def bayes_threshold(cost_teacher: float, cost_slm: float, failure_cost: float) -> float:
    """The escalation value rho - rho1 from which one teacher step pays: (c_T - c_S) / kappa."""
    return (cost_teacher - cost_slm) / failure_cost


def bayes_escalates(
    rho_N: Array, rho1_N: Array, cost_teacher: float, cost_slm: float, failure_cost: float
) -> npt.NDArray[np.bool_]:
    """Whether each state is worth one step of the teacher."""
    escalates_N: npt.NDArray[np.bool_] = rho_N - rho1_N >= bayes_threshold(
        cost_teacher, cost_slm, failure_cost
    )
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

    def threshold(self, *draw: object) -> float:
        """The threshold of the episode that `draw` names (task, z, ...): the same one whenever it
        is asked.
        """
        return (
            self.expensive
            if rng_for("operating-point", *draw).random() < self.share
            else self.cheap
        )


def meet_budget(thresholds: Sequence[float], cost: Callable[[float], float], budget: float) -> Mix:
    """The two adjacent thresholds around `budget`, mixed to meet it exactly; `cost` rolls a
    threshold out and is called O(log P) times.

    A budget above the most expensive threshold is left unspent. Raises ValueError when thresholds
    do not ascend, or when even the cheapest costs more than the budget.
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
    # Holds throughout: cost(dear) > budget >= cost(cheap). Sampling noise may break monotonicity,
    # never this.
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
    """A router's per-task values [T] when it spends `cost`, by mixing its two operating points on
    either side of it.

    Rows of `values_PT` are operating points, `cost_P` their mean costs. Equal costs are averaged.
    Raises ValueError outside the costs the router reaches: nothing is extrapolated.
    """
    costs, group_P = np.unique(np.asarray(cost_P, dtype=np.float64), return_inverse=True)
    if not costs[0] <= cost <= costs[-1]:
        raise ValueError(f"cost {cost:g} lies outside the measured {costs[0]:g} to {costs[-1]:g}")
    values_GT = np.stack([values_PT[group_P == i].mean(axis=0) for i in range(len(costs))])
    right = bisect_left(costs.tolist(), cost)
    if costs[right] == cost:
        exact_T: Array = values_GT[right]
        return exact_T
    share = (cost - costs[right - 1]) / (costs[right] - costs[right - 1])
    mixed_T: Array = (1 - share) * values_GT[right - 1] + share * values_GT[right]
    return mixed_T
