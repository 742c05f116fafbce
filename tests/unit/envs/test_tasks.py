"""Tasks are what the configuration says, wherever their files lie; no place is part of any key."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from pydantic import BaseModel

from envs.tasks import at_hand, check_tasks, identity, make_tasks
from envs.textworld import tasks as tasks_module
from r2v_dist.config.env import LARGEST_SEED, EnvConfig
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Episode, EpisodeKey, StopReason, Unit
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.stages import stages
from r2v_dist.storage import step_table
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT

DEMO = ROOT / "configs" / "textworld_demo.yaml"
LEARNERS = ("bc", "dpo", "router", "verifier.training")
NOTHING: Any = None


def quiet(done: int, total: int) -> None:
    """Shows no progress."""


def path_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key below a section whose type has a path in it."""
    for name, field in model.model_fields.items():
        parts = [field.annotation]
        while parts:
            part = parts.pop()
            if part is Path:
                yield prefix + name
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from path_keys(part, f"{prefix}{name}.")
            else:
                parts += get_args(part)


def games_at(folder: Path, **bytes_by_name: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, data in bytes_by_name.items():
        (folder / f"{name}.z8").write_bytes(data)
    return folder


def keys(config: RunConfig) -> list[Any]:
    """What every key of a run is made of."""
    contents = [stage.content(config) for stage in stages(config)]
    plain = json.dumps(
        contents, default=lambda section: section.model_dump(mode="json"), sort_keys=True
    )
    return [config.content_hash(), plain]


@pytest.fixture
def any_bytes_are_a_game(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests hold a word each; test_textworld_check plays real ones."""
    monkeypatch.setattr(tasks_module, "check_games", lambda files, cache: None)


def test_no_place_is_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {
        name: games_at(tmp_path / name / "games", a=b"one", b=b"two") for name in ("here", "there")
    }

    def at(name: str) -> dict[str, str]:
        folder = places[name]
        return {
            "run_dir": f"{tmp_path}/{name}/run",
            "env.cache": f"{tmp_path}/{name}/cache",
            "env.code.data_dir": f"{tmp_path}/{name}/data",
            "env.program.tasks": f"{tmp_path}/{name}/tasks.jsonl",
            "env.program.shown": f"[{tmp_path}/{name}/shown]",
            "env.terminal.tasks": f"{tmp_path}/{name}/tasks",
            "env.terminal.root": f"{tmp_path}/{name}/root",
            **{f"{key}.deepspeed.nvme_path": f"{tmp_path}/{name}/nvme" for key in LEARNERS},
            "router.served": f"{tmp_path}/{name}/log",
            "env.files": f"{{calibration: [{folder}/a.z8, {folder}/b.z8]}}",
        }

    for name in places:
        games_at(tmp_path / name / "log", part=b"rows").joinpath("part.z8").rename(
            tmp_path / name / "log" / "part.arrows"
        )
    learns = "evaluate.routers=[r2v, logistic_served]"
    assert {*path_keys(RunConfig)} <= {*at("here")}  # a new path is to be decided about
    config = load_config(DEMO, [learns, *(f"{key}={value}" for key, value in at("here").items())])
    assert str(tmp_path) not in "".join(map(str, keys(config)))
    for key, value in at("there").items():
        moved = load_config(
            DEMO,
            [learns]
            + [f"{name}={value if name == key else old}" for name, old in at("here").items()],
        )
        assert moved != config
        assert keys(moved) == keys(config), key
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert (
        load_config(DEMO, []).content_hash()
        == load_config(DEMO, ["env.cache=/somewhere"]).content_hash()
    )


@pytest.mark.usefixtures("any_bytes_are_a_game")
def test_other_bytes_are_another_game(tmp_path: Path) -> None:
    first = games_at(tmp_path / "first", game=b"one", other=b"two")
    second = games_at(tmp_path / "second", game=b"three")
    config = EnvConfig(
        files={"train": (first / "game.z8", first / "other.z8"), "test": (second / "game.z8",)}
    )
    tasks = make_tasks(config, 0, 1, quiet)
    assert len({task.id for task in tasks}) == 3
    assert [task.id.partition("-")[0] for task in tasks] == ["game", "other", "game"]
    before = identity(config)
    (second / "game.z8").write_bytes(b"four")
    assert identity(config) != before


def test_a_game_that_stands_twice_is_named(tmp_path: Path) -> None:
    folder = games_at(tmp_path / "games", a=b"one", b=b"two", copy=b"one")
    a, b, copy = (folder / f"{name}.z8" for name in ("a", "b", "copy"))
    for files in ({"train": (a, a), "test": (b,)}, {"train": (a,), "test": (b, copy)}):
        with pytest.raises(
            UsageError, match=r"the same game as env\.files\.train: .*a\.z8; name every game once"
        ):
            check_tasks(EnvConfig(files=files), 0)
    with pytest.raises(UsageError, match=r"absent\.z8 does not exist"):
        check_tasks(EnvConfig(files={"train": (a,), "test": (folder / "absent.z8",)}), 0)


def test_what_cannot_be_drawn_is_found_before_any_game_is_made(tmp_path: Path) -> None:
    folder = games_at(tmp_path / "games", a=b"one", b=b"two")
    files = {"train": [folder / "a.z8"], "test": [folder / "b.z8"]}
    incomplete = EnvConfig.model_validate({"files": files, "splits": {"validation": 2}})
    with pytest.raises(
        UsageError,
        match=r"env\.splits\.validation = 2: neither env\.games nor env\.files\.validation",
    ):
        check_tasks(incomplete, 0)
    check_tasks(load_config(DEMO, [f"env.cache={tmp_path}/cache"]).env, 0)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("any_bytes_are_a_game")
def test_tasks_follow_files_that_were_moved(tmp_path: Path) -> None:
    old, new = games_at(tmp_path / "old", a=b"one", b=b"two"), tmp_path / "new"
    before = EnvConfig(files={"train": (old / "a.z8",), "test": (old / "b.z8",)})
    tasks = make_tasks(before, 0, 1, quiet)
    assert at_hand(tasks, before, 0, 1, SandboxConfig()) is tasks
    old.rename(new)
    after = EnvConfig(files={"train": (new / "a.z8",), "test": (new / "b.z8",)})
    moved = at_hand(tasks, after, 0, 1, SandboxConfig())
    assert [task.id for task in moved] == [task.id for task in tasks]
    assert [dict(task.env_kwargs)["game"] for task in moved] == [
        str(new / "a.z8"),
        str(new / "b.z8"),
    ]


@pytest.mark.usefixtures("any_bytes_are_a_game")
def test_a_stage_reads_tasks_where_they_are_now(tmp_path: Path) -> None:
    games_at(tmp_path / "old", a=b"one", b=b"two")
    config = load_config(DEMO, [])

    def context(folder: str) -> Context:
        files = {"train": (tmp_path / folder / "a.z8",), "test": (tmp_path / folder / "b.z8",)}
        there = config.model_copy(update={"env": EnvConfig(files=files)})
        return Context(there, RunDir(tmp_path / "run"), NOTHING, "states", "hash", {})

    stored = make_tasks(context("old").config.env, 0, 1, quiet)
    path = context("old").run.stage("tasks") / "tasks.json"
    path.write_text(json.dumps([asdict(task) for task in stored]))
    (tmp_path / "old").rename(tmp_path / "new")
    [task] = context("new").tasks("test")
    assert dict(task.env_kwargs)["game"] == str(tmp_path / "new" / "b.z8")
    assert str(tmp_path / "old") not in path.read_text()


class Asked(Exception):
    """Ends a stage where it would play."""


class Caller:
    """Services that only take note of the units they are to play."""

    units: list[Unit]

    def teacher_version(self) -> str:
        return "expert"

    def base_checkpoint(self) -> Any:
        return SimpleNamespace(version="base", path="")

    def load_slm(self, checkpoint: Any) -> None:
        pass

    def roll_out(self, units: list[Unit], folder: Path, show: Any) -> Any:
        self.units = units
        raise Asked


@pytest.mark.parametrize("seed", [0, 91_733, LARGEST_SEED])
@pytest.mark.parametrize("stage", ["collect", "baseline"])
def test_what_is_played_under_any_seed_can_be_stored(tmp_path: Path, stage: str, seed: int) -> None:
    config = load_config(DEMO, [f"seed={seed}", "training_seeds=100"])
    run, services = RunDir(tmp_path), Caller()
    rows = [
        {"id": split, "split": split, "env": "none", "env_kwargs": []}
        for split in ("train", "validation")
    ]
    (run.stage("tasks") / "tasks.json").write_text(json.dumps(rows))
    play = next(one for one in stages(config) if one.name == stage).run
    with pytest.raises(Asked):
        play(Context(config, run, cast(Any, services), stage, "hash", {}))
    unit = services.units[0]
    [arm] = unit.arms
    key = EpisodeKey(stage, "hash", unit.task.id, unit.z, arm.id, 0)
    episode = Episode(key, unit.task.split, arm, "goal", (), False, StopReason.NO_ACTION, "")
    assert step_table.to_table([episode])["training_seed"].to_pylist() == [0]


def test_the_last_training_seed_of_the_largest_seed_is_one_that_libraries_take() -> None:
    config = load_config(DEMO, [f"seed={LARGEST_SEED}", "training_seeds=100"])
    largest = Context(
        config, RunDir(Path("nowhere")), NOTHING, "bc", "hash", {}, config.training_seeds - 1
    ).seed
    assert np.random.RandomState(largest).randint(2) in (0, 1)
    assert largest < 2**32
