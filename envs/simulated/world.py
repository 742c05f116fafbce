"""A world whose every probability is known: an assembly line that an unreliable worker (the SLM) or
a good one (the teacher) runs.

What happens is a pure function of (task, z, t) and of the actions; a worker's slip of (task, z,
replica, t). So any path can be replayed, branches share the world's luck, and the environment and
the bulk simulator meet the same luck.

A task is `parts` parts to fit within `max_steps` steps. Every step has a hidden difficulty d; the
agent sees a noisy cue e of it and the line's symptom v, which the seed sets. A wrong action either
loses the task (unrecoverable) or jams the line: a jam must be cleared by one more right action.
Difficulties are independent between steps, so (t, part, jam, e, v) is all that can be known about
what comes: the best router is found by dynamic programming on it (envs/simulated/exact.py).

Axes: V symptoms, D difficulties, E cues, N (task, z) pairs, T steps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

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
        return np.broadcast_to(
            np.array(self.slm_jam_slip_V)[:, None] if jammed else np.array(self.slm_slip_D), shape
        )


@dataclass(frozen=True)
class Luck:
    """What the world has in store for N (task, z) pairs: difficulty, cue, and whether a wrong
    action is fatal; symptom.
    """

    difficulty_NT: Ints
    cue_NT: Ints
    fatal_NT: npt.NDArray[np.bool_]
    symptom_N: Ints


def symptom(z: int) -> int:
    """The symptom that seed z sets."""
    return SYMPTOM_OF_Z[z % len(SYMPTOM_OF_Z)]


def luck(world: World, task_N: Ints, z_N: Ints) -> Luck:
    """The world's own draws under each (task, z)."""
    symptom_N = np.array(SYMPTOM_OF_Z)[z_N % len(SYMPTOM_OF_Z)]
    steps_T = np.arange(world.max_steps)
    draws_NT3 = [
        uniforms(channel, task_N[:, None], z_N[:, None], 0, steps_T) for channel in range(3)
    ]
    difficulty_NT = _draw(np.array(world.difficulty_VD)[symptom_N][:, None], draws_NT3[0])
    cue_NT = _draw(np.array(world.cue_DE)[difficulty_NT], draws_NT3[1])
    return Luck(
        difficulty_NT, cue_NT, draws_NT3[2] < np.array(world.fatal_D)[difficulty_NT], symptom_N
    )


def worker_draws(actor: str, task: Ints, z: Ints, replica: Ints | int, t: Ints | int) -> Array:
    """The draw of a worker's action: it is wrong where the draw is below the slip probability.
    Arguments broadcast.
    """
    return uniforms({"slm": 3, "teacher": 4}[actor], task, z, replica, t)


def uniforms(channel: int, task: Ints, z: Ints, replica: Ints | int, t: Ints | int) -> Array:
    """Uniform numbers in [0, 1), a pure function of the names (a chain of splitmix64 finalisers);
    arguments broadcast.
    """
    state: npt.NDArray[np.uint64] = np.asarray(channel + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in (task, z, replica, t):
            state = (state ^ np.asarray(name).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _draw(probabilities: Array, draws: Array) -> Ints:
    """One category a draw; the last axis of `probabilities` sums to one."""
    category: Ints = np.minimum(
        (draws[..., None] >= np.cumsum(probabilities, axis=-1)).sum(axis=-1),
        probabilities.shape[-1] - 1,
    )
    return category
