"""What a job is called, what may be submitted, and what is said where no cluster answers."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.jobs import dashboard_url
from cluster.submission import job_id
from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import UsageError
from tests.runs import ROOT

CONFIG = ROOT / "configs" / "textworld_simulated.yaml"
PURE = str(ROOT / "configs" / "simulated.yaml")


def identity(*overrides: str) -> str:
    return job_id(load_config(CONFIG, list(overrides)))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_job_is_its_configuration_and_run_directory_and_not_where_it_runs() -> None:
    first = identity("run_dir=/shared/a")
    assert first.startswith("r2v-textworld-simulated-")
    assert first == identity("run_dir=/shared/a", "cluster.runners=7")
    others = ["run_dir=/shared/b"], ["run_dir=/shared/a", "seed=1"], ["run_dir=/shared/a", "name=x"]
    assert len({first, *(identity(*other) for other in others)}) == 4


def test_every_name_makes_an_id_that_kuberay_takes() -> None:
    for name in ("Ein Name / mit: allem!", "x" * 200, "---", "ü"):
        made = identity(f"name='{name}'")
        assert len(made) <= 47
        assert made.replace("-", "").isalnum()
        assert made == made.lower()
        assert made.isascii()


def test_a_simulated_run_has_an_id_of_its_own_routers() -> None:
    ids = set()
    for routers in ("[r2v]", "[r2v, r2v_no_cvar]"):
        config = load_simulated(Path(PURE), [f"routers={routers}"])
        assert config is not None
        ids.add(job_id(config))
    assert len(ids) == 2


@pytest.mark.parametrize("address", ["ray://head:10001", "auto://x", "http://", "head:port"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"^--address = .*; write for example http://"):
        dashboard_url(address)


def test_an_address_may_leave_out_its_scheme() -> None:
    assert dashboard_url("head:8265") == dashboard_url("http://head:8265/") == "http://head:8265"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([PURE], ["run_dir = runs/simulated", "absolute path", "run_dir=/shared/runs/simulated"]),
        ([PURE, "run_dir=s3://bucket/x"], ["run_dir = 's3://bucket/x': an address", "a path"]),
        ([PURE, "run_dir=/s/x", "cluster.executor=inline"], ["executor = inline", "set it to ray"]),
        (
            [PURE, "run_dir=/s/x", "--working-dir=/none"],
            ["--working-dir = /none", "no such folder"],
        ),
        ([PURE, "run_dir=/s/x", "--driver-label=gpu"], ["--driver-label = gpu", "NAME=VALUE"]),
        ([PURE, "run_dir=/s/x", "seed=-1"], ["seed = -1"]),
    ],
)
def test_what_cannot_be_submitted_is_one_line_and_code_2(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["submit", *arguments])
    [line] = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "command",
    [["submit", PURE, "run_dir=/shared/x"], ["jobs"], ["logs", "x", "--follow"], ["stop", "x"]],
)
def test_a_cluster_that_does_not_answer_is_one_line_and_code_1(
    command: list[str],
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    # Ray's client prefers these to the address that it is given.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(SystemExit, match=r"^1$"):
        main([*command, "--address", f"127.0.0.1:{closed_port}"])
    [line] = capsys.readouterr().err.splitlines()
    assert f"--address = http://127.0.0.1:{closed_port}: no answer" in line


def test_a_dry_run_prints_what_would_travel_and_asks_no_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    main(["submit", str(CONFIG), "run_dir=/shared/a", "--dry-run"])
    *files, last = capsys.readouterr().out.splitlines()
    assert {"r2v_job.yaml", "r2v_dist/cli/__main__.py"} <= set(files)
    assert last.startswith(f"# {identity('run_dir=/shared/a')}: {len(files)} files, ")


def test_submitting_imports_neither_torch_nor_an_engine(closed_port: int) -> None:
    program = (
        "import sys\nfrom r2v_dist.cli.main import main\n"
        "try:\n    main(['submit', *sys.argv[1:]])\n"
        "except SystemExit as ended:\n    assert ended.code == 1, ended.code\n"
        "assert 'ray' in sys.modules\n"
        "heavy = {'torch', 'vllm', 'transformers', 'pandas', 'gymnasium'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    demo = ["configs/textworld_demo.yaml", "run_dir=/shared/x"]
    command = [sys.executable, "-c", program, *demo, "--address", f"127.0.0.1:{closed_port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
