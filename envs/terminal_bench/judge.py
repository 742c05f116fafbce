"""The life of a machine around an agent: prepared before, judged after. Invariant: what judges is
not in the machine before the agent has ended, and whoever touches it while it judges has failed.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from envs.terminal_bench.dockerfile import Put
from envs.terminal_bench.machine import File, Machine
from envs.terminal_bench.observation import text_of
from envs.terminal_bench.offline import FAILED, PYTEST_SAID
from envs.terminal_bench.task import TerminalTask
from r2v_dist.errors import RuntimeFailure

SETUP_S = 120.0
_FOLDERS = ("/app", "/root", "/tmp", "/home", "/run", "/var/tmp", "/var/log", "/opt", "/logs/agent")
_ETC = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": b"127.0.0.1 localhost terminal\n::1 localhost\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    "/etc/hostname": b"terminal\n",
    "/root/.gitconfig": b"[user]\n\tname = root\n\temail = root@localhost\n"
    b"[init]\n\tdefaultBranch = main\n",
}
_FOLDERS_OF_TESTS = ("/tests", "/etc", "/etc/ssl")
_SAID = 600
_TICK_S = 0.011
"""The kernel's clock for files may have ticks of 10 ms, and two changes in one have one time."""


@dataclass(frozen=True)
class Verdict:
    """Whether the tests passed, and for a person what was said."""

    passed: bool
    said: str


def prepare(machine: Machine, task: TerminalTask) -> None:
    """Bring a fresh machine to where the agent begins. Raises RuntimeFailure where a step of the
    task's own set-up fails.
    """
    environment = dict(task.build.environment)
    if not machine.built:
        _build(machine, task, environment)
    machine.open_shell(task.build.folder, environment)


def _build(machine: Machine, task: TerminalTask, environment: dict[str, str]) -> None:
    """Do what the task's Dockerfile says."""
    machine.put({path: File(content) for path, content in _ETC.items()})
    machine.make_folders(_FOLDERS)
    for step in task.build.steps:
        if isinstance(step, Put):
            machine.put(step.files)
            continue
        result = machine.run(["/bin/bash", "-c", step.script], step.folder, environment, SETUP_S)
        if result.code != 0:
            output = text_of(result.output, _SAID)
            raise RuntimeFailure(f"task {task.name}: its set-up failed ({result.code}): {output}")


@contextmanager
def brought_along(machine: Machine, files: Mapping[str, File] | None) -> Iterator[None]:
    """The files of an oracle that is a program, in the machine for as long as it runs."""
    if files is None:
        yield
        return
    machine.put(files)
    yield
    machine.run(["/bin/rm", "-rf", "/solution"], "/", {}, SETUP_S)


def judge(machine: Machine, task: TerminalTask) -> Verdict:
    """Let the task's tests look at what the agent left."""
    if not task.keeps_processes:
        machine.end_processes()
    machine.freeze()  # who waits for the tests must not see them come
    machine.mend()
    removal = machine.run(["/bin/rm", "-rf", "/tests", "/logs/verifier"], "/", {}, SETUP_S)
    if removal.code != 0:
        return Verdict(False, f"/tests could not be removed\n{text_of(removal.output, _SAID)}")
    machine.put(task.tests)
    machine.make_folders(("/logs/verifier",))
    stamps_before = _stamps(machine, task)
    if not _in_place(machine, task):
        return Verdict(False, "the tests or the system were touched before the tests ran")
    time.sleep(_TICK_S)
    machine.thaw()
    environment = dict(task.build.environment) | {"TEST_DIR": "/tests"}
    environment |= task.test_environment
    script = ["/bin/bash", "-c", task.test_script]
    result = machine.run(script, task.build.folder, environment, task.test_s)
    output = text_of(result.output, _SAID)
    if result.code is None:
        return Verdict(False, f"the tests took longer than {task.test_s:g} s\n{output}")
    stamps_after = _stamps(machine, task)
    failed = stamps_after.pop(FAILED, None) != stamps_before.pop(FAILED, None)
    if failed and task.reward_file == PYTEST_SAID:  # other tasks say themselves what it means
        return Verdict(False, output)
    if stamps_after != stamps_before:
        return Verdict(False, f"the tests or the system were touched while the tests ran\n{output}")
    return Verdict(_passed(machine, task, result.code), output)


def _in_place(machine: Machine, task: TerminalTask) -> bool:
    """Whether the tests are there as they were put, with nothing beside them. Who touches them from
    here on is found out by the stamps, which were taken before; that all programs are frozen is no
    proof, as one can be woken by a timer of its own.
    """
    folders = {str(parent) for path in task.tests for parent in PurePosixPath(path).parents}
    inside = (path for path in machine.stamps("/tests") if path.startswith("/tests/"))
    strangers = [path for path in inside if path not in task.tests and path not in folders]
    return not strangers and machine.holds(task.tests)


def _stamps(machine: Machine, task: TerminalTask) -> dict[str, tuple[int, int]]:
    """The stamps of the tests' own files and of the system; what tests write beside them is
    theirs. Only tests of ours are known to write nothing in these folders.
    """
    stamps = machine.stamps("/tests")
    return {
        path: stamp
        for path, stamp in stamps.items()
        if path in task.tests
        or (not path.startswith("/tests/") and (task.needs_exit_0 or path not in _FOLDERS_OF_TESTS))
    }


def _passed(machine: Machine, task: TerminalTask, code: int) -> bool:
    if not task.reward_file:
        return code == 0
    return _reward(machine, task.reward_file) >= 1.0 and (code == 0 or not task.needs_exit_0)


def _reward(machine: Machine, path: str) -> float:
    """The number that tests left; without one, the least of those in the file of JSON beside it,
    of which one called `reward` counts alone; else 0.
    """
    content = machine.read(path)
    try:
        if content is not None:
            return float(content.decode("ascii").strip())
        rewards = json.loads(machine.read(str(PurePosixPath(path).with_suffix(".json"))) or "{}")
        return float(rewards["reward"] if "reward" in rewards else min(rewards.values()))
    except (ValueError, TypeError, AttributeError):
        return 0.0
