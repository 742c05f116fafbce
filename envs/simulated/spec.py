"""The simulated world as the rest of the program knows it."""

from envs.simulated.lexicon import LEXICON
from envs.spec import EnvSpec, TaskRequest
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError


def make_tasks(request: TaskRequest) -> list[Task]:
    """Raises UsageError: this world has a kind of run of its own."""
    raise UsageError(
        "env.kind = simulated: the simulated world is run by a configuration of its own; start "
        "from configs/simulated.yaml"
    )


SPEC = EnvSpec(
    id="r2v/Simulated-v0",
    entry_point="envs.simulated.env:SimulatedEnv",
    make_tasks=make_tasks,
    lexicon=LEXICON,
)
