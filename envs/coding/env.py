"""HumanEval+ and MBPP+ as an agent environment: write a program, try it out, submit it. Same
actions, same episode, always.

Whatever a program does happens in the sandbox; the verdict is given outside of it on the full
hidden tests, and only on
`submit`. Nothing that the agent reads tells the verdict. Neither registers nor imports anything of
a cluster.
"""

import atexit
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium

import envs.coding.in_sandbox.loading as loading
import envs.coding.in_sandbox.tools as runner
from envs.coding.actions import clean, parse_action
from envs.coding.mutants import VARIANTS, wrong_solution
from envs.coding.tasks import dataset_of, load_task
from envs.coding.verdict import Judge
from envs.sandbox import Ending, Limits, Sandbox
from envs.spaces import UnicodeText
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.seeding import rng_for

MANUAL = """You solve the task step by step. Every answer is one action; its first word says which:
write   the lines below it become your solution (the whole program, it replaces the one before)
test    runs your solution on the examples of the task
run     runs the lines below it as a program that knows your solution's names
submit  hands in your solution and ends the task"""
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_STOPPED = {
    Ending.TIMEOUT: "Error: stopped, it took too long.",
    Ending.CPU_LIMIT: "Error: stopped, it took too long.",
    Ending.MEMORY: "Error: stopped, it used too much memory.",
    Ending.OUTPUT_LIMIT: "Error: stopped, it printed too much.",
    Ending.SIGNALLED: "Error: the program crashed.",
}


@dataclass(frozen=True)
class Workshop:
    """The sandbox of this process and what is built on it; shared by all environments with equal
    settings.
    """

    sandbox: Sandbox
    judge: Judge

    @staticmethod
    @lru_cache(maxsize=4)
    def of(settings: str) -> "Workshop":
        """For a `SandboxConfig` as JSON. Raises UsageError where model-written code
        must not run.
        """
        config = SandboxConfig.model_validate_json(settings)
        sandbox = Sandbox(Limits.of(config), allow_weaker=config.allow_weaker)
        atexit.register(sandbox.close)
        return Workshop(sandbox, Judge(sandbox))


@lru_cache(maxsize=2048)
def _execute(settings: str, call: str, limit: int) -> str:
    """What one function of the runner says of a solution. The same program says the same, so each
    is run once.
    """
    program = "\n\n".join([*map(_text, (loading.__file__, runner.__file__)), f"{call}\n"])
    completed = Workshop.of(settings).sandbox.run(program)
    text = "\n".join(
        part.decode(errors="replace").rstrip() for part in (completed.stdout, completed.stderr)
    )
    said = _ADDRESS.sub("0x...", text.strip("\n"))
    whole = "\n".join(part for part in (said, _STOPPED.get(completed.ending, "")) if part)
    return shorten(whole, limit) or "It ran and printed nothing."


def _text(file: str) -> str:
    return Path(file).read_text(encoding="utf-8")


