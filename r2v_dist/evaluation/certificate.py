"""The certificate of a finished run, computed from its calibration episodes whenever it is asked
for: nothing is remembered.

With several training seeds it is the first one's router that is certified.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r2v_dist.config.evaluation import SMALLEST_SHARE
from r2v_dist.config.run import RunConfig
from r2v_dist.errors import UsageError
from r2v_dist.object_storage.mirror import shown
from r2v_dist.stats.learn_then_test import Certificate, certify, task_losses
from r2v_dist.storage.run_dir import RunDir

Statistic = Literal["mean", "cvar"]
STAGE = "calibrate"


@dataclass(frozen=True)
class RunCertificate:
    """A certificate and what it is about."""

    certificate: Certificate
    statistic: Statistic
    alpha: float
    training_seeds: int
    simulated: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts = asdict(self.certificate)
        return facts | {
            "feasible": self.certificate.threshold is not None,
            "statistic": self.statistic,
            "training_seed": 0,
            "words": self.words,
        }

    @property
    def words(self) -> str:
        """The promise in one sentence, or why there is none."""
        certificate = self.certificate
        if certificate.threshold is None:
            return certificate.reason
        worst = (
            f"the mean over the worst {self.alpha:.0%} of its perturbation seeds of the "
            "chance to fail"
        )
        loss = (
            "the chance to fail, over the seeds of this run," if self.statistic == "mean" else worst
        )
        return (
            f"{self._granted}: on a new task, {loss} is at most "
            f"{certificate.risk:.0%} on average "
            f"(wrong with probability at most {certificate.delta:.0%} over the draw of the "
            f"{certificate.tasks} calibration tasks)"
        )

    @property
    def line(self) -> str:
        """For the last lines of a run."""
        certificate = self.certificate
        if certificate.threshold is None:
            return (
                f"no feasible threshold at risk {certificate.risk:g}, delta {certificate.delta:g} "
                f"({certificate.tasks} calibration tasks)"
            )
        kind = "mean failure" if self.statistic == "mean" else f"CVaR of failure ({self.alpha:g})"
        return (
            f"{self._granted} keeps {kind} <= {certificate.risk:g} with "
            f"confidence {1 - certificate.delta:g} ({certificate.tasks} tasks)"
        )

    @property
    def _granted(self) -> str:
        """What is certified. The test starts where every step is the teacher's."""
        threshold = self.certificate.threshold
        if threshold == self.certificate.tested[0].threshold:
            return "calling the teacher at every step"
        return f"threshold {threshold:.4g}"

    def render(self) -> str:
        """For the terminal: the promise, then every threshold tested."""
        certificate = self.certificate
        lines = ["[SIMULATED policy: not a result about a model]"] if self.simulated else []
        if self.training_seeds > 1:
            lines.append(f"The router of training seed 0, the first of {self.training_seeds}")
        lines.append(self.words[0].upper() + self.words[1:])
        if certificate.threshold is not None:
            lines.append(f"Why no cheaper one: {certificate.reason}")
        lines.append(f"{'threshold':>12}  {'empirical risk':>14}  {'p-value':>9}  certified")
        for place, test in enumerate(certificate.tested):
            threshold = (
                f"{test.threshold:.4g}" if place else "always"
            )  # the test starts where every step is the teacher's
            lines.append(
                f"{threshold:>12}  {test.empirical_risk:>14.3f}  {test.p_value:>9.3g}  "
                f"{'yes' if test.rejected else 'no'}"
            )
        return "\n".join(lines)


def certificate_of(
    run: RunDir,
    config: RunConfig,
    risk: float | None = None,
    delta: float | None = None,
    statistic: Statistic | None = None,
) -> RunCertificate:
    """Test the thresholds of the calibration stage; what is not given is as the run's configuration
    says.

    Raises UsageError when the run has no complete calibration stage, or for a risk or delta that is
    no probability between 0 and 1.
    """
    manifest = run.manifest(STAGE)
    if manifest is None:
        fix = "configure a router and env.splits.calibration, then `r2v run` it to its end"
        raise UsageError(f"{shown(run.root)}: no calibration stage is complete; {fix}")
    risk = config.certificate.risk if risk is None else risk
    delta = config.certificate.delta if delta is None else delta
    for name, value in (("--risk", risk), ("--delta", delta)):
        if not SMALLEST_SHARE <= value < 1:
            raise UsageError(
                f"{name} {value:g}: a probability from {SMALLEST_SHARE:g} to below 1, for "
                "example 0.1"
            )
    kind = statistic or config.certificate.statistic
    thresholds = manifest.results["thresholds"]
    losses = calibration_losses(run.rollouts(STAGE), thresholds, kind, config.alpha)
    return RunCertificate(
        certify(thresholds, losses, risk, delta),
        kind,
        config.alpha,
        config.training_seeds,
        config.simulated,
    )


def calibration_losses(
    folder: Path, thresholds: list[float], statistic: Any, alpha: float
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Losses [thresholds, tasks] of the router on the calibration tasks."""
    from r2v_dist.evaluation.outcomes import arm_outcomes

    successes = {arm.threshold: arm.success_TZ for arm in arm_outcomes(folder)}
    return np.stack(
        [task_losses(1.0 - successes[threshold], statistic, alpha) for threshold in thresholds]
    )
