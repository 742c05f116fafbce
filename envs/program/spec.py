"""Agent programs as the rest of the program knows them."""

from envs.program.tasks import ENV_ID, check_tasks, identity, make_tasks
from envs.spec import EnvSpec

SPEC = EnvSpec(
    id=ENV_ID,
    entry_point="envs.program.env:ProgramEnv",
    make_tasks=make_tasks,
    check_tasks=check_tasks,
    identity=identity,
)
