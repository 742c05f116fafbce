"""Whether tasks are in order: the expert passes each of them, an agent that does nothing passes
none, and neither does a solution that the environment knows to be wrong.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from envs.make import make, perturbed
from envs.registry import ENVIRONMENTS, environment, environment_of
from envs.tasks import make_tasks
from envs.terminal_bench.splits import tasks_in
from r2v_dist.config.env import EnvConfig, SplitSizes, is_own
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.run import load_config
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.config.terminal import TerminalConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError

OnDone = Callable[[int, int], None]
_FEW = SplitSizes(train=5, validation=5, calibration=5, test=5)
_EMPTY = "submit"
"""What the empty agent says at every step; where nothing can be submitted it means nothing."""


@dataclass(frozen=True)
class Play:
    """How the expert played a task: seconds by the clock from the first observation to the verdict
    (as many tasks are played at once as there are processors), actions, and what the environment
    tells of it.
    """

    task: str
    passed: bool
    expert_s: float = 0.0
    actions: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The schema is in docs/extending.md."""
        fields = asdict(self)
        facts: dict[str, Any] = fields.pop("facts")
        return fields | facts


@dataclass(frozen=True)
class TaskCheck:
    """`failures` names each task that the expert failed, the empty agent passed, a wrong solution
    passed, or that could not be played; `reasons` says which. `plays` has all but the last.
    """

    tasks: int
    oracle_passed: int
    empty_failed: int
    failures: tuple[str, ...]
    reasons: Mapping[str, str]
    plays: tuple[Play, ...] = ()

    @property
    def good(self) -> bool:
        """Whether there is nothing to complain about."""
        return self.tasks > 0 and not self.failures

    def to_json(self) -> dict[str, Any]:
        """The schema is in docs/extending.md."""
        return asdict(self) | {"plays": [play.to_json() for play in self.plays]}


def check(target: str, on_done: OnDone, root: Path | None = None) -> TaskCheck:
    """Check the tasks that a run config names (`.yaml`), some of an environment of a user's own,
    those of a directory of terminal tasks that can be played here (over a prepared root, if one is
    named), or a set with a name: all tasks of `humaneval_plus`, `mbpp_plus` or `shipped`, one of
    every family of `terminal_bench`, a few of `textworld`.

    Raises UsageError for another name.
    """
    tasks = _tasks(target, root)
    in_threads = all(environment_of(task).threads for task in tasks)
    workers = os.cpu_count() or 1 if in_threads else 1
    oracle = 0
    empty = 0
    failures = list[str]()
    reasons = dict[str, str]()
    plays = list[Play]()
    with ThreadPoolExecutor(workers) as pool:
        for index, (task, outcome) in enumerate(zip(tasks, pool.map(_look, tasks), strict=True)):
            expert_passed = outcome.expert is not None and outcome.expert.passed
            oracle += expert_passed
            empty += outcome.played and not outcome.empty_passed
            plays += [] if outcome.expert is None else [outcome.expert]
            if outcome.problem:
                failures.append(task.id)
                reasons[task.id] = outcome.problem
            on_done(index + 1, len(tasks))
    return TaskCheck(len(tasks), oracle, empty, tuple(failures), reasons, tuple(plays))


@dataclass(frozen=True)
class _Outcome:
    expert: Play | None
    empty_passed: bool
    problem: str
    played: bool = True


def _look(task: Task) -> _Outcome:
    """Both agents on one task. One that cannot be played is a finding, and the others are still
    looked at.
    """
    try:
        expert, empty = _expert_plays(task), _empty_passes(task)
        findings = {
            "the expert fails": not expert.passed,
            "an agent that does nothing passes": empty,
            "its wrong solution passes": _wrong_passes(task),
        }
        problem = ", ".join(finding for finding, found in findings.items() if found)
        return _Outcome(expert, empty, problem)
    # A boundary: whatever a broken task raises is what the check is there to tell.
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _Outcome(None, False, message, played=False)


def _tasks(target: str, root: Path | None) -> list[Task]:
    """The tasks of a directory, of a run config, of an environment of a user's own, or of a set
    with a name.
    """
    if Path(target).is_dir():
        return tasks_in(TerminalConfig(tasks=Path(target), root=root))
    if root is not None:
        raise UsageError(
            f"tasks check {target} --root {root}: only a directory of tasks has a root"
        )
    if is_own(target):
        return _of_config(EnvConfig(kind=target, splits=_FEW), 0, SandboxConfig())
    if target.endswith((".yaml", ".yml")):
        config = load_config(Path(target), [])
        return _of_config(config.env, config.seed, config.sandbox)
    samples: dict[str, Callable[[], list[Task]]] = {}
    for kind in ENVIRONMENTS:
        samples |= environment(kind).samples
    if target not in samples:
        raise UsageError(
            f"tasks check {target}: give a run config (.yaml), a directory of terminal tasks, an "
            f"environment of your own "
            f"(module:ATTRIBUTE or file.py:ATTRIBUTE), or one of {', '.join(samples)}"
        )
    return samples[target]()


def _of_config(config: EnvConfig, seed: int, sandbox: SandboxConfig) -> list[Task]:
    return make_tasks(config, seed, os.cpu_count() or 1, lambda done, total: None, sandbox)


def _expert_plays(task: Task) -> Play:
    return _play(task, lambda env: env.expert_action())


def _empty_passes(task: Task) -> bool:
    return _play(task, lambda env: _EMPTY).passed


def _wrong_passes(task: Task) -> bool:
    """Whether a solution that must fail passes; not where the environment knows none."""
    env = make(task, expert=True)
    commands = tuple(getattr(env, "wrong_solution", ()))
    env.close()
    if not commands:
        return False
    actions = iter((*commands, _EMPTY))
    return _play(task, lambda env: next(actions, None)).passed


def _play(task: Task, choose: Callable[[Any], str | None]) -> Play:
    env = make(task, expert=True)
    try:
        clean = perturbed(env, task, None, PerturbConfig())
        clean.reset()
        start_s = time.monotonic()
        actions = 0
        passed = False
        over = False
        while not over and (action := choose(clean)) is not None:
            _, reward, terminated, truncated, _ = clean.step(action)
            actions += 1
            over = terminated or truncated
            passed = over and reward > 0
        seconds = round(time.monotonic() - start_s, 3)
        return Play(task.id, bool(passed), seconds, actions, _facts(env))
    finally:
        env.close()


def _facts(env: Any) -> Mapping[str, Any]:
    """What an environment tells of the episode that it has just played, nothing where it has no
    such method.
    """
    tell = getattr(env, "facts", None)
    return {} if tell is None else dict(tell())


def render(target: str, result: TaskCheck) -> str:
    """The result for a person."""
    lines = [
        f"{target}: {result.tasks} tasks, the expert passed {result.oracle_passed}, the empty "
        f"agent failed {result.empty_failed}"
    ]
    for name in result.failures:
        reason = f" ({result.reasons[name]})" if name in result.reasons else ""
        lines.append(f"  not in order: {name}{reason}")
    return "\n".join(lines)
