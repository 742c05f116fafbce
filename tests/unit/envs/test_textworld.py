"""TextWorld games through Gymnasium's own door: checked, deterministic, winnable, and silent about
the score.
"""

import asyncio
import multiprocessing
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import envs.make  # noqa: F401 -- registers
from actors.env_runner import EnvRunner, RunnerSetup
from envs.textworld import generator
from envs.textworld.env import clean_feedback, clean_introduction
from envs.textworld.games import GameFamily, draw_games, game_path, is_cached
from envs.textworld.generator import generate
from r2v_dist.agent.episode import ModelRole
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Candidate, Request, Sampling
from tests.conftest import GAME_CACHE, QUESTS

SCORE = re.compile(r"score|possible \d|\d+/\d+", re.IGNORECASE)


def solve(game: Path, max_steps: int = 60) -> tuple[list[str], list[str], str]:
    """The expert's actions, everything that was seen, and why it ended."""
    env = gymnasium.make("r2v/TextWorld-v0", game=str(game), expert=True, max_steps=max_steps)
    observation, info = env.reset()
    seen, actions, done = [info["goal"], observation], list[str](), False
    while not done:
        actions.append(env.unwrapped.expert_action())  # type: ignore[attr-defined]
        observation, _, terminated, truncated, info = env.step(actions[-1])
        seen.append(observation)
        done = terminated or truncated
    env.close()
    return actions, seen, info["stop_reason"]


@pytest.mark.parametrize(
    ("router", "tracks"), [("slm_only", False), ("best_of_k", False), ("random", True)]
)
def test_hidden_state_is_tracked_only_for_arms_that_may_ask_the_oracle(
    games: list[Path], monkeypatch: pytest.MonkeyPatch, router: str, tracks: bool
) -> None:
    made: list[bool] = []
    make = gymnasium.make

    def noted(name: str, *, expert: bool, **arguments: Any) -> Any:
        made.append(expert)
        return make(name, expert=expert, **arguments)

    async def deliver(episodes: Any) -> None:
        assert [len(episode.steps) for episode in episodes] == [1]

    monkeypatch.setattr(gymnasium, "make", noted)
    slm = ModelConfig(backend="openai", model="m", base_url="http://127.0.0.1:9/v1")
    runner = EnvRunner(
        RunnerSetup(slm, ModelConfig(backend="expert"), "", "", PerturbConfig(), 20.0), None, None
    )
    task = Task(
        games[0].stem, "test", "r2v/TextWorld-v0", (("game", str(games[0])), ("max_steps", 1))
    )
    looks = ModelRole("slm", Looks(), Sampling())
    monkeypatch.setattr(runner, "_models", replace(runner._models, slm=looks))
    arm = Arm(router, 0.0 if router == "random" else None, "look", "expert", 0)
    asyncio.run(runner.run(Unit("evaluate", "h", task, None, 0, (arm,)), deliver))
    assert made == [tracks]


class Looks:
    async def sample(self, request: Request) -> Answer:
        return Answer((Candidate("look"),), "look")


def test_passes_gymnasiums_checker(games: list[Path]) -> None:
    env = gymnasium.make("r2v/TextWorld-v0", game=str(games[0]))
    check_env(env.unwrapped, skip_render_check=True)


def test_expert_wins_the_same_way_twice_and_no_score_is_told(games: list[Path]) -> None:
    for game in games:
        first, again = solve(game), solve(game)
        assert first == again
        assert first[2] == "won"
        assert not [text for text in first[1] if SCORE.search(text)]


