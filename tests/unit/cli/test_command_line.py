"""What the command line takes, and how it says what it does not take."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

import r2v_dist
from r2v_dist.cli.main import main
from tests.runs import ROOT

DEMO = str(ROOT / "configs" / "textworld_demo.yaml")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["missing command", "`r2v --help`"]),
        (["rnu", DEMO], ["no such command 'rnu'", "did you mean 'run';", "`r2v --help`"]),
        (["--verbose"], ["no such option: --verbose", "`r2v --help`"]),
        (["run"], ["missing argument 'config'", "`r2v run --help`"]),
        (["run", DEMO, "--dryrun"], ["no such option: --dryrun", "--dry-run", "`r2v run --help`"]),
        (["run", DEMO, "--dry-run", "--seed=8"], ["no such option: --seed", "`r2v run --help`"]),
        (["run", "--dry-run", DEMO, "seed"], ["override 'seed': write key=value"]),
        (["report", "runs/x", "runs/y"], ["unexpected extra argument", "runs/y"]),
        (["certify", "runs/x", "--risk", "low"], ["--risk", "low", "`r2v certify --help`"]),
        (["certify", "runs/x", "--statistic", "max"], ["--statistic", "max", "mean", "cvar"]),
        (["rollouts", "runs/x", "--seed"], ["--seed", "requires an argument"]),
        (["rollouts", "runs/x", "--seed", "99999999999"], ["--seed", "2147483647"]),
        (["rollouts", "runs/x", "--limit", "-1"], ["--limit", "-1", "`r2v rollouts --help`"]),
        (["manifests", "slurm", DEMO, "--hours", "inf"], ["--hours", "inf"]),
        (["manifests", "kuberay", DEMO, "--deadline-hours", "1e300"], ["--deadline-hours"]),
        (["manifests", "kuberay", DEMO, "--keep-seconds", "9999999999"], ["--keep-seconds"]),
        (["report", "~nobody-here/x"], ["RUN_DIR", "nobody here is called ~nobody-here"]),
        (["jobs", "--timeout", "inf"], ["--timeout", "inf"]),
        (["tasks"], ["missing command", "`r2v tasks --help`"]),
        (["tasks", "chekc", "textworld"], ["no such command", "did you mean 'check';"]),
        (["submit", DEMO, "--adress=x"], ["no such option: --adress", "--address"]),
        (["manifests", "k8s", DEMO], ["no such command 'k8s'", "`r2v manifests --help`"]),
        (["doctor", "--jsno"], ["no such option: --jsno", "--json"]),
    ],
)
def test_a_wrong_command_line_is_one_line_with_the_fix_and_code_2(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert printed.out == ""
    assert line.startswith("r2v: ")
    for part in parts:
        assert part.lower() in line.lower()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command_and_what_it_takes(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([flag])
    listed = capsys.readouterr().out
    submitted = ("submit", "jobs", "logs", "stop", "manifests")
    for command in ("run", "report", "certify", "rollouts", "tasks", "doctor", *submitted):
        assert f"\n  {command} " in listed
    for command, option in (
        ("run", "--dry-run"),
        ("report", "--json"),
        ("certify", "--statistic"),
        ("rollouts", "--failed"),
        ("doctor", "--json"),
        ("submit", "--exclude"),
        ("logs", "--follow"),
    ):
        main([command, flag])
        assert option in capsys.readouterr().out
    main(["tasks", "check", flag])
    assert "humaneval_plus" in capsys.readouterr().out


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"{r2v_dist.__version__}\n"


def test_a_tilde_that_no_shell_has_replaced_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in (["run", "~/x.yaml"], ["report", "~/x"], ["submit", "~/x.yaml"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(arguments)
        assert capsys.readouterr().err.startswith(f"r2v: {tmp_path}/x")


def test_a_terminal_without_utf_8_shows_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["--version"])
    print("score \u2190 0.5")
    terminal.flush()
    assert terminal.buffer.getvalue().decode() == f"{r2v_dist.__version__}\nscore ? 0.5\n"


def test_help_imports_nothing_that_a_command_needs() -> None:
    program = (
        "import sys\nfrom r2v_dist.cli.main import main\nmain(['run', '--help'])\n"
        "heavy = {'ray', 'torch', 'vllm', 'numpy', 'psutil', 'rich', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("r2v_dist.cli.machine.examine", interrupted)
    with pytest.raises(SystemExit, match=r"^130$"):
        main(["doctor"])
    said = capsys.readouterr().err
    assert said == "r2v: interrupted; run the same command again to continue\n"
