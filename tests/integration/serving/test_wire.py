"""Section A of the acceptance cases: what goes over the wire, through the official client and raw
requests, on both routes.
"""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from r2v_dist.language_model import Candidate
from tests.gateway_rig import USER, Rig, ScriptedSlm, ScriptedVerifier, rig

SIDES = ["r2v-slm", "r2v-teacher"]


def client(r: Rig, **given: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{r.url}/v1", api_key="client-key", max_retries=0, **given)


async def post(r: Rig, body: Any, **headers: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-type": "application/json"} | headers
    async with httpx.AsyncClient(base_url=r.url, timeout=20) as http:
        return await http.post("/v1/chat/completions", content=raw, headers=told)


def body(**given: Any) -> dict[str, Any]:
    return {"model": "r2v", "messages": USER} | given


async def events(r: Rig, **given: Any) -> list[dict[str, Any]]:
    """The events of a stream; the last must be [DONE]."""
    response = await post(r, body(stream=True, **given))
    assert response.status_code == 200, response.text
    blocks = [block for block in response.text.split("\n\n") if block]
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.mark.parametrize("model", SIDES)
@pytest.mark.parametrize("stream", [False, True])
def test_case_01_a_plain_answer(model: str, stream: bool) -> None:
    async def case() -> None:
        async with rig() as r:
            if stream:
                chunks = await events(r, model=model, max_tokens=24)
                text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
                reasons = [c["choices"][0]["finish_reason"] for c in chunks]
                assert [reason for reason in reasons if reason] == ["stop"]
                assert chunks[0]["r2v"]["route"] == model.removeprefix("r2v-")
                assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
            else:
                raw = await client(r).chat.completions.with_raw_response.create(
                    model=model, messages=USER, max_tokens=24
                )
                answer = raw.parse()
                text = answer.choices[0].message.content or ""
                usage = answer.usage
                assert usage is not None
                assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
                assert answer.object == "chat.completion"
                assert answer.choices[0].finish_reason == "stop"
                assert raw.headers["x-r2v-route"] == model.removeprefix("r2v-")
                assert float(raw.headers["x-r2v-overhead-ms"]) >= 0
            assert text == ("open door" if model == "r2v-slm" else "unlock the door")

    asyncio.run(case())


def test_case_01_the_synchronous_client() -> None:
    async def case() -> None:
        async with rig() as r:
            plain = OpenAI(base_url=f"{r.url}/v1", api_key="x", max_retries=0)
            answer = await asyncio.to_thread(
                plain.chat.completions.create, model="r2v", messages=USER
            )
            assert answer.choices[0].message.content == "open door"

    asyncio.run(case())


def test_case_02_an_unknown_model_is_a_404_and_the_list_is_what_is_accepted() -> None:
    async def case() -> None:
        async with rig() as r:
            with pytest.raises(openai.NotFoundError) as caught:
                await client(r).chat.completions.create(model="gpt-nope", messages=USER)
            assert caught.value.code == "model_not_found"
            names = [model.id async for model in await client(r).models.list()]
            assert names[:3] == ["r2v", "r2v-slm", "r2v-teacher"]
            assert "r2v@certified" not in names  # nothing is certified here
            for name in names:
                assert (await post(r, body(model=name))).status_code == 200
            with pytest.raises(openai.NotFoundError):
                await client(r).models.retrieve("x")

    asyncio.run(case())


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize("model", SIDES)
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
def test_case_03_an_assistant_may_say_nothing(model: str, content: dict[str, Any]) -> None:
    async def case() -> None:
        async with rig() as r:
            said = {"role": "assistant", "tool_calls": [CALL]} | content
            result = {"role": "tool", "tool_call_id": "call_1", "content": "a door"}
            response = await post(r, body(model=model, messages=[*USER, said, result]))
            assert response.status_code == 200, response.text
            if model == "r2v-teacher":
                assert r.teacher.seen[0].body["messages"][1] == said

    asyncio.run(case())


@pytest.mark.parametrize("model", SIDES)
def test_case_05_what_clients_send_beside_the_conversation(model: str) -> None:
    async def case() -> None:
        async with rig() as r:
            told = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
            messages = [{"role": "developer", "content": "be brief"}, *USER]
            accepted = body(model=model, messages=messages, stop=["x1", "x2"], **told)
            assert (await post(r, accepted | {"max_completion_tokens": 24})).status_code == 200
            wrong = await post(r, accepted | {"max_completion_tokens": 24, "max_tokens": 8})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "max_tokens")
            long = await post(r, body(model=model, stop=["a"] * 5))
            assert long.status_code == 400

    asyncio.run(case())


def test_case_06_unknown_keys_reach_the_teacher_and_are_told_at_the_slm() -> None:
    async def case() -> None:
        async with rig() as r:
            taught = await post(r, body(model="r2v-teacher", foo=1, logit_bias={"5": 1}))
            assert r.teacher.seen[0].body["foo"] == 1
            assert "x-r2v-ignored" not in taught.headers
            acted = await post(r, body(model="r2v-slm", foo=1, logit_bias={"5": 1}))
            assert acted.headers["x-r2v-ignored"] == "foo, logit_bias"
            forged = await post(r, {"a\r\nset-cookie: b": 1} | body(model="r2v-slm"))
            assert forged.headers["x-r2v-ignored"] == "a??set-cookie: b"
            assert "set-cookie" not in forged.headers
            typo = await post(r, body(r2v={"operating_pont": "always"}))
            assert typo.status_code == 400
            assert "did you mean operating_point" in typo.json()["error"]["message"]

    asyncio.run(case())


@pytest.mark.parametrize("model", SIDES)
def test_case_07_several_choices_are_of_one_side(model: str) -> None:
    async def case() -> None:
        texts = ("first thing", "second thing", "third thing")
        scores = {"second thing": 0.9, "first thing": 0.5, "third thing": 0.1}
        async with rig(slm=ScriptedSlm(texts), verifier=ScriptedVerifier(scores)) as r:
            answer = (await post(r, body(model=model, n=3))).json()
            assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
            said = [choice["message"]["content"] for choice in answer["choices"]]
            if model == "r2v-slm":
                assert said == ["second thing", "first thing", "third thing"]
                assert answer["usage"]["completion_tokens"] == sum(len(t) + 1 for t in texts)
                chunks = await events(r, model=model, n=3)
                ended = [c["choices"][0] for c in chunks if c["choices"][0]["finish_reason"]]
                assert [choice["index"] for choice in ended] == [0, 1, 2]
                many = await post(r, body(model=model, n=4))
                assert (many.status_code, many.json()["error"]["param"]) == (400, "n")

    asyncio.run(case())


def test_case_08_logprobs_are_the_engines_and_join_to_the_text() -> None:
    def padded(request: Any) -> tuple[Candidate, ...]:
        ids = tuple(b" open door ")
        values = tuple(-0.1 * place for place in range(len(ids) + 1))
        return (Candidate("open door", ids, values),)

    async def case() -> None:
        slm = ScriptedSlm(propose=padded)
        async with rig(slm=slm, decode=lambda ids: bytes(ids).decode()) as r:
            told = body(model="r2v-slm", logprobs=True, top_logprobs=2)
            choice = (await post(r, told)).json()["choices"][0]
            entries = choice["logprobs"]["content"]
            joined = bytes(byte for entry in entries for byte in entry["bytes"])
            assert joined.decode() == choice["message"]["content"] == "open door"
            assert [e["logprob"] for e in entries] == [-0.1 * place for place in range(11)]
            assert len(entries[0]["top_logprobs"]) == 2
            chunks = await events(r, model="r2v-slm", logprobs=True)
            assert [e["token"] for e in chunks[0]["choices"][0]["logprobs"]["content"]] == [
                e["token"] for e in entries
            ]
            wrong = await post(r, body(top_logprobs=2))
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "top_logprobs")

    asyncio.run(case())


