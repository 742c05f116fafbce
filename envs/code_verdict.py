"""Verdicts on programs: the candidate only produces values, and everything that decides happens here, outside the sandbox.

Expected outputs come from the canonical solution, run once in the same sandbox and cached. A candidate runs in one sandboxed
program with all inputs; its outputs come back as plain data, in order, one line per call. A missing, extra or malformed line
is a failed test, so leaving early, printing noise or writing into the channel can only lose. A missing line counts when it is
missing twice, since what ends a program may come from outside.
"""

import copy
import hashlib
import json
import marshal
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import envs.code_harness as harness
from envs.code_harness import Opaque, decode, line
from envs.code_rules import Comparison, expects_not_none, has_oracle
from envs.code_tasks import CodeTask
from envs.once import Once
from envs.sandbox import Completed, Limits, Sandbox
from r2v_dist.errors import RuntimeFailure
from r2v_dist.places import CACHE_VARIABLE, cache_folder, make_cache
from r2v_dist.run_dir import write_atomically

MIN_LIMIT_S, LIMIT_FACTOR, TASK_LIMIT_S = 1.0, 4.0, 60.0
"""EvalPlus's: a call may take max(MIN_LIMIT_S, LIMIT_FACTOR x the canonical solution's time), all calls TASK_LIMIT_S."""
_GRACE_S, _TRUTH_LIMIT_S = 2.0, 120.0
_WRONG, _SILENT = "wrong output", "no output"
_REMEMBERED = 4096
_LARGE, _WHOLE = 4096, 1 << 40
"""Outputs of more items and characters than _LARGE are compared by digest."""
_SPARE = 1 << 16
"""Equal values may be written in different lengths (1 and 1.0, a set with duplicates in a list), but not more different than this."""
_LINE = re.compile(rb"\[(\d{1,9}), (\d+(?:\.\d+)?(?:e-?\d+)?), (.*)\]")
_JSON = json.JSONDecoder(parse_constant=float)
"""Every NaN another object: a list with one and the same NaN would be equal to itself."""
_LIMITS = Limits(memory_mib=2048, output_kib=32 * 1024)


@dataclass(frozen=True)
class Verdict:
    """`failed_test` counts base tests first, then plus tests; None when all pass."""

    passed: bool
    failed_test: int | None = None
    reason: str = ""

    @property
    def wrong_output(self) -> bool:
        """Whether it failed by what it answered, and not by giving no answer."""
        return self.reason == _WRONG

    @property
    def silent(self) -> bool:
        """Whether it failed by giving no answer."""
        return self.reason.startswith(_SILENT)


@dataclass(frozen=True)
class Truth:
    """What the canonical solution answers: encoded outputs and processor seconds, base tests first."""

    outputs: tuple[str, ...]
    seconds: tuple[float, ...]

    def bounds(self) -> list[tuple[float, int]]:
        """Seconds that each call may take, and how many items and characters of its output are sent: enough for one that is right,
        however it is written."""
        return [
            (max(MIN_LIMIT_S, LIMIT_FACTOR * seconds), _LARGE if expected.startswith('{"h"') else 4 * len(expected) + _LARGE)
            for seconds, expected in zip(self.seconds, self.outputs, strict=True)
        ]


class Judge:
    """Gives verdicts; a verdict on equal code is given once, also when several threads ask at the same time."""

    def __init__(self, sandbox: Sandbox, cache: Path | None = None) -> None:
        self._sandbox, self._cache = sandbox, make_cache(cache or cache_folder("code"), CACHE_VARIABLE)
        self._truths = Once[str, Truth](_REMEMBERED)
        self._verdicts = Once[tuple[str, str, str], Verdict](_REMEMBERED)

    def verdict(self, task: CodeTask, code: str) -> Verdict:
        """Whether the program passes every base and plus test of the task."""
        key = (task.dataset, task.id, hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest())
        return self._verdicts.get(key, lambda: self._judge(task, code))

    def verdicts(self, programs: Sequence[tuple[CodeTask, str]], parallel: int) -> list[Verdict]:
        """On many programs, in their order. The ones that should take longest are run first, so that the end waits for none."""
        cost = [-sum(self.truth(task).seconds) for task, _ in programs]
        with ThreadPoolExecutor(parallel) as pool:
            given = {i: pool.submit(self.verdict, *programs[i]) for i in sorted(range(len(programs)), key=cost.__getitem__)}
        return [given[i].result() for i in range(len(programs))]

    def truth(self, task: CodeTask) -> Truth:
        """Expected outputs and times. Raises RuntimeFailure where the canonical solution does not run here."""
        return self._truths.get(_truth_key(task), lambda: self._load(task))

    def _load(self, task: CodeTask) -> Truth:
        path = self._cache / f"{_truth_key(task)}.json"
        if not path.is_file():
            truth = self._compute(task)
            write_atomically(path, json.dumps({"task": task.id, "outputs": truth.outputs, "seconds": truth.seconds}))
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Truth(tuple(stored["outputs"]), tuple(stored["seconds"]))

    def memo(self, task: CodeTask, name: str) -> Path:
        """A file of the cache for what was found out about a task; another one when the task or the harness changes."""
        return self._cache / f"{_truth_key(task)}-{name}.json"

    def _compute(self, task: CodeTask) -> Truth:
        calls = [*task.base_inputs, *task.plus_inputs]
        # What a rule other than equality may look into must come out whole.
        budget = _LARGE if task.atol == 0 and not has_oracle(task.dataset, task.entry_point) else _WHOLE
        completed = self._run(task, task.code, [(_TRUTH_LIMIT_S, budget)] * len(calls), _TRUTH_LIMIT_S, truth=True)
        rows = list(_rows(completed.stdout))
        if len(rows) != len(calls):
            raise RuntimeFailure(f"the canonical solution of {task.id} gave {len(rows)} of {len(calls)} outputs ({completed.ending})")
        outputs = [row.value for row in rows]
        if expects_not_none(task.dataset, task.entry_point):
            outputs = [json.dumps(json.loads(value) is not None) for value in outputs]
        return Truth(tuple(outputs), tuple(row.seconds for row in rows))

    def _judge(self, task: CodeTask, code: str) -> Verdict:
        truth = self.truth(task)
        bounds = truth.bounds()
        seconds = min(TASK_LIMIT_S, sum(limit for limit, _ in bounds)) + _GRACE_S
        verdict = _compare(task, truth, self._run(task, code, bounds, seconds, truth=False))
        if verdict.silent:
            # A program that is killed from outside, by the host's memory killer say, looks like one that ended itself.
            verdict = _compare(task, truth, self._run(task, code, bounds, seconds, truth=False))
        return verdict

    def _run(self, task: CodeTask, code: str, bounds: Sequence[tuple[float, int]], seconds: float, truth: bool) -> Completed:
        """`bounds`: seconds and budget of each call. By the clock the program may take twice as long: the machine has other work."""
        calls = [(text, *bound) for text, bound in zip(_encoded_inputs(task), bounds, strict=True)]
        job = marshal.dumps((code, task.entry_point, truth, calls))
        return self._sandbox.run(_LOADER, marshal.dumps((_program(), job)), limits=replace(_LIMITS, wall_s=2 * seconds, cpu_s=seconds))


