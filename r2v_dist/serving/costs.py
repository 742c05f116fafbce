"""What an answer cost, and what it would have cost had the teacher answered everything."""

from dataclasses import dataclass

from r2v_dist.config.serve import PriceConfig
from r2v_dist.serving.begun import Begun

_PER = 1e6


@dataclass(frozen=True)
class Cost:
    """In the currency of `serve.prices`. `always_teacher` is an estimate where the SLM answered:
    the teacher would have read the same conversation and said as much."""

    slm: float
    teacher: float
    always_teacher: float

    @property
    def saved(self) -> float:
        """Net of our own cost."""
        return self.always_teacher - self.slm - self.teacher


def cost_of(begun: Begun, prices: PriceConfig) -> Cost:
    """The cost of an answer: every candidate of the SLM counts, also where the teacher acted."""
    proposal = begun.step.proposal
    slm = 0.0
    if proposal is not None:
        slm = proposal.prompt_tokens * prices.slm_prompt + proposal.sampled_tokens * prices.slm
    prompt = begun.usage.get("prompt_tokens", 0)
    completion = begun.usage.get("completion_tokens", 0)
    always_teacher = prompt * prices.teacher_prompt + completion * prices.teacher
    teacher = always_teacher if begun.route == "teacher" else 0.0
    return Cost(slm / _PER, teacher / _PER, always_teacher / _PER)
