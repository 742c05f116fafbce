"""A machine in a container. The image is the task's own: pulled, or built from its Dockerfile once.

It is as well isolated as the engine isolates: no network, limits on memory and processes. State is
reached again by replay only, and what an agent does to the system's own programs is not undone
before it is judged, as in the benchmark's own harness.
"""

import hashlib
import io
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from envs.terminal_bench.docker.shell import COMMAND, ContainerShell
from envs.terminal_bench.machine import Came, File, MachineGone, Ran, Shown
from envs.terminal_bench.sandbox.shell import Output
from envs.terminal_bench.task import TerminalTask
from r2v_dist.errors import RuntimeFailure, UsageError

T = TypeVar("T")
_KEEP_BYTES = 64 << 10
_ANSWER_S = 60
_BUILD_S = 1800
_KILLED = 137
_PUT_AT_S = 1_685_577_600
_WAITS = (
    'for p in /proc/[0-9]*; do read -r call fd rest < $p/syscall && [ "$call" = 0 ] && '
    "case $(readlink $p/fd/$((fd))) in /dev/pts/*) "
    "[ \"$(tr '\\0' ' ' < $p/cmdline | head -c 9)\" = '/bin/bash' ] || exit 0;; esac; done 2>/dev/null; exit 1"
)
_KILL = (
    'all=$1; found=$1; while [ -n "$found" ]; do next=; for p in /proc/[0-9]*; do '
    "read -r line < $p/stat 2>/dev/null || continue; line=${line##*) }; set -- $line; "
    'case " $found " in *" $2 "*) next="$next ${p##*/}";; esac; done; all="$all $next"; found=$next; '
    "done; kill -9 $all"
)
"""A process and everything that descends from it."""


def client(address: str) -> Any:
    """The engine's client; an empty address means DOCKER_HOST or the usual socket. Raises UsageError
    where there is no engine.
    """
    try:
        import docker
    except ImportError:
        raise UsageError(
            "env.terminal.backend = docker: the package docker is not installed; "
            "pip install 'r2v-dist[docker]'"
        ) from None
    try:
        settings = {"base_url": address} if address else {}
        api = docker.APIClient(**settings, version="auto", timeout=_ANSWER_S)
        api.ping()
    # A boundary: the library raises what its transports raise.
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"env.terminal.backend = docker: no engine answers at {address or 'DOCKER_HOST'} ({said}); "
            f"start one, or set env.terminal.backend: sandbox"
        ) from None
    return api


