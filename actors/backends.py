"""Language models as env runners use them. Every back end can play SLM or teacher; all look the same to the agent loop."""

import asyncio
import math
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import NormalDist
from typing import Any

import httpx

from actors.batching import Arrivals, Batcher
from actors.vllm_server import Arrived, EngineAnswer, EngineRequest
from r2v_dist.chat import ChatFormat
from r2v_dist.errors import RuntimeFailure
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
        action = request.oracle()
        return Answer((Candidate(action),) if action is not None else (), "expert")


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
    """A vLLM server as seen from an env runner: tokenises here, and sends what has piled up in one call."""

    def __init__(self, call: EngineCall, tokenizer: Any, config: ModelConfig, role: str) -> None:
        self._call, self._tokenizer, self._config = call, tokenizer, config
        self._chat = ChatFormat(tokenizer, role, config.system_prompt)
        self._stop = self._chat.end_of_turn()
        self._batcher = Batcher(self._ask_engine, config.timeout_s, f"the model server of {config.model}")

    async def sample(self, request: Request) -> Answer:
        """K candidates. Raises RuntimeFailure when the server does not answer, ContextLimitReached when the prompt is too long."""
        sampling = request.sampling
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
            kept = ids[:-1] if ids and ids[-1] in self._stop else ids
            candidates.append(Candidate(self._tokenizer.decode(kept).strip(), tuple(kept), tuple(logprobs)))
        return Answer(tuple(candidates), version, len(request.prompt_ids), answer.first_top)


class OpenAIModel:
    """Any OpenAI-compatible chat endpoint. The key comes from the environment and is never logged or stored."""

    def __init__(self, config: ModelConfig, attempts: int = 4, backoff_s: float = 1.0) -> None:
        self._config, self._attempts, self._backoff_s = config, attempts, backoff_s
        key = os.environ.get(config.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=config.base_url, headers=headers, timeout=config.timeout_s)

    async def sample(self, request: Request) -> Answer:
        """K candidates. Retries what may pass (connection, 429, 5xx) with backoff, then raises RuntimeFailure."""
        messages = [{"role": "system", "content": self._config.system_prompt}] if self._config.system_prompt else []
        for turn in request.history:
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.action}]
        sampling = request.sampling
        body = {
            "model": self._config.model,
            "messages": [*messages, {"role": "user", "content": request.user}],
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
        }
        payload = await self._post(body)
        usage = payload.get("usage") or {}
        candidates = tuple(Candidate((choice["message"]["content"] or "").strip()) for choice in payload["choices"])
        return Answer(candidates, self._config.model, int(usage.get("prompt_tokens", 0)))

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        problem = ""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(self._backoff_s * 2 ** (attempt - 1))
            try:
                response = await self._http.post("chat/completions", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                payload: dict[str, Any] = response.json()
                return payload
            problem = f"HTTP {response.status_code}: {response.text[:200]}"
            if response.status_code != 429 and response.status_code < 500:
                break
        raise RuntimeFailure(f"teacher endpoint {self._config.base_url}: {problem}")


def build_model(config: ModelConfig, role: str, call: EngineCall | None, tokenizer_path: str) -> LanguageModel:
    """The back end that the configuration names. `call` reaches the vLLM server of this role, where there is one."""
    if config.backend == "expert":
        return ExpertModel()
    if config.backend == "simulated":
        return SimulatedModel(config.failure_rate, config.failure_rate_perturbed, config.failure_rate_after_error, config.signal_auroc)
    if config.backend == "openai":
        return OpenAIModel(config)
    from transformers import AutoTokenizer

    assert call is not None
    return VllmModel(call, AutoTokenizer.from_pretrained(tokenizer_path), config, role)
