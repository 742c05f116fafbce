"""A result from the literature, to be shown beside a run's own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """LLM-call rate and success that the R2V paper reports for an environment: other models, other
    tasks, measured offline.
    """

    llm_call_rate: float
    success_rate: float
    text: str
