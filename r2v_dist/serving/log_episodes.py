"""The request log as rollouts: every conversation that somebody judged is an episode, with the
schema that training and evaluation read (`storage.step_table`).
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason, next_prefix
from r2v_dist.language_model import Answer, Candidate, TopTokens

STAGE = "gateway"


def judged_episodes(table: pa.Table) -> list[Episode]:
    """The conversations with feedback as episodes."""
    return [_episode(path, verdict) for path, verdict in judged_paths(table)]


def judged_paths(table: pa.Table) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """The rows of every conversation with feedback, from its first answer to the one that the
    feedback is about, and the row of the feedback, of which the latest counts. A conversation of
    which an answer is missing is left out."""
    rows = table.to_pylist()
    answers = {row["state"]: row for row in rows if _served(row)}
    verdicts = {row["state"]: row for row in rows if row["kind"] == "feedback"}
    for state, verdict in verdicts.items():
        path = _path(answers, state)
        if path and verdict["success"] is not None:
            yield path, verdict


def _served(row: dict[str, Any]) -> bool:
    return (row["kind"], row["status"]) == ("answer", "served")


def _path(answers: dict[bytes, dict[str, Any]], state: bytes) -> list[dict[str, Any]]:
    """The answers up to this one, in order; empty where one is missing."""
    path: list[dict[str, Any]] = []
    while state:
        row = answers.get(state)
        if row is None:
            return []
        path.append(row)
        state = row["previous"]
    return path[::-1]


def _episode(path: list[dict[str, Any]], verdict: dict[str, Any]) -> Episode:
    first, last = path[0], path[-1]
    arm = Arm(*_played(path), first["policy"], first["teacher"], 0)
    key = EpisodeKey(STAGE, "", first["conversation"].hex(), None, arm.id, 0, last["state"].hex())
    reason = StopReason.WON if verdict["success"] else StopReason.LOST
    return Episode(
        key=key,
        split="train",
        arm=arm,
        goal=first["goal"],
        steps=tuple(_steps(path)),
        success=verdict["success"],
        stop_reason=reason,
        final_observation="",
        detail=verdict["comment"] or "",
    )


def _played(path: list[dict[str, Any]]) -> tuple[str, float | None]:
    """The router that was followed, and its threshold; where the gateway's was only watched, the
    side that answered is one."""
    watched_row = next((row for row in path if row["reason"] == "shadow"), None)
    if watched_row is not None:
        return f"{watched_row['actor']}_only", None
    return path[0]["router"], path[0]["threshold"]


def _steps(path: list[dict[str, Any]]) -> Iterator[Step]:
    prefix = 0
    for row in path:
        ids = row["action_ids"]
        yield Step(
            observation=row["observation"],
            clean_observation=row["observation"],
            perturbations=(),
            actor=row["actor"],
            action=row["action"],
            action_ids=None if ids is None else tuple(ids),
            executed=True,
            score=row["score"],
            proposal=_proposal(row),
            teacher_tokens=(row["usage_completion"] or 0) if row["actor"] == "teacher" else 0,
            prefix=prefix,
            drift=False,
            verifier_scores=tuple(row["verifier_scores"] or ()),
            chosen_index=row["chosen_index"],
        )
        prefix = next_prefix(prefix, row["action"])


def _proposal(row: dict[str, Any]) -> Answer | None:
    if row["candidate_texts"] is None:
        return None
    columns = (row["candidate_texts"], row["candidate_ids"], row["candidate_logprobs"])
    candidates = tuple(
        Candidate(text, tuple(ids) or None, tuple(logprobs))
        for text, ids, logprobs in zip(*columns, strict=True)
    )
    pairs = zip(row["first_top_ids"], row["first_top_logprobs"], strict=True)
    top = TopTokens.of(pairs)
    return Answer(candidates, row["policy"], row["prompt_tokens"], top, row["generated"])
