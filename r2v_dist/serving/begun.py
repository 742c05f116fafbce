"""A request on its way to an answer: everything that is known of it in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from r2v_dist.chat import Turn
from r2v_dist.router.step_context import StepContext
from r2v_dist.serving.answers import Completion
from r2v_dist.serving.conversation import Conversation
from r2v_dist.serving.policy import Point, Predicted
from r2v_dist.serving.step import ServedStep, StepOutcome
from r2v_dist.serving.teacher_reply import Heard
from r2v_dist.serving.wire import ChatRequest


@dataclass(frozen=True)
class Caller:
    """Who asks: the name of the API key, not the key; `admin` may force and raise."""

    name: str = ""
    admin: bool = True


@dataclass
class Begun:
    """A request whose route is decided. Afterwards it is what log and page are told."""

    chat: ChatRequest
    caller: Caller
    session: str
    conversation: Conversation
    context: StepContext
    point: Point
    threshold: float | None
    step: ServedStep
    outcome: StepOutcome
    predicted: Predicted | None
    uncalibrated: tuple[str, ...]
    started: float
    overhead_ms: float
    heard: Heard = field(default_factory=Heard)
    completion: Completion | None = None
    status: str = "begun"
    """At the end `served`, `cancelled`, `truncated`, `refused` (nothing fits the request) or
    `failed`."""
    state: bytes = b""
    """The hash of the conversation with the answer."""
    usage: dict[str, int] = field(default_factory=dict)
    id: str = ""
    """The completion's id."""

    carrier: Mapping[str, str] = field(default_factory=dict)
    """The headers in which the caller names its trace."""
    action: Turn | None = None
    """What was said, as later turns see it."""

    @property
    def risk(self) -> float | None:
        """The residual risk of the step; None where no router predicted one."""
        return None if self.predicted is None else self.predicted.risk

    @property
    def dry(self) -> bool:
        """Whether this leaves no trace."""
        return bool(self.chat.controls.dry_run)

    @property
    def drawn_by(self) -> str:
        """What names the conversation where its threshold is drawn."""
        return self.session or self.conversation.opening.hex()

    @property
    def route(self) -> str:
        """Who answers."""
        return self.outcome.decision.actor
