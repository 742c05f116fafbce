"""Perturbations inside the loop. Invariant: under seed z the perturbed environment is a pure
function of the action prefix.

The randomness of operator k at step t depends on (task id, z, t, k) and on nothing else. Each z
draws a severity profile: a multiplier of every operator's rate, 0 for operators that are off. The
multipliers have mean 1 over seeds, so that seeds differ while the average rate is the configured
rate. `z = None` is the clean environment.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium

from envs.perturbation.lexicon import Lexicon
from envs.perturbation.operators import FAULTS, OPERATORS, TEXT_OPERATORS, Scene
from envs.spaces import UnicodeText
from r2v_dist.errors import UsageError
from r2v_dist.seeding import rng_for


def severity_profile(z: int) -> dict[str, float]:
    """Rate multiplier of every operator under seed z, each with mean 1 over seeds.

    The multiplier is a harshness that all operators share, uniform in [0.4, 1.6], times a factor of
    the single operator: 0 with probability 1/4 (off), else uniform in [1/2, 13/6].
    """
    harshness = rng_for("harshness", z).uniform(0.4, 1.6)
    profile = {}
    for name in OPERATORS:
        rng = rng_for("severity", z, name)
        is_off = rng.random() < 0.25
        profile[name] = 0.0 if is_off else harshness * rng.uniform(1 / 2, 13 / 6)
    return profile


def default_rates() -> dict[str, float]:
    """The default rate of every operator."""
    return {name: operator.rate for name, operator in OPERATORS.items()}


class Perturb(gymnasium.Wrapper[str, str, str, str]):
    """Perturbs what an agent sees of `env`, and fails some of its calls.

    Args:
        task_id: the name of the task; with z it selects all randomness. z: the perturbation seed,
        None for no perturbation at all. rates: default probability a step of each operator, by
        name; an operator that is not named is off. quota: at most this many perturbed steps an
        episode, None for no limit. cooldown: steps without perturbation after each perturbed one.

    `info` gains `clean_observation`, `perturbations` (names of the operators that changed this
    step, in order) and `executed` (False when a tool fault kept the action from being executed).

    A failed call uses up a step: `max_steps` calls, failed or not, end the episode as `truncated`.
    The environment cannot count them, because failed calls do not reach it.
    """

    def __init__(
        self,
        env: gymnasium.Env[str, str],
        task_id: str,
        z: int | None,
        rates: Mapping[str, float],
        max_steps: int,
        lexicon: Lexicon,
        quota: int | None = None,
        cooldown: int = 0,
    ) -> None:
        super().__init__(env)
        unknown_names = set(rates) - set(OPERATORS)
        if unknown_names:
            raise UsageError(
                f"perturb.rates: unknown operator {sorted(unknown_names)[0]}; the operators are "
                f"{', '.join(OPERATORS)}"
            )
        self._task_id = task_id
        self._z = z
        self._lexicon = lexicon
        self._quota = quota
        self._cooldown = cooldown
        self._max_steps = max_steps
        profile = severity_profile(z) if z is not None else {}
        self._rates = {name: rate * profile.get(name, 0.0) for name, rate in rates.items()}
        assert isinstance(env.observation_space, UnicodeText), "observation_space: UnicodeText only"
        self._space = env.observation_space
        self._t = 0
        self._perturbed_steps = 0
        self._quiet_until = 0
        self._clean = ""
        self._goal_info: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """The first observation is perturbed too, but there is no call yet that could fail."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._t = 0
        self._perturbed_steps = 0
        self._quiet_until = 0
        self._clean = observation
        self._goal_info = {"goal": info["goal"]}
        text, names = self._rewrite(observation, previous="")
        return text, self._told(info, observation, names, executed=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run the action unless a tool fault fires; show what the operators leave of the result."""
        self._t += 1
        out_of_steps = self._t >= self._max_steps
        for fault in FAULTS:
            if self._fires(fault.name):
                self._count()
                message = self._with_reminder(fault.message(self._rng(fault.name, "text")))
                reward, stop = self._at_the_limit() if out_of_steps else (0.0, {})
                info = self._told(self._goal_info | stop, message, [fault.name], executed=False)
                return message, reward, False, out_of_steps, info
        observation, gained, terminated, truncated, info = self.env.step(action)
        reward = float(gained)
        previous = self._clean
        self._clean = observation
        text, names = self._rewrite(observation, previous)
        if out_of_steps and not terminated and not truncated:
            truncated = True
            reward, stop = self._at_the_limit()
            info = info | stop
        info = self._told(info, observation, names, executed=True)
        return text, reward, terminated, truncated, info

    def _with_reminder(self, message: str) -> str:
        """The message of a failed call, and what the environment says then: its `reminder`."""
        reminder = ""
        if self.env.has_wrapper_attr("reminder"):
            reminder = str(self.env.get_wrapper_attr("reminder"))
        return f"{message}\n{reminder}" if reminder else message

    def _at_the_limit(self) -> tuple[float, dict[str, str]]:
        """Reward and stop reason of an episode whose steps are used up. An environment that counts
        what was done until then has `at_the_limit()`, which gives the reward, and `stop_reason`.
        """
        if not self.env.has_wrapper_attr("at_the_limit"):
            return 0.0, {"stop_reason": "step_limit"}
        reward = float(self.env.get_wrapper_attr("at_the_limit")())
        return reward, {"stop_reason": str(self.env.get_wrapper_attr("stop_reason"))}

    @property
    def waits(self) -> bool:
        """Whether a step of the wrapped environment waits for other processes."""
        return self.env.has_wrapper_attr("waits") and bool(self.env.get_wrapper_attr("waits"))

    def expert_action(self) -> str | None:
        """The wrapped environment's expert; it is not fooled by what the agent sees."""
        action: str | None = self.env.get_wrapper_attr("expert_action")()
        return action

    def wrong_action(self, seed: int) -> str | None:
        """A wrong action of the wrapped environment, None where it knows none."""
        if not self.env.has_wrapper_attr("wrong_action"):
            return None
        action: str | None = self.env.get_wrapper_attr("wrong_action")(seed)
        return action

    def _rewrite(self, observation: str, previous: str) -> tuple[str, list[str]]:
        scene = Scene(observation, previous, self._lexicon)
        text = observation
        names = []
        for operator in TEXT_OPERATORS:
            if not self._fires(operator.name):
                continue
            new_text = operator.apply(text, scene, self._rng(operator.name, "text"))
            if new_text is not None and new_text != text:
                text = new_text
                names.append(operator.name)
        if names:
            self._count()
        return self._space.clip(text), names

    def _fires(self, name: str) -> bool:
        cooling_down = self._t < self._quiet_until
        quota_used = self._quota is not None and self._perturbed_steps >= self._quota
        if cooling_down or quota_used:
            return False
        rate = self._rates.get(name, 0.0)
        return rate > 0 and self._rng(name, "fires").random() < rate

    def _rng(self, name: str, purpose: str) -> Any:
        return rng_for("perturb", self._task_id, self._z, self._t, name, purpose)

    def _count(self) -> None:
        self._perturbed_steps += 1
        self._quiet_until = self._t + 1 + self._cooldown

    @staticmethod
    def _told(
        info: Mapping[str, Any], clean: str, names: list[str], executed: bool
    ) -> dict[str, Any]:
        """The environment's info with the keys of this wrapper."""
        return {**info, "clean_observation": clean, "perturbations": names, "executed": executed}
