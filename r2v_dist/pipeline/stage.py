"""What a stage of the pipeline is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from r2v_dist.config.run import RunConfig
from r2v_dist.pipeline.context import Context
from r2v_dist.storage.run_dir import stage_name

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Stage:
    """`content` is the part of the configuration that decides the stage's outcome; `needs` are the
    stages it reads.
    """

    name: str
    needs: tuple[str, ...]
    content: Callable[[RunConfig], Any]
    run: Callable[[Context], dict[str, Any]]
    training_seed: int = 0


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
