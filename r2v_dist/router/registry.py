"""Routers decide at every step whether the SLM may act (`escalate=False`) or the teacher must.

A router sees only what a deployed agent sees. One score, one threshold: escalate iff score >=
threshold.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r2v_dist.errors import UsageError
from r2v_dist.language_model import Answer
from r2v_dist.router import baselines
from r2v_dist.router.features import features
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import BY_NAME, LEARNED, RouterInfo
from r2v_dist.router.policies import (
    Capped,
    Constant,
    ContextThreshold,
    Latched,
    ProposalThreshold,
    RandomEscalation,
    Router,
)
from r2v_dist.router.query_features import query_features
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.router.step_context import StepContext
from r2v_dist.router.switching import Held, Hysteresis


def risk_of_step(model: RouterModel) -> Callable[[StepContext, Answer], float]:
    """The score of a learned router on the step's features."""
    return lambda context, proposal: float(
        model.predict(features(StepBatch.of_step(proposal, context))).score[0]
    )


def risk_of_query(model: RouterModel) -> Callable[[StepContext], float]:
    """The score of a query-level router: equal at every step of an episode."""
    return lambda context: float(
        model.predict(query_features([context.goal], [context.observations[0]])).score[0]
    )


@dataclass(frozen=True)
class RouterModels:
    """Trained routers by (name, training seed), and what binds routers of a name.

    `latched`: their first escalation is for good. `budgets`: the most teacher calls of theirs in an
    episode; the contexts they see must say so too. `hysteresis`: how often who acts may change.
    """

    trained: Mapping[tuple[str, int], RouterModel] = field(default_factory=dict)
    latched: frozenset[str] = frozenset()
    budgets: Mapping[str, int] = field(default_factory=dict)
    hysteresis: Mapping[str, Hysteresis] = field(default_factory=dict)
    oracle_branches: int = 4
    """Branches from every state at which the oracle decides."""

    def of(self, name: str, training_seed: int) -> RouterModel:
        """The model of an arm. Raises UsageError when it was not trained."""
        if (name, training_seed) not in self.trained:
            raise UsageError(
                f"router {name}: no model of training seed {training_seed}; train it first or "
                f"leave the router out"
            )
        return self.trained[name, training_seed]


SINGLE_SAMPLE = frozenset({"slm_only"})
"""Routers whose SLM acts with one sample; under all others the verifier picks among the K, where
there is a verifier.
"""
NEVER_ASK = frozenset({"slm_only", "best_of_k"})
"""Routers that never ask the teacher."""


def build_router(
    name: str, threshold: float | None, models: RouterModels | None = None, training_seed: int = 0
) -> Router:
    """The router of an arm.

    Raises UsageError for a name that does not exist, a missing threshold, or a model that was not
    trained.
    """
    models = models or RouterModels()
    router = _unbound(name, threshold, models, training_seed)
    if name in models.hysteresis and threshold is not None:
        router = Held(router, models.hysteresis[name], threshold)
    if name in models.latched:
        router = Latched(router)
    return Capped(router, models.budgets[name]) if name in models.budgets else router


def _unbound(
    name: str, threshold: float | None, models: RouterModels, training_seed: int
) -> Router:
    info = BY_NAME.get(name)
    if info is None:
        raise UsageError(f"router {name}: no such router; there are {', '.join(BY_NAME)}")
    if info.family == "end":
        return Constant(name not in NEVER_ASK)
    if threshold is None:
        raise UsageError(f"router {name}: needs a threshold")
    score = _score_of(info, models, training_seed)
    if info.play == "rate":
        return RandomEscalation(threshold, score)
    early = len(inspect.signature(score).parameters) == 1
    router: Router = (ContextThreshold if early else ProposalThreshold)(threshold, score)
    return Latched(router) if info.play == "latch" else router


def _score_of(info: RouterInfo, models: RouterModels, training_seed: int) -> Callable[..., Any]:
    """A function of the context alone, or of the context and the SLM's proposal."""
    if info.score is not None:
        rule: Callable[..., Any] = getattr(baselines, info.score)
        return rule
    model = models.of(info.name, training_seed)
    return risk_of_step(model) if info.name in LEARNED else risk_of_query(model)
