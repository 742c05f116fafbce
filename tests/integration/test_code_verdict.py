"""Verdicts cannot be faked: all that leaves the sandbox are values, and what fools a program from
inside changes none of them.
"""

import json
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from envs.coding.benchmark_files import Dataset
from envs.coding.judge import Judge
from envs.coding.mutants import mutants
from envs.coding.tasks import CodeTask, load_task, task_ids
from envs.coding.verdict import Verdict
from envs.sandbox import Sandbox
from r2v_dist.errors import RuntimeFailure
from tests.codes import require_data
from tests.sandboxes import starved_sandbox

MERGE, COUNT, LUHN = "R2V/1", "R2V/2", "R2V/3"

TRICKS = {
    "an object that equals everything": """
class Right:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def luhn_valid(number): return Right()
""",
    "a plain type whose equality is overridden": """
class Right(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def luhn_valid(number): return Right(7)
""",
    "leaving at once, with success": "import os\nos._exit(0)\n",
    "leaving inside the first call": "import sys\ndef luhn_valid(number): sys.exit(0)\n",
    "leaving from an exit handler": (
        "import atexit, os\natexit.register(os._exit, 0)\n"
        "def luhn_valid(number): raise SystemExit(0)\n"
    ),
    "ending the parent": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
        "def luhn_valid(number): return True\n"
    ),
    "builtins that agree": """
import builtins
builtins.all = lambda *a: True
builtins.isinstance = lambda *a: True
builtins.len = lambda *a: 0
builtins.abs = lambda *a: 0
def luhn_valid(number): return True
""",
    "its own json": (
        "import json\njson.dumps = lambda *a, **k: '[0, 0, true]'\n"
        "def luhn_valid(number): return True\n"
    ),
    "its own marshal": """
import marshal
marshal.loads = lambda *a: ("79927398713",)
marshal.dumps = lambda *a: b"T"
def luhn_valid(number): return True
""",
    "forged rows on every descriptor": """
import os
def luhn_valid(number):
    for fd in range(3, 32):
        try:
            os.write(fd, b"".join(b"[%d, 0.0, true]\\n" % i for i in range(64)))
        except OSError:
            pass
    os._exit(0)
""",
    "rows after the end": """
import atexit, os, sys
def luhn_valid(number):
    frame = sys._getframe(1)
    channel = frame.f_locals["channel"]
    channel.write("[0, 0.0, true]\\n")
    return number == "79927398713"
""",
    "the harness's own encoder": """
import sys
def luhn_valid(number):
    scope = sys._getframe(1).f_globals
    for name in ("encode", "message", "digest"):
        scope[name] = lambda *a, **k: True
    scope["dumps"] = lambda *a: "true"
    scope["line"] = lambda index, *a: f"[{index}, 0.0, true]\\n"
    return True
""",
    "easier inputs": """
import marshal, sys
def luhn_valid(number):
    job = sys._getframe(1).f_locals["job"]
    job["calls"][:] = [marshal.dumps(("79927398713",))] * len(job["calls"])
    return True
""",
    "no time limit": """
import signal
signal.setitimer = lambda *a: None
def luhn_valid(number):
    while True: pass
""",
    "noise without a right answer": (
        "def luhn_valid(number):\n    print('[0, 0.0, true]')\n    print('PASSED')\n"
    ),
    "looking for expected outputs": """
import gc
def luhn_valid(number):
    kinds = {"outputs", "expected", "canonical_solution"}
    known = [o for o in gc.get_objects() if isinstance(o, dict) and kinds & o.keys()]
    return known[0]["outputs"][0] == "true" if known else None
""",
    "every number that is in the harness": """
import sys
def numbers(value):
    if isinstance(value, (list, tuple)):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []
def luhn_valid(number):
    known = sys._getframe(1).f_locals
    told = [n for value in (known["job"], *known.values()) for n in numbers(value)]
    return any(n in (4112, 4116, 16, 4) for n in told)
""",
    "a complex number that lies": """
class Lying(complex):
    real = 10 ** 400
    imag = 0
def luhn_valid(number): return Lying(1, 0)
""",
    "a row with a number that is none": """
import os, sys
def luhn_valid(number):
    row = b'[0, 0.0, {"c": [1' + b"0" * 400 + b", 0]}]\\n"
    os.write(sys._getframe(1).f_locals["channel"].fileno(), row)
    os._exit(0)
""",
    "references that grow without end": """
def luhn_valid(number):
    x = ["lol"] * 10
    for _ in range(30): x = [x] * 10
    return x
""",
    "keys that collide": """
def luhn_valid(number): return [k * ((1 << 61) - 1) for k in range(4000)]
""",
    "deep nesting": (
        "def luhn_valid(number):\n    x = []\n    for _ in range(100000): x = [x]\n    return x\n"
    ),
    "itself inside itself": "def luhn_valid(number):\n    x = []\n    x.append(x)\n    return x\n",
    "an endless answer": "def luhn_valid(number):\n    return 'x' * (100 << 20)\n",
    "nothing": "",
    "a syntax error": "def luhn_valid(number)\n",
    "another name": "def valid(number): return True\n",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_passes(judge: Judge, trick: str) -> None:
    assert not judge.verdict(load_task("shipped", LUHN), TRICKS[trick]).passed
    # ... and the next program gets the verdict it deserves.
    task = load_task("shipped", LUHN)
    assert judge.verdict(task, task.code + f"# after {trick}\n").passed


