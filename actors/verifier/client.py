"""The trained verifier as an env runner sees it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from actors.batching import Arrivals, all_at_once
from actors.routing import Router, ServerLost
from r2v_dist.chat import ChatFormat, Turn, prefix_group
from r2v_dist.language_model import Candidate
from r2v_dist.messages import Heard

State = tuple[list[int], list[list[int]]]
"""A prompt and the answers to it."""
ScorerCall = Callable[[list[State]], Awaitable[list[tuple[float, ...]]]]
"""States to V of their answers. Raises ServerLost where the scorer's process is gone."""


class ScorerHandle:
    """Calls a verifier actor from inside another actor. Picklable, unlike a bound method."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def __call__(self, states: list[State]) -> list[tuple[float, ...]]:
        from ray.exceptions import RayActorError

        from actors.ray_errors import died, first_cause

        try:
            answer: list[tuple[float, ...]] = await self._actor.score.remote(states)
        except RayActorError as error:
            if died(error):
                raise ServerLost(first_cause(error)) from None
            raise
        return answer


class TrainedVerifier:
    """The trained verifier as seen from an env runner. `candidates` are the SLM's: their token ids
    are used as sampled. `wait_s` is the longest wait while no scorer is there, in seconds.
    """

    def __init__(
        self,
        calls: Sequence[ScorerCall],
        tokenizer: Any,
        system_prompt: str,
        wait_s: float,
        template_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._chat = ChatFormat(tokenizer, "slm", system_prompt, template_settings)
        self._end = self._chat.end_of_turn()

        self._router = Router([_asker(call) for call in calls], "the verifier", wait_s)

    async def score(
        self, history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate. Raises RuntimeFailure when the actor does not answer."""
        if not candidates:
            return ()
        answers = [
            tuple(
                self._chat.action_ids(Turn(user, c.text, "slm", c.token_ids, c.calls, c.content))
                + self._end
            )
            for c in candidates
        ]
        distinct = list(dict.fromkeys(answers))  # candidates often agree
        state = (self._chat.prompt(history, user), [list(answer) for answer in distinct])
        scores = await self._router.ask(prefix_group(history, user), state)
        by_answer = dict(zip(distinct, scores, strict=True))
        return tuple(by_answer[answer] for answer in answers)


def _asker(call: ScorerCall) -> Callable[[list[State]], Arrivals[tuple[float, ...]]]:
    return lambda states: all_at_once(call(states))
