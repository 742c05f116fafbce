"""Bad input ends in one line that names the file, the key, the value and the fix."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from r2v_dist.cli.main import main
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.places import cache_folder
from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.preflight import check, check_environment
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT

DEMO = ROOT / "configs" / "textworld_demo.yaml"
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


def test_only_what_changes_a_simulated_router_moves_it() -> None:
    folder, other = (
        _folder(*overrides)
        for overrides in ((), ("cluster.num_cpus=1", "routers=[r2v]", "test_tasks=9"))
    )
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
        (
            "teacher={backend: openai, model: m, base_url: 'ftp://x/v1'}",
            ["teacher.base_url", "ftp://x/v1", "http://"],
        ),
        (
            "teacher={backend: openai, model: m, base_url: 'http://x:port/v1'}",
            ["teacher.base_url", "x:port", "http://"],
        ),
        ("slm.sampling={temperature: null}", ["slm", "vllm", "sampling.temperature"]),
        ("teacher.retry_s=0", ["teacher.retry_s", "0", "greater than 0"]),
        ("slm.sampling.candidates=1000000000", ["slm.sampling.candidates", "1000"]),
        ("slm.max_model_len=100000000000", ["slm.max_model_len", "10000000"]),
        ("slm.timeout_s=1e300", ["slm.timeout_s", "1000000"]),
        (
            "slm.sampling={temperature: 0, candidates: 5}",
            ["slm.sampling", "temperature 0", "candidates"],
        ),
        ("seed", ["key=value"]),
        ("seed=-1", ["seed", "-1", "greater than or equal to 0"]),
        ("seed=4294967296", ["seed", "4294967296", "2147483647"]),
        ("seed=true", ["seed", "true", "number"]),
        ("seed=010", ["override", "010", "begins with 0"]),
        ("seed=1:30", ["seed", "1:30", "integer"]),
        (f"seed={'9' * 5000}", ["5000 digits"]),
        (f"evaluate.rates={'[' * 3000}{']' * 3000}", ["nested too deeply"]),
        ("perturb={test_seeds: 1, test_seeds: 2}", ["test_seeds", "twice"]),
        ("evaluate.rates=[]", ["evaluate.rates", "at least 1"]),
        ("evaluate.rates=[0.1, 0.2, 0.1]", ["evaluate.rates", "0.1 stands twice"]),
        ("evaluate.routers=[r2v, r2v]", ["evaluate.routers", "r2v stands twice"]),
        ("perturb.train_seeds=1001", ["perturb.train_seeds", "1000"]),
        ("bc.learning_rate=.inf", ["bc.learning_rate", "inf", "finite"]),
        ("bc={batch_size: 10, micro_batch_size: 4}", ["bc", "batch_size = 10", "4 x 1", "8 or 12"]),
        ("bc={batch_size: 2, micro_batch_size: 4}", ["bc", "batch_size = 2", "set 4"]),
        ("dpo.deepspeed.ranks=3", ["dpo", "batch_size = 16", "8 x 3"]),
        ("verifier.training.micro_batch_size=5", ["verifier.training", "batch_size = 16", "5"]),
        ("bc.deepspeed={offload_parameters: true}", ["bc.deepspeed", "zero_stage 3"]),
        (
            "bc.deepspeed={zero_stage: 3, offload_optimizer: nvme}",
            ["bc.deepspeed", "nvme_path"],
        ),
        (
            "bc.deepspeed={offload_optimizer: nvme, nvme_path: /nvme}",
            ["bc.deepspeed", "zero_stage 3"],
        ),
        (
            "bc.deepspeed={zero_stage: 3, zero_hpz_partition_size: 2}",
            ["bc.deepspeed", "zero_hpz_partition_size = 2", "1 ranks"],
        ),
        ("bc.deepspeed.extra={optimizer: {}}", ["extra.optimizer", "leave it out"]),
        (
            "bc.deepspeed.extra={zero_optimization: {stage: 1}}",
            ["extra.zero_optimization.stage", "leave it out"],
        ),
        ("bc.deepspeed.extra={zero_optimisation: {}}", ["did you mean zero_optimization?"]),
        ("bc.attention=flash_attention_2", ["bc", "flash_attention_2", "bf16"]),
        (
            "cluster={address: auto, metrics: {port: 8080}}",
            ["metrics.port = 8080", "--metrics-export-port"],
        ),
        ("cluster.address=ray://head:10001", ["cluster.address", "auto", "job"]),
        ("cluster.env={CUDA_VISIBLE_DEVICES: 0}", ["CUDA_VISIBLE_DEVICES", "cluster.gpus"]),
        ("cluster.env={NCCL IFNAME: x}", ["cluster.env", "no name"]),
        ("cluster.gpus=some", ["cluster.gpus", "some", "require"]),
        (
            "router.deepspeed.ranks=400",
            ["router.deepspeed.ranks", "400", "episodes", "fewer ranks"],
        ),
        ("collect={clean_episodes: 0, perturbed_episodes: 0}", ["collect", "both 0"]),
        ("env.splits.validation=0", ["env.splits.validation", "0", "at least 2"]),
        (
            "router={score: policy, deepspeed: {ranks: 1, zero_stage: 2}}",
            ["router", "zero_stage = 2", "set 0"],
        ),
        (
            "router={score: validated, mode: joint}",
            ["router.score = validated", "mode = joint", "leave"],
        ),
        ("env.splits.train=1", ["env.splits.train", "1", "at least 2"]),
        ("env.max_steps=40000", ["env.max_steps", "40000", "10000"]),
        ("slm.cpu_cores=0-x", ["slm.cpu_cores", "0-x", "0-1,3"]),
        ("slm.cpu_cores=3-1", ["slm.cpu_cores", "3-1"]),
        ("slm.sampling.max_tokens=1024", ["slm.sampling.max_tokens", "1024", "max_model_len"]),
        ("run_dir=''", ["run_dir", "empty path"]),
        ("run_dir=~", ["run_dir", "no path", "home directory"]),
        ('run_dir="a\\0b"', ["run_dir", "no text"]),
        (f"run_dir=runs/{'x' * 300}", ["run_dir", "300 bytes", "255"]),
        ("run_dir=~nobody-of-this-name/runs", ["run_dir", "nobody-of-this-name"]),
        ("run_dir=hdfs://head/runs", ["run_dir = 'hdfs://head/runs'", "s3://, gs://, abfs://"]),
        ("run_dir=s3://bucket", ["run_dir", "a whole bucket; name a folder in it"]),
        ("run_dir=s3:///runs", ["run_dir", "no bucket; write s3://bucket/folder"]),
        ("run_dir='s3://b/x?region=eu'", ["run_dir", "AWS_ENDPOINT_URL and AWS_REGION"]),
        ("run_dir=s3://me:word@b/x", ["run_dir = (not shown)", "credentials into the environment"]),
        (f"run_dir=s3://bucket/{'x' * 300}", ["run_dir", "255"]),
        ("env.cache=s3://bucket/x", ["env.cache", "only the run_dir of a run may be"]),
        ("name=''", ["name", "at least 1"]),
    ],
)
def test_bad_values_name_key_value_and_fix(override: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(DEMO, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"a: [1", ["not YAML"]),
        ("name: caf\u00e9".encode("latin-1"), ["line 1", "not UTF-8", "0xe9"]),
        ("name: tiny".encode("utf-16"), ["UTF-16"]),
        (b"x: " + b"[" * 3000 + b"]" * 3000, ["nested too deeply"]),
        (b"seed: " + b"9" * 5000, ["seed", "line 1", "5000 digits"]),
        (b"seed: 010", ["seed", "010", "begins with 0"]),
        (b"a: {b: [{c: 1,\n c: 2}]}", ["a.b.0.c", "lines 1 and 2"]),
        (b"seed: 0\nname: x\nseed: 7", ["key seed", "lines 1 and 3"]),
        (b"a: &a {b: *a}", ["a.b", "holds itself"]),
        (b"seed: !!int x", ["not YAML"]),
        (b"- 1", ["mapping"]),
        (b"", ["mapping"]),
        (b"#" * (1 << 21), ["larger"]),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, list) else "",
)
def test_a_file_that_is_no_configuration_is_one_line(
    tmp_path: Path, content: bytes, parts: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    for read in (load_config, load_simulated):
        with pytest.raises(UsageError) as caught:
            read(path, [])
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < 600
        for part in parts:
            assert part in message


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such config"):
        load_config(tmp_path / "absent.yaml", [])
    with pytest.raises(UsageError, match="a directory"):
        load_config(tmp_path, [])
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(Path("x" * 300), [])


def test_words_of_old_yaml_are_text_and_merged_keys_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    anchored = (
        DEMO.read_text().replace("name: textworld_demo", "name: off").replace("bc: {", "bc: &bc {")
    )
    path.write_text(anchored.replace("dpo: {", "dpo: {<<: *bc, ") + "training_seeds: 1e0\n")
    config = load_config(path, ["bc.bf16=on", "bc.learning_rate=1e-3"])
    assert (config.name, config.bc.bf16, config.bc.learning_rate) == ("off", True, 1e-3)
    assert config.dpo is not None
    assert (config.dpo.micro_batch_size, config.dpo.batch_size) == (8, 16)


@pytest.mark.parametrize("text", ["1.10", "1e3", "0o10", "12", "on", "1:30", ".5"])
def test_a_text_that_looks_like_a_number_stays_as_it_was_written(tmp_path: Path, text: str) -> None:
    config = load_config(DEMO, [f"name={text}", f"slm.model='{text}'"])
    assert (config.name, config.slm.model) == (text, text)
    RunDir(tmp_path).write_config(config)
    assert load_config(tmp_path / "config.yaml", []) == config


def test_an_override_is_given_once() -> None:
    with pytest.raises(UsageError, match="seed is given twice"):
        load_config(DEMO, ["seed=1", "seed=2"])


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (
            "{rooms: [1, 2], objects: [2, 3], quest_length: [2, 3], instructions: lsat}",
            ["instructions = lsat", "full or last"],
        ),
        (
            "{rooms: [1, 2], objects: [2, 3], quest_length: [2, 3], instructions: [1, 2]}",
            ["instructions = [1, 2]", "full or last"],
        ),
        (
            "{rooms: [4, 1], objects: [2, 3], quest_length: [2, 3], instructions: full}",
            ["rooms = [4, 1]", "write [1, 4]"],
        ),
        (
            "{rooms: [true, true], objects: [2, 3], quest_length: [2, 3], instructions: full}",
            ["settings", "[True, True] is no range"],
        ),
        (
            "{rooms: 2, objects: [2, 3], quest_length: [2, 3], instructions: full}",
            ["rooms = 2", "range"],
        ),
        (
            "{rooms: [0, 0], objects: [2, 3], quest_length: [2, 3], instructions: full}",
            ["rooms = [0, 0]", "from 1 to 100"],
        ),
        (
            "{rooms: [1, 2], objects: [2, 3], quest_length: [-1, -1], instructions: full}",
            ["quest_length = [-1, -1]", "from 1"],
        ),
        ("{rooms: [1, 2], objects: [2, 3], quest_length: [2, 3]}", ["needs exactly"]),
        ("{room: [1, 2]}", ["settings.room", "rooms"]),
    ],
)
def test_settings_of_games_are_checked_one_by_one(settings: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(DEMO, [f"env.games=[{{challenge: custom, settings: {settings}}}]"])
    for part in ["env.games.0", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("challenge", "settings", "part"),
    [
        ("coin_collector", "{level: [1, 301]}", "from 1 to 300"),
        ("treasure_hunter", "{level: [0, 3]}", "from 1 to 30"),
        ("cooking", "{go: [1, 6]}", "1, 6, 9, 12"),
        ("cooking", "{cook: [0, 2]}", "from 0 to 1"),
        ("cooking", "{recipe: [1, 3], take: [1, 2]}", "at most the smallest recipe, 1"),
    ],
)
def test_every_challenge_says_what_it_takes(challenge: str, settings: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        load_config(DEMO, [f"env.games=[{{challenge: {challenge}, settings: {settings}}}]"])


def test_every_run_needs_validation_tasks() -> None:
    with pytest.raises(UsageError, match=r"env\.splits\.validation = 0: .* at least 1"):
        load_config(
            ROOT / "configs" / "humaneval_simulated.yaml",
            ["router=null", "env.splits.validation=0"],
        )


def test_a_key_does_not_change_the_defaults_beside_it() -> None:
    router = load_config(DEMO, ["router.deepspeed.ranks=2"]).router
    assert router is not None
    assert router.deepspeed.zero_stage == 0
    simulated = load_simulated(SIMULATED, ["cluster={num_cpus: 2}"])
    assert simulated is not None
    assert simulated.cluster.memory_gib == 1.0


def test_rules_are_refused_where_an_environment_has_none() -> None:
    own = load_config(ROOT / "examples" / "own_environment.yaml", ["verifier={kind: rules}"])
    with pytest.raises(UsageError, match=r"verifier\.kind = rules: .* none for .*SPEC"):
        check_environment(own)
    games = ROOT / "configs" / "textworld_simulated.yaml"
    check_environment(load_config(games, ["verifier={kind: rules}"]))


def test_spread_seeds_are_all_met() -> None:
    with pytest.raises(UsageError, match=r"seeds_per_task = 1: 2 validation tasks meet only 2 of"):
        load_config(DEMO, ["labels={validation_tasks: 2, seeds_per_task: 1, pairs: 10}"])


def test_a_trained_verifier_needs_a_cloned_slm() -> None:
    with pytest.raises(UsageError, match=r"verifier\.kind = trained: .* bc is null"):
        load_config(DEMO, ["bc=null", "dpo=null"])


def test_an_unknown_environment_is_named_with_the_nearest() -> None:
    config = load_config(DEMO, ["env={kind: textwold, splits: {validation: 20}}"])
    with pytest.raises(UsageError, match=r"env\.kind = textwold: .* did you mean textworld\?"):
        check_environment(config)
    with pytest.raises(UsageError, match=r"env\.kind = 'my env': write the name of"):
        load_config(DEMO, ["env.kind=my env"])


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


def test_an_address_of_a_run_stays_one_wherever_it_is_written() -> None:
    config = load_config(DEMO, ["run_dir=s3://bucket/runs/one/"])
    assert config.model_dump(mode="json")["run_dir"] == "s3://bucket/runs/one"
    again = load_config(DEMO, [f"run_dir={config.model_dump(mode='json')['run_dir']}"])
    assert again == config
    assert config.run_dir.is_relative_to(cache_folder("runs"))


def test_an_address_of_a_file_is_its_path() -> None:
    assert load_config(DEMO, ["run_dir=file:///shared/x"]).run_dir == Path("/shared/x")
