"""What a stage of the pipeline is, and what its function works with."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from r2v_dist.config import RunConfig
from r2v_dist.episodes import Arm, Branch, Task, Unit
from r2v_dist.errors import UsageError
from r2v_dist.progress import Progress
from r2v_dist.run_dir import Manifest, RunDir

if TYPE_CHECKING:
    from actors.rollout import Totals
    from actors.servers import Checkpoint
    from r2v_dist.crew import Crew


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    config: RunConfig
    run: RunDir
    crew: "Crew"
    stage: str
    input_hash: str
    manifests: Mapping[str, Manifest]

    def result(self, stage: str, name: str) -> Any:
        """A result of an earlier stage."""
        return self.manifests[stage].results[name]

    def tasks(self, *splits: str) -> list[Task]:
        """The tasks of some splits."""
        rows = json.loads((self.run.stage("tasks") / "tasks.json").read_text())
        return [Task(**{**row, "env_kwargs": tuple(map(tuple, row["env_kwargs"]))}) for row in rows if row["split"] in splits]

    def checkpoint(self, stage: str) -> "Checkpoint":
        """The model that an earlier stage published."""
        from actors.servers import Checkpoint

        return Checkpoint(str((self.run.root / self.result(stage, "checkpoint")).resolve()), self.result(stage, "version"))

    def unit(self, task: Task, z: int | None, arms: Iterable[Arm] = (), branches: Iterable[Branch] = ()) -> Unit:
        """A unit of work of this stage."""
        return Unit(self.stage, self.input_hash, task, z, 0, tuple(arms), tuple(branches))

    def roll_out(self, units: list[Unit]) -> dict[str, Any]:
        """Play what is not committed yet, and show how it goes. Raises UsageError when there is nothing to play."""
        from r2v_dist.evaluation import success_summary

        if not units:
            raise UsageError(f"stage {self.stage} has no tasks: give env.splits or env.files the split it needs")
        progress = Progress(self.stage)

        def show(totals: "Totals", total: int) -> None:
            rate = totals.steps / max(1e-9, time.monotonic() - started)
            tokens = totals.sampled_tokens / max(1e-9, time.monotonic() - started)
            won = totals.successes / max(1, totals.episodes)
            progress.update(
                totals.units, total, f"{totals.episodes} episodes, {rate:.0f} steps/s, {tokens:.0f} tokens/s, success {won:.0%}"
            )

        started = time.monotonic()
        totals = self.crew.roll_out(units, self.run.rollouts(self.stage), show)
        summary = success_summary(self.run.rollouts(self.stage))
        progress.close(
            f"{totals.episodes} episodes, {totals.steps} steps, {totals.engine_calls} of {totals.asked} model calls made; " + summary.text
        )
        self.crew.log_totals(self.stage, asdict(totals))
        return {"episodes": summary.episodes}


@dataclass(frozen=True)
class Stage:
    """`content` is the part of the configuration that decides the stage's outcome; `needs` are the stages it reads."""

    name: str
    needs: tuple[str, ...]
    content: Callable[[RunConfig], Any]
    run: Callable[[Context], dict[str, Any]]
