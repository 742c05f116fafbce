"""Which figures a run has data for, and what they say."""

from functools import partial
from pathlib import Path
from typing import Any

from r2v_dist.comparison import REFERENCE
from r2v_dist.config import RouterConfig, RunConfig
from r2v_dist.report import figures_learning as learning
from r2v_dist.report import figures_risk as risk
from r2v_dist.report import figures_routers as routers
from r2v_dist.report.drawing import Figure, draw, metrics
from r2v_dist.report.findings import Findings, router_manifest
from r2v_dist.report.palette import ABLATIONS
from r2v_dist.run_dir import RunDir

WIDE = 10.4


def draw_figures(run: RunDir, config: RunConfig, found: Findings, folder: Path) -> list[Figure]:
    """Draw everything there is data for, with a PNG copy of each in `folder`."""
    return [*_of_routers(config, found, folder), *_of_risk(run, config, found, folder), *_of_learning(run, folder)]


def _of_routers(config: RunConfig, found: Findings, folder: Path) -> list[Figure]:
    names = {row.name for row in found.perturbed}
    published = " The star is what the paper reports, for other models and other tasks." if config.env.kind in routers.PUBLISHED else ""
    drawn = [
        draw(
            folder,
            "frontier",
            "frontier",
            "Success against LLM-call rate",
            "Test tasks and seeds, every point played live. Bars are 95 % intervals over tasks (cluster bootstrap); the ring is the threshold "
            f"that validation chose.{published}{routers.note(found)}",
            lambda figure: routers.frontier(figure, found, config.env.kind, config.alone),
            (WIDE, 5.2),
        ),
        draw(
            folder,
            "seeds",
            "seeds",
            "Success under each perturbation seed",
            "All test tasks under one seed. Dotted lines are the worst seed of each: a router that is good on average can still fail under a "
            "harsh one. The baseline is the best at r2v's number of teacher calls, picked with hindsight.",
            lambda figure: routers.seeds(figure, found),
            (WIDE, 3.5),
        ),
    ]
    if names & set(ABLATIONS) and REFERENCE in names:
        caption = "Each ablation against r2v (the broad pale line): same labels, same thresholds rule, one thing taken away."
        paint = partial(routers.ablations, found=found, alone=config.alone)
        drawn.append(draw(folder, "ablations", "ablations", "Ablations", caption, paint, (WIDE, 2.9)))
    return drawn


def _of_risk(run: RunDir, config: RunConfig, found: Findings, folder: Path) -> list[Figure]:
    drawn = []
    if found.forecasts and REFERENCE in found.forecasts[0].rho:
        which = " Training seed 0." if found.training_seeds > 1 else ""
        drawn += [
            draw(
                folder,
                "reliability",
                "risk",
                "Is the predicted risk right?",
                "Steps of the SLM alone on test tasks, against the episode's own outcome; 15 bins, areas are numbers of steps. Not even a perfect "
                f"forecaster shows an ECE of 0 on so few: the range takes steps as independent, then as sharing their episode's luck.{which}",
                lambda figure: risk.reliability(figure, found),
                (5.1, 4.5),
            ),
            draw(
                folder,
                "risk_over_steps",
                "risk",
                "When does the risk show?",
                "Mean predicted risk by step of episodes that the SLM plays alone; bands are quartiles. The further apart the lines and the "
                f"earlier, the sooner help can be called.{which}",
                lambda figure: risk.over_steps(figure, found.forecasts[0]),
                (5.1, 4.5),
            ),
        ]
    logged = _policy_metrics(run, config, found.training_seeds)
    if any(logged.values()):
        epsilon = (config.router or RouterConfig()).epsilon
        caption = "Full-batch primal-dual training of r2v's policy head: the multiplier rises while the CVaR exceeds epsilon, and falls below it."
        drawn.append(draw(folder, "training", "training", "Training under the constraint", caption, lambda f: risk.training(f, logged, epsilon), (WIDE, 2.9)))
    return drawn


def _policy_metrics(run: RunDir, config: RunConfig, training_seeds: int) -> dict[int, list[dict[str, Any]]]:
    found = {}
    for s in range(training_seeds):
        manifest = router_manifest(run, config, s)
        rows = metrics(run.root / "stages" / manifest.stage / "metrics.jsonl") if manifest else []
        found[s] = [row for row in rows if row.get("router") == REFERENCE and row.get("phase") == "policy"]
    return found


def _of_learning(run: RunDir, folder: Path) -> list[Figure]:
    drawn = []
    if cloned := learning.logged_by(run, "bc"):
        caption = "Cross-entropy on action tokens of the teacher's successful episodes."
        paint = partial(learning.behaviour_cloning, logged=cloned)
        drawn.append(draw(folder, "cloning", "learning", "Behaviour cloning", caption, paint, (5.1, 3.4)))
    if (curves := learning.verifier_curves(run, "verifier")) is not None:
        caption = "Uncalibrated V on candidates of validation states, against the share of their branches that succeeded."
        drawn.append(
            draw(folder, "verifier", "learning", "Process verifier", caption, lambda figure: learning.verifier(figure, *curves), (WIDE, 4.0))
        )
    if preferred := learning.logged_by(run, "dpo"):
        caption = "Verifier-guided DPO with its consistency and likelihood terms; rewards are beta times the log-ratio to the cloned policy."
        drawn.append(
            draw(folder, "preferences", "learning", "DPO", caption, lambda figure: learning.preferences(figure, preferred), (WIDE, 3.2))
        )
    return drawn
