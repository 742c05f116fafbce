"""The router learner (docs/method.md, section 7): from label tables to a folder that numpy alone
can run.

Ray Train starts the ranks and a DeepSpeed engine trains on them; every number that a rank logs is
that of the whole batch. Validation labels alone stop training, calibrate the risks and choose the
threshold.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from learners.common.jobs import LearnerJob, run_jobs
from learners.router.calibrate import calibrate
from learners.router.duality import Duality
from learners.router.label_check import check_labels
from r2v_dist import files
from r2v_dist.config.learners import ConstraintStatus
from r2v_dist.config.router import RouterConfig
from r2v_dist.errors import DamagedFile
from r2v_dist.evaluation.handover import (
    LatchedEpisodes,
    LatchedPoint,
    cheapest,
    cheapest_mix,
    noise_floor,
    sweep,
)
from r2v_dist.files import write_atomically
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.calibration import Calibrator
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RISKS, RouterModel, distinct, predict_states
from r2v_dist.router.names import Score
from r2v_dist.router.scaler import Scaler
from r2v_dist.seeding import short_hash
from r2v_dist.stats.mixing import Mix

if TYPE_CHECKING:
    from learners.router.data import Share
    from learners.router.phases import Setting

_RESULT = "training.json"


@dataclass(frozen=True, kw_only=True)
class RouterJob(LearnerJob):
    """Which labels to learn from. The jobs of several routers may share their stage."""

    learner: ClassVar[str] = "router"
    proof: ClassVar[str] = _RESULT

    train: Path
    validation: Path
    config: RouterConfig

    def resolved(self) -> "RouterJob":
        """The same job with absolute paths: ranks work in another directory."""
        paths = {
            name: getattr(self, name).resolve()
            for name in ("train", "validation", "output", "stage")
        }
        return replace(self, **paths)


@dataclass(frozen=True)
class RouterResult:
    """A trained router and what validation says of it. `point` is None where no threshold keeps
    CVaR at most epsilon.

    `constraint` is how the primal-dual run ended, by the CVaR that training measured
    (`train_cvar`).
    `cvar_noise_floor` is the CVaR that the point would show if seeds did not differ.
    """

    output: str
    version: str
    constraint: ConstraintStatus
    multiplier: float
    train_cvar: float
    point: LatchedPoint | None
    cvar_noise_floor: float | None
    brier: dict[str, float]
    calibrators: dict[str, str]
    dropped_episodes: int


def variant_of(config: RouterConfig, name: str) -> RouterConfig:
    """The configuration of `r2v` or of one of its ablations, by the name of its arms."""
    suffix = name.removeprefix("r2v").removeprefix("_")
    changes = {"joint": {"mode": "joint"}, "dissent": {"mode": "decoupled", "score": "dissent"}}
    return config.model_copy(update=changes.get(suffix, {"ablation": suffix or "none"}))


def train_routers(jobs: Sequence[RouterJob], here: bool = False) -> list[RouterResult]:
    """Train routers one after the other on the same ranks: the start of the ranks is paid once.
    Complete ones are not trained again.

    All jobs share `config.deepspeed` (that of the first is used). `here`: one rank that is this
    process and knows no Ray, for labels that need no more than one. Raises UsageError for labels
    that cannot train a router, before any rank is started.
    """
    jobs = [job.resolved() for job in jobs]
    for job in jobs:
        check_labels(job.train, job.validation, job.config)
    incomplete = any(not (job.output / _RESULT).is_file() for job in jobs)
    if incomplete and here:
        _train_here(jobs)
    elif incomplete:
        run_jobs(jobs, train_on_rank)
    return [_read_result(job.output) for job in jobs]


def _train_here(jobs: Sequence[RouterJob]) -> None:
    from learners.router.engine import be_the_only_rank

    be_the_only_rank(jobs[0].config.deepspeed.threads_per_rank)
    train_on_rank(jobs)


def train_on_rank(jobs: Sequence[RouterJob]) -> None:
    """Train on this rank of a process group that exists or that the environment describes."""
    from learners.router.engine import start_communication

    device = start_communication()
    risks: dict[tuple[object, ...], dict[str, Mlp]] = {}
    for job in jobs:
        if not (job.output / _RESULT).is_file():
            _train_one(job, device, risks)


def _train_one(
    job: RouterJob, device: Any, known_risks: dict[tuple[object, ...], dict[str, Mlp]]
) -> None:
    """`known_risks`: routers that differ in their policy only share one training of the
    risk heads.
    """
    import torch

    from learners.router.data import adder, deal
    from learners.router.engine import Log
    from learners.router.phases import Setting, policy_inputs, predicted, train_policy

    config = job.config
    decoupled = config.mode == "decoupled"
    rank = torch.distributed.get_rank()
    ranks = torch.distributed.get_world_size()
    labels = LabelTable.load(job.train)
    held_out = LabelTable.load(job.validation)
    scaler = Scaler.of(labels.features_NF)
    train = deal(labels, scaler, rank, ranks, device)
    validation = deal(held_out, scaler, rank, ranks, device)
    total = config.policy_steps + (config.risk_steps if decoupled else 0)
    log = Log(job.stage / "metrics.jsonl", rank == 0, job.output.name, total, job.require)
    setting = Setting(config, job.seed, adder(device), log)

    f_UF, place_N = distinct(scaler(held_out.features_NF))
    seen_UF = torch.from_numpy(f_UF)

    def calibrated(heads: dict[str, Mlp]) -> dict[str, Calibrator]:
        raw_U = predicted(heads, seen_UF)
        return calibrate(heads, held_out, raw_U, place_N, config.ablation, job.seed)

    heads: dict[str, Mlp] = {}
    if decoupled:
        heads = _risk_heads(job, setting, train, validation, known_risks)
    calibrators = calibrated(heads)
    inputs_UI = policy_inputs(heads, calibrators, train.f_UF)
    held_out_UI = policy_inputs(heads, calibrators, seen_UF).numpy()
    episodes = LatchedEpisodes.of(held_out)

    def judge(policy: Mlp) -> Mix | None:
        points = _points(episodes, policy(held_out_UI)[place_N], config)
        return cheapest_mix(points, config.epsilon)

    policy, duality = train_policy(setting, train, inputs_UI, judge)
    if decoupled:
        heads = heads | {"policy": policy}
    else:
        heads = {"rho": policy}
        calibrators = calibrated(heads)
    if rank == 0:
        model = _model(config, labels, scaler, heads, calibrators)
        _publish(job, model, duality, held_out, episodes)
    torch.distributed.barrier()


def _points(
    episodes: LatchedEpisodes, scores_N: npt.NDArray[np.float64], config: RouterConfig
) -> list[LatchedPoint]:
    """What every threshold on these scores comes to, on validation episodes."""
    return sweep(episodes, scores_N, config.tail, config.slm_cost / config.teacher_cost)


def _model(
    config: RouterConfig,
    labels: LabelTable,
    scaler: Scaler,
    heads: dict[str, Mlp],
    calibrators: dict[str, Calibrator],
) -> RouterModel:
    """The router with all its heads. Its version names their weights and the scaler."""
    from learners.router.teacher_effects import fit_effects

    score = _score(config, labels)
    if score == "advantage":
        risk_router = RouterModel("", config.mode, scaler, heads, calibrators, score="value")
        heads = heads | fit_effects(risk_router, labels)
    weights = [values.tobytes() for values in scaler.arrays]
    for head in heads.values():
        for layer in head.layers:
            weights += [values.tobytes() for values in layer]
    version = f"router-{short_hash(*weights)[:12]}"
    return RouterModel(version, config.mode, scaler, heads, calibrators, score=score)


def _score(config: RouterConfig, labels: LabelTable) -> Score:
    """The score that this router supports. Joint: its risk. Without risk heads: its policy. Without
    pairs of branches `advantage` falls back to `dissent`. `validated` starts as `risk`.
    """
    if config.mode == "joint":
        return "risk"
    if config.ablation == "no_brier":
        return "policy"
    if config.score == "validated":
        return "risk"
    return (
        "dissent"
        if config.score == "advantage" and not labels.with_disagreement.any()
        else config.score
    )


def _risk_heads(
    job: RouterJob,
    setting: "Setting",
    train: "Share",
    validation: "Share",
    heads_by_key: dict[tuple[object, ...], dict[str, Mlp]],
) -> dict[str, Mlp]:
    """The heads of all estimates; without Brier the risks say 1/2 everywhere."""
    from learners.router.phases import constant_risk, train_risks

    config = job.config
    if config.ablation == "no_brier":
        return dict.fromkeys(RISKS, constant_risk(train.f_UF.shape[1]))
    decisive = (
        config.risk_hidden,
        config.risk_steps,
        config.learning_rate,
        config.weight_decay,
        config.check_every_steps,
        config.patience,
    )
    key = (job.train, job.validation, job.seed, *decisive)
    if key not in heads_by_key:
        heads_by_key[key] = train_risks(setting, train, validation)
    return heads_by_key[key]


def _publish(
    job: RouterJob,
    model: RouterModel,
    duality: Duality,
    labels: LabelTable,
    episodes: LatchedEpisodes,
) -> None:
    """Write the router, then the result: a folder with the result is complete."""
    config = job.config
    prediction = predict_states(model, labels.features_NF)
    point = cheapest(_points(episodes, prediction.score, config), config.epsilon)
    floor = None
    if point:
        floor = noise_floor(episodes, prediction.score, point.threshold, config.alpha, job.seed)
    brier: dict[str, float] = {}
    for name, n_N in labels.counts.items():
        risk_N = getattr(prediction, name)
        if risk_N is not None:
            rho_N = np.nan_to_num(getattr(labels, name))
            brier[name] = float((n_N * (risk_N - rho_N) ** 2).sum() / n_N.sum())
    result = RouterResult(
        output=str(job.output),
        version=model.version,
        constraint=duality.status(config),
        multiplier=duality.multiplier,
        train_cvar=duality.late_cvar,
        point=point,
        cvar_noise_floor=floor,
        brier=brier,
        calibrators={name: calibrator.kind for name, calibrator in model.calibrators.items()},
        dropped_episodes=episodes.dropped,
    )
    scratch = job.scratch
    shutil.rmtree(scratch, ignore_errors=True)
    model.save(scratch)
    write_atomically(scratch / _RESULT, json.dumps(asdict(result), indent=1) + "\n")
    job.require()
    files.publish(scratch, job.output)


def _read_result(output: Path) -> RouterResult:
    values = files.read_json_object(output / _RESULT)
    try:
        return RouterResult(
            **values | {"point": LatchedPoint(**values["point"]) if values["point"] else None}
        )
    except (TypeError, KeyError) as error:
        raise DamagedFile(output / _RESULT, f"is no result of a router ({error})") from None
