"""Runs programs on the tests of a task, in a sandbox, and remembers what came of it.

Expected outputs come from the canonical solution, run once in the same sandbox and cached. A
candidate runs in one sandboxed program with all inputs. A program that ended as if from outside
runs once more, whatever it had answered.

Nothing that goes into the sandbox depends on an expected output or on a verdict: the form and size
of answers, how many calls there are and in which order, and how long each may take are the same for
every call. One figure comes from the canonical solution, the time of its slowest call, and it is
rounded up to a power of two; what is finer is compared outside.
"""

import hashlib
import json
import marshal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from cachetools import LRUCache, cachedmethod

import envs.coding.in_sandbox.harness as harness
import envs.coding.in_sandbox.loading as loading
from envs.coding.comparison import expects_not_none
from envs.coding.in_sandbox.harness import RAISED
from envs.coding.tasks import CodeTask
from envs.coding.verdict import TASK_LIMIT_S, Truth, Verdict, compare, looked_into, rows
from envs.sandbox import Completed, Ending, Limits, Sandbox
from r2v_dist.config.places import CACHE_VARIABLE, cache_folder, make_cache
from r2v_dist.errors import RuntimeFailure
from r2v_dist.files import write_atomically

_GRACE_S = 2.0
_TRUTH_LIMIT_S = 120.0
_PERHAPS_FROM_OUTSIDE = (Ending.SIGNALLED, Ending.TIMEOUT)
"""The kernel counted what led to the other endings."""
_REMEMBERED = 4096
_LARGE = 4096
_WHOLE = 1 << 20
"""Outputs of more items and characters than _LARGE are compared by digest, and those of a task
whose outputs are looked into of more than _WHOLE.
"""
_LIMITS = Limits(memory_mib=2048, output_kib=32 * 1024)


def _verdict_key(task: CodeTask, code: str) -> tuple[str, str, str]:
    digest = hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()
    return (task.dataset, task.id, digest)


@lru_cache(maxsize=1024)
def _truth_key(task: CodeTask) -> str:
    digest = hashlib.sha256(_source().encode())
    digest.update(marshal.dumps((task.code, _encoded_inputs(task)), 2))
    return digest.hexdigest()[:32]


