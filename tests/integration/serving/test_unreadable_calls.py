"""Calls of tools whose arguments are an object instead of a text, or that are no calls at all: from
a caller a 400, from a teacher an answer that a client can read or a failure that was declared."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.gateway_rig import USER, Rig, ScriptedSlm, StubTeacher, rig

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def call(function: object) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": function}


async def post(r: Rig, **given: Any) -> httpx.Response:
    body = {"model": "r2v-teacher", "messages": USER, "tools": [TOOL]} | given
    async with httpx.AsyncClient(base_url=r.url, timeout=20) as http:
        return await http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("model", ["r2v-slm", "r2v-teacher", "r2v"])
@pytest.mark.parametrize(
    "function", [{"name": "look", "arguments": {}}, {"name": "look"}, {"arguments": "{}"}, "look"]
)
def test_a_caller_that_sends_no_readable_call_gets_a_400(model: str, function: object) -> None:
    async def case() -> None:
        async with rig() as r:
            said = {"role": "assistant", "content": None, "tool_calls": [call(function)]}
            result = {"role": "tool", "tool_call_id": "c1", "content": "a door"}
            response = await post(r, model=model, messages=[*USER, said, result])
            assert response.status_code == 400
            assert "messages[1].tool_calls[0]" in response.json()["error"]["message"]
            assert not r.teacher.seen

    asyncio.run(case())


@pytest.mark.parametrize("arguments", [{}, {"at": "door"}, None])
def test_a_teacher_whose_arguments_are_an_object_is_understood(arguments: object) -> None:
    async def case() -> None:
        teacher = StubTeacher(calls=[call({"name": "look", "arguments": arguments})])
        async with rig(teacher) as r:
            response = await post(r)
            assert response.status_code == 200
            message = response.json()["choices"][0]["message"]
            told = message["tool_calls"][0]["function"]["arguments"]
            assert json.loads(told) == (arguments or {})
            result = {"role": "tool", "tool_call_id": "c1", "content": "a door"}
            following = await post(r, messages=[*USER, message, result])
            assert following.headers["x-r2v-features"] == "exact"

    asyncio.run(case())


@pytest.mark.parametrize("function", [None, "look", {"arguments": "{}"}])
def test_a_teacher_that_calls_nothing_readable_is_stood_in_for(function: object) -> None:
    async def case() -> None:
        async with rig(StubTeacher(calls=[call(function)])) as r:
            response = await post(r, model="r2v@always")
            assert response.status_code == 200
            assert response.headers["x-r2v-route"] == "slm"
            assert response.headers["x-r2v-reason"] == "teacher_unavailable"
            assert len(r.teacher.seen) == 1  # it has answered, and is not asked again
            refused = await post(r, r2v={"fallback": False})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "broken"

    asyncio.run(case())


@pytest.mark.parametrize("function", ["look", {"name": "look", "arguments": {"at": "door"}}])
def test_a_stream_with_an_unreadable_call_ends_with_an_error(function: object) -> None:
    async def case() -> None:
        async with rig(StubTeacher(calls=[call(function)])) as r:
            response = await post(r, stream=True)
            events = response.text.strip().split("\n\n")
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "broken"
            assert "[DONE]" not in response.text

    asyncio.run(case())


def test_an_slm_that_must_answer_and_calls_nothing_is_no_fault_of_the_caller() -> None:
    async def case() -> None:
        async with rig() as r:
            response = await post(r, model="r2v-slm", tool_choice="required")
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "unparsable"

    asyncio.run(case())


def test_an_slm_that_proposes_nothing_is_not_told_of_tools_that_nobody_gave() -> None:
    async def case() -> None:
        async with rig(slm=ScriptedSlm(propose=lambda _: ())) as r:
            response = await post(r, model="r2v-slm", tools=None)
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "no_action"

    asyncio.run(case())
