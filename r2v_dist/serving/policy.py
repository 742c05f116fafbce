"""The policy that is served: a router at its operating points, built by the very function of the
offline loop (`build_router`), so that its routes are those that were evaluated.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Self

from cachetools import LRUCache

from r2v_dist.router.exploration import Design, Exploration
from r2v_dist.router.model import Array, RiskPrediction, RouterModel
from r2v_dist.router.policies import Router
from r2v_dist.router.registry import RouterModels, build_router
from r2v_dist.seeding import rng_for
from r2v_dist.serving.errors import invalid

_BUILT = 64
"""Routers that are kept: of every threshold of the run, and of some that callers set."""
_PREDICTION: ContextVar["Predicted | None"] = ContextVar("prediction", default=None)


@dataclass(frozen=True)
class Predicted:
    """The residual risk of a step, and the features [F] that it was predicted from."""

    risk: float
    features_F: Array


class WatchedModel(RouterModel):
    """A router that notes what it predicted, for whoever decided in the same task."""

    def predict(self, features_NF: Array) -> RiskPrediction:
        """As `RouterModel.predict`."""
        prediction = super().predict(features_NF)
        _PREDICTION.set(Predicted(float(prediction.rho[0]), features_NF[0]))
        return prediction

    @classmethod
    def of(cls, model: RouterModel) -> Self:
        """The same router, watched."""
        return cls(**{item.name: getattr(model, item.name) for item in fields(model)})


def forget_prediction() -> None:
    """Have the next `seen` tell of a prediction made from here on only."""
    _PREDICTION.set(None)


def seen() -> Predicted | None:
    """What was predicted last in this task; None where nothing was."""
    return _PREDICTION.get()


@dataclass(frozen=True)
class Point:
    """An operating point. A conversation plays `threshold` with probability `share`, else `cheap`.
    `rule` says whether the threshold is compared with rho - rho1 instead of the router's score."""

    name: str
    threshold: float | None
    note: str = ""
    cheap: float | None = None
    share: float = 1.0
    rule: bool = False
    problem: str = ""
    """Why the point cannot be served; empty where it can."""


@dataclass(frozen=True)
class Policy:
    """A router of a run, its versions, and its operating points by name."""

    router: str
    models: RouterModels
    training_seed: int
    points: Mapping[str, Point]
    default: str
    version: str = ""
    exploration: Exploration | None = None
    """What conversations at the default point may explore."""
    _watched: dict[bool, RouterModels] = field(default_factory=dict, repr=False)

    _built: LRUCache[tuple[bool, float | None], Router] = field(
        default_factory=lambda: LRUCache(_BUILT), init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        key = (self.router, self.training_seed)
        model = self.models.trained.get(key)
        for rule in (False, True):
            models = dict(self.models.trained)
            if model is not None:
                variant = replace(model, score="value") if rule else model
                models[key] = WatchedModel.of(variant)
            self._watched[rule] = replace(self.models, trained=models)

    def point(self, name: str | None) -> Point:
        """The operating point of a name, or the default one. Raises ApiError 400."""
        point = self.points.get(name or self.default)
        if point is None:
            names = ", ".join(item.name for item in self.points.values() if not item.problem)
            raise invalid(
                f"operating point {str(name)[:60]!r}: there is none; there are {names}",
                "r2v.operating_point",
                "unknown_operating_point",
            )
        if point.problem:
            raise invalid(f"operating point {point.name}: {point.problem}", "r2v.operating_point")
        return point

    def at(self, point: Point, conversation: str | None) -> tuple[Router, float | None]:
        """The router of a conversation at a point, and its threshold. A mix is drawn once a
        conversation, and so is a threshold that is explored; without a name nothing is drawn, and
        the likelier threshold of a mix is played."""
        threshold = point.threshold
        draw = 0.5 if conversation is None else rng_for("mix", conversation).random()
        if point.cheap is not None and draw >= point.share:
            threshold = point.cheap
        exploration = self.exploration if point.name == self.default else None
        if exploration is not None and conversation is not None:
            explored_threshold = exploration.drawn(conversation)
            threshold = threshold if explored_threshold is None else explored_threshold
        return self._router(point.rule, threshold), threshold

    def _router(self, rule: bool, threshold: float | None) -> Router:
        """A router keeps nothing of a request, so those of a threshold are one."""
        router = self._built.get((rule, threshold))
        if router is None:
            models = self._watched[rule]
            router = build_router(self.router, threshold, models, self.training_seed)
            self._built[rule, threshold] = router
        return router

    def design(self, point: Point) -> Design | None:
        """The thresholds that a conversation at the default point can be given. None at another
        point, which the caller chose, and where the score of the router is not what is compared."""
        if point.name != self.default or point.threshold is None or point.rule:
            return None
        cheap = [] if point.cheap is None else [(point.cheap, 1 - point.share)]
        design = Design.of([(point.threshold, 1 - sum(p for _, p in cheap)), *cheap])
        return design if self.exploration is None else design.explored(self.exploration)

    def explores(self, point: Point, threshold: float | None) -> bool:
        """Whether this threshold is none of the point's own."""
        may_explore = self.exploration is not None and point.name == self.default
        return may_explore and threshold not in (point.threshold, point.cheap)
