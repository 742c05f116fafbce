"""Counterfactual branch labels of the simulated world (docs/method.md, section 6), drawn for all
(task, z) at once.

Every state of an SLM-only episode (replica 0) gets S-, T1- and Tinf-branches with replicas 1..n
under the same draws of the world; the first action of an S-branch is the recorded action. Axes: N
(task, z) pairs, R labelled states, B branches, T steps, F features.
"""

from dataclasses import dataclass
from typing import Any

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
        self._slip_NT: dict[tuple[str, bool], Array] = {}
        for actor in ("slm", "teacher"):
            for jammed in (False, True):
                slip_VD = world.slip_VD(actor, jammed)
                slip_NT = slip_VD[self.luck.symptom_N[:, None], self.luck.difficulty_NT]
                self._slip_NT[actor, jammed] = slip_NT

    def begin(self, row_R: Ints, part_R: Ints, jammed_R: Bools, branches: int) -> _Lines:
        """Lines that start in given states."""
        shape = (len(row_R), branches)
        return _Lines(
            row=np.repeat(row_R[:, None], branches, axis=1),
            part=np.repeat(part_R[:, None], branches, axis=1),
            jammed=np.repeat(jammed_R[:, None], branches, axis=1),
            live=np.ones(shape, dtype=bool),
            teacher_steps=np.zeros(shape, dtype=np.int64),
        )

    def act(self, lines: _Lines, actor: str, t: int, moves_R: Bools, replica_B: Ints) -> None:
        """One action of `actor` at step t on the lines of the rows that move."""
        task_RB = self.task_N[lines.row]
        z_RB = self.z_N[lines.row]
        draw_RB = worker_draws(actor, task_RB, z_RB, replica_B[None], t)
        slip_jammed_RB = self._slip_NT[actor, True][lines.row, t]
        slip_running_RB = self._slip_NT[actor, False][lines.row, t]
        wrong_RB = draw_RB < np.where(lines.jammed, slip_jammed_RB, slip_running_RB)
        moving_RB = lines.live & moves_R[:, None]
        lines.part += moving_RB & ~wrong_RB & ~lines.jammed
        lost_RB = wrong_RB & self.luck.fatal_NT[lines.row, t]
        won_RB = lines.part == self.world.parts
        lines.live &= ~(moving_RB & (lost_RB | won_RB))
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
        recorded_B = np.zeros(n, dtype=np.int64)
        for t in range(self.world.max_steps):
            first_R = t_R == t
            later_R = t_R < t
            if kind == "s":
                self.act(lines, "slm", t, first_R, recorded_B)
            else:
                self.act(lines, "teacher", t, first_R, replica_B)
            later_actor = "teacher" if kind == "tinf" else "slm"
            self.act(lines, later_actor, t, later_R, replica_B)
        won_RB = lines.part == self.world.parts
        return won_RB.sum(axis=1), lines.teacher_steps.mean(axis=1)


@dataclass(frozen=True)
class _Visits:
    """The states that SLM-only episodes visit, by (task, z) pair and step; `won` is the outcome of
    the episode.
    """

    row_R: Ints
    t_R: Ints
    part_R: Ints
    jammed_R: Bools
    won_R: Bools


def _slm_only(simulator: Simulator) -> _Visits:
    """Play every (task, z) pair by the SLM with replica 0."""
    world = simulator.world
    count = len(simulator.task_N)
    lines = simulator.begin(
        np.arange(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool), 1
    )
    row = []
    step = []
    part = []
    jammed = []
    everyone = np.ones(count, dtype=bool)
    for t in range(world.max_steps):
        live = np.flatnonzero(lines.live[:, 0])
        row.append(live)
        step.append(np.full(len(live), t))
        part.append(lines.part[live, 0])
        jammed.append(lines.jammed[live, 0])
        simulator.act(lines, "slm", t, everyone, np.zeros(1, dtype=np.int64))
    row_R = np.concatenate(row)
    t_R = np.concatenate(step)
    order = np.lexsort((t_R, row_R))
    return _Visits(
        row_R=row_R[order],
        t_R=t_R[order],
        part_R=np.concatenate(part)[order],
        jammed_R=np.concatenate(jammed)[order],
        won_R=lines.part[row_R[order], 0] == world.parts,
    )


