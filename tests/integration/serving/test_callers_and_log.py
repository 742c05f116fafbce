"""What a caller may read of the request log, what a judgement counts for, rows that do not fit, and
what no caller is told of another."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from r2v_dist.serving.access import Access
from r2v_dist.serving.log import read_log
from tests.gateway_rig import USER, ScriptedSlm, ScriptedVerifier, StubTeacher, rig, served_stub
from tests.integration.serving.test_equality import MAX_STEPS, POLICY, proposals

KEYS = ("key-one", "key-two", "key-admin")


def asked_by(r: Any, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=r.url, headers={"authorization": f"Bearer {key}"}, timeout=20)


async def logged(http: httpx.AsyncClient, form: str) -> pa.Table:
    answer = await http.get("/v1/log", params={"form": form})
    assert answer.status_code == 200
    return ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("form", ["rows", "rollouts"])
def test_a_key_reads_its_own_part_of_the_log_and_an_admin_all(tmp_path: Path, form: str) -> None:
    async def case() -> None:
        access = Access(keys=KEYS[:2], admins=KEYS[2:])
        async with rig(access=access, verifier=ScriptedVerifier(), folder=tmp_path) as r:
            for key in KEYS[:2]:
                async with asked_by(r, key) as http:
                    body = {"model": "r2v-slm", "messages": [{"role": "user", "content": key}]}
                    said = (await http.post("/v1/chat/completions", json=body)).json()
                    told = {"id": said["id"], "success": True}
                    assert (await http.post("/v1/feedback", json=told)).status_code == 200
            seen = []
            for key in KEYS:
                async with asked_by(r, key) as http:
                    seen.append((await logged(http, form))["observation"].to_pylist())
            texts = [[text for text in texts if text] for texts in seen]  # a judgement has none
            assert texts == [["key-one"], ["key-two"], ["key-one", "key-two"]]

    asyncio.run(case())


def test_an_answer_that_is_judged_twice_is_one_bet() -> None:
    async def case() -> None:
        parts: dict[str, Any] = {"policy": POLICY, "max_steps": MAX_STEPS}
        slm, verifier = ScriptedSlm(propose=proposals), ScriptedVerifier()
        async with (
            rig(slm=slm, verifier=verifier, **parts) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            body = {"model": "r2v", "messages": USER, "r2v": {"threshold": 1000}}
            said = (await http.post("/v1/chat/completions", json=body)).json()
            for success in (False, False, True):
                told = {"id": said["id"], "success": success}
                assert (await http.post("/v1/feedback", json=told)).status_code == 200
            status = (await http.get("/v1/status")).json()
            assert status["judged"] == 1
            assert status["calibration_gap"] == pytest.approx(1 - said["r2v"]["risk"])

    asyncio.run(case())


def test_a_row_that_does_not_fit_loses_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def case() -> None:
        async with (
            rig(verifier=ScriptedVerifier(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            assert r.log is not None
            for misfit in ({"t": 2**40}, {"comment": "\ud800"}, {"success": "no"}):
                r.log.append({"time": 1.0, "kind": "feedback", **misfit})
                body = {"model": "r2v-slm", "messages": USER}
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            r.log.flush()
            assert read_log(tmp_path)["kind"].to_pylist() == ["answer"] * 3
            assert r.log.path.name in capsys.readouterr().err

    asyncio.run(case())


def test_a_restart_takes_up_the_latest_answers_and_no_more_than_are_remembered(
    tmp_path: Path,
) -> None:
    async def ask(http: httpx.AsyncClient, messages: list[dict[str, Any]]) -> dict[str, Any]:
        body = {"model": "r2v-slm", "messages": messages}
        said: dict[str, Any] = (await http.post("/v1/chat/completions", json=body)).json()
        return said

    async def case() -> None:
        told = []
        for part in range(2):
            async with (
                rig(verifier=ScriptedVerifier(), folder=tmp_path) as r,
                httpx.AsyncClient(base_url=r.url, timeout=20) as http,
            ):
                for number in range(10):
                    asked = {"role": "user", "content": f"{part}, {number}"}
                    said = await ask(http, [asked])
                    told.append([asked, said["choices"][0]["message"], USER[0]])
                assert r.log is not None
                r.log.flush()
        async with (
            rig(verifier=ScriptedVerifier(), folder=tmp_path, state_entries=16) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            assert len(r.gateway.state) == 16
            kinds = [(await ask(http, told[at]))["r2v"]["features"] for at in (4, -1, 3, 0)]
            assert kinds == ["exact", "exact", "rebuilt", "rebuilt"]

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_nothing_fits_is_logged_as_refused(tmp_path: Path, stream: bool) -> None:
    async def case() -> None:
        async with (
            rig(verifier=ScriptedVerifier(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            body = {"model": "r2v-slm", "messages": USER, "n": 100, "stream": stream}
            refused = await http.post("/v1/chat/completions", json=body)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "n"
            assert r.log is not None
            r.log.flush()
            assert read_log(tmp_path)["status"].to_pylist() == ["refused"]

    asyncio.run(case())


@pytest.mark.parametrize(
    "wanted", [{"max_steps": 2**31}, {"max_teacher_calls": 10**30}, {"threshold": 1e300}]
)
def test_a_number_that_no_row_holds_is_refused(tmp_path: Path, wanted: dict[str, Any]) -> None:
    async def case() -> None:
        async with (
            rig(verifier=ScriptedVerifier(), folder=tmp_path) as r,
            httpx.AsyncClient(base_url=r.url, timeout=20) as http,
        ):
            body = {"model": "r2v", "messages": USER, "r2v": wanted}
            refused = await http.post("/v1/chat/completions", json=body)
            [name] = wanted
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == f"r2v.{name}"

    asyncio.run(case())


def test_no_cookie_of_the_teacher_comes_back_with_another_request() -> None:
    async def case() -> None:
        teacher = StubTeacher()
        async with served_stub(teacher) as url:
            named = url.replace("127.0.0.1", "localhost")  # addresses have no cookies anyway
            async with rig(base_url=named) as r, asked_by(r, "any") as http:
                body = {"model": "r2v-teacher", "messages": USER}
                for _ in range(2):
                    answer = await http.post("/v1/chat/completions", json=body)
                    assert answer.headers["x-r2v-route"] == "teacher"
            assert ["Cookie" in seen.headers for seen in teacher.seen] == [False, False]

    asyncio.run(case())
