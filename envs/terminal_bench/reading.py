"""A task folder of either layout: v1 (`task.yaml`) and v2, Harbor's (`task.toml`)."""

from collections.abc import Mapping
from pathlib import Path

from envs.terminal_bench.layout_v1 import read_v1
from envs.terminal_bench.layout_v2 import read_v2
from envs.terminal_bench.machine import File
from envs.terminal_bench.task import TerminalTask
from r2v_dist.errors import UsageError


def is_task(folder: Path) -> bool:
    """Whether a folder is a task's."""
    return (folder / "task.toml").is_file() or (folder / "task.yaml").is_file()


def read_task(name: str, files: Mapping[str, File]) -> TerminalTask:
    """The task of a folder's files. Raises UsageError where they are no task's."""
    if "task.toml" in files:
        return read_v2(name, files)
    if "task.yaml" in files:
        return read_v1(name, files)
    raise UsageError(f"task {name}: neither task.toml nor task.yaml is there; name a task's folder")
