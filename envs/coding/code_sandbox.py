"""Where a process runs what models wrote: the sandbox, and what is built on it. The same program
says the same, so that each is run once.
"""

import atexit
import json
import re
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cachetools import LRUCache, cached

import envs.coding.in_sandbox.extraction as extraction
import envs.coding.in_sandbox.loading as loading
import envs.coding.in_sandbox.tools as tools
from envs.coding.actions import fenced, programs
from envs.coding.judge import Judge
from envs.coding.visible_tests import VisibleTest
from envs.sandbox import Completed, Ending, Limits, Sandbox
from r2v_dist.config.sandbox import SandboxConfig

_REMEMBERED = 2048
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_STOPPED = {
    Ending.TIMEOUT: "Error: stopped, it took too long.",
    Ending.CPU_LIMIT: "Error: stopped, it took too long.",
    Ending.MEMORY: "Error: stopped, it used too much memory.",
    Ending.OUTPUT_LIMIT: "Error: stopped, it printed too much.",
    Ending.SIGNALLED: "Error: the program crashed.",
}


@dataclass(frozen=True)
class CodeSandbox:
    """The sandbox of this process and what is built on it; shared by all environments with equal
    settings.
    """

    sandbox: Sandbox
    judge: Judge

    @staticmethod
    @lru_cache(maxsize=4)
    def of(settings: str) -> "CodeSandbox":
        """For a `SandboxConfig` as JSON. Raises UsageError where model-written code
        must not run.
        """
        config = SandboxConfig.model_validate_json(settings)
        sandbox = Sandbox(Limits.of(config), allow_weaker=config.allow_weaker)
        atexit.register(sandbox.close)
        return CodeSandbox(sandbox, Judge(sandbox))


@lru_cache(maxsize=_REMEMBERED)
def execute(settings: str, call: str, limit: int) -> str:
    """What one function of the tools says of a solution, at most about `limit` characters. It
    shares nothing with `attempt`, which looks for the program in an answer first.
    """
    completed = _run(settings, (loading, tools), f"{call}\n")
    return shorten(_said(completed), limit) or "It ran and printed nothing."


@dataclass(frozen=True)
class Attempt:
    """An answer, tried on the examples of its task. `program` is empty where the answer holds none
    that defines the function; `said` is what the tests said, `passed` of `tests`. `cut` says
    whether the answer ends inside a fence.
    """

    program: str
    said: str
    passed: int
    tests: int
    loads: bool
    cut: bool

    @property
    def done(self) -> bool:
        """Whether nothing speaks against it."""
        return self.loads and self.passed == self.tests


def attempt(
    settings: str, answer: str, prompt: str, entry_point: str, tests: Sequence[VisibleTest]
) -> Attempt:
    """Find the program of an answer and try it on the examples. Equal attempts are made once, also
    when several threads ask at the same time: the verifier tries every candidate, and the
    environment the one that acts.
    """
    cases = tuple((test.expression, test.expected) for test in tests)
    return _attempt(settings, answer, prompt, entry_point, cases)


@cached(LRUCache[Hashable, Attempt](_REMEMBERED), condition=threading.Condition())
def _attempt(
    settings: str,
    answer: str,
    prompt: str,
    entry_point: str,
    cases: tuple[tuple[str, str], ...],
) -> Attempt:
    cut = any(not part.closed for part in fenced(answer))
    call = f"attempt_answer({programs(answer)!r}, {prompt!r}, {entry_point!r}, {cases!r})"
    completed = _run(settings, (loading, extraction, tools), f"{call}\n")
    head, _, output = completed.stdout.partition(b"\n")
    program = _program(head)
    if not program:
        return Attempt("", "", 0, len(cases), False, cut)
    report = _said(completed, output)
    # Of the output only, not of standard error.
    last_line = output.decode(errors="replace").rstrip().rpartition("\n")[2]
    passes = tools.passed_of(last_line, len(cases))
    return Attempt(program, report, passes or 0, len(cases), passes is not None, cut)


def _program(line: bytes) -> str:
    """The program that the sandbox chose, written before anything of it ran."""
    try:
        program = json.loads(line)
    except ValueError:
        return ""
    return program if isinstance(program, str) else ""


def _run(settings: str, modules: Sequence[Any], call: str) -> Completed:
    texts = [Path(module.__file__).read_text(encoding="utf-8") for module in modules]
    return CodeSandbox.of(settings).sandbox.run("\n\n".join([*texts, call]))


def _said(completed: Completed, stdout: bytes | None = None) -> str:
    output = completed.stdout if stdout is None else stdout
    text = "\n".join(part.decode(errors="replace").rstrip() for part in (output, completed.stderr))
    report = _ADDRESS.sub("0x...", text.strip("\n"))
    return "\n".join(part for part in (report, _STOPPED.get(completed.ending, "")) if part)


def shorten(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and, as errors end with what matters, the
    end.
    """
    if len(text) <= limit:
        return text
    head = limit * 2 // 5
    tail = limit - limit * 2 // 5
    left_out = len(text) - limit
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[len(text) - tail :]}"
