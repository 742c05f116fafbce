"""A walk over a moor: an environment with its tasks, in one file (docs/extending.md)."""

import random

import gymnasium

from envs.spaces import UnicodeText
from envs.spec import EnvSpec, TaskRequest
from r2v_dist.config.env import SPLITS
from r2v_dist.episodes import Task


class Moor(gymnasium.Env[str, str]):
    """A wrong turn leaves the trail; beside a bog, or off the trail already, it is the last."""

    observation_space = UnicodeText(max_length=400)

    def __init__(self, number: int, max_steps: int, expert: bool = False) -> None:
        rng = random.Random(number)
        self.turns = rng.choices(("north", "south", "east", "west"), k=rng.randint(4, 8))
        self.ground = rng.choices(("dry heather", "a bog"), weights=(7, 3), k=len(self.turns))

    def reset(self, **_: object) -> tuple[str, dict[str, str]]:
        self.place = 0
        self.astray = False
        return self.look(), {"goal": "Follow the trail over the moor."}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, str]]:
        if action == self.expert_action():
            self.place += not self.astray
            self.astray = False
        elif self.astray or self.ground[self.place] == "a bog":
            return "You sink into a bog.", 0.0, True, False, {"stop_reason": "lost"}
        else:
            self.astray = True
        if self.place == len(self.turns):
            return "You have crossed the moor.", 1.0, True, False, {"stop_reason": "won"}
        return self.look(), 0.0, False, False, {}

    def expert_action(self) -> str:
        return "go back" if self.astray else f"go {self.turns[self.place]}"

    def look(self) -> str:
        if self.astray:
            return "Error: this is not the trail.\nThe trail is behind you."
        return f"Beside you is {self.ground[self.place]}.\nThe trail goes {self.turns[self.place]}."


def make_tasks(request: TaskRequest) -> list[Task]:
    """Walks of its own for every split."""
    rng = random.Random(request.seed)
    tasks = []
    for split in SPLITS:
        for number in rng.sample(range(10**9), request.config.size(split)):
            arguments = (("number", number), ("max_steps", request.config.max_steps))
            tasks.append(Task(f"moor-{number}", split, "examples/Moor-v0", arguments))
    return tasks


SPEC = EnvSpec("examples/Moor-v0", Moor, make_tasks)
