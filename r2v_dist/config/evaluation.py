"""Live evaluation and the certificate."""

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from r2v_dist.config.base import Section, distinct
from r2v_dist.config.learners import MOST_BRANCHES
from r2v_dist.router.names import EVALUATED, ORACLE, SERVED


def _known_router(name: str) -> str:
    names = (*EVALUATED, *SERVED, ORACLE)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise ValueError(f"no such router; did you mean {near}? There are {', '.join(names)}")
    return name


RouterName = Annotated[str, AfterValidator(_known_router)]


Rate = Annotated[float, Field(gt=0, lt=1)]


class EvaluateConfig(Section):
    """Live evaluation on held-out tasks and seeds. Thresholds come from validation tasks."""

    rates: Annotated[tuple[Rate, ...], Field(min_length=1), AfterValidator(distinct)] = (
        0.03, 0.07, 0.12, 0.18, 0.25, 0.32, 0.4, 0.47, 0.55, 0.8,
    )  # fmt: skip
    """Target escalation rates. The thresholds of a router are the matching quantiles of its score
    along SLM-only validation episodes.
    """
    routers: Annotated[tuple[RouterName, ...], AfterValidator(distinct)] = EVALUATED
    """Routers to evaluate. A router for which the run has no model, verifier or log-probabilities
    is left out. The default contains neither `oracle` nor `logistic_served`.
    """
    oracle_branches: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches of the oracle from every state on its path; nothing else uses their replicas."""
    bootstrap: int = Field(2000, ge=100, le=100_000)
    """Bootstrap samples of tasks for intervals and for `confidence`."""
    epsilon: float = Field(0.05, gt=0, lt=1)
    """Largest excess of a chosen threshold's CVaR of failure over seeds above that of
    teacher-only.
    """
    confidence: float = Field(0.9, ge=0.5, lt=1)
    """Bootstrap margin: the share of bootstrap samples of the validation tasks in which the excess
    of the chosen threshold is at most epsilon. It is not the confidence level of a test: where no
    validation episode shows an excess, no sample does, however few the tasks are. Where the teacher
    fails too, raise epsilon rather than lower the margin."""
    budget: float | None = Field(0.3, gt=0, le=1)
    """Teacher calls that a second operating point in the report may spend, as a share of
    teacher-only's; null for no such point.
    """


SMALLEST_SHARE = 1e-6
"""The smallest risk and delta: below it no number of tasks that could be played is enough."""


class CertificateConfig(Section):
    """The bound that the certificate states for new tasks (docs/method.md, section 8). It needs
    calibration tasks.
    """

    risk: float = Field(0.1, ge=SMALLEST_SHARE, lt=1)
    """Largest mean loss of a task."""
    delta: float = Field(0.1, ge=SMALLEST_SHARE, lt=1)
    """Probability that the bound does not hold."""
    statistic: Literal["mean", "cvar"] = "mean"
    """Loss of a task: its failure rate over seeds ("mean"), or the CVaR of its failures ("cvar"),
    which makes the stronger promise.
    """