FAMILIES = {
    "coin_collector": GameFamily("coin_collector", (("level", (3, 3)),)),
    "treasure_hunter": GameFamily("treasure_hunter", (("level", (5, 5)),)),
    "cooking": GameFamily(
        "cooking", (("cook", (1, 1)), ("open", (1, 1)), ("recipe", (1, 1)), ("take", (1, 1)))
    ),
    "house": GameFamily("custom", QUESTS.settings, text="house"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_challenge_can_be_won(name: str) -> None:
    [game] = generate(draw_games([FAMILIES[name]], "tests", 1, 0), GAME_CACHE, workers=1)
    actions, seen, reason = solve(game)
    assert reason == "won"
    assert len(actions) >= 2
    assert not [text for text in seen if SCORE.search(text)]


def test_generation_is_a_function_of_the_spec(tmp_path: Path) -> None:
    spec, other = draw_games([QUESTS], "tests", 2, 5)
    [here], [there] = generate([spec], tmp_path / "a", 1), generate([spec], tmp_path / "b", 1)
    # The compiler stamps its files with a serial number and time; the world and its text are the
    # same.
    assert here.with_suffix(".json").read_text() == there.with_suffix(".json").read_text()
    assert solve(here) == solve(there)
    assert spec.id != other.id


def test_a_changed_file_is_made_again(tmp_path: Path) -> None:
    [spec] = draw_games([QUESTS], "tests", 1, 6)
    generate([spec], tmp_path, 1)
    path = game_path(tmp_path, spec)
    assert is_cached(path)
    path.write_bytes(path.read_bytes()[:-10])
    assert not is_cached(path)
    generate([spec], tmp_path, 1)
    assert is_cached(path)


def test_the_game_of_a_killed_worker_is_made_by_another(tmp_path: Path) -> None:
    specs = draw_games([QUESTS], "tests", 2, 7)
    done: list[int] = []
    before = os.environ.get("PYTHONHASHSEED")

    def kill_after_the_first(count: int, total: int) -> None:
        done.append(count)
        if count == 1:
            for worker in multiprocessing.active_children():
                worker.kill()

    paths = generate(specs, tmp_path, 1, kill_after_the_first)
    assert all(is_cached(path) for path in paths)
    assert done == [1, 2]
    assert os.environ.get("PYTHONHASHSEED") == before


def test_a_game_that_takes_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [spec] = draw_games([QUESTS], "tests", 1, 8)
    monkeypatch.setattr(generator, "GENERATION_DEADLINE_S", 0.01)
    with pytest.raises(RuntimeFailure, match=rf"{spec.id} .*died or ran past 0\.01 s, twice"):
        generate([spec], tmp_path, 2)


def test_step_limit_and_nonsense_actions(games: list[Path]) -> None:
    env = gymnasium.make("r2v/TextWorld-v0", game=str(games[0]), max_steps=4).unwrapped
    env.reset()
    for action in ("xyzzy\nlook", "", "é" * 300):
        observation, reward, terminated, truncated, _ = env.step(action)
        assert isinstance(observation, str)
        assert (reward, terminated, truncated) == (0.0, False, False)
    *_, truncated, info = env.step("look")
    assert truncated
    assert info["stop_reason"] == "step_limit"


def test_no_action_reaches_the_interpreter_itself(games: list[Path]) -> None:
    """Control characters and backslashes are orders to the interpreter, and some end
    its process.
    """
    env = gymnasium.make("r2v/TextWorld-v0", game=str(games[0]), max_steps=100).unwrapped
    env.reset()
    for code in (*range(32), *range(127, 160)):
        assert not env.step(f"look {chr(code)} x{chr(code)}")[2]
    for order in ("\\q", "\\x", "\\help", "exit \x10 foo", "\\"):
        assert not env.step(order)[2]
    assert env.step("look\x10")[0] == env.step("look")[0] != ""


def test_a_missing_game_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.z8"):
        gymnasium.make("r2v/TextWorld-v0", game="nowhere.z8")


def test_a_game_without_its_world_is_refused(games: list[Path], tmp_path: Path) -> None:
    alone = Path(shutil.copy(games[0], tmp_path / "alone.z8"))
    with pytest.raises(FileNotFoundError, match=r"alone\.z8: no alone\.json beside it"):
        gymnasium.make("r2v/TextWorld-v0", game=str(alone))


def test_admissible_commands_on_request(games: list[Path]) -> None:
    _, info = gymnasium.make("r2v/TextWorld-v0", game=str(games[0]), admissible=True).reset()
    assert "look" in info["admissible"]


def test_cleaning_keeps_the_world_and_drops_the_rest() -> None:
    raw = (
        "\n\nYou open the box.\n\n\nYour score has just gone up by one point.\n\n\n"
        ">     -= Room =-0/2"
    )
    assert clean_feedback(raw) == "You open the box."
    assert (
        clean_introduction("BANNER $$\nThe objective.\n\n-= Room =-\nA room.\n\n>  -= Room =-0/1")
        == "-= Room =-\nA room."
    )


def test_splits_never_share_a_game() -> None:
    from r2v_dist.config.env import SPLITS
    from r2v_dist.config.run import load_config
    from scripts.tiny_models.play import base_families
    from tests.runs import ROOT

    config = load_config(ROOT / "configs" / "textworld_demo.yaml", [])
    families = [
        GameFamily(g.challenge, tuple(sorted(g.settings.items())), config.env.text, g.weight)
        for g in config.env.games
    ]
    drawn = [{s.id for s in draw_games(families, split, 200, config.seed)} for split in SPLITS]
    drawn.append({s.id for s in draw_games(base_families(), "base", 4750, 0)})
    assert sum(map(len, drawn)) == len(set.union(*drawn))
