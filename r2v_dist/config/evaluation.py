"""Live evaluation and the certificate."""

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from r2v_dist.config.base import Section, distinct
from r2v_dist.config.learners import MOST_BRANCHES
from r2v_dist.router.names import EVALUATED, ORACLE


def _known_router(name: str) -> str:
    known = (*EVALUATED, ORACLE)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"no such router; did you mean {near}? There are {', '.join(known)}")
    return name


RouterName = Annotated[str, AfterValidator(_known_router)]


Rate = Annotated[float, Field(gt=0, lt=1)]


class EvaluateConfig(Section):
    """Live evaluation on held-out tasks and seeds. Thresholds come from validation tasks."""

    rates: Annotated[tuple[Rate, ...], Field(min_length=1), AfterValidator(distinct)] = (
        0.03, 0.07, 0.12, 0.18, 0.25, 0.32, 0.4, 0.47, 0.55, 0.8,
    )  # fmt: skip
    """Target escalation rates; a router's thresholds are the matching quantiles of its score along
    validation episodes of the SLM.
    """
    routers: Annotated[tuple[RouterName, ...], AfterValidator(distinct)] = EVALUATED
    """Routers to evaluate. Those for which the run has no model, verifier or log-probabilities are
    left out. `oracle` runs only where it is named here.
    """
    oracle_branches: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches from every state on the oracle's path; their replicas are used for nothing else."""
    bootstrap: int = Field(2000, ge=100, le=100_000)
    """Bootstrap samples of every interval."""
    epsilon: float = Field(0.05, gt=0, lt=1)
    """Largest excess of a chosen threshold's CVaR of failure over seeds above the teacher-only
    router's.
    """
    confidence: float = Field(0.9, ge=0.5, lt=1)
    """Bootstrap margin: the share of bootstrap samples of the validation tasks in which the chosen
    threshold has at most the excess `epsilon`. It is not the confidence level of a test: where no
    validation episode shows an excess, no sample does, however few the tasks are. Where the teacher
    fails too, raise epsilon rather than lower the margin.
    """
    budget: float | None = Field(0.3, gt=0, le=1)
    """Share of the teacher-only router's calls that a second operating point in the report may
    spend; null for none.
    """


class CertificateConfig(Section):
    """The bound that the certificate gives for new tasks (docs/method.md, section 8). It needs
    calibration tasks.
    """

    risk: float = Field(0.1, gt=0, lt=1)
    """Largest mean loss of a new task."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability that the bound does not hold."""
    statistic: Literal["mean", "cvar"] = "mean"
    """Loss of a task: its failure rate over seeds, or, as the stronger bound, the CVaR of its
    failures.
    """
