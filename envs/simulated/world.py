"""A world whose every probability is known: an assembly line that an unreliable worker (the SLM) or
a reliable one (the teacher) runs.

Invariant: difficulty, cue and fatality are pure functions of (task, z, t), and a worker's slip is a
pure function of (actor, task, z, replica, t). So any path can be replayed, branches share the draws
of the world, and the environment and the bulk simulator have the same draws.

A task is to fit `parts` parts within `max_steps` steps. Every step has a hidden difficulty d; the
agent observes a noisy cue e of it and the line's symptom v, which the seed sets. A wrong action
either loses the task (unrecoverable) or jams the line; one more right action clears a jam.
Difficulties are independent between steps, so (t, part, jam, e, v) decides the distribution of
everything that follows, and dynamic programming finds the best router (envs/simulated/exact.py).

Axes: V symptoms, D difficulties, E cues, N (task, z) pairs, T steps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
"""The constants of splitmix64."""

SYMPTOM_OF_Z = (0, 0, 0, 0, 1, 1, 1, 2, 3, 3)
"""Symptom under seed z, by z modulo 10: every ten consecutive seeds have the same mixture, so their
true CVaR is the same.
"""


@dataclass(frozen=True)
class World:
    """The probabilities of the line; nested tuples are indexed in the order of their
    axis suffix.
    """

    parts: int = 4
    max_steps: int = 9
    difficulty_VD: tuple[tuple[float, ...], ...] = (
        (0.90, 0.08, 0.02),
        (0.85, 0.12, 0.03),
        (0.80, 0.15, 0.05),
        (0.30, 0.30, 0.40),
    )
    cue_DE: tuple[tuple[float, ...], ...] = (
        (0.55, 0.25, 0.12, 0.06, 0.02),
        (0.15, 0.25, 0.30, 0.20, 0.10),
        (0.03, 0.07, 0.15, 0.30, 0.45),
    )
    slm_slip_D: tuple[float, ...] = (0.03, 0.15, 0.45)
    """Probability that the SLM's action is wrong where the line runs."""
    slm_jam_slip_V: tuple[float, ...] = (0.20, 0.25, 0.30, 0.60)
    """The same where it is jammed."""
    teacher_slip: float = 0.01
    fatal_D: tuple[float, ...] = (0.10, 0.20, 0.50)
    """Probability that a wrong action cannot be recovered from."""

    @property
    def symptoms(self) -> int:
        """Number of symptoms V."""
        return len(self.difficulty_VD)

    @property
    def cues(self) -> int:
        """Number of cues E."""
        return len(self.cue_DE[0])

    def slip_VD(self, actor: str, jammed: bool) -> Array:
        """Probability of a wrong action by `actor` ("slm" or "teacher")."""
        shape = (self.symptoms, len(self.fatal_D))
        if actor == "teacher":
            return np.full(shape, self.teacher_slip)
        if jammed:
            return np.broadcast_to(np.array(self.slm_jam_slip_V)[:, None], shape)
        return np.broadcast_to(np.array(self.slm_slip_D), shape)


@dataclass(frozen=True)
class Luck:
    """The world's draws for N (task, z) pairs: difficulty and cue of every step, whether a wrong
    action is fatal there, and the symptom.
    """

    difficulty_NT: Ints
    cue_NT: Ints
    fatal_NT: npt.NDArray[np.bool_]
    symptom_N: Ints


def symptom(z: int) -> int:
    """The symptom that seed z sets."""
    return SYMPTOM_OF_Z[z % len(SYMPTOM_OF_Z)]


def luck(world: World, task_N: Ints, z_N: Ints) -> Luck:
    """The world's draws under each (task, z)."""
    symptom_N = np.array(SYMPTOM_OF_Z)[z_N % len(SYMPTOM_OF_Z)]
    steps_T = np.arange(world.max_steps)

    def draws(channel: int) -> Array:
        return uniforms(channel, task_N[:, None], z_N[:, None], 0, steps_T)

    difficulty_ND = np.array(world.difficulty_VD)[symptom_N]
    difficulty_NT = _draw(difficulty_ND[:, None], draws(0))
    cue_NT = _draw(np.array(world.cue_DE)[difficulty_NT], draws(1))
    fatal_NT = draws(2) < np.array(world.fatal_D)[difficulty_NT]
    return Luck(difficulty_NT, cue_NT, fatal_NT, symptom_N)


def worker_draws(actor: str, task: Ints, z: Ints, replica: Ints | int, t: Ints | int) -> Array:
    """The draw of a worker's action: it is wrong where the draw is below the slip probability.
    Arguments broadcast.
    """
    return uniforms({"slm": 3, "teacher": 4}[actor], task, z, replica, t)


def uniforms(channel: int, task: Ints, z: Ints, replica: Ints | int, t: Ints | int) -> Array:
    """Uniform numbers in [0, 1), a pure function of the arguments, which broadcast: a chain of
    splitmix64 finalisers (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014).
    """
    state: npt.NDArray[np.uint64] = np.asarray(channel + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in (task, z, replica, t):
            state = state ^ np.asarray(name).astype(np.uint64)
            state = state + _GOLDEN_GAMMA
            state = (state ^ (state >> np.uint64(30))) * _FIRST_FACTOR
            state = (state ^ (state >> np.uint64(27))) * _SECOND_FACTOR
            state = state ^ (state >> np.uint64(31))
    highest_53_bits = state >> np.uint64(11)
    return highest_53_bits.astype(np.float64) * 2.0**-53


def _draw(probabilities: Array, draws: Array) -> Ints:
    """One category a draw; the last axis of `probabilities` sums to one."""
    thresholds = np.cumsum(probabilities, axis=-1)
    count = (draws[..., None] >= thresholds).sum(axis=-1)
    # Rounding may leave the last threshold a little below 1.
    category: Ints = np.minimum(count, probabilities.shape[-1] - 1)
    return category
