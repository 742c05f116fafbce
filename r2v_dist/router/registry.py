"""Routers decide at every step whether the SLM may act (`escalate=False`) or the teacher must.

A router sees only what a deployed agent sees. One score, one threshold: escalate iff score >= threshold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from r2v_dist.config.run import LEARNED, ORACLE
from r2v_dist.errors import UsageError
from r2v_dist.language_model import Answer
from r2v_dist.router.features import StepBatch, features, looks_like_an_error
from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_features import query_features
from r2v_dist.router.step_context import Situation
from r2v_dist.seeding import rng_for
from r2v_dist.verifier.base import preferred


@dataclass(frozen=True)
class Decision:
    """What the router chose, and the score it chose by."""

    escalate: bool
    score: float | None


class Router(Protocol):
    """`needs_proposal`: whether the SLM must propose before the decision, which then costs an SLM call even if it escalates."""

    def needs_proposal(self, situation: Situation) -> bool: ...

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision: ...


@dataclass(frozen=True)
class Constant:
    """SLM-only or teacher-only."""

    escalate: bool

    def needs_proposal(self, situation: Situation) -> bool:
        return False

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        return Decision(self.escalate, None)


@dataclass(frozen=True)
class RandomEscalation:
    """Escalates each step with probability `rate`; arms of different rate use the same draws, so their paths nest."""

    rate: float

    def needs_proposal(self, situation: Situation) -> bool:
        return False

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        draw = rng_for("random-escalation", *situation.draw).random()
        return Decision(draw < self.rate, draw)


@dataclass(frozen=True)
class ProposalThreshold:
    """Escalates when a score of the situation and the SLM's proposal is at least `threshold`."""

    threshold: float
    score: Callable[[Situation, Answer], float]

    def needs_proposal(self, situation: Situation) -> bool:
        return True

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        assert proposal is not None
        score = self.score(situation, proposal)
        return Decision(score >= self.threshold, score)


@dataclass(frozen=True)
class SituationThreshold:
    """Escalates when a score of the situation alone is at least `threshold`: an escalation costs no SLM call."""

    threshold: float
    score: Callable[[Situation], float]

    def needs_proposal(self, situation: Situation) -> bool:
        return False

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        score = self.score(situation)
        return Decision(score >= self.threshold, score)


@dataclass(frozen=True)
class Latched:
    """The first escalation of `router` keeps the teacher to the end of the episode."""

    router: Router

    def needs_proposal(self, situation: Situation) -> bool:
        return situation.escalations == 0 and self.router.needs_proposal(situation)

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        return Decision(True, None) if situation.escalations else self.router.decide(situation, proposal)


@dataclass(frozen=True)
class Capped:
    """Never makes more than `budget` teacher calls in an episode, whatever `router` says."""

    router: Router
    budget: int

    def needs_proposal(self, situation: Situation) -> bool:
        return self.router.needs_proposal(situation)

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        decision = self.router.decide(situation, proposal)
        return Decision(False, decision.score) if situation.escalations >= self.budget else decision


def entropy_of(logprobs: Sequence[float]) -> float:
    """Entropy in nats of a first token's distribution; what lies beyond the returned top counts as one more outcome."""
    probabilities = [math.exp(logprob) for logprob in logprobs]
    rest = max(0.0, 1.0 - sum(probabilities))
    return -sum(p * math.log(p) for p in [*probabilities, rest] if p > 1e-12)


def first_token_entropy(situation: Situation, proposal: Answer) -> float:
    """Entropy of the SLM's first token in nats."""
    return entropy_of(proposal.first_top.logprobs)


def verifier_doubt(situation: Situation, proposal: Answer) -> float:
    """1 minus the verifier's best score, 1 where the SLM has no action. Raises UsageError
    without a verifier."""
    if not proposal.candidates:
        return 1.0
    if not situation.verifier_scores:
        raise UsageError("router verifier: this run has no verifier; configure one or leave the router out")
    return 1.0 - max(situation.verifier_scores)


def entropy_or_doubt(situation: Situation, proposal: Answer) -> float:
    """The larger of 1 - exp(-entropy) and the verifier's doubt: at least tau iff either is."""
    unsure = -math.expm1(-first_token_entropy(situation, proposal))
    return max(unsure, verifier_doubt(situation, proposal)) if situation.verifier_scores else unsure


