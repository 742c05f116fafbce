"""Every benchmark runs at its smallest size and ends in one JSON object. No figure is asserted:
what it says belongs to an idle machine.
"""

import json
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.chaos.accounts import Accounts, compare
from benchmarks.harness import Mismatch
from benchmarks.llama_server import likeness
from envs.coding.tasks import load_task, task_ids
from tests.codes import require_data
from tests.runs import ROOT, benchmark, json_object
from tests.sandboxes import require_bubblewrap

FAST = {
    "capacity": ["--gpus=2", "--places=2"],
    "env": ["--repeats=1", "--games=1", "--plays=1"],
    "gateway": ["--repeats=1", "--requests=20", "--connections=2"],
    "off_policy": ["--logs=2", "--conversations=100"],
    "router": ["--repeats=1", "--steps=2", "--queries=1", "--layers=1"],
    "router_simulated": [
        *(
            "--seeds=1",
            "configs/simulated.yaml",
            "routers=[r2v, r2v_no_cvar]",
            "train_tasks=20",
            "validation_tasks=30",
            "test_tasks=10",
        ),
        *("router.risk_steps=4", "router.policy_steps=6", "router.check_every_steps=3"),
    ],
    "sandbox_overhead": ["--executions=1", "--pause=0.05"],
    "store": ["--repeats=1", "--episodes=2"],
    "terminal": ["--repeats=1", "--families", "tidy-modes"],
}
"""Benchmarks that need neither Ray nor an engine, with the arguments of their smallest size."""
SLOW = {
    "chaos": ["--targets=collector", "--kills=2"],
    "handover": ["--repeats=1"],
    "humaneval_signal": [
        "--auroc",
        "0.9",
        "--",
        "env.code.source=shipped",
        "env.splits={train: 1, validation: 2, test: 2}",
    ],
    "learner": ["--games=4", "--steps=10", "--repeats=1"],
    "collector": ["--tasks=4", "--seeds=4", "--collectors=2"],
    "rank_memory": ["--cases=3"],
    "ranks": ["--stages=2", "--kinds=lora", "--scenarios=2 ranks"],
    "scaling": [
        *("--runners=1,2", "--latency=0.02", "--in-flight=2", "--slots=2"),
        *("--stored-tasks=4", "--stored-seeds=4"),
    ],
    "rollout": ["--games=1", "--seeds=1", "--repeats=1", "--candidates=2"],
    "submission": [],
    "top_p": ["--repeats=1", "--answers=2", "--tokens=8"],
}
"""Those that start Ray, vLLM or DeepSpeed."""
ELSEWHERE = {
    *("code_agreement", "dpo_ablation", "greedy_answers", "hidden_probe"),
    *("llama_server", "real_answers", "sandbox", "tree"),
}
"""Tested below, in test_learning_stages.py or in test_hidden_probe.py, with what they need beside
arguments.
"""
PARTS = {"evalplus_driver", "gateway_sides", "offline"}
"""Processes that a benchmark starts for itself."""


def commands() -> set[str]:
    """Modules that can be run."""
    folder = ROOT / "benchmarks"
    files = {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text()}
    return files | {path.parent.name for path in folder.glob("*/__main__.py")}


def test_every_benchmark_is_run_by_a_test() -> None:
    assert commands() == {*FAST, *SLOW, *ELSEWHERE, *PARTS}


