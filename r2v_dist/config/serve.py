"""The gateway's part of a run's configuration. No key decides what a run learns or reports."""

from typing import Literal, Self

from pydantic import Field, model_validator

from r2v_dist.config.base import Section

_LONGEST_S = 1e6


class UpstreamConfig(Section):
    """How the gateway asks a teacher that is an endpoint (`teacher.backend: openai`)."""

    retries: int = Field(2, ge=0, le=10)
    """Most further requests after one that failed before its first byte. Nothing is asked again
    once a byte of an answer has come, nor after silence: what is silent may be at work."""
    backoff_s: float = Field(0.25, ge=0, le=60)
    """Wait before the first retry, in seconds; it doubles, and half of it is drawn by chance. What
    the endpoint asks for in `Retry-After` counts instead."""
    connect_s: float = Field(5.0, gt=0, le=_LONGEST_S)
    """Deadline for the connection, in seconds."""
    first_byte_s: float = Field(60.0, gt=0, le=_LONGEST_S)
    """Deadline from the request to the first byte of the answer, in seconds."""
    between_bytes_s: float = Field(30.0, gt=0, le=_LONGEST_S)
    """Longest silence within an answer, in seconds."""
    total_s: float = Field(600.0, gt=0, le=_LONGEST_S)
    """Deadline of a request with all its retries, in seconds."""
    breaker_failures: int = Field(5, ge=1, le=10_000)
    """Failures in a row after which the endpoint is left alone. Answers 4xx are no failures."""
    breaker_rest_s: float = Field(10.0, gt=0, le=_LONGEST_S)
    """How long it is left alone, in seconds; then one request tries it."""
    connections: int = Field(512, ge=1, le=100_000)
    """Most connections at a time."""


class PriceConfig(Section):
    """Prices in any one currency, per million tokens. They decide nothing; answers, log and page
    state costs by them."""

    slm: float = Field(0.0, ge=0, le=1e9)
    """A token that the SLM generates; all K candidates count."""
    slm_prompt: float = Field(0.0, ge=0, le=1e9)
    """A prompt token of the SLM."""
    teacher: float = Field(0.0, ge=0, le=1e9)
    """A token that the teacher generates."""
    teacher_prompt: float = Field(0.0, ge=0, le=1e9)
    """A prompt token of the teacher."""


class ExploreConfig(Section):
    """Thresholds by chance, so that the request log tells what other thresholds would come to
    (`r2v estimate`)."""

    rate: float = Field(0.0, ge=0, le=1)
    """Share of the conversations at the default operating point that play a threshold of
    `thresholds` in its place; each is drawn once a conversation."""
    thresholds: tuple[float, ...] | None = Field(None, min_length=1)
    """Thresholds that are explored, each in an equal share; null takes those that validation
    played."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Seed of the draws. With equal seeds a conversation draws the same threshold again."""


class ServeConfig(Section):
    """`r2v serve`: the gateway in front of agents."""

    router: str = "r2v"
    """The router that decides; any that the run has a model and a threshold for."""
    training_seed: int = Field(0, ge=0, le=99)
    """The training seed whose models are served."""
    operating_point: str = "selected"
    """The operating point of a request that names none. docs/gateway.md lists them."""
    threshold: float | None = None
    """A threshold of the operator's, which becomes the operating point `own` and the default; null
    leaves `operating_point` the default."""
    explore: ExploreConfig = ExploreConfig()
    max_steps: int | None = Field(None, ge=1, le=1_000_000)
    """Step limit of the agents, which the feature `t_share` counts against; null takes the run's
    `env.max_steps` where its tasks have one."""
    max_teacher_calls: int | None = Field(None, ge=0, le=1_000_000_000)
    """Most teacher calls of a conversation; null for no limit. A request may set less."""
    max_teacher_calls_per_key: int | None = Field(None, ge=0, le=1_000_000_000)
    """Most teacher calls of an API key since the gateway started; null for no limit."""
    when_teacher_fails: Literal["slm", "refuse"] = "slm"
    """What happens at an escalation when the teacher does not answer: the SLM's candidate, which is
    at hand, acts and the answer is flagged (`slm`), or the request gets a 503 (`refuse`)."""
    shadow: Literal["slm", "teacher"] | None = None
    """The side that answers while the router is only watched: its decision is computed, logged and
    shown, and not followed. null: the router decides."""
    upstream: UpstreamConfig = UpstreamConfig()
    prices: PriceConfig = PriceConfig()
    slm_deadline_s: float = Field(120.0, gt=0, le=_LONGEST_S)
    """Deadline of the SLM's proposal, and of its scores, in seconds."""
    ping_after_s: float = Field(10.0, gt=0, le=_LONGEST_S)
    """A stream without a byte gets a comment after so many seconds, so that nobody between hangs
    up."""
    state_entries: int = Field(100_000, ge=16, le=100_000_000)
    """Answers whose state is remembered, and that feedback may be about, the latest; about 1 KB
    each."""
    body_mib: float = Field(16.0, gt=0, le=1024)
    """Largest body of a request."""
    keys_env: str = "R2V_GATEWAY_KEYS"
    """Environment variable with the keys of callers, separated by commas. A gateway beyond loopback
    needs one."""
    admin_keys_env: str = "R2V_GATEWAY_ADMIN_KEYS"
    """Environment variable with the keys that may also force the teacher and raise budgets. Where
    no keys are set at all, every caller may."""
    grace_s: float = Field(10.0, ge=0, le=12)
    """How long answers under way may take after SIGTERM, in seconds; a process that holds engines
    is ended 15 s after the signal."""
    otel: bool = False
    """Whether every answer is an OpenTelemetry span; the standard `OTEL_*` variables of the
    environment say where spans go."""
    otel_messages: bool = False
    """Whether spans hold the text of messages too."""
    log: bool = True
    """Whether requests are logged in `gateway/` of the run directory."""

    @model_validator(mode="after")
    def _as_certified(self) -> Self:
        rate = self.explore.rate
        if self.threshold is not None and self.operating_point not in ("selected", "own"):
            raise ValueError(
                f"threshold = {self.threshold:g}: the default would be {self.operating_point} and "
                f"own; leave one out"
            )
        if rate and self.operating_point == "certified":
            raise ValueError(
                f"explore.rate = {rate:g}: what is certified explores nothing; set "
                f"serve.operating_point=selected or serve.explore.rate=0"
            )
        if rate and not self.log:
            raise ValueError(
                f"explore.rate = {rate:g}: without a request log nobody learns from it; set "
                f"serve.log=true or serve.explore.rate=0"
            )
        return self
