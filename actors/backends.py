"""Language models as env runners use them. Every back end can play SLM or teacher; all look the same to the agent loop."""

import asyncio
import bisect
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from actors.batching import Arrivals, Batcher
from actors.endpoint import Choice, Endpoint, PromptFiltered
from actors.vllm_server import Arrived, EngineAnswer, EngineRequest
from r2v_dist.answer_text import action_of, whole
from r2v_dist.chat import ChatFormat
from r2v_dist.errors import DamagedFile, RuntimeFailure
from r2v_dist.files import read_json_object
from r2v_dist.language_model import Answer, Candidate, ContextLimitReached, LanguageModel, Request, TopTokens
from r2v_dist.model_config import ModelConfig

_ERROR = re.compile(r"error|failed|traceback", re.IGNORECASE)
EngineCall = Callable[[list[EngineRequest]], Awaitable[AsyncIterator[Arrived]]]
"""Sends a batch; the iterator then gives each answer once, as it comes."""


class ExpertModel:
    """The environment's own oracle: it reads hidden state, so it is reported as a privileged oracle."""

    async def sample(self, request: Request) -> Answer:
        """The oracle's action; no candidate where the task can no longer be solved."""
        assert request.oracle is not None
        action = whole(request.oracle() or "")
        return Answer((Candidate(action),) if action.strip() else (), "expert")


class SimulatedModel:
    """Labelled simulated wherever its numbers appear: the expert's action, but with a known probability a wrong one.

    The wrong action is the environment's own where it knows one, else `wait`. The probability depends on the state only through
    what `ModelConfig` names. With `signal_auroc` A, a score ~ N(sqrt(2) Phi^-1(A), 1) for proposals that fail and ~ N(0, 1) for
    right ones becomes a two-outcome first token whose entropy grows with it, so entropy has exactly that AUROC at every step.
    """

    def __init__(
        self,
        failure_rate: float,
        perturbed: float | None = None,
        after_error: float | None = None,
        signal_auroc: float | None = None,
    ) -> None:
        self._failure_rate, self._perturbed, self._after_error = failure_rate, perturbed, after_error
        self._shift = None if signal_auroc is None else math.sqrt(2) * NormalDist().inv_cdf(signal_auroc)

    async def sample(self, request: Request) -> Answer:
        """Candidates that are independent given the state; the seed decides which of them fail. The signal is the first one's."""
        assert request.oracle is not None
        best, rate = request.oracle(), self._rate(request)
        rng = random.Random(request.seed)
        failing = [best is None or rng.random() < rate for _ in range(request.sampling.n)]
        texts = [self._wrong(request, place) if fails else best for place, fails in enumerate(failing)]
        version = f"simulated-{self._failure_rate:g}"
        if self._shift is None:
            return Answer(tuple(Candidate(text or "wait") for text in texts), version)
        score = rng.gauss(self._shift if failing[0] else 0.0, 1.0)
        unlikely = 0.5 / (1.0 + math.exp(self._shift / 2 - score))
        first_top = TopTokens.of([(0, math.log1p(-unlikely)), (1, math.log(unlikely))])
        return Answer(tuple(Candidate(text or "wait", None, (first_top.logprobs[0],)) for text in texts), version, first_top=first_top)

    def _rate(self, request: Request) -> float:
        rates = [self._failure_rate]
        if request.perturbed and self._perturbed is not None:
            rates.append(self._perturbed)
        if self._after_error is not None and _ERROR.search(request.user):
            rates.append(self._after_error)
        return max(rates)

    @staticmethod
    def _wrong(request: Request, place: int) -> str | None:
        return request.saboteur(request.seed + place) if request.saboteur else None


class VllmModel:
    """A vLLM server as seen from an env runner: tokenises here, and sends what has piled up in one
    call.

    `eos_ids` are those of the model's generation configuration, at which the engine stops by
    itself.
    """

    def __init__(
        self,
        call: EngineCall,
        tokenizer: Any,
        config: ModelConfig,
        role: str,
        eos_ids: Collection[int] = (),
    ) -> None:
        self._call, self._tokenizer, self._config = call, tokenizer, config
        self._chat = ChatFormat(tokenizer, role, config.system_prompt, config.chat_template_kwargs)
        self._stop = self._chat.stop_ids(eos_ids)
        self._batcher = Batcher(self._ask_engine, config.timeout_s, f"the model server of {config.model}")

    async def sample(self, request: Request) -> Answer:
        """K candidates. Raises RuntimeFailure when the server does not answer, ContextLimitReached when the prompt is too long."""
        sampling = request.sampling
        assert sampling.temperature is not None
        assert sampling.top_p is not None
        prompt = self._chat.prompt(request.history, request.user)
        if len(prompt) + sampling.max_tokens > self._config.max_model_len:
            raise ContextLimitReached(f"{len(prompt)} prompt tokens and {sampling.max_tokens} new ones exceed {self._config.max_model_len}")
        engine_request = EngineRequest(
            prompt, request.seed, sampling.n, sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.top, self._stop
        )
        version, answer = await self._batcher.ask(engine_request)
        return self._read(version, engine_request, answer)

    async def _ask_engine(self, requests: list[EngineRequest]) -> Arrivals[tuple[str, EngineAnswer]]:
        async for version, answers in await self._call(requests):
            yield [(place, (version, answer)) for place, answer in answers]

    def _read(self, version: str, request: EngineRequest, answer: EngineAnswer) -> Answer:
        candidates = []
        for ids, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
            candidate = self._candidate(ids, logprobs)
            if candidate is not None:
                candidates.append(candidate)
        generated = sum(map(len, answer.token_ids))
        return Answer(tuple(candidates), version, len(request.prompt_ids), answer.first_top, generated)

    def _candidate(self, ids: Sequence[int], logprobs: Sequence[float]) -> Candidate | None:
        """What was sampled up to the token that ended it; None where that is no action."""
        length = next((place for place, token in enumerate(ids) if token in self._stop), len(ids))
        kept, text = ids[:length], self._tokenizer.decode(ids[:length])
        action = action_of(text)
        if not action:
            return None
        if action == text.strip():
            return Candidate(action, tuple(kept), tuple(logprobs[: length + 1]))
        # Reasoning is no part of the action: its tokens enter neither the history nor what is
        # cloned.
        start = self._start_of(action, kept)
        exact = self._tokenizer.decode(kept[start:]).strip() == action
        return Candidate(action, tuple(kept[start:]) if exact else None, tuple(logprobs[start : length + 1]))

    def _start_of(self, action: str, ids: Sequence[int]) -> int:
        """The last place from which on the ids hold all of the action, with which they end."""

        def holds(place: int) -> bool:
            return whole(self._tokenizer.decode(ids[place:])).rstrip().endswith(action)

        return bisect.bisect_left(range(len(ids)), True, key=lambda place: not holds(place)) - 1


