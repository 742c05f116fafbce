"""What an environment is to the rest of the program: one `EnvSpec`, whose fields are all that
anything outside of an environment's own folder may ask about it.

This module imports nothing heavy, so that a dry run may read it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envs.perturbation.lexicon import Lexicon
from r2v_dist.config.env import EnvConfig
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.report.published import Published
from r2v_dist.verifier.base import Verifier

if TYPE_CHECKING:
    import gymnasium


def _quiet(done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class TaskRequest:
    """What a run asks of an environment: the sizes of the splits and all options are in `config`,
    and equal requests are answered by equal tasks. `workers` and `on_done(done, total)` are for
    tasks that take long to make.
    """

    config: EnvConfig
    seed: int
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    workers: int = 1
    on_done: Callable[[int, int], None] = _quiet


def _nothing_named(config: EnvConfig) -> dict[str, str]:
    return {}


def _always(task: Task, config: EnvConfig) -> bool:
    return True


@dataclass(frozen=True)
class EnvSpec:
    """An environment. `docs/extending.md` walks through one.

    `id` is its name in Gymnasium and in `Task.env`. `entry_point` makes it, from the arguments of a
    task and `expert`, which says whether `expert_action` will be asked. `make_tasks` makes the
    tasks of every split of a run.
    """

    id: str
    entry_point: "str | Callable[..., gymnasium.Env[str, str]]"
    make_tasks: Callable[[TaskRequest], list[Task]]
    lexicon: Lexicon = field(default_factory=Lexicon)
    """Misleading text in the environment's own words."""
    aliases: tuple[str, ...] = ()
    """Further names of the same environment."""
    check_tasks: Callable[[TaskRequest], None] | None = None
    """Raises UsageError where `make_tasks` would, but makes nothing; None where tasks are made in a
    moment.
    """
    identity: Callable[[EnvConfig], dict[str, str]] = _nothing_named
    """Digests of the files that the configuration names by a path."""
    in_place: Callable[[Task, EnvConfig], bool] = _always
    """Whether the files of a task made earlier are still where the configuration says."""
    rules: Callable[[SandboxConfig], Verifier] | None = None
    """Makes the verifier `kind: rules`; None where there are no rules."""
    threads: bool = True
    """Whether several instances may play in threads of one process."""
    sandboxed: bool = False
    """Whether actions run programs in the sandbox."""
    samples: Mapping[str, Callable[[], list[Task]]] = field(default_factory=dict)
    """Sets of tasks that `r2v tasks check` knows by a name."""
    published: Published | None = None
    """What the R2V paper reports; the report of a run shows it beside its own numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names in Gymnasium."""
        return (self.id, *self.aliases)
