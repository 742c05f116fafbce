"""Learn-then-Test certificate of a threshold (docs/method.md, section 8): with probability 1 -
delta its risk is at most `risk`.

The unit is the task, never the step or the episode. The guarantee is for new tasks under the seeds
tested; calibration tasks must have touched nothing else. No feasible threshold is a valid result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from r2v_dist.stats.cvar import cvar
from r2v_dist.stats.hypothesis_tests import hoeffding_bentkus

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TestedThreshold:
    """One hypothesis "the risk at this threshold exceeds the limit"; rejected means certified."""

    __test__ = False

    threshold: float
    empirical_risk: float
    p_value: float
    rejected: bool


@dataclass(frozen=True)
class Certificate:
    """The cheapest threshold certified, or None and why. `tested` is in the order of testing and
    ends at the first failure.
    """

    threshold: float | None
    risk: float
    delta: float
    tasks: int
    reason: str
    tested: tuple[TestedThreshold, ...]


def certify(
    thresholds: Sequence[float], losses_PT: Array, risk: float, delta: float
) -> Certificate:
    """Fixed-sequence test from always-escalate (`thresholds[0]`) towards cheap; `losses_PT`
    [thresholds, tasks] in [0, 1].

    Raises ValueError unless thresholds ascend, losses lie in [0, 1] and 0 < risk, delta < 1.
    """
    if (
        list(thresholds) != sorted(set(thresholds))
        or losses_PT.shape[0] != len(thresholds)
        or losses_PT.size == 0
    ):
        raise ValueError(
            "certify needs ascending thresholds, one row of losses each, and at least one task"
        )
    if losses_PT.min() < 0 or losses_PT.max() > 1 or not (0 < risk < 1 and 0 < delta < 1):
        raise ValueError("certify needs losses in [0, 1], and risk and delta in (0, 1)")
    tasks = losses_PT.shape[1]
    tested = list[TestedThreshold]()
    for threshold, losses_T in zip(thresholds, losses_PT, strict=True):
        empirical = float(losses_T.mean())
        p = hoeffding_bentkus(empirical, tasks, risk)
        tested.append(TestedThreshold(float(threshold), empirical, p, p <= delta))
        if p > delta:
            break
    certified = [one.threshold for one in tested if one.rejected]
    return Certificate(
        certified[-1] if certified else None,
        risk,
        delta,
        tasks,
        _reason(tested, tasks, risk, delta),
        tuple(tested),
    )


def task_losses(failures_TZ: Array, statistic: Literal["mean", "cvar"], alpha: float) -> Array:
    """Each task's loss over its seeds: its failure rate, or the CVaR of its failures as the
    stronger promise.
    """
    if statistic == "mean":
        means_T: Array = failures_TZ.mean(axis=1)
        return means_T
    return np.array([cvar(failures_Z, alpha) for failures_Z in failures_TZ])


def least_tasks(risk: float, delta: float) -> int:
    """Calibration tasks below which not even losses of 0 are enough."""
    return math.ceil(math.log(delta) / math.log1p(-risk) - 1e-12)


def _reason(tested: Sequence[TestedThreshold], tasks: int, risk: float, delta: float) -> str:
    last = tested[-1]
    found = f"threshold {last.threshold:g} has loss {last.empirical_risk:.3f} on {tasks} tasks, p = {last.p_value:.3g}"
    if last.rejected:
        return f"every threshold tested keeps the risk at {risk:g} or below; {found}"
    if len(tested) > 1:
        return f"the next cheaper threshold cannot be certified: {found} > delta = {delta:g}"
    few = (
        f"; {least_tasks(risk, delta)} tasks is the least that could, without any loss"
        if tasks < least_tasks(risk, delta)
        else ""
    )
    return f"no feasible threshold: not even always escalating is certified at risk {risk:g}: {found} > delta = {delta:g}{few}"
