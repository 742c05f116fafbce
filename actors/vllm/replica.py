"""One engine of a role as the driver sees it: its actor, its place, and what its watch knows.

The methods change what two threads read; their caller holds the lock of the role.
"""

import time
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayError

from actors.ray_errors import died, first_cause, usage_error
from actors.vllm.engine import Site
from actors.vllm.health import Limits, Report, State, Verdict, Watch
from actors.vllm.placement import place_engine
from actors.vllm.server import HEALTH_GROUP, MakeEngine, engine_actor
from cluster import resources
from cluster.post_mortem import Place, place_at, said_by_now, words_later
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import UsageError, warn
from r2v_dist.storage.checkpoints import Checkpoint


class Replica:
    """`name` is how messages call it, `metrics_name` how vLLM's metrics do, where they are on."""

    def __init__(
        self,
        name: str,
        metrics_name: str,
        number: int,
        config: ModelConfig,
        cluster: ClusterConfig,
        make: MakeEngine,
        adapter_rank: int,
    ) -> None:
        self.name = name
        self._place = place_engine(config)
        sleeps = cluster.phases == "sleep"
        vllm = cluster.metrics.enabled and cluster.metrics.vllm
        recorded_name = metrics_name if vllm else ""
        site = Site(number, self._place.across_nodes, adapter_rank, sleeps, recorded_name)
        self.actor = engine_actor(config, site, self._place.options, make)
        self.watch = Watch(
            Limits(
                config.timeout_s, cluster.engine_start_deadline_s, cluster.engine_load_deadline_s
            )
        )
        self.serves = ""
        """The version that the process is known to answer with; empty where it does not."""
        self.restarts = 0
        self._failed_starts = 0
        """Starts in a row that came to nothing, other than by the death of the process."""
        self._asleep = False
        self._process = ""
        self._lives_at: Place | None = None
        self._words: Future[str] | None = None
        """The last log lines of the process that ended last."""
        self.said = "it waits for its place in the cluster"
        """What is known of it, for messages."""
        self._orders = 0
        """Calls of `serve` and `sleep` so far; the engine follows the latest."""
        self.serving: Any = None
        """The last call of `serve`, until it has ended."""
        self.probe: Any = None
        self.report: Report | None = None
        """The reply to the last probe; None where it was not answered in time."""
        self._begun = time.monotonic()
        self._current = self._begun
        """When it last did not serve an outdated version."""

    def serve(self, checkpoint: Checkpoint) -> None:
        """Have it start, wake, or replace its weights, without waiting for it."""
        self._orders += 1
        self.serving = self.actor.serve.remote(
            checkpoint.path, checkpoint.version, checkpoint.adapter, self._orders
        )

    def sleep(self) -> Any:
        """Have it give its memory back, without waiting for it. A start that is under way comes
        first.
        """
        self.serves = ""
        self.serving = None
        self._asleep = True
        self._orders += 1
        return self.actor.sleep.remote(self._orders)

    def wake(self, checkpoint: Checkpoint) -> None:
        """Have it serve again; its time to start begins now."""
        self._begun = time.monotonic()
        self._asleep = False
        self.serve(checkpoint)

    def settle(self) -> UsageError | None:
        """Take note of how the last call of `serve` ended, if it has; what our own code refused."""
        if self.serving is None or not ray.wait([self.serving], timeout=0)[0]:
            return None
        call = self.serving
        self.serving = None
        try:
            self.serves = ray.get(call)
        except RayError as error:
            self.said = first_cause(error)
            if self.serves and not died(error):
                self.restart(f"it cannot replace its weights: {self.said}")
            return usage_error(error)
        self._failed_starts = 0
        return None

    def ask_health(self) -> Any:
        """The probe that is under way; sent now where there was none."""
        if self.probe is None:
            self.probe = self.actor.health.options(concurrency_group=HEALTH_GROUP).remote()
        return self.probe

    def judge(self, wanted_version: str) -> Verdict:
        """What the reply to the probe asks for, or its absence."""
        if self.probe is None:
            return Verdict.NOTHING  # it was restarted meanwhile
        try:
            report = self._reply()
        except RayError as error:
            self.report = None
            self.said = first_cause(error)
            if not died(error):
                self.watch.problem = self.said
                return Verdict.RESTART
            if self.watch.seen:
                self._began_anew(self.said)
            return Verdict.NOTHING
        self.report = report
        if report is not None:
            self.said = report.problem or f"it is {report.state}"
            if self._process not in ("", report.process):
                self._began_anew("its process ended")
            if self._process != report.process:
                self._lives_at = place_at(self.actor, report.pid)
            self._process = report.process
        now = time.monotonic()
        if report is None or report.state is not State.SERVING or report.version == wanted_version:
            self._current = now
        return self.watch.judge(report, wanted_version, now - self._begun, now - self._current)

    def restart(self, problem: str) -> None:
        """End its process; Ray starts another one in the same place."""
        ray.kill(self.actor, no_restart=False)
        self._failed_starts += not (self.serves or self._asleep)
        self._began_anew(problem)

    def hopeless(self, limit: int) -> str:
        """Why it is not started again; empty where it is. `limit` restarts may get no answer."""
        # What raised while it started will raise again; one more try is for what passes. A process
        # that was killed says nothing about the next one.
        if self._failed_starts > min(1, limit):
            return self.told(f"did not start: {self.said}")
        if self.watch.restarts > limit:
            return self.told(
                f"ended {self.watch.restarts} times without an answer in between: {self.said}"
            )
        return ""

    def stop(self) -> None:
        """End its process for good and give its place back."""
        ray.kill(self.actor)
        self._place.give_back()

    def told(self, reason: str) -> str:
        """The reason, with the last log lines of the process that does not serve, or that ended
        last.
        """
        words = self._read_log() or self._words
        return "\n".join(filter(None, [reason, said_by_now(words)]))

    def _read_log(self) -> "Future[str] | None":
        if self._lives_at is None:
            return None
        role = self.name.removeprefix("the ")
        return words_later(self._lives_at, role, resources.decided().logs)

    def _reply(self) -> Report | None:
        if not ray.wait([self.probe], timeout=0)[0]:
            return None
        probe = self.probe
        self.probe = None
        report: Report = ray.get(probe)
        return report

    def _began_anew(self, problem: str) -> None:
        self.said = problem
        self.restarts += 1
        place_note = f" ({self._lives_at.process})" if self._lives_at else ""
        warn(f"{self.name} is started again ({self.restarts}): {problem}{place_note}")
        self._words = self._read_log() or self._words
        self._lives_at = None
        self.watch.started()
        self._process = ""
        self.serves = ""
        self.serving = None
        self.probe = None
        self._begun = time.monotonic()
