"""Branches for the verifier and labels for the router."""

from typing import Any, Literal

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.env import SEED_BLOCK
from r2v_dist.config.learners import MOST_BRANCHES, MOST_STATES


class BranchConfig(Section):
    """The states at which branches value candidates, for the verifier and for preference pairs."""

    tasks: int = Field(40, ge=1, le=MOST_STATES)
    validation_tasks: int = Field(12, ge=1, le=MOST_STATES)
    seeds: int = Field(4, ge=2, le=SEED_BLOCK)
    """Perturbation seeds of each split; two seeds that visit one state give two views of it."""
    states: int = Field(100, ge=1, le=MOST_STATES)
    validation_states: int = Field(40, ge=1, le=MOST_STATES)
    n: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches of each candidate."""
    n_agreed: int = Field(2, ge=1, le=MOST_BRANCHES)
    """Branches of the candidate where all K candidates are one action."""
    outcomes: int = Field(400, ge=0, le=MOST_STATES)
    """Further training states for the verifier; the value of each is the outcome of its episode."""
    teacher: bool = True
    """Whether branches also value the teacher's action."""


_SECOND_ROUND = ("n_unsure", "pairs", "followed_rate")


class LabelConfig(Section):
    """The states that the router learns from, and their counterfactual branches (docs/method.md,
    section 6).
    """

    tasks: int = Field(60, ge=2, le=MOST_STATES)
    validation_tasks: int = Field(20, ge=2, le=MOST_STATES)
    seeds: int = Field(10, ge=10, le=SEED_BLOCK)
    """Perturbation seeds of each split. CVaR over fewer seeds is too noisy."""
    seeds_per_task: int | None = Field(None, ge=1, le=SEED_BLOCK)
    """How many of the seeds each task meets, consecutive tasks consecutive seeds; null for all of
    them. Where episodes are expensive, many tasks under few seeds each teach more."""
    states: int = Field(400, ge=1, le=MOST_STATES)
    """Training states of a round with T1-branches, and with S-branches where the outcome of the
    SLM-only episode does not serve as one. In addition every SLM-only state has a Tinf-branch.
    """
    validation_states: int = Field(200, ge=1, le=MOST_STATES)
    n: int = Field(2, ge=1, le=MOST_BRANCHES)
    """Branches of each kind. Many states with few branches teach more than few states with many."""
    n_unsure: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches of each kind in the second round, for states at which the risk of the first round
    lies between .1 and .9.
    """
    random_rate: float = Field(0.2, gt=0, lt=1)
    """Escalation rate of the random router whose episodes give states after teacher steps."""
    pairs: int = Field(0, ge=0, le=MOST_STATES)
    """Training states of the second round from which the first-round router acts on, after the
    SLM's action and after the teacher's. States at which it expects the actions to differ are drawn
    more often.
    """
    rounds: Literal[1, 2] = 2
    """The second round labels states on the paths of the first round's router."""
    followed_rate: float = Field(0.5, gt=0, lt=1)
    """Escalation rate of the first-round router when it collects second-round states, as a share of
    SLM-only states. Choose it near the deployed rate: the effect of escalating now depends on how
    often the router escalates later.
    """

    def first_round(self) -> dict[str, Any]:
        """The keys that decide the labels of the first round; the other keys serve the second round
        alone.
        """
        content = self.content()
        return {key: content[key] for key in content if key not in _SECOND_ROUND}

    def met(self) -> int | tuple[int, int]:
        """Which seeds tasks meet: their number, and where a task does not meet all, how many."""
        return self.seeds if self.seeds_per_task is None else (self.seeds, self.seeds_per_task)

    def episodes(self, tasks: int) -> int:
        """Units of so many tasks."""
        return tasks * min(self.seeds, self.seeds_per_task or self.seeds)

    def content(self) -> dict[str, Any]:
        """The keys that decide the labels. A newer one counts only where it is set."""
        content = self.model_dump(mode="json")
        if self.seeds_per_task is None:
            del content["seeds_per_task"]
        return content
