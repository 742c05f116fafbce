"""Case 82: hours of agents in minutes. After requests of every kind, faults and callers that leave
among them, the gateway holds no more memory, files and tasks than before, has forgotten nothing
that it says it knows, and its log has every answer once.

`R2V_SOAK_REQUESTS` says how many requests, `R2V_SOAK_S` after how many seconds it stops asking all
the same; speeds are printed, not asserted.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from r2v_dist.serving.log import batches_of
from tests.gateway_rig import StubTeacher, served_stub
from tests.runs import ROOT

REQUESTS = int(os.environ.get("R2V_SOAK_REQUESTS", "200000"))
MOST_S = float(os.environ.get("R2V_SOAK_S", "3000"))
WORKERS = 24
ENTRIES = 4096
SLACK = 10 * 2**20
STUB_ID = "chatcmpl-stub"
"""Every answer of the stub has it."""
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Teacher(StubTeacher):
    """The stub, with the fault that the conversation's first message names."""

    async def __call__(self, request: Any) -> Any:
        body = json.loads(await request.read())
        fault = body["messages"][0]["content"].partition(" ")[2].partition("\n")[0]
        self.plan = [fault]  # taken before anything is waited for
        with contextlib.suppress(ConnectionResetError):  # of a caller that left
            return await self._answer(request, body)
        return web.Response()


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Agent:
    """One that asks again and again, as one of `KINDS` each time."""

    port: int
    http: aiohttp.ClientSession
    rng: random.Random
    requests: int = 0
    told: Counter[int] = field(default_factory=Counter)
    served: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def ask(self, messages: list[dict[str, Any]], **given: Any) -> Told:
        answer = await self.post({"model": "r2v", "messages": messages} | given)
        if answer.status == 200 and not given.get("stream"):
            self.served.append(answer.json()["id"])
        return answer

    async def post(
        self, body: Any, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
    ) -> Told:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"content-type": "application/json"} | (headers or {})
        return await self.sent("POST", path, data=raw, headers=told)

    async def sent(self, method: str, path: str, **given: Any) -> Told:
        self.requests += 1
        async with self.http.request(method, path, **given) as answer:
            self.told[answer.status] += 1
            return Told(answer.status, dict(answer.headers), await answer.text())

    def opening(self, fault: str = "fine") -> list[dict[str, Any]]:
        text = f"Goal: {fault}\nroom {self.rng.random()}"
        return [{"role": "user", "content": text}]

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    async def plain(self) -> None:
        started = time.perf_counter()
        answer = await self.ask(self.opening())
        self.latencies.append(time.perf_counter() - started)
        self.require(answer.status == 200, answer.text)

    async def forced(self) -> None:
        side = self.rng.choice(["slm", "teacher"])
        answer = await self.ask(self.opening(), model=f"r2v-{side}")
        self.require(answer.headers["x-r2v-route"] == side, f"{side}: {answer.headers}")

    async def stream(self) -> None:
        answer = await self.ask(self.opening(), stream=True)
        self.require(answer.text.endswith("data: [DONE]\n\n"), answer.text)
        self.served.append(json.loads(answer.text.split("\n", 1)[0][6:])["id"])

    async def conversation(self) -> None:
        messages = self.opening()
        for step in range(4):
            answer = await self.ask(messages)
            self.require(answer.headers.get("x-r2v-features") == "exact", str(answer.headers))
            messages += [answer.json()["choices"][0]["message"]]
            messages += [{"role": "user", "content": f"seen {step}"}]
        judged = {"id": self.served[-1], "success": self.rng.random() < 0.5}
        answer = await self.post(judged, "/v1/feedback")
        self.require(answer.status == 200, answer.text)

    async def session(self) -> None:
        named = {"x-r2v-session": f"s-{self.rng.random()}"}
        body = {"model": "r2v", "messages": self.opening(), "r2v": {"max_teacher_calls": 1}}
        answer = await self.post(body, headers=named)
        self.require(answer.status == 200, answer.text)
        self.served.append(answer.json()["id"])

    async def tools(self) -> None:
        answer = await self.ask(self.opening(), tools=TOOLS)
        self.require(answer.status == 200, answer.text)

    async def refused(self) -> None:
        given = self.rng.choice(
            [{"model": "gpt-nope"}, {"n": 500}, {"r2v": {"x": 1}}, {"messages": []}]
        )
        messages = given.pop("messages", self.opening())
        answer = await self.ask(messages, **given)
        self.require(answer.status in (400, 404), answer.text)

    async def fault(self) -> None:
        fault = self.rng.choice(["status-500", "status-429", "lazy-error", "cut", "in-band"])
        stream = self.rng.random() < 0.5
        answer = await self.ask(self.opening(fault), model="r2v-teacher", stream=stream)
        self.require(answer.status < 500, answer.text)
        if answer.text.endswith("data: [DONE]\n\n"):
            self.served.append(json.loads(answer.text.split("\n", 1)[0][6:])["id"])

    async def passed_on(self) -> None:
        answer = await self.ask(self.opening("status-422"), model="r2v-teacher")
        self.require(answer.status == 422, answer.text)

    async def leaves(self) -> None:
        """A caller that goes away: at once, before the first byte, or within a stream."""
        fault = self.rng.choice(["silent", "stall", "fine"])
        body = {"model": "r2v-teacher", "messages": self.opening(fault), "stream": True}
        raw = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        if fault == "stall":
            await asyncio.wait_for(reader.readuntil(b"data: "), 30)
        elif fault == "silent":
            await asyncio.sleep(self.rng.random() / 50)
        writer.close()
        self.requests += 1

    async def looks(self) -> None:
        path = self.rng.choice(["/v1/status", "/metrics", "/v1/models", "/ready"])
        answer = await self.sent("GET", path)
        self.require(answer.status == 200, answer.text)

    async def decision(self) -> None:
        body = {"model": "r2v", "messages": self.opening()}
        answer = await self.post(body, "/v1/decision")
        self.require(answer.status == 200, answer.text)

    async def raw(self) -> None:
        answer = await self.post(b'{"a')
        self.require(answer.status == 400, answer.text)