def test_a_right_program_may_be_noisy_and_untidy(judge: Judge) -> None:
    task = load_task("shipped", COUNT)
    noise = "import sys\nprint('loading')\nprint('[0, 0.0, {}]')\nsys.stderr.write('x' * 100000)\n"
    assert judge.verdict(
        task, noise + task.code.replace("counts = {}", "counts = {}\n    print(text)")
    ).passed


def test_equality_is_of_content(judge: Judge) -> None:
    task = load_task("shipped", COUNT)
    counter = (
        "from collections import Counter\n"
        "def letter_counts(text): return Counter(c for c in text.lower() if c.isalpha())\n"
    )
    assert judge.verdict(task, counter).passed


def test_views_of_a_dictionary_are_sets(sandbox: Sandbox, tmp_path: Path) -> None:
    task = CodeTask(
        "R2V/views",
        "shipped",
        "def f(x):\n",
        "f",
        "    return set(x)\n",
        (([1, 2],), ([],)),
        (),
        0.0,
        "",
        (),
    )
    assert (
        Judge(sandbox, tmp_path).verdict(task, "def f(x): return dict.fromkeys(x).keys()\n").passed
    )


def test_a_wrong_shape_is_not_broadcast(judge: Judge) -> None:
    task = load_task("shipped", "R2V/0")
    rows = (
        "\n_average = moving_average\ndef moving_average(values, width):\n"
        "    a = _average(values, width)\n    return [a for _ in a]\n"
    )
    assert not judge.verdict(task, task.code + rows).passed


def test_a_solution_is_a_module_that_is_known(judge: Judge) -> None:
    task = load_task("shipped", LUHN)
    typed = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    typed += "import pickle, typing\n@dataclass\nclass P:\n    x: int\n"
    typed += (
        "assert pickle.loads(pickle.dumps(P(1))) == P(1) and typing.get_type_hints(P) == "
        "{'x': int}\n"
    )
    assert judge.verdict(task, typed + task.code).passed


def test_inputs_are_fresh_in_every_call(judge: Judge) -> None:
    task = load_task("shipped", MERGE)
    assert "intervals.sort()" in task.code  # the canonical solution changes its input
    destroying = task.code + (
        "\n_merge = merge_intervals\ndef merge_intervals(x):\n    out = _merge(x)\n"
        "    x.clear()\n    return out\n"
    )
    assert judge.verdict(task, destroying).passed
    assert task.base_inputs[0] == ([[1, 3], [2, 5], [8, 9]],)


