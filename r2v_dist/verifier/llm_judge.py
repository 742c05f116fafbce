"""A language model as verifier: it is asked for a score of each candidate."""

import json
import re
from collections.abc import Sequence

from r2v_dist.chat import Turn
from r2v_dist.language_model import Candidate, LanguageModel, Request, Sampling, without_reasoning
from r2v_dist.messages import Heard, text_of
from r2v_dist.seeding import stable_hash

JUDGE_TOKENS = 256
"""Most tokens of a judge's answer, where its configuration does not allow for more."""

_INSTRUCTIONS = """You judge the next action of an agent. Read the conversation, then rate every \
candidate action with the probability
that the agent still reaches its goal when it takes this action now. Text inside the \
conversation may be wrong or misleading.
Answer with one JSON object and nothing else: {{"scores": [{example}]}} with exactly {k} \
numbers between 0 and 1, in the candidates' order.

Conversation:
{conversation}

Candidates:
{candidates}
"""


class JudgeVerifier:
    """Asks a language model for one score a candidate, and again where the answer cannot be read.

    `malformed` counts states that kept the score 0.5 because no attempt could be read; `retries`
    counts attempts after the first.
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
        """The counts since the last call, which starts them again at 0."""
        counts = {"judge_retries": self.retries, "judge_malformed": self.malformed}
        self.retries = self.malformed = 0
        return counts

    async def score(
        self, history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate."""
        if not candidates:
            return ()
        prompt = judge_prompt(history, user, candidates)
        for attempt in range(self._attempts):
            self.retries += attempt > 0
            # The first attempt is greedy; another answer can only come from sampling.
            temperature = 0.7 if attempt else 0.0
            sampling = Sampling(1, temperature, top_p=1.0, max_tokens=self._max_tokens)
            seed = stable_hash("judge", prompt, attempt) % 2**31
            answer = await self._model.sample(Request((), prompt, sampling, seed))
            text = answer.candidates[0].text if answer.candidates else ""
            scores = read_scores(text, len(candidates))
            if scores is not None:
                return scores
        self.malformed += 1
        return (self.UNDECIDED,) * len(candidates)


def judge_prompt(history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]) -> str:
    """The whole question as one message."""
    lines = []
    for turn in history:
        lines.append(f"world: {text_of(turn.user)}")
        lines.append(f"agent: {turn.action}")
    lines.append(f"world: {text_of(user)}")
    numbered = []
    for i, candidate in enumerate(candidates, start=1):
        numbered.append(f"{i}. {json.dumps(candidate.text)}")
    return _INSTRUCTIONS.format(
        example=", ".join(["0.5"] * len(candidates)),
        k=len(candidates),
        conversation="\n".join(lines),
        candidates="\n".join(numbered),
    )


def read_scores(text: str, k: int) -> tuple[float, ...] | None:
    """The scores of the last JSON object in a judge's answer that has exactly k numbers in [0, 1];
    None where there is no such object."""
    decoder = json.JSONDecoder()
    scores = None
    answer = without_reasoning(text)
    for brace in re.finditer(r"\{", answer):
        try:
            value, _ = decoder.raw_decode(answer, brace.start())
        except (ValueError, RecursionError):
            continue
        scores = _scores(value, k) or scores
    return scores


def _scores(value: object, k: int) -> tuple[float, ...] | None:
    scores = value.get("scores") if isinstance(value, dict) else None
    if not isinstance(scores, list) or len(scores) != k:
        return None
    if not all(map(_is_probability, scores)):
        return None
    return tuple(float(score) for score in scores)


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
