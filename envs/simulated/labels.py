"""Counterfactual branch labels of the simulated world, drawn as docs/method.md, section 6 asks, all
(task, z) at once.

Every state of an SLM-only episode (replica 0) gets S-, T1- and Tinf-branches with replicas 1..n
under the world's own luck; the first action of an S-branch is the recorded one. Axes: N (task, z)
pairs, R labelled states, B branches, T steps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from envs.simulated.world import Array, Ints, Luck, World, luck, worker_draws
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.features import FEATURE_NAMES

Bools = npt.NDArray[np.bool_]
TASK_BLOCK = 1_000_000
"""Task numbers of a split start at TASK_BLOCK x its position."""


@dataclass
class _Lines:
    """Lines in motion, [R, B] each; `row` is the line's (task, z) pair."""

    row: Ints
    part: Ints
    jammed: Bools
    live: Bools
    teacher_steps: Ints


class Simulator:
    """Episodes and branches of one world."""

    def __init__(self, world: World, task_N: Ints, z_N: Ints) -> None:
        self.world = world
        self.task_N = task_N
        self.z_N = z_N
        self.luck: Luck = luck(world, task_N, z_N)
        self._slip = {
            (actor, jam): world.slip_VD(actor, jam)[
                self.luck.symptom_N[:, None], self.luck.difficulty_NT
            ]
            for actor in ("slm", "teacher")
            for jam in (False, True)
        }

    def begin(self, row_R: Ints, part_R: Ints, jammed_R: Bools, branches: int) -> _Lines:
        """Lines that start in given states."""
        shape = (len(row_R), branches)
        row_RB, part_RB = (np.repeat(a[:, None], branches, axis=1) for a in (row_R, part_R))
        jammed_RB = np.repeat(jammed_R[:, None], branches, axis=1)
        return _Lines(
            row_RB, part_RB, jammed_RB, np.ones(shape, dtype=bool), np.zeros(shape, dtype=np.int64)
        )

    def act(self, lines: _Lines, actor: str, t: int, moves_R: Bools, replica_B: Ints) -> None:
        """One action of `actor` at step t on the lines of the rows that move."""
        draw_RB = worker_draws(
            actor, self.task_N[lines.row], self.z_N[lines.row], replica_B[None], t
        )
        slip_RB = np.where(
            lines.jammed,
            self._slip[actor, True][lines.row, t],
            self._slip[actor, False][lines.row, t],
        )
        moving_RB = lines.live & moves_R[:, None]
        wrong_RB = draw_RB < slip_RB
        lines.part += moving_RB & ~wrong_RB & ~lines.jammed
        lines.live &= ~(
            moving_RB
            & ((wrong_RB & self.luck.fatal_NT[lines.row, t]) | (lines.part == self.world.parts))
        )
        lines.jammed = np.where(moving_RB, wrong_RB, lines.jammed)
        lines.teacher_steps += moving_RB & (actor == "teacher")

    def branches(
        self, kind: str, row_R: Ints, t_R: Ints, part_R: Ints, jammed_R: Bools, n: int
    ) -> tuple[Ints, Array]:
        """Successes of n branches from each state, and mean teacher steps. `kind` is "s", "t1" or
        "tinf".
        """
        lines = self.begin(row_R, part_R, jammed_R, n)
        replica_B = np.arange(1, n + 1)
        for t in range(self.world.max_steps):
            first_R = t_R == t
            later_R = t_R < t
            if kind == "s":
                self.act(lines, "slm", t, first_R, np.zeros(n, dtype=np.int64))
            else:
                self.act(lines, "teacher", t, first_R, replica_B)
            self.act(lines, "teacher" if kind == "tinf" else "slm", t, later_R, replica_B)
        return (lines.part == self.world.parts).sum(axis=1), lines.teacher_steps.mean(axis=1)


