"""`r2v tasks check`: the same command for every environment, and an exit code that says whether the
tasks are in order.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from envs import check as checking
from envs.check import check
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.places import task_for
from r2v_dist.episodes import Task
from r2v_dist.errors import RuntimeFailure, UsageError
from tests.runs import ROOT
from tests.sandboxes import require_bubblewrap


def r2v(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "r2v_dist.cli", "tasks", "check", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
    )


def test_the_shipped_programming_tasks_are_in_order() -> None:
    require_bubblewrap()
    done = r2v("shipped", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    plays = result.pop("plays")
    assert [set(play) for play in plays] == 6 * [{"task", "passed", "expert_s", "actions"}]
    assert result == {
        "tasks": 6,
        "oracle_passed": 6,
        "empty_failed": 6,
        "failures": [],
        "reasons": {},
    }


def test_a_config_names_the_tasks_of_all_its_splits(tmp_path: Path) -> None:
    require_bubblewrap()
    config = tmp_path / "mine.yaml"
    config.write_text(
        "name: mine\nenv: {kind: humaneval_plus, code: {source: shipped}, splits: {train: 1, "
        "validation: 1, test: 2}}\n"
        "slm: {backend: simulated}\nteacher: {backend: expert}\n"
    )
    done = r2v(str(config))
    assert done.returncode == 0, done.stderr
    assert "4 tasks, the expert passed 4, the empty agent failed 4" in done.stdout


def test_games_are_checked_by_the_same_command() -> None:
    result = check("textworld", lambda done, total: None)
    assert (result.tasks, result.oracle_passed, result.empty_failed, result.good) == (
        10,
        10,
        10,
        True,
    )


def test_what_is_not_in_order_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_bubblewrap()
    expert = checking._expert_plays

    def broken(task: Any) -> checking.Play:
        play = expert(task)
        return replace(play, passed=play.passed and task.id != "R2V/3")

    monkeypatch.setattr(checking, "_expert_plays", broken)
    monkeypatch.setattr(checking, "_empty_passes", lambda task: task.id == "R2V/5")
    result = check("shipped", lambda done, total: None)
    assert (result.tasks, result.oracle_passed, result.empty_failed) == (6, 5, 5)
    assert result.failures == ("R2V/3", "R2V/5")
    assert result.reasons == {
        "R2V/3": "the expert fails",
        "R2V/5": "an agent that does nothing passes",
    }
    assert not result.good


def test_a_task_that_cannot_be_played_does_not_end_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(task: Any) -> checking.Play:
        if task.id == "R2V/0":
            raise RuntimeFailure("the canonical solution\ndoes not run")
        return checking.Play(task.id, True)

    monkeypatch.setattr(checking, "_expert_plays", broken)
    monkeypatch.setattr(checking, "_empty_passes", lambda task: False)
    result = check("shipped", lambda done, total: None)
    assert (result.tasks, result.oracle_passed, result.empty_failed, result.failures) == (
        6,
        5,
        5,
        ("R2V/0",),
    )
    assert (
        "not in order: R2V/0 (RuntimeFailure: the canonical solution does not run)"
        in checking.render("shipped", result)
    )


def test_an_unknown_environment_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="textworld, humaneval_plus, mbpp_plus, shipped"):
        check("chess", lambda done, total: None)


def test_a_wrong_solution_that_passes_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_bubblewrap()
    task = Task("tidy-modes@1", "check", "r2v/TerminalBench-v0", (("task", "tidy-modes@1"),))
    monkeypatch.setattr(checking, "_tasks", lambda target, root: [task])
    assert check("any", lambda done, total: None).good
    oracle = task_for("tidy-modes@1").oracle
    monkeypatch.setattr(TerminalBenchEnv, "wrong_solution", oracle)
    found = check("any", lambda done, total: None)
    assert found.failures == ("tidy-modes@1",)
    assert found.reasons == {"tidy-modes@1": "its wrong solution passes"}
    assert (found.oracle_passed, found.empty_failed) == (1, 1)


@pytest.mark.parametrize(
    ("name", "survivors"), [("queue-worker@1", ["/bin/bash /app/worker.sh"]), ("tidy-modes@1", [])]
)
def test_a_play_tells_which_programs_the_tests_needed(name: str, survivors: list[str]) -> None:
    require_bubblewrap()
    arguments = (("task", name), ("max_steps", 60))
    play = checking._expert_plays(Task(name, "check", "r2v/TerminalBench-v0", arguments)).to_json()
    assert (play["task"], play["passed"]) == (name, True)
    assert play["actions"] == play["commands"] + 1
    assert play["expert_s"] > 0
    assert play["isolation"].startswith("bubblewrap, /")
    assert play["keeps_processes"] == bool(survivors)
    assert play["survived"][:1] == survivors  # then what these started


def test_the_tasks_of_a_directory_are_listed_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    described = "instruction: Do it.\ndifficulty: hard\ncategory: files\n"
    (tmp_path / "bare" / "task.yaml").write_text(described, encoding="utf-8")
    command = [sys.executable, "-m", "r2v_dist.cli", "tasks", "list", str(tmp_path)]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    (only,) = json.loads(done.stdout)
    assert only["task"] == "bare"
    assert only["sandbox"] == only["docker"]
    assert (only["difficulty"], only["category"]) == ("hard", "files")
    assert "Dockerfile is missing" in only["sandbox"]
    failed = subprocess.run(
        [*command[:-1], str(tmp_path / "none")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1


def test_a_directory_of_terminal_tasks_is_checked(tmp_path: Path) -> None:
    require_bubblewrap()
    for name, solution in (("done", "touch one"), ("undone", "touch two")):
        files = {
            "task.yaml": "instruction: Make one.\n",
            "Dockerfile": "FROM debian:12\nWORKDIR /app\n",
            "run-tests.sh": "test -e /app/one\n",
            "solution.sh": f"{solution}\n",
        }
        (tmp_path / name).mkdir()
        for path, text in files.items():
            (tmp_path / name / path).write_text(text, encoding="utf-8")
    found = check(str(tmp_path), lambda done, total: None)
    assert (found.tasks, found.oracle_passed, found.empty_failed) == (2, 1, 2)
    assert found.failures == ("undone",)
    assert found.reasons == {"undone": "the expert fails"}
    with pytest.raises(UsageError, match="only a directory of tasks has a root"):
        check("terminal_bench", lambda done, total: None, tmp_path)
