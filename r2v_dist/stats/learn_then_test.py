"""Learn-then-Test certificate of a threshold (docs/method.md, section 8): with probability 1 -
delta the threshold's risk is at most `risk`.

The unit is the task, never the step or the episode. The guarantee is for new tasks under the seeds
tested; calibration tasks must serve no other purpose. No feasible threshold is a valid result.
Source: Angelopoulos et al., "Learn then Test: calibrating predictive algorithms to achieve risk
control", 2021. Axes: P thresholds, T tasks, Z perturbation seeds.
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
    """Fixed-sequence test (Angelopoulos et al., 2021) from always-escalate (`thresholds[0]`)
    towards cheap thresholds. `losses_PT` lie in [0, 1].

    Raises ValueError unless thresholds ascend, losses lie in [0, 1] and 0 < risk, delta < 1.
    """
    _check(thresholds, losses_PT, risk, delta)
    tasks = losses_PT.shape[1]
    tested = list[TestedThreshold]()
    for threshold, losses_T in zip(thresholds, losses_PT, strict=True):
        empirical_risk = float(losses_T.mean())
        p = hoeffding_bentkus(empirical_risk, tasks, risk)
        tested.append(TestedThreshold(float(threshold), empirical_risk, p, p <= delta))
        if p > delta:
            break
    certified = [test.threshold for test in tested if test.rejected]
    return Certificate(
        threshold=certified[-1] if certified else None,
        risk=risk,
        delta=delta,
        tasks=tasks,
        reason=_reason(tested, tasks, risk, delta),
        tested=tuple(tested),
    )


def _check(thresholds: Sequence[float], losses_PT: Array, risk: float, delta: float) -> None:
    """Raises ValueError for arguments that `certify` does not allow."""
    ascending = list(thresholds) == sorted(set(thresholds))
    if not ascending or losses_PT.shape[0] != len(thresholds) or losses_PT.size == 0:
        raise ValueError(
            "certify needs ascending thresholds, one row of losses each, and at least one task"
        )
    losses_fit = losses_PT.min() >= 0 and losses_PT.max() <= 1
    shares_fit = 0 < risk < 1 and 0 < delta < 1
    if not losses_fit or not shares_fit:
        raise ValueError("certify needs losses in [0, 1], and risk and delta in (0, 1)")


def task_losses(failures_TZ: Array, statistic: Literal["mean", "cvar"], alpha: float) -> Array:
    """Loss of every task over its seeds: the task's failure rate ("mean"), or the CVaR of its
    failures, which makes the stronger promise.
    """
    if statistic == "mean":
        means_T: Array = failures_TZ.mean(axis=1)
        return means_T
    return np.array([cvar(failures_Z, alpha) for failures_Z in failures_TZ])


def least_tasks(risk: float, delta: float) -> int:
    """Least number of calibration tasks that can certify anything: with fewer, losses of 0 give a
    p-value (1 - risk)^n above delta.
    """
    return math.ceil(math.log(delta) / math.log1p(-risk) - 1e-12)


def _reason(tested: Sequence[TestedThreshold], tasks: int, risk: float, delta: float) -> str:
    last = tested[-1]
    evidence = (
        f"threshold {last.threshold:g} has loss {last.empirical_risk:.3f} on {tasks} tasks, "
        f"p = {last.p_value:.3g}"
    )
    if last.rejected:
        return f"every threshold tested keeps the risk at {risk:g} or below; {evidence}"
    if len(tested) > 1:
        return f"the next cheaper threshold cannot be certified: {evidence} > delta = {delta:g}"
    least = least_tasks(risk, delta)
    few = f"; {least} tasks is the least that could, without any loss" if tasks < least else ""
    return (
        f"no feasible threshold: not even always escalating is certified at risk {risk:g}: "
        f"{evidence} > delta = {delta:g}{few}"
    )
