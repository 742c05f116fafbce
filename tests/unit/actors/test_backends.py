"""The OpenAI-compatible back end against a real HTTP server with injected faults; keys stay out of
everything.
"""

import asyncio
import bisect
import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from actors.language_models.openai import OpenAIModel
from actors.language_models.simulated import SimulatedModel
from r2v_dist.chat import Turn
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.language_model import Answer, ContextLimitReached, Request, Sampling
from r2v_dist.router.baselines import entropy_of

KEY = "sk-not-for-logs"


class Endpoint(ThreadingHTTPServer):
    """Answers with `up`; the first requests get a fault instead: a status, or a status, a body
    and headers."""

    daemon_threads = True
    faults: list[Any]
    seen: list[tuple[dict[str, Any], str]]
    moments: list[float]

    def answer(self, body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        if not self.faults:
            return 200, json.dumps(reply([" up\n"] * body["n"])).encode(), {}
        fault = self.faults.pop(0)
        status, said, headers = (fault, {"error": "no"}, {}) if isinstance(fault, int) else fault
        return status, said if isinstance(said, bytes) else json.dumps(said).encode(), headers


def reply(contents: list[Any], reason: str = "stop", **usage: Any) -> dict[str, Any]:
    messages = [{"role": "assistant", "content": content} for content in contents]
    choices = [{"message": message, "finish_reason": reason} for message in messages]
    return {"choices": choices, "usage": usage or {"prompt_tokens": 7, "completion_tokens": 3}}


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((body, self.headers.get("authorization", "")))
        self.server.moments.append(time.monotonic())
        status, payload, headers = self.server.answer(body)
        self.send_response(status)
        for name, value in {"content-length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(kind: type[Endpoint]) -> Iterator[Endpoint]:
    """An endpoint of this kind, while the block runs."""
    server = kind(("127.0.0.1", 0), Handler)
    server.faults, server.seen, server.moments = [], [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint) as server:
        yield server


def config(port: int, **settings: Any) -> ModelConfig:
    address = f"http://127.0.0.1:{port}/v1"
    named = {
        "backend": "openai",
        "model": "big",
        "base_url": address,
        "api_key_env": "R2V_TEST_KEY",
    }
    return ModelConfig.model_validate({**named, "system_prompt": "Be brief.", **settings})


REQUEST = Request(
    (Turn("rung 0", "up", "slm", (1, 2)),), "rung 1", Sampling(n=2, temperature=0.3), seed=11
)


def test_the_conversation_arrives_and_the_key_is_sent_but_not_kept(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2V_TEST_KEY", KEY)
    model = OpenAIModel(config(endpoint.server_port))
    answer = asyncio.run(model.sample(REQUEST))
    [(body, authorization)] = endpoint.seen
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in body["messages"]][1:] == ["rung 0", "up", "rung 1"]
    assert (body["n"], body["seed"], body["temperature"], body["model"]) == (2, 11, 0.3, "big")
    assert authorization == f"Bearer {KEY}"
    assert [c.text for c in answer.candidates] == ["up", "up"]
    assert (answer.version, answer.prompt_tokens, answer.sampled_tokens) == ("big", 7, 3)
    assert KEY not in repr(answer) + config(1).model_dump_json()


def test_what_may_pass_is_retried(endpoint: Endpoint) -> None:
    endpoint.faults = [503, 429]
    answer = asyncio.run(OpenAIModel(config(endpoint.server_port), backoff_s=0.01).sample(REQUEST))
    assert len(answer.candidates) == 2
    assert len(endpoint.seen) == 3


def ask(endpoint: Endpoint, request: Request | None = None, **settings: Any) -> Answer:
    model = OpenAIModel(config(endpoint.server_port, **settings), attempts=3, backoff_s=0.01)
    return asyncio.run(model.sample(request or REQUEST))


def test_what_a_user_must_mend_is_said_at_once_with_the_fix(endpoint: Endpoint) -> None:
    for fault, fix in (
        (401, "R2V_TEST_KEY"),
        (404, "teacher.model"),
        (
            (400, {"error": {"message": "Unsupported parameter: 'seed'"}}, {}),
            "teacher.sampling.send_seed to false",
        ),
        (
            (400, {"error": {"message": "Use 'max_completion_tokens'"}}, {}),
            "teacher.sampling.max_tokens_field",
        ),
    ):
        endpoint.faults = [fault]
        with pytest.raises(
            UsageError, match=rf"127\.0\.0\.1:{endpoint.server_port}.*HTTP 4.*{fix}"
        ) as caught:
            ask(endpoint)
        assert "\n" not in str(caught.value)
    assert len(endpoint.seen) == 4


def test_an_address_where_nobody_is_is_a_failure_with_the_address() -> None:
    with pytest.raises(RuntimeFailure, match=r"127\.0\.0\.1:9/v1.*ConnectError"):
        asyncio.run(OpenAIModel(config(9), backoff_s=0.01).sample(REQUEST))


@pytest.mark.parametrize(
    ("body", "quoted"),
    [
        (
            {"error": {"message": "Provider returned error", "code": 502}},
            "Provider returned error; 502",
        ),
        (b"<html>\n<body>Please log in</body></html>", "<html> <body>Please log in"),
        ({"id": "x", "choices": None}, '"choices": null'),
        ({"id": "x", "choices": []}, '"choices": \\[\\]'),
        ({"choices": [None]}, "no message: null"),
        ([reply(["up"])], '^.*HTTP 200 without an answer: \\[{"choices"'),
        (reply([None, None]), "without text, finish_reason 'stop'"),
        (reply(["", ""], "tool_calls"), "without text, finish_reason 'tool_calls'"),
    ],
)
def test_a_reply_that_is_no_answer_is_asked_for_again_and_then_quoted(
    endpoint: Endpoint, body: Any, quoted: str
) -> None:
    endpoint.faults = [(200, body, {})]
    assert [c.text for c in ask(endpoint).candidates] == ["up", "up"]
    endpoint.faults = [(200, body, {})] * 3
    with pytest.raises(RuntimeFailure, match=quoted) as caught:
        ask(endpoint)
    assert f"127.0.0.1:{endpoint.server_port}/v1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(endpoint.seen) == 5


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (
            reply([[{"type": "text", "text": "go "}, {"type": "text", "text": "up"}], "up"]),
            ["go up", "up"],
        ),
        (reply(["up", "up"], prompt_tokens=None, completion_tokens=None), ["up", "up"]),
        (
            b'{"choices": [{"message": {"content": "caf\xe9"}}, {"message": {"content": '
            b'"\\ud83d"}}]}',
            ["caf�", "�"],
        ),
        (reply(["<think>Up?</think>\nup", "<think>Up or"]), ["up"]),
        (reply([None, None], "length"), []),
        (reply(["up", "up", "down"]), ["up", "up"]),
    ],
)
def test_a_usable_answer_is_used(endpoint: Endpoint, body: Any, texts: list[str]) -> None:
    endpoint.faults = [(200, body, {})]
    assert [c.text for c in ask(endpoint).candidates] == texts
    assert len(endpoint.seen) == 1


