"""Training seeds: what is done again reads and writes its own folders, and shares what
is shared.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.run import hash_of_inputs
from r2v_dist.pipeline.stage import Stage, value_of
from r2v_dist.pipeline.stages import TABLE, publisher, stages
from r2v_dist.pipeline.steps import labels
from r2v_dist.pipeline.steps.router import held_as_r2v
from r2v_dist.router.switching import Hysteresis
from r2v_dist.seeding import short_hash
from r2v_dist.storage.run_dir import Manifest, RunDir
from tests.runs import ROOT


def context(
    stage: str, done: list[str], seed: int, root: Path, overrides: list[str] | None = None
) -> Context:
    config = load_config(ROOT / "configs" / "textworld_full.yaml", overrides or [])
    services: Any = None
    return Context(
        config,
        RunDir(root),
        services,
        stage,
        "hash",
        {name: Manifest(name, "hash", 0.0, 1, {}) for name in done},
        seed,
    )


def test_a_stage_under_way_owns_its_folder(tmp_path: Path) -> None:
    second = context(
        "branches@1", ["tasks", "bc", "states", "branches", "bc@1", "states@1"], 1, tmp_path
    )
    assert second.folder("branches").name == "branches@1"
    assert second.rollouts("branches").name == "branches@1"
    assert second.rollouts("states").name == "states@1"
    assert second.folder("tasks").name == "tasks"
    first = context("branches", ["tasks", "bc", "states"], 0, tmp_path)
    assert first.folder("branches").name == "branches"


def test_everything_trained_is_done_for_each_seed_and_the_rest_once() -> None:
    planned = stages(load_config(ROOT / "configs" / "textworld_full.yaml", []))
    names = [stage.name for stage in planned]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith(("tasks", "collect", "baseline"))] == [
        "tasks",
        "collect",
        "baseline",
    ]
    for stage in planned:
        assert set(stage.needs) <= set(names[: names.index(stage.name)])
        own = [need for need in stage.needs if need not in ("tasks", "collect", "baseline")]
        assert {need.partition("@")[2] for need in own} <= {stage.name.partition("@")[2]}
    assert {"evaluate", "evaluate@1", "evaluate@2"} <= set(names)


def sharing(root: Path, count: int, cloned: str, branched: int, labelled: int) -> list[list[int]]:
    """The numbers of the training tasks that cloning, branches and labels take of `count`."""
    overrides = [
        f"collect.tasks={cloned}",
        f"branches.tasks={branched}",
        f"labels.tasks={labelled}",
    ]
    one = context("states", ["tasks"], 0, root, overrides)
    rows = [{"id": str(i), "split": "train", "env": "none", "env_kwargs": []} for i in range(count)]
    one.run.stage("tasks").mkdir(parents=True, exist_ok=True)
    (one.run.stage("tasks") / "tasks.json").write_text(
        json.dumps([{**rows[0], "split": "validation"}, *rows])
    )
    return [
        [int(task.id) for task in one.training_tasks(use)] for use in ("clone", "branch", "label")
    ]


def test_cloning_branches_and_labels_share_training_tasks_only_where_there_are_too_few(
    tmp_path: Path,
) -> None:
    assert sharing(tmp_path, 10, "4", 3, 2) == [[0, 1, 2, 3], [4, 5, 6], [8, 9]]
    assert sharing(tmp_path, 6, "4", 3, 2) == [[0, 1, 2, 3], [3, 4, 5], [4, 5]]
    assert sharing(tmp_path, 4, "null", 3, 2) == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]
    assert sharing(tmp_path, 2, "5", 3, 4) == [[0, 1], [0, 1], [0, 1]]


def decided_by(override: str) -> set[str]:
    """The stages of the first training seed whose own part of the configuration an override
    changes.
    """
    path = ROOT / "configs" / "textworld_demo.yaml"
    before, after = load_config(path, []), load_config(path, [override])
    return {
        one.name
        for one, other in zip(stages(before), stages(after), strict=True)
        if one.content(before) != other.content(after)
    }


@pytest.mark.parametrize(
    "override",
    [
        "bc.deepspeed={ranks: 4, zero_stage: 3, offload_parameters: cpu}",
        "bc.micro_batch_size=8",
        "dpo.gradient_checkpointing=true",
        "verifier.training.deepspeed.threads_per_rank=9",
        "verifier.threads=3",
        "router.deepspeed.ranks=2",
        "sandbox.wall_s=60",
        "env.cache=/elsewhere",
        "dpo.attention=eager",
    ],
)
def test_where_and_how_a_stage_is_done_makes_no_other_stage_of_it(override: str) -> None:
    assert decided_by(override) == set()


def test_a_stage_that_an_earlier_version_began_is_not_begun_again(tmp_path: Path) -> None:
    """Ranks were part of what named a stage: such a name is kept while they are the same."""
    path = ROOT / "configs" / "textworld_demo.yaml"
    config = load_config(path, ["bc.deepspeed.ranks=2"])
    stage = next(one for one in stages(config) if one.name == "bc")
    manifests = {name: Manifest(name, "hash", 0.0, 1, {}) for name in stage.needs}
    run = RunDir(tmp_path)
    content = json.dumps(
        [stage.content_before(config), [(name, "hash", {}) for name in stage.needs]], sort_keys=True
    )
    earlier = short_hash(config.seed, content)
    named = hash_of_inputs(stage, config, run, manifests)
    assert named != earlier
    run.begin("bc", earlier)
    assert hash_of_inputs(stage, config, run, manifests) == earlier
    other = load_config(path, ["bc.deepspeed.ranks=4"])
    assert hash_of_inputs(stage, other, run, manifests) == named


def test_a_key_of_the_second_round_leaves_the_labels_of_the_first() -> None:
    assert decided_by("labels.followed_rate=0.4") == {"visits2", "labels2"}
    assert decided_by("labels.pairs=7") == {"labels2"}
    assert decided_by("labels.n=3") == {"labels", "labels2"}


def keyed_by(routers: str) -> dict[str, str]:
    """The stages of a run that evaluates some routers, with their own part of its configuration."""
    path = ROOT / "configs" / "textworld_demo.yaml"
    config = load_config(path, [f"evaluate.routers=[{routers}]"])
    return {one.name: str((one.content(config), one.needs)) for one in stages(config)}


def test_another_choice_of_routers_labels_nothing_again() -> None:
    changed = {"router2", "validate", "evaluate"}
    before = keyed_by("r2v, r2v_joint")
    after = keyed_by("r2v, random")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == changed


def test_another_baseline_trains_no_router_again() -> None:
    before = keyed_by("random, r2v")
    for added in ("agreement", "first_n, after_error", "random_episode"):
        after = keyed_by(f"{added}, random, r2v")
        assert before.keys() == after.keys()
        assert {n for n in before if before[n] != after[n]} == {"validate", "evaluate"}
    fitted = keyed_by("random, logistic, r2v, r2v_risk")
    assert fitted.keys() - before.keys() == {"regressions"}
    changed = {name for name in before if before[name] != fitted[name]}
    assert changed == {"validate", "calibrate", "evaluate"}


def test_disagreement_is_another_word_for_the_same_score() -> None:
    path = ROOT / "configs" / "textworld_demo.yaml"
    one, other = (
        load_config(path, [f"router.score={word}"]) for word in ("dissent", "disagreement")
    )
    assert one == other
    assert one.content_hash() == other.content_hash()


def test_the_routers_of_the_demo_are_trained_as_in_finished_runs() -> None:
    """What decides a training of routers names the routers as runs before these baselines did."""
    path = ROOT / "configs" / "textworld_demo.yaml"
    named = value_of(load_config(path, []), "learner_routers")
    baselines = "random entropy heuristic verifier perplexity stuck_latch query_level"
    ours = "r2v r2v_no_cvar r2v_no_brier r2v_uncalibrated r2v_joint r2v_dissent"
    assert named == tuple(f"{baselines} {ours}".split())


@pytest.mark.parametrize(
    "change", ["evaluate.epsilon=0.3", "evaluate.confidence=0.6", "evaluate.bootstrap=500"]
)
def test_another_tolerance_trains_nothing_again(change: str) -> None:
    assert decided_by(change) == {"validate"}


def test_another_seed_tests_under_other_perturbation_seeds() -> None:
    assert decided_by("seed=5") == {"cloned", "calibrate", "evaluate"}


def test_a_router_is_trained_again_where_its_constraint_can_end_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", [])
    before = {one.name: str(one.content(config)) for one in stages(config)}
    monkeypatch.setattr(
        "r2v_dist.pipeline.stage.CONSTRAINT_STATUSES", ("active", "slack", "infeasible")
    )
    assert {one.name for one in stages(config) if before[one.name] != str(one.content(config))} == {
        "router",
        "router2",
    }


def test_another_tail_chooses_thresholds_again() -> None:
    assert decided_by("router.alpha=0.1") == {"router", "router2", "validate"}


@pytest.mark.parametrize("key", ["minimum_hold: 3", "cold_token_price: 0.001"])
def test_hysteresis_is_played_and_not_learned(key: str) -> None:
    changed = decided_by(f"router.hysteresis={{{key}}}")
    assert changed == {"validate", "calibrate", "evaluate"}


def test_a_clock_that_evaluation_has_not_plays_nothing_again() -> None:
    path = ROOT / "configs" / "textworld_demo.yaml"
    one, other = (
        load_config(path, [f"router.hysteresis={{releases: 2, cache_s: {cache}}}"])
        for cache in ("null", "300")
    )
    assert one.content_hash() == other.content_hash()
    assert [s.content(one) for s in stages(one)] == [s.content(other) for s in stages(other)]


def test_validation_chooses_a_score_of_the_learners_last_router() -> None:
    path = ROOT / "configs" / "textworld_demo.yaml"
    planned = stages(load_config(path, ["router.score=validated"]))
    names = [one.name for one in planned]
    place = names.index("score")
    assert names[place - 1 : place + 3] == ["router2", "score", "regressions", "validate"]
    assert "score" in planned[place + 1].needs
    assert "score" not in [one.name for one in stages(load_config(path, []))]
    two = stages(load_config(path, ["router.score=validated", "training_seeds=2"]))
    needs = {one.name: one.needs for one in two}
    assert "score@1" in needs["regressions@1"]
    assert "router2@1" in needs["score@1"]


def test_a_score_is_chosen_with_the_hysteresis_that_r2v_has(tmp_path: Path) -> None:
    model: Any = object()
    for given, held in (
        ([], {}),
        (["router.hysteresis={minimum_hold: 3}"], {"r2v_risk": Hysteresis(minimum_hold=3)}),
    ):
        models = held_as_r2v(context("score", [], 1, tmp_path, given), {"r2v_risk": model})
        assert models.trained == {("r2v_risk", 1): model}
        assert models.hysteresis == held


def test_no_router_no_calibration() -> None:
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", ["evaluate.routers=[entropy]"])
    assert "calibrate" not in [stage.name for stage in stages(config)]


def test_a_stage_reads_only_what_stands_above_it() -> None:
    above = {"@policy", "@router"}
    for stage in TABLE:
        assert set(stage.needs) <= above, stage.name
        above.add(stage.name)


def deployed(root: Path, names: list[str], seed: int, overrides: list[str]) -> str:
    """The version of the SLM that a run deploys whose stages have published these."""
    there = context("evaluate", [], seed, root, overrides)
    done = {
        name: Manifest(name, "", 0.0, 1, {"checkpoint": f"checkpoints/slm/{name}", "version": name})
        for name in names
    }
    return replace(there, manifests=done).policy().version


def test_a_run_deploys_the_slm_that_was_published_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ["bc", "dpo", "again", "bc@1", "dpo@1", "again@1"]
    assert deployed(tmp_path, done, 0, ["dpo=null"]) == "bc"
    assert deployed(tmp_path, done, 0, []) == "dpo"
    # A learner is one more row: what it publishes is deployed, and decides what follows.
    learner = Stage("again", ("dpo",), ("bc",), lambda _: {}, "slm")
    after_dpo = 1 + [stage.name for stage in TABLE].index("dpo")
    table = (*TABLE[:after_dpo], learner, *TABLE[after_dpo:])
    monkeypatch.setattr("r2v_dist.pipeline.stages.TABLE", table)
    assert deployed(tmp_path, done, 0, []) == "again"
    assert deployed(tmp_path, done, 1, []) == "again@1"
    config = load_config(ROOT / "configs" / "textworld_full.yaml", [])
    needs = {stage.name: stage.needs for stage in stages(config)}
    assert needs["visits"] == ("tasks", "bc", "verifier", "dpo", "again")
    assert "again@2" in needs["evaluate@2"]


def test_every_name_that_a_stage_reads_is_a_part_of_the_configuration() -> None:
    given = ["router.hysteresis={releases: 2}"]  # a part that counts only where it is set
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", given)
    for stage in TABLE:
        assert len(stage.content(config)) == len(stage.reads)


def test_without_cloning_the_slm_acts_as_it_comes() -> None:
    config = load_config(ROOT / "configs" / "humaneval_qwen_smoke.yaml", [])
    names = [stage.name for stage in stages(config)]
    assert names == [
        *("tasks", "visits", "labels", "router", "score", "validate", "calibrate"),
        "evaluate",
    ]
    assert publisher(config, "slm") is None


@pytest.mark.parametrize(
    ("per_task", "met"),
    [(None, [[0, 1, 2, 3]] * 3), (9, [[0, 1, 2, 3]] * 3), (2, [[0, 1], [2, 3], [0, 1]])],
)
def test_labels_spread_seeds_over_tasks(per_task: int | None, met: list[list[int]]) -> None:
    assert [labels._met([0, 1, 2, 3], index, per_task) for index in range(3)] == met
    path = ROOT / "configs" / "textworld_demo.yaml"
    before = load_config(path, [])
    after = load_config(path, [f"labels.seeds_per_task={per_task or 'null'}"])
    differs = before.content_hash() != after.content_hash()
    assert differs == (per_task is not None)
    assert before.labels.episodes(3) == 30
    assert after.labels.episodes(3) == 3 * (per_task or 10)