@pytest.mark.parametrize("model", SIDES)
def test_case_09_usage_comes_where_it_was_asked_for(model: str) -> None:
    async def case() -> None:
        async with rig() as r:
            assert not any(chunk.get("usage") for chunk in await events(r, model=model))
            asked = await events(r, model=model, stream_options={"include_usage": True})
            with_usage = [chunk for chunk in asked if chunk.get("usage")]
            assert with_usage == [asked[-1]]
            assert asked[-1]["choices"] == []
            if model == "r2v-teacher":
                options = [seen.body["stream_options"] for seen in r.teacher.seen]
                assert options == [{"include_usage": True}] * 2

    asyncio.run(case())


def test_case_10_an_endpoint_that_counts_nothing_in_streams_is_asked_once() -> None:
    async def case() -> None:
        async with rig(model="no-usage-option") as r:
            for _ in range(2):
                chunks = await events(r, model="r2v-teacher")
                assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
            asked = ["stream_options" in seen.body for seen in r.teacher.seen]
            assert asked == [True, False, False]

    asyncio.run(case())


def test_case_11_every_dialect_of_events_becomes_one() -> None:
    async def case() -> None:
        async with rig(model="variants") as r:
            chunks = await events(r, model="r2v-teacher")
            text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
            assert text == "unlock the door"
            stream = await client(r).chat.completions.create(
                model="r2v-teacher", messages=USER, stream=True
            )
            assert len([chunk async for chunk in stream]) == len(chunks)

    asyncio.run(case())


