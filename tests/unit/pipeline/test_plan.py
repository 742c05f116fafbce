"""What cannot succeed is refused before anything starts: places, rooms, endpoints."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.placement import Node
from cluster.resources import placement_problem
from r2v_dist.cli.main import main
from r2v_dist.config.places import cache_folder, make_cache, write_problem
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.pipeline.preflight import check, check_simulated
from tests.runs import ROOT

CONFIGS = ROOT / "configs"
DEMO = CONFIGS / "textworld_demo.yaml"
SIMULATED = CONFIGS / "textworld_simulated.yaml"


def simulated(tmp_path: Path, *overrides: str) -> RunConfig:
    places = [
        f"run_dir={tmp_path / 'run'}",
        f"env.cache={tmp_path / 'games'}",
        "cluster.memory_gib=0.1",
    ]
    return load_config(SIMULATED, [*places, *overrides])


def test_engines_and_verifier_fit_the_gpus() -> None:
    config = load_config(
        DEMO, ["slm.gpu_memory_utilization=0.8", "verifier.gpu_memory_utilization=0.3"]
    )
    assert placement_problem(config, [Node("here", 2, 0)], gpus=False) is None
    assert placement_problem(config, [Node("here", 2, 2)], gpus=True) is None
    assert "slm.gpu_memory_utilization + verifier.gpu_memory_utilization = 1.1" in str(
        placement_problem(config, [Node("here", 2, 1)], gpus=True)
    )


def test_required_gpus_that_this_machine_lacks_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    main(["run", str(DEMO), "--dry-run", "cluster.gpus=require"])
    assert "# NO ROOM: bc.deepspeed.ranks = 1: a rank needs 1 GPU" in capsys.readouterr().out
    main(["run", str(DEMO), "--dry-run"])
    assert "NO ROOM" not in capsys.readouterr().out


def test_a_dry_run_says_what_finds_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["cluster.num_cpus=1", "router.deepspeed.ranks=2"]
    main(["run", str(SIMULATED), "--dry-run", *overrides])
    assert "# NO ROOM: router.deepspeed.ranks = 2" in capsys.readouterr().out
    main(["run", str(CONFIGS / "simulated.yaml"), "--dry-run", *overrides])
    assert "# NO ROOM: router.deepspeed.ranks = 2" in capsys.readouterr().out
    main(["run", str(SIMULATED), "--dry-run"])
    assert "NO ROOM" not in capsys.readouterr().out


def test_a_dry_run_says_what_this_machine_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for override, part in [
        (f"run_dir={tmp_path}/file/run", f"{tmp_path}/file is a file"),
        ("slm.model=/no/such/folder", "slm.model = /no/such/folder: no such directory"),
    ]:
        main(["run", str(DEMO), "--dry-run", override])
        assert part in capsys.readouterr().out.partition("# REFUSED HERE: ")[2]
    main(["run", str(DEMO), "--dry-run", f"run_dir={tmp_path}/run"])
    assert "REFUSED" not in capsys.readouterr().out


def test_a_run_without_room_is_refused(tmp_path: Path) -> None:
    overrides = ["cluster.num_cpus=1", "router.deepspeed.ranks=2"]
    with pytest.raises(UsageError, match=r"router\.deepspeed\.ranks = 2"):
        check(simulated(tmp_path, *overrides))
    config = load_simulated(CONFIGS / "simulated.yaml", [*overrides, f"run_dir={tmp_path}"])
    assert config is not None
    with pytest.raises(UsageError, match=r"router\.deepspeed\.ranks = 2"):
        check_simulated(config)
    check(simulated(tmp_path))


def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for key in ("report_to=[tensorboard]", "report_to=[wandb]", "metrics.vllm=true"):
        named = re.escape(f"cluster.{key.partition('=')[0]}")
        with pytest.raises(UsageError, match=f"{named} = .*pip install"):
            check(simulated(tmp_path, f"cluster.{key}"))


def test_cores_that_the_machine_does_not_have_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = load_config(
        DEMO, [f"run_dir={tmp_path}", "slm.cpu_cores=0,9000-9001", "cluster.memory_gib=0.1"]
    )
    with pytest.raises(UsageError, match=r"slm\.cpu_cores = 0,9000-9001: there is no core 9000"):
        check(config)


@pytest.mark.parametrize(
    ("below", "problem"),
    [
        ("file", "is a file"),
        ("file/further/down", "is a file"),
        ("closed/run", "cannot be written"),
    ],
)
def test_a_run_directory_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != closed
    )  # root may write everywhere
    with pytest.raises(UsageError) as caught:
        check(
            simulated(tmp_path, f"env.max_steps={len(below)}").model_copy(
                update={"run_dir": tmp_path / below}
            )
        )
    assert str(caught.value).startswith(f"run_dir = {tmp_path / below}: ")
    assert problem in str(caught.value)


def test_caches_follow_the_variable_and_say_which_key_moves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_folder("code") == tmp_path / "mine" / "r2v" / "code"
    assert load_config(DEMO, []).env.cache == tmp_path / "mine" / "r2v" / "textworld"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_config(DEMO, []).env.cache == tmp_path / "home" / ".cache" / "r2v" / "textworld"
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=rf"XDG_CACHE_HOME: {tmp_path}/file/code cannot be made"):
        make_cache(tmp_path / "file" / "code", "XDG_CACHE_HOME")
    assert write_problem(tmp_path / "new" / "folder") is None
    assert not (tmp_path / "new").exists()


def test_a_cache_that_cannot_be_written_is_said_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home and real(path, mode))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UsageError, match=r"env\.cache = .*home.* cannot be written"):
        check(load_config(SIMULATED, [f"run_dir={tmp_path / 'run'}"]))
    code = [
        "env.code.source=shipped",
        "env.splits={train: 1, validation: 1, test: 1}",
        "sandbox.allow_weaker=true",
        "router=null",
    ]
    with pytest.raises(UsageError, match=r"XDG_CACHE_HOME = .*home.* cannot be written"):
        check(
            load_config(
                CONFIGS / "humaneval_simulated.yaml", [f"run_dir={tmp_path / 'run'}", *code]
            )
        )


def test_a_tilde_is_the_home_directory_wherever_a_path_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = [
        "run_dir=~/run",
        "env.cache=~/games",
        "env.files={calibration: [~/a.z8]}",
        "env.code.data_dir=~/data",
    ]
    config = load_config(DEMO, overrides)
    assert (config.run_dir, config.env.cache, config.env.code.data_dir) == (
        tmp_path / "run",
        tmp_path / "games",
        f"{tmp_path}/data",
    )
    assert config.env.files["calibration"] == (tmp_path / "a.z8",)
    simulated_run = load_simulated(CONFIGS / "simulated.yaml", ["run_dir=~/run"])
    assert simulated_run is not None
    assert simulated_run.run_dir == tmp_path / "run"
    model = [
        "slm.model=~/models/x",
        f"run_dir={tmp_path / 'run'}",
        "cluster.memory_gib=0.1",
        "slm.cpu_cores=''",
    ]
    with pytest.raises(UsageError, match=r"slm\.model = ~/models/x: no such directory"):
        check(load_config(DEMO, model))
    shutil.copytree(CONFIGS.parent / "models" / "textworld-tiny", tmp_path / "models" / "x")
    check(load_config(DEMO, model))


@pytest.mark.parametrize(
    ("base_url", "error", "part"),
    [
        ("localhost:8000/v1", UsageError, "is not the address of an endpoint"),
        ("http://127.0.0.1:99999/v1", UsageError, "is not the address of an endpoint"),
        ("http:///v1", UsageError, "is not the address of an endpoint"),
        ("http://host/v1?version=3", UsageError, "is not the address of an endpoint"),
        (f"http://{'x' * 70}.example/v1", RuntimeFailure, "cannot be reached"),
    ],
)
def test_an_address_that_is_none_is_one_line(
    tmp_path: Path, base_url: str, error: Any, part: str
) -> None:
    teacher = f"teacher={{backend: openai, model: m, base_url: '{base_url}'}}"
    with pytest.raises(error, match=part):
        check(simulated(tmp_path, teacher))


def test_an_operator_that_does_not_exist_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", str(DEMO), "perturb.rates={failur: 0.1}", "--dry-run"])
    assert ended.value.code == 2
    assert (
        "perturb.rates: unknown operator failur; did you mean failure?" in capsys.readouterr().err
    )


def test_a_dry_run_shows_the_memory_of_every_phase_and_of_common_shapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["run", str(CONFIGS / "humaneval_qwen14b.yaml"), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    engine = next(line for line in lines if line.startswith("# slm engine, 2 GPUs"))
    # 2 bytes x (14,770,033,664 and an adapter of rank 32 + 32 with 275,251,200) / 2 GPUs
    assert "weights 14.01" in engine
    assert "cache 1.50 for a context of 16384 tokens" in engine  # 2 x 48 x 4 x 128 x 2 bytes each
    for learner in ("bc", "verifier", "dpo"):
        assert any(line.startswith(f"# {learner}, ZeRO-3 x 8, LoRA 32") for line in lines)
    rows = [line.split()[1] for line in lines if line.startswith(("# 0.5B", "# 7", "# 14B"))]
    assert rows == ["0.5B", "7B", "14B", "70B"]
    main(["run", str(DEMO), "--dry-run", "slm.model=someone/else", "verifier.model=someone/else"])
    assert capsys.readouterr().out.count("someone/else: its shape is not known here") == 4
