"""The trained verifier as an env runner sees it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from actors.batching import Arrivals, Batcher, all_at_once
from r2v_dist.chat import ChatFormat, Turn
from r2v_dist.language_model import Candidate

ScorerCall = Callable[[list[tuple[list[int], list[list[int]]]]], Awaitable[list[tuple[float, ...]]]]
"""(prompt, answers) of each state to V of its answers."""


class ScorerHandle:
    """Calls a verifier actor from inside another actor. Picklable, unlike a bound method."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def __call__(
        self, states: list[tuple[list[int], list[list[int]]]]
    ) -> list[tuple[float, ...]]:
        answer: list[tuple[float, ...]] = await self._actor.score.remote(states)
        return answer


class TrainedVerifier:
    """The trained verifier as seen from an env runner. `candidates` are the SLM's: their token ids
    are used as sampled.
    """

    def __init__(
        self,
        call: ScorerCall,
        tokenizer: Any,
        system_prompt: str,
        timeout_s: float,
        template_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._chat = ChatFormat(tokenizer, "slm", system_prompt, template_settings)
        self._end = self._chat.end_of_turn()

        def ask(questions: list[tuple[list[int], list[list[int]]]]) -> Arrivals[tuple[float, ...]]:
            return all_at_once(call(questions))

        self._batcher = Batcher(ask, timeout_s, "the verifier")

    async def score(
        self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate. Raises RuntimeFailure when the actor does not answer."""
        if not candidates:
            return ()
        answers = [
            tuple(self._chat.action_ids(Turn(user, c.text, "slm", c.token_ids)) + self._end)
            for c in candidates
        ]
        distinct = list(dict.fromkeys(answers))  # candidates often agree
        scores = await self._batcher.ask(
            (self._chat.prompt(history, user), [list(answer) for answer in distinct])
        )
        by_answer = dict(zip(distinct, scores, strict=True))
        return tuple(by_answer[answer] for answer in answers)
