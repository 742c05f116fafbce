"""Perturbations are pure functions of (task, z, action prefix), and a failed call does not act."""

from typing import Any

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.perturbation.lexicon import Lexicon
from envs.perturbation.operators import OPERATORS, TEXT_OPERATORS, Scene
from envs.perturbation.wrapper import Perturb, default_rates, severity_profile
from envs.spaces import UnicodeText
from r2v_dist.errors import UsageError
from r2v_dist.seeding import rng_for


class Counter(gymnasium.Env[str, str]):
    """Tells which actions were executed; six lines a step, so that every operator has something to
    act on.
    """

    def __init__(self) -> None:
        self.observation_space = UnicodeText(max_length=4096)
        self.action_space = UnicodeText(max_length=64)
        self.executed: list[str] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self.executed = []
        return self._text(), {"goal": "count"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.executed.append(action)
        return self._text(), 0.0, False, False, {"goal": "count"}

    def _text(self) -> str:
        lines = [f"line {i} after {len(self.executed)} actions" for i in range(5)]
        return "\n".join([*lines, "Traceback (most recent call last):", "  ValueError: x"])


def play(
    task: str,
    z: int | None,
    actions: list[str],
    rates: dict[str, float] | None = None,
    **options: Any,
) -> list[Any]:
    env = Perturb(
        Counter(), task, z, default_rates() if rates is None else rates, 50, Lexicon(), **options
    )
    seen: list[Any] = [env.reset()]
    seen += [env.step(action) for action in actions]
    return seen


actions = st.lists(st.sampled_from(["a", "b", "look"]), min_size=1, max_size=12)


@given(actions, st.integers(0, 10_000))
@settings(max_examples=60)
def test_same_prefix_same_result(prefix: list[str], z: int) -> None:
    assert play("task", z, prefix) == play("task", z, prefix)
    assert (
        play("task", z, [*prefix, "a"])[: len(prefix) + 1]
        == play("task", z, [*prefix, "b"])[: len(prefix) + 1]
    )


def test_other_seed_or_task_other_result() -> None:
    twenty = ["look"] * 20
    runs = [play("task", z, twenty) for z in range(12)]
    assert all(a != b for i, a in enumerate(runs) for b in runs[:i])
    assert play("one", 3, twenty) != play("two", 3, twenty)


@given(actions, st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_failed_call_does_not_act(prefix: list[str], z: int) -> None:
    inner = Counter()
    env = Perturb(inner, "task", z, {"failure": 0.5, "timeout": 0.2}, 50, Lexicon())
    env.reset()
    expected = []
    for action in prefix:
        observation, _, _, _, info = env.step(action)
        if info["executed"]:
            expected.append(action)
        else:
            assert "not executed" in observation or "nothing was done" in observation
            assert info["perturbations"] in (["failure"], ["timeout"])
        assert inner.executed == expected


def test_without_a_seed_nothing_changes() -> None:
    for observation, *_, info in play("task", None, ["look"] * 30):
        assert observation == info["clean_observation"]
        assert info["perturbations"] == []


def test_a_failed_call_uses_up_a_step() -> None:
    env = Perturb(Counter(), "task", 1, {"failure": 1.0}, 3, Lexicon())
    profile = severity_profile(1)
    assert profile["failure"] > 0
    env.reset()
    ends = [env.step("a")[3] for _ in range(3)]
    assert ends == [False, False, True]


@pytest.mark.parametrize("operator", TEXT_OPERATORS, ids=lambda o: o.name)
def test_every_text_operator_changes_something_and_is_pure(operator: Any) -> None:
    scene = Scene(Counter()._text(), "an older result", Lexicon())
    results = [operator.apply(scene.clean, scene, rng_for(operator.name, i)) for i in range(30)]
    assert results == [
        operator.apply(scene.clean, scene, rng_for(operator.name, i)) for i in range(30)
    ]
    assert any(r is not None and r != scene.clean for r in results)


@pytest.mark.parametrize("name", OPERATORS)
def test_mean_rate_over_seeds_is_the_configured_one(name: str) -> None:
    severities = [severity_profile(z)[name] for z in range(4000)]
    assert sum(severities) / len(severities) == pytest.approx(1.0, abs=0.05)
    assert min(severities) == 0.0


def test_quota_and_cooldown() -> None:
    always = {"decoy_error": 1.0}
    z = next(z for z in range(100) if severity_profile(z)["decoy_error"] >= 1)
    perturbed = [bool(info["perturbations"]) for *_, info in play("task", z, ["a"] * 9, always)]
    assert all(perturbed)
    assert (
        sum(bool(info["perturbations"]) for *_, info in play("task", z, ["a"] * 9, always, quota=4))
        == 4
    )
    cooled = [
        bool(info["perturbations"]) for *_, info in play("task", z, ["a"] * 8, always, cooldown=2)
    ]
    assert cooled == [True, False, False] * 3


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(UsageError, match="unknown operator tpyo"):
        Perturb(Counter(), "task", 0, {"tpyo": 0.1}, 5, Lexicon())
