"""The command line on configurations: quick help, and every failure in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.preflight import check
from tests.runs import DEMO, ROOT

SIMULATED = ROOT / "configs" / "simulated.yaml"


@pytest.mark.parametrize(
    ("config", "asked"),
    [(DEMO, "vLLM engines"), (SIMULATED, "kind: simulated_router")],
    ids=["run", "simulated"],
)
def test_help_and_dry_run_import_nothing_heavy(config: Path, asked: str) -> None:
    program = (
        "import sys\nfrom r2v_dist.cli.main import main\nmain(['run', sys.argv[1], '--dry-run'])\n"
        "heavy = {'ray', 'torch', 'vllm', 'transformers', 'pyarrow', 'rich'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert asked in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["run", "configs/absent.yaml"], 2, "no such config"),
        (["run", "configs/textworld_demo.yaml", "perturb.test_sed=3"], 2, "test_seeds"),
        (["run", "configs/simulated.yaml", "sedes=3"], 2, "did you mean seeds?"),
        (["run", "configs/simulated.yaml", "routers=[r2v, r3v]"], 2, "routers.1 = 'r3v'"),
        (["run", "configs/simulated.yaml", "router.surrogate=paper"], 2, "set latched"),
        (["run", "configs/simulated.yaml", "router.score=validated"], 2, "name a score"),
        (["run", "configs/simulated.yaml", "router.slm_cost=2"], 2, "keep that ratio"),
        (
            ["run", "configs/simulated.yaml", "router.deepspeed.zero_stage=2"],
            2,
            "a router has a few thousand parameters; set 0",
        ),
        (["run", "configs/simulated.yaml", "cluster.memory_gib=100000"], 1, "100000"),
        (["run", "configs/textworld_demo.yaml", "env.files={test: [nowhere.z8]}"], 2, "nowhere.z8"),
        (["run", "configs/textworld_demo.yaml", "slm.model=models/absent"], 2, "models/absent"),
        (["run", "configs/textworld_demo.yaml", "cluster.memory_gib=100000"], 1, "100000"),
        (
            [
                "run",
                "configs/textworld_demo.yaml",
                "teacher={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}",
            ],
            1,
            "127.0.0.1:9",
        ),
        (["report", "nowhere"], 2, "not a run directory"),
    ],
)
def test_the_command_line_fails_in_one_line(arguments: list[str], code: int, part: str) -> None:
    command = [sys.executable, "-m", "r2v_dist.cli", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert result.returncode == code
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_what_a_model_cannot_do_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "textworld-tiny", model)
    (model / "chat_template.jinja").unlink()
    here = [f"run_dir={tmp_path / 'run'}", "cluster.memory_gib=0.1"]
    check(load_config(DEMO, here))
    with pytest.raises(
        UsageError, match=rf"slm.model = {model}: its tokenizer has no chat template"
    ):
        check(load_config(DEMO, [*here, f"slm.model={model}"]))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\nb")
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        check(
            load_config(
                DEMO,
                [*here, "teacher={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}"],
            )
        )


def test_a_missing_engine_is_said_in_one_line() -> None:
    program = (
        "import importlib.util, sys\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'vllm' else real(name, *a)\n"
        "from r2v_dist.cli.main import main\nmain(['run', 'configs/textworld_demo.yaml'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 1
    assert "vLLM is not installed" in result.stderr
    assert "make setup" in result.stderr
