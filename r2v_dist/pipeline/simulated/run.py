"""A simulated run: draw labels, train routers by the real learner, judge them where the truth is
known, write the report.

Several ranks need a Ray session around the call; a single one is this process. Routers that are
complete are not trained again, so an interrupted run goes on.
"""

from pathlib import Path

from envs.simulated.exact import Exact
from envs.simulated.labels import TASK_BLOCK, draw_labels
from envs.simulated.optimum import Frontier
from envs.simulated.world import World
from learners.router.train import (
    RouterJob,
    RouterResult,
    train_routers,
    variant_of,
)
from r2v_dist.config.env import SEED_BLOCK
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.pipeline.progress import Progress
from r2v_dist.pipeline.simulated.judge import Row, SimulatedReport, evaluate, labels_path

SPLITS = ("train", "validation", "test")


def simulate(config: SimulatedConfig) -> SimulatedReport:
    """Everything from labels to `report/index.html` in the run directory."""
    from r2v_dist.pipeline.simulated.page import write_page

    progress = Progress("labels")
    draw(config)
    progress.close("drawn")
    progress = Progress("routers")
    exact = Exact(World())
    router = config.router
    zs = range(config.seeds)
    mean_bound = Frontier(exact).mean_bound(zs, router.alpha, router.epsilon)
    jobs = [job_of(config, name, mean_bound) for name in config.routers]
    results = train_routers(jobs, here=not config.needs_ray)
    progress.close("trained")
    progress = Progress("report")
    result_by_router: dict[str, RouterResult] = dict(zip(config.routers, results, strict=True))
    report = evaluate(config, exact, result_by_router, mean_bound)
    progress.close(f"in {write_page(config, exact, report, result_by_router)}")
    return report


def draw(config: SimulatedConfig) -> None:
    """Label tables of the three splits, which share neither tasks nor seeds."""
    for block, (split, tasks) in enumerate(
        zip(SPLITS, (config.train_tasks, config.validation_tasks, config.test_tasks), strict=True)
    ):
        start = TASK_BLOCK * (len(SPLITS) * config.seed + block)
        zs = range(SEED_BLOCK * block, SEED_BLOCK * block + config.seeds)
        draw_labels(World(), split, range(start, start + tasks), zs, config.branches).save(
            labels_path(config, split)
        )


def job_of(config: SimulatedConfig, name: str, mean_bound: float) -> RouterJob:
    """The learner's job for a router by name.

    Without CVaR it is the mean that is bounded, so tightly that the best such router has CVaR
    epsilon: the two then differ in what they bound and not in how safe they are to be.
    """
    train, validation = (labels_path(config, split) for split in SPLITS[:2])
    folder: Path = config.folder
    router = variant_of(config.router, name)
    if router.ablation == "no_cvar":
        router = router.model_copy(update={"epsilon": mean_bound})
    return RouterJob(
        train=train,
        validation=validation,
        output=folder / "checkpoints" / name,
        stage=folder / "stages" / "router",
        seed=config.seed,
        config=router,
    )


def render(report: SimulatedReport) -> str:
    """The table that a run prints."""
    lines = [
        "SIMULATED: exact values of a world whose probabilities are known; costs in teacher calls "
        "an episode"
    ]
    lines.append(f"{'router':<20}{'cost':>8}{'x optimum':>11}{'failure':>9}{'CVaR':>8}  threshold")
    lines += [_line(row, report.optimum) for row in report.rows]
    lines.append(
        f"optimum: {report.optimum:.3f} teacher calls an episode; {report.optimum_unlatched:.3f} "
        f"if it may hand back"
    )
    label = f"optimum where the mean is bounded, at {report.mean_bound:.4f}, for equal CVaR"
    lines.append(f"{label}: {report.mean_optimum:.3f} teacher calls")
    if report.cvar_saving is not None:
        saving, low, high = report.cvar_saving
        interval = f"95 % interval {low:.3f} to {high:.3f}, paired by task"
        lines.append(
            f"trained without CVaR it costs {saving:+.3f} teacher calls at equal CVaR ({interval})"
        )
    return "\n".join(lines)


def _line(row: Row, optimum: float) -> str:
    numbers = f"{row.cost:>8.3f}{row.cost / optimum:>11.3f}{row.failure:>9.3f}{row.cvar:>8.3f}"
    return f"{row.name:<20}{numbers}  {row.threshold:<24}{row.note}".rstrip()
