"""Which coding tasks belong to which split."""

import os
from itertools import islice

from envs.coding.tasks import Dataset, task_ids
from envs.sandbox import Sandbox
from r2v_dist.config.env import SPLITS, EnvConfig, Split
from r2v_dist.config.places import named_path
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError
from r2v_dist.seeding import stable_hash

DEFAULT_SANDBOX = SandboxConfig()


def coding_tasks(config: EnvConfig, sandbox: SandboxConfig) -> list[Task]:
    """Which tasks a split has depends on their ids and the sizes only, so that every run of a
    benchmark means the same ones.
    """
    code = config.code
    sizes = config.splits
    kwargs: list[tuple[str, str | int | bool]] = [
        ("max_steps", config.max_steps),
        ("observation_chars", code.observation_chars),
    ]
    if data_dir := data_dir_of(config):
        kwargs.append(("data_dir", data_dir))
    Sandbox(
        warm=0, allow_weaker=sandbox.allow_weaker
    ).close()  # refuses here and now where programs must not run
    if sandbox != DEFAULT_SANDBOX:
        kwargs.append(("sandbox", sandbox.model_dump_json()))
    tasks = []
    for dataset, splits in pools(config):
        ids = sorted(
            task_ids(dataset, code.data_dir), key=lambda name: stable_hash("code-split", name)
        )
        asked = sum(getattr(sizes, split) for split in splits)
        if asked > len(ids):
            raise UsageError(
                f"env.splits: {' + '.join(splits)} ask for {asked} tasks where {dataset} has "
                f"{len(ids)}; lower the sizes"
            )
        rest = iter(ids)
        for split in splits:
            name = "r2v/MBPPPlus-v0" if dataset == "mbpp_plus" else "r2v/HumanEvalPlus-v0"
            tasks += [
                Task(i, split, name, (("task", i), *kwargs))
                for i in islice(rest, getattr(sizes, split))
            ]
    return tasks


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
