"""HumanEval+ and MBPP+ as an agent environment: write a program, try it out, submit it. Same
actions, same episode, always.

Whatever a program does happens in the sandbox; the verdict is given outside of it on the full
hidden tests, and only when a solution is handed in. Nothing that the agent reads tells the verdict.
Neither registers nor imports anything of a cluster.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium

from envs.coding.actions import clean, parse_action, word_alone
from envs.coding.code_sandbox import Attempt, CodeSandbox, attempt, execute, shorten
from envs.coding.mutants import VARIANTS, wrong_solution
from envs.coding.statement import stated
from envs.coding.tasks import dataset_of, load_task
from envs.spaces import UnicodeText
from r2v_dist.seeding import rng_for

MANUAL = """You solve the task step by step. Every answer is one action; its first word says which:
write   the lines below it become your solution (the whole program, it replaces the one before)
test    runs your solution on the examples of the task
run     runs the lines below it as a program that knows your solution's names
submit  hands in your solution and ends the task"""
ANSWERS = (
    "Answer with the whole program in one Markdown code block and nothing else. It is tried on the "
    "examples of the task; where one fails you are told, and may answer again."
)
_AGAIN = "Answer again, with the whole program in one Markdown code block and nothing else."


class CodeEnv(gymnasium.Env[str, str]):
    """One task. Reward is 1.0 on the `submit` of a solution that passes all hidden tests, else 0.0.

    Args:
        task: its id; `HumanEval/...`, `Mbpp/...`, or `R2V/...` for the few tasks that come with the
        project. max_steps: actions until the episode is truncated. expert: makes `expert_action()`
        and `wrong_action()` work; they know the canonical solution. data_dir: where the benchmarks'
        files are; empty for `R2V_DATA_DIR` or, without it, a download. sandbox: a `SandboxConfig`
        as JSON. observation_chars: longer tool output loses its middle. protocol: `tools`, or
        `answers` as below.

    With `answers` every answer is a solution: its program is tried on the examples, and handed in
    once they pass. Where none is handed in before the last step, the one that passed most is. The
    words of `tools` are understood where one stands alone.
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
        protocol: str = "tools",
        render_mode: str | None = None,
    ) -> None:
        self._task = load_task(dataset_of(task), task, data_dir)
        self._settings = sandbox
        self._expert = expert
        self._observation_chars = observation_chars
        self._answers = protocol == "answers"
        self._judge = CodeSandbox.of(sandbox).judge
        self.observation_space = self._seen = UnicodeText(max_length=16_384, min_length=0)
        self.action_space = self._said = UnicodeText(max_length=16_384, min_length=0)
        self.render_mode = render_mode
        self.max_steps = max_steps
        self._steps = 0
        self._solution = ""
        self._passed = -1
        """How many examples the solution passes, with `answers`."""
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
        self._passed = -1
        self._stop = ""
        self._just_tested = False
        self._observation = self._seen.clip(ANSWERS if self._answers else MANUAL)
        return self._observation, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do what the action says. One that says nothing known costs a step, is answered, and never
        raises.
        """
        self._steps += 1
        # Cut, it would be another program.
        too_long = len(action) > self._said.max_length
        verb, body = ("", "") if too_long else self._read(clean(action))
        answer = self._too_long(action) if too_long else ""
        if verb == "answer":
            outcome = self._try(body)
            verb = "submit" if outcome.done else verb
            answer = self._told(outcome)
        reward = 0.0
        terminated = verb == "submit"
        if terminated:
            reward = self._judged()
        truncated = not terminated and self._steps >= self.max_steps
        if truncated:
            reward = self.at_the_limit()
        self._just_tested = verb == "test"
        self._observation = self._seen.clip(answer or self._answer(verb, body))
        return self._observation, reward, terminated, truncated, self._info()

    def at_the_limit(self) -> float:
        """What the episode is worth when its steps are used up: with `answers` the solution that
        there is counts, else nothing does.
        """
        if self._answers and self._solution:
            return self._judged()
        self._stop = "step_limit"
        return 0.0

    @property
    def reminder(self) -> str:
        """What an agent is told when an answer did not get through."""
        return _AGAIN if self._answers else ""

    @property
    def stop_reason(self) -> str:
        """Why the episode is over; empty while it goes on."""
        return self._stop

    def expert_action(self) -> str | None:
        """Writes the canonical solution, then submits it."""
        self._needs_expert("expert_action")
        if self._answers:
            return f"```python\n{self._task.code}\n```"
        return "submit" if self._solution == _own(self._task.code) else f"write\n{self._task.code}"

    def wrong_action(self, seed: int) -> str | None:
        """What an agent that errs might do here: write a solution that is known to fail, or believe
        in the one that does.
        """
        self._needs_expert("wrong_action")
        if self._answers:
            return f"```python\n{self._mistaken(seed)}\n```"
        if not self._solution or self._solution == _own(self._task.code):
            return f"write\n{self._mistaken(seed)}"
        return "submit" if self._just_tested or rng_for("believes", seed).random() < 0.5 else "test"

    def render(self) -> str:
        """The last observation."""
        return self._observation

    def _mistaken(self, seed: int) -> str:
        variant = rng_for("mistake", seed).randrange(VARIANTS)
        return wrong_solution(self._judge, self._task, variant)

    def _read(self, action: str) -> tuple[str, str]:
        """Verb and program; the verb `answer` where the whole answer is to be tried."""
        if not self._answers:
            return parse_action(action)
        word = word_alone(action)
        return parse_action(action) if word in ("test", "run", "submit") else ("answer", action)

    def _try(self, answer: str) -> Attempt:
        """Try an answer, and keep its program where none before passed more examples."""
        task = self._task
        beginning = stated(task.prompt).beginning
        outcome = attempt(self._settings, answer, beginning, task.entry_point, task.visible)
        if outcome.program and outcome.passed >= self._passed:
            self._solution = _own(outcome.program)
            self._passed = outcome.passed
        return outcome

    def _told(self, outcome: Attempt) -> str:
        """What the agent reads of an attempt."""
        warning = "Error: the answer was cut off; write less. " if outcome.cut else ""
        if not outcome.program:
            name = self._task.entry_point
            return f"{warning}Error: there is no Python program in it that defines {name}. {_AGAIN}"
        if outcome.done:
            return "Submitted."
        return f"{warning}{shorten(outcome.said, self._observation_chars)}\n{_AGAIN}"

    def _judged(self) -> float:
        passed = self._judge.verdict(self._task, self._solution).passed
        self._stop = "won" if passed else "lost"
        return float(passed)

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
        return (
            f"Error: an answer may have {most} characters; this one has {len(action)}, and "
            "nothing was done."
        )

    def _test(self) -> str:
        if not self._solution:
            return "Error: there is no solution yet; use write first."
        if not self._task.visible:
            return "The task shows no examples that could be run; use run with tests of your own."
        return self._tell("test", [[test.expression, test.expected] for test in self._task.visible])

    def _tell(self, function: str, argument: str | Sequence[object]) -> str:
        call = f"{function}({self._solution!r}, {argument!r})"
        return execute(self._settings, call, self._observation_chars)

    def _needs_expert(self, name: str) -> None:
        if not self._expert:
            raise ValueError(f"{name}() needs the environment made with expert=True")

    def _info(self) -> dict[str, Any]:
        problem = self._task.prompt
        goal = stated(problem).goal if self._answers else problem.strip()
        return {"goal": goal} | ({"stop_reason": self._stop} if self._stop else {})


def _own(code: str) -> str:
    """A program as it is kept: the empty lines around it do not count. Its other lines end where
    Python's do."""
    return code.replace("\r\n", "\n").strip("\n") + "\n"
