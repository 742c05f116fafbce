"""`router.score: validated`: validation chooses what r2v compares with its threshold, and all that
follows, the gateway's policy included, has what it chose.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from r2v_dist.errors import UsageError
from r2v_dist.evaluation.comparison import SeedArms
from r2v_dist.evaluation.outcomes import ArmOutcomes, arm_outcomes
from r2v_dist.evaluation.trained_routers import routers_of, score_areas
from r2v_dist.pipeline.served_policy import policy_of
from r2v_dist.pipeline.serving import served_run
from r2v_dist.router.names import BY_SCORE
from r2v_dist.stats.frontier import frontier_auc
from r2v_dist.storage.run_dir import RunDir, open_run
from tests.runs import finish

RUN = [
    "configs/textworld_simulated.yaml",
    "seed=2",
    "cluster={executor: inline, memory_gib: 0.5}",
    "env.splits={train: 2, validation: 2, calibration: 0, test: 2}",
    "env.max_steps=12",
    "labels={tasks: 2, validation_tasks: 2, states: 12, validation_states: 8, n: 1, rounds: 1}",
    "router={epsilon: 0.05, score: validated, risk_steps: 30, policy_steps: 30}",
    "perturb.test_seeds=1",
    f"evaluate={{rates: [0.4], routers: [r2v, {', '.join(BY_SCORE)}]}}",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("validated")
    finish(RUN, run_dir, 300)
    return run_dir


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "report" / "summary.json").read_text())
    return found


def areas_in(run: RunDir, stage: str) -> dict[str, float]:
    one = SeedArms(0, tuple(arm_outcomes(run.rollouts(stage))), {}, "slm_only")
    return {
        score: frontier_auc(one.curve(name), one.ends)
        for name, score in BY_SCORE.items()
        if name in one.swept
    }


def played(arms: list[ArmOutcomes], name: str) -> list[tuple[float | None, list[list[float]]]]:
    return [(arm.threshold, arm.calls_TZ.tolist()) for arm in arms if arm.name == name]


def test_the_score_of_largest_area_on_validation_tasks_is_deployed(finished: Path) -> None:
    run, config = open_run(finished)
    # `validate` plays the three under their own names, on the same tasks and seeds.
    areas = areas_in(run, "validate")
    choice = summary_of(finished)["learning"]["score"]
    assert choice["areas"] == pytest.approx(areas)
    assert choice["score"] == max(areas, key=lambda score: areas[score])
    # Until then risk is the score: another choice shows that it is deployed.
    assert choice["score"] != "risk"
    name = next(name for name, score in BY_SCORE.items() if score == choice["score"])
    for stage in ("validate", "evaluate"):
        arms = arm_outcomes(run.rollouts(stage))
        assert played(arms, "r2v") == played(arms, name) != []
    deployed = policy_of(run, config).models.of("r2v", 0)
    assert deployed.score == choice["score"]
    assert routers_of(run, config)["r2v"].version == deployed.version
    signals = summary_of(finished)["routing_signals"]
    assert {one["score"] for one in signals} == {choice["score"]}
    assert "which validation chose: frontier area" in signals[0]["words"]


def test_an_earlier_choice_is_not_told_where_the_configuration_names_a_score(
    finished: Path,
) -> None:
    run, config = open_run(finished)
    assert config.router is not None
    named = config.model_copy(update={"router": config.router.model_copy(update={"score": "risk"})})
    assert score_areas(run, config)
    assert not score_areas(run, named)


def test_a_gateway_routes_by_the_score_whose_thresholds_it_has(finished: Path) -> None:
    models = [
        f"{role}={{backend: openai, model: m, base_url: http://127.0.0.1:9/v1}}"
        for role in ("slm", "teacher")
    ]
    chosen = policy_of(*open_run(finished)).models.of("r2v", 0)
    policy = served_run(finished, [*models, "router.score=validated"]).policy
    assert policy.models.of("r2v", 0).version == chosen.version
    with pytest.raises(UsageError, match=r"router\.score = risk: .* chosen with validated; leave"):
        served_run(finished, [*models, "router.score=risk"])
