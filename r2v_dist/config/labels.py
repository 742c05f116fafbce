"""Branches for the verifier and labels for the router."""

from typing import Any, Literal

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.env import SEED_BLOCK
from r2v_dist.config.learners import MOST_BRANCHES, MOST_STATES


class BranchConfig(Section):
    """The states whose candidates are valued by branches, for the verifier and for preference
    pairs.
    """

    tasks: int = Field(40, ge=1, le=MOST_STATES)
    validation_tasks: int = Field(12, ge=1, le=MOST_STATES)
    seeds: int = Field(4, ge=2, le=SEED_BLOCK)
    """Perturbation seeds of each split; two views of one state are two seeds that met it."""
    states: int = Field(100, ge=1, le=MOST_STATES)
    validation_states: int = Field(40, ge=1, le=MOST_STATES)
    n: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches from each candidate."""
    n_agreed: int = Field(2, ge=1, le=MOST_BRANCHES)
    """Branches where all K candidates are one action."""
    outcomes: int = Field(400, ge=0, le=MOST_STATES)
    """Further training states for the verifier, each with the one outcome of its own episode."""
    teacher: bool = True
    """Whether the teacher's action at these states is valued too."""


class LabelConfig(Section):
    """The states that the router learns from, and their counterfactual branches (docs/method.md,
    section 6).
    """

    tasks: int = Field(60, ge=2, le=MOST_STATES)
    validation_tasks: int = Field(20, ge=2, le=MOST_STATES)
    seeds: int = Field(10, ge=10, le=SEED_BLOCK)
    """Perturbation seeds of each split. CVaR over fewer than ten says nothing."""
    states: int = Field(400, ge=1, le=MOST_STATES)
    """States of a round that get T1 branches, and S branches where the episode itself is not one
    already. Every SLM-only state also gets a Tinf branch.
    """
    validation_states: int = Field(200, ge=1, le=MOST_STATES)
    n: int = Field(2, ge=1, le=MOST_BRANCHES)
    """Branches of each kind from a state; many states with few branches teach more than few states
    with many.
    """
    n_unsure: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches of each kind in the second round, at states with a first-round risk between .1 and
    .9.
    """
    random_rate: float = Field(0.2, gt=0, lt=1)
    """Escalation rate of the random episodes that lead to states after a step of the teacher."""
    pairs: int = Field(0, ge=0, le=MOST_STATES)
    """States of the second round with paired branches: the first-round router continues once after
    the SLM's action and once after the teacher's. States where it expects them to differ are drawn
    more often. Training tasks only.
    """
    rounds: Literal[1, 2] = 2
    """The second round labels states on the paths of the first round's router."""
    followed_rate: float = Field(0.5, gt=0, lt=1)
    """Escalation rate of the first-round router when it collects second-round states, as a share of
    SLM-only states. Choose it near the deployed rate: what a call gains now depends on how often
    the router escalates later.
    """

    def first_round(self) -> dict[str, Any]:
        """The keys that decide the labels of the first round; the others decide the second only."""
        return self.model_dump(mode="json", exclude={"n_unsure", "pairs", "followed_rate"})
