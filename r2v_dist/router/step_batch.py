"""Steps as columns, from rows of the store or from one live step: features are computed from these
alone.
"""

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from r2v_dist.language_model import Answer
from r2v_dist.router.step_context import StepContext

Array = npt.NDArray[np.float64]

_WORD = re.compile(r"\w+|[^\w\s]")


ABSENT = -1000.0
"""Pads log-probabilities of first tokens: its probability is exactly 0, and so is its share of an
entropy.
"""


@dataclass(frozen=True)
class StepBatch:
    """N steps as columns. Scores that do not exist are nan; both K axes have at least
    two places.
    """

    first_top_logprobs_NV: Array
    sequence_logprobs_NK: Array
    verifier_scores_NK: Array
    action_logprobs_N: Array
    """Mean over the tokens of the candidate to be executed."""
    verifier_earlier_N2: Array
    """Best verifier scores two steps ago and one step ago."""
    candidate_texts: Sequence[Sequence[str]]
    first_tokens: Sequence[Sequence[object]]
    """First token id of every candidate; its first word where the model gives no ids."""
    actions: Sequence[Sequence[str]]
    """All that were executed so far, the latest at the end."""
    observations: Sequence[str]
    t_N: Array
    max_steps_N: Array
    """inf without a limit."""
    context_tokens_N: Array
    goal_tokens_N: Array
    escalations_N: Array
    budget_left_N: Array

    @classmethod
    def of_step(cls, answer: Answer, context: StepContext) -> Self:
        """A batch of one live step: the SLM's answer at `context`."""
        candidates = answer.candidates
        texts = [c.text for c in candidates]
        logprobs = [c.logprobs for c in candidates]
        width = max(len(candidates), len(context.verifier_scores))
        return cls(
            first_top_logprobs_NV=np.array(
                [answer.first_top.logprobs or array("f", [ABSENT])], dtype=np.float64
            ),
            sequence_logprobs_NK=_padded([[_total(row) for row in logprobs]], width),
            verifier_scores_NK=_padded([context.verifier_scores], width),
            action_logprobs_N=np.array([_action_logprob(logprobs, context.chosen_index)]),
            verifier_earlier_N2=np.array(
                [array("f", (math.nan, math.nan, *context.verifier_bests)[-2:])], dtype=np.float64
            ),
            candidate_texts=[texts],
            first_tokens=[[_first(c.text, c.token_ids) for c in candidates]],
            actions=[context.actions],
            observations=[context.observations[-1]],
            t_N=np.array([float(context.t)]),
            max_steps_N=np.array(
                [math.inf if context.max_steps is None else float(context.max_steps)]
            ),
            context_tokens_N=np.array([float(answer.prompt_tokens)]),
            goal_tokens_N=np.array([float(word_count(context.goal))]),
            escalations_N=np.array([float(context.escalations)]),
            budget_left_N=np.array([_left(context.escalations, context.budget)]),
        )

    @classmethod
    def from_rows(
        cls, table: pa.Table, max_steps: int | None = None, budget: int | None = None
    ) -> Self:
        """The rows of whole episodes (`step_table.SCHEMA`, in any order); step i of the batch is
        row i of the table.

        A column `verifier_scores` (list of float, one a candidate) is read where the table has one.
        Rows without a proposal, as after an escalation that did not wait for one, have all bits for
        missing scores set. Raises ValueError when earlier steps of an episode are missing, because
        the history would be wrong.
        """
        texts = _lists(table, "candidate_texts")
        ids = _lists(table, "candidate_ids")
        logprobs = _lists(table, "candidate_logprobs")
        tops = _lists(table, "first_top_logprobs")
        verified = "verifier_scores" in table.column_names
        scores = _lists(table, "verifier_scores") if verified else [[] for _ in texts]
        chosen_indices = table["chosen_index"].to_pylist()
        goals = table["goal"].to_pylist()
        t_N, previous_N2, escalations_N, past_actions = _history(table)
        width = max((max(len(a), len(b)) for a, b in zip(texts, scores, strict=True)), default=0)
        bests_N = np.array(
            [max(row) if row else math.nan for row in scores], dtype=np.float32
        ).astype(np.float64)
        words = {goal: float(word_count(goal)) for goal in set(goals)}
        return cls(
            first_top_logprobs_NV=_padded(tops, max(map(len, tops), default=0), ABSENT),
            sequence_logprobs_NK=_padded(
                [[_total(token_logprobs) for token_logprobs in row] for row in logprobs], width
            ),
            verifier_scores_NK=_padded(scores, width),
            action_logprobs_N=np.array(
                [_action_logprob(*row) for row in zip(logprobs, chosen_indices, strict=True)],
                dtype=np.float64,
            ),
            verifier_earlier_N2=np.where(previous_N2 >= 0, bests_N[previous_N2], math.nan),
            candidate_texts=texts,
            first_tokens=[
                [_first(*pair) for pair in zip(*row, strict=True)]
                for row in zip(texts, ids, strict=True)
            ],
            actions=past_actions,
            observations=[text or "" for text in table["observation"].to_pylist()],
            t_N=t_N,
            max_steps_N=np.full(len(texts), math.inf if max_steps is None else float(max_steps)),
            context_tokens_N=np.array(
                [count or 0.0 for count in table["prompt_tokens"].to_pylist()], dtype=np.float64
            ),
            goal_tokens_N=np.array([words[goal] for goal in goals], dtype=np.float64),
            escalations_N=escalations_N,
            budget_left_N=np.array(
                [_left(count, budget) for count in escalations_N.tolist()], dtype=np.float64
            ),
        )