def _compare(task: CodeTask, truth: Truth, completed: Completed) -> Verdict:
    if completed.stdout == _exactly(truth) and not has_oracle(task.dataset, task.entry_point):
        return Verdict(True)  # the usual right program, without decoding anything
    rows = _rows(completed.stdout)
    for first, calls in ((0, task.base_inputs), (len(task.base_inputs), task.plus_inputs)):
        comparison = Comparison(task.dataset, task.entry_point, task.atol)
        for number in range(first, first + len(calls)):
            row = next(rows, None)
            if row is None:
                return Verdict(False, number, f"{_SILENT} ({completed.ending})")
            expected = truth.outputs[number]
            if len(row.value) > 4 * len(expected) + _SPARE:  # not even decoded, as it could be made to take for ever
                return Verdict(False, number, "an output far larger than expected")
            arguments = partial(copy.deepcopy, calls[number - first])
            if not comparison.equal(arguments, decode(_JSON.decode(expected)), _value(row.value)):
                return Verdict(False, number, _WRONG)
    return Verdict(True) if next(rows, None) is None else Verdict(False, len(truth.outputs), "more outputs than calls")


def _exactly(truth: Truth) -> bytes | None:
    """What comes out of a program whose outputs are written as the expected ones; None where some are not equal to themselves."""
    if any("NaN" in output or '{"o"' in output for output in truth.outputs):
        return None
    return "".join(line(index, 0.0, output) for index, output in enumerate(truth.outputs)).encode()


@dataclass(frozen=True)
class _Row:
    """One call as the sandbox told it; `value` is still encoded."""

    seconds: float
    value: str


def _rows(stdout: bytes) -> Iterator[_Row]:
    """The rows in order, up to the first line that is not what the next row must be."""
    for index, row in enumerate(stdout.split(b"\n")[:-1]):
        match = _LINE.fullmatch(row)
        if match is None or int(match[1]) != index:
            return
        yield _Row(float(match[2]), match[3].decode(errors="replace"))


def _value(encoded: str) -> Any:
    try:
        return decode(_JSON.decode(encoded))
    except (ValueError, TypeError, RecursionError):
        return Opaque("malformed")


@lru_cache(maxsize=64)
def _encoded_inputs(task: CodeTask) -> tuple[bytes, ...]:
    # Version 2, as later ones write equal values in different ways.
    return tuple(marshal.dumps(arguments, 2) for arguments in (*task.base_inputs, *task.plus_inputs))


@lru_cache(maxsize=1024)
def _truth_key(task: CodeTask) -> str:
    digest = hashlib.sha256(_source().encode())
    digest.update(marshal.dumps((task.code, _encoded_inputs(task)), 2))
    return digest.hexdigest()[:32]


@cache
def _source() -> str:
    return Path(harness.__file__).read_text(encoding="utf-8") + "\n\nmain(job)\n"


_LOADER = """
import marshal
with open(0, "rb", closefd=False) as stdin:
    program, job = marshal.loads(stdin.read())
exec(marshal.loads(program))
"""


@cache
def _program() -> bytes:
    """The harness, compiled once for all sandboxes; they run the same interpreter."""
    return marshal.dumps(compile(_source(), "harness.py", "exec", dont_inherit=True))
