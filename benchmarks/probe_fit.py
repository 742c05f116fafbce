"""A regularised linear probe of soft labels, and how well it ranks states of other tasks.

Inputs come in blocks, and each block has a penalty of its own, so that 27 features are not lost
among 896 numbers of a hidden state. Invariant: nothing but the training states decides a weight or
a penalty; every interval resamples whole tasks, and two probes are compared on the same resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.router.calibration import logistic_fit, sigmoid
from r2v_dist.stats.calibration_error import auroc

Array = npt.NDArray[np.float64]

PENALTIES = (1e5, 1e4, 1e3, 100.0, 10.0, 1.0)
"""The strongest goes first, so that it wins a tie."""
FOLDS = 5
_INTERCEPT = 10.0
"""The constant input: it makes the penalty of the intercept a hundredth of the weakest."""


@dataclass(frozen=True)
class Labelled:
    """States: blocks of inputs [N, D] (D differs), `n` outcomes, `failures` of them, and task."""

    blocks: tuple[Array, ...]
    failures_N: Array
    n_N: Array
    task_N: npt.NDArray[Any]

    def of_blocks(self, *places: int) -> "Labelled":
        """The same states with some of the blocks."""
        chosen = tuple(self.blocks[place] for place in places)
        return Labelled(chosen, self.failures_N, self.n_N, self.task_N)

    def where(self, keep_N: npt.NDArray[np.bool_]) -> "Labelled":
        """The states that a mask keeps."""
        blocks = tuple(block[keep_N] for block in self.blocks)
        return Labelled(blocks, self.failures_N[keep_N], self.n_N[keep_N], self.task_N[keep_N])


@dataclass(frozen=True)
class _Rotation:
    """Standardises a block and gives its coordinates in the space that the training states span. A
    ridge penalty gives no weight outside that space, so nothing is lost (Hastie and Tibshirani,
    "Efficient quadratic regularization for expression arrays", 2004).
    """

    mean_D: Array
    std_D: Array
    basis_DR: Array

    @classmethod
    def of(cls, block_ND: Array) -> "_Rotation":
        spread_D = block_ND.std(axis=0)
        std_D = np.where(spread_D > 1e-9, spread_D, np.inf)
        mean_D = block_ND.mean(axis=0)
        _, size_R, basis_RD = np.linalg.svd((block_ND - mean_D) / std_D, full_matrices=False)
        return cls(mean_D, std_D, basis_RD[size_R > 1e-9 * size_R.max(initial=0.0)].T)

    def __call__(self, block_ND: Array) -> Array:
        rotated_NR: Array = ((block_ND - self.mean_D) / self.std_D) @ self.basis_DR
        return rotated_NR


@dataclass(frozen=True)
class Probe:
    """A fitted probe. `brier` is its score on held-out training tasks, by which the penalties (one
    a block) were chosen.
    """

    rotations: tuple[_Rotation, ...]
    penalties: tuple[float, ...]
    weights_R: Array
    brier: float

    def __call__(self, states: Labelled) -> Array:
        """Probability of failure [N]."""
        rotated = [turn(block) for turn, block in zip(self.rotations, states.blocks, strict=True)]
        return sigmoid(_scaled(rotated, self.penalties) @ self.weights_R)


def fit(train: Labelled, seed: int) -> Probe:
    """Choose the penalties by cross-validation over tasks, then fit on all training states.

    Raises ValueError with fewer than two tasks.
    """
    tasks, task_N = np.unique(train.task_N, return_inverse=True)
    if len(tasks) < 2:
        raise ValueError("penalties are chosen on held-out tasks: give at least two training tasks")
    fold_of_task = np.random.default_rng(seed).permutation(len(tasks)) % min(FOLDS, len(tasks))
    fold_N = fold_of_task[task_N]
    rotations = tuple(_Rotation.of(block) for block in train.blocks)
    rotated = [turn(block) for turn, block in zip(rotations, train.blocks, strict=True)]
    scores: dict[tuple[float, ...], float] = {}
    for penalties in product(PENALTIES, repeat=len(rotated)):
        scores[penalties] = _held_out_brier(_scaled(rotated, penalties), train, fold_N)
    best = min(scores, key=lambda penalties: scores[penalties])
    return Probe(rotations, best, _weights(_scaled(rotated, best), train), scores[best])


def _scaled(rotated: Sequence[Array], penalties: Sequence[float]) -> Array:
    """One matrix for a penalty of 1: a column that is made smaller is penalised more."""
    pairs = zip(rotated, penalties, strict=True)
    columns = [block_NR / np.sqrt(penalty) for block_NR, penalty in pairs]
    return np.column_stack([*columns, np.full(len(columns[0]), _INTERCEPT)])


def _weights(x_NR: Array, states: Labelled) -> Array:
    nowhere_R = np.zeros(x_NR.shape[1])
    return logistic_fit(x_NR, states.failures_N, states.n_N, nowhere_R, 1.0)


def _held_out_brier(x_NR: Array, train: Labelled, fold_N: npt.NDArray[np.int64]) -> float:
    squared = 0.0
    share_N = train.failures_N / train.n_N
    for fold in np.unique(fold_N).tolist():
        inside_N = fold_N != fold
        weights_R = _weights(x_NR[inside_N], train.where(inside_N))
        error_N = sigmoid(x_NR[~inside_N] @ weights_R) - share_N[~inside_N]
        squared += float((train.n_N[~inside_N] * error_N**2).sum())
    return squared / float(train.n_N.sum())


@dataclass(frozen=True)
class Estimate:
    """A number with its percentile interval over resampled tasks."""

    value: float
    low: float
    high: float


def auroc_estimates(
    score_N_by_name: Mapping[str, Array],
    states: Labelled,
    against: str,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, tuple[Estimate, Estimate]]:
    """AUROC of every score, and its difference to the score `against` on the same resamples.

    Resamples in which all fail or all succeed have no AUROC and are left out. Raises ValueError
    where that is so in all of them.
    """
    names = list(score_N_by_name)
    tasks, task_N = np.unique(states.task_N, return_inverse=True)
    rng = np.random.default_rng(seed)
    whole_N = np.ones(len(task_N))
    drawn: list[list[float]] = []
    for _ in range(resamples):
        picked = rng.integers(0, len(tasks), len(tasks))
        weight_N = np.bincount(picked, minlength=len(tasks))[task_N].astype(np.float64)
        if _mixed(states, weight_N):
            drawn.append([_auroc(score_N_by_name[name], states, weight_N) for name in names])
    if not drawn:
        raise ValueError("AUROC needs failures and successes in more than one task")
    values_BM = np.array(drawn)
    values_M = np.array([_auroc(score_N_by_name[name], states, whole_N) for name in names])
    other = names.index(against)
    estimates = {}
    for place, name in enumerate(names):
        own = _estimate(values_M[place], values_BM[:, place], level)
        difference = values_M[place] - values_M[other]
        beside = _estimate(difference, values_BM[:, place] - values_BM[:, other], level)
        estimates[name] = (own, beside)
    return estimates


def _auroc(score_N: Array, states: Labelled, weight_N: Array) -> float:
    return auroc(score_N, states.failures_N * weight_N, states.n_N * weight_N)


def _mixed(states: Labelled, weight_N: Array) -> bool:
    failed = float((states.failures_N * weight_N).sum())
    return 0.0 < failed < float((states.n_N * weight_N).sum())


def _estimate(value: float, value_B: Array, level: float) -> Estimate:
    tail = (1 - level) / 2
    low, high = np.quantile(value_B, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))