def draw_labels(world: World, split: str, tasks: range, zs: range, n: int) -> LabelTable:
    """Labels of every state that the SLM alone visits on each task under each seed, n branches of
    each kind.
    """
    task_N, z_N = (a.ravel() for a in np.meshgrid(np.array(tasks), np.array(zs), indexing="ij"))
    simulator = Simulator(world, task_N, z_N)
    lines = simulator.begin(
        np.arange(len(task_N)),
        np.zeros(len(task_N), dtype=np.int64),
        np.zeros(len(task_N), dtype=bool),
        1,
    )
    visited: list[tuple[Ints, Ints, Ints, Bools]] = []
    everyone = np.ones(len(task_N), dtype=bool)
    for t in range(world.max_steps):
        live = np.flatnonzero(lines.live[:, 0])
        visited.append((live, np.full(len(live), t), lines.part[live, 0], lines.jammed[live, 0]))
        simulator.act(lines, "slm", t, everyone, np.zeros(1, dtype=np.int64))
    row_R, t_R, part_R, jammed_R = (
        np.concatenate(columns) for columns in zip(*visited, strict=True)
    )
    order = np.lexsort((t_R, row_R))
    row_R = row_R[order]
    t_R = t_R[order]
    part_R = part_R[order]
    jammed_R = jammed_R[order]
    found = {
        kind: simulator.branches(kind, row_R, t_R, part_R, jammed_R, n)
        for kind in ("s", "t1", "tinf")
    }
    cells = (
        t_R,
        part_R,
        jammed_R,
        simulator.luck.cue_NT[row_R, t_R],
        simulator.luck.symptom_N[row_R],
    )
    names_R = [f"line-{task}" for task in task_N[row_R].tolist()]
    columns = {
        "task": names_R,
        "split": [split] * len(row_R),
        "z": z_N[row_R],
        "prefix": row_R * world.max_steps + t_R,
        "t": t_R,
        "source": ["slm_only"] * len(row_R),
        "features": cell_features(world, *cells),
        **{
            f"{letter}_{kind}": np.full(len(row_R), n) if letter == "n" else found[kind][0]
            for kind in found
            for letter in "ns"
        },
        "m_tinf": found["tinf"][1],
        "differs": [None] * len(row_R),
        **{name: np.zeros(len(row_R), dtype=np.int64) for name in ("n_r", "s_rs", "s_rt")},
        **{name: np.full(len(row_R), np.nan) for name in ("m_rs", "m_rt")},
        "own_success": (lines.part[row_R, 0] == world.parts),
        "episode": [f"{name}/{z}" for name, z in zip(names_R, z_N[row_R].tolist(), strict=True)],
        "weight": np.ones(len(row_R)),
    }
    return LabelTable.of_columns(columns)


def cell_features(
    world: World, t: Ints, part: Ints, jammed: Bools | Ints, cue: Ints, symptom: Ints
) -> Array:
    """What is known in a cell, [R, F]: the cue as entropy, the symptom as disagreement, the part as
    the verifier's progress.
    """
    named = {
        "first_token_entropy": cue / (world.cues - 1),
        "first_token_agreement": 1 - symptom / world.symptoms,
        "verifier_best": part / world.parts,
        "t": t,
        "t_share": t / world.max_steps,
        "error_observed": jammed,
        "budget_left": 1.0,
    }
    features_FR = np.zeros((len(FEATURE_NAMES), len(t)))
    for name, values in named.items():
        features_FR[FEATURE_NAMES.index(name)] = values
    return features_FR.T


def all_cells(world: World) -> Array:
    """Features [T * I * J * E * V, F] of every cell, in the order of envs/simulated/exact.py."""
    shape = (world.max_steps, world.parts, 2, world.cues, world.symptoms)
    return cell_features(world, *(grid.ravel() for grid in np.indices(shape)))


def cell_of(world: World, features_NF: Array) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The inverse of `cell_features`: step, part, jam, cue, symptom."""

    def column(name: str, scale: float) -> Ints:
        return np.rint(features_NF[:, FEATURE_NAMES.index(name)] * scale).astype(np.int64)

    symptom = world.symptoms - column("first_token_agreement", world.symptoms)
    return (
        column("t", 1),
        column("verifier_best", world.parts),
        column("error_observed", 1),
        column("first_token_entropy", world.cues - 1),
        symptom,
    )
