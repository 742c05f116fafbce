"""`cluster.executor=inline`: one process, one thread and no Ray. tests/chaos compares such a run
with one on Ray.
"""

import json
from pathlib import Path

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.config.simulated import load_simulated
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.resource_plan import resource_plan
from r2v_dist.pipeline.stages import stages
from r2v_dist.storage import rollouts as rollout_store
from tests.inline_runs import InterruptedRun, start
from tests.runs import ROOT, outcomes
from tests.unit.actors.test_backends import Endpoint, reply, serving


def test_an_interrupted_inline_run_goes_on_in_one_thread_without_ray(
    interrupted_run: InterruptedRun,
) -> None:
    *progress, complaint = interrupted_run.first_errors.splitlines()
    assert interrupted_run.first_code == 130
    assert complaint == "r2v: interrupted; run the same command again to continue"
    assert all(line.startswith("[") for line in progress), progress
    assert interrupted_run.committed < len(outcomes(interrupted_run.run_dir))
    assert interrupted_run.printed.splitlines()[-1] == "met: TreeEnv.step calibrate commit"


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
