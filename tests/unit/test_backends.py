"""The OpenAI-compatible back end against a real HTTP server with injected faults; keys stay out of everything."""

import asyncio
import bisect
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from actors.backends import OpenAIModel, SimulatedModel
from r2v_dist.chat import Turn
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Request, Sampling
from r2v_dist.model_config import ModelConfig
from r2v_dist.routers import entropy_of

KEY = "sk-not-for-logs"


class Endpoint(HTTPServer):
    """Answers with `up`; the first `faults` requests get the given status instead."""

    faults: list[int]
    seen: list[tuple[dict[str, Any], str]]


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((body, self.headers.get("authorization", "")))
        status = self.server.faults.pop(0) if self.server.faults else 200
        choices = [{"message": {"role": "assistant", "content": " up\n"}}] * body["n"]
        payload = json.dumps({"choices": choices, "usage": {"prompt_tokens": 7}} if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint(("127.0.0.1", 0), Handler)
    server.faults, server.seen = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def config(port: int) -> ModelConfig:
    return ModelConfig(
        backend="openai", model="big", base_url=f"http://127.0.0.1:{port}/v1", api_key_env="R2V_TEST_KEY", system_prompt="Be brief."
    )


REQUEST = Request((Turn("rung 0", "up", "slm", (1, 2)),), "rung 1", Sampling(n=2, temperature=0.3), seed=11)


def test_the_conversation_arrives_and_the_key_is_sent_but_not_kept(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2V_TEST_KEY", KEY)
    model = OpenAIModel(config(endpoint.server_port))
    answer = asyncio.run(model.sample(REQUEST))
    [(body, authorization)] = endpoint.seen
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in body["messages"]][1:] == ["rung 0", "up", "rung 1"]
    assert (body["n"], body["seed"], body["temperature"], body["model"]) == (2, 11, 0.3, "big")
    assert authorization == f"Bearer {KEY}"
    assert [c.text for c in answer.candidates] == ["up", "up"]
    assert (answer.version, answer.prompt_tokens) == ("big", 7)
    assert KEY not in repr(answer) + config(1).model_dump_json()


def test_what_may_pass_is_retried(endpoint: Endpoint) -> None:
    endpoint.faults = [503, 429]
    answer = asyncio.run(OpenAIModel(config(endpoint.server_port), backoff_s=0.01).sample(REQUEST))
    assert len(answer.candidates) == 2
    assert len(endpoint.seen) == 3


def test_what_will_not_pass_is_a_failure_with_the_address(endpoint: Endpoint) -> None:
    endpoint.faults = [401]
    with pytest.raises(RuntimeFailure, match=rf"127\.0\.0\.1:{endpoint.server_port}.*HTTP 401"):
        asyncio.run(OpenAIModel(config(endpoint.server_port), backoff_s=0.01).sample(REQUEST))
    assert len(endpoint.seen) == 1
    with pytest.raises(RuntimeFailure, match=r"127\.0\.0\.1:9/v1.*ConnectError"):
        asyncio.run(OpenAIModel(config(9), backoff_s=0.01).sample(REQUEST))


def test_the_simulated_policy_fails_at_its_rate_and_is_named_simulated() -> None:
    model = SimulatedModel(0.3)

    async def ask() -> list[str]:
        answers = [await model.sample(Request((), "x", Sampling(), seed, lambda: "up")) for seed in range(4000)]
        assert {a.version for a in answers} == {"simulated-0.3"}
        return [a.candidates[0].text for a in answers]

    texts = asyncio.run(ask())
    assert texts.count("wait") / len(texts) == pytest.approx(0.3, abs=0.025)
    assert set(texts) == {"wait", "up"}


def test_the_simulated_policy_errs_in_the_environments_own_words_at_rates_that_depend_on_the_context() -> None:
    model = SimulatedModel(0.1, perturbed=0.5, after_error=0.8)

    async def rate(user: str, perturbed: bool) -> float:
        asked = [Request((), user, Sampling(), seed, lambda: "up", lambda s: f"down {s}", perturbed) for seed in range(3000)]
        texts = [(await model.sample(request)).candidates[0].text for request in asked]
        assert all(text in ("up", f"down {seed}") for seed, text in enumerate(texts))
        return 1 - texts.count("up") / len(texts)

    assert asyncio.run(rate("rung 1", False)) == pytest.approx(0.1, abs=0.03)
    assert asyncio.run(rate("rung 1", True)) == pytest.approx(0.5, abs=0.03)
    assert asyncio.run(rate("Traceback: it FAILED", True)) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("auroc", [0.5, 0.6, 0.75, 0.9])
def test_the_simulated_entropy_has_the_auroc_that_was_asked_for(auroc: float) -> None:
    model = SimulatedModel(0.3, signal_auroc=auroc)

    async def ask() -> tuple[list[float], list[float]]:
        failing, right = list[float](), list[float]()
        for seed in range(4000):
            answer = await model.sample(Request((), "x", Sampling(), seed, lambda: "up"))
            assert math.fsum(math.exp(logprob) for logprob in answer.first_top.logprobs) == pytest.approx(1.0)
            entropy = entropy_of(answer.first_top.logprobs)
            (right if answer.candidates[0].text == "up" else failing).append(entropy)
        return failing, right

    failing, right = asyncio.run(ask())
    ordered = sorted(right)
    above = sum(bisect.bisect_left(ordered, entropy) for entropy in failing) / (len(failing) * len(right))
    assert above == pytest.approx(auroc, abs=0.03)  # three standard errors at 1200 and 2800 draws
