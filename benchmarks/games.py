"""The games that the benchmarks play: quests like the demo's, from the cache or made now, the same
in every run.
"""

from collections.abc import Sequence

from envs.textworld.games import GameFamily, draw_games
from envs.textworld.generator import generate
from r2v_dist.config.places import cache_folder
from r2v_dist.episodes import Arm, Task, Unit

STAGE = "benchmark"
MAX_STEPS = 20
_QUESTS = GameFamily(
    "custom",
    (("instructions", "full"), ("objects", (3, 8)), ("quest_length", (2, 6)), ("rooms", (1, 4))),
)


def make_tasks(count: int) -> list[Task]:
    """`count` test tasks."""
    paths = generate(
        draw_games([_QUESTS], "benchmarks", count, 0), cache_folder("textworld"), workers=2
    )
    return [
        Task(path.stem, "test", "r2v/TextWorld-v0", (("game", str(path)), ("max_steps", MAX_STEPS)))
        for path in paths
    ]


def make_units(
    tasks: Sequence[Task], zs: Sequence[int | None], arm: Arm, replicas: int = 1
) -> list[Unit]:
    """Every task under every seed, `replicas` times."""
    units = []
    for replica in range(replicas):
        for z in zs:
            units += [Unit(STAGE, "none", task, z, replica, (arm,)) for task in tasks]
    return units
