"""Where a task and a machine come from, by what a configuration or a task's arguments say."""

from functools import lru_cache
from pathlib import Path

from envs.terminal_bench.docker.engine import client
from envs.terminal_bench.docker.machine import DockerMachine
from envs.terminal_bench.machine import Machine
from envs.terminal_bench.own.catalogue import folder_of
from envs.terminal_bench.reading import read_task
from envs.terminal_bench.sandbox.machine import SandboxMachine
from envs.terminal_bench.sandbox.options import Root
from envs.terminal_bench.sandbox.size import Size
from envs.terminal_bench.task import TerminalTask, read_folder
from r2v_dist.config.terminal import TerminalConfig


@lru_cache(maxsize=64)
def task_for(place: str) -> TerminalTask:
    """The task of a folder (a path with a slash), or FAMILY@SEED of the project's own."""
    if "/" in place:
        return read_task(Path(place).name, read_folder(Path(place)))
    return read_task(place, folder_of(place))


def machine_for(task: TerminalTask, config: TerminalConfig) -> Machine:
    """A fresh machine of the configured back end."""
    if config.backend == "docker":
        api = client(config.engine)
        return DockerMachine(api, task, config.memory_mib, config.processes)
    size = Size(config.memory_mib, config.disk_mib, config.processes)
    return SandboxMachine(Root(config.root), size)
