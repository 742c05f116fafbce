"""How probable an answer's side was, for the request log.

Invariant: a step has a propensity only where chance and the router alone decided who acts. Whoever
reads the log leaves out conversations in which a step has none: what a budget, a caller or an
outage decided tells of no threshold, and neither do the steps after it.
"""

from dataclasses import asdict
from typing import Any

import msgspec

from r2v_dist.router.exploration import Design, agrees
from r2v_dist.router.switching import Hysteresis
from r2v_dist.serving.begun import Begun
from r2v_dist.serving.policy import Policy

DECIDED = ("router", "held")
"""Reasons of steps that the router decided."""


def held_by(hysteresis: Hysteresis | None) -> str:
    """A hysteresis as the log names it; none is that which holds nothing."""
    return msgspec.json.encode(asdict(hysteresis or Hysteresis())).decode()


def randomisation(begun: Begun, policy: Policy) -> dict[str, Any]:
    """The columns of the log that say between which thresholds chance chose, and with which
    probability the side that acts would."""
    design = policy.design(begun.point)
    columns: dict[str, Any] = {
        "drawn_by": begun.drawn_by,
        "router_version": policy.version,
        "hysteresis": held_by(policy.models.hysteresis.get(policy.router)),
        "features": None if begun.predicted is None else begun.predicted.features_F,
    }
    if design is None or begun.outcome.reason == "forced":
        return columns
    chances = zip(design.thresholds, design.probabilities, strict=True)
    point_thresholds = (begun.point.threshold, begun.point.cheap)
    columns["design"] = [
        {"threshold": threshold, "probability": probability, "own": threshold in point_thresholds}
        for threshold, probability in chances
    ]
    if begun.outcome.reason in DECIDED and begun.conversation.exact:
        columns["propensity"] = _propensity(begun, policy, design)
    return columns


def _propensity(begun: Begun, policy: Policy, design: Design) -> float | None:
    """None too where the threshold that is played would not have decided as was done: then
    something beside scores and actors decided an earlier step."""
    context = begun.context
    scores = (*context.scores, begun.outcome.decision.score)
    actors = (*context.actors, begun.route)
    hysteresis = policy.models.hysteresis.get(policy.router)
    if hysteresis is not None and hysteresis.cold_token_price:
        return None  # what a switch cost hangs on the lengths of prompts, not on scores alone
    propensity = design.propensity(scores, actors, hysteresis)
    if propensity is None or begun.threshold is None or len(design.thresholds) == 1:
        return propensity
    known_scores = [score for score in scores if score is not None]
    return propensity if agrees(begun.threshold, known_scores, actors, hysteresis) else None
