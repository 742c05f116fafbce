"""Exact values in the simulated world: risks, and the cost and CVaR of any router. Nothing is
sampled.

The cell (t, part, jam, cue, symptom) decides the distribution of everything that follows, so
dynamic programming on cells is exact. Costs are in teacher calls; an SLM call costs `SLM_PRICE`.
Axes: B routers, T steps, I parts done, J jammed, E cues, V symptoms, D difficulties, Z seeds.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from envs.simulated.world import Array, World, symptom
from r2v_dist.config.simulated import SLM_PRICE
from r2v_dist.stats.cvar import cvar


@dataclass(frozen=True)
class Outcome:
    """Expected outcome of an episode under each symptom; arrays [B, V]."""

    failure_BV: Array
    teacher_calls_BV: Array
    slm_calls_BV: Array

    @property
    def cost_BV(self) -> Array:
        """Cost in teacher calls."""
        return self.teacher_calls_BV + SLM_PRICE * self.slm_calls_BV

    def mixed(self, other: "Outcome", share: float) -> "Outcome":
        """The outcome of a router that plays an episode by this router with probability `share`,
        else by the other.
        """
        return Outcome(
            share * self.failure_BV + (1 - share) * other.failure_BV,
            share * self.teacher_calls_BV + (1 - share) * other.teacher_calls_BV,
            share * self.slm_calls_BV + (1 - share) * other.slm_calls_BV,
        )


@dataclass(frozen=True)
class Score:
    """One router over a set of seeds: mean cost (teacher calls), mean failure, CVaR of failure over
    seeds.
    """

    cost: float
    failure: float
    cvar: float


class Exact:
    """The exact calculator of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        prior_VD = np.array(world.difficulty_VD)
        cue_DE = np.array(world.cue_DE)
        self._cue_EV = (prior_VD @ cue_DE).T
        joint_EVD = prior_VD * cue_DE.T[:, None, :]
        posterior_EVD = joint_EVD / self._cue_EV[:, :, None]
        self._kernels = {
            "slm": self._kernel("slm", posterior_EVD),
            "teacher": self._kernel("teacher", posterior_EVD),
        }

    def _kernel(self, actor: str, posterior_EVD: Array) -> tuple[Array, Array]:
        """Probabilities [J, E, V] of an action that jams the line and of one that loses
        the task.
        """
        running_VD = self.world.slip_VD(actor, jammed=False)
        jammed_VD = self.world.slip_VD(actor, jammed=True)
        slip_JVD = np.stack([running_VD, jammed_VD])
        fatal_D = np.array(self.world.fatal_D)
        wrong_JEVD = posterior_EVD * slip_JVD[:, None]
        jam_JEV = (wrong_JEVD * (1 - fatal_D)).sum(axis=-1)
        lost_JEV = (wrong_JEVD * fatal_D).sum(axis=-1)
        return jam_JEV, lost_JEV

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape [T, I, J, E, V] of the cells."""
        return (self.world.max_steps, self.world.parts, 2, self.world.cues, self.world.symptoms)

    @cached_property
    def reached_TIJEV(self) -> Array:
        """Probability that an SLM-only episode visits each cell."""
        jam_JEV, lost_JEV = self._kernels["slm"]
        visits = np.zeros(self.shape)
        now_IJV = np.zeros(self.shape[1:3] + self.shape[4:])
        now_IJV[0, 0] = 1.0
        for t in range(self.world.max_steps):
            visits[t] = now_IJV[:, :, None] * self._cue_EV
            jam_IJV = (visits[t] * jam_JEV).sum(axis=2)
            lost_IJV = (visits[t] * lost_JEV).sum(axis=2)
            right_IJV = now_IJV - jam_IJV - lost_IJV
            now_IJV = np.stack([right_IJV[:, 1], jam_IJV.sum(axis=1)], axis=1)
            now_IJV[1:, 0] += right_IJV[:-1, 0]
        return visits

    @cached_property
    def _risks(self) -> tuple[Array, Array, Array, Array]:
        rho = np.zeros(self.shape)
        rho1 = np.zeros(self.shape)
        rhoT = np.zeros(self.shape)
        m = np.zeros(self.shape)
        ahead = self._end(1.0)
        ahead_T = self._end(1.0)
        ahead_m = self._end(0.0)
        for t in reversed(range(self.world.max_steps)):
            rho[t] = self._backup("slm", ahead, 1.0)
            rho1[t] = self._backup("teacher", ahead, 1.0)
            rhoT[t] = self._backup("teacher", ahead_T, 1.0)
            m[t] = 1.0 + self._backup("teacher", ahead_m, 0.0)
            ahead = self._before_cue(rho[t])
            ahead_T = self._before_cue(rhoT[t])
            ahead_m = self._before_cue(m[t])
        return rho, rho1, rhoT, m

    @property
    def rho(self) -> Array:
        """Risk [T, I, J, E, V] when the SLM acts to the end."""
        return self._risks[0]

    @property
    def rho1(self) -> Array:
        """Risk after one teacher step, when the SLM acts from there on."""
        return self._risks[1]

    @property
    def rhoT(self) -> Array:
        """Risk when the teacher acts to the end."""
        return self._risks[2]

    @property
    def m(self) -> Array:
        """Teacher steps when the teacher acts to the end."""
        return self._risks[3]

    def evaluate(self, p_BTIJEV: Array, latched: bool = True) -> Outcome:
        """The outcome of routers that escalate with probability p in each cell. `latched`: the
        teacher acts to the end after the first escalation.
        """
        failure = self._end(1.0)
        teacher = self._end(0.0)
        slm = self._end(0.0)
        for t in reversed(range(self.world.max_steps)):
            p = p_BTIJEV[..., t, :, :, :, :]
            stays = 1 - p
            if latched:
                escalated_failure = self.rhoT[t]
                escalated_teacher = self.m[t]
                escalated_slm: Array | float = 0.0
            else:
                escalated_failure = self._backup("teacher", failure, 1.0)
                escalated_teacher = 1.0 + self._backup("teacher", teacher, 0.0)
                escalated_slm = self._backup("teacher", slm, 0.0)
            stayed_failure = self._backup("slm", failure, 1.0)
            stayed_teacher = self._backup("slm", teacher, 0.0)
            stayed_slm = self._backup("slm", slm, 0.0)
            failure = self._before_cue(p * escalated_failure + stays * stayed_failure)
            teacher = self._before_cue(p * escalated_teacher + stays * stayed_teacher)
            slm = self._before_cue(1.0 + p * escalated_slm + stays * stayed_slm)
        return Outcome(failure[..., 0, 0, :], teacher[..., 0, 0, :], slm[..., 0, 0, :])

    def best_responses(self, prices_B: Array, latched: bool = True) -> Array:
        """The routers [B, T, I, J, E, V] of 0 and 1 that minimise cost + price x failure under
        every symptom.
        """
        price = prices_B[:, None, None, None, None]
        routers = np.zeros((len(prices_B), *self.shape))
        ahead = self._end(1.0) * price[..., 0]
        for t in reversed(range(self.world.max_steps)):
            stays = self._backup("slm", ahead, price)
            escalates = self._escalation_loss(t, price, ahead, latched)
            routers[:, t] = escalates < stays
            ahead = self._before_cue(SLM_PRICE + np.minimum(escalates, stays))
        return routers

    def _escalation_loss(self, t: int, price: Array, ahead: Array, latched: bool) -> Array:
        """Cost + price x failure of escalating in each cell of step t."""
        if latched:
            taken_over: Array = self.m[t] + price * self.rhoT[t]
            return taken_over
        return 1.0 + self._backup("teacher", ahead, price)

    def teacher_only(self) -> Outcome:
        """The teacher from the first step, without asking the SLM."""
        failure = (self._cue_EV * self.rhoT[0, 0, 0]).sum(axis=0)[None]
        calls = (self._cue_EV * self.m[0, 0, 0]).sum(axis=0)[None]
        return Outcome(failure, calls, np.zeros_like(calls))

    def _end(self, unfinished: float) -> Array:
        """Values [I + 1, J, V] at the end: 0 where all parts are done, else `unfinished`."""
        end = np.full((self.world.parts + 1, 2, self.world.symptoms), unfinished)
        end[-1] = 0.0
        return end

    def _backup(self, actor: str, ahead: Array, loss: float | Array) -> Array:
        """Expected value [..., I, J, E, V] of one action, from the values [..., I + 1, J, V] of the
        cells after it.
        """
        jam_JEV, lost_JEV = self._kernels[actor]
        right_JEV = 1 - jam_JEV - lost_JEV
        # A right action fits a part where the line runs, and clears the jam where it is jammed.
        fitted = ahead[..., 1:, 0, :]
        cleared = ahead[..., :-1, 0, :]
        after_right = np.stack([fitted, cleared], axis=-2)[..., None, :]
        after_jam = ahead[..., :-1, 1, :][..., None, None, :]
        value: Array = right_JEV * after_right + jam_JEV * after_jam + lost_JEV * loss
        return value

    def _before_cue(self, value: Array) -> Array:
        """Mean [..., I + 1, J, V] over the cue, 0 where all parts are done."""
        mean = (value * self._cue_EV).sum(axis=-2)
        end_value = np.zeros((*mean.shape[:-3], 1, *mean.shape[-2:]))
        return np.concatenate([mean, end_value], axis=-3)


def scores(outcome: Outcome, zs: range, alpha: float) -> list[Score]:
    """Cost and CVaR of each router over the seeds."""
    symptom_Z = [symptom(z) for z in zs]
    cost_BZ = np.atleast_2d(outcome.cost_BV)[:, symptom_Z]
    failure_BZ = np.atleast_2d(outcome.failure_BV)[:, symptom_Z]
    by_router = []
    for cost_Z, failure_Z in zip(cost_BZ, failure_BZ, strict=True):
        tail = cvar(failure_Z, alpha)
        by_router.append(Score(float(cost_Z.mean()), float(failure_Z.mean()), tail))
    return by_router
