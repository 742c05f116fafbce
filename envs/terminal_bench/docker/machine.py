"""A machine in a container. The image is the task's own: pulled, or built from its Dockerfile once.

It is as well isolated as the engine isolates: no network, limits on memory and processes. State is
reached again by replay only, and what an agent does to the system's own programs is not undone
before it is judged, as in the benchmark's own harness.
"""

import io
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from envs.terminal_bench.docker.engine import ANSWER_S, image_of
from envs.terminal_bench.docker.programs import (
    FIRST,
    KILL,
    PROGRAMS,
    STAMPS,
    WAITS,
    contents_of,
    follow,
    stamps_of,
)
from envs.terminal_bench.docker.services import Services
from envs.terminal_bench.docker.shell import COMMAND, ContainerShell
from envs.terminal_bench.machine import Came, File, MachineGone, Ran, Shown
from envs.terminal_bench.sandbox.shell import Output
from envs.terminal_bench.task import TerminalTask
from r2v_dist.errors import RuntimeFailure

T = TypeVar("T")
_KEEP_BYTES = 64 << 10
_GRACE_S = 5.0
_KILLED = 137
_MOST_STAMPS = 32 << 20
_PUT_AT_S = 1_685_577_600


class DockerMachine:
    """A container of a task. Raises RuntimeFailure where it cannot be made."""

    def __init__(self, api: Any, task: TerminalTask, memory_mib: int, processes: int) -> None:
        self.built = True
        self._api = api
        self._shell: ContainerShell | None = None
        self._variables = {"TERM": "xterm-256color", "PAGER": "cat", "GIT_PAGER": "cat"}
        self._folder = "/"
        self._container = ""
        self._services: Services | None = None
        image = self._engine(lambda: image_of(api, task.image, task.context))
        if task.services:
            self._services = self._engine(
                lambda: Services(api, task.services, memory_mib, processes)
            )
        limits = api.create_host_config(
            network_mode=self._services.network if self._services else "none",
            mem_limit=memory_mib << 20,
            pids_limit=processes,
            security_opt=["no-new-privileges"],
        )
        container = self._engine(
            lambda: api.create_container(
                image,
                [FIRST],
                entrypoint=["/bin/bash", "-c"],
                host_config=limits,
                networking_config=self._services.endpoint() if self._services else None,
                labels=["r2v"],
            )
        )
        self._container = container["Id"]
        self._engine(lambda: api.start(self._container))

    def put(self, files: Mapping[str, File]) -> None:
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as archive:
            for path, file in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode, entry.mtime = len(file.content), file.mode, _PUT_AT_S
                archive.addfile(entry, io.BytesIO(file.content))
        self._ask(lambda: self._api.put_archive(self._container, "/", raw.getvalue()))

    def make_folders(self, paths: Sequence[str]) -> None:
        self.run(["/bin/mkdir", "-p", *paths], "/", {}, ANSWER_S)

    def run(
        self, argv: Sequence[str], folder: str, environment: Mapping[str, str], wait_s: float
    ) -> Ran:
        # The engine has no deadline for a program.
        limited = ["timeout", "-s", "KILL", f"{wait_s:g}", *argv]
        output = Output(_KEEP_BYTES)
        code = self._execute(limited, folder, environment, wait_s + _GRACE_S, output)
        return Ran(None if code == _KILLED else code, output.kept())

    def _execute(
        self,
        argv: Sequence[str],
        folder: str,
        environment: Mapping[str, str],
        wait_s: float,
        output: Output,
        user: str = "",
    ) -> int | None:
        """The exit code of a program, None where it did not end in time."""
        execution = self._ask(
            lambda: self._api.exec_create(
                self._container,
                list(argv),
                environment=self._variables | dict(environment),
                workdir=folder,
                user=user,
            )
        )
        stream = self._ask(lambda: self._api.exec_start(execution["Id"], socket=True))
        deadline = time.monotonic() + wait_s
        try:
            ended = self._ask(lambda: follow(getattr(stream, "_sock", stream), output, wait_s))
        finally:
            stream.close()
        while ended and time.monotonic() < deadline:
            code = self._ask(lambda: self._api.exec_inspect(execution["Id"]))["ExitCode"]
            if code is not None:
                return int(code)
            time.sleep(0.01)  # it tells of the end of the output first
        return None

    def _signal_all(self, name: str) -> None:
        """A signal to every process but the first."""
        script = ["/bin/bash", "-c", f"kill -{name} -1"]
        # Not in `timeout`, which the signal would reach too.
        self._execute(script, "/", {}, ANSWER_S, Output(_KEEP_BYTES), user="0")

    def open_shell(self, folder: str, environment: Mapping[str, str]) -> None:
        self._variables |= dict(environment)
        self._folder = folder
        self._new_shell()

    def _new_shell(self) -> None:
        if self._shell is not None:
            self._shell.close()
        execution = self._ask(
            lambda: self._api.exec_create(
                self._container,
                COMMAND,
                stdin=True,
                tty=True,
                environment=self._variables,
                workdir=self._folder,
            )
        )
        stream = self._ask(lambda: self._api.exec_start(execution["Id"], tty=True, socket=True))
        self._shell = ContainerShell(getattr(stream, "_sock", stream), self._waits, self._kill)

    def _waits(self) -> bool:
        return self.run(["/bin/bash", "-c", WAITS], "/", {}, ANSWER_S).code == 0

    def _kill(self, process: str) -> None:
        self.run(["/bin/bash", "-c", KILL, "kill", process], "/", {}, ANSWER_S)

    def command(self, text: str, wait_s: float) -> Shown:
        shell = self._open()
        if shell.busy:
            return self.keys(text.encode("utf-8", "replace") + b"\n", wait_s)
        return self._act(lambda: shell.start(text), wait_s)

    def keys(self, typed: bytes, wait_s: float) -> Shown:
        shell = self._open()
        if not shell.busy:
            typed = b""  # the shell's own loop would read it
        return self._act(lambda: shell.type(typed), wait_s)

    def _act(self, begin: Callable[[], None], wait_s: float) -> Shown:
        shell = self._open()
        output = Output(_KEEP_BYTES)
        begin()
        outcome, code = shell.rest(output, wait_s if shell.busy else min(wait_s, 0.3))
        if not shell.busy and outcome is None:
            outcome = Came.ENDED
        if outcome is None:
            outcome, code = shell.interrupt(output), 130
        self._folder = shell.folder
        if outcome in (Came.SHELL_ENDED, Came.SHELL_KILLED):
            self._new_shell()
        return Shown(output.kept(), outcome, code, self._folder, None)

    def snapshot(self) -> bytes | None:
        return None

    def restore(self, snapshot: bytes) -> None:
        raise RuntimeFailure("a container has no snapshots to go back to")

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        output = Output(_MOST_STAMPS)
        argv = ["/bin/bash", "-c", STAMPS, "stamps", folder]
        code = self._execute(argv, "/", {}, ANSWER_S, output)
        if code is None or output.overflowed:
            raise MachineGone(f"{folder} has more files than can be looked at")
        return stamps_of(output.kept())

    def holds(self, files: Mapping[str, File]) -> bool:
        contents: dict[str, bytes] = {}
        for folder in {path.split("/")[1] for path in files}:
            contents |= self._contents(f"/{folder}")
        return all(contents.get(path) == file.content for path, file in files.items())

    def _contents(self, folder: str) -> dict[str, bytes]:
        parts, _ = self._ask(lambda: self._api.get_archive(self._container, folder))
        return self._ask(lambda: contents_of(parts))

    def read(self, path: str) -> bytes | None:
        result = self.run(["/bin/cat", path], "/", {}, ANSWER_S)
        return result.output if result.code == 0 else None

    def programs(self) -> list[str]:
        shell = "" if self._shell is None else self._shell.process
        output = Output(_KEEP_BYTES)
        argv = ["/bin/bash", "-c", PROGRAMS, "programs", shell]
        self._execute(argv, "/", {}, ANSWER_S, output)
        return output.kept().decode("utf-8", "replace").splitlines()

    def mend(self) -> None:
        return None

    def freeze(self) -> None:
        self._signal_all("STOP")

    def thaw(self) -> None:
        self._signal_all("CONT")

    def end_processes(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        self._signal_all("KILL")

    def close(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._container:
            container, self._container = self._container, ""
            self._engine(lambda: self._api.remove_container(container, force=True, v=True))
        if self._services is not None:
            services, self._services = self._services, None
            self._engine(services.close)

    def _open(self) -> ContainerShell:
        if self._shell is None:
            raise RuntimeFailure("a terminal's shell was used before it was opened")
        return self._shell

    def _ask(self, call: Callable[[], T]) -> T:
        """Raises MachineGone where the container has ended, RuntimeFailure for the engine."""
        try:
            return call()
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", None) in (404, 409):
                raise MachineGone(f"its container has ended: {error}") from error
            raise RuntimeFailure(f"the container engine failed: {error}") from error

    @staticmethod
    def _engine(call: Callable[[], T]) -> T:
        try:
            return call()
        # A boundary: the library raises what its transports raise.
        except Exception as error:
            raise RuntimeFailure(f"the container engine failed: {error}") from error
