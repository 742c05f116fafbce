"""A bad game file is named before a run starts, whatever the interpreter does with it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from envs.tasks import make_tasks
from envs.textworld import check as textworld_check
from envs.textworld.check import check_games
from r2v_dist.config.env import EnvConfig
from r2v_dist.errors import UsageError


def copy(game: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(game, target)
    shutil.copy(game.with_suffix(".json"), target.with_suffix(".json"))
    return target


def patched(game: Path, at: int, code: bytes) -> None:
    data = bytearray(game.read_bytes())
    data[at : at + len(code)] = code
    game.write_bytes(bytes(data))


def first_instruction(game: Path) -> int:
    return int.from_bytes(game.read_bytes()[6:8], "big")


def cut(game: Path) -> None:
    game.write_bytes(game.read_bytes()[: game.stat().st_size // 2])


def loop(game: Path) -> None:
    patched(game, first_instruction(game), bytes([0x8C, 0xFF, 0xFF]))  # jumps to itself


def stop(game: Path) -> None:
    patched(game, first_instruction(game), bytes([0xBA]))


def without_world(game: Path) -> None:
    game.with_suffix(".json").unlink()


def half_a_world(game: Path) -> None:
    cut(game.with_suffix(".json"))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (cut, r"bad\.z8 cannot be played: the interpreter ended with exit code 1 \(.*Story file"),
        (loop, r"bad\.z8 cannot be played: no answer within 6 s"),
        (stop, r"bad\.z8 halts at once"),
        (without_world, r"bad\.z8: no bad\.json beside it"),
        (half_a_world, r"bad\.z8: bad\.json beside it is not JSON"),
    ],
)
def test_the_bad_file_is_named(
    damage: Callable[[Path], None],
    complaint: str,
    games: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(textworld_check, "GAME_DEADLINE_S", 6.0)
    good = copy(games[0], tmp_path / "good.z8")
    bad = copy(games[1], tmp_path / "bad.z8")
    damage(bad)
    with pytest.raises(UsageError, match=rf"^env\.files\.test: game file .*{complaint}") as raised:
        check_games({"train": (good,), "test": (bad,)}, tmp_path / "cache")
    assert "\n" not in str(raised.value)


def test_the_world_of_another_game_is_noticed(games: list[Path], tmp_path: Path) -> None:
    game = copy(games[0], tmp_path / "game.z8")
    shutil.copy(games[1].with_suffix(".json"), game.with_suffix(".json"))
    with pytest.raises(UsageError, match=r"game\.z8 cannot be won as game\.json says"):
        check_games({"test": (game,)}, tmp_path / "cache")


def test_a_game_is_played_once_while_its_bytes_are_the_same(
    games: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = copy(games[0], tmp_path / "game.z8")
    cache = tmp_path / "cache"
    check_games({"test": (game,)}, cache)
    monkeypatch.setattr(textworld_check, "_Player", None)
    moved = copy(game, tmp_path / "elsewhere" / "game.z8")
    check_games({"test": (moved,)}, cache)
    patched(moved, moved.stat().st_size - 1, b"\x01")
    with pytest.raises(TypeError):  # it would be played again
        check_games({"test": (moved,)}, cache)


def test_equal_file_names_in_different_folders_are_different_games(
    games: list[Path], tmp_path: Path
) -> None:
    a = copy(games[0], tmp_path / "a" / "game.z8")
    b = copy(games[1], tmp_path / "b" / "game.z8")
    other = copy(games[2], tmp_path / "other.z8")
    config = EnvConfig(files={"train": (a,), "test": (b, other)}, cache=tmp_path / "cache")
    tasks = make_tasks(config, 0, 1, lambda done, total: None)
    assert len({task.id for task in tasks}) == 3
    assert [task.id.partition("-")[0] for task in tasks] == ["game", "game", "other"]
    moved = EnvConfig(
        files={"train": (copy(a, tmp_path / "moved" / "game.z8"),), "test": (b, other)},
        cache=config.cache,
    )
    assert [task.id for task in make_tasks(moved, 0, 1, lambda done, total: None)] == [
        task.id for task in tasks
    ]


def test_the_same_game_under_two_names_is_refused(games: list[Path], tmp_path: Path) -> None:
    a = copy(games[0], tmp_path / "a.z8")
    b = copy(games[0], tmp_path / "b.z8")
    with pytest.raises(
        UsageError,
        match=r"a\.z8 \(env\.files\.train\) and .*b\.z8 \(env\.files\.test\) are the same game",
    ):
        check_games({"train": (a,), "test": (b,)}, tmp_path / "cache")


def test_a_folder_with_an_envs_of_its_own_is_no_trouble(
    games: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    game = copy(games[0], tmp_path / "game.z8")
    check_games({"test": [game]}, tmp_path / "cache")