class OpenAIModel:
    """Any OpenAI-compatible chat endpoint. The key comes from the environment and is never logged or stored."""

    def __init__(self, config: ModelConfig, attempts: int = 5, backoff_s: float = 1.0, role: str = "teacher") -> None:
        self._config, self._attempts, self._backoff_s = config, attempts, backoff_s
        self._endpoint = Endpoint(config, role, attempts, backoff_s)

    async def sample(self, request: Request) -> Answer:
        """K candidates, less those that hold no action. An endpoint that gives fewer answers is
        asked for the others.

        Raises RuntimeFailure when the endpoint fails, ContextLimitReached when the conversation is
        too long for it.
        """
        wanted, choices = request.sampling.n, list[Choice]()
        prompt_tokens = generated = requests = barren = 0
        while len(choices) < wanted:
            try:
                reply = await self._endpoint.ask(self._body(request, wanted - len(choices), requests))
            except PromptFiltered:
                break
            usable = [choice for choice in reply.choices if choice.text.strip() or choice.finish_reason in _TELLING]
            choices += usable[: wanted - len(choices)]
            prompt_tokens = prompt_tokens or reply.prompt_tokens
            generated += reply.completion_tokens
            requests += 1
            if not usable:
                barren += 1
                if barren >= self._attempts:
                    reasons = ", ".join(sorted({repr(choice.finish_reason) for choice in reply.choices}))
                    raise RuntimeFailure(self._endpoint.told(f"HTTP 200 without text, finish_reason {reasons}"))
                await asyncio.sleep(self._backoff_s)
        actions = [action_of(choice.text) for choice in choices]
        candidates = tuple(Candidate(action) for action in actions if action)
        return Answer(candidates, self._config.model, prompt_tokens, generated=generated)

    def _body(self, request: Request, n: int, earlier: int) -> dict[str, Any]:
        """The request for `n` answers, after `earlier` requests that left some out."""
        messages = [{"role": "system", "content": self._config.system_prompt}] if self._config.system_prompt else []
        for turn in request.history:
            messages += [
                {"role": "user", "content": whole(turn.user)},
                {"role": "assistant", "content": whole(turn.action)},
            ]
        sampling, chosen = request.sampling, self._config.sampling
        settings = {
            # What the configuration leaves to the model, nobody sends: a judge sets its own
            # temperature otherwise.
            "temperature": None if chosen.temperature is None else sampling.temperature,
            "top_p": None if chosen.top_p is None else sampling.top_p,
            "seed": (request.seed + earlier) % 2**31 if chosen.send_seed else None,
            "chat_template_kwargs": self._config.chat_template_kwargs or None,
        }
        return {
            "model": self._config.model,
            "messages": [*messages, {"role": "user", "content": whole(request.user)}],
            "n": n,
            chosen.max_tokens_field: sampling.max_tokens,
            **{name: value for name, value in settings.items() if value is not None},
        }


_TELLING = ("length", "content_filter")
"""Reasons to end an answer that are the model's, though it holds no text."""


def build_model(config: ModelConfig, role: str, call: EngineCall | None, tokenizer_path: str) -> LanguageModel:
    """The back end that the configuration names. `call` reaches the vLLM server of this role, where there is one."""
    if config.backend == "expert":
        return ExpertModel()
    if config.backend == "simulated":
        return SimulatedModel(config.failure_rate, config.failure_rate_perturbed, config.failure_rate_after_error, config.signal_auroc)
    if config.backend == "openai":
        return OpenAIModel(config, role=role)
    from transformers import AutoTokenizer

    assert call is not None
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    return VllmModel(call, tokenizer, config, role, eos_ids_of(Path(tokenizer_path)))


def eos_ids_of(folder: Path) -> list[int]:
    """Every token at which a model of this Hugging Face directory stops by its own
    configuration. Raises DamagedFile for one that cannot be read."""
    ids: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            try:
                settings = read_json_object(folder / name)
            except DamagedFile as error:
                raise DamagedFile(error.path, error.problem, "take the model from where it came again") from None
            eos = settings.get("eos_token_id")
            ids += eos if isinstance(eos, list) else [eos]
    return [token for token in dict.fromkeys(ids) if isinstance(token, int)]
