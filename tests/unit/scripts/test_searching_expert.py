"""The searching expert: it wins, and where the goal does not tell the way it does not know it
either.
"""

from pathlib import Path

import pytest
from textworld import GameMaker
from textworld.generator import GameOptions, compile_game

from envs.textworld.env import TextWorldEnv
from envs.textworld.games import GameFamily, draw_games
from envs.textworld.generator import generate
from scripts.tiny_models.searching_expert import SearchingExpert
from tests.conftest import GAME_CACHE

LAST_STEP_TOLD = GameFamily(
    "custom",
    (("rooms", (3, 4)), ("objects", (4, 6)), ("quest_length", (3, 5)), ("instructions", "last")),
)


def play(game: Path, max_steps: int = 12, detour: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The commands after `detour`, and whether they won."""
    env = TextWorldEnv(str(game), expert=True, admissible=True, max_steps=max_steps)
    observation, info = env.reset()
    expert, commands, done, reward = SearchingExpert(env, info["goal"]), list[str](), False, 0.0
    while not done:
        command = expert.action(observation)
        assert command is not None
        if len(commands) < len(detour):
            command = detour[len(commands)]
        commands.append(command)
        expert.done(command)
        observation, reward, terminated, truncated, _ = env.step(command)
        done = terminated or truncated
    env.close()
    return commands[len(detour) :], reward > 0


def test_it_wins_within_the_steps_that_are_allowed() -> None:
    games = generate(draw_games([LAST_STEP_TOLD], "tests", 6, 0), GAME_CACHE, workers=1)
    assert all(play(game)[1] for game in games)


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room with a closed chest and ways to the east, where nothing is, and to the west, where the
    thing lies that is to be taken.
    """
    options = GameOptions()
    options.grammar.theme = "basic"
    maker = GameMaker(options)
    middle, east, west = (maker.new_room(name) for name in ("room1", "room2", "room3"))
    maker.connect(middle.east, east.west)
    maker.connect(middle.west, west.east)
    chest = maker.new(type="c", name="box4")
    chest.add_property("closed")
    middle.add(chest)
    thing = maker.new(type="o", name="thing5")
    west.add(thing)
    maker.set_player(middle)
    maker.set_quest_from_commands(["go west", "take thing5"])
    game = maker.build()
    game.objective = "The objective is to take the thing5."
    options.path = str(tmp_path_factory.mktemp("fork") / "fork.z8")
    return Path(compile_game(game, options))


def test_it_searches_where_the_planner_knows(fork: Path) -> None:
    assert play(fork) == (["open box4", "go east", "go west", "go west", "take thing5"], True)


def test_it_does_what_the_planner_does_once_the_way_has_been_seen(fork: Path) -> None:
    assert play(fork, detour=("go west", "go east")) == (["go west", "take thing5"], True)


def test_it_looks_again_for_what_it_was_not_shown(fork: Path) -> None:
    env = TextWorldEnv(str(fork), expert=True)
    text, info = env.reset()
    assert "box4" in text
    expert = SearchingExpert(env, info["goal"])
    for expected in ("look", "look", "open box4"):
        assert expert.action("-= Room1 =-\nThere is [truncated]") == expected
        expert.done(expected)
        env.step(expected)
    env.close()