class DockerMachine:
    """A container of a task. Raises RuntimeFailure where it cannot be made."""

    def __init__(self, api: Any, task: TerminalTask, memory_mib: int, processes: int) -> None:
        self.built = True
        self._api = api
        self._shell: ContainerShell | None = None
        self._variables = {"TERM": "xterm-256color", "PAGER": "cat", "GIT_PAGER": "cat"}
        self._folder = "/"
        self._container = ""
        image = self._engine(lambda: _image_of(api, task))
        limits = api.create_host_config(
            network_mode="none",
            mem_limit=memory_mib << 20,
            pids_limit=processes,
            init=True,
            security_opt=["no-new-privileges"],
        )
        made = self._engine(
            lambda: api.create_container(
                image, ["infinity"], entrypoint=["sleep"], host_config=limits, labels=["r2v"]
            )
        )
        self._container = made["Id"]
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
        self.run(["/bin/mkdir", "-p", *paths], "/", {}, _ANSWER_S)

    def run(
        self, argv: Sequence[str], folder: str, environment: Mapping[str, str], wait_s: float
    ) -> Ran:
        # The engine has no deadline for a program.
        limited = ["timeout", "-s", "KILL", f"{wait_s:g}", *argv]
        variables = self._variables | dict(environment)
        made = self._ask(
            lambda: self._api.exec_create(
                self._container, limited, environment=variables, workdir=folder
            )
        )
        output = Output(_KEEP_BYTES)
        for part in self._ask(lambda: self._api.exec_start(made["Id"], stream=True)):
            output.add(part)
        code = self._ask(lambda: self._api.exec_inspect(made["Id"]))["ExitCode"]
        return Ran(None if code in (None, _KILLED) else int(code), output.kept())

    def open_shell(self, folder: str, environment: Mapping[str, str]) -> None:
        self._variables |= dict(environment)
        self._folder = folder
        self._new_shell()

    def _new_shell(self) -> None:
        if self._shell is not None:
            self._shell.close()
        made = self._ask(
            lambda: self._api.exec_create(
                self._container,
                COMMAND,
                stdin=True,
                tty=True,
                environment=self._variables,
                workdir=self._folder,
            )
        )
        stream = self._ask(lambda: self._api.exec_start(made["Id"], tty=True, socket=True))
        self._shell = ContainerShell(getattr(stream, "_sock", stream), self._waits, self._kill)

    def _waits(self) -> bool:
        return self.run(["/bin/bash", "-c", _WAITS], "/", {}, _ANSWER_S).code == 0

    def _kill(self, process: str) -> None:
        self.run(["/bin/bash", "-c", _KILL, "kill", process], "/", {}, _ANSWER_S)

    def command(self, text: str, wait_s: float) -> Shown:
        shell = self._open()
        if shell.busy:
            return self.keys(text.encode("utf-8", "replace") + b"\n", wait_s)
        return self._act(lambda: shell.start(text), wait_s)

    def keys(self, typed: bytes, wait_s: float) -> Shown:
        shell = self._open()
        return self._act(lambda: shell.type(typed), wait_s)

    def _act(self, begin: Callable[[], None], wait_s: float) -> Shown:
        shell = self._open()
        output = Output(_KEEP_BYTES)
        begin()
        came, code = shell.rest(output, wait_s if shell.busy else min(wait_s, 0.3))
        if not shell.busy and came is None:
            came = Came.ENDED
        if came is None:
            came, code = shell.interrupt(output), 130
        self._folder = shell.folder
        if came in (Came.SHELL_ENDED, Came.SHELL_KILLED):
            self._new_shell()
        return Shown(output.kept(), came, code, self._folder, None)

    def snapshot(self) -> bytes | None:
        return None

    def restore(self, snapshot: bytes) -> None:
        raise RuntimeFailure("a container has no snapshots to go back to")

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        script = f"find {shlex.quote(folder)} -printf '%i %C@ %p\\0'"
        listed = self.run(["/bin/bash", "-c", script], "/", {}, _ANSWER_S).output
        found = {}
        for line in listed.decode("utf-8", "replace").split("\0"):
            number, _, rest = line.partition(" ")
            changed, _, path = rest.partition(" ")
            if path:
                found[path] = (int(number), int(float(changed) * 1e6))
        return found

    def read(self, path: str) -> bytes | None:
        ran = self.run(["/bin/cat", path], "/", {}, _ANSWER_S)
        return ran.output if ran.code == 0 else None

    def mend(self) -> None:
        return None

    def freeze(self) -> None:
        return None

    def thaw(self) -> None:
        return None

    def end_processes(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        self.run(["/bin/bash", "-c", "kill -9 -1"], "/", {}, _ANSWER_S)

    def close(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._container:
            container, self._container = self._container, ""
            self._engine(lambda: self._api.remove_container(container, force=True, v=True))

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


def _image_of(api: Any, task: TerminalTask) -> str:
    """The name of the task's image, pulled or built if it is not there."""
    if task.image:
        if not api.images(name=task.image):
            for line in api.pull(task.image, stream=True, decode=True):
                _demand(line)
        return task.image
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, file in sorted(task.context.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    name = f"r2v-terminal:{hashlib.sha256(raw.getvalue()).hexdigest()[:16]}"
    if not api.images(name=name):
        raw.seek(0)
        for line in api.build(
            fileobj=raw, custom_context=True, tag=name, rm=True, decode=True, timeout=_BUILD_S
        ):
            _demand(line)
    return name


def _demand(line: Mapping[str, Any]) -> None:
    """Raises RuntimeFailure where a line of the engine's report is an error."""
    if "error" in line:
        raise RuntimeFailure(" ".join(str(line["error"]).split())[:300])