@pytest.mark.parametrize("name", FAST)
def test_a_benchmark_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in ("sandbox_overhead", "terminal"):
        require_bubblewrap()
    threads = torch.get_num_threads()
    own = [f"run_dir={tmp_path}"] if name == "router_simulated" else []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *FAST[name], *own])
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda *_: None
    )  # this process has other tests to run
    code: object = None
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        torch.set_num_threads(threads)
    assert not code
    printed = capsys.readouterr().out.splitlines()
    assert json_object(printed[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_benchmark_with_engines_runs(name: str, tmp_path: Path) -> None:
    own = [f"--runs={tmp_path}"] if name == "humaneval_signal" else []
    assert benchmark(name, [*own, *SLOW[name]], 500)


@pytest.mark.slow
def test_the_tree_benchmark_runs_on_a_finished_run(simulated_run: Path) -> None:
    assert benchmark("tree", ["--run", str(simulated_run), "--tasks=1", "--seeds=1"], 300)


@pytest.mark.slow
def test_real_answers_are_judged_and_counted(tmp_path: Path) -> None:
    require_bubblewrap()
    require_data()
    right = load_task("humaneval_plus", "HumanEval/0").code
    answers = {"HumanEval/0": f"```python\n{right}\n```", "HumanEval/1": "I cannot."}
    path = tmp_path / "answers.jsonl"
    lines = [json.dumps({"task_id": task, "answer": answer}) for task, answer in answers.items()]
    path.write_text("\n".join(lines))
    found = benchmark("real_answers", [str(path)], 200)
    assert (found["answers"], found["usable"], found["passes_all"]) == (2, 0.5, 0.5)


@pytest.mark.slow
def test_every_task_is_answered_greedily_and_judged(tmp_path: Path) -> None:
    require_bubblewrap()
    out = tmp_path / "answers.jsonl"
    config = str(ROOT / "configs" / "humaneval_qwen_cpu.yaml")
    model = f"slm.model={ROOT / 'models' / 'textworld-tiny'}"
    command = [config, "slm", str(out), "--dataset=shipped", model, "slm.sampling.max_tokens=8"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.greedy_answers", *command, "slm.dtype=float32"],
        check=True, timeout=400, cwd=ROOT, env=os.environ | {"R2V_DATA_DIR": ""},
    )  # fmt: skip
    assert benchmark("real_answers", [str(out)], 200)["answers"] == len(task_ids("shipped"))


def test_a_row_that_is_lost_twice_there_or_another_is_found() -> None:
    calm = [("a", True), ("b", False), ("c", True)]
    assert compare(calm, [*reversed(calm)]) == Accounts(rows=3)
    found = compare(calm, [("a", True), ("a", True), ("b", True), ("d", True)])
    assert found == Accounts(rows=3, lost=1, twice=1, strange=1, other_outcome=1)
    assert not found.clean


AGREEING = """
import json, sys
rows = [json.loads(line) for line in sys.stdin]
for row in rows:
    passed = row["task_id"] != "HumanEval/32"
    print(json.dumps({"passed": passed, "base": "pass", "plus": "pass" if passed else "fail"}))
print(json.dumps({"seconds": 1.0, "cpu_seconds": 1.0}))
"""
"""What evalplus says of canonical solutions."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["code_agreement", "sandbox"])
def test_a_benchmark_against_evalplus_runs(name: str, tmp_path: Path) -> None:
    """With a stand-in for its interpreter, which needs an environment of its own."""
    require_bubblewrap()
    if not os.environ.get("R2V_DATA_DIR"):
        pytest.skip("R2V_DATA_DIR does not say where HumanEval+ is")
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{AGREEING}")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    alone = ["--executions=1"]
    if name == "code_agreement":
        alone = ["--datasets", "humaneval_plus", "--mutants=0", f"--cache={tmp_path}"]
    assert benchmark(name, ["--evalplus-python", str(python), *alone], 500)


def test_texts_that_part_at_once_are_no_answers_of_one_model() -> None:
    long = "def count_vowels(text): return sum(c in 'aeiou' for c in text)"
    assert likeness([long, long, "x"], [f"{long}#", f" {long}", long]) == (len(long), 1)
    with pytest.raises(Mismatch, match="half of them are alike for 0 letters only"):
        likeness([long, "x"], ["d", "y"])


@pytest.mark.slow
def test_the_benchmark_against_llama_cpp_runs() -> None:
    python = os.environ.get("R2V_LLAMA_PYTHON")
    if not python:
        pytest.skip("R2V_LLAMA_PYTHON names no interpreter with llama-cpp-python[server]")
    found = benchmark("llama_server", ["--llama-python", python, "--repeats=1", "--tokens=32"], 900)
    assert found["answers"] == 16
