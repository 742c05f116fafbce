"""A simulated run: draw labels, train routers by the real learner, judge them where the truth is known, write the report.

Several ranks need a Ray session around the call; a single one is this process. Routers that are complete are not trained again, so
an interrupted run goes on.
"""

from pathlib import Path

from envs.simulated_exact import Exact
from envs.simulated_labels import TASK_BLOCK, draw_labels
from envs.simulated_world import World
from learners.router import RouterJob, RouterResult, train_routers, train_routers_here, variant_of
from learners.simulated_judge import Row, SimulatedReport, evaluate, labels_path
from r2v_dist.progress import Progress
from r2v_dist.simulated_config import SimulatedConfig

SPLITS = ("train", "validation", "test")


def simulate(config: SimulatedConfig) -> SimulatedReport:
    """Everything from labels to `report/index.html` in the run directory."""
    from learners.simulated_page import write_page

    progress = Progress("labels")
    draw(config)
    progress.close("drawn")
    progress = Progress("routers")
    train = train_routers if config.needs_ray else train_routers_here
    results = train([job_of(config, name) for name in config.routers])
    progress.close("trained")
    progress, exact = Progress("report"), Exact(World())
    trained: dict[str, RouterResult] = dict(zip(config.routers, results, strict=True))
    report = evaluate(config, exact, trained)
    progress.close(f"in {write_page(config, exact, report, trained)}")
    return report


def draw(config: SimulatedConfig) -> None:
    """Label tables of the three splits, which share neither tasks nor seeds."""
    for block, (split, tasks) in enumerate(zip(SPLITS, (config.train_tasks, config.validation_tasks, config.test_tasks), strict=True)):
        start = TASK_BLOCK * (len(SPLITS) * config.seed + block)
        zs = range(1000 * block, 1000 * block + config.seeds)
        draw_labels(World(), split, range(start, start + tasks), zs, config.branches).save(labels_path(config, split))


def job_of(config: SimulatedConfig, name: str) -> RouterJob:
    """The learner's job for a router by name."""
    train, validation = (labels_path(config, split) for split in SPLITS[:2])
    folder: Path = config.folder
    return RouterJob(
        train, validation, folder / "checkpoints" / name, folder / "stages" / "router", config.seed, variant_of(config.router, name)
    )


def render(report: SimulatedReport) -> str:
    """The table that a run prints."""
    lines = ["SIMULATED: exact values of a world whose probabilities are known; costs in teacher calls an episode"]
    lines.append(f"{'router':<20}{'cost':>8}{'x optimum':>11}{'failure':>9}{'CVaR':>8}  threshold")
    lines += [_line(row, report.optimum) for row in report.rows]
    lines.append(f"optimum: {report.optimum:.3f} teacher calls an episode; {report.optimum_unlatched:.3f} if it may hand back")
    lines.append("optimum with the mean bounded instead of CVaR: {:.3f} teacher calls, CVaR {:.3f}".format(*report.mean_optimum))
    if report.cvar_gain is not None:
        lines.append("without CVaR it is larger by {:.3f} (95 % interval {:.3f} to {:.3f}, paired by task)".format(*report.cvar_gain))
    return "\n".join(lines)


def _line(row: Row, optimum: float) -> str:
    numbers = f"{row.cost:>8.3f}{row.cost / optimum:>11.3f}{row.failure:>9.3f}{row.cvar:>8.3f}"
    return f"{row.name:<20}{numbers}  {row.threshold:<24}{row.note}".rstrip()
