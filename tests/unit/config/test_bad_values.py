"""A value that cannot be is refused in one line that names key, value and fix."""

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.preflight import check_environment
from tests.runs import DEMO, ROOT


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
        ("techer={base_url: 'https://me:word@host/v1'}", ["unknown key techer", "(not shown)"]),
        *(
            (
                f"teacher={{backend: openai, model: m, base_url: '{address}'}}",
                ["teacher.base_url = (not shown)", "api_key_env"],
            )
            for address in (
                "https://me:word@host/v1",
                "https://word@host/v1",
                "https://host/v1?api-key=word",
                "https://host?a=b&Token=word",
            )
        ),
        (f"run_dir=s3://bucket/{'x' * 300}", ["run_dir", "255"]),
        ("env.cache=s3://bucket/x", ["env.cache", "only the run_dir of a run may be"]),
        ("name=''", ["name", "at least 1"]),
        (
            "env.games=[{challenge: custom, settings: {rooms: [1, 2, 3]}}]",
            ["env.games.0.settings.rooms = [1, 2, 3]: tuple"],
        ),
        (
            "env.games=[{challenge: custom, settings: {rooms: {a: 1}}}]",
            ["env.games.0.settings.rooms = {", "valid tuple"],
        ),
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


def test_rules_are_refused_where_an_environment_has_none() -> None:
    own = load_config(ROOT / "examples" / "own_environment.yaml", ["verifier={kind: rules}"])
    with pytest.raises(UsageError, match=r"verifier\.kind = rules: .* none for .*SPEC"):
        check_environment(own)
    games = ROOT / "configs" / "textworld_simulated.yaml"
    check_environment(load_config(games, ["verifier={kind: rules}"]))


def test_only_the_score_of_r2v_can_be_chosen() -> None:
    with pytest.raises(UsageError, match=r"router\.score = validated: .* r2v is not in evaluate"):
        load_config(DEMO, ["router.score=validated", "evaluate.routers=[entropy]"])


def test_a_trained_verifier_needs_a_cloned_slm() -> None:
    with pytest.raises(UsageError, match=r"verifier\.kind = trained: .* bc is null"):
        load_config(DEMO, ["bc=null", "dpo=null"])


def test_an_unknown_environment_is_named_with_the_nearest() -> None:
    config = load_config(DEMO, ["env={kind: textwold, splits: {validation: 20}}"])
    with pytest.raises(UsageError, match=r"env\.kind = textwold: .* did you mean textworld\?"):
        check_environment(config)
    with pytest.raises(UsageError, match=r"env\.kind = 'my env': write the name of"):
        load_config(DEMO, ["env.kind=my env"])
