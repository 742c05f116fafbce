"""What an engine tells of itself, and what its owner makes of it.

Invariant: an engine is started again for a process that is gone, an error of its own, a deadline of
the configuration, or computing without one answer; being busy or slow to start is no reason. Pure:
no clock and no Ray here.
"""

from dataclasses import dataclass
from enum import StrEnum

STRIKES = 3
"""Probes in a row without a reply, after which a process counts as gone."""
STALLED_DEADLINES = 2.0
"""Deadlines of a request that pass without one answer of a computing engine, after which the engine
counts as stuck: every request of the first deadline has then failed."""


class State(StrEnum):
    """Where an engine's process is in its life."""

    EMPTY = "empty"
    STARTING = "starting"
    SERVING = "serving"
    ASLEEP = "asleep"
    FAILED = "failed"


@dataclass(frozen=True)
class Report:
    """An engine's reply to a probe. `tokens` are all that it has answered with since its start;
    `silent_s` is the time in seconds that it has computed without finishing an answer.
    """

    state: State
    version: str = ""
    tokens: int = 0
    computing: int = 0
    waiting: int = 0
    silent_s: float = 0.0
    problem: str = ""
    process: str = ""
    """Another one after a restart."""
    pid: int = 0


class Verdict(StrEnum):
    """What a replica needs."""

    NOTHING = "nothing"
    SERVE = "serve"
    RESTART = "restart"


@dataclass(frozen=True)
class Limits:
    """Deadlines in seconds: of one request, of a start, and of a change of weights."""

    request_s: float
    start_s: float
    load_s: float


@dataclass
class Watch:
    """What the probes of one replica have come to. `problem` says why it was to be restarted."""

    limits: Limits
    restarts: int = 0
    """Starts since the last progress."""
    missed: int = 0
    seen: bool = False
    """Whether the process has answered a probe."""
    tokens: int = 0
    problem: str = ""

    def judge(
        self,
        report: Report | None,
        wanted_version: str,
        start_took_s: float,
        outdated_s: float = 0.0,
    ) -> Verdict:
        """What a probe's reply asks for; None for a probe that was not answered in time.
        `start_took_s` is the time since the last start, and counts until the replica serves;
        `outdated_s` is the time that it has served another version than the one that is wanted.
        """
        if report is None:
            return self._silent(start_took_s)
        self.missed = 0
        self.seen = True
        if report.tokens != self.tokens:
            self.tokens = report.tokens
            self.restarts = 0
        if report.state is State.FAILED:
            return self._restart(report.problem)
        if report.state is State.EMPTY:
            return Verdict.SERVE
        if report.state is State.ASLEEP:
            return Verdict.NOTHING
        if report.state is State.STARTING:
            return self._late(start_took_s)
        silent_s = STALLED_DEADLINES * self.limits.request_s
        if report.computing and report.silent_s > silent_s:
            return self._restart(
                f"it computes {report.computing} requests and has answered none for "
                f"{report.silent_s:.0f} s"
            )
        if report.version == wanted_version:
            return Verdict.NOTHING
        if outdated_s > self.limits.load_s:
            return self._restart(
                f"it did not take the weights of {wanted_version} within {self.limits.load_s:g} s "
                f"(cluster.engine_load_deadline_s)"
            )
        return Verdict.SERVE

    def started(self) -> None:
        """A new process has taken the place of the one before."""
        self.restarts += 1
        self.missed = 0
        self.seen = False
        self.tokens = 0

    def _silent(self, start_took_s: float) -> Verdict:
        self.missed += 1
        if not self.seen:
            return self._late(start_took_s)  # it may wait for a place in the cluster
        if self.missed < STRIKES:
            return Verdict.NOTHING
        return self._restart(f"it did not answer {self.missed} probes in a row")

    def _late(self, start_took_s: float) -> Verdict:
        if start_took_s <= self.limits.start_s:
            return Verdict.NOTHING
        return self._restart(
            f"it did not start within {self.limits.start_s:g} s (cluster.engine_start_deadline_s)"
        )

    def _restart(self, problem: str) -> Verdict:
        self.problem = problem
        return Verdict.RESTART
