"""TerminalBench as an agent environment: shell commands, a persistent terminal, and the task's own
tests at the end.

A state is a sequence of actions. What each led to is kept with a snapshot of the machine where one
can be had, so that a state is reached again without playing its actions once more; where a process
has to survive they are played again, and what they show is then shown, so that drift is seen.
"""

import shlex
import time
from dataclasses import replace
from typing import Any

import gymnasium

from envs.spaces import UnicodeText
from envs.terminal_bench.actions import Action, parse_action
from envs.terminal_bench.full_screen import FullScreen, after_screen, took_screen
from envs.terminal_bench.judge import brought_along, judge, prepare
from envs.terminal_bench.machine import Came, Machine, MachineGone, Shown
from envs.terminal_bench.mistakes import mistake
from envs.terminal_bench.observation import observation_of
from envs.terminal_bench.places import machine_for, task_for
from envs.terminal_bench.states import Path, Result, States
from r2v_dist.config.terminal import TerminalConfig
from r2v_dist.errors import RuntimeFailure, UsageError

MANUAL = """You are root in a bash terminal. Every answer is one action:
a command, or several lines of a script, runs in the shell, which stays as you leave it
keys KEY... types keys into a program that waits, by tmux's names: keys C-c, keys q Enter
submit  ends the task; its result is then checked"""


