"""What the function of a stage works with."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2v_dist import files
from r2v_dist.config.run import RunConfig
from r2v_dist.episodes import Arm, Branch, Task, Unit
from r2v_dist.errors import DamagedFile, UsageError
from r2v_dist.files import write_atomically
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.pipeline.progress import Progress
from r2v_dist.router.registry import RouterModels
from r2v_dist.storage.run_dir import Manifest, RunDir, stage_name

if TYPE_CHECKING:
    from actors.totals import Totals
    from r2v_dist.pipeline.services import Services
    from r2v_dist.storage.checkpoints import Checkpoint
    from r2v_dist.storage.fence import Fence


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    config: RunConfig
    run: RunDir
    services: "Services"
    stage: str
    input_hash: str
    manifests: Mapping[str, Manifest]
    training_seed: int = 0

    @property
    def seed(self) -> int:
        """Of everything that is drawn or initialised in training."""
        return self.config.seed + self.training_seed

    @property
    def fence(self) -> "Fence | None":
        """As `RunDir.fence`."""
        return self.run.fence

    def own(self, stage: str) -> str:
        """The full name of this stage or of an earlier one, as it is done for this
        training seed.
        """
        name = stage_name(stage, self.training_seed)
        return name if name in (self.stage, *self.manifests) else stage

    def result(self, stage: str, name: str) -> Any:
        """A result of an earlier stage."""
        return self.manifests[self.own(stage)].results[name]

    def folder(self, stage: str) -> Path:
        """The files of this stage or of an earlier one."""
        return self.run.stage(self.own(stage))

    def rollouts(self, stage: str) -> Path:
        """The episodes of an earlier stage."""
        return self.run.rollouts(self.own(stage))

    def tasks(self, *splits: str) -> list[Task]:
        """The tasks of some splits."""
        from envs.tasks import at_hand

        config = self.config
        path = self.run.stage("tasks") / "tasks.json"
        try:
            stored_tasks = [_task(row) for row in files.read_json(path)]
        except (TypeError, KeyError) as error:
            raise DamagedFile(path, f"is no list of tasks ({error})") from None
        workers = config.cluster.num_cpus or os.cpu_count() or 1
        tasks = at_hand(stored_tasks, config.env, config.seed, workers, config.sandbox)
        # Where a game lies on this machine is of no use at an address.
        if tasks != stored_tasks and not mirrors.of(path):
            write_atomically(path, json.dumps([asdict(task) for task in tasks], indent=1))
        return [task for task in tasks if task.split in splits]

    def training_tasks(self, use: Literal["clone", "branch", "label"]) -> list[Task]:
        """The training tasks of a use: the first are cloned on, branches start from the next, the
        last are labelled. They are apart where there are enough, so that what is learned about the
        SLM is learned on tasks that are new to it.
        """
        config = self.config
        tasks = self.tasks("train")
        clone_tasks = tasks[: config.collect.tasks]
        if use == "clone":
            return clone_tasks
        if use == "label":
            return tasks[-config.labels.tasks :]
        start = max(0, min(len(clone_tasks), len(tasks) - config.branches.tasks))
        return tasks[start : start + config.branches.tasks]

    def checkpoint(self, stage: str) -> "Checkpoint":
        """The model that an earlier stage published."""
        from r2v_dist.storage.checkpoints import published

        folder = self.run.root / self.result(stage, "checkpoint")
        return published(folder, self.result(stage, "version"))

    def policy(self) -> "Checkpoint":
        """The SLM that is deployed."""
        from r2v_dist.pipeline.stages import publisher

        stage = publisher(self.config, "slm")
        return self.services.base_checkpoint() if stage is None else self.checkpoint(stage)

    def verifier(self) -> "Checkpoint | None":
        """The verifier that is deployed, None where the run has none."""
        from r2v_dist.storage.checkpoints import Checkpoint

        config = self.config.verifier
        if config is None:
            return None
        return (
            self.checkpoint("verifier")
            if config.kind == "trained"
            else Checkpoint("", config.version)
        )

    def deploy(
        self, models: RouterModels | None = None, policy: "Checkpoint | None" = None
    ) -> Callable[..., Arm]:
        """Have policy (None: the deployed one), verifier and routers ready on the runners. The
        function that comes back makes arms of (router, threshold).
        """
        policy = policy or self.policy()
        verifier = self.verifier()
        teacher = self.services.teacher_version()
        self.services.load_slm(policy)
        self.services.deploy(verifier, models or RouterModels())

        def arm(router: str, threshold: float | None = None) -> Arm:
            return Arm(
                router,
                threshold,
                policy.version,
                teacher,
                self.training_seed,
                verifier.version if verifier else "",
            )

        return arm

    def unit(
        self, task: Task, z: int | None, arms: Iterable[Arm] = (), branches: Iterable[Branch] = ()
    ) -> Unit:
        """A unit of work of this stage."""
        return Unit(self.stage, self.input_hash, task, z, 0, tuple(arms), tuple(branches))

    def roll_out(self, units: list[Unit]) -> dict[str, Any]:
        """Play what is not committed yet, and show how it goes. Raises UsageError when there is
        nothing to play.
        """
        from r2v_dist.pipeline.progress import success_summary

        if not units:
            raise UsageError(
                f"stage {self.stage} has no tasks: give env.splits or env.files the split it needs"
            )
        progress = Progress(self.stage)

        def show(totals: "Totals", total: int) -> None:
            rate = totals.steps / max(1e-9, time.monotonic() - start_s)
            tokens = totals.sampled_tokens / max(1e-9, time.monotonic() - start_s)
            success = totals.successes / max(1, totals.episodes)
            progress.update(
                totals.units,
                total,
                f"{totals.episodes} episodes, {rate:.0f} steps/s, {tokens:.0f} tokens/s, success "
                f"{success:.0%}",
            )

        start_s = time.monotonic()
        totals = self.services.roll_out(units, self.run.rollouts(self.stage), show)
        summary = success_summary(self.run.rollouts(self.stage))
        judge_note = ""
        if totals.judge_retries or totals.judge_malformed:
            judge_note = (
                f"judge asked again {totals.judge_retries} times, "
                f"{totals.judge_malformed} states left undecided; "
            )
        calls = f"{totals.engine_calls} of {totals.asked} model calls made; "
        progress.close(
            f"{totals.episodes} episodes, {totals.steps} steps, {calls}{judge_note}{summary.text}"
        )
        self.services.log_totals(self.stage, asdict(totals))
        return {"episodes": summary.episodes}


def _task(row: dict[str, Any]) -> Task:
    arguments = tuple(map(tuple, row["env_kwargs"]))
    return Task(row["id"], row["split"], row["env"], arguments)
