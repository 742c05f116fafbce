"""What a stage of the pipeline is: `inputs -> outputs` in the run directory."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from r2v_dist.config.learners import CONSTRAINT_STATUSES
from r2v_dist.config.run import RunConfig
from r2v_dist.pipeline.context import Context
from r2v_dist.router.names import made_by
from r2v_dist.seeding import short_hash
from r2v_dist.storage.run_dir import stage_name

Part = Literal["slm", "verifier", "router"]
"""What later stages deploy. SLM and verifier together are the policy."""
_COUNTED = ("random", "entropy", "heuristic", "verifier", "perplexity", "stuck_latch", "oracle")
"""Nothing learns these, yet they are part of what names a training of routers, since finished runs
are named that way. Routers that came later are not."""

_NEWER = frozenset({"hysteresis"})
"""Parts that count only where they are set, so that stages of older runs stay complete."""


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages.

    `needs` are the stages whose results it reads; `@policy` and `@router` stand for the stages
    that publish them. `reads` are the parts of the configuration that decide its outcome, as
    dotted names. `when` says whether a run has the stage. A stage that publishes an SLM or a
    verifier has the results `checkpoint` and `version`.
    """

    name: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    run: Callable[[Context], dict[str, Any]]
    publishes: Part | None = None
    when: Callable[[RunConfig], bool] = lambda config: True
    each_training_seed: bool = True
    training_seed: int = 0

    def content(self, config: RunConfig) -> list[Any]:
        """The values that `reads` names: another value makes the stage run again."""
        return self._values(config, as_before=False)

    def content_before(self, config: RunConfig) -> list[Any]:
        """The same as earlier versions named it, whose stages are not run again."""
        return self._values(config, as_before=True)

    def _values(self, config: RunConfig, as_before: bool) -> list[Any]:
        values = [(name, value_of(config, name, as_before)) for name in self.reads]
        return [value for name, value in values if name not in _NEWER or value is not None]


def value_of(config: RunConfig, name: str, as_before: bool = False) -> Any:
    """A part of the configuration by its dotted name, without what only says where and how fast.
    `as_before`: with as much of that as earlier versions had.

    Eight names are no keys: `games` are the bytes of what is named by a path, `served_log` those of
    a request log, `hysteresis` is the router's, `test_seeds` the perturbation seeds of test tasks,
    `constraint_statuses` the words in which training ends,
    `labels.first_round` the keys of `labels` that decide its first round, and `learner_routers` and
    `other_routers` the evaluated routers that a learner and that other means make.
    """
    if name == "hysteresis":
        hysteresis = config.router and config.router.hysteresis
        return hysteresis.content() if hysteresis else None
    if name == "learner_routers":
        names = (*_COUNTED, *made_by("learner", "query"))
        return tuple(router for router in config.evaluate.routers if router in names)
    if name == "other_routers":
        return other_routers(config)
    if name == "constraint_statuses":
        return CONSTRAINT_STATUSES
    if name == "test_seeds":
        return config.perturb.seeds("test", config.seed)
    if name == "served_log":
        return _log_identity(config)
    if name == "games":
        from envs.tasks import identity

        return identity(config.env)
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    if as_before and hasattr(value, "as_before"):
        return value.as_before()
    if hasattr(value, "content"):
        return value.content()
    return value() if callable(value) else value


def other_routers(config: RunConfig) -> tuple[str, ...]:
    """The fitted routers of a run that are not the router learner's."""
    return tuple(name for name in config.swept if name in made_by("regression", "rescored"))


def _log_identity(config: RunConfig) -> str | None:
    """The hash of the bytes of a request log; of a folder without one, its name. None where no
    router learns from one."""
    folder = config.router.served if config.router else None
    if folder is None:
        return None
    parts = [str(folder)]
    for path in sorted(folder.glob("*.arrows")):
        with path.open("rb") as file:
            parts.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return short_hash(*(parts[1:] or parts))


def for_training_seed(stages: Sequence[Stage], training_seed: int) -> list[Stage]:
    """The same stages with everything trained anew; they read each other, and of all other stages
    the shared ones.
    """
    names = {stage.name: stage_name(stage.name, training_seed) for stage in stages}
    return [
        replace(
            stage,
            name=names[stage.name],
            needs=tuple(names.get(n, n) for n in stage.needs),
            training_seed=training_seed,
        )
        for stage in stages
    ]
