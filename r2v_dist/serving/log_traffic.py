"""The request log as evidence on thresholds: judged conversations whose steps chance and the router
alone decided, and what the alarms of `drift.py` say of the whole log.

Invariant: every judged conversation is either used or counted under the reason why it is not; and
what it came to is no such reason, or those that are used would be selected.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.errors import UsageError
from r2v_dist.evaluation.off_policy import LoggedConversation
from r2v_dist.router.exploration import Design
from r2v_dist.router.switching import Hysteresis
from r2v_dist.serving.drift import WINDOW, FeatureDrift, RiskTest
from r2v_dist.serving.log_episodes import judged_paths
from r2v_dist.serving.propensity import held_by

Row = Mapping[str, Any]
CUT = "in which a budget, an outage or a candidate that cannot be sent decided"
WATCHED = "in which the router was only watched (serve.shadow)"
PRICED = "whose hysteresis prices cold tokens, so that the lengths of prompts decided too"
HELD = "held by another hysteresis than the run's"
LATER = "that are judged at a later answer too, which counts"
_WHO = ["router_version", "policy", "teacher"]
_COLUMNS = [
    *_WHO,
    *(
        "kind",
        "status",
        "state",
        "previous",
        "success",
        "actor",
        "reason",
        "score",
        "risk",
        "exact",
    ),
    *("drawn_by", "design", "propensity", "hysteresis"),
]


@dataclass(frozen=True)
class LoggedTraffic:
    """What a log tells of the router that answered last. `conversations` can be used, `left_out`
    counts the other judged ones by the reason; `answers` are the router's, in conversations of
    `draws` draws. `now` is the threshold that is served: the latest operating point's, of a mix the
    likelier; `policy` is the version of the SLM."""

    router: str
    router_version: str
    now: float
    policy: str
    conversations: tuple[LoggedConversation, ...]
    left_out: Mapping[str, int]
    answers: int
    draws: int
    risk_test: RiskTest
    psi: Mapping[str, float]
    """By feature, of the latest steps; empty with too few of them, or without training states."""
    beyond: Mapping[str, float]
    """The share of the latest steps at which the router cuts a feature; empty as `psi` is."""

    @property
    def judged(self) -> int:
        """Conversations with feedback."""
        return len(self.conversations) + sum(self.left_out.values())


def logged_traffic(
    table: pa.Table,
    drift_of: Callable[[str], FeatureDrift | None],
    hysteresis_of: Mapping[str, Hysteresis],
    with_features: bool = False,
) -> LoggedTraffic:
    """The evidence of a log on the router, the SLM and the teacher that answered last; judged
    conversations with others are left out. `drift_of` gives the training states of a router by its
    name, `hysteresis_of` how it was held. Conversations have features where `with_features` asks,
    for they take memory. Raises UsageError where no router has answered."""
    latest = _latest_answer(table)
    router = latest["router"]
    hysteresis = hysteresis_of.get(router)
    answers = table.filter(pc.equal(table["router_version"], latest["router_version"]))
    columns = [*_COLUMNS, "features"] if with_features else _COLUMNS
    risk_test = RiskTest()
    conversations, left_out = _sorted_out(table.select(columns), latest, hysteresis, risk_test)
    likeliest = max(latest["design"], key=lambda chance: (chance["own"], chance["probability"]))
    return LoggedTraffic(
        router,
        latest["router_version"],
        likeliest["threshold"],
        latest["policy"],
        conversations,
        left_out,
        answers.num_rows,
        len(pc.unique(answers["drawn_by"])),
        risk_test,
        *_shifts(answers, drift_of(router)),
    )


def _sorted_out(
    table: pa.Table, latest: Row, hysteresis: Hysteresis | None, risk_test: RiskTest
) -> tuple[tuple[LoggedConversation, ...], dict[str, int]]:
    """The judged conversations that can be used, and the number of others by the reason."""
    evidence: list[tuple[Sequence[Row], bool]] = []
    left_out = Counter[str]()
    unexplained = False
    judgements = list(judged_paths(table))
    inner_states = {row["state"] for path, _ in judgements for row in path[:-1]}
    for path, verdict in judgements:
        success = bool(verdict["success"])
        problem = LATER if path[-1]["state"] in inner_states else _elsewhere(path, latest)
        if not problem:
            _bet(risk_test, path, success)
            problem = _problem(path, hysteresis)
        if problem:
            left_out[problem] += 1
            unexplained |= problem == HELD and _says_nothing(path)
        else:
            evidence.append((path, success))
    if unexplained:
        telling = [(path, success) for path, success in evidence if not _says_nothing(path)]
        left_out[HELD] += len(evidence) - len(telling)
        evidence = telling
    return tuple(_conversation(path, success) for path, success in evidence), dict(left_out)


def _latest_answer(table: pa.Table) -> Row:
    """The latest one with a design."""
    answers = table.filter(pc.and_(pc.equal(table["kind"], "answer"), pc.is_valid(table["design"])))
    if not answers.num_rows:
        raise UsageError(
            "no answer of a router with a threshold is in the log; `r2v serve` of this version "
            "writes one for every request that names no side and no threshold of its own"
        )
    last = answers.slice(answers.num_rows - 1).select([*_WHO, "router", "design"])
    row: Row = last.to_pylist()[0]
    return row


def _elsewhere(path: Sequence[Row], latest: Row) -> str:
    """Whether others answered than those of the latest answer, in words."""
    for row in path:
        if row["router_version"] != latest["router_version"]:
            return "of another router"
        if any(row[name] != latest[name] for name in _WHO):
            return "with another SLM or teacher"
    return ""


def _bet(risk_test: RiskTest, path: Sequence[Row], success: bool) -> None:
    """One on a conversation that the SLM played alone, as the gateway does."""
    risk = path[0]["risk"]
    if risk is not None and all(row["actor"] == "slm" for row in path):
        risk_test.add(risk, not success)


def _problem(path: Sequence[Row], hysteresis: Hysteresis | None) -> str:
    """Why a conversation tells nothing of thresholds; empty where it does."""
    if any(row["design"] is None for row in path):
        return "at an operating point or on a side that the caller chose"
    if any(row["hysteresis"] not in (None, held_by(hysteresis)) for row in path):
        return HELD
    if any(not row["exact"] for row in path):
        return "with rebuilt features"
    if any(row["propensity"] is None for row in path):
        return _unknown(path, hysteresis)
    if any(row["design"] != path[0]["design"] for row in path):
        return "in which serve.explore or the operating point changed"
    return HELD if _says_nothing(path) and not _explained(path, hysteresis) else ""


def _says_nothing(path: Sequence[Row]) -> bool:
    """Whether a log of an earlier version does not say how the conversation was held."""
    return any(row["hysteresis"] is None for row in path)


def _explained(path: Sequence[Row], hysteresis: Hysteresis | None) -> bool:
    """Whether a hysteresis would have given the conversation the propensities that it has. Others
    may too: one that it does not explain speaks against all that were held alike."""
    conversation = _conversation(path, True)
    chance = conversation.design.chance_of(conversation.scores, conversation.actors, hysteresis)
    return math.isclose(conversation.propensity, chance)


def _unknown(path: Sequence[Row], hysteresis: Hysteresis | None) -> str:
    """Why the propensity of a step is not known."""
    if any(row["reason"] == "shadow" for row in path):
        return WATCHED
    return PRICED if hysteresis is not None and hysteresis.cold_token_price else CUT


def _conversation(path: Sequence[Row], success: bool) -> LoggedConversation:
    chances = [(chance["threshold"], chance["probability"]) for chance in path[0]["design"]]
    features = [row.get("features") for row in path]
    return LoggedConversation(
        drawn_by=path[0]["drawn_by"],
        design=Design.of(chances),
        scores=tuple(row["score"] for row in path),
        actors=tuple(row["actor"] for row in path),
        propensities=tuple(row["propensity"] for row in path),
        success=success,
        risk=path[0]["risk"],
        features_TF=None if None in features else np.array(features, dtype=np.float64),
    )


def _shifts(
    rows: pa.Table, drift: FeatureDrift | None
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Of the latest steps against the training states, by feature: the index, and the share that
    lies beyond them."""
    if drift is None:
        return {}, {}
    features = rows["features"].drop_null()
    for row in features.slice(max(0, len(features) - WINDOW)).to_pylist():
        drift.add(np.array(row))
    return drift.psi(), drift.beyond()
