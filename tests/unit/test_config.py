"""Bad input ends in one line that names the file, the key, the value and the fix."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from r2v_dist.cli import main
from r2v_dist.config import load_config
from r2v_dist.errors import UsageError
from r2v_dist.model_config import ModelConfig
from r2v_dist.plan import check
from r2v_dist.simulated_config import load_simulated

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "textworld_demo.yaml"
SIMULATED = ROOT / "configs" / "simulated.yaml"


@pytest.mark.parametrize("path", sorted({*(ROOT / "configs").glob("*.yaml")} - {SIMULATED}), ids=lambda p: p.stem)
def test_shipped_configs_survive_a_dry_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(path), "--dry-run"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["name"] == path.stem
    assert "# test episodes" in printed


def test_overrides_may_follow_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(DEMO), "seed=8", "--dry-run", "collect.tasks=20"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["collect"]["tasks"]) == (8, 20)
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(DEMO), "--dry-run", "--seed=8"])
    assert "unrecognized arguments: --seed=8" in capsys.readouterr().err


def test_a_simulated_run_is_told_by_its_kind() -> None:
    config = load_simulated(SIMULATED, ["seed=3", "router.epsilon=0.2"])
    assert config is not None
    assert (config.seed, config.router.epsilon, config.router.surrogate) == (3, 0.2, "latched")
    assert load_simulated(DEMO, []) is None


def test_only_what_changes_a_simulated_router_moves_it() -> None:
    folder, other = (_folder(*overrides) for overrides in ((), ("cluster.num_cpus=1", "routers=[r2v]", "test_tasks=9")))
    assert folder == other
    assert folder not in {_folder("seed=1"), _folder("router.epsilon=0.2"), _folder("branches=2")}


def _folder(*overrides: str) -> Path:
    config = load_simulated(SIMULATED, list(overrides))
    assert config is not None
    return config.folder


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("perturb.test_sed=3", ["perturb.test_sed", "3", "test_seeds"]),
        ("slm.sampling.temprature=1", ["slm.sampling.temprature", "temperature"]),
        ("perturb.test_seeds=0", ["perturb.test_seeds", "0", "greater than or equal to 1"]),
        ("slm.backend=gpt", ["slm.backend", "gpt", "vllm"]),
        ("slm.backend=expert", ["expert", "teacher"]),
        ("teacher.backend=openai", ["openai", "model"]),
        ("bc.deepspeed.zero_stage=4", ["zero_stage", "4"]),
        ("teacher={backend: openai, model: m, base_url: 'ftp://x/v1'}", ["teacher.base_url", "ftp://x/v1", "http://"]),
        ("teacher={backend: openai, model: m, base_url: 'http://x:port/v1'}", ["teacher.base_url", "x:port", "http://"]),
        ("slm.sampling={temperature: null}", ["slm", "vllm", "sampling.temperature"]),
        ("teacher.retry_s=0", ["teacher.retry_s", "0", "greater than 0"]),
        ("slm.sampling={temperature: 0, candidates: 5}", ["slm.sampling", "temperature 0", "candidates"]),
        ("seed", ["key=value"]),
    ],
)
def test_bad_values_name_key_value_and_fix(override: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(DEMO, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such config"):
        load_config(tmp_path / "absent.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(UsageError, match="not YAML"):
        load_config(broken, [])


def test_overrides_reach_nested_keys_and_are_parsed_as_yaml() -> None:
    config = load_config(DEMO, ["evaluate.rates=[0.5]", "env.splits.test=3"])
    assert config.evaluate.rates == (0.5,)
    assert config.env.splits.test == 3


def test_content_hash_ignores_where_and_how_fast() -> None:
    elsewhere = ["cluster.runners=7", "run_dir=/tmp/x", "slm.cpu_cores=0", "verifier.gpu_memory_utilization=0.5"]
    same = load_config(DEMO, elsewhere).content_hash()
    assert same == load_config(DEMO, []).content_hash()
    assert same != load_config(DEMO, ["slm.sampling.temperature=0.5"]).content_hash()


def test_keys_that_came_later_leave_finished_stages_finished() -> None:
    plain = ModelConfig(backend="openai", model="m", base_url="http://127.0.0.1:1/v1")
    earlier = "backend model sampling system_prompt dtype max_model_len base_url failure_rate failure_rate_perturbed"
    assert set(plain.content()) == {*earlier.split(), "failure_rate_after_error", "signal_auroc"}
    assert set(plain.content()["sampling"]) == {"candidates", "temperature", "top_p", "max_tokens"}
    for key, value in (
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("sampling", {"max_tokens_field": "max_completion_tokens"}),
        ("sampling", {"send_seed": False}),
        ("sampling", {"temperature": None}),
    ):
        assert ModelConfig.model_validate(plain.model_dump() | {key: value}).content() != plain.content()
    assert plain.model_copy(update={"retry_s": 5.0}).content() == plain.content()


@pytest.mark.parametrize(("config", "asked"), [(DEMO, "vLLM engines"), (SIMULATED, "kind: simulated_router")], ids=["run", "simulated"])
def test_help_and_dry_run_import_nothing_heavy(config: Path, asked: str) -> None:
    program = (
        "import sys\nfrom r2v_dist.cli import main\nmain(['run', sys.argv[1], '--dry-run'])\n"
        "heavy = {'ray', 'torch', 'vllm', 'transformers', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", program, str(config)], capture_output=True, text=True, timeout=60, check=False)
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
        (["run", "configs/simulated.yaml", "router.slm_cost=2"], 2, "keep that ratio"),
        (["run", "configs/simulated.yaml", "router.deepspeed.zero_stage=2"], 2, "a router has a few thousand parameters; set 0"),
        (["run", "configs/simulated.yaml", "cluster.memory_gib=100000"], 1, "100000"),
        (["run", "configs/textworld_demo.yaml", "env.files={test: [nowhere.z8]}"], 2, "nowhere.z8"),
        (["run", "configs/textworld_demo.yaml", "slm.model=models/absent"], 2, "models/absent"),
        (["run", "configs/textworld_demo.yaml", "cluster.memory_gib=100000"], 1, "100000"),
        (
            ["run", "configs/textworld_demo.yaml", "teacher={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}"],
            1,
            "127.0.0.1:9",
        ),
        (["report", "nowhere"], 2, "not a run directory"),
    ],
)
def test_the_command_line_fails_in_one_line(arguments: list[str], code: int, part: str) -> None:
    command = [sys.executable, "-m", "r2v_dist.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert result.returncode == code
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_what_a_model_cannot_do_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "textworld-tiny", model)
    (model / "chat_template.jinja").unlink()
    here = [f"run_dir={tmp_path / 'run'}", "cluster.memory_gib=0.1"]
    check(load_config(DEMO, here))
    with pytest.raises(UsageError, match=rf"slm.model = {model}: its tokenizer has no chat template"):
        check(load_config(DEMO, [*here, f"slm.model={model}"]))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\nb")
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        check(load_config(DEMO, [*here, "teacher={backend: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}"]))


def test_a_missing_engine_is_said_in_one_line() -> None:
    program = (
        "import importlib.util, sys\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'vllm' else real(name, *a)\n"
        "from r2v_dist.cli import main\nmain(['run', 'configs/textworld_demo.yaml'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert result.returncode == 1
    assert "vLLM is not installed" in result.stderr
    assert "make setup" in result.stderr
