"""Exact values in the simulated world: risks, cost and CVaR of any router, and the best router
there is. Nothing is sampled.

(t, part, jam, cue, symptom) is all that can be known about what comes, so dynamic programming on
these cells is exact. Costs are in teacher calls; an SLM call costs `SLM_PRICE`. Axes: B routers, T
steps, I parts done, J jammed, E cues, V symptoms.
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
        """Of playing this router with probability `share` an episode, else the other one."""
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
        posterior_EVD = prior_VD * cue_DE.T[:, None, :] / self._cue_EV[:, :, None]
        self._kernels = {actor: self._kernel(actor, posterior_EVD) for actor in ("slm", "teacher")}

    def _kernel(self, actor: str, posterior_EVD: Array) -> tuple[Array, Array]:
        """Probabilities [J, E, V] of an action that jams the line and of one that loses
        the task.
        """
        slip_JVD = np.stack([self.world.slip_VD(actor, jammed) for jammed in (False, True)])
        fatal_D = np.array(self.world.fatal_D)
        wrong_JEVD = posterior_EVD * slip_JVD[:, None]
        return (wrong_JEVD * (1 - fatal_D)).sum(axis=-1), (wrong_JEVD * fatal_D).sum(axis=-1)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape [T, I, J, E, V] of the cells."""
        return (self.world.max_steps, self.world.parts, 2, self.world.cues, self.world.symptoms)

    @cached_property
    def reached_TIJEV(self) -> Array:
        """Probability that an SLM-only episode comes to each cell."""
        reached = np.zeros(self.shape)
        now = np.zeros(self.shape[1:3] + self.shape[4:])
        now[0, 0] = 1.0
        for t in range(self.world.max_steps):
            reached[t] = now[:, :, None] * self._cue_EV
            jam_IJV, lost_IJV = ((reached[t] * k).sum(axis=2) for k in self._kernels["slm"])
            right_IJV = now - jam_IJV - lost_IJV
            now = np.stack([right_IJV[:, 1], jam_IJV.sum(axis=1)], axis=1)
            now[1:, 0] += right_IJV[:-1, 0]
        return reached

    @cached_property
    def _risks(self) -> tuple[Array, Array, Array, Array]:
        rho, rho1, rhoT, m = (np.zeros(self.shape) for _ in range(4))
        ahead = self._end(1.0)
        ahead_T = self._end(1.0)
        ahead_m = self._end(0.0)
        for t in reversed(range(self.world.max_steps)):
            rho[t] = self._backup("slm", ahead, 1.0)
            rho1[t] = self._backup("teacher", ahead, 1.0)
            rhoT[t] = self._backup("teacher", ahead_T, 1.0)
            m[t] = 1.0 + self._backup("teacher", ahead_m, 0.0)
            ahead, ahead_T, ahead_m = (self._before_cue(value[t]) for value in (rho, rhoT, m))
        return rho, rho1, rhoT, m

    @property
    def rho(self) -> Array:
        """Risk [T, I, J, E, V] when the SLM goes on."""
        return self._risks[0]

    @property
    def rho1(self) -> Array:
        """Risk after one step of the teacher."""
        return self._risks[1]

    @property
    def rhoT(self) -> Array:
        """Risk when the teacher takes over to the end."""
        return self._risks[2]

    @property
    def m(self) -> Array:
        """Teacher steps to the end of a hand-over."""
        return self._risks[3]

    def evaluate(self, p_BTIJEV: Array, latched: bool = True) -> Outcome:
        """What routers that escalate with probability p in each cell come to; `latched`: the first
        escalation keeps the teacher.
        """
        failure = self._end(1.0)
        teacher = self._end(0.0)
        slm = self._end(0.0)
        for t in reversed(range(self.world.max_steps)):
            p = p_BTIJEV[..., t, :, :, :, :]
            stays = 1 - p_BTIJEV[..., t, :, :, :, :]
            by_teacher: tuple[Array, Array, Array | float]
            if latched:
                by_teacher = (self.rhoT[t], self.m[t], 0.0)
            else:
                by_teacher = (
                    self._backup("teacher", failure, 1.0),
                    1.0 + self._backup("teacher", teacher, 0.0),
                    self._backup("teacher", slm, 0.0),
                )
            failure = self._before_cue(
                p * by_teacher[0] + stays * self._backup("slm", failure, 1.0)
            )
            teacher = self._before_cue(
                p * by_teacher[1] + stays * self._backup("slm", teacher, 0.0)
            )
            slm = self._before_cue(1.0 + p * by_teacher[2] + stays * self._backup("slm", slm, 0.0))
        return Outcome(failure[..., 0, 0, :], teacher[..., 0, 0, :], slm[..., 0, 0, :])

    def best_responses(self, prices_B: Array, latched: bool = True) -> Array:
        """The routers [B, T, I, J, E, V] of 0 and 1 that minimise cost + price x failure under
        every symptom.
        """
        price = prices_B[:, None, None, None, None]
        chosen = np.zeros((len(prices_B), *self.shape))
        ahead = self._end(1.0) * price[..., 0]
        for t in reversed(range(self.world.max_steps)):
            stop = (
                self.m[t] + price * self.rhoT[t]
                if latched
                else 1.0 + self._backup("teacher", ahead, price)
            )
            go = self._backup("slm", ahead, price)
            chosen[:, t] = stop < go
            ahead = self._before_cue(SLM_PRICE + np.minimum(stop, go))
        return chosen

    def teacher_only(self) -> Outcome:
        """The teacher from the first step, without asking the SLM."""
        failure, calls = (
            (self._cue_EV * v[0, 0, 0]).sum(axis=0)[None] for v in (self.rhoT, self.m)
        )
        return Outcome(failure, calls, np.zeros_like(calls))

    def _end(self, unfinished: float) -> Array:
        """Values [I + 1, J, V] when the time is over; all parts done is worth 0."""
        end = np.full((self.world.parts + 1, 2, self.world.symptoms), unfinished)
        end[-1] = 0.0
        return end

    def _backup(self, actor: str, ahead: Array, lost: float | Array) -> Array:
        """Expected value [..., I, J, E, V] of one action, from the values [..., I + 1, J, V] after
        it.
        """
        jam_JEV, lost_JEV = self._kernels[actor]
        right = np.stack([ahead[..., 1:, 0, :], ahead[..., :-1, 0, :]], axis=-2)[..., None, :]
        jammed = ahead[..., :-1, 1, :][..., None, None, :]
        value: Array = (1 - jam_JEV - lost_JEV) * right + jam_JEV * jammed + lost_JEV * lost
        return value

    def _before_cue(self, value: Array) -> Array:
        """Mean [..., I + 1, J, V] over the cue; all parts done is worth 0."""
        mean = (value * self._cue_EV).sum(axis=-2)
        done = np.zeros((*mean.shape[:-3], 1, *mean.shape[-2:]))
        return np.concatenate([mean, done], axis=-3)


def scores(outcome: Outcome, zs: range, alpha: float) -> list[Score]:
    """Cost and CVaR of each router over the seeds."""
    symptom_Z = [symptom(z) for z in zs]
    return [
        Score(
            float(cost_V[symptom_Z].mean()),
            float(failure_V[symptom_Z].mean()),
            cvar(failure_V[symptom_Z], alpha),
        )
        for cost_V, failure_V in zip(
            np.atleast_2d(outcome.cost_BV), np.atleast_2d(outcome.failure_BV), strict=True
        )
    ]
