"""Sections F and G of the acceptance cases: a teacher or an SLM that fails, and what must never get
out.
"""

import asyncio
import contextlib
import json
import socket
import time
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import ContextLimitReached
from r2v_dist.serving.access import Access
from r2v_dist.serving.breaker import Breaker
from tests.gateway_rig import KEY, USER, Rig, ScriptedSlm, ScriptedVerifier, StubTeacher, rig


async def post(r: Rig, headers: dict[str, str] | None = None, **given: Any) -> httpx.Response:
    body = {"model": "r2v@always", "messages": USER} | given
    async with httpx.AsyncClient(base_url=r.url, timeout=20) as http:
        return await http.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [("0.3", 0.3, 9.0), ("0", 0.0, 9.0), ("soon", 0.0, 9.0), ("-5", 0.0, 9.0), (None, 0.0, 9.0)],
)
def test_case_57_what_the_teacher_asks_to_wait_is_waited_once(
    value: str | None, least_s: float, most_s: float
) -> None:
    async def case() -> None:
        headers = {} if value is None else {"retry-after": value}
        async with rig(StubTeacher(plan=["status-429"], headers=headers)) as r:
            started = time.monotonic()
            response = await post(r)
            assert response.headers["x-r2v-route"] == "teacher"
            assert least_s <= time.monotonic() - started < most_s
            assert len(r.teacher.seen) == 2

    asyncio.run(case())


@pytest.mark.parametrize(
    "value", ["99999", formatdate(time.time() + 90_000, usegmt=True)], ids=["seconds", "date"]
)
def test_case_57_too_long_a_wait_is_passed_on_as_it_came(value: str) -> None:
    async def case() -> None:
        teacher = StubTeacher(headers={"retry-after": value})
        async with rig(teacher, model="status-429", when_teacher_fails="refuse") as r:
            response = await post(r)
            assert response.status_code == 429
            assert response.headers["retry-after"] == value
            assert len(r.teacher.seen) == 1

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_cases_53_59_failures_are_retried_twice_and_then_the_slm_acts(
    status: int, stream: bool
) -> None:
    async def case() -> None:
        async with rig(model=f"status-{status}", verifier=ScriptedVerifier()) as r:
            response = await post(r, stream=stream)
            assert response.status_code == 200
            assert response.headers["x-r2v-route"] == "slm"
            assert response.headers["x-r2v-reason"] == "teacher_unavailable"
            assert response.headers["x-r2v-calibrated"] == "false, teacher_unavailable"
            assert len(r.teacher.seen) == 3
            assert len(r.slm.requests) == 1

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_case_59_refusals_are_passed_on_without_a_retry(status: int, stream: bool) -> None:
    async def case() -> None:
        async with rig(model=f"status-{status}") as r:
            response = await post(r, stream=stream)
            assert response.status_code == status
            error = response.json()["error"]
            assert error["code"] == "no"
            assert KEY not in response.text
            assert len(r.teacher.seen) == 1

    asyncio.run(case())


@pytest.mark.parametrize(
    ("model", "limits", "kind"),
    [
        ("silent", {"first_byte_s": 0.2}, "first_byte"),
        ("silent", {"total_s": 0.2}, "first_byte"),
    ],
)
def test_case_60_silence_ends_in_time_and_is_not_asked_again(
    model: str, limits: dict[str, float], kind: str
) -> None:
    async def case() -> None:
        async with rig(model=model, upstream=limits, when_teacher_fails="refuse") as r:
            started = time.monotonic()
            response = await post(r)
            assert time.monotonic() - started < 15
            assert (response.status_code, response.json()["error"]["code"]) == (504, kind)
            assert len(r.teacher.seen) == 1

    asyncio.run(case())


def test_case_60_an_address_that_nobody_answers() -> None:
    async def case() -> None:
        with socket.socket() as deaf, contextlib.ExitStack() as callers:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(4):  # they fill the queue; who comes later is not even refused
                caller = callers.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(deaf.getsockname())
            address = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
            limits = {"connect_s": 0.2, "retries": 0}
            async with rig(base_url=address, upstream=limits, when_teacher_fails="refuse") as r:
                started = time.monotonic()
                response = await post(r)
                assert time.monotonic() - started < 15
                assert (response.status_code, response.json()["error"]["code"]) == (504, "connect")

    asyncio.run(case())


def test_cases_61_65_a_teacher_that_is_down_costs_nothing_once_that_is_known() -> None:
    async def case() -> None:
        limits = {"breaker_failures": 3, "retries": 2}
        async with rig(base_url="http://127.0.0.1:9/v1", upstream=limits) as r:
            assert (await post(r)).headers["x-r2v-reason"] == "teacher_unavailable"
            assert r.upstream.breaker.state == "open"
            sent = r.upstream.requests
            for _ in range(5):
                response = await post(r)
                assert response.status_code == 200
                assert response.headers["x-r2v-route"] == "slm"
            assert r.upstream.requests == sent
            refused = await post(r, r2v={"fallback": False})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1

    asyncio.run(case())


def test_case_63_refusals_leave_the_breaker_closed() -> None:
    async def case() -> None:
        async with rig(model="status-400", upstream={"breaker_failures": 2}) as r:
            for _ in range(20):
                assert (await post(r)).status_code == 400
            assert r.upstream.breaker.state == "closed"

    asyncio.run(case())