KINDS: list[Callable[[Agent], Awaitable[None]]] = [
    *(Agent.plain, Agent.forced, Agent.stream, Agent.conversation, Agent.session, Agent.tools),
    *(Agent.refused, Agent.fault, Agent.passed_on, Agent.leaves, Agent.looks, Agent.decision),
    Agent.raw,
]


@contextlib.asynccontextmanager
async def gateway(folder: Path, teacher_url: str) -> AsyncIterator[int]:
    command = [sys.executable, "-m", "tests.gateway_process", str(folder), teacher_url]
    process = await asyncio.create_subprocess_exec(
        *command, str(ENTRIES), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await asyncio.wait_for(process.stdout.readline(), 120))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def at_rest(http: aiohttp.ClientSession) -> dict[str, Any]:
    """What the gateway holds when nothing is under way."""
    async with asyncio.timeout(60):
        while True:
            async with http.get("/tasks") as answer:
                held: dict[str, Any] = await answer.json()
            if held["under_way"] == 0:
                return held
            await asyncio.sleep(0.2)


async def soak(agent: Agent, until: int, deadline: float) -> None:
    async def work(rng: random.Random) -> None:
        while agent.requests < until and time.perf_counter() < deadline:
            await rng.choice(KINDS)(agent)

    workers = [random.Random(agent.rng.random()) for _ in range(WORKERS)]
    await asyncio.gather(*(work(rng) for rng in workers))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_case_82_a_soak_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def case() -> None:
        async with (
            served_stub(Teacher()) as stub,
            gateway(tmp_path, stub) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            agent = Agent(port, http, random.Random(0))
            marks = []
            began = time.perf_counter()
            for part in range(1, 11):
                started, before = time.perf_counter(), agent.requests
                agent.latencies.clear()
                await soak(agent, REQUESTS * part // 10, began + MOST_S * part / 10)
                took_s = time.perf_counter() - started
                held = await at_rest(http)
                marks.append(held)
                with capsys.disabled():
                    print(
                        f"\n{agent.requests} requests, {(agent.requests - before) / took_s:.0f}/s,"
                        f" p50 {1e3 * statistics.median(agent.latencies or [0.0]):.1f} ms, {held}",
                        flush=True,
                    )
            assert agent.wrong == []
            warm, end = marks[2], marks[-1]
            assert end["tasks"] <= warm["tasks"] + 2
            assert end["files"] <= warm["files"] + WORKERS  # idle connections come and go
            assert end["rss"] <= warm["rss"] + max(SLACK, warm["rss"] // 20)
        [path] = tmp_path.glob("*.arrows")
        ids = Counter[str]()
        for batch in batches_of(path, ["id", "kind", "status"]):
            for row in batch.to_pylist():
                ids[row["id"]] += (row["kind"], row["status"]) == ("answer", "served")
        of_teacher = agent.served.count(STUB_ID)
        assert {ids[one] for one in agent.served if one != STUB_ID} == {1}
        assert ids[STUB_ID] >= of_teacher > 0  # more: those of callers that left at the last byte
        assert agent.told[200] > agent.requests / 4

    asyncio.run(case())
