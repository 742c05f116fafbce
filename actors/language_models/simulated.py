"""A policy with a known failure probability; its numbers are labelled simulated wherever they
appear.
"""

import math
import random
import re
from statistics import NormalDist

from r2v_dist.language_model import Answer, Candidate, Request, TopTokens
from r2v_dist.messages import text_of

_ERROR = re.compile(r"error|failed|traceback", re.IGNORECASE)


class SimulatedModel:
    """Labelled simulated wherever its numbers appear: the expert's action, but with a known
    probability a wrong one.

    The wrong action is the environment's own where it knows one, else `wait`. The probability
    depends on the state only through what `ModelConfig` names. With `signal_auroc` A, a score ~
    N(sqrt(2) Phi^-1(A), 1) for proposals that fail and ~ N(0, 1) for right ones becomes a
    two-outcome first token whose entropy grows with it, so entropy has exactly that AUROC at every
    step.
    """

    def __init__(
        self,
        failure_rate: float,
        perturbed: float | None = None,
        after_error: float | None = None,
        signal_auroc: float | None = None,
    ) -> None:
        self._failure_rate = failure_rate
        self._perturbed = perturbed
        self._after_error = after_error
        self._shift = (
            None if signal_auroc is None else math.sqrt(2) * NormalDist().inv_cdf(signal_auroc)
        )

    async def sample(self, request: Request) -> Answer:
        """Candidates that are independent given the state; the seed decides which of them fail. The
        signal is the first one's.
        """
        assert request.oracle is not None
        best_action = request.oracle()
        rate = self._rate(request)
        rng = random.Random(request.seed)
        failing = [best_action is None or rng.random() < rate for _ in range(request.sampling.n)]
        texts = [
            self._wrong(request, place) if fails else best_action
            for place, fails in enumerate(failing)
        ]
        version = f"simulated-{self._failure_rate:g}"
        if self._shift is None:
            return Answer(tuple(Candidate(text or "wait") for text in texts), version)
        score = rng.gauss(self._shift if failing[0] else 0.0, 1.0)
        unlikely = 0.5 / (1.0 + math.exp(self._shift / 2 - score))
        first_top = TopTokens.of([(0, math.log1p(-unlikely)), (1, math.log(unlikely))])
        return Answer(
            tuple(Candidate(text or "wait", None, (first_top.logprobs[0],)) for text in texts),
            version,
            first_top=first_top,
        )

    def _rate(self, request: Request) -> float:
        rates = [self._failure_rate]
        if request.perturbed and self._perturbed is not None:
            rates.append(self._perturbed)
        if self._after_error is not None and _ERROR.search(text_of(request.user)):
            rates.append(self._after_error)
        return max(rates)

    @staticmethod
    def _wrong(request: Request, place: int) -> str | None:
        return request.wrong_action(request.seed + place) if request.wrong_action else None
