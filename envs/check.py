"""Whether tasks are in order: the expert passes each of them, an agent that does nothing passes
none, and neither does a solution that the environment knows to be wrong.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envs.make import make, perturbed
from envs.registry import ENVIRONMENTS, environment, environment_of
from envs.tasks import make_tasks
from r2v_dist.config.env import EnvConfig, SplitSizes, is_own
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.run import load_config
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError

OnDone = Callable[[int, int], None]
_FEW = SplitSizes(train=5, validation=5, calibration=5, test=5)
_EMPTY = "submit"
"""What the empty agent says at every step; where nothing can be submitted it means nothing."""


@dataclass(frozen=True)
class TaskCheck:
    """`failures` names each task that the expert failed, the empty agent passed, or that could not
    be played; `reasons` says of the last what went wrong.
    """

    tasks: int
    oracle_passed: int
    empty_failed: int
    failures: tuple[str, ...]
    reasons: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Whether there is nothing to complain about."""
        return self.tasks > 0 and not self.failures

    def to_json(self) -> dict[str, Any]:
        """The schema is in docs/extending.md."""
        return asdict(self)


def check(target: str, on_done: OnDone) -> TaskCheck:
    """Check the tasks that a run config names (`.yaml`), some of an environment of a user's own,
    or a set with a name: all tasks of `humaneval_plus`, `mbpp_plus` or `shipped`, one of every
    family of `terminal_bench`, a few of `textworld`.

    Raises UsageError for another name.
    """
    tasks = _tasks(target)
    in_threads = all(environment_of(task).threads for task in tasks)
    workers = os.cpu_count() or 1 if in_threads else 1
    oracle = 0
    empty = 0
    failures = list[str]()
    reasons = dict[str, str]()
    with ThreadPoolExecutor(workers) as pool:
        for done, (task, outcome) in enumerate(zip(tasks, pool.map(_look, tasks), strict=True)):
            oracle += outcome.expert_passed
            empty += outcome.played and not outcome.empty_passed
            if not outcome.expert_passed or outcome.empty_passed or outcome.problem:
                failures.append(task.id)
            if outcome.problem:
                reasons[task.id] = outcome.problem
            on_done(done + 1, len(tasks))
    return TaskCheck(len(tasks), oracle, empty, tuple(failures), reasons)


@dataclass(frozen=True)
class _Outcome:
    expert_passed: bool
    empty_passed: bool
    problem: str
    played: bool = True


def _look(task: Task) -> _Outcome:
    """Both agents on one task. One that cannot be played is a finding, and the others are still
    looked at.
    """
    try:
        expert, empty = _expert_passes(task), _empty_passes(task)
        problem = "its wrong solution passes" if _wrong_passes(task) else ""
        return _Outcome(expert, empty, problem)
    # A boundary: whatever a broken task raises is what the check is there to tell.
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _Outcome(False, False, said, played=False)


def _tasks(target: str) -> list[Task]:
    """The tasks of a run config, of an environment of a user's own, or of a set with a name."""
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
            f"tasks check {target}: give a run config (.yaml), an environment of your own "
            f"(module:ATTRIBUTE or file.py:ATTRIBUTE), or one of {', '.join(samples)}"
        )
    return samples[target]()


def _of_config(config: EnvConfig, seed: int, sandbox: SandboxConfig) -> list[Task]:
    return make_tasks(config, seed, os.cpu_count() or 1, lambda done, total: None, sandbox)


def _expert_passes(task: Task) -> bool:
    return _passes(task, lambda env: env.expert_action())


def _empty_passes(task: Task) -> bool:
    return _passes(task, lambda env: _EMPTY)


def _wrong_passes(task: Task) -> bool:
    """Whether a solution that must fail passes; not where the environment knows none."""
    env = make(task, expert=True)
    commands = tuple(getattr(env, "wrong_solution", ()))
    env.close()
    if not commands:
        return False
    left = iter((*commands, _EMPTY))
    return _passes(task, lambda env: next(left, None))


def _passes(task: Task, choose: Callable[[Any], str | None]) -> bool:
    env = make(task, expert=True)
    try:
        clean = perturbed(env, task, None, PerturbConfig())
        clean.reset()
        while (action := choose(clean)) is not None:
            _, reward, terminated, truncated, _ = clean.step(action)
            if terminated or truncated:
                return bool(reward > 0)
        return False
    finally:
        env.close()


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
