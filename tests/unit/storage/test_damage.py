"""Files that a disk, a copy or a user damaged: found, named in one line, never believed or
overwritten.
"""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.feather as feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.collector import Collector, CollectorActor, StageFolder
from r2v_dist import files
from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.errors import DamagedFile, StoreFailure, UsageError
from r2v_dist.language_model import Answer, Candidate, TopTokens
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RouterModel
from r2v_dist.router.scaler import Scaler
from r2v_dist.storage import arrow_file as table_file
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT

ALONE, TEACHER = (
    Arm(name, None, "simulated-0.6", "expert", 0) for name in ("slm_only", "teacher_only")
)


def episode(task: str, arm: Arm = ALONE, z: int | None = 2000) -> Episode:
    proposal = Answer(
        (Candidate("wait", (1, 2), (-0.5, -0.25)),), arm.policy, 7, TopTokens.of([(5, -0.1)])
    )
    actor = "slm" if arm is ALONE else "teacher"
    step = Step(
        f"see {task}", "clean", (), actor, "wait", None, True, 0.5, proposal, 0, 2**40, False
    )
    key = EpisodeKey("evaluate", "hash", task, z, arm.id, 0)
    return Episode(
        key, "test", arm, "goal", (step, step), arm is TEACHER, StopReason.STEP_LIMIT, "end"
    )


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    at = random.Random(len(data)).randrange(len(data))
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": cut,
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "random": lambda data: random.Random(0).randbytes(len(data)),
    "flipped": flipped,
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A small finished run: two ends on two tasks under two seeds, in four shards."""
    run = RunDir(tmp_path / "run")
    run.write_config(load_config(ROOT / "configs" / "textworld_simulated.yaml", ["router=null"]))
    folder = run.rollouts("evaluate")
    run.begin("evaluate", "hash")
    for index, task in enumerate("abcd"):
        zs = (None, 2000, 2001)
        rollout_store.commit(
            folder, index, [episode(task, arm, z) for arm in (ALONE, TEACHER) for z in zs]
        )
    run.complete("evaluate", "hash", 1.0, {"episodes": 24})
    return run


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says on stderr when it gives up: one line, and no success."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """What comes of it, or what is complained of."""
    try:
        return work(), ""
    except UsageError as error:
        return None, str(error)


def test_the_small_run_can_be_read(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run.root), "--json"])
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["routers"]} == {
        "slm_only",
        "teacher_only",
    }
    main(["rollouts", str(run.root)])
    assert "Goal: goal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "known_size"),
    [*((name, known) for name in DAMAGE for known in (True, False)), ("deleted", True)],
)
def test_readers_name_the_damaged_shard(
    run: RunDir, capsys: pytest.CaptureFixture[str], damage: str, known_size: bool
) -> None:
    shard = rollout_store.shards(run.rollouts("evaluate"))[2]
    if damage == "deleted":
        shard.unlink()
    else:
        shard.write_bytes(DAMAGE[damage](shard.read_bytes()))
    if not known_size:  # an older version of r2v did not list a stage's files
        manifest = run.root / "stages" / "evaluate" / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"covers": None}))
    for command in ("report", "rollouts"):
        said = complaint(capsys, command, str(run.root))
        assert str(shard) in said
        assert "r2v run" in said
    assert not (run.root / "quarantine").exists()


@given(st.integers(0, 10**9), st.integers(1, 255))
@settings(max_examples=100)
def test_no_changed_byte_passes_unseen(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    path = rollout_store.commit(folder, 0, [episode(task) for task in "abc"])
    before, data = rollout_store.read(folder).to_pylist(), bytearray(path.read_bytes())
    data[at % len(data)] ^= change
    path.write_bytes(data)
    os.utime(path, ns=(at + 1, at + 1))
    after, said = attempt(lambda: rollout_store.read(folder).to_pylist())
    # What is read must be what was written: then the mark that says where the checksum is was hit.
    assert str(path) in said if said else after == before


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    path = rollout_store.commit(tmp_path, 0, [episode("a")])
    table = rollout_store.read(tmp_path)
    feather.write_feather(feather.read_table(path), path)
    assert rollout_store.read(tmp_path).equals(table)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = rollout_store.commit(tmp_path, 0, [episode("a")])
    table = feather.read_table(path).replace_schema_metadata({"r2v_schema_version": "1"})
    feather.write_feather(table, path)
    with pytest.raises(UsageError, match=r"\.arrow: r2v_schema_version = 1, this program reads 3"):
        rollout_store.read(tmp_path)


def test_a_deleted_shard_costs_no_other(tmp_path: Path) -> None:
    for index, task in enumerate("abcd"):
        rollout_store.commit(tmp_path, index, [episode(task)])
    rollout_store.shards(tmp_path)[1].unlink()
    collector = Collector(StageFolder(tmp_path, 1, 1e9))
    assert collector.add([episode(task) for task in "abcde"]) == 2
    keys = rollout_store.outcomes(rollout_store.read(tmp_path))["task"].to_pylist()
    assert sorted(keys) == list("abcde")


def test_a_name_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "shard.arrow"
    for name in ("with hard links", "without"):
        table_file.save_new(target, memoryview(name.encode()))
        with pytest.raises(FileExistsError):
            table_file.save_new(target, memoryview(b"other"))
        assert target.read_bytes() == name.encode()
        target.unlink()

        def no_hard_links(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_hard_links)
    assert not list(tmp_path.iterdir())


def test_what_the_disk_refuses_is_named_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    actor = CollectorActor()
    actor.open(StageFolder(tmp_path / "file" / "rollouts", 1, 1e9))
    with pytest.raises(
        StoreFailure,
        match=rf"episodes cannot be written to {tmp_path}/file/rollouts: .*Not a directory",
    ):
        actor.add([episode("a")])


def test_half_a_last_line_counts_as_not_written(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    for tail in ('{"input_hash": "ab', "", '{"n": 1}'):
        path.write_text('{"n": 0, "text": "\u2028"}\n' + tail)
        rows = files.read_json_lines(path)
        files.append_json_line(path, {"n": 2})
        assert files.read_json_lines(path) == [*rows, {"n": 2}]
        assert [row["n"] for row in rows] == ([0, 1] if tail.endswith("}") else [0])
    path.write_text('{"n": 0}\nhalf\n{"n": 1}\n')
    with pytest.raises(DamagedFile, match=r"attempts\.jsonl: is damaged: line 2"):
        files.read_json_lines(path)


@pytest.mark.parametrize("text", ["", '{"stage": "evaluate", "inp', "[]", "{}"])
def test_a_cut_manifest_is_none_and_is_warned_of(
    run: RunDir, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = run.root / "stages" / "evaluate" / "manifest.json"
    path.write_text(text)
    assert run.manifest("evaluate") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert "not complete" in said


@pytest.mark.parametrize(
    "part", [{"results": None}, {"covers": ["a"]}, {"wall_s": "x"}, {"input_hash": 5}, {"later": 1}]
)
def test_a_manifest_of_other_values_is_none_and_its_key_is_named(
    run: RunDir, part: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.root / "stages" / "evaluate" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | part))
    assert run.manifest("evaluate") is None
    assert f"{path}: is no manifest ({next(iter(part))}: " in capsys.readouterr().err


def test_attempts_that_cannot_be_read_set_their_stage_aside(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / "stages" / "evaluate" / "attempts.jsonl").write_text("\0\0\0\n\0\0")
    run.begin("evaluate", "hash")
    assert "attempts.jsonl" in capsys.readouterr().err
    assert not rollout_store.shards(run.rollouts("evaluate"))
    assert len(rollout_store.shards(run.root / "rollouts" / "evaluate.damaged")) == 4


@pytest.mark.parametrize(
    "results",
    [{"checkpoint": "checkpoints/slm/bc-1"}, {"routers": {"r2v": "checkpoints/slm/bc-1"}}],
)
def test_a_complete_stage_knows_its_files(run: RunDir, results: dict[str, Any]) -> None:
    checkpoint = run.checkpoint("slm", "bc-1")
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    run.begin("bc", "hash")
    run.complete("bc", "hash", 1.0, results)
    manifest = run.manifest("bc")
    assert manifest is not None
    assert run.lost(manifest) is None
    (checkpoint / "model.safetensors").write_bytes(b"weig")
    lost = run.lost(manifest)
    assert lost is not None
    assert "4 bytes instead of 7" in str(lost)
    assert run.set_aside(lost)
    kept = run.root / "quarantine" / "checkpoints" / "slm" / "bc-1" / "model.safetensors"
    assert kept.read_bytes() == b"weig"
    gone = run.lost(manifest)
    assert gone is not None
    assert "is missing" in str(gone)
    assert not run.set_aside(gone)
    assert (
        run.lost(replace(manifest, covers=None)) is not None
    )  # as an older version of r2v left it


def test_work_is_done_again_once_for_each_damaged_file(run: RunDir) -> None:
    shards = rollout_store.shards(run.rollouts("evaluate"))
    for shard in shards[1:3]:
        shard.write_bytes(cut(shard.read_bytes()))
    table = run.repairing(lambda: rollout_store.read(run.rollouts("evaluate")))
    assert set(table["task"].to_pylist()) == {"a", "d"}
    assert {
        path.name for path in (run.root / "quarantine" / "rollouts" / "evaluate").iterdir()
    } == {shard.name for shard in shards[1:3]}
    elsewhere = run.root.parent / "labels.arrow"
    elsewhere.write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"labels\.arrow"):
        run.repairing(lambda: rollout_store.read_shard(elsewhere))
    assert elsewhere.exists()


@pytest.mark.parametrize("name", ["router.json", "router.safetensors"])
@pytest.mark.parametrize("damage", [*DAMAGE, "deleted"])
def test_a_damaged_router_is_named(tmp_path: Path, name: str, damage: str) -> None:
    size = len(RouterModel.feature_names)
    zeros = np.zeros(size)
    RouterModel(
        "v",
        "joint",
        Scaler.unlimited(zeros, zeros + 1.0),
        {"rho": Mlp(((zeros[None], zeros[:1]),))},
        {},
    ).save(tmp_path)
    RouterModel.load(tmp_path)
    path = tmp_path / name
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    _, said = attempt(lambda: RouterModel.load(tmp_path))
    # safetensors has no checksum: a flipped number is another number.
    assert str(tmp_path) in said or (not said and damage == "flipped")


def as_somebody_without_rights(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that permissions bind, as they do not bind root."""
    bound = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if bound and shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv to be bound by permissions")
    command = [*bound, sys.executable, "-m", "r2v_dist.cli", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_a_read_only_run_is_shown_and_not_continued(run: RunDir) -> None:
    folders = [path for path in (run.root, *run.root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        shown = as_somebody_without_rights("report", str(run.root))
        continued = as_somebody_without_rights(
            "run", "configs/textworld_simulated.yaml", f"run_dir={run.root}"
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert shown.returncode == 0
    assert "teacher only" in shown.stdout
    assert shown.stderr.startswith("r2v: warning: shown only, not written: ")
    assert shown.stderr.count("\n") == 1
    assert continued.returncode == 2
    assert continued.stderr.startswith(f"r2v: run_dir = {run.root}: {run.root} cannot be written; ")
    assert continued.stderr.count("\n") == 1


def test_what_the_system_refuses_is_one_line(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / "report").write_text("a file where a folder belongs")
    said = complaint(capsys, "report", str(run.root))
    assert said.startswith("r2v: ")
    assert str(run.root / "report") in said
    assert "move it elsewhere" in said
