"""Case 82: hours of agents in minutes. After requests of every kind, faults and callers that leave
among them, the gateway holds no more memory, files and tasks than before, has forgotten nothing
that it says it knows, and its log has every answer once.

`R2V_SOAK_REQUESTS` says how many requests; speeds are printed, not asserted.
"""

import asyncio
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
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from r2v_dist.serving.log import batches_of
from tests.gateway_rig import StubTeacher, served_stub
from tests.runs import ROOT

REQUESTS = int(os.environ.get("R2V_SOAK_REQUESTS", "200000"))
WORKERS = 24
ENTRIES = 4096
SLACK = 10 * 2**20
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Teacher(StubTeacher):
    """The stub, with the fault that the conversation's first message names."""

    async def __call__(self, request: Any) -> Any:
        body = json.loads(await request.read())
        fault = body["messages"][0]["content"].partition(" ")[2].partition("\n")[0]
        self.plan = [fault]  # taken before anything is waited for
        return await self._answer(request, body)


@dataclass
class Agent:
    """One that asks again and again, as one of `KINDS` each time."""

    port: int
    http: httpx.AsyncClient
    rng: random.Random
    told: Counter[str] = field(default_factory=Counter)
    served: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def ask(self, messages: list[dict[str, Any]], **given: Any) -> httpx.Response:
        body = {"model": "r2v", "messages": messages} | given
        answer = await self.http.post("/v1/chat/completions", json=body)
        self.told[str(answer.status_code)] += 1
        if answer.status_code == 200 and not given.get("stream"):
            self.served.append(answer.json()["id"])
        return answer

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
        self.require(answer.status_code == 200, answer.text)

    async def forced(self) -> None:
        side = self.rng.choice(["slm", "teacher"])
        answer = await self.ask(self.opening(), model=f"r2v-{side}")
        self.require(answer.headers["x-r2v-route"] == side, answer.text)

    async def stream(self) -> None:
        answer = await self.ask(self.opening(), stream=True)
        self.require(answer.text.endswith("data: [DONE]\n\n"), answer.text)
        self.served.append(json.loads(answer.text.split("\n", 1)[0][6:])["id"])

    async def conversation(self) -> None:
        messages = self.opening()
        for step in range(4):
            answer = await self.ask(messages)
            self.require(answer.headers.get("x-r2v-features") == "exact", answer.text)
            messages += [answer.json()["choices"][0]["message"]]
            messages += [{"role": "user", "content": f"seen {step}"}]
        judged = {"id": self.served[-1], "success": self.rng.random() < 0.5}
        answer = await self.http.post("/v1/feedback", json=judged)
        self.require(answer.status_code == 200, answer.text)

    async def session(self) -> None:
        named = {"x-r2v-session": f"s-{self.rng.random()}"}
        body = {"model": "r2v", "messages": self.opening(), "r2v": {"max_teacher_calls": 1}}
        answer = await self.http.post("/v1/chat/completions", json=body, headers=named)
        self.require(answer.status_code == 200, answer.text)
        self.served.append(answer.json()["id"])

    async def tools(self) -> None:
        answer = await self.ask(self.opening(), tools=TOOLS)
        self.require(answer.status_code == 200, answer.text)

    async def refused(self) -> None:
        given = self.rng.choice(
            [{"model": "gpt-nope"}, {"n": 500}, {"r2v": {"x": 1}}, {"messages": []}]
        )
        messages = given.pop("messages", self.opening())
        answer = await self.ask(messages, **given)
        self.require(answer.status_code in (400, 404), answer.text)

    async def fault(self) -> None:
        fault = self.rng.choice(["status-500", "status-429", "lazy-error", "cut", "in-band"])
        stream = self.rng.random() < 0.5
        answer = await self.ask(self.opening(fault), model="r2v-teacher", stream=stream)
        self.require(answer.status_code < 500, answer.text)
        if answer.text.endswith("data: [DONE]\n\n"):
            self.served.append(json.loads(answer.text.split("\n", 1)[0][6:])["id"])

    async def passed_on(self) -> None:
        answer = await self.ask(self.opening("status-422"), model="r2v-teacher")
        self.require(answer.status_code == 422, answer.text)

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
        self.told["left"] += 1

    async def looks(self) -> None:
        path = self.rng.choice(["/v1/status", "/metrics", "/v1/models", "/ready"])
        answer = await self.http.get(path)
        self.require(answer.status_code == 200, answer.text)

    async def decision(self) -> None:
        body = {"model": "r2v", "messages": self.opening()}
        answer = await self.http.post("/v1/decision", json=body)
        self.require(answer.status_code == 200, answer.text)

    async def raw(self) -> None:
        told = {"content-type": "application/json"}
        answer = await self.http.post("/v1/chat/completions", content=b'{"a', headers=told)
        self.require(answer.status_code == 400, answer.text)


KINDS: list[Callable[[Agent], Awaitable[None]]] = [
    *(Agent.plain, Agent.forced, Agent.stream, Agent.conversation, Agent.session, Agent.tools),
    *(Agent.refused, Agent.fault, Agent.passed_on, Agent.leaves, Agent.looks, Agent.decision),
    Agent.raw,
]


@asynccontextmanager
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


async def at_rest(http: httpx.AsyncClient) -> dict[str, int]:
    """What the gateway holds when nothing is under way."""
    async with asyncio.timeout(60):
        while True:
            held: dict[str, int] = (await http.get("/tasks")).json()
            if held["under_way"] == 0:
                return held
            await asyncio.sleep(0.2)


async def soak(port: int, http: httpx.AsyncClient, agent: Agent, count: int) -> None:
    left = count

    async def work(seed: int) -> None:
        nonlocal left
        rng = random.Random(seed)
        while left > 0:
            left -= 1
            await rng.choice(KINDS)(agent)

    await asyncio.gather(*(work(agent.rng.randrange(2**60)) for _ in range(WORKERS)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_case_82_a_soak_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def case() -> None:
        limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
        async with (
            served_stub(Teacher()) as stub,
            gateway(tmp_path, stub) as port,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits
            ) as http,
        ):
            agent = Agent(port, http, random.Random(0))
            marks = []
            for part in range(10):
                started = time.perf_counter()
                agent.latencies.clear()
                await soak(port, http, agent, REQUESTS // 10)
                held = await at_rest(http)
                marks.append(held)
                took_s = time.perf_counter() - started
                with capsys.disabled():
                    print(
                        f"\n{part + 1}/10: {REQUESTS // 10 / took_s:.0f} tasks/s, p50 "
                        f"{1e3 * statistics.median(agent.latencies):.1f} ms, {held}",
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
        assert {ids[one] for one in agent.served} == {1}
        assert agent.told["200"] > REQUESTS / 4

    asyncio.run(case())
