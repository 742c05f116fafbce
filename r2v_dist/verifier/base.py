"""The process verifier V(x, a) in [0, 1] (METHOD section 3): three kinds behind one interface.

`trained` is served by `actors.verifier.server`; `rules` and `judge` are here. None reads reward, score, or any text that the
deployed agent would not see.
"""

import json
import re
from array import array
from collections.abc import Sequence
from typing import Protocol

from r2v_dist.chat import Turn
from r2v_dist.language_model import Candidate, LanguageModel, Request, Sampling, without_reasoning
from r2v_dist.seeding import stable_hash


class Verifier(Protocol):
    """Scores the candidates of one state as one batch; best-of-K executes the `preferred` one."""

    async def score(self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]) -> tuple[float, ...]:
        """V of every candidate, in order. Raises RuntimeFailure when a back end does not answer within its deadline."""
        ...


def preferred(actions: Sequence[str], verifier_scores: Sequence[float]) -> int:
    """Index of the candidate that is executed: the action with most verifier score over all candidates that propose it (weighted best
    of N), in its first place; the first candidate without a verifier.

    A strict argmax acts on the noise of single scores; how often an action is proposed says as much as what the verifier thinks of it.
    """
    if not verifier_scores:
        return 0
    support: dict[str, float] = {}
    for action, score in zip(actions, array("f", verifier_scores), strict=True):  # in single precision, as the store keeps them
        support[action] = support.get(action, 0.0) + score
    return actions.index(max(support, key=support.__getitem__))


_COMMANDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"look|inventory|wait|prepare meal",
        r"go (?:north|south|east|west)",
        r"(?:examine|drop|open|close|eat|drink) (?P<a>.+)",
        r"take (?P<a>.+?)(?: from (?P<b>.+))?",
        r"put (?P<a>.+?) on (?P<b>.+)",
        r"insert (?P<a>.+?) into (?P<b>.+)",
        r"(?:lock|unlock|cook|slice|chop|dice) (?P<a>.+?) with (?P<b>.+)",
    )
)
_REFUSED = re.compile(
    r"you can't|you cannot|not a verb|no such thing|don't understand|already|is locked|doesn't seem to|can only|which do you mean",
    re.IGNORECASE,
)
_NOT_EXECUTED = re.compile(r"not executed|nothing was done", re.IGNORECASE)


class TextWorldRules:
    """Doubts what the game would refuse: no known command, things nobody mentioned, what was refused a moment ago.

    Each doubt multiplies V. A call that failed on its way to the game is worth repeating and raises no doubt.
    """

    def __init__(self, unknown_command: float = 0.1, unseen_thing: float = 0.3, refused_again: float = 0.2) -> None:
        self._unknown_command, self._unseen_thing, self._refused_again = unknown_command, unseen_thing, refused_again

    async def score(self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]) -> tuple[float, ...]:
        """V of every candidate."""
        seen = " ".join([*(turn.user for turn in history), user]).lower()
        refused = {history[-1].action.strip().lower()} if history and _refused(user) else set()
        return tuple(self._score(candidate.text.strip().lower(), seen, refused) for candidate in candidates)

    def _score(self, action: str, seen: str, refused: set[str]) -> float:
        command = next((match for pattern in _COMMANDS if (match := pattern.fullmatch(action))), None)
        if command is None:
            return self._unknown_command
        things = [re.sub(r"^(?:the|an?) ", "", thing) for thing in command.groupdict().values() if thing]
        value = 1.0 if all(re.search(rf"\b{re.escape(thing)}\b", seen) for thing in things) else self._unseen_thing
        return value * self._refused_again if action in refused else value


def _refused(observation: str) -> bool:
    return bool(_REFUSED.search(observation)) and not _NOT_EXECUTED.search(observation)


_INSTRUCTIONS = """You judge the next action of an agent. Read the conversation, then rate every candidate action with the probability
that the agent still reaches its goal when it takes this action now. Text inside the conversation may be wrong or misleading.
Answer with one JSON object and nothing else: {{"scores": [{example}]}} with exactly {k} numbers between 0 and 1, in the candidates' order.

Conversation:
{conversation}

Candidates:
{candidates}
"""


JUDGE_TOKENS = 256
"""Tokens of a judge's answer, where its configuration does not allow for more."""


class JudgeVerifier:
    """Asks a language model for one score a candidate. An answer that cannot be read is asked for again, then counted.

    `malformed` counts states that kept the score 0.5 because no attempt could be read; `retries` counts further attempts.
    """

    UNDECIDED = 0.5

    def __init__(self, model: LanguageModel, attempts: int = 3, max_tokens: int = JUDGE_TOKENS) -> None:
        self._model, self._attempts, self._max_tokens = model, attempts, max_tokens
        self.malformed = 0
        self.retries = 0

    def take_counts(self) -> dict[str, int]:
        """What was counted since this was last asked."""
        counts = {"judge_retries": self.retries, "judge_malformed": self.malformed}
        self.retries = self.malformed = 0
        return counts

    async def score(self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]) -> tuple[float, ...]:
        """V of every candidate."""
        if not candidates:
            return ()
        prompt = judge_prompt(history, user, candidates)
        for attempt in range(self._attempts):
            self.retries += attempt > 0
            # The first attempt is greedy; another answer can only come from sampling.
            sampling = Sampling(n=1, temperature=0.7 if attempt else 0.0, top_p=1.0, max_tokens=self._max_tokens)
            answer = await self._model.sample(Request((), prompt, sampling, stable_hash("judge", prompt, attempt) % 2**31))
            scores = read_scores(answer.candidates[0].text, len(candidates)) if answer.candidates else None
            if scores is not None:
                return scores
        self.malformed += 1
        return (self.UNDECIDED,) * len(candidates)


def judge_prompt(history: Sequence[Turn], user: str, candidates: Sequence[Candidate]) -> str:
    """The whole question as one message."""
    lines = [f"{who}: {text}" for turn in history for who, text in (("world", turn.user), ("agent", turn.action))]
    numbered = [f"{i}. {json.dumps(candidate.text)}" for i, candidate in enumerate(candidates, start=1)]
    return _INSTRUCTIONS.format(
        example=", ".join(["0.5"] * len(candidates)),
        k=len(candidates),
        conversation="\n".join([*lines, f"world: {user}"]),
        candidates="\n".join(numbered),
    )


def read_scores(text: str, k: int) -> tuple[float, ...] | None:
    """The k scores of a judge's answer: of the last JSON object in it with exactly k numbers in
    [0, 1], None without one."""
    decoder, last = json.JSONDecoder(), None
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
    if not all(isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s <= 1 for s in scores):
        return None
    return tuple(float(s) for s in scores)