def test_an_endpoint_that_gives_fewer_answers_is_asked_for_the_others(endpoint: Endpoint) -> None:
    endpoint.faults = [(200, reply(["up"]), {})]
    answer = ask(endpoint)
    assert [c.text for c in answer.candidates] == ["up", "up"]
    assert [(body["n"], body["seed"]) for body, _ in endpoint.seen] == [(2, 11), (1, 12)]
    assert answer.sampled_tokens == 6


def test_a_refused_prompt_ends_the_episode_and_not_the_run(endpoint: Endpoint) -> None:
    endpoint.faults = [
        (400, {"error": {"message": "maximum context length is 64 tokens", "code": "x"}}, {})
    ]
    with pytest.raises(ContextLimitReached, match="64 tokens"):
        ask(endpoint)
    endpoint.faults = [(400, {"error": {"message": "filtered", "code": "content_filter"}}, {})]
    assert ask(endpoint).candidates == ()


def test_an_endpoint_that_asks_for_silence_gets_it_from_everybody(endpoint: Endpoint) -> None:
    endpoint.faults = [(429, {"error": "slow down"}, {"retry-after": "1"})]
    model = OpenAIModel(config(endpoint.server_port), attempts=1, backoff_s=0.01)

    async def four() -> list[Answer]:
        first = asyncio.ensure_future(model.sample(REQUEST))
        while not endpoint.moments or endpoint.faults:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        other = OpenAIModel(config(endpoint.server_port), attempts=1, backoff_s=0.01)
        return await asyncio.gather(first, *(other.sample(REQUEST) for _ in range(3)))

    assert all(len(answer.candidates) == 2 for answer in asyncio.run(four()))
    refused, *others = endpoint.moments
    assert len(others) == 4
    assert min(others) - refused >= 1.0