class CodeEnv(gymnasium.Env[str, str]):
    """One task. Reward is 1.0 on the `submit` of a solution that passes all hidden tests, else 0.0.

    Args:
        task: its id; `HumanEval/...`, `Mbpp/...`, or `R2V/...` for the few tasks that come with the
        project. max_steps: actions until the episode is truncated. expert: makes `expert_action()`
        and `wrong_action()` work; they know the canonical solution. data_dir: where the benchmarks'
        files are; empty for `R2V_DATA_DIR` or, without it, a download. sandbox: a `SandboxConfig`
        as JSON. observation_chars: longer tool output loses its middle.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 -- Gymnasium's own convention
    waits = True
    """`step` waits for other processes: taken in a thread, it keeps no other episode waiting."""

    def __init__(
        self,
        task: str,
        max_steps: int = 8,
        expert: bool = False,
        data_dir: str = "",
        sandbox: str = "{}",
        observation_chars: int = 2000,
        render_mode: str | None = None,
    ) -> None:
        self._task = load_task(dataset_of(task), task, data_dir)
        self._settings = sandbox
        self._expert = expert
        self._observation_chars = observation_chars
        self._judge = Workshop.of(sandbox).judge
        self.observation_space = self._seen = UnicodeText(max_length=16_384, min_length=0)
        self.action_space = self._said = UnicodeText(max_length=16_384, min_length=0)
        self.render_mode = render_mode
        self.max_steps = max_steps
        self._steps = 0
        self._solution = ""
        self._observation = ""
        self._stop = ""
        self._just_tested = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start over with no solution. The seed changes nothing."""
        super().reset(seed=seed)
        self._steps = 0
        self._solution = ""
        self._stop = ""
        self._just_tested = False
        self._observation = self._seen.clip(MANUAL)
        return self._observation, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do what the action says. One that says nothing known costs a step, is answered, and never
        raises.
        """
        self._steps += 1
        # Cut, it would be another program.
        too_long = len(action) > self._said.max_length
        verb, body = ("", "") if too_long else parse_action(clean(action))
        reward = 0.0
        terminated = verb == "submit"
        if terminated:
            passed = self._judge.verdict(self._task, self._solution).passed
            reward = float(passed)
            self._stop = "won" if passed else "lost"
        truncated = not terminated and self._steps >= self.max_steps
        if truncated:
            self._stop = "step_limit"
        self._just_tested = verb == "test"
        answer = self._too_long(action) if too_long else self._answer(verb, body)
        self._observation = self._seen.clip(answer)
        return self._observation, reward, terminated, truncated, self._info()

    def expert_action(self) -> str | None:
        """Writes the canonical solution, then submits it."""
        self._needs_expert("expert_action")
        return "submit" if self._solution == _own(self._task.code) else f"write\n{self._task.code}"

    def wrong_action(self, seed: int) -> str | None:
        """What an agent that errs might do here: write a solution that is known to fail, or believe
        in the one that does.
        """
        self._needs_expert("wrong_action")
        if not self._solution or self._solution == _own(self._task.code):
            return f"write\n{wrong_solution(self._judge, self._task, rng_for('mistake', seed).randrange(VARIANTS))}"
        return "submit" if self._just_tested or rng_for("believes", seed).random() < 0.5 else "test"

    def render(self) -> str:
        """The last observation."""
        return self._observation

    def _answer(self, verb: str, body: str) -> str:
        if verb == "submit":
            return "Submitted."
        if verb == "write":
            if not body.strip():
                return "Error: write needs the program on the lines below it; nothing was changed."
            self._solution = _own(body)
            return f"Saved your solution ({self._solution.count(chr(10))} lines)."
        if verb == "run":
            return (
                self._tell("run", body)
                if body.strip()
                else "Error: run needs a program on the lines below it."
            )
        if verb == "test":
            return self._test()
        return f"Error: the first word must be write, test, run or submit, not {verb!r}.\n{MANUAL}"

    def _too_long(self, action: str) -> str:
        most = self._said.max_length
        return f"Error: an answer may have {most} characters; this one has {len(action)}, and nothing was done."

    def _test(self) -> str:
        if not self._solution:
            return "Error: there is no solution yet; use write first."
        if not self._task.visible:
            return "The task shows no examples that could be run; use run with tests of your own."
        return self._tell("test", [[test.expression, test.expected] for test in self._task.visible])

    def _tell(self, function: str, argument: str | Sequence[object]) -> str:
        call = f"{function}({self._solution!r}, {argument!r})"
        return _execute(self._settings, call, self._observation_chars)

    def _needs_expert(self, name: str) -> None:
        if not self._expert:
            raise ValueError(f"{name}() needs the environment made with expert=True")

    def _info(self) -> dict[str, Any]:
        return {"goal": self._task.prompt.strip()} | (
            {"stop_reason": self._stop} if self._stop else {}
        )


def shorten(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and, as errors end with what matters, the
    end.
    """
    if len(text) <= limit:
        return text
    head = limit * 2 // 5
    tail = limit - limit * 2 // 5
    return f"{text[:head]}\n[... {len(text) - limit} characters left out ...]\n{text[len(text) - tail :]}"


def _own(code: str) -> str:
    """A program as it is kept: the empty lines around it do not count. Its other lines end where
    Python's do."""
    return code.replace("\r\n", "\n").strip("\n") + "\n"
