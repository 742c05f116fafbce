"""The router learner for real: two ranks under Ray Train and DeepSpeed; one and four ranks of the
same function without Ray.
"""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.multiprocessing

from envs.simulated.labels import TASK_BLOCK, all_cells, draw_labels
from envs.simulated.world import World
from learners.router.engine import Log
from learners.router.label_check import check_labels
from learners.router.train import RouterJob, train_on_rank, train_routers
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import CONSTRAINT_STATUSES
from r2v_dist.config.router import RouterConfig
from r2v_dist.errors import UsageError
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.model import RISKS, RouterModel

CONFIG = RouterConfig(
    risk_hidden=(16,),
    policy_hidden=(16,),
    risk_steps=30,
    policy_steps=40,
    check_every_steps=10,
    lambda_learning_rate=0.5,
    deepspeed=DeepSpeedConfig(ranks=2, zero_stage=0, threads_per_rank=1),
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RouterJob:
    """Labels of 15 tasks under 10 seeds; a router that is trained with two ranks under
    Ray Train.
    """
    folder = tmp_path_factory.mktemp("router")
    draw_labels(World(), "train", range(15), range(10), 2).save(folder / "train.arrow")
    draw_labels(
        World(), "validation", range(TASK_BLOCK, TASK_BLOCK + 15), range(1000, 1010), 2
    ).save(folder / "validation.arrow")
    return RouterJob(
        train=folder / "train.arrow",
        validation=folder / "validation.arrow",
        output=folder / "ray",
        stage=folder / "stage",
        seed=0,
        config=CONFIG,
    )


def rows(job: RouterJob) -> list[dict[str, Any]]:
    log = [json.loads(line) for line in (job.stage / "metrics.jsonl").read_text().splitlines()]
    return [row for row in log if row["router"] == job.output.name]


def spawned(rank: int, ranks: int, port: int, jobs: list[RouterJob], dies_at: int | None) -> None:
    """A rank without Ray. With `dies_at` a first attempt at the first job ends at that logged step,
    and a second one starts again.
    """
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
    }
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    train_on_rank(jobs)
    if dies_at is None:
        return
    dying, honest = replace(jobs[0], output=jobs[0].output.with_name("killed")), Log.add

    def add(self: Log, step: int, **values: Any) -> None:
        if step == dies_at:
            raise KeyboardInterrupt
        honest(self, step, **values)

    for death in (dies_at, None):
        Log.add = add if death else honest  # type: ignore[method-assign]
        try:
            train_on_rank([dying])
        except KeyboardInterrupt:
            assert death


def without_ray(jobs: list[RouterJob], ranks: int, dies_at: int | None = None) -> list[RouterJob]:
    alone = [replace(job, output=job.output.with_name(f"{job.output.name}{ranks}")) for job in jobs]
    torch.multiprocessing.start_processes(
        spawned,
        (ranks, 29500 + os.getpid() % 400 + ranks, alone, dies_at),
        ranks,
        start_method="spawn",
    )
    return alone


def check_agreement(one: RouterJob, other: RouterJob, tolerances: dict[str, float]) -> None:
    """The first step of a phase in its loss and gradient, the trained router in what it says in
    every state.
    """
    for phase, tolerance in tolerances.items():
        mine, theirs = (
            next(row for row in rows(which) if row["phase"] == phase) for which in (one, other)
        )
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=tolerance)
        assert theirs["gradient_norm"] == pytest.approx(mine["gradient_norm"], rel=tolerance)
    expected, found = (
        RouterModel.load(which.output).predict(all_cells(World())) for which in (one, other)
    )
    assert np.abs(found.score - expected.score).max() < 1e-3
    assert np.abs(found.rho - expected.rho).max() < 1e-3


@pytest.mark.slow
def test_ranks_agree_and_a_killed_router_ends_as_the_same(
    ray_session: None, job: RouterJob
) -> None:
    # The joint router's first step is the constrained loss itself; a decoupled policy starts from
    # risks that 30 steps have trained.
    joint = replace(
        job,
        output=job.output.with_name("joint"),
        config=CONFIG.model_copy(update={"mode": "joint"}),
    )
    result, _ = train_routers([job, joint])
    assert result.constraint in CONSTRAINT_STATUSES
    assert {path.name for path in job.output.iterdir()} == {
        "router.json",
        "router.safetensors",
        "training.json",
    }
    one, joint_of_one = without_ray([job, joint], 1, dies_at=55)
    four, joint_of_four = without_ray([job, joint], 4)
    for other, joint_of_other in ((job, joint), (four, joint_of_four)):
        check_agreement(one, other, {"risk": 1e-6, "policy": 1e-4})
        check_agreement(joint_of_one, joint_of_other, {"policy": 1e-6})
    logged = {row["step"]: row for row in rows(one)}
    assert [row["step"] for row in rows(one)] == list(range(1, 71))
    assert all({"lambda", "eta", "cvar", "cost"} <= set(logged[step]) for step in range(31, 71))
    killed = replace(job, output=job.output.with_name("killed"))
    assert (killed.output / "router.safetensors").read_bytes() == (
        one.output / "router.safetensors"
    ).read_bytes()
    # What the first attempt had logged is logged once.
    assert [row | {"router": ""} for row in rows(killed)] == [
        row | {"router": ""} for row in rows(one)
    ]


