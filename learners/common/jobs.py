"""A learner's job, and how its ranks are run: when `run_job` returns, what was learned is published
whole, and what training left behind is gone.

Invariant: ranks of a driver that is superseded, which may live on where nobody reaches them,
publish nothing and log nothing.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from learners.common import remote_checkpoints
from learners.common.ray_train import run_ranks
from learners.common.remote_checkpoints import METRICS, NOTICES
from r2v_dist import files
from r2v_dist.config.learners import LearnerConfig
from r2v_dist.config.router import RouterConfig
from r2v_dist.errors import RuntimeFailure, warn
from r2v_dist.object_storage.mirror import at_hand
from r2v_dist.storage.fence import Fence


@dataclass(frozen=True, kw_only=True)
class LearnerJob:
    """What every learner is told.

    `stage` is the scratch folder of the job: a job that is started again goes on with what it
    finds there.
    """

    learner: ClassVar[str]
    """Names the learner in messages and in Ray Train."""
    proof: ClassVar[str]
    """The file that shows that an output is complete."""

    output: Path
    stage: Path
    seed: int
    config: LearnerConfig | RouterConfig
    fence: Fence | None = None
    """The driver's right to write; None where nobody else may write there."""

    @property
    def scratch(self) -> Path:
        """Where the output is written before it is published. No other driver writes there."""
        epoch = 0 if self.fence is None else self.fence.epoch
        return self.output.with_name(f"{self.output.name}.{epoch}.tmp")

    def require(self) -> None:
        """Raises Superseded where another driver has taken over."""
        if self.fence is not None:
            self.fence.require()


@dataclass(frozen=True, kw_only=True)
class ModelJob(LearnerJob):
    """What a learner is told that starts from a language model; `model` is its checkpoint, with its
    tokenizer.
    """

    model: str
    system_prompt: str
    report_to: tuple[str, ...] = ()
    """The trackers that are told of losses as training goes on, by Hugging Face's names."""
    template_settings: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template."""


Job = TypeVar("Job", bound=LearnerJob)


def run_job(job: Job, rank_function: Callable[[Job], None]) -> None:
    """Run `rank_function(job)` on every rank of Ray Train, and return when the output is complete.

    Raises what `run_ranks` raises, and RuntimeFailure when the ranks end without an output.
    """
    _run([job], partial(rank_function, job))


def run_jobs(jobs: Sequence[Job], rank_function: Callable[[Sequence[Job]], None]) -> None:
    """As `run_job`, for jobs that share their ranks, and so pay for the start of ranks once. The
    first job says how many ranks there are, and where they keep what they need.
    """
    _run(jobs, partial(rank_function, jobs))


def _run(jobs: Sequence[LearnerJob], loop: Callable[[], None]) -> None:
    first = jobs[0]
    fenced = partial(_on_node, jobs, partial(_on_rank, first, loop))
    try:
        run_ranks(fenced, first.config.deepspeed, first.learner, first.stage / "ray_train")
    except RuntimeFailure:
        first.require()  # where another driver has taken over, that is the cause
        raise
    for path in (first.stage / METRICS, first.stage / NOTICES):
        at_hand(path)
    for job in jobs:
        at_hand(job.output)
        if not (job.output / job.proof).is_file():
            raise RuntimeFailure(
                f"learner {job.learner}: it ended without {job.proof} in {job.output}"
            )
    for notice in files.read_json_lines(first.stage / NOTICES):
        warn(notice["text"])
    first.require()  # what is left behind may be what the ranks of another driver go on from
    left_behind = {first.stage / "checkpoints", *first.stage.glob("checkpoints*")}
    for job in jobs:
        left_behind |= set(job.output.parent.glob(f"{job.output.name}.*tmp"))
    for folder in left_behind:
        with contextlib.suppress(OSError):
            files.remove(folder)


def _on_rank(job: LearnerJob, loop: Callable[[], None]) -> None:
    job.require()
    loop()


def _on_node(jobs: Sequence[LearnerJob], loop: Callable[[], None]) -> None:
    """What a rank runs, with what its jobs name on its node. Where nodes share no storage, each
    fetches it from the address of the run, and the first rank leaves its notes there.
    """
    import torch.distributed

    for job in jobs:
        for path in _paths(job):
            at_hand(path)
    first = jobs[0]
    remote_checkpoints.fetch_last(first.stage)
    loop()
    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 0:
        remote_checkpoints.share_notes(first.stage)


def _paths(job: LearnerJob) -> list[Path]:
    """What a job reads, and what it may have written before."""
    values = [getattr(job, job_field.name) for job_field in fields(job)]
    paths = [value for value in values if isinstance(value, Path)]
    if isinstance(job, ModelJob):
        paths.append(Path(job.model))
    return [*paths, job.stage / METRICS, job.stage / NOTICES]
