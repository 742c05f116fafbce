"""Whether tasks are in order: the expert passes each of them, and an agent that does nothing passes
none.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium

import envs  # noqa: F401 -- registers
from envs.coding.tasks import Dataset, task_ids
from envs.tasks import make_tasks
from r2v_dist.config.env import EnvConfig, GameFamilyConfig, SplitSizes
from r2v_dist.config.run import load_config
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError

OnDone = Callable[[int, int], None]
_MAX_STEPS = 60
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
        """The schema is in docs/environments.md."""
        return asdict(self)


def check(target: str, on_done: OnDone) -> TaskCheck:
    """Check the tasks that a run config names (`.yaml`), or all tasks of `humaneval_plus`,
    `mbpp_plus`, `shipped`, a few of `textworld`.

    Raises UsageError for another name.
    """
    tasks = _tasks(target)
    # A game's interpreter is not made for threads; a program runs outside of this process anyway.
    workers = (
        1 if target == "textworld" or tasks[0].env == "r2v/TextWorld-v0" else os.cpu_count() or 1
    )
    oracle = 0
    empty = 0
    failures = list[str]()
    reasons = dict[str, str]()
    with ThreadPoolExecutor(workers) as pool:
        for done, (task, outcome) in enumerate(zip(tasks, pool.map(_look, tasks), strict=True)):
            oracle += outcome.expert_passed
            empty += not outcome.empty_passed and not outcome.problem
            if not outcome.expert_passed or outcome.empty_passed:
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


def _look(task: Task) -> _Outcome:
    """Both agents on one task. One that cannot be played is a finding, and the others are still
    looked at.
    """
    try:
        return _Outcome(_expert_passes(task), _empty_passes(task), "")
    # A boundary: whatever a broken task raises is what the check is there to tell.
    except Exception as error:
        return _Outcome(False, False, " ".join(f"{type(error).__name__}: {error}".split())[:300])


def _tasks(target: str) -> list[Task]:
    datasets: dict[str, Dataset] = {
        "humaneval_plus": "humaneval_plus",
        "mbpp_plus": "mbpp_plus",
        "shipped": "shipped",
    }
    if target in datasets:
        name = "r2v/MBPPPlus-v0" if target == "mbpp_plus" else "r2v/HumanEvalPlus-v0"
        return [
            Task(task_id, "check", name, (("task", task_id), ("max_steps", _MAX_STEPS)))
            for task_id in task_ids(datasets[target])
        ]
    if target == "textworld":
        quests = GameFamilyConfig(
            settings={
                "rooms": (1, 4),
                "objects": (3, 8),
                "quest_length": (2, 6),
                "instructions": "full",
            }
        )
        return _of_config(
            EnvConfig(games=(quests,), splits=SplitSizes(train=1, test=9), max_steps=_MAX_STEPS),
            0,
            SandboxConfig(),
        )
    if target.endswith((".yaml", ".yml")):
        config = load_config(Path(target), [])
        return _of_config(config.env, config.seed, config.sandbox)
    raise UsageError(
        f"tasks check {target}: give a run config (.yaml), or one of "
        f"{', '.join([*datasets, 'textworld'])}"
    )


def _of_config(config: EnvConfig, seed: int, sandbox: SandboxConfig) -> list[Task]:
    return make_tasks(config, seed, os.cpu_count() or 1, lambda done, total: None, sandbox)


def _expert_passes(task: Task) -> bool:
    return _passes(task, lambda env: env.expert_action())


def _empty_passes(task: Task) -> bool:
    return _passes(task, lambda env: _EMPTY)


def _passes(task: Task, choose: Callable[[Any], str | None]) -> bool:
    arguments: dict[str, Any] = dict(task.env_kwargs)
    env: Any = gymnasium.make(task.env, expert=True, **arguments).unwrapped
    try:
        env.reset()
        while (action := choose(env)) is not None:
            _, reward, terminated, truncated, _ = env.step(action)
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
