"""A vLLM server as seen from an env runner: token ids in, token ids out."""

import bisect
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from itertools import count
from typing import Any, Protocol

from actors.batching import Arrivals
from actors.routing import Router
from actors.vllm.engine import Arrived, EngineAnswer, EngineRequest, RequestFailed
from r2v_dist.chat import ChatFormat, prefix_group
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import (
    Answer,
    Candidate,
    ContextLimitReached,
    Request,
    action_of,
    whole,
)
from r2v_dist.messages import Messages

Reply = tuple[str, EngineAnswer | RequestFailed]
"""The engine's version and what it made of a request."""


class EngineCall(Protocol):
    """Reaches one engine."""

    def __call__(self, requests: list[EngineRequest], /) -> AsyncIterator[Arrived]:
        """Send a batch; the iterator then gives each answer once, as it comes. Raises ServerLost
        where the engine is gone or not ready.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Have the engine stop its work on a request."""
        ...


class ToolParser(Protocol):
    """Finds the calls of tools in a candidate's text."""

    def read(self, candidate: Candidate, tools: tuple[str, ...], /) -> Candidate: ...


class VllmModel:
    """The engines of a model as seen from an env runner: tokenises here, and sends what has piled
    up for an engine in one call.

    `eos_ids` are those of the model's generation configuration, at which the engine stops by
    itself. `wait_s` is the longest wait while no engine is there, in seconds.
    """

    def __init__(
        self,
        calls: Sequence[EngineCall],
        tokenizer: Any,
        config: ModelConfig,
        role: str,
        eos_ids: Collection[int] = (),
        wait_s: float = 600.0,
        tool_parser: ToolParser | None = None,
    ) -> None:
        self._role = role
        self._tool_parser = tool_parser
        self._ids = (f"{uuid.uuid4().hex}-{number}" for number in count())
        self._tokenizer = tokenizer
        self._config = config
        self._chat = ChatFormat(tokenizer, role, config.system_prompt, config.chat_template_kwargs)
        self._stop = self._chat.stop_ids(eos_ids)
        self._router = Router(
            [_asker(call) for call in calls],
            f"the {role} engine of {config.model}",
            wait_s,
            lambda place, request: calls[place].cancel(request.id),
        )

    async def sample(self, request: Request) -> Answer:
        """K candidates. Raises RuntimeFailure when the server does not answer, ContextLimitReached
        when the prompt is too long.
        """
        sampling = request.sampling
        assert sampling.temperature is not None
        assert sampling.top_p is not None
        prompt = self._chat.prompt(request.history, request.user)
        if len(prompt) + sampling.max_tokens > self._config.max_model_len:
            raise ContextLimitReached(
                f"{len(prompt)} prompt tokens and {sampling.max_tokens} new ones exceed "
                f"{self._config.max_model_len}"
            )
        engine_request = EngineRequest(
            prompt,
            request.seed,
            sampling.n,
            sampling.temperature,
            sampling.top_p,
            sampling.max_tokens,
            sampling.top,
            self._stop,
            next(self._ids),
        )
        group = prefix_group(request.history, request.user)
        version, answer = await self._router.ask(group, engine_request)
        if isinstance(answer, RequestFailed):
            raise RuntimeFailure(f"the {self._role} engine: {answer.reason}")
        return self._read(version, engine_request, answer, _tools_of(request))

    def _read(
        self, version: str, request: EngineRequest, answer: EngineAnswer, tools: tuple[str, ...]
    ) -> Answer:
        candidates = []
        for ids, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
            candidate = self._candidate(ids, logprobs)
            if candidate is not None and tools and self._tool_parser is not None:
                candidate = self._tool_parser.read(candidate, tools)
            if candidate is not None:
                candidates.append(candidate)
        generated = sum(map(len, answer.token_ids))
        return Answer(
            tuple(candidates), version, len(request.prompt_ids), answer.first_top, generated
        )

    def _candidate(self, ids: Sequence[int], logprobs: Sequence[float]) -> Candidate | None:
        """What was sampled up to the token that ended it; None where that is no action."""
        length = next((place for place, token in enumerate(ids) if token in self._stop), len(ids))
        text_ids = ids[:length]
        text = self._tokenizer.decode(ids[:length])
        action = action_of(text)
        if not action:
            return None
        if action == text.strip():
            return Candidate(action, tuple(text_ids), tuple(logprobs[: length + 1]))
        # Reasoning is no part of the action: its tokens enter neither the history nor what is
        # cloned.
        start = self._start_of(action, text_ids)
        exact = self._tokenizer.decode(text_ids[start:]).strip() == action
        return Candidate(
            action, tuple(text_ids[start:]) if exact else None, tuple(logprobs[start : length + 1])
        )

    def _start_of(self, action: str, ids: Sequence[int]) -> int:
        """The last place from which on the ids hold all of the action, with which they end."""

        def holds(place: int) -> bool:
            return whole(self._tokenizer.decode(ids[place:])).rstrip().endswith(action)

        return bisect.bisect_left(range(len(ids)), True, key=lambda place: not holds(place)) - 1


def _tools_of(request: Request) -> tuple[str, ...]:
    """The tools of a conversation, which are told at its start."""
    opening = request.history[0].user if request.history else request.user
    return opening.tools if isinstance(opening, Messages) else ()


def _asker(call: EngineCall) -> Callable[[list[EngineRequest]], Arrivals[Reply]]:
    async def ask(requests: list[EngineRequest]) -> Arrivals[Reply]:
        async for version, answers in call(requests):
            yield [(place, (version, answer)) for place, answer in answers]

    return ask