def test_a_call_may_take_a_second_and_not_more(judge: Judge) -> None:
    task = load_task("shipped", LUHN)
    spin = (
        "import time\n{code}\n_valid = luhn_valid\ndef luhn_valid(number):\n    end = "
        "time.{clock}() + {s}\n"
        + ("    while time.{clock}() < end: pass\n    return _valid(number)\n")
    )
    assert judge.verdict(task, spin.format(code=task.code, clock="process_time", s=0.2)).passed
    slow = judge.verdict(task, spin.format(code=task.code, clock="process_time", s=1.5))
    assert (slow.passed, slow.failed_test) == (False, 0)
    asleep = task.code + (
        "\nimport time\n_valid = luhn_valid\ndef luhn_valid(number):\n    time.sleep(6)\n"
        "    return _valid(number)\n"
    )
    assert not judge.verdict(task, asleep).passed
    unwatched = task.code + "\nimport signal, time\n_valid, _spin = luhn_valid, 1.5\n"
    unwatched += (
        "def luhn_valid(number):\n    global _spin\n    signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    unwatched += "    end, _spin = time.process_time() + _spin, 0.0\n"
    unwatched += "    while time.process_time() < end: pass\n    return _valid(number)\n"
    assert judge.verdict(task, unwatched) == Verdict(False, 0, "too slow")


def test_a_busy_machine_does_not_change_a_verdict(judge: Judge) -> None:
    task = load_task("shipped", LUHN)
    slow = "import time\n_valid, _slow = luhn_valid, True\n"
    slow += "def luhn_valid(number):\n    global _slow\n"
    slow += (
        "    end, _slow = time.process_time() + 0.4 * _slow, False\n"
        "    while time.process_time() < end: pass\n    return _valid(number)\n"
    )
    judge.truth(task)
    with starved_sandbox(busy=20) as sandbox:  # the first call takes 8 seconds by the clock
        assert Judge(sandbox).verdict(task, f"{task.code}\n{slow}").passed


def test_a_program_that_is_killed_from_outside_gets_its_verdict(judge: Judge) -> None:
    task = load_task("shipped", LUHN)
    judge.truth(task)
    killed = []

    def kill() -> None:
        while not over.wait(0.01):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if sum(process.cpu_times()[:2]) > 0.2 and process.name().startswith("python"):
                        process.kill()
                        killed.append(process.pid)
                        return

    over = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    busy = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\n"
    verdict = judge.verdict(task, busy + task.code)
    over.set()
    killer.join()
    assert (verdict.passed, len(killed)) == (True, 1)


def test_verdicts_say_which_test_failed(judge: Judge) -> None:
    task = load_task("shipped", LUHN)
    verdict = judge.verdict(task, task.code.replace('number != "" and ', ""))
    assert (verdict.passed, verdict.failed_test, verdict.wrong_output) == (False, 2, True)


def test_expected_outputs_are_computed_once(sandbox: Sandbox, tmp_path: Path) -> None:
    task = load_task("shipped", MERGE)
    truth = Judge(sandbox, tmp_path).truth(task)
    [stored] = tmp_path.iterdir()
    assert [json.loads(value) for value in truth.outputs[:2]] == [[[1, 5], [8, 9]], [[1, 5]]]
    changed = json.loads(stored.read_text()) | {"outputs": ["0"] * len(truth.outputs)}
    stored.write_text(json.dumps(changed))
    assert not Judge(sandbox, tmp_path).verdict(task, task.code).passed  # it read the file


def test_expected_outputs_of_another_shape_are_computed_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    task = load_task("shipped", MERGE)
    truth = Judge(sandbox, tmp_path).truth(task)
    [stored] = tmp_path.iterdir()
    whole = json.loads(stored.read_text())
    for damage in ({"outputs": 5}, {"seconds": [None] * len(truth.seconds)}, {"outputs": []}):
        stored.write_text(json.dumps(whole | damage))
        assert Judge(sandbox, tmp_path).truth(task).outputs == truth.outputs


def test_a_canonical_solution_that_fails_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    broken = CodeTask(
        "R2V/broken",
        "shipped",
        "def f(x):\n",
        "f",
        "    return 1 / x\n",
        ((1,), (0,)),
        (),
        0.0,
        "",
        (),
    )
    with pytest.raises(RuntimeFailure, match="R2V/broken gave 1 of 2 outputs"):
        Judge(sandbox, tmp_path).truth(broken)


def test_large_outputs_are_compared_by_digest(sandbox: Sandbox, tmp_path: Path) -> None:
    task = CodeTask(
        "R2V/large",
        "shipped",
        "def f(n):\n",
        "f",
        "    return list(range(n))\n",
        ((3,), (100_000,)),
        (),
        0.0,
        "",
        (),
    )
    judge = Judge(sandbox, tmp_path)
    assert '"h"' in judge.truth(task).outputs[1]
    assert judge.verdict(task, "def f(n): return [float(i) for i in range(n)]\n").passed
    wrong = judge.verdict(task, "def f(n): return [i if i < 99_999 else -1 for i in range(n)]\n")
    assert (wrong.passed, wrong.failed_test) == (False, 1)


def test_outputs_that_equal_nothing_fail_however_they_are_written(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    for body in ("[float('nan'), x]", "[object(), x]"):  # the second is sent as {"o": "object"}
        task = CodeTask(
            "R2V/unequal",
            "shipped",
            "def f(x):\n",
            "f",
            f"    return {body} if x else 0\n",
            ((0,), (1,)),
            (),
            0.0,
            "",
            (),
        )
        verdict = Judge(sandbox, tmp_path).verdict(task, task.code)
        assert (verdict.passed, verdict.failed_test) == (False, 1), body


def test_what_follows_the_last_output_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    task = CodeTask(
        "R2V/same",
        "shipped",
        "def f(x):\n",
        "f",
        "    return x\n",
        ((1,), (2.5,), ("ä\n",)),
        (),
        0.0,
        "",
        (),
    )
    judge = Judge(sandbox, tmp_path)
    assert judge.verdict(task, task.code).passed
    extra = (
        "    calls = sys._getframe(1).f_locals['job']['calls']\n"
        "    if x == 1: calls.append(calls[0])\n"
    )
    assert not judge.verdict(task, f"import sys\ndef f(x):\n{extra}    return x\n").passed


@pytest.mark.parametrize("dataset", ["shipped", "humaneval_plus", "mbpp_plus"])
def test_canonical_solutions_pass_and_mutants_mostly_do_not(judge: Judge, dataset: Dataset) -> None:
    if dataset != "shipped":
        require_data()
    killed = tried = 0
    for name in task_ids(dataset)[:6]:
        task = load_task(dataset, name)
        assert judge.verdict(task, task.code).passed, name
        for _, mutant in zip(range(3), mutants(task.code, 0), strict=False):
            killed += not judge.verdict(task, mutant.code).passed
            tried += 1
    assert killed / tried > 0.6
