"""Sections C, D and E of the acceptance cases: tools, memory, and what callers control."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from r2v_dist.language_model import Candidate, Request
from r2v_dist.messages import Messages, ToolCall, action_text
from tests.gateway_rig import USER, Rig, ScriptedSlm, ScriptedVerifier, StubTeacher, rig

SCHEMA = {
    "type": "object",
    "$defs": {"Thing": {"type": "object", "properties": {"z": {"enum": ["a", "b"]}, "a": {}}}},
    "properties": {"thing": {"$ref": "#/$defs/Thing"}},
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": f"tool_{n}", "description": "d", "parameters": SCHEMA},
    }
    for n in range(200)
]


async def post(r: Rig, headers: dict[str, str] | None = None, **given: Any) -> httpx.Response:
    body = {"model": "r2v", "messages": USER} | given
    async with httpx.AsyncClient(base_url=r.url, timeout=60) as http:
        return await http.post("/v1/chat/completions", json=body, headers=headers)


def calling(*calls: tuple[str, str], content: str = "") -> Candidate:
    made = tuple(ToolCall(name, arguments) for name, arguments in calls)
    text = action_text(content, made)
    return Candidate(text, tuple(text.encode()), (-0.1, -0.2), made, content)


def slm_of(*candidates: Candidate) -> ScriptedSlm:
    return ScriptedSlm(propose=lambda request: candidates)


async def answered(response: httpx.Response, stream: bool) -> dict[str, Any]:
    """The message of an answer, put together by the fragments where it was streamed."""
    assert response.status_code == 200, response.text
    if not stream:
        choice = response.json()["choices"][0]
        return choice["message"] | {"finish_reason": choice["finish_reason"]}
    calls: dict[int, dict[str, Any]] = {}
    reasons = []
    for line in response.text.splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
            for part in choice["delta"].get("tool_calls") or ():
                if part["index"] not in calls:
                    assert part["id"]
                    assert part["type"] == "function"
                    assert part["function"]["name"]
                call = calls.setdefault(part["index"], {"function": {"arguments": ""}})
                call["id"] = part.get("id") or call["id"]
                call["function"]["name"] = part["function"].get("name") or call["function"]["name"]
                call["function"]["arguments"] += part["function"].get("arguments") or ""
    [reason] = reasons
    return {"tool_calls": [calls[n] for n in sorted(calls)], "finish_reason": reason}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("side", ["slm", "teacher"])
def test_cases_26_27_28_30_a_loop_of_tools(side: str, stream: bool) -> None:
    async def case() -> None:
        wanted = [("tool_3", '{"thing": {"z": "a"}}'), ("tool_4", "{}")]
        long_ids = ["t" * 450, "u" * 450]
        teacher = StubTeacher(
            calls=[
                {"id": i, "type": "function", "function": {"name": n, "arguments": a}}
                for i, (n, a) in zip(long_ids, wanted, strict=True)
            ]
        )
        async with rig(teacher, slm_of(calling(*wanted))) as r:
            told = {"model": f"r2v-{side}", "tools": TOOLS, "stream": stream}
            message = await answered(await post(r, **told), stream)
            assert message["finish_reason"] == "tool_calls"
            calls = message["tool_calls"]
            assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == wanted
            ids = [call["id"] for call in calls]
            if side == "slm":
                assert len(set(ids)) == 2
                assert all(len(i) <= 40 and i.replace("_", "").isalnum() for i in ids)
            said = {"role": "assistant", "content": None, "tool_calls": teacher.calls or []}
            said["tool_calls"] = [{"type": "function"} | call for call in calls]
            results = [{"role": "tool", "tool_call_id": i, "content": f"got {i[:1]}"} for i in ids]
            messages = [*USER, said, *results]
            for model in ("r2v-slm", "r2v-teacher"):
                following = await post(r, **(told | {"model": model, "messages": messages}))
                assert following.status_code == 200
                assert following.headers["x-r2v-features"] == "exact"
            sent = r.teacher.seen[-1].body
            assert json.dumps(sent["tools"]) == json.dumps(TOOLS)
            assert [m.get("tool_call_id") for m in sent["messages"][2:]] == ids
            asked = r.slm.requests[-1]
            opening = asked.history[0].user
            assert isinstance(opening, Messages)
            assert [json.loads(tool) for tool in opening.tools] == TOOLS
            assert asked.history[0].calls[0].name == "tool_3"

    asyncio.run(case())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tool_choice": "none"}, "words"),
        ({"tool_choice": "required"}, "tool_1"),
        ({"tool_choice": {"type": "function", "function": {"name": "tool_2"}}}, "tool_2"),
        ({"parallel_tool_calls": False}, "words"),
    ],
)
def test_case_29_choices_of_tools_are_kept_by_the_slm(given: dict[str, Any], expected: str) -> None:
    async def case() -> None:
        slm = slm_of(
            calling(("tool_1", "{}"), ("tool_2", "{}")) if "parallel_tool_calls" in given else
            calling(("tool_1", "{}")),
            Candidate("words", tuple(b"words"), (-0.1, -0.2)),
            calling(("tool_2", "{}")),
        )  # fmt: skip
        async with rig(slm=slm) as r:
            response = await post(r, model="r2v-slm", tools=TOOLS[:3], **given)
            message = response.json()["choices"][0]["message"]
            calls = message.get("tool_calls")
            assert (calls[0]["function"]["name"] if calls else message["content"]) == expected

    asyncio.run(case())


def test_case_29_a_choice_that_no_candidate_keeps_goes_to_the_teacher() -> None:
    async def case() -> None:
        async with rig(slm=slm_of(calling(("tool_1", "{}")))) as r:
            response = await post(r, tools=TOOLS[:3], tool_choice="none")
            assert response.headers["x-r2v-route"] == "teacher"
            assert response.headers["x-r2v-reason"] == "unparsable"
            wrong = {"type": "function", "function": {"name": "nope"}}
            assert (await post(r, tools=TOOLS[:3], tool_choice=wrong)).status_code == 400

    asyncio.run(case())


def test_case_32_malformed_calls_are_never_sent() -> None:
    async def case() -> None:
        broken = calling(("tool_1", '{"a": '))
        undeclared = calling(("delete_all", "{}"))
        valid = calling(("tool_1", '{"thing": {}}'))
        verifier = ScriptedVerifier({broken.text: 0.99, undeclared.text: 0.9, valid.text: 0.01})
        async with rig(slm=slm_of(broken, undeclared, valid), verifier=verifier) as r:
            response = await post(r, model="r2v@never", tools=TOOLS[:3])
            calls = response.json()["choices"][0]["message"]["tool_calls"]
            assert calls[0]["function"]["arguments"] == '{"thing": {}}'
            assert response.json()["r2v"]["slm"]["unparsable"] == 2
        async with rig(slm=slm_of(broken, undeclared), verifier=verifier) as r:
            response = await post(r, model="r2v@never", tools=TOOLS[:3])
            assert response.headers["x-r2v-route"] == "teacher"
            assert response.headers["x-r2v-reason"] == "unparsable"

    asyncio.run(case())


def test_cases_34_35_a_strict_teacher_gets_back_its_own_reasoning_only() -> None:
    async def case() -> None:
        async with rig() as r:
            first = (await post(r, model="r2v-teacher")).json()["choices"][0]["message"]
            own = first | {"reasoning_content": "hm", "r2v": {"route": "teacher"}, "odd": 1}
            mid = [*USER, own, {"role": "user", "content": "more"}]
            second = (await post(r, model="r2v-slm", messages=mid)).json()["choices"][0]["message"]
            foreign = second | {"reasoning_content": "not mine"}
            last = [*mid, foreign, {"role": "user", "content": "and"}]
            await post(r, model="r2v-teacher", messages=last)
            sent = r.teacher.seen[-1].body["messages"]
            assert sent[1]["reasoning_content"] == "hm"
            assert not {"r2v", "odd"} & set(sent[1])
            assert "reasoning_content" not in sent[3]

    asyncio.run(case())


def test_case_37_what_was_sampled_comes_back_as_it_was_sampled() -> None:
    def padded(request: Request) -> tuple[Candidate, ...]:
        return (Candidate("open door", tuple(b" open door "), (-0.1,) * 12),)

    async def case() -> None:
        async with rig(slm=ScriptedSlm(propose=padded)) as r:
            messages: list[dict[str, Any]] = list(USER)
            for step in range(30):
                model = "r2v-teacher" if step % 5 == 4 else "r2v-slm"
                response = await post(r, model=model, messages=messages)
                assert response.headers["x-r2v-features"] == "exact"
                messages.append(response.json()["choices"][0]["message"])
                messages.append({"role": "user", "content": f"step {step}"})
            history = r.slm.requests[-1].history
            ids = [turn.action_ids for turn in history if turn.actor == "slm"]
            assert set(ids) == {tuple(b" open door ")}
            assert {turn.action_ids for turn in history if turn.actor == "teacher"} == {None}

    asyncio.run(case())


def test_cases_39_40_52_budgets_of_a_session_hold_in_a_race() -> None:
    async def case() -> None:
        async with (
            rig(StubTeacher(delay_s=0.05), max_teacher_calls=5) as r,
            httpx.AsyncClient(base_url=r.url, timeout=30) as http,
        ):

            async def one(number: int, session: str) -> httpx.Response:
                first = {"role": "user", "content": f"Goal: g{number}\nroom"}
                body = {"model": "r2v@always", "messages": [first]}
                told = {"x-r2v-session": session}
                return await http.post("/v1/chat/completions", json=body, headers=told)

            responses = await asyncio.gather(*(one(n, "a") for n in range(64)))
            routes = [response.headers["x-r2v-route"] for response in responses]
            assert routes.count("teacher") == len(r.teacher.seen) == 5
            reasons = [response.headers["x-r2v-reason"] for response in responses]
            assert reasons.count("budget") == 59
            assert (await one(0, "b")).headers["x-r2v-route"] == "teacher"

    asyncio.run(case())


def test_case_52_a_call_that_failed_gives_its_unit_back_and_a_silent_one_does_not() -> None:
    async def case() -> None:
        told = {"x-r2v-session": "s"}
        limits = {"retries": 0, "first_byte_s": 0.2}
        plan = ["status-400", "status-500", "silent"]
        async with rig(StubTeacher(plan=plan), max_teacher_calls=2, upstream=limits) as r:
            reasons = []
            for number in range(5):
                first = [{"role": "user", "content": f"Goal: g{number}\nroom"}]
                response = await post(r, told, model="r2v@always", messages=first)
                reasons.append(response.headers.get("x-r2v-reason"))
            expected = [None, "teacher_unavailable", "teacher_unavailable", "router", "budget"]
            assert reasons == expected

    asyncio.run(case())


def test_case_52_without_a_session_the_budget_follows_the_path() -> None:
    async def case() -> None:
        async with rig(max_teacher_calls=1, max_teacher_calls_per_key=3) as r:
            for _ in range(2):  # the same prefix again is a fork of its own
                response = await post(r, model="r2v@always")
                assert response.headers["x-r2v-route"] == "teacher"
            said = response.json()["choices"][0]["message"]
            following = [*USER, said, {"role": "user", "content": "next"}]
            response = await post(r, model="r2v@always", messages=following)
            assert response.headers["x-r2v-reason"] == "budget"
            other = [{"role": "user", "content": "Goal: other\nroom"}]
            assert (await post(r, model="r2v@always", messages=other)).status_code == 200
            response = await post(r, model="r2v@always", messages=other)
            assert response.headers["x-r2v-reason"] == "budget"

    asyncio.run(case())


def test_case_43_regenerating_and_forking_keep_what_is_known() -> None:
    async def case() -> None:
        async with rig() as r:
            first = await post(r)
            again = await post(r)
            assert first.json()["choices"] == again.json()["choices"]
            said = first.json()["choices"][0]["message"]
            for text in ("left", "right"):
                fork = [*USER, said, {"role": "user", "content": text}]
                assert (await post(r, messages=fork)).headers["x-r2v-features"] == "exact"
            summary = [{"role": "user", "content": "Goal: g\nsummary"}, said]
            compacted = [*summary, {"role": "user", "content": "on"}]
            assert (await post(r, messages=compacted)).headers["x-r2v-features"] == "rebuilt"

    asyncio.run(case())


def test_case_46_equal_requests_are_sampled_with_equal_seeds() -> None:
    async def case() -> None:
        async with rig() as r:
            await asyncio.gather(*(post(r) for _ in range(3)))
            await post(r, seed=5)
            await post(r, seed=5, messages=[{"role": "user", "content": "other"}])
            seeds = [request.seed for request in r.slm.requests]
            assert len(set(seeds[:3])) == 1
            assert seeds[3] == seeds[4] != seeds[0]

    asyncio.run(case())


def test_case_49_a_dry_run_leaves_no_trace() -> None:
    async def case() -> None:
        async with rig(max_teacher_calls=1) as r:
            told = {"x-r2v-session": "s"}
            dry = await post(r, told, model="r2v@always", r2v={"dry_run": True})
            assert dry.headers["x-r2v-would"] == "teacher"
            assert dry.headers["x-r2v-route"] == "slm"
            assert float(dry.headers["x-r2v-score"]) > float(dry.headers["x-r2v-threshold"])
            assert dry.json()["choices"][0]["message"]["content"] == "open door"
            assert not r.teacher.seen
            assert len(r.gateway.state) == 0
            real = await post(r, told, model="r2v@always")
            assert real.headers["x-r2v-route"] == "teacher"

    asyncio.run(case())


def test_a_decision_alone() -> None:
    async def case() -> None:
        async with rig() as r, httpx.AsyncClient(base_url=r.url, timeout=60) as http:
            body = {"model": "r2v@always", "messages": USER}
            told = (await http.post("/v1/decision", json=body)).json()
            assert (told["object"], told["route"]) == ("r2v.decision", "teacher")
            body["model"] = "r2v@never"
            told = (await http.post("/v1/decision", json=body)).json()
            assert (told["route"], told["threshold"]) == ("slm", 1e9)
            assert not r.teacher.seen

    asyncio.run(case())


def test_case_51_controls_that_contradict_or_do_not_exist() -> None:
    async def case() -> None:
        async with rig() as r:
            unknown = await post(r, r2v={"operating_point": "best"})
            assert unknown.status_code == 400
            assert "selected, always, never" in unknown.json()["error"]["message"]
            uncertified = await post(r, model="r2v@certified")
            assert uncertified.status_code == 400
            assert "no feasible threshold" in uncertified.json()["error"]["message"]
            told = {"x-r2v-operating-point": "never"}
            assert (await post(r, told, r2v={"operating_point": "always"})).status_code == 400
            assert (await post(r, told)).headers["x-r2v-operating-point"] == "never"
            forced = await post(r, {"x-r2v-force": "teacher"})
            assert forced.headers["x-r2v-route"] == "teacher"

    asyncio.run(case())


def test_case_54_the_model_is_who_answered() -> None:
    async def case() -> None:
        async with rig() as r:
            assert (await post(r, model="r2v-slm")).json()["model"] == "r2v/slm:slm-1"
            assert (await post(r, model="r2v-teacher")).json()["model"] == "stub-teacher-1"

    asyncio.run(case())


def test_the_calibration_domain_is_told() -> None:
    async def case() -> None:
        async with rig() as r:
            short = await post(r, max_tokens=2)
            assert short.headers["x-r2v-calibrated"] == "false, sampling"
            system = [{"role": "system", "content": "be brief"}, *USER]
            assert (await post(r, messages=system)).headers["x-r2v-calibrated"] == "false, system"
            assert (await post(r, temperature=0.0)).headers["x-r2v-calibrated"] == "true"
            assert r.slm.requests[-1].sampling.temperature == 0.7
            taught = await post(r, model="r2v-teacher", temperature=0.0)
            assert taught.status_code == 200
            assert r.teacher.seen[-1].body["temperature"] == 0.0

    asyncio.run(case())


@pytest.mark.parametrize("texts", [(), ("open door",)])
def test_a_proposal_without_candidates_or_signals_is_decided(texts: tuple[str, ...]) -> None:
    async def case() -> None:
        slm = ScriptedSlm(propose=lambda request: tuple(Candidate(text) for text in texts))
        async with rig(slm=slm) as r:
            response = await post(r)
            assert response.status_code == 200
            assert response.headers["x-r2v-route"] == ("slm" if texts else "teacher")
            if not texts:
                assert response.headers["x-r2v-reason"] == "no_action"

    asyncio.run(case())
