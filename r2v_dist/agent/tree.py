"""The tree of one (task, z): every model call, score and transition of the environment is made
once, whichever arm comes first.

An arm still goes along its own path, one real transition after the other; the environment is
stepped where no arm has been yet, and brought there by replay. A replay that shows something else
than before is drift: it is reported with the steps that rest on it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from r2v_dist.episodes import next_prefix
from r2v_dist.errors import RuntimeFailure, UsageError, node_failure
from r2v_dist.language_model import Answer
from r2v_dist.seeding import stable_hash

T = TypeVar("T")


class EnvCrash(Exception):
    """An environment raised while it was brought to a state or asked for its oracle: the episode's
    outcome, whoever asked.
    """


class AgentEnv(Protocol):
    """The part of a (perturbed) Gymnasium environment used here."""

    def reset(self) -> tuple[str, dict[str, Any]]: ...

    def step(self, action: str, /) -> tuple[str, float, bool, bool, dict[str, Any]]: ...

    def expert_action(self) -> str | None: ...


@dataclass(frozen=True)
class Transition:
    """What came of an action prefix: the result of its last step. The reset has reward 0."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass
class Tree:
    """What is already known of one (task, z): answers by (role, prefix, replica, sampling),
    transitions and oracles by prefix.

    Concurrent arms that ask the same question share one call. Dropped when the unit's episodes are
    committed.
    """

    answers: dict[tuple[object, ...], asyncio.Task[Answer]] = field(default_factory=dict)
    scores: dict[tuple[object, ...], asyncio.Task[tuple[float, ...]]] = field(default_factory=dict)
    transitions: dict[int, Transition] = field(default_factory=dict)
    oracles: dict[int, str | None] = field(default_factory=dict)
    risks: dict[int, float] = field(default_factory=dict)
    """Shares of independent branches that fail, by prefix."""
    asked: Counter[str] = field(default_factory=Counter)
    """Questions by role, answered from memory or not."""
    stepped: int = 0
    """Steps of the real environment, replays included."""
    waits_for: str = ""
    """Whose answer has been asked for and is not there."""

    async def answer(
        self, role: str, key: tuple[object, ...], ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """The memoised answer."""
        self.asked[role] += 1
        self.waits_for = role
        answer = await _once(self.answers, (role, *key), ask)
        self.waits_for = ""
        return answer

    def answered(self, role: str) -> list[Answer]:
        """What a role was really asked for."""
        return [task.result() for key, task in self.answers.items() if key[0] == role]

    def abandon(self) -> None:
        """Stop what is still being asked: the unit is over."""
        for task in (*self.answers.values(), *self.scores.values()):
            task.cancel()

    async def score(
        self, key: tuple[object, ...], ask: Callable[[], Awaitable[tuple[float, ...]]]
    ) -> tuple[float, ...]:
        """The memoised scores of a proposal's candidates."""
        self.waits_for = "verifier"
        scores = await _once(self.scores, key, ask)
        self.waits_for = ""
        return scores


async def _once(
    tasks: dict[tuple[object, ...], asyncio.Task[T]],
    key: tuple[object, ...],
    ask: Callable[[], Awaitable[T]],
) -> T:
    """Ask once for each key; a failed call is forgotten, so that a retry asks again."""
    task = tasks.get(key)
    if task is None:
        task = tasks[key] = asyncio.ensure_future(ask())
    try:
        return await asyncio.shield(task)
    except BaseException:
        tasks.pop(key, None)
        raise


class TreeEnv:
    """The environment of a unit, for one arm after the other. `prefix` is the hash of the actions
    so far, `drift` whether a replay went another way. With `expert`, the oracle's action is
    recorded at every new state, since asking later would need a replay.
    """

    def __init__(self, env: AgentEnv, tree: Tree, expert: bool = False) -> None:
        self._env = env
        self.tree = tree
        self._expert = expert
        self._path: tuple[str, ...] = ()
        self._standing: tuple[str, ...] | None = None
        """What the real environment has executed since its reset; None where that is not known."""
        self.prefix = 0
        self.drift = False

    def reset(self) -> Transition:
        """Back to the start."""
        self._path = ()
        self.prefix = 0
        self.drift = False
        return self.tree.transitions.get(0) or self._restart()

    def step(self, action: str) -> Transition:
        """Take an action. Raises whatever the environment raises."""
        prefix = next_prefix(self.prefix, action)
        transition = self.tree.transitions.get(prefix)
        if transition is None:
            self._go()
            transition = self.tree.transitions[prefix] = self._really(action)
            if self._expert and not (transition.terminated or transition.truncated):
                self.tree.oracles[prefix] = self._env.expert_action()
        self._path = (*self._path, action)
        self.prefix = prefix
        return transition

    async def astep(self, action: str) -> Transition:
        """As `step`; an environment that waits for other processes (its `waits`) keeps no other
        episode waiting.
        """
        return (
            await asyncio.to_thread(self.step, action)
            if getattr(self._env, "waits", False)
            else self.step(action)
        )

    def expert_action(self) -> str | None:
        """The environment's oracle here. Raises EnvCrash for whatever the environment raises."""
        if self.prefix not in self.tree.oracles:
            with _crashing():
                self._go()
                self.tree.oracles[self.prefix] = self._env.expert_action()
        return self.tree.oracles[self.prefix]

    def wrong_action(self, seed: int) -> str | None:
        """A wrong action here, None where the environment knows none. Raises EnvCrash for whatever
        the environment raises.
        """
        wrong_action: Callable[[int], str | None] | None = getattr(self._env, "wrong_action", None)
        if wrong_action is None:
            return None
        with _crashing():
            self._go()
            return wrong_action(seed)

    def _go(self) -> None:
        """Bring the real environment to where this arm is."""
        standing = self._standing
        if standing is None or self._path[: len(standing)] != standing:
            self._restart()
            standing = ()
        prefix = 0
        for place, action in enumerate(self._path):
            prefix = next_prefix(prefix, action)
            if place >= len(standing):
                self._compare(prefix, self._really(action))

    def _restart(self) -> Transition:
        observation, info = self._env.reset()
        self._standing = ()
        transition = Transition(observation, 0.0, False, False, info)
        self._compare(0, transition)
        return self.tree.transitions.setdefault(0, transition)

    def _really(self, action: str) -> Transition:
        standing, self._standing = self._standing, None  # unknown should the environment raise
        assert standing is not None
        transition = Transition(*self._env.step(action))
        self._standing = (*standing, action)
        self.tree.stepped += 1
        return transition

    def _compare(self, prefix: int, transition: Transition) -> None:
        original = self.tree.transitions.get(prefix)
        if original is not None and stable_hash(original.observation) != stable_hash(
            transition.observation
        ):
            self.drift = True


@contextlib.contextmanager
def _crashing() -> Iterator[None]:
    """A boundary: whatever a task's environment raises is that episode's outcome."""
    try:
        yield
    except (RuntimeFailure, UsageError):
        raise
    except Exception as error:
        if (failure := node_failure(error)) is not None:
            raise failure from error
        raise EnvCrash(f"{type(error).__name__}: {error}") from error
