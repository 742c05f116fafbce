"""What a program may count on in a sandbox, and what its caller may count on afterwards."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from envs.sandbox import Completed, Ending, Isolation, Limits, Sandbox, isolation, probe, seccomp
from envs.sandbox.deadline import BACKSTOP
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.errors import UsageError
from tests.sandboxes import LIMITS, require_bubblewrap, starved_sandbox, survivors


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    require_bubblewrap()
    with Sandbox(LIMITS, warm=2) as sandbox:
        yield sandbox


def said(completed: Completed) -> str:
    """Standard output of a program that went well."""
    assert (completed.ending, completed.returncode) == (Ending.EXITED, 0), completed
    return completed.stdout.decode()


def test_output_errors_and_status_come_back_as_from_a_plain_interpreter(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    source = (
        "import sys\nprint('out', input(), sys.argv[1:], __name__)\n"
        "print('err', file=sys.stderr)\ndef f():\n    return 1 / 0\nf()"
    )
    (tmp_path / "main.py").write_text(source)
    ours = sandbox.run(source, b"in\n")
    plain = subprocess.run(
        [sys.executable, "-I", "main.py"],
        input=b"in\n",
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert ours.stdout == plain.stdout == b"out in [] __main__\n"
    assert ours.stderr.replace(b"/tmp/main.py", b"main.py") == plain.stderr.replace(
        bytes(tmp_path) + b"/", b""
    )
    assert (ours.ending, ours.returncode) == (Ending.EXITED, plain.returncode)


@pytest.mark.parametrize(
    ("source", "ending", "returncode"),
    [
        ("pass", Ending.EXITED, 0),
        ("exit(3)", Ending.EXITED, 3),
        ("import sys; sys.exit('no')", Ending.EXITED, 1),
        ("import os; os._exit(137)", Ending.EXITED, 137),
        ("import os; os.kill(os.getpid(), 9)", Ending.SIGNALLED, -9),
        ("import os; os.abort()", Ending.SIGNALLED, -signal.SIGABRT),
        ("def f(:", Ending.EXITED, 1),
        ("x = bytearray(1 << 30)", Ending.MEMORY, 1),
        ("raise KeyboardInterrupt", Ending.EXITED, 1),
        ("while True: print('x' * 1000)", Ending.OUTPUT_LIMIT, None),
        ("import time; time.sleep(9)", Ending.TIMEOUT, None),
        (
            "import atexit, threading; atexit.register(print, 'bye'); threading.Timer(0.05, "
            "print, 'x').start()",
            Ending.EXITED,
            0,
        ),
    ],
)
def test_every_ending_has_its_name(
    sandbox: Sandbox, source: str, ending: Ending, returncode: int | None
) -> None:
    completed = sandbox.run(
        source, limits=replace(LIMITS, wall_s=1.0 if "sleep" in source else 8.0)
    )
    assert (completed.ending, completed.returncode) == (ending, returncode), completed
    assert completed.stdout.endswith(b"bye\n") or "atexit" not in source


def test_limits_of_a_run_replace_those_of_the_sandbox(sandbox: Sandbox) -> None:
    source = "import resource as r\n"
    source += (
        "print([r.getrlimit(k)[0] for k in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_NOFILE, "
        "r.RLIMIT_FSIZE, r.RLIMIT_CORE)])"
    )
    assert said(sandbox.run(source)) == f"{[256 << 20, 4, 64, 16 << 20, 1]}\n"
    limits = Limits(memory_mib=512, cpu_s=1.5, open_files=20, file_mib=2)
    assert said(sandbox.run(source, limits=limits)) == f"{[512 << 20, 2, 20, 2 << 20, 1]}\n"
    space = "import os; s = os.statvfs('/tmp'); print(s.f_blocks * s.f_frsize >> 20)"
    assert [said(sandbox.run(space)), said(sandbox.run(space, limits=limits))] == ["64\n", "8\n"]


def test_output_is_cut_at_its_limit_in_each_stream(sandbox: Sandbox) -> None:
    completed = sandbox.run(
        "import sys\nprint('ok'); sys.stderr.write('e' * 5000); sys.stderr.flush()",
        limits=replace(LIMITS, output_kib=4),
    )
    assert (completed.ending, completed.stdout, completed.stderr) == (
        Ending.OUTPUT_LIMIT,
        b"ok\n",
        b"e" * 4096,
    )
    exactly = sandbox.run("print('x' * 4095)", limits=replace(LIMITS, output_kib=4))
    assert (exactly.ending, len(exactly.stdout)) == (Ending.EXITED, 4096)


def test_what_was_printed_before_a_time_limit_is_kept(sandbox: Sandbox) -> None:
    completed = sandbox.run(
        "import time\nprint('so far')\ntime.sleep(60)", limits=replace(LIMITS, wall_s=2.0)
    )
    assert (completed.ending, completed.stdout) == (Ending.TIMEOUT, b"so far\n")
    assert 2.0 <= completed.wall_s < 4.0


def test_a_busy_machine_does_not_change_how_a_program_ends() -> None:
    require_bubblewrap()
    spin = (
        "import time\nend = time.process_time() + {}\n"
        "while time.process_time() < end: pass\nprint('done')"
    )
    with starved_sandbox(busy=8) as sandbox:
        completed = sandbox.run(spin.format(0.3), limits=replace(LIMITS, wall_s=1.0))
        assert said(completed) == "done\n"
        assert completed.wall_s > 1.0  # else it was not starved, and nothing is shown
        assert (
            sandbox.run("import time; time.sleep(60)", limits=replace(LIMITS, wall_s=0.5)).ending
            == Ending.TIMEOUT
        )


def test_a_program_that_starves_itself_ends(sandbox: Sandbox) -> None:
    source = "import os\nfor _ in range(8):\n    if os.fork() == 0: break\nwhile True: pass"
    completed = sandbox.run(source, limits=replace(LIMITS, wall_s=0.5, cpu_s=600))
    assert completed.ending == Ending.TIMEOUT
    assert completed.wall_s < 5.0


STARVING_UNSEEN = """
import os, time
def burn(until):
    children = []
    for _ in range(12):
        child = os.fork()
        if not child:
            while time.monotonic() < until + 1: pass
            os._exit(0)
        children.append(child)
    while time.monotonic() < until: pass
    for child in children: os.kill(child, 9)
    for child in children: os.waitpid(child, 0)
