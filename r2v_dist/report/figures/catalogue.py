"""Which figures a run has data for, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from r2v_dist.config.router import RouterConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.comparison import REFERENCE
from r2v_dist.evaluation.results import Findings
from r2v_dist.evaluation.trained_routers import router_manifest
from r2v_dist.report.claims import cvar_role
from r2v_dist.report.figures import learning, progress, risk, routers
from r2v_dist.report.figures.drawing import Figure, draw, metrics
from r2v_dist.report.figures.palette import ABLATIONS
from r2v_dist.report.published import Published
from r2v_dist.report.timeline import Bar
from r2v_dist.storage.run_dir import RunDir

_WIDE = 10.4
_COLUMN = 5.1

_FRONTIER = (
    "Test tasks and seeds, every point played live. Bars are 95 % intervals over tasks "
    "(cluster bootstrap)."
)
_BOLD = (
    " The bold baseline in each panel is the best at r2v's number of teacher calls, picked "
    "with hindsight."
)
_RING = " The ring is the threshold that validation chose."
_STAR = " The star is what the paper reports, for other models and other tasks."
_SEEDS = (
    "All test tasks under one seed. Dotted lines are the worst seed of each. Rates differ by "
    "chance "
    "even where seeds are alike: whether they differ beyond it is tested below."
)
_HINDSIGHT = " The baseline is the best at r2v's number of teacher calls, picked with hindsight."
_ABLATIONS = (
    "Each ablation against r2v (the broad pale line): same labels, same rule for "
    "thresholds, one thing changed."
)
_RELIABILITY = (
    "The residual risk, not the score that routes: SLM-only steps on test tasks, against "
    "the "
    "episode's own outcome; 15 bins, areas are numbers of steps. Not even a perfect forecaster "
    "shows "
    "an ECE of 0 on so few: the range takes steps as independent, then as sharing their episode's "
    "luck."
)
_OVER_STEPS = (
    "Mean residual risk by step of episodes that the SLM plays alone; bands are quartiles. The "
    "further "
    "apart the lines and the earlier, the sooner the risk tells them apart. Failed episodes are "
    "longer, "
    "so the step number alone tells something too."
)
_TRAINING = (
    "Full-batch primal-dual training of r2v's policy head: the multiplier rises while the CVaR of "
    "failure over training seeds exceeds epsilon, and falls while it does not. "
)
_CLONING = "Cross-entropy on action tokens of the teacher's successful episodes."
_VERIFIER = (
    "Uncalibrated V on candidates of validation states, against the share of their "
    "branches that succeeded."
)
_PREFERENCES = (
    "Verifier-guided DPO with its consistency and likelihood terms; rewards are "
    "beta times the log-ratio to the cloned policy."
)

_TIMELINE = (
    "Stages above; below them engines, env runners and learners, with what each group asked for. "
    "The pale beginning of a group is the time until it first answered. A cross is where a driver "
    "ended before it could record an end, a dotted line a pause that is left out."
)


def draw_figures(
    run: RunDir,
    config: RunConfig,
    findings: Findings,
    folder: Path,
    published: Published | None,
    bars: Sequence[Bar] = (),
) -> list[Figure]:
    """Draw everything there is data for, with a PNG copy of each in `folder`. `bars` are those
    of the timeline.
    """
    drawing = _Drawing(run, config, findings, folder, published)
    return [*drawing.routers(), *drawing.risk(), *drawing.learning(), *drawing.progress(bars)]


@dataclass(frozen=True)
class _Drawing:
    run: RunDir
    config: RunConfig
    findings: Findings
    folder: Path
    published: Published | None

    def routers(self) -> list[Figure]:
        """What routers achieve."""
        findings = self.findings
        names = {row.name for row in findings.perturbed}
        ours = REFERENCE in names
        caption = (
            _FRONTIER
            + (_BOLD + _RING if ours else "")
            + (_STAR if self.published is not None else "")
            + routers.note(findings)
        )
        paint = partial(
            routers.frontier,
            findings=findings,
            published=self.published,
            slm_only_router=self.config.slm_only_router,
        )
        seeds_caption = _SEEDS + (_HINDSIGHT if ours else "")
        figures = [
            self._wide(
                "frontier", "frontier", "Success against LLM-call rate", caption, paint, 6.0
            ),
            self._wide(
                "seeds",
                "seeds",
                "Success under each perturbation seed",
                seeds_caption,
                partial(routers.seeds, findings=findings),
                3.5,
            ),
        ]
        if names & set(ABLATIONS) and ours:
            paint = partial(
                routers.ablations, findings=findings, slm_only_router=self.config.slm_only_router
            )
            height = 0.5 + 2.4 * routers.panel_rows(len(names & set(ABLATIONS)))
            figures.append(
                self._wide("ablations", "ablations", "Ablations", _ABLATIONS, paint, height)
            )
        return figures

    def risk(self) -> list[Figure]:
        """What r2v predicts, and how it was trained."""
        findings = self.findings
        figures = list[Figure]()
        if findings.forecasts and REFERENCE in findings.forecasts[0].rho:
            seed_note = " Training seed 0." if findings.training_seeds > 1 else ""
            paint = partial(risk.reliability, findings=findings)
            figures.append(
                self._column(
                    "reliability",
                    "risk",
                    "Is the predicted risk right?",
                    _RELIABILITY + seed_note,
                    paint,
                    4.5,
                )
            )
            paint = partial(risk.over_steps, forecasts=findings.forecasts[0])
            figures.append(
                self._column(
                    "risk_over_steps",
                    "risk",
                    "When does the risk show?",
                    _OVER_STEPS + seed_note,
                    paint,
                    4.5,
                )
            )
        logged = {
            s: rows for s in range(findings.training_seeds) if (rows := self._policy_metrics(s))
        }
        if logged:
            paint = partial(
                risk.training, logged=logged, epsilon=(self.config.router or RouterConfig()).epsilon
            )
            caption = _TRAINING + cvar_role(self.config)
            figures.append(
                self._wide(
                    "training", "training", "Training under the constraint", caption, paint, 2.9
                )
            )
        return figures

    def learning(self) -> list[Figure]:
        """How SLM and verifier learned, first training seed."""
        figures = []
        if logged := learning.logged_by(self.run, "bc"):
            paint = partial(learning.behaviour_cloning, logged=logged)
            figures.append(
                self._column("cloning", "learning", "Behaviour cloning", _CLONING, paint, 3.4)
            )
        if (measures := learning.verifier_curves(self.run, "verifier")) is not None:
            paint = partial(learning.verifier, curves=measures[0], auroc=measures[1])
            figures.append(
                self._wide("verifier", "learning", "Process verifier", _VERIFIER, paint, 4.0)
            )
        if logged := learning.logged_by(self.run, "dpo"):
            paint = partial(learning.preferences, logged=logged)
            figures.append(self._wide("preferences", "learning", "DPO", _PREFERENCES, paint, 3.2))
        return figures

    def progress(self, bars: Sequence[Bar]) -> list[Figure]:
        """What ran when."""
        if not bars:
            return []
        paint = partial(progress.what_ran_when, bars=bars)
        tall = progress.height(bars)
        return [self._wide("timeline", "ran", "What ran when", _TIMELINE, paint, tall)]

    def _policy_metrics(self, training_seed: int) -> list[dict[str, Any]]:
        manifest = router_manifest(self.run, self.config, training_seed)
        rows = (
            metrics(self.run.root / "stages" / manifest.stage / "metrics.jsonl") if manifest else []
        )
        return [
            row for row in rows if row.get("router") == REFERENCE and row.get("phase") == "policy"
        ]

    def _wide(
        self, name: str, section: str, title: str, caption: str, paint: Any, height: float
    ) -> Figure:
        return draw(self.folder, name, section, title, caption, paint, (_WIDE, height))

    def _column(
        self, name: str, section: str, title: str, caption: str, paint: Any, height: float
    ) -> Figure:
        return draw(self.folder, name, section, title, caption, paint, (_COLUMN, height))