class Judge:
    """Gives verdicts; a verdict on equal code is given once, also when several threads ask at the
    same time.
    """

    def __init__(self, sandbox: Sandbox, cache: Path | None = None) -> None:
        self._sandbox = sandbox
        self._cache = make_cache(cache or cache_folder("code"), CACHE_VARIABLE)
        self._truths = LRUCache[str, Truth](_REMEMBERED)
        self._truth_given = threading.Condition()
        self._verdicts = LRUCache[tuple[str, str, str], Verdict](_REMEMBERED)
        self._verdict_given = threading.Condition()

    @cachedmethod(
        lambda self: self._verdicts,
        key=lambda self, task, code: _verdict_key(task, code),
        condition=lambda self: self._verdict_given,
    )
    def verdict(self, task: CodeTask, code: str) -> Verdict:
        """Whether the program passes every base and plus test of the task."""
        return self._judge(task, code)

    def verdicts(self, programs: Sequence[tuple[CodeTask, str]], parallel: int) -> list[Verdict]:
        """On many programs, in their order. The ones that should take longest are run first, so
        that the end waits for none.
        """
        cost = [-sum(self.truth(task).seconds) for task, _ in programs]
        with ThreadPoolExecutor(parallel) as pool:
            futures = {
                i: pool.submit(self.verdict, *programs[i])
                for i in sorted(range(len(programs)), key=cost.__getitem__)
            }
        return [futures[i].result() for i in range(len(programs))]

    @cachedmethod(
        lambda self: self._truths,
        key=lambda self, task: _truth_key(task),
        condition=lambda self: self._truth_given,
    )
    def truth(self, task: CodeTask) -> Truth:
        """Expected outputs and times. Raises RuntimeFailure where the canonical solution does not
        run here.
        """
        path = self._cache / f"{_truth_key(task)}.json"
        entry = kept(path, "outputs", "seconds")
        calls = len(task.base_inputs) + len(task.plus_inputs)
        if entry is None or not _fits(entry, calls):
            truth = self._compute(task)
            entry = {"task": task.id, "outputs": truth.outputs, "seconds": truth.seconds}
            write_atomically(path, json.dumps(entry))
        return Truth(tuple(entry["outputs"]), tuple(entry["seconds"]))

    def memo(self, task: CodeTask, name: str) -> Path:
        """A file of the cache for what was found out about a task; another one when the task or the
        harness changes.
        """
        return self._cache / f"{_truth_key(task)}-{name}.json"

    def _compute(self, task: CodeTask) -> Truth:
        calls = len(task.base_inputs) + len(task.plus_inputs)
        completed = self._run(task, task.code, _TRUTH_LIMIT_S, _TRUTH_LIMIT_S, truth=True)
        answers = [row for row in rows(completed.stdout) if row.value != RAISED]
        if len(answers) != calls:
            raise RuntimeFailure(
                f"the canonical solution of {task.id} gave {len(answers)} of {calls} outputs "
                f"({completed.ending})"
            )
        outputs = [row.value for row in answers]
        if looked_into(task) and any(output.startswith('{"h"') for output in outputs):
            raise RuntimeFailure(
                f"the canonical solution of {task.id} gave an output of more than {_WHOLE} items "
                f"and characters"
            )
        if expects_not_none(task.dataset, task.entry_point):
            outputs = [json.dumps(json.loads(value) is not None) for value in outputs]
        return Truth(tuple(outputs), tuple(row.seconds for row in answers))

    def _judge(self, task: CodeTask, code: str) -> Verdict:
        truth = self.truth(task)
        seconds = min(TASK_LIMIT_S, len(truth.outputs) * truth.limit) + _GRACE_S
        completed = self._run(task, code, truth.limit, seconds, truth=False)
        if completed.ending in _PERHAPS_FROM_OUTSIDE and completed.stdout.count(b"\n") < len(
            truth.outputs
        ):
            # A program that is killed from outside, by the host's memory killer say, looks like one
            # that ended itself.
            completed = self._run(task, code, truth.limit, seconds, truth=False)
        return compare(task, truth, completed)

    def _run(
        self, task: CodeTask, code: str, limit: float, seconds: float, truth: bool
    ) -> Completed:
        """`limit` of each call. By the clock the program may take twice as long: the machine has
        other work."""
        budget = _WHOLE if looked_into(task) else _LARGE
        job = marshal.dumps((code, task.entry_point, truth, budget, limit, _encoded_inputs(task)))
        limits = replace(_LIMITS, wall_s=2 * seconds, cpu_s=seconds)
        return self._sandbox.run(_LOADER, marshal.dumps((_program(), job)), limits=limits)


def kept(path: Path, *names: str) -> dict[str, Any] | None:
    """What a file of the cache holds; None where there is none, or one that was damaged: it can be
    made again."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return entry if isinstance(entry, dict) and all(name in entry for name in names) else None


def _fits(entry: dict[str, Any], calls: int) -> bool:
    """Whether what the cache holds are the outputs and times of so many calls."""
    kinds: tuple[tuple[str, Any], ...] = (("outputs", str), ("seconds", int | float))
    return all(
        isinstance(entry[name], list)
        and len(entry[name]) == calls
        and all(isinstance(value, kind) for value in entry[name])
        for name, kind in kinds
    )


@lru_cache(maxsize=64)
def _encoded_inputs(task: CodeTask) -> tuple[bytes, ...]:
    # Version 2, as later ones write equal values in different ways.
    return tuple(
        marshal.dumps(arguments, 2) for arguments in (*task.base_inputs, *task.plus_inputs)
    )


@cache
def _source() -> str:
    texts = (
        Path(module.__file__ or "").read_text(encoding="utf-8") for module in (loading, harness)
    )
    return "\n\n".join([*texts, "main(job)\n"])


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