def test_case_13_an_error_in_a_stream_is_an_error_at_the_client() -> None:
    async def case() -> None:
        async with rig(model="in-band") as r:
            stream = await client(r).chat.completions.create(
                model="r2v-teacher", messages=USER, stream=True
            )
            chunks = []
            with pytest.raises(openai.APIError):
                chunks += [chunk async for chunk in stream]
            assert all(chunk.choices[0].finish_reason is None for chunk in chunks)

    asyncio.run(case())


def test_a_teacher_that_cannot_stream_is_streamed_whole() -> None:
    async def case() -> None:
        async with rig(model="whole-only") as r:
            chunks = await events(r, model="r2v-teacher")
            assert chunks[0]["choices"][0]["delta"]["content"] == "unlock the door"

    asyncio.run(case())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "r2v", "messages": [NaN]}', 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"model": "r2v", "messages": [], "seed": 1e400}', 400),
        (b'{"model": 5, "messages": []}', 400),
    ],
)
def test_case_75_bodies_that_are_none(raw: bytes, status: int) -> None:
    async def case() -> None:
        async with rig() as r:
            response = await post(r, raw)
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    asyncio.run(case())


def test_case_75_sizes_and_kinds() -> None:
    async def case() -> None:
        async with rig(body_mib=9) as r:
            history = [
                {"role": ("user", "assistant")[place % 2], "content": "x" * 4000}
                for place in range(2001)
            ]
            assert (await post(r, body(messages=history, model="r2v-slm"))).status_code == 200
            too_long = json.dumps(body(user="x" * 10_000_000)).encode()
            assert (await post(r, too_long)).status_code == 413
            assert (await post(r, b"x=1", **{"content-type": "text/plain"})).status_code == 415
            assert (await post(r, b"x", **{"content-encoding": "gzip"})).status_code == 415

    asyncio.run(case())


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "a", "tool_calls": [1]}, "messages[0].tool_calls"),
        ({"role": "system", "content": "a", "tool_calls": 5}, "messages[0].tool_calls"),
        ({"role": "user", "content": "a", "tool_call_id": ["b"]}, "messages[0].tool_call_id"),
    ],
)
def test_case_75_calls_where_none_belong(message: dict[str, Any], param: str) -> None:
    async def case() -> None:
        async with rig() as r:
            response = await post(r, body(messages=[message, *USER]))
            assert response.status_code == 400, response.text
            assert response.json()["error"]["param"] == param

    asyncio.run(case())