@pytest.mark.parametrize(
    "asked",
    [
        "Wed, 21 Oct 2035 07:28:00 +99999999999999",
        "Wed, 21 Oct 2035 07:28:99999999999999999999 GMT",
        "soon",
        "-5",
    ],
)
def test_a_silence_that_nobody_can_read_is_none(endpoint: Endpoint, asked: str) -> None:
    endpoint.faults = [(503, {"error": "closed"}, {"retry-after": asked})]
    model = OpenAIModel(config(endpoint.server_port), backoff_s=0.01)
    assert len(asyncio.run(model.sample(REQUEST)).candidates) == 2
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize("count", [10**400, 1e300, 2**31, -1, True, "7", None])
def test_a_count_of_tokens_that_cannot_be_is_none(endpoint: Endpoint, count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count}
    endpoint.faults = [(200, reply(["up", "up"], **usage), {})]
    answer = ask(endpoint)
    assert (answer.prompt_tokens, answer.sampled_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "foo://user:secret@x"),
        ("HTTP_PROXY", "http://user:secret@127.0.0.1:x"),
        ("NO_PROXY", "[::1"),
        ("SSL_CERT_FILE", "/nowhere/secret.pem"),
    ],
)
def test_an_environment_with_which_no_client_can_be_made_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        UsageError, match=rf"^teacher\.base_url = http://127\.0\.0\.1:1/v1: no client.*{variable}"
    ) as caught:
        OpenAIModel(config(1))
    assert "secret" not in str(caught.value)


def test_a_failure_behind_a_proxy_names_the_way_round_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    with pytest.raises(RuntimeFailure, match=r"NO_PROXY=127\.0\.0\.1 leaves it out") as failure:
        asyncio.run(OpenAIModel(config(9), attempts=1).sample(REQUEST))
    assert "secret" not in str(failure.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(RuntimeFailure) as failure:
        asyncio.run(OpenAIModel(config(9), attempts=1).sample(REQUEST))
    assert "NO_PROXY" not in str(failure.value)


def test_a_silence_longer_than_the_deadline_is_a_failure_at_once(endpoint: Endpoint) -> None:
    endpoint.faults = [(503, {"error": "closed"}, {"retry-after": "3600"})]
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match=r"HTTP 503: closed.*teacher\.retry_s = 300"):
            ask(endpoint)
    assert time.monotonic() - started < 5
    assert len(endpoint.seen) == 1


@pytest.mark.parametrize("echoed", [KEY, KEY[:9] + "****", f"b'Bearer {KEY}'", KEY[:5]])
def test_a_key_that_the_endpoint_echoes_is_not_told(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, echoed: str
) -> None:
    monkeypatch.setenv("R2V_TEST_KEY", f" {KEY}\n")
    endpoint.faults = [(401, {"error": {"message": f"Incorrect API key: {echoed}"}}, {})]
    with pytest.raises(UsageError, match="Incorrect API key") as caught:
        ask(endpoint)
    assert endpoint.seen[0][1] == f"Bearer {KEY}"
    assert KEY[:5] not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-a b", "sk-a\nb", "sk-“a”"])
def test_a_key_that_no_header_can_carry_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("R2V_TEST_KEY", key)
    with pytest.raises(UsageError, match="R2V_TEST_KEY") as caught:
        OpenAIModel(config(9))
    assert key not in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_a_reasoning_model_is_asked_in_its_own_terms(endpoint: Endpoint) -> None:
    sampling = {
        "temperature": None,
        "top_p": None,
        "send_seed": False,
        "max_tokens_field": "max_completion_tokens",
    }
    settings = {"enable_thinking": False}
    ask(endpoint, sampling=sampling, chat_template_kwargs=settings)
    [(body, _)] = endpoint.seen
    assert not {"temperature", "top_p", "seed", "max_tokens"} & set(body)
    assert (body["max_completion_tokens"], body["chat_template_kwargs"]) == (24, settings)


def test_the_simulated_policy_fails_at_its_rate_and_is_named_simulated() -> None:
    model = SimulatedModel(0.3)

    async def ask() -> list[str]:
        answers = [
            await model.sample(Request((), "x", Sampling(), seed, lambda: "up"))
            for seed in range(4000)
        ]
        assert {a.version for a in answers} == {"simulated-0.3"}
        return [a.candidates[0].text for a in answers]

    texts = asyncio.run(ask())
    assert texts.count("wait") / len(texts) == pytest.approx(0.3, abs=0.025)
    assert set(texts) == {"wait", "up"}


def test_the_simulated_policy_errs_in_the_environments_words_at_rates_of_the_context() -> None:
    model = SimulatedModel(0.1, perturbed=0.5, after_error=0.8)

    async def rate(user: str, perturbed: bool) -> float:
        asked = [
            Request((), user, Sampling(), seed, lambda: "up", lambda s: f"down {s}", perturbed)
            for seed in range(3000)
        ]
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
            assert math.fsum(
                math.exp(logprob) for logprob in answer.first_top.logprobs
            ) == pytest.approx(1.0)
            entropy = entropy_of(answer.first_top.logprobs)
            (right if answer.candidates[0].text == "up" else failing).append(entropy)
        return failing, right

    failing, right = asyncio.run(ask())
    ordered = sorted(right)
    above = sum(bisect.bisect_left(ordered, entropy) for entropy in failing) / (
        len(failing) * len(right)
    )
    assert above == pytest.approx(auroc, abs=0.03)  # three standard errors at 1200 and 2800 draws