def test_case_64_one_request_tries_after_the_rest() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    for _ in range(2):
        assert breaker.enter()
        breaker.failed()
    assert not breaker.enter()
    now[0] = 11.0
    assert [breaker.enter() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert not breaker.enter()
    now[0] = 22.0
    assert breaker.enter()
    breaker.gave_up()  # its caller went away
    assert breaker.enter()
    breaker.succeeded()
    assert all(breaker.enter() for _ in range(3))


@pytest.mark.parametrize("fail", [RuntimeFailure("the engine is gone"), None])
def test_case_62_an_slm_that_fails_or_hangs_is_stood_in_for(fail: Exception | None) -> None:
    async def case() -> None:
        slm = ScriptedSlm(fail=fail, delay_s=0.0 if fail else 30.0)
        async with rig(slm=slm, slm_deadline_s=0.2) as r:
            response = await post(r, model="r2v")
            assert response.headers["x-r2v-route"] == "teacher"
            assert response.headers["x-r2v-reason"] == "slm_unavailable"
            forced = await post(r, model="r2v-slm")
            assert (forced.status_code, forced.json()["error"]["code"]) == (503, "slm_unavailable")
            r.slm.fail, r.slm.delay_s = None, 0.0
            assert (await post(r, model="r2v")).headers["x-r2v-route"] == "slm"

    asyncio.run(case())


def test_case_62_a_verifier_that_hangs_is_bounded() -> None:
    async def case() -> None:
        async with rig(verifier=ScriptedVerifier(delay_s=30), slm_deadline_s=0.2) as r:
            response = await post(r, model="r2v")
            assert response.headers["x-r2v-reason"] == "slm_unavailable"

    asyncio.run(case())


def test_case_62_both_down_is_a_503() -> None:
    async def case() -> None:
        slm = ScriptedSlm(fail=RuntimeFailure("gone"))
        async with rig(slm=slm, model="status-500") as r:
            assert (await post(r)).status_code == 503

    asyncio.run(case())


def test_case_66_a_conversation_too_long_for_the_slm_goes_to_the_teacher() -> None:
    async def case() -> None:
        slm = ScriptedSlm(fail=ContextLimitReached("too long"))
        async with rig(slm=slm) as r:
            response = await post(r, model="r2v")
            assert response.headers["x-r2v-reason"] == "context"
            assert response.headers["x-r2v-route"] == "teacher"
            forced = await post(r, model="r2v-slm")
            assert forced.status_code == 400
            assert forced.json()["error"]["code"] == "context_length_exceeded"
        async with rig(slm=slm, max_teacher_calls=0) as r:
            assert (await post(r, model="r2v")).status_code == 503

    asyncio.run(case())


def test_cases_70_73_no_secret_goes_out_or_comes_back() -> None:
    async def case() -> None:
        async with rig() as r:
            secret = "canary-of-the-caller"
            told = dict.fromkeys(
                ("authorization", "cookie", "x-api-key", "x-goog-api-key", "openai-organization"),
                f"Bearer {secret}",
            )
            told |= {"x-forwarded-for": "1.2.3.4", "x-r2v-session": secret}
            response = await post(r, headers=told)
            sent = r.teacher.seen[0]
            assert secret not in json.dumps([sent.headers, sent.body])
            assert sent.headers["Authorization"] == f"Bearer {KEY}"
            assert not {"x-forwarded-for", "x-r2v-session", "cookie"} & {
                name.lower() for name in sent.headers
            }
            assert "r2v" not in sent.body
            assert "set-cookie" not in response.headers
            assert "server" not in response.headers
            assert response.headers["x-request-id"] == "up-1"

    asyncio.run(case())


def test_case_72_keys() -> None:
    async def case() -> None:
        access = Access(keys=("key-one",), admins=("key-admin",))
        async with rig(access=access, max_teacher_calls=5) as r:
            assert (await post(r)).status_code == 401
            assert (await post(r, {"authorization": "Bearer nope"})).status_code == 401
            one = {"authorization": "Bearer key-one"}
            admin = {"authorization": "Bearer key-admin"}
            assert (await post(r, one)).status_code == 200
            async with httpx.AsyncClient(base_url=r.url, timeout=60) as http:
                assert (await http.get("/v1/models")).status_code == 401
                assert (await http.get("/health")).status_code == 200
            # Case 51: what a caller without the right may not do.
            for wanted in ({"route": "teacher"}, {"max_teacher_calls": 6}, {"threshold": 0.1}):
                assert (await post(r, one, model="r2v", r2v=wanted)).status_code == 403
                assert (await post(r, admin, model="r2v", r2v=wanted)).status_code == 200
            assert (await post(r, one, model="r2v-teacher")).status_code == 403

    asyncio.run(case())


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"host": "evil.example:8080"}]
)
def test_case_77_a_page_from_elsewhere_may_not_ask(headers: dict[str, str]) -> None:
    async def case() -> None:
        async with rig() as r:
            assert (await post(r, headers)).status_code == 403
            local = {"origin": "http://localhost:3000"}
            assert (await post(r, local)).status_code == 200

    asyncio.run(case())
