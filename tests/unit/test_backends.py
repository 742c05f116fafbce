"""The OpenAI-compatible back end against a real HTTP server with injected faults; keys stay out of everything."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from actors.backends import OpenAIModel, SimulatedModel
from r2v_dist.chat import Turn
from r2v_dist.config import ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Request, Sampling

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
