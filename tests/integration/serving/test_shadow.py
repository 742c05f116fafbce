"""`serve.shadow`: one side answers, the router is watched, and neither knows the other's state."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pyarrow.ipc as ipc
import pytest

from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.serving.log import read_log
from tests.gateway_rig import USER, Rig, ScriptedSlm, ScriptedVerifier, StubTeacher, rig
from tests.integration.serving.test_equality import MAX_STEPS, POLICY, proposals, taught
from tests.integration.serving.test_streams import BOUND_S, opened, until


def parts(**given: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "teacher": StubTeacher(text=taught),
        "slm": ScriptedSlm(propose=proposals),
        "verifier": ScriptedVerifier(),
        "policy": POLICY,
        "max_steps": MAX_STEPS,
        "prices": {"slm": 1.0, "teacher": 30.0},
    }
    return whole | given


async def post(r: Rig, **given: Any) -> httpx.Response:
    body = {"model": "r2v", "messages": USER} | given
    async with httpx.AsyncClient(base_url=r.url, timeout=20) as http:
        return await http.post("/v1/chat/completions", json=body)


async def conversation(r: Rig, seed: int) -> list[dict[str, Any]]:
    """The `r2v` objects of three steps."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Goal: climb\nrung 0 of {seed}"}]
    told = []
    for step in range(3):
        answer = (await post(r, messages=messages)).json()
        told.append(answer["r2v"])
        messages.append(answer["choices"][0]["message"])
        messages.append({"role": "user", "content": f"rung {step}"})
    return told


@pytest.mark.parametrize("side", ["slm", "teacher"])
def test_one_side_answers_and_the_router_is_told_of(tmp_path: Path, side: str) -> None:
    async def case() -> None:
        async with rig(**parts(), shadow=side, folder=tmp_path) as r:
            told = [one for seed in range(8) for one in await conversation(r, seed)]
            assert {one["route"] for one in told} == {side}
            assert {one["reason"] for one in told} == {"shadow"}
            assert {one["features"] for one in told} == {"exact"}
            assert all("shadow" in one["uncalibrated"] for one in told)
            would = [one["would"] for one in told]
            expected = ["teacher" if one["score"] >= one["threshold"] else "slm" for one in told]
            assert would == expected
            assert set(would) == {"slm", "teacher"}
            assert all(0 <= one["risk"] <= 1 for one in told)
            asked = len(r.teacher.seen)
            assert asked == (len(told) if side == "teacher" else 0)
            assert len(r.slm.requests) == len(told)
            async with httpx.AsyncClient(base_url=r.url, timeout=60) as http:
                status = (await http.get("/v1/status")).json()
                metrics = (await http.get("/metrics")).text
            share = would.count("teacher") / len(would)
            assert status["shadow"]["answers_by"] == side
            assert status["shadow"]["escalation_rate"] == pytest.approx(share)
            assert status["escalation_rate"] == (side == "teacher")
            assert status["shadow"]["cost"] > 0
            count = float(would.count("slm"))
            assert f'r2v_shadow_total{{route="{side}",would="slm"}} {count}' in metrics
            assert r.log is not None
            r.log.flush()
            rows = read_log(tmp_path).to_pylist()
            assert [row["would"] for row in rows] == would
            assert {row["actor"] for row in rows} == {side}
            assert all(row["candidate_texts"] for row in rows)

    asyncio.run(case())


def test_the_first_decision_is_that_of_a_gateway_that_follows_it() -> None:
    async def case() -> None:
        told = []
        for shadow in (None, "slm", "teacher"):
            async with rig(**parts(), shadow=shadow) as r:
                firsts = [(await conversation(r, seed))[0] for seed in range(4)]
                told.append([(one["would"] or one["route"], one["score"]) for one in firsts])
        assert told[0] == told[1] == told[2]

    asyncio.run(case())


def test_what_was_asked_for_by_name_is_not_shadowed() -> None:
    async def case() -> None:
        async with rig(**parts(), shadow="teacher") as r:
            forced = (await post(r, model="r2v-slm")).json()["r2v"]
            assert (forced["route"], forced["reason"], forced["would"]) == ("slm", "forced", None)
            both = await post(r)
            assert float(both.headers["x-r2v-overhead-ms"]) > 0  # two waits at a time are one
            dry = (await post(r, r2v={"dry_run": True})).json()["r2v"]
            assert (dry["route"], len(r.teacher.seen)) == ("slm", 1)

    asyncio.run(case())