class TerminalBenchEnv(gymnasium.Env[str, str]):
    """One task. Reward is 1.0 on the `submit` after which the task's tests pass, else 0.0.

    Args:
        task: a folder, or FAMILY@SEED of the project's own. max_steps: actions until the episode is
        truncated, which tests nothing. expert: makes `expert_action()` and `wrong_action()` work.
        terminal: a `TerminalConfig` as JSON.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 -- Gymnasium's own convention
    waits = True
    """`step` waits for other processes: taken in a thread, it keeps no other episode waiting."""

    def __init__(
        self,
        task: str,
        max_steps: int = 30,
        expert: bool = False,
        terminal: str = "{}",
        render_mode: str | None = None,
    ) -> None:
        self._config = TerminalConfig.model_validate_json(terminal)
        self._task = task_for(task)
        self._expert = expert
        self.observation_space = self._seen = UnicodeText(max_length=32_768, min_length=0)
        self.action_space = self._said = UnicodeText(max_length=16_384, min_length=0)
        self.render_mode = render_mode
        self.max_steps = max_steps
        self._machine: Machine | None = None
        self._states = States()
        self._path: Path = ()
        self._observation = ""
        self._screen: FullScreen | None = None
        """Of the program that runs on the machine now, if it has taken the screen."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start over. The seed changes nothing."""
        super().reset(seed=seed)
        self._path = ()
        self._states.tidy()
        if () not in self._states:
            self._begin()
            text = f"{MANUAL}\n[{self._task.build.folder}]"
            home = self._task.build.folder
            self._states.add((), Result(self._seen.clip(text), folder=home, home=home))
        self._observation = self._states[()].observation
        return self._observation, self._info("")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do what the action says. One that means nothing costs a step, is answered, and never
        raises.
        """
        path = (*self._path, action)
        result = self._states.known(path)
        if result is None:
            result = self._really(action)
        self._path = path
        self._observation = result.observation
        terminated = bool(result.stop)
        truncated = not terminated and len(path) >= self.max_steps
        stop = "step_limit" if truncated else result.stop
        return result.observation, result.reward, terminated, truncated, self._info(stop)

    def expert_action(self) -> str | None:
        """The oracle's next command, `submit` after the last. First it comes back to where that
        command belongs: out of a program that waits, and into the folder. Raises UsageError for a
        task without a solution.
        """
        self._needs_expert("expert_action")
        if not self._task.oracle:
            raise UsageError(
                f"task {self._task.name}: it has no solution that could be read, so there is no "
                f"expert for it"
            )
        state = self._states[self._path]
        if state.waits:
            return "keys C-c"
        if state.folder != state.home and state.done < len(self._task.oracle):
            return f"cd {shlex.quote(state.home)}"
        return self._next_of_oracle(state)

    def wrong_action(self, seed: int) -> str | None:
        """What an agent that errs might do here."""
        self._needs_expert("wrong_action")
        state = self._states[self._path]
        return mistake(self._task, state.done, state.last, seed)

    @property
    def wrong_solution(self) -> tuple[str, ...]:
        """Commands that look like a solution and must not pass; none where none is known."""
        self._needs_expert("wrong_solution")
        return self._task.wrong

    def facts(self) -> dict[str, Any]:
        """What `r2v tasks check` tells of an episode: where it ran, and the programs of the agent
        that its tests needed and that outlived them.
        """
        config = self._config
        sandboxed = f"bubblewrap, {config.root or '/usr'}"
        isolation = sandboxed if config.backend == "sandbox" else "container"
        machine = self._machine
        keeps = self._task.keeps_processes
        survived = machine.programs() if keeps and machine is not None else []
        return {
            "difficulty": self._task.difficulty,
            "category": self._task.category,
            "commands": len(self._task.oracle),
            "isolation": isolation,
            "keeps_processes": keeps,
            "survived": survived,
        }

    def render(self) -> str:
        """The last observation."""
        return self._observation

    def close(self) -> None:
        """End the machine."""
        self._screen = None
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        self._states.standing = None

    def _begin(self) -> None:
        """A prepared machine."""
        self.close()
        self._machine = machine_for(self._task, self._config)
        try:
            prepare(self._machine, self._task)
        except MachineGone as error:
            raise RuntimeFailure(f"task {self._task.name}: its set-up ended: {error}") from None
        self._states.standing = ()

    def _really(self, action: str) -> Result:
        """Take an action from where the path says."""
        previous = self._states[self._path]
        try:
            machine = self._there()
            self._states.standing = None
            self._states.keep(self._path, machine.snapshot)
            result = self._act(machine, action, previous)
        except MachineGone as error:
            self.close()
            message = f"Error: the terminal is gone: {error}"
            result = replace(previous, observation=message, stop="lost")
        path = (*self._path, action)
        self._states.add(path, result)
        if not result.stop:
            self._states.standing = path
        return result

    def _there(self) -> Machine:
        """The machine, brought to where the path is. A path that does not begin the episode has a
        snapshot, or the machine stands there: see `States.known`.
        """
        if self._machine is not None and self._states.standing == self._path:
            return self._machine
        snapshot = self._states.snapshot(self._path)
        if snapshot is None:
            assert not self._path
            self._begin()
        else:
            self._restore(snapshot)
        assert self._machine is not None
        return self._machine

    def _restore(self, snapshot: bytes) -> None:
        self._screen = None
        try:
            if self._machine is not None:
                self._machine.restore(snapshot)
                return
        except MachineGone:
            self.close()
        self._machine = machine_for(self._task, self._config)
        self._machine.restore(snapshot)

    def _act(self, machine: Machine, answer: str, previous: Result) -> Result:
        """What an answer leads to. Raises MachineGone."""
        most = self._said.max_length
        if len(answer) > most:
            return self._refused(previous, f"an answer may have {most} characters")
        try:
            action = parse_action(answer)
        except UsageError as error:
            return self._refused(previous, str(error))
        if action.kind == "submit":
            verdict = judge(machine, self._task)
            stop = "won" if verdict.passed else "lost"
            reward = float(verdict.passed)
            return replace(previous, observation="Submitted.", reward=reward, stop=stop)
        if action.kind == "nothing":
            return self._refused(previous, "an answer is a command, keys or submit")
        remaining_s = self._config.episode_s - previous.spent_s
        if remaining_s <= 0:
            return self._refused(previous, "the time of this task is over; submit what there is")
        return self._typed(machine, action, previous, min(self._config.command_s, remaining_s))

    def _typed(self, machine: Machine, action: Action, previous: Result, wait_s: float) -> Result:
        at_home = previous.folder == previous.home and not previous.waits
        solving = at_home and action.text.strip() == self._next_of_oracle(previous).strip()
        start_s = time.monotonic()
        if action.kind == "keys":
            response = machine.keys(action.typed, wait_s)
        else:
            with brought_along(machine, self._task.oracle_files if solving else None):
                response = machine.command(action.text, wait_s)
        spent_s = previous.spent_s + time.monotonic() - start_s
        text = self._shown(response, wait_s)
        carried_out = solving and response.code == 0
        return Result(
            observation=self._seen.clip(text),
            done=previous.done + carried_out,
            last=action.text,
            spent_s=spent_s,
            folder=response.folder,
            home=response.folder if carried_out else previous.home,
            waits=response.came is Came.WAITS,
        )

    def _shown(self, response: Shown, wait_s: float) -> str:
        """The observation; a full-screen program is seen as it is laid out."""
        limit = self._config.observation_chars
        if self._screen is None and took_screen(response.output):
            self._screen = FullScreen()
        if self._screen is None:
            return observation_of(response, limit, wait_s)
        self._screen.feed(response.output)
        if response.came is Came.WAITS:
            layout = self._screen.text().encode()
            return observation_of(replace(response, output=layout), limit, wait_s)
        self._screen = None
        return observation_of(
            replace(response, output=after_screen(response.output)), limit, wait_s
        )

    def _next_of_oracle(self, state: Result) -> str:
        oracle = self._task.oracle
        return oracle[state.done] if state.done < len(oracle) else "submit"

    def _refused(self, previous: Result, why: str) -> Result:
        return replace(previous, observation=f"Error: {why}. Nothing was done.")

    def _needs_expert(self, name: str) -> None:
        if not self._expert:
            raise ValueError(f"{name}() needs the environment made with expert=True")

    def _info(self, stop: str) -> dict[str, Any]:
        return {"goal": self._task.instruction} | ({"stop_reason": stop} if stop else {})