def draw_labels(world: World, split: str, tasks: range, zs: range, n: int) -> LabelTable:
    """Labels of every state that SLM-only episodes visit on each task under each seed, with n
    branches of each kind.
    """
    task_NZ, z_NZ = np.meshgrid(np.array(tasks), np.array(zs), indexing="ij")
    task_N = task_NZ.ravel()
    z_N = z_NZ.ravel()
    simulator = Simulator(world, task_N, z_N)
    visits = _slm_only(simulator)
    row_R = visits.row_R
    t_R = visits.t_R
    names_R = [f"line-{task}" for task in task_N[row_R].tolist()]
    z_R = z_N[row_R]
    count = len(row_R)
    columns = {
        "task": names_R,
        "split": [split] * count,
        "z": z_R,
        "prefix": row_R * world.max_steps + t_R,
        "t": t_R,
        "source": ["slm_only"] * count,
        "features": cell_features(
            world,
            t_R,
            visits.part_R,
            visits.jammed_R,
            simulator.luck.cue_NT[row_R, t_R],
            simulator.luck.symptom_N[row_R],
        ),
        "own_success": visits.won_R,
        "episode": [f"{name}/{z}" for name, z in zip(names_R, z_R.tolist(), strict=True)],
        "weight": np.ones(count),
        **_branch_columns(simulator, visits, n),
        **_no_pairs(count),
    }
    return LabelTable.of_columns(columns)


def _branch_columns(simulator: Simulator, visits: _Visits, n: int) -> dict[str, Ints | Array]:
    columns: dict[str, Ints | Array] = {}
    for kind in ("s", "t1", "tinf"):
        successes_R, teacher_steps_R = simulator.branches(
            kind, visits.row_R, visits.t_R, visits.part_R, visits.jammed_R, n
        )
        columns[f"n_{kind}"] = np.full(len(visits.row_R), n)
        columns[f"s_{kind}"] = successes_R
        if kind == "tinf":
            columns["m_tinf"] = teacher_steps_R
    return columns


def _no_pairs(count: int) -> dict[str, Any]:
    """Columns of labels that the simulated world does not draw."""
    zeros = np.zeros(count, dtype=np.int64)
    nans = np.full(count, np.nan)
    return {
        "differs": [None] * count,
        "n_r": zeros,
        "s_rs": zeros,
        "s_rt": zeros,
        "m_rs": nans,
        "m_rt": nans,
    }


def cell_features(
    world: World, t: Ints, part: Ints, jammed: Bools | Ints, cue: Ints, symptom: Ints
) -> Array:
    """Features [R, F] of cells: the cue stands for entropy, the symptom for disagreement, the part
    for the verifier's score.
    """
    columns = {
        "first_token_entropy": cue / (world.cues - 1),
        "first_token_agreement": 1 - symptom / world.symptoms,
        "verifier_best": part / world.parts,
        "t": t,
        "t_share": t / world.max_steps,
        "error_observed": jammed,
        "budget_left": 1.0,
    }
    features_FR = np.zeros((len(FEATURE_NAMES), len(t)))
    for name, values in columns.items():
        features_FR[FEATURE_NAMES.index(name)] = values
    return features_FR.T


def all_cells(world: World) -> Array:
    """Features [T * I * J * E * V, F] of every cell, in the order of envs/simulated/exact.py."""
    shape = (world.max_steps, world.parts, 2, world.cues, world.symptoms)
    t, part, jammed, cue, symptom = np.indices(shape).reshape(len(shape), -1)
    return cell_features(world, t, part, jammed, cue, symptom)


def cell_of(world: World, features_NF: Array) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The inverse of `cell_features`: step, part, jam, cue, symptom."""

    def column(name: str, scale: float) -> Ints:
        feature_N = features_NF[:, FEATURE_NAMES.index(name)]
        return np.rint(feature_N * scale).astype(np.int64)

    t = column("t", 1)
    part = column("verifier_best", world.parts)
    jammed = column("error_observed", 1)
    cue = column("first_token_entropy", world.cues - 1)
    symptom = world.symptoms - column("first_token_agreement", world.symptoms)
    return t, part, jammed, cue, symptom