def _lists(table: pa.Table, name: str) -> list[list[Any]]:
    """A column of lists; empty ones for null."""
    return [row or [] for row in table[name].to_pylist()]


@lru_cache(maxsize=4096)
def word_count(text: str) -> int:
    """Words and punctuation marks: a token count that needs no tokenizer."""
    return len(_WORD.findall(text))


def _history(table: pa.Table) -> tuple[Array, npt.NDArray[np.int64], Array, list[list[str]]]:
    """Of every row: t, the rows two and one steps before it (-1: none), the teacher's steps before
    it, and all actions before it.
    """
    t_N = table["t"].to_numpy().astype(np.int64)
    _, episode_N = np.unique(
        np.array(table["key"].to_pylist(), dtype=object).astype(str), return_inverse=True
    )
    order_N = np.lexsort((t_N, episode_N))
    starts_N = np.searchsorted(episode_N[order_N], episode_N[order_N])
    place_N = np.arange(len(t_N)) - starts_N
    if ((place_N != t_N[order_N]) & (t_N[order_N] >= 0)).any():
        raise ValueError("features need every step of an episode: earlier rows of one are missing")
    by_teacher_N = np.array(
        [actor == "teacher" for actor in table["actor"].to_pylist()], dtype=np.float64
    )[order_N]
    before_N = np.cumsum(by_teacher_N) - by_teacher_N
    previous_N2 = np.full((len(t_N), 2), -1)
    escalations_N = np.empty(len(t_N))
    for column, back in ((0, 2), (1, 1)):
        has_N = place_N >= back
        previous_N2[order_N[has_N], column] = order_N[np.flatnonzero(has_N) - back]
    escalations_N[order_N] = before_N - before_N[starts_N]
    actions = table["action"].take(order_N).to_pylist()
    past_actions: list[list[str]] = [[]] * len(t_N)
    for row, start, place in zip(order_N.tolist(), starts_N.tolist(), range(len(t_N)), strict=True):
        past_actions[row] = actions[start:place]
    return t_N.astype(np.float64), previous_N2, escalations_N, past_actions


def _padded(rows: Sequence[Sequence[float]], width: int, absent: float = math.nan) -> Array:
    """Rows as [N, at least 2], in single precision as the store keeps them."""
    width = max(width, 2)
    flat = array("f")
    for row in rows:
        flat.extend(row)
        flat.extend([absent] * (width - len(row)))
    return np.array(flat, dtype=np.float64).reshape(-1, width)


def _total(logprobs: Sequence[float]) -> float:
    """Log-probability of a sequence, its tokens in single precision as the store keeps them; nan
    when unknown.
    """
    return sum(array("f", logprobs)) if logprobs else math.nan


def _action_logprob(logprobs: Sequence[Sequence[float]], chosen_index: int) -> float:
    """Of the candidate to be executed; nan when unknown."""
    token_logprobs = logprobs[chosen_index] if logprobs else ()
    return _total(token_logprobs) / len(token_logprobs) if token_logprobs else math.nan


def _first(text: str, token_ids: Sequence[int] | None) -> object:
    return token_ids[0] if token_ids else text.partition(" ")[0]


def _left(escalations: float, budget: int | None) -> float:
    """Share of the budget that is left; 1 without a budget."""
    if budget is None:
        return 1.0
    return max(0.0, budget - escalations) / budget if budget else 0.0