class BrokenVerifier(ScriptedVerifier):
    async def score(self, history: Any, user: Any, candidates: Any) -> tuple[float, ...]:
        raise ValueError("not a number")


FAILING: list[dict[str, Any]] = [
    {"slm": ScriptedSlm(fail=RuntimeFailure("gone"))},
    {"slm": ScriptedSlm(fail=UsageError("slm.model = x: HTTP 404"))},
    {"slm": ScriptedSlm(fail=KeyError("choices"))},
    {"verifier": BrokenVerifier()},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failing", FAILING)
def test_an_slm_that_fails_fails_no_answer(failing: dict[str, Any], stream: bool) -> None:
    async def case() -> None:
        async with rig(**parts(**failing), shadow="teacher") as r:
            response = await post(r, stream=stream)
            assert response.status_code == 200
            assert response.headers["x-r2v-reason"] == "shadow"
            assert response.headers["x-r2v-would"] == "teacher"
            if not stream:
                assert response.json()["r2v"]["score"] is None

    asyncio.run(case())


@pytest.mark.parametrize("failing", FAILING)
def test_an_slm_that_fails_is_stood_in_for_where_the_router_decides(
    failing: dict[str, Any],
) -> None:
    async def case() -> None:
        async with rig(**parts(**failing)) as r:
            response = await post(r)
            assert response.status_code == 200
            assert response.headers["x-r2v-route"] == "teacher"
            assert response.headers["x-r2v-reason"] == "slm_unavailable"
        async with rig(**parts(**failing), shadow="slm") as r:
            alone = await post(r)
            assert (alone.status_code, alone.json()["error"]["code"]) == (503, "slm_unavailable")

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
def test_an_slm_that_answers_alone_and_has_no_action_is_no_mistake_of_the_caller(
    stream: bool,
) -> None:
    async def case() -> None:
        async with rig(**parts(slm=ScriptedSlm(texts=())), shadow="slm") as r:
            response = await post(r, stream=stream)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "no_action")

    asyncio.run(case())


@pytest.mark.parametrize("side", ["slm", "teacher"])
def test_rollouts_are_of_the_side_that_answered(tmp_path: Path, side: str) -> None:
    async def case() -> None:
        async with (
            rig(**parts(), shadow=side, folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            told = {"id": (await post(r)).json()["id"], "success": True}
            assert (await http.post("/v1/feedback", json=told)).status_code == 200
            answer = await http.get("/v1/log", params={"form": "rollouts"})
            [row] = ipc.open_stream(answer.content).read_all().to_pylist()
            assert (row["router"], row["threshold"]) == (f"{side}_only", None)
            assert row["actor"] == side

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
def test_a_teacher_that_is_down_is_stood_in_for_as_ever(stream: bool) -> None:
    async def case() -> None:
        async with rig(**parts(), model="status-500", shadow="teacher") as r:
            response = await post(r, stream=stream)
            assert response.headers["x-r2v-route"] == "slm"
            assert response.headers["x-r2v-reason"] == "teacher_unavailable"
            assert len(r.slm.requests) == 1
            assert len(r.teacher.seen) == 3

    asyncio.run(case())


def test_the_teacher_is_asked_while_the_slm_proposes_and_both_end_with_their_caller() -> None:
    async def case() -> None:
        teacher = StubTeacher(text=lambda body: "a b c d", between_s=0.05)
        async with rig(
            **parts(teacher=teacher, slm=ScriptedSlm(delay_s=20)), shadow="teacher"
        ) as r:
            _, writer = await opened(r, model="r2v", stream=True)
            await until(lambda: bool(r.teacher.seen and r.slm.requests))
            await asyncio.sleep(0.05)  # the teacher's answer has begun
            writer.transport.abort()
            left = r.teacher.seen[0]
            assert (
                await until(lambda: r.slm.cancelled == 1 and left.closed_at is not None) < BOUND_S
            )
            await until(lambda: r.app.under_way == 0)

    asyncio.run(case())