@pytest.mark.slow
def test_modes_and_ablations(ray_session: None, job: RouterJob) -> None:
    changes = [
        {"mode": "joint"},
        {"mode": "joint", "surrogate": "paper"},
        *({"ablation": a} for a in ("no_cvar", "no_brier", "uncalibrated")),
    ]
    one_rank = DeepSpeedConfig(ranks=1, zero_stage=0, threads_per_rank=1)
    jobs = [
        replace(
            job,
            output=job.output.with_name(f"arm{i}"),
            config=CONFIG.model_copy(update={**change, "deepspeed": one_rank}),
        )
        for i, change in enumerate(changes)
    ]
    train_routers(jobs)
    joint, _, no_cvar, no_brier, uncalibrated = (RouterModel.load(one.output) for one in jobs)
    cells = all_cells(World())
    assert set(joint.heads) == {"rho"}
    assert np.array_equal(joint.predict(cells).score, joint.predict(cells).rho)
    assert {"cvar", "brier_rho"} <= set(rows(jobs[0])[-1])
    assert np.unique(no_brier.predict(cells).rho).tolist() == [0.5]
    assert {c.kind for c in uncalibrated.calibrators.values()} == {"identity"}
    assert {c.kind for c in no_cvar.calibrators.values()} != {"identity"}
    for name in RISKS:
        assert np.array_equal(
            no_cvar.heads[name].layers[0][0], uncalibrated.heads[name].layers[0][0]
        )
    failures = [row for row in rows(jobs[2]) if row["phase"] == "policy"]
    assert failures[-1]["eta"] <= failures[-1]["cvar"]


def with_pairs(path: Path, target: Path) -> None:
    """The labels, with a teacher that dissents in two states of four, and pairs in which its step
    there saves half a call and what would have failed.
    """
    labels = LabelTable.load(path)
    columns = {name: labels.table[name].to_pylist() for name in labels.table.column_names}
    differs = [prefix % 4 < 2 for prefix in range(len(labels))]
    columns |= {
        "differs": differs,
        "n_r": [1] * len(labels),
        "m_rs": [0.5 if one else 0.0 for one in differs],
        "m_rt": [1.0] * len(labels),
    }
    columns |= {"s_rs": [0] * len(labels), "s_rt": [int(one) for one in differs]}
    columns["features"] = [
        [float(one), *row[1:]] for one, row in zip(differs, columns["features"], strict=True)
    ]
    LabelTable.of_columns(columns).save(target)


def without_pairs(path: Path, target: Path) -> None:
    """The labels as the first round has them."""
    labels = LabelTable.load(path)
    columns = {name: labels.table[name].to_pylist() for name in labels.table.column_names}
    LabelTable.of_columns(
        columns | {name: [0] * len(labels) for name in ("n_r", "s_rs", "s_rt", "m_rs", "m_rt")}
    ).save(target)


def test_what_the_teacher_would_do_is_asked_for_before_any_work(
    job: RouterJob, tmp_path: Path
) -> None:
    for score in ("dissent", "advantage"):
        untold = replace(
            job, output=tmp_path / score, config=CONFIG.model_copy(update={"score": score})
        )
        with pytest.raises(
            UsageError, match=rf"router\.score = {score}: no label says what the teacher would do"
        ):
            train_routers([untold])


