"""Configurations: what overrides reach, and what a key changes."""

from pathlib import Path

import pytest
import yaml

from r2v_dist.cli.main import main
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.places import cache_folder
from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import UsageError
from tests.runs import DEMO, ROOT

SIMULATED = ROOT / "configs" / "simulated.yaml"


@pytest.mark.parametrize(
    "path", sorted({*(ROOT / "configs").glob("*.yaml")} - {SIMULATED}), ids=lambda p: p.stem
)
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
    assert "no such option: --seed" in capsys.readouterr().err


def test_a_simulated_run_is_told_by_its_kind() -> None:
    config = load_simulated(SIMULATED, ["seed=3", "router.epsilon=0.2"])
    assert config is not None
    assert (config.seed, config.router.epsilon, config.router.surrogate) == (3, 0.2, "latched")
    assert load_simulated(DEMO, []) is None


def _folder(*overrides: str) -> Path:
    config = load_simulated(SIMULATED, list(overrides))
    assert config is not None
    return config.folder


def test_only_what_changes_a_simulated_router_moves_it() -> None:
    folder, other = (
        _folder(*overrides)
        for overrides in ((), ("cluster.num_cpus=1", "routers=[r2v]", "test_tasks=9"))
    )
    assert folder == other
    assert folder not in {_folder("seed=1"), _folder("router.epsilon=0.2"), _folder("branches=2")}


def test_an_override_is_given_once() -> None:
    with pytest.raises(UsageError, match="seed is given twice"):
        load_config(DEMO, ["seed=1", "seed=2"])


def test_a_key_does_not_change_the_defaults_beside_it() -> None:
    router = load_config(DEMO, ["router.deepspeed.ranks=2"]).router
    assert router is not None
    assert router.deepspeed.zero_stage == 0
    simulated = load_simulated(SIMULATED, ["cluster={num_cpus: 2}"])
    assert simulated is not None
    assert simulated.cluster.memory_gib == 1.0


def test_spread_seeds_are_all_met() -> None:
    with pytest.raises(UsageError, match=r"seeds_per_task = 1: 2 validation tasks meet only 2 of"):
        load_config(DEMO, ["labels={validation_tasks: 2, seeds_per_task: 1, pairs: 10}"])


def test_overrides_reach_nested_keys_and_are_parsed_as_yaml() -> None:
    config = load_config(DEMO, ["evaluate.rates=[0.5]", "env.splits.test=3"])
    assert config.evaluate.rates == (0.5,)
    assert config.env.splits.test == 3


def test_an_override_leaves_the_section_alone_that_shares_an_anchor(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    anchored = DEMO.read_text().replace("bc: {", "bc: &bc {deepspeed: {ranks: 1}, ")
    path.write_text(anchored.replace("dpo: {", "dpo: {<<: *bc, "))
    config = load_config(path, ["dpo.deepspeed.ranks=2"])
    assert config.dpo is not None
    assert (config.dpo.deepspeed.ranks, config.bc.deepspeed.ranks) == (2, 1)


def test_content_hash_ignores_where_and_how_fast() -> None:
    elsewhere = [
        "cluster.runners=7",
        "run_dir=/tmp/x",
        "slm.cpu_cores=0",
        "verifier.gpu_memory_utilization=0.5",
        "verifier.threads=4",
        "sandbox.memory_mib=2048",
        "router.deepspeed.ranks=2",
        "dpo.attention=sdpa",
        "bc.deepspeed={ranks: 4, zero_stage: 3, offload_optimizer: true}",
        "bc.save_every_steps=7",
    ]
    same = load_config(DEMO, elsewhere).content_hash()
    assert same == load_config(DEMO, []).content_hash()
    assert same != load_config(DEMO, ["slm.sampling.temperature=0.5"]).content_hash()


def test_keys_that_came_later_leave_finished_stages_finished() -> None:
    plain = ModelConfig(backend="openai", model="m", base_url="http://127.0.0.1:1/v1")
    earlier = (
        "backend model sampling system_prompt dtype max_model_len base_url failure_rate "
        "failure_rate_perturbed"
    )
    assert set(plain.content()) == {*earlier.split(), "failure_rate_after_error", "signal_auroc"}
    assert set(plain.content()["sampling"]) == {"candidates", "temperature", "top_p", "max_tokens"}
    for key, value in (
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("sampling", {"max_tokens_field": "max_completion_tokens"}),
        ("sampling", {"send_seed": False}),
        ("sampling", {"temperature": None}),
    ):
        assert (
            ModelConfig.model_validate(plain.model_dump() | {key: value}).content()
            != plain.content()
        )
    assert plain.model_copy(update={"retry_s": 5.0}).content() == plain.content()


def test_an_address_of_a_run_stays_one_wherever_it_is_written() -> None:
    config = load_config(DEMO, ["run_dir=s3://bucket/runs/one/"])
    assert config.model_dump(mode="json")["run_dir"] == "s3://bucket/runs/one"
    again = load_config(DEMO, [f"run_dir={config.model_dump(mode='json')['run_dir']}"])
    assert again == config
    assert config.run_dir.is_relative_to(cache_folder("runs"))


def test_an_address_of_a_file_is_its_path() -> None:
    assert load_config(DEMO, ["run_dir=file:///shared/x"]).run_dir == Path("/shared/x")
