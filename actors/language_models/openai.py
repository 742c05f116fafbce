"""Any OpenAI-compatible chat endpoint as a language model. Its key is never logged or stored."""

import asyncio
import json
from typing import Any

from actors.language_models.endpoint import Endpoint, PromptFiltered
from actors.language_models.reply import Choice
from r2v_dist.chat import Turn
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Candidate, Request, action_of, whole
from r2v_dist.messages import Heard, Messages, ToolCall, action_text, messages_of

_TELLING = ("length", "content_filter")
"""Reasons to end an answer that are the model's, though it holds no text."""


class OpenAIModel:
    """Any OpenAI-compatible chat endpoint. The key comes from the environment and is never logged
    or stored.
    """

    def __init__(
        self, config: ModelConfig, attempts: int = 5, backoff_s: float = 1.0, role: str = "teacher"
    ) -> None:
        self._config = config
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._endpoint = Endpoint(config, role, attempts, backoff_s)

    async def sample(self, request: Request) -> Answer:
        """K candidates, less those that hold no action. An endpoint that gives fewer answers is
        asked for the others.

        Raises RuntimeFailure when the endpoint fails, ContextLimitReached when the conversation is
        too long for it.
        """
        n = request.sampling.n
        choices = list[Choice]()
        prompt_tokens = generated = requests = barren = 0
        while len(choices) < n:
            try:
                reply = await self._endpoint.ask(self._body(request, n - len(choices), requests))
            except PromptFiltered:
                break
            usable = [
                choice
                for choice in reply.choices
                if choice.text.strip() or choice.calls or choice.finish_reason in _TELLING
            ]
            choices += usable[: n - len(choices)]
            prompt_tokens = prompt_tokens or reply.prompt_tokens
            generated += reply.completion_tokens
            requests += 1
            if not usable:
                barren += 1
                if barren >= self._attempts:
                    reasons = ", ".join(
                        sorted({repr(choice.finish_reason) for choice in reply.choices})
                    )
                    raise RuntimeFailure(
                        self._endpoint.described(f"HTTP 200 without text, finish_reason {reasons}")
                    )
                await asyncio.sleep(self._backoff_s)
        candidates = tuple(
            candidate for choice in choices if (candidate := _candidate(choice)).text
        )
        return Answer(candidates, self._config.model, prompt_tokens, generated=generated)

    def _body(self, request: Request, n: int, past_requests: int) -> dict[str, Any]:
        """The request for `n` answers, after `past_requests` requests that left some out."""
        messages = (
            [{"role": "system", "content": self._config.system_prompt}]
            if self._config.system_prompt
            else []
        )
        inputs = [*(turn.user for turn in request.history), request.user]
        if any(message.role == "system" for message in messages_of(inputs[0])):
            messages = []  # that of the conversation stands in its place
        for turn in request.history:
            messages += [*_heard(turn.user), _said(turn)]
        tools = inputs[0].tools if isinstance(inputs[0], Messages) else ()
        sampling = request.sampling
        sampling_config = self._config.sampling
        settings = {
            # What the configuration leaves to the model, nobody sends: a judge sets its own
            # temperature otherwise.
            "temperature": None if sampling_config.temperature is None else sampling.temperature,
            "top_p": None if sampling_config.top_p is None else sampling.top_p,
            "seed": (request.seed + past_requests) % 2**31 if sampling_config.send_seed else None,
            "chat_template_kwargs": self._config.chat_template_kwargs or None,
        }
        return {
            "model": self._config.model,
            "messages": [*messages, *_heard(request.user)],
            **({"tools": [json.loads(tool) for tool in tools]} if tools else {}),
            "n": n,
            sampling_config.max_tokens_field: sampling.max_tokens,
            **{name: value for name, value in settings.items() if value is not None},
        }


def _candidate(choice: Choice) -> Candidate:
    """What a choice proposes; its text is empty where that is no action."""
    content = action_of(choice.text)
    if not choice.calls:
        return Candidate(content)
    text = whole(action_text(content, choice.calls))
    return Candidate(text, calls=choice.calls, content=content)


def _heard(user: Heard) -> list[dict[str, Any]]:
    """Messages to the model, as an endpoint takes them."""
    messages: list[dict[str, Any]] = []
    for message in messages_of(user):
        entry: dict[str, Any] = {"role": message.role, "content": whole(message.content)}
        if message.call is not None:
            entry["tool_call_id"] = message.call.id
        messages.append(entry)
    return messages


def _said(turn: Turn) -> dict[str, Any]:
    """An earlier answer, as an endpoint takes it."""
    if not turn.calls:
        return {"role": "assistant", "content": whole(turn.action)}
    calls = [_call(call) for call in turn.calls]
    return {"role": "assistant", "content": whole(turn.content) or None, "tool_calls": calls}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": whole(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}