def test_an_advantage_is_learned_where_the_labels_have_pairs(
    job: RouterJob, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        with_pairs(getattr(job, split), tmp_path / f"{split}.arrow")
    told = replace(
        job,
        train=tmp_path / "train.arrow",
        validation=tmp_path / "validation.arrow",
        stage=tmp_path / "stage",
    )
    changes = {
        "plain": {},
        "uncalibrated": {"ablation": "uncalibrated"},
        "no_brier": {"ablation": "no_brier"},
        "joint": {"mode": "joint"},
    }
    small = CONFIG.model_copy(
        update={"score": "advantage", "risk_steps": 120, "policy_steps": 5, "learning_rate": 0.05}
    )
    jobs = [
        replace(told, output=tmp_path / name, config=small.model_copy(update=change))
        for name, change in changes.items()
    ]
    labels = LabelTable.load(told.validation)
    without_pairs(told.train, tmp_path / "first.arrow")
    jobs.append(
        replace(told, train=tmp_path / "first.arrow", output=tmp_path / "first", config=small)
    )
    trained = without_ray(jobs, 1)
    models = plain, uncalibrated, *_, first_round = [
        RouterModel.load(one.output) for one in trained
    ]
    assert [m.score for m in models] == ["advantage", "advantage", "policy", "risk", "dissent"]
    high_F = LabelTable.load(told.train).features_NF.max(axis=0)
    for model in (plain, uncalibrated):
        np.testing.assert_array_equal(model.scaler.high_F, high_F)
        said = model.predict(labels.features_NF)
        assert said.dissent is not None
        assert ((said.dissent > 0.5) == (labels.dissent > 0.5)).mean() > 0.98
        assert said.score[labels.dissent > 0.5] == pytest.approx(2.0, abs=0.2)
        assert said.score[labels.dissent < 0.5] == pytest.approx(0.0, abs=0.1)
    assert (
        first_round.predict(labels.features_NF).score.tolist()
        == plain.predict(labels.features_NF).dissent.tolist()
    )
    untaught = rows(trained[0])[0]  # what about one half costs
    assert untaught["log_loss_dissent"] == pytest.approx(math.log(2), abs=0.15)
    assert untaught["brier_rho"] == pytest.approx(1 / 4, abs=0.1)


BAD_TEACHER = World(teacher_slip=0.4)
WORLDS: dict[str, tuple[World, dict[str, float]]] = {
    "slack": (World(), {"epsilon": 0.95, "lambda_start": 0.0}),
    "active": (
        World(),
        {"epsilon": 0.2, "lambda_start": 2.0, "lambda_learning_rate": 0.4, "policy_steps": 200},
    ),
    # A price that never rises buys no safety, though the teacher alone would keep the bound.
    "violated": (World(), {"epsilon": 0.3, "lambda_start": 0.0, "lambda_learning_rate": 1e-9}),
    "infeasible": (BAD_TEACHER, {"epsilon": 0.05}),
    "infeasible at the cap": (World(), {"epsilon": 0.3, "lambda_start": 0.0, "lambda_max": 1e-6}),
}
"""Worlds and dual rates in which each status is the truth; what is not named is as shipped."""


def test_the_constraint_ends_as_it_is_measured(tmp_path: Path) -> None:
    shipped = RouterConfig(
        ablation="no_brier", policy_hidden=(8,), policy_steps=60, check_every_steps=200
    )
    jobs = []
    for name, (world, changes) in WORLDS.items():
        folder = tmp_path / name.replace(" ", "-")
        draw_labels(world, "train", range(12), range(10), 2).save(folder / "train.arrow")
        tasks = range(TASK_BLOCK, TASK_BLOCK + 12)
        draw_labels(world, "validation", tasks, range(1000, 1010), 2).save(
            folder / "validation.arrow"
        )
        config = shipped.model_copy(update=changes)
        jobs.append(
            RouterJob(
                train=folder / "train.arrow",
                validation=folder / "validation.arrow",
                output=folder / "router",
                stage=folder / "stage",
                seed=0,
                config=config,
            )
        )
    for (name, (_, changes)), job in zip(WORLDS.items(), without_ray(jobs, 1), strict=True):
        found = json.loads((job.output / "training.json").read_text())
        epsilon = changes["epsilon"]
        assert found["constraint"] == name.split()[0], (name, found)
        assert (found["train_cvar"] < 0.9 * epsilon) == (name == "slack")
        assert (found["train_cvar"] > 1.1 * epsilon) == (name not in ("slack", "active"))
        if name == "infeasible":
            assert found["multiplier"] < shipped.lambda_max / 2


def test_fewer_than_ten_seeds_are_refused_before_any_work(job: RouterJob, tmp_path: Path) -> None:
    labels = LabelTable.load(job.train)
    labels.where(labels.z < 9).save(tmp_path / "nine.arrow")
    few = replace(
        job, train=tmp_path / "nine.arrow", output=tmp_path / "router", stage=tmp_path / "stage"
    )
    with pytest.raises(UsageError, match="9 seeds with complete episodes; CVaR needs at least 10"):
        train_routers([few])
    assert not (tmp_path / "stage").exists()
    labels.where(labels.t > 0).save(tmp_path / "late.arrow")
    with pytest.raises(UsageError, match="0 seeds with complete episodes"):
        check_labels(tmp_path / "late.arrow", job.validation, job.config)
    with_pairs(job.train, tmp_path / "paired.arrow")
    with pytest.raises(UsageError, match="actions are known on one split and not on the other"):
        check_labels(tmp_path / "paired.arrow", job.validation, job.config)
    with pytest.raises(UsageError, match="no label table"):
        train_routers([replace(few, train=tmp_path / "absent.arrow")])