os.sched_setaffinity(0, {0})
began = time.monotonic()
look = began + WALL
while time.monotonic() - began < 8:
    burn(look - 0.2 * WALL)
    while time.monotonic() < look + 0.03: time.sleep(0.005)
    waited = int(open("/proc/self/schedstat").read().split()[1]) / 1e9
    look = max(began + WALL + waited, time.monotonic() + 0.05)
"""


def test_a_program_that_starves_itself_while_nobody_looks_ends(sandbox: Sandbox) -> None:
    wall_s = 1.5
    source = STARVING_UNSEEN.replace("WALL", repr(wall_s))
    completed = sandbox.run(source, limits=replace(LIMITS, wall_s=wall_s, cpu_s=600))
    assert completed.ending == Ending.TIMEOUT
    assert completed.wall_s < 5.0  # it would go on for 8


@pytest.mark.parametrize(
    "rest", ["os.sched_yield()", "time.sleep(1e-6)", "os.sched_yield(); time.process_time()"]
)
def test_no_program_has_the_machine_blamed(rest: str) -> None:
    """On a busy machine each of these waits nearly all of its time, because it wants to."""
    require_bubblewrap()
    with starved_sandbox(busy=6) as sandbox:
        completed = sandbox.run(
            f"import os, time\nwhile True: {rest}", limits=replace(LIMITS, wall_s=0.3)
        )
        assert completed.ending in (Ending.TIMEOUT, Ending.CPU_LIMIT)
        assert completed.wall_s < 0.3 * BACKSTOP + 2


@pytest.mark.parametrize("mode", ["0", "os.O_DIRECT"])
def test_crumbs_cost_this_side_less_than_the_program(sandbox: Sandbox, mode: str) -> None:
    source = (
        f"import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | {mode})\n"
        "for _ in range(200_000): os.write(1, b'x')"
    )
    before = time.process_time()
    completed = sandbox.run(source, limits=replace(LIMITS, wall_s=2.0))
    assert completed.ending in (Ending.EXITED, Ending.TIMEOUT)
    assert time.process_time() - before < 0.7 * completed.wall_s


def test_files_input_and_a_large_source_arrive(sandbox: Sandbox) -> None:
    files = {"data/a.bin": bytes(range(256)) * 4000, "helper.py": b"value = 7"}
    source = f"# {'x' * 300_000}\nimport helper, os, sys\n"
    source += (
        "print(os.getcwd(), sorted(os.listdir()), os.stat('data/a.bin').st_size, helper.value)\n"
    )
    source += (
        "data = sys.stdin.buffer.read(); print(len(data), sum(data))\nopen('mine', 'w').write('x')"
    )
    assert (
        said(sandbox.run(source, b"\x01" * 500_000, files))
        == f"/tmp/work ['data', 'helper.py'] {256 * 4000} 7\n500000 500000\n"
    )
    assert (
        said(sandbox.run("import os; print(os.listdir(), os.listdir('/tmp'))"))
        == "[] ['main.py', 'work']\n"
    )


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
def test_a_file_outside_the_directory_is_the_callers_mistake(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match="inside the working directory"):
        sandbox.run("pass", files={name: b""})


def test_a_program_is_a_function_of_its_input(sandbox: Sandbox) -> None:
    """Even what usually differs between two processes does not: hashes, addresses, process numbers,
    the environment.
    """
    source = (
        "import os, sys\n"
        "print({'a', 'b', 'c'}, hash('x'), object(), os.getpid(), os.environ, "
        "os.uname().nodename, sys.path, id(len))"
    )
    assert len({said(sandbox.run(source)) for _ in range(4)}) == 1


def test_only_the_standard_library_can_be_imported(sandbox: Sandbox) -> None:
    source = (
        "import asyncio, ctypes, decimal, json, multiprocessing, re, sqlite3, statistics\n"
        "print(asyncio.run(asyncio.sleep(0, 'ok')))"
    )
    assert said(sandbox.run(source)) == "ok\n"
    assert b"ModuleNotFoundError" in sandbox.run("import numpy").stderr


def test_children_and_threads_of_a_program_work(sandbox: Sandbox) -> None:
    source = (
        "import multiprocessing as m, subprocess\n"
        "with m.Pool(2) as p: print(p.map(abs, [-1, -2]))\n"
    )
    assert (
        said(
            sandbox.run(
                source + "print(subprocess.run(['echo', 'hi'], capture_output=True).stdout)"
            )
        )
        == "[1, 2]\nb'hi\\n'\n"
    )


def test_no_program_meets_another_one(sandbox: Sandbox) -> None:
    source = "import os, builtins\nprint(os.listdir('.'), hasattr(builtins, 'mark'))\n"
    source += "builtins.mark = 1; open('mark', 'w'); os.fork() or os.setsid()"
    with ThreadPoolExecutor(4) as threads:
        assert {said(each) for each in threads.map(lambda _: sandbox.run(source), range(12))} == {
            "[] False\n"
        }


def test_many_at_once_each_get_their_own_answer(sandbox: Sandbox) -> None:
    async def all_of_them() -> list[Completed]:
        return await asyncio.gather(
            *(sandbox.arun(f"print({n} ** 2 + int(input()))", str(n).encode()) for n in range(40))
        )

    assert [said(each) for each in asyncio.run(all_of_them())] == [
        f"{n * n + n}\n" for n in range(40)
    ]


def test_waiting_programs_do_not_block_the_event_loop(sandbox: Sandbox) -> None:
    async def both() -> tuple[int, Completed]:
        program = asyncio.ensure_future(sandbox.arun("import time; time.sleep(0.5)"))
        turns = 0
        while not program.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns, await program

    turns, completed = asyncio.run(both())
    assert turns > 10
    assert said(completed) == ""


def test_a_sandbox_that_died_waiting_is_replaced() -> None:
    require_bubblewrap()
    with Sandbox(LIMITS, warm=1) as sandbox:
        box = sandbox._warm[0].result()
        box.wait_ready()
        os.killpg(box._process.pid, signal.SIGKILL)
        time.sleep(0.1)
        assert said(sandbox.run("print('fine')")) == "fine\n"


def test_nothing_of_a_sandbox_is_root_or_can_become_it() -> None:
    require_bubblewrap()
    before = os.getresuid(), os.getresgid(), os.getgroups()
    with Sandbox(LIMITS, warm=1) as sandbox:
        box = sandbox._warm[0].result()
        box.wait_ready()
        for process in (box._process.pid, box._namespace.first):
            status = dict(
                line.split(":\t")
                for line in Path(f"/proc/{process}/status").read_text().splitlines()
            )
            assert "0" not in (status["Uid"] + "\t" + status["Gid"]).split("\t")
            assert "0" not in status["Groups"].split()
            assert status["NoNewPrivs"] == "1"
            kept = (
                ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")
                if os.geteuid() == 0 or process == box._namespace.first
                else ("CapEff",)
            )
            assert {status[name] for name in kept} == {"0" * 16}
        assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


def test_a_waiting_sandbox_is_in_its_control_groups() -> None:
    require_bubblewrap()
    hierarchy = isolation.means().hierarchy
    if hierarchy is None:
        pytest.skip("no control groups here")
    with Sandbox(LIMITS, warm=1) as sandbox:
        box = sandbox._warm[0].result()
        box.wait_ready()
        assert box._group is not None
        for folder in box._group._folders.values():
            members = {int(number) for number in (folder / "cgroup.procs").read_text().split()}
            assert members == {box._process.pid, box._namespace.first}


def test_nothing_is_left_after_close() -> None:
    require_bubblewrap()
    descriptors, groups = len(os.listdir("/proc/self/fd")), _groups()
    with Sandbox(LIMITS, warm=3) as sandbox:
        namespace = said(
            sandbox.run(
                "import os; print(os.readlink('/proc/self/ns/pid')); os.fork() or os.setsid()"
            )
        ).split()[0]
        assert isolation.means().hierarchy is None or len(_groups()) > len(groups)
    assert survivors(namespace) == []
    assert _groups() == groups
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(RuntimeError):
        sandbox.run("pass")


def test_no_zombie_is_left_to_the_first_process_of_the_host() -> None:
    """Closed while it waits or still starts: bubblewrap collects its own child."""
    require_bubblewrap()
    for pause_s in (0.0, 0.01, 0.3):
        with Sandbox(LIMITS, warm=3) as sandbox:
            boxes = [future.result() for future in sandbox._warm]
            time.sleep(pause_s)
        assert all(
            box._namespace.first > 0 and not Path(f"/proc/{box._namespace.first}").exists()
            for box in boxes
        )


def _groups() -> list[Path]:
    hierarchy = isolation.means().hierarchy
    """Control groups of this process, those of the module's shared sandbox included."""
    return [
        group
        for _, folder in (hierarchy.folders if hierarchy else ())
        for group in folder.glob(f"r2v-{os.getpid()}-*")
    ]


