"""Write tasks for `agent.py`, a generated game each: `python make_tasks.py 40 > tasks.jsonl`."""

import json
import os
import sys

from envs.textworld.games import GameFamily, draw_games
from envs.textworld.generator import generate
from r2v_dist.config.places import cache_folder

SETTINGS = (
    *(("instructions", "full"), ("objects", (3, 6))),
    *(("quest_length", (2, 4)), ("rooms", (1, 3))),
)


def main(count: int) -> None:
    """Generate the games and print a task for each."""
    games = draw_games([GameFamily("custom", SETTINGS)], "agent_program", count, seed=0)
    for path in generate(games, cache_folder("textworld"), workers=os.cpu_count() or 1):
        command = [sys.executable, "{folder}/agent.py", str(path), "12"]
        print(json.dumps({"id": path.stem, "command": command}))


if __name__ == "__main__":  # games are generated in processes that import this file
    main(int(sys.argv[1]))
