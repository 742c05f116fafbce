"""`cluster.executor=inline`: the run of a debugger is the run on Ray, to the last episode."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.preflight import resource_plan
from r2v_dist.pipeline.stages import stages
from r2v_dist.storage import rollouts as rollout_store
from tests.runs import ROOT, SIMULATED, outcomes
from tests.unit.actors.test_backends import Endpoint, reply, serving

INLINE = [*SIMULATED, "cluster.executor=inline"]
WATCHING = """
import os, runpy, sys, threading

met = set()

def watch(module, name):
    owner = __import__(module, fromlist=["_"])
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    honest = getattr(owner, last)

    def watched(*arguments, **named):
        met.add((name, os.getpid(), threading.current_thread() is threading.main_thread()))
        return honest(*arguments, **named)

    setattr(owner, last, watched)

watch("r2v_dist.agent.tree", "TreeEnv.step")
watch("r2v_dist.verifier.llm_judge", "judge_prompt")
watch("r2v_dist.storage.rollouts", "commit")
watch("learners.router.train", "calibrate")
sys.argv = ["r2v", *sys.argv[1:]]
try:
    runpy.run_module("r2v_dist.cli", run_name="__main__")
finally:
    assert {(pid, main) for _, pid, main in met} <= {(os.getpid(), True)}, met
    assert "ray" not in sys.modules
    print("met:", *sorted(name for name, *_ in met))
"""


def start(arguments: list[str], run_dir: Path) -> "subprocess.Popen[str]":
    """`r2v run` in a process that tells afterwards what it met, all in its main thread."""
    command = [sys.executable, "-c", WATCHING, "run", *arguments, f"run_dir={run_dir}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(900)  # a run on Ray, if no other test has made it, and one without
def test_an_interrupted_inline_run_ends_like_the_run_on_ray(
    simulated_run: Path, tmp_path: Path
) -> None:
    process = start(INLINE, tmp_path)
    deadline = time.monotonic() + 300
    while not rollout_store.shards(tmp_path / "rollouts" / "visits"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    *progress, complaint = said.splitlines()
    assert process.returncode == 130, said
    assert complaint == "r2v: interrupted; run the same command again to continue"
    assert all(line.startswith("[") for line in progress), said
    assert len(outcomes(tmp_path)) < len(outcomes(simulated_run))

    process = start(INLINE, tmp_path)
    printed, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert printed.splitlines()[-1] == "met: TreeEnv.step calibrate commit"
    assert outcomes(tmp_path) == outcomes(simulated_run)
    for name in ("router", "router2"):
        results = json.loads((tmp_path / "stages" / name / "manifest.json").read_text())["results"]
        for path in results["routers"].values():
            weights = (tmp_path / path / "router.safetensors").read_bytes()
            assert weights == (simulated_run / path / "router.safetensors").read_bytes()


def test_a_judge_is_asked_over_http_in_the_same_thread(tmp_path: Path) -> None:
    with serving(Judging) as endpoint:
        judge = (
            f"{{backend: openai, model: judge, base_url: http://127.0.0.1:{endpoint.server_port}}}"
        )
        process = start(
            [
                "configs/textworld_simulated.yaml",
                "cluster={executor: inline, memory_gib: 0.5}",
                "router=null",
                "env.splits={train: 1, validation: 1, calibration: 0, test: 2}",
                "perturb={test_seeds: 10, validation_seeds: 10, train_seeds: 10}",
                "evaluate={rates: [0.3], routers: [verifier]}",
                f"verifier={{kind: judge, judge: {judge}}}",
            ],
            tmp_path,
        )
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed.splitlines()[-1] == "met: TreeEnv.step commit judge_prompt"
    assert "Traceback" not in said, said
    assert "never retrieved" not in said, said
    scores = rollout_store.read(tmp_path / "rollouts" / "evaluate", ["router", "verifier_scores"])
    assert {score for row in scores["verifier_scores"].to_pylist() for score in row or ()} == {0.25}


class Judging(Endpoint):
    """Gives every candidate the score .25."""

    def answer(self, body: dict[str, object]) -> tuple[int, bytes, dict[str, str]]:
        question = body["messages"][-1]["content"]  # type: ignore[index]
        count = int(question.split("exactly ")[1].split()[0])
        said = json.dumps({"scores": [0.25] * count})
        return 200, json.dumps(reply([said])).encode(), {}


DEMO = ROOT / "configs" / "textworld_demo.yaml"
TEXTWORLD = ROOT / "configs" / "textworld_simulated.yaml"


@pytest.mark.parametrize(
    ("config", "overrides", "complaint"),
    [
        (DEMO, [], "slm.backend = vllm: an engine is a process of its own"),
        (TEXTWORLD, ["teacher.backend=vllm", "teacher.model=models/textworld-small"], "teacher.b"),
        (TEXTWORLD, ["router.deepspeed.ranks=2"], "router.deepspeed.ranks = 2: cluster.executor"),
        (TEXTWORLD, ["verifier={kind: trained}"], "verifier.kind = trained: an SLM with backend"),
        (TEXTWORLD, ["cluster.address=auto"], "cluster: address = auto: an inline run joins no"),
    ],
)
def test_what_needs_more_than_one_process_is_refused_by_its_key(
    config: Path, overrides: list[str], complaint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        load_config(config, ["cluster.executor=inline", *overrides])
    line = str(refused.value)
    assert complaint in line, line
    assert "\n" not in line


def test_a_simulated_router_run_takes_one_rank_inline() -> None:
    config = ROOT / "configs" / "simulated.yaml"
    assert load_simulated(config, ["cluster.executor=inline"]) is not None
    with pytest.raises(UsageError, match=r"router\.deepspeed\.ranks = 2: cluster\.executor"):
        load_simulated(config, ["cluster.executor=inline", "router.deepspeed.ranks=2"])


def test_the_executor_decides_no_stage_and_the_plan_shows_it() -> None:
    on_ray = load_config(TEXTWORLD, [])
    inline = load_config(TEXTWORLD, ["cluster.executor=inline"])
    assert inline.content_hash() == on_ray.content_hash()
    for one, other in zip(stages(inline), stages(on_ray), strict=True):
        assert (one.name, one.needs, one.content(inline)) == (
            other.name,
            other.needs,
            other.content(on_ray),
        )
    assert "inline" in resource_plan(inline)
    assert "executor" not in resource_plan(on_ray)
