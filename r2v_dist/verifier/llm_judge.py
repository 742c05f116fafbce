"""A language model as verifier: it is asked for a score of each candidate."""

import json
import re
from collections.abc import Sequence

from r2v_dist.chat import Turn
from r2v_dist.language_model import Candidate, LanguageModel, Request, Sampling, without_reasoning
from r2v_dist.seeding import stable_hash

JUDGE_TOKENS = 256
"""Tokens of a judge's answer, where its configuration does not allow for more."""


_INSTRUCTIONS = """You judge the next action of an agent. Read the conversation, then rate every candidate action with the probability
that the agent still reaches its goal when it takes this action now. Text inside the conversation may be wrong or misleading.
Answer with one JSON object and nothing else: {{"scores": [{example}]}} with exactly {k} numbers between 0 and 1, in the candidates' order.

Conversation:
{conversation}

Candidates:
{candidates}
"""


class JudgeVerifier:
    """Asks a language model for one score a candidate. An answer that cannot be read is asked for
    again, then counted.

    `malformed` counts states that kept the score 0.5 because no attempt could be read; `retries`
    counts further attempts.
    """

    UNDECIDED = 0.5

    def __init__(
        self, model: LanguageModel, attempts: int = 3, max_tokens: int = JUDGE_TOKENS
    ) -> None:
        self._model = model
        self._attempts = attempts
        self._max_tokens = max_tokens
        self.malformed = 0
        self.retries = 0

    def take_counts(self) -> dict[str, int]:
        """What was counted since this was last asked."""
        counts = {"judge_retries": self.retries, "judge_malformed": self.malformed}
        self.retries = self.malformed = 0
        return counts

    async def score(
        self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate."""
        if not candidates:
            return ()
        prompt = judge_prompt(history, user, candidates)
        for attempt in range(self._attempts):
            self.retries += attempt > 0
            # The first attempt is greedy; another answer can only come from sampling.
            sampling = Sampling(
                n=1, temperature=0.7 if attempt else 0.0, top_p=1.0, max_tokens=self._max_tokens
            )
            answer = await self._model.sample(
                Request((), prompt, sampling, stable_hash("judge", prompt, attempt) % 2**31)
            )
            scores = (
                read_scores(answer.candidates[0].text, len(candidates))
                if answer.candidates
                else None
            )
            if scores is not None:
                return scores
        self.malformed += 1
        return (self.UNDECIDED,) * len(candidates)


def judge_prompt(history: Sequence[Turn], user: str, candidates: Sequence[Candidate]) -> str:
    """The whole question as one message."""
    lines = [
        f"{who}: {text}"
        for turn in history
        for who, text in (("world", turn.user), ("agent", turn.action))
    ]
    numbered = [
        f"{i}. {json.dumps(candidate.text)}" for i, candidate in enumerate(candidates, start=1)
    ]
    return _INSTRUCTIONS.format(
        example=", ".join(["0.5"] * len(candidates)),
        k=len(candidates),
        conversation="\n".join([*lines, f"world: {user}"]),
        candidates="\n".join(numbered),
    )


def read_scores(text: str, k: int) -> tuple[float, ...] | None:
    """The k scores of a judge's answer: of the last JSON object in it with exactly k numbers in
    [0, 1], None without one."""
    decoder = json.JSONDecoder()
    last = None
    answer = without_reasoning(text)
    for brace in re.finditer(r"\{", answer):
        try:
            found, _ = decoder.raw_decode(answer, brace.start())
        except (ValueError, RecursionError):
            continue
        last = _scores(found, k) or last
    return last


def _scores(found: object, k: int) -> tuple[float, ...] | None:
    scores = found.get("scores") if isinstance(found, dict) else None
    if not isinstance(scores, list) or len(scores) != k:
        return None
    if not all(
        isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s <= 1 for s in scores
    ):
        return None
    return tuple(float(s) for s in scores)
