"""Owns a run's processes: Ray, engines, env runners, collectors, scorers. Each is started when a
stage first needs it and ended with the run.

`cluster.executor` decides where they are: under Ray, in processes; inline, in this one, and then
nothing here imports Ray.
"""

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from actors.metrics import Meter
from cluster import resources
from r2v_dist import files
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.episodes import Unit
from r2v_dist.pipeline.model_sources import answers_as, for_engines, local_folder
from r2v_dist.pipeline.progress import Progress, watched
from r2v_dist.pipeline.stage_meter import StageMeter
from r2v_dist.router.registry import RouterModels
from r2v_dist.storage.metrics_log import last_row
from r2v_dist.storage.model_identity import checkpoint_version
from r2v_dist.storage.run_dir import RunDir
from r2v_dist.storage.timeline import Timeline

if TYPE_CHECKING:
    from actors.runners import Runners
    from actors.stage_loop import OnProgress
    from actors.totals import Totals
    from actors.verifier.client import ScorerHandle
    from actors.vllm.server_handle import ModelServer
    from learners.common.scoring import ScoreRows
    from r2v_dist.storage.checkpoints import Checkpoint


class Services:
    """Ray, vLLM engines, env runners, collector and scorer of one run."""

    def __init__(self, config: RunConfig, run: RunDir, stack: contextlib.ExitStack) -> None:
        self._config = config
        self._run = run
        self._stack = stack
        self._verifier: Checkpoint | None = None
        self._scorers: list[ScorerHandle] | None = None
        self._logs = run.root / "logs"
        self.inline = config.cluster.executor == "inline"
        self._meter = Meter(config.name, config.cluster.metrics.enabled and not self.inline)
        self._stages = StageMeter(self._meter)
        self._timeline = Timeline(run.root)
        stack.callback(self._timeline.end_all)

    def cores(self) -> int:
        """Processes to start for CPU-bound work on this machine."""
        return self._config.cluster.num_cpus or os.cpu_count() or 1

    def base_checkpoint(self) -> "Checkpoint":
        """The SLM before training. `scratch` gets random weights, made once a run."""
        from r2v_dist.storage.checkpoints import Checkpoint

        slm = self._config.slm
        if slm.backend != "vllm":
            return Checkpoint("", answers_as(slm))
        if slm.model == "scratch":
            return self._scratch
        path = local_folder(slm.model, "slm.model")
        return Checkpoint(path, checkpoint_version("base", Path(path)))

    def teacher_version(self) -> str:
        """What the teacher's answers are stored under."""
        teacher = self._config.teacher
        return (
            checkpoint_version("teacher", Path(local_folder(teacher.model, "teacher.model")))
            if teacher.backend == "vllm"
            else answers_as(teacher)
        )

    def load_slm(self, checkpoint: "Checkpoint") -> None:
        """Have the SLM server answer with this checkpoint; loads in place where it already runs."""
        if server := self._servers.get("slm"):
            server.load(for_engines(checkpoint, self._config, self._run.fence))
            server.wait()

    def start_early(self) -> None:
        """Start engines and runners without waiting for them: they come up while games are
        generated.

        Raises UsageError before anything is started where a game file cannot be played.
        """
        if self._config.env.files:
            from envs.textworld.check import check_games

            check_games(self._config.env.files, self._config.env.cache)
        self._runners

    def deploy(self, verifier: "Checkpoint | None", models: RouterModels) -> None:
        """From here on this verifier picks among the SLM's candidates, and these trained routers
        can be named.
        """
        from actors.env_runner import Deployment
        from actors.verifier.client import ScorerHandle
        from actors.verifier.server import start_verifier

        config = self._config.verifier
        if (
            verifier is not None
            and verifier != self._verifier
            and config is not None
            and config.kind == "trained"
        ):
            actors = start_verifier(verifier.path, verifier.version, config)
            gpus = config.replicas * resources.gpu_share(config.gpu_memory_utilization)
            self._timeline.begin("verifier", config.replicas, gpus=gpus)
            self._scorers = [ScorerHandle(actor) for actor in actors]
        self._verifier = verifier
        self._runners.deploy(
            Deployment(config if verifier else None, self._scorers if verifier else None, models)
        )

    def roll_out(self, units: list[Unit], folder: Path, on_progress: "OnProgress") -> "Totals":
        """Run the units that are not committed yet."""
        from actors.dispatcher import roll_out_with

        slm_acts = any(arm.router != "teacher_only" for unit in units for arm in unit.played)

        def start() -> "Runners":
            runners = self._runners
            for role, server in self._servers.items():
                if role == "teacher" or slm_acts:
                    server.wait()
                    self._timeline.ready(f"{role} engine")
            return runners

        models = [self._config.teacher, *([self._config.slm] if slm_acts else [])]
        limits = [model.requests_at_once for model in models if model.backend == "vllm"]
        cluster = self._config.cluster.holding(max(limits, default=None))
        tell = self._stages.units_of(folder.name, on_progress)
        with self._stages.running(folder.name):
            return roll_out_with(start, units, folder, cluster, tell, self._run.lease)

    @contextlib.contextmanager
    def learner_progress(self, name: str, metrics: Path, ranks: int) -> Iterator[None]:
        """See to it that the ranks can start and find GPUs, and show what the learner logs while
        the block runs.

        Args:
            ranks: those that take a GPU each where models run on GPUs; 0 for a router.
        """
        self._session
        progress = Progress(name)
        if self.inline:
            yield  # no thread writes over a debugger's prompt
        else:
            self._make_room(ranks)
            stage = metrics.parent.name
            tell = partial(self._stages.learned, stage)
            self._timeline.begin("learner", *self._asked_by(ranks))
            with self._stages.running(stage), watched(metrics, progress, tell):
                yield
            self._timeline.end("learner")
        row = last_row(metrics)
        progress.close(
            f"{row['of']} steps, loss {row['loss']:.4f}" if row else "too few steps to log a loss"
        )

    def scoring(self, learner: str, deepspeed: DeepSpeedConfig) -> "ScoreRows":
        """What computes scores of table rows with a model, where the ranks of this learner
        compute, or in this process in an inline run.
        """
        from learners.common.scoring import OnCluster, in_this_process

        self._session
        if self.inline:
            return in_this_process
        self._make_room(1)
        return OnCluster(learner, deepspeed)

    def log_totals(self, stage: str, totals: dict[str, int]) -> None:
        """Keep the account of a rollout stage."""
        files.append_json_line(self._run.stage(stage) / "metrics.jsonl", totals)

    def _asked_by(self, ranks: int) -> tuple[int, float, float]:
        """How many ranks of a learner there are, and the cores and GPUs that they ask for; 0 ranks
        are those of a router.
        """
        router = self._config.router
        count = ranks or (1 if router is None else router.deepspeed.ranks)
        return count, count, resources.gpu_share(ranks)

    def _make_room(self, ranks: int) -> None:
        """End engines, scorer and runners where they hold GPUs that the ranks need, or with
        `cluster.phases: sleep` have the engines sleep; what is asked next starts or wakes them.
        """
        if "_servers" not in self.__dict__:
            return
        bundles = resources.rollout_bundles(
            self._config, resources.decided().gpus, resources.nodes()
        )
        if not resources.must_make_room(ranks, bundles):
            return
        if runners := self.__dict__.pop("_runners", None):
            runners.stop()
        if self._config.cluster.phases == "sleep":
            for server in self._servers.values():
                server.sleep()
        else:
            for server in self.__dict__.pop("_servers").values():
                server.stop()
            for role in ("slm", "teacher"):
                self._timeline.end(f"{role} engine")
        self._verifier = self._scorers = None  # a scorer ends with its last handle
        self._timeline.end("verifier")
        self._timeline.end("env runner")

    @cached_property
    def _session(self) -> None:
        """Whatever has to be there before anything is started."""
        if self.inline:
            from cluster.guard import interruptible

            self._stack.enter_context(interruptible())
            return
        from cluster.session import ray_session

        self._stack.enter_context(ray_session(self._config.cluster, self._logs))
        self._config = resources.as_decided(self._config)
        resources.share_gpus(self._config)
        self._run.write_config(self._config)

    @cached_property
    def _servers(self) -> "dict[str, ModelServer]":
        """The model servers of this run by role, starting."""
        self._session
        if self.inline:
            return {}
        from actors.vllm.server_handle import ModelServer
        from r2v_dist.storage.checkpoints import Checkpoint

        servers = {}
        config = self._config
        resources.require_placement(config)
        if config.slm.backend == "vllm":
            servers["slm"] = ModelServer(
                "slm",
                config.slm,
                self.base_checkpoint(),
                config.cluster,
                adapter_rank=config.adapter_rank,
                meter=self._meter,
            )
        if config.teacher.backend == "vllm":
            path = local_folder(config.teacher.model, "teacher.model")
            checkpoint = Checkpoint(path, self.teacher_version())
            servers["teacher"] = ModelServer(
                "teacher", config.teacher, checkpoint, config.cluster, meter=self._meter
            )
        for role, server in servers.items():
            self._stack.callback(server.stop_watch)  # before Ray ends
            count = server.config.replicas
            gpus = count * resources.gpu_share(server.config.gpus)
            self._timeline.begin(f"{role} engine", count, gpus=gpus)
        return servers

    @cached_property
    def _runners(self) -> "Runners":
        from actors.env_runner import RunnerSetup
        from envs.own import EnvSource

        config = self._config
        servers = self._servers
        setup = RunnerSetup(
            slm=config.slm,
            teacher=config.teacher,
            slm_tokenizer=self.base_checkpoint().path,
            teacher_tokenizer=local_folder(config.teacher.model, "teacher.model")
            if config.teacher.backend == "vllm"
            else "",
            perturb=config.perturb,
            unit_timeout_s=config.cluster.unit_timeout_s,
            engine_wait_s=config.cluster.engine_start_deadline_s,
            env_deadline_s=config.cluster.env_deadline_s,
            environment=EnvSource.of(config.env.kind),
            sandbox=config.sandbox,
        )
        self._timeline.begin("env runner", config.cluster.runners, cpus=config.cluster.runners)
        if self.inline:
            from actors.local_runners import LocalRunners

            return self._stack.enter_context(LocalRunners(setup, config.cluster.runners))
        from actors.runner_group import RunnerGroup

        return RunnerGroup(
            setup,
            servers.get("slm"),
            servers.get("teacher"),
            config.cluster,
            self._logs,
            meter=self._meter,
        )

    @cached_property
    def _scratch(self) -> "Checkpoint":
        from learners.common.scratch import make_scratch
        from r2v_dist.storage.checkpoints import Checkpoint

        path = self._run.checkpoint("slm", "scratch")
        if not path.is_dir():
            make_scratch(path, self._config.seed)
        return Checkpoint(str(path.resolve()), checkpoint_version("scratch", path))