def action_perplexity(situation: Situation, proposal: Answer) -> float:
    """exp of the mean negative log-probability of the action to be executed.

    Raises UsageError where the SLM gives no log-probabilities.
    """
    if not proposal.candidates:
        return math.inf
    chosen = preferred([candidate.text for candidate in proposal.candidates], situation.verifier_scores)
    logprobs = proposal.candidates[chosen].logprobs
    if not logprobs:
        raise UsageError("router perplexity: this SLM gives no log-probabilities; leave the router out")
    return math.exp(-sum(logprobs) / len(logprobs))


def stuck_steps(situation: Situation) -> float:
    """Latest steps in a row that led nowhere: an action said again, or an answer that is the same again or speaks of an error."""
    actions, seen, stuck = situation.actions, situation.observations, 0
    for i in reversed(range(len(actions))):
        again = i > 0 and actions[i] == actions[i - 1]
        if not (again or seen[i + 1] == seen[i] or looks_like_an_error(seen[i + 1])):
            break
        stuck += 1
    return float(stuck)


def risk_of_step(model: RouterModel) -> Callable[[Situation, Answer], float]:
    """The score of a learned router on the step's features."""
    return lambda situation, proposal: float(model.predict(features(StepBatch.of_step(proposal, situation))).score[0])


def risk_of_query(model: RouterModel) -> Callable[[Situation], float]:
    """The score of a query-level router: equal at every step of an episode."""
    return lambda situation: float(model.predict(query_features([situation.goal], [situation.observations[0]])).score[0])


@dataclass(frozen=True)
class RouterModels:
    """Trained routers by (name, training seed), and what binds routers of a name.

    `latched`: their first escalation is for good. `budgets`: the most teacher calls of theirs in an episode; the situations they
    see must say so too.
    """

    trained: Mapping[tuple[str, int], RouterModel] = field(default_factory=dict)
    latched: frozenset[str] = frozenset()
    budgets: Mapping[str, int] = field(default_factory=dict)
    oracle_branches: int = 4
    """Branches from every state at which the oracle decides."""

    def of(self, name: str, training_seed: int) -> RouterModel:
        """The model of an arm. Raises UsageError when it was not trained."""
        if (name, training_seed) not in self.trained:
            raise UsageError(f"router {name}: no model of training seed {training_seed}; train it first or leave the router out")
        return self.trained[name, training_seed]


def true_risk(situation: Situation, proposal: Answer) -> float:
    """The share of independent branches that fail: no deployed agent could know it."""
    assert situation.true_risk is not None
    return situation.true_risk


_BY_PROPOSAL: dict[str, Callable[[Situation, Answer], float]] = {
    "entropy": first_token_entropy,
    "heuristic": entropy_or_doubt,
    "verifier": verifier_doubt,
    "perplexity": action_perplexity,
    ORACLE: true_risk,
}
SINGLE_SAMPLE = frozenset({"slm_only"})
"""Routers whose SLM acts with one sample; under all others the verifier picks among the K, where there is a verifier."""
ALONE = frozenset({"slm_only", "best_of_k"})
"""Routers that never ask the teacher."""
_CONSTANT = {"slm_only": False, "best_of_k": False, "teacher_only": True}
NAMES = (*_CONSTANT, "random", *_BY_PROPOSAL, "stuck_latch", "query_level", *LEARNED)


def build_router(name: str, threshold: float | None, models: RouterModels | None = None, training_seed: int = 0) -> Router:
    """The router of an arm.

    Raises UsageError for a name that does not exist, a missing threshold, or a model that was not trained.
    """
    models = models or RouterModels()
    router = _unbound(name, threshold, models, training_seed)
    if name in models.latched:
        router = Latched(router)
    return Capped(router, models.budgets[name]) if name in models.budgets else router


def _unbound(name: str, threshold: float | None, models: RouterModels, training_seed: int) -> Router:
    if name not in NAMES:
        raise UsageError(f"router {name}: no such router; there are {', '.join(NAMES)}")
    if name in _CONSTANT:
        return Constant(_CONSTANT[name])
    if threshold is None:
        raise UsageError(f"router {name}: needs a threshold")
    if name == "random":
        return RandomEscalation(threshold)
    if name == "stuck_latch":
        return Latched(SituationThreshold(threshold, stuck_steps))
    if name == "query_level":
        return SituationThreshold(threshold, risk_of_query(models.of(name, training_seed)))
    if name in LEARNED:
        return ProposalThreshold(threshold, risk_of_step(models.of(name, training_seed)))
    return ProposalThreshold(threshold, _BY_PROPOSAL[name])