def test_programs_die_with_the_process_that_runs_them(tmp_path: Path) -> None:
    """Even when it is killed: the running program, its daemon, and the interpreter that waits."""
    require_bubblewrap()
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import threading, time\nfrom envs.sandbox import Sandbox\nsandbox = Sandbox(warm=2)\n"
        "program = 'import os, time\\nos.fork() or os.setsid()\\ntime.sleep(60)'\n"
        "threading.Thread(target=sandbox.run, args=(program,), "
        "daemon=True).start()\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, parent], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    descendants: list[psutil.Process] = []
    while (
        len(descendants) < 2 + 2 + 2
    ):  # two of bubblewrap, two interpreters, the program and its daemon
        assert time.monotonic() < deadline
        time.sleep(0.1)
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(descendants, timeout=20)
    assert (len(gone) >= 6, alive) == (True, [])


def test_probe_says_what_is_in_force() -> None:
    require_bubblewrap()
    found = probe()
    assert found.level == "bubblewrap"
    assert "no network" in found.detail
    assert ("seccomp" in found.detail) == (
        seccomp.program() is not None
    ) or "no seccomp" in found.detail


def test_weak_isolation_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = isolation.Means(Isolation("rlimits", "bubblewrap is not installed"), None)
    monkeypatch.setattr("envs.sandbox.sandbox.means", lambda: weak)
    with pytest.raises(
        UsageError, match=r"sandbox\.allow_weaker = false.*bubblewrap is not installed"
    ):
        Sandbox()
    with Sandbox(LIMITS, allow_weaker=True) as sandbox:
        assert (
            said(sandbox.run("import os; print(input(), os.listdir())", b"x", {"a": b""}))
            == "x ['a']\n"
        )
        assert (
            sandbox.run("while True: pass", limits=replace(LIMITS, wall_s=0.5)).ending
            == Ending.TIMEOUT
        )
        assert sandbox.run("x = bytearray(1 << 30)").ending == Ending.MEMORY
        assert sandbox.run("import os; os.kill(os.getpid(), 11)").returncode == -11


def test_no_isolation_at_all_is_never_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "envs.sandbox.sandbox.means", lambda: isolation.Means(Isolation("none", "not Linux"), None)
    )
    with pytest.raises(UsageError, match="not Linux"):
        Sandbox(allow_weaker=True)


def test_limits_follow_the_configuration() -> None:
    assert Limits.of(SandboxConfig()) == Limits()
    assert Limits.of(SandboxConfig(wall_s=2, processes=3)) == Limits(wall_s=2, processes=3)
