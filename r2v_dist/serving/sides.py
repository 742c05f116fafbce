"""The two sides of a gateway: who may act, and how each is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from r2v_dist.config.models import ModelConfig
from r2v_dist.language_model import Answer, LanguageModel, Request, Sampling
from r2v_dist.seeding import stable_hash
from r2v_dist.serving.conversation import Conversation, client_system
from r2v_dist.serving.upstream import Upstream
from r2v_dist.serving.upstream_reply import Reply
from r2v_dist.serving.wire import ChatRequest
from r2v_dist.verifier.base import Verifier

_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
_REASONING = ("reasoning", "reasoning_content", "reasoning_details", "thinking")
_OWN_KEYS = ("r2v", "stream_options", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Slm:
    """The SLM and its verifier, sampled as the router was trained with."""

    model: LanguageModel
    sampling: Sampling
    version: str
    verifier: Verifier | None = None
    system_prompt: str = ""

    def request(self, chat: ChatRequest, conversation: Conversation) -> Request:
        """What the SLM is asked. A shorter answer than in training is sampled shorter."""
        sampling = self.sampling
        if chat.max_tokens is not None and chat.max_tokens < sampling.max_tokens:
            sampling = replace(sampling, max_tokens=chat.max_tokens)
        seed = seed_of(chat, conversation, "slm")
        return Request(conversation.history, conversation.heard, sampling, seed)


class Teacher(Protocol):
    """The teacher's side. `version` is what its answers are stored under."""

    @property
    def version(self) -> str: ...

    async def ask(
        self, chat: ChatRequest, conversation: Conversation, stream: bool
    ) -> Answer | Reply:
        """An answer whole, or a reply that has begun. Raises TeacherDown, TeacherRefused,
        RuntimeFailure, ContextLimitReached."""
        ...


@dataclass(frozen=True)
class EngineTeacher:
    """A model of this run's own engines."""

    model: LanguageModel
    sampling: Sampling
    version: str

    async def ask(
        self, chat: ChatRequest, conversation: Conversation, stream: bool
    ) -> Answer | Reply:
        """The caller's sampling counts where there is one."""
        body = chat.body
        sampling = replace(
            self.sampling,
            n=chat.n,
            temperature=_or(body.get("temperature"), self.sampling.temperature),
            top_p=_or(body.get("top_p"), self.sampling.top_p),
            max_tokens=_or(chat.max_tokens, self.sampling.max_tokens),
        )
        seed = seed_of(chat, conversation, "teacher")
        request = Request(conversation.history, conversation.heard, sampling, seed)
        return await self.model.sample(request)


@dataclass(frozen=True)
class EndpointTeacher:
    """Any OpenAI-compatible endpoint. What the caller sends goes there, less what is ours."""

    upstream: Upstream
    config: ModelConfig
    version: str

    async def ask(
        self, chat: ChatRequest, conversation: Conversation, stream: bool
    ) -> Answer | Reply:
        """The reply, begun."""
        return await self.upstream.ask(self.body(chat, conversation), stream)

    def body(self, chat: ChatRequest, conversation: Conversation) -> dict[str, Any]:
        """The request to the endpoint. What the caller leaves open is as in the run."""
        config = self.config
        sampling = config.sampling
        body = {name: value for name, value in chat.body.items() if name not in _OWN_KEYS}
        body["model"] = config.model
        body["messages"] = self._messages(chat, conversation)
        if sampling.temperature is not None:
            body.setdefault("temperature", sampling.temperature)
        if sampling.top_p is not None:
            body.setdefault("top_p", sampling.top_p)
        if sampling.send_seed:
            body["seed"] = seed_of(chat, conversation, "teacher")
        if config.chat_template_kwargs:
            body.setdefault("chat_template_kwargs", config.chat_template_kwargs)
        body[sampling.max_tokens_field] = _or(chat.max_tokens, sampling.max_tokens)
        return body

    def _messages(self, chat: ChatRequest, conversation: Conversation) -> list[dict[str, Any]]:
        answers = iter(conversation.known)
        messages = []
        for message in chat.messages:
            keys: tuple[str, ...] = _MESSAGE_KEYS
            if message["role"] == "assistant":
                answer = next(answers)
                if answer is not None and answer.actor == "teacher":
                    keys = (*keys, *_REASONING)  # its own, which some want back
            messages.append({name: message[name] for name in keys if name in message})
        if self.config.system_prompt and client_system(chat.messages) is None:
            messages.insert(0, {"role": "system", "content": self.config.system_prompt})
        return messages


def seed_of(chat: ChatRequest, conversation: Conversation, role: str) -> int:
    """The sampling seed of a role: the caller's own for it, else a function of the caller's seed
    or of the conversation so far."""
    seeds: Mapping[str, int] = chat.controls.seeds or {}
    if role in seeds:
        return seeds[role]
    origin = conversation.key.hex() if chat.seed is None else chat.seed
    return stable_hash(origin, role) % 2**31


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
