"""From a task to an environment that can be played. Importing this module makes our environments
known to Gymnasium.
"""

from typing import Any

import gymnasium
from gymnasium.envs.registration import register, registry

from envs.perturbation.wrapper import Perturb, default_rates
from envs.registry import ENVIRONMENTS, environment, environment_of
from envs.spec import EnvSpec
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Task


def make(task: Task, expert: bool) -> gymnasium.Env[str, str]:
    """The bare environment of a task, to be reset before use. `expert` says whether its oracle will
    be asked. Raises UsageError for a task of an environment that nobody loaded.
    """
    _register(environment_of(task))
    arguments: dict[str, Any] = dict(task.env_kwargs)
    # Gymnasium's order-enforcing wrappers only cost time here.
    env: gymnasium.Env[str, str] = gymnasium.make(task.env, expert=expert, **arguments).unwrapped
    return env


def perturbed(
    env: gymnasium.Env[str, str], task: Task, z: int | None, config: PerturbConfig
) -> Perturb:
    """The environment of a task as agents meet it under seed z; None is the clean one."""
    # A task that leaves the limit to its environment has the environment's own.
    limit = task.max_steps or int(env.get_wrapper_attr("max_steps"))
    rates = default_rates() | config.rates
    lexicon = environment_of(task).lexicon
    return Perturb(env, task.id, z, rates, limit, lexicon, config.quota, config.cooldown)


def _register(spec: EnvSpec) -> None:
    for name in spec.names:
        entry = registry.get(name)
        if entry is not None and entry.entry_point == spec.entry_point:
            continue
        # One of a user's own may have changed since this process loaded it first.
        registry.pop(name, None)
        # Agents send free text, so the passive checker's space checks only cost time at every step;
        # tests run check_env.
        register(name, spec.entry_point, disable_env_checker=True, order_enforce=False)


for _kind in ENVIRONMENTS:
    _register(environment(_kind))
