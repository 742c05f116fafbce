"""Which coding tasks belong to which split."""

import os
from itertools import islice

from envs.coding.benchmark_files import Dataset
from envs.coding.benchmark_files import identity as content
from envs.coding.tasks import task_ids
from envs.sandbox import Sandbox
from envs.spec import TaskRequest
from r2v_dist.config.env import SPLITS, EnvConfig, Split
from r2v_dist.config.places import CACHE_VARIABLE, cache_folder, named_path, require_writable
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError
from r2v_dist.seeding import stable_hash

HUMANEVAL = "r2v/HumanEvalPlus-v0"
MBPP = "r2v/MBPPPlus-v0"
_SAMPLE_STEPS = 60


def make_tasks(request: TaskRequest) -> list[Task]:
    """Which tasks a split has depends on their ids and the sizes only, so that every run of a
    benchmark means the same ones.
    """
    config = request.config
    # Refuses here and now where programs must not run.
    Sandbox(warm=0, allow_weaker=request.sandbox.allow_weaker).close()
    arguments = _arguments(config, request.sandbox)
    tasks = []
    for dataset, splits in pools(config):
        ids = sorted(
            task_ids(dataset, config.code.data_dir),
            key=lambda name: stable_hash("code-split", name),
        )
        count = sum(getattr(config.splits, split) for split in splits)
        if count > len(ids):
            raise UsageError(
                f"env.splits: {' + '.join(splits)} ask for {count} tasks where {dataset} has "
                f"{len(ids)}; lower the sizes"
            )
        remaining_ids = iter(ids)
        for split in splits:
            for name in islice(remaining_ids, getattr(config.splits, split)):
                tasks.append(Task(name, split, _env_of(dataset), (("task", name), *arguments)))
    return tasks


def check_tasks(request: TaskRequest) -> None:
    """Raises UsageError where there cannot be such tasks, or nowhere to keep what they come to."""
    make_tasks(request)
    require_writable(cache_folder("code"), CACHE_VARIABLE)


def identity(config: EnvConfig) -> dict[str, str]:
    """Digests of the benchmarks' files."""
    return {dataset: content(dataset, config.code.data_dir) for dataset, _ in pools(config)}


def in_place(task: Task, config: EnvConfig) -> bool:
    """Whether the task's benchmark is read where the configuration says now."""
    return dict(task.env_kwargs).get("data_dir", "") == data_dir_of(config)


def sample(dataset: Dataset) -> list[Task]:
    """All tasks of a dataset."""
    arguments = ("max_steps", _SAMPLE_STEPS)
    return [
        Task(name, "check", _env_of(dataset), (("task", name), arguments))
        for name in task_ids(dataset)
    ]


def _env_of(dataset: Dataset) -> str:
    return MBPP if dataset == "mbpp_plus" else HUMANEVAL


def _arguments(
    config: EnvConfig, sandbox: SandboxConfig
) -> tuple[tuple[str, str | int | bool], ...]:
    """What every task's environment is made with."""
    arguments: list[tuple[str, str | int | bool]] = [
        ("max_steps", config.max_steps),
        ("observation_chars", config.code.observation_chars),
    ]
    if config.code.protocol != "tools":
        arguments.append(("protocol", config.code.protocol))
    if data_dir := data_dir_of(config):
        arguments.append(("data_dir", data_dir))
    if sandbox != SandboxConfig():
        arguments.append(("sandbox", sandbox.model_dump_json()))
    return tuple(arguments)


def data_dir_of(config: EnvConfig) -> str:
    """Where the benchmarks are, empty for a download; other nodes need not know the variable."""
    if config.code.source != "evalplus":
        return ""
    directory = config.code.data_dir or os.environ.get("R2V_DATA_DIR", "")
    return str(named_path(directory, "R2V_DATA_DIR").absolute()) if directory else ""


def pools(config: EnvConfig) -> list[tuple[Dataset, tuple[Split, ...]]]:
    """Where the tasks of the splits come from."""
    if config.code.source == "shipped":
        return [("shipped", SPLITS)]
    return [("mbpp_plus", ("train", "validation", "calibration")), ("humaneval_plus", ("test",))]
