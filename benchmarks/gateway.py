"""What the gateway adds to a request, beside a plain reverse proxy and, if asked, LiteLLM's proxy.

The teacher is a STUB that answers at once; all sides forward to it. Blocks of requests alternate
(direct, ours, proxy, ...), on one connection for latencies and on many for the rate. `ratio` is our
rate over the plain proxy's; `cpu_ratio`, the steadier one on a busy machine, that of the requests a
second of processor time. With two cores or more, servers and client are on different ones.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.gateway_sides import make_gateway
from benchmarks.harness import Mismatch, processor_s, publish
from r2v_dist.config.serve import ServeConfig
from r2v_dist.serving.begun import Caller
from r2v_dist.serving.upstream import Upstream
from r2v_dist.serving.wire import read_request

_START_S = 120.0
_LITELLM = """
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
model_list:
  - model_name: r2v-teacher
    litellm_params: {{model: openai/stub, api_base: {upstream}, api_key: none}}
"""


@dataclass
class Side:
    """A server and what was measured of it: latencies (ms) a block, and requests a second."""

    name: str
    port: int
    process: psutil.Process | None = None
    latencies: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Processor time of a request, a block of many connections."""
    cpu_s: float = 0.0
    asked: int = 0

    def spent(self) -> float:
        """Processor time of the server so far, its children's included."""
        if self.process is None:
            return 0.0
        family = [self.process, *self.process.children(recursive=True)]
        return sum(processor_s(one.pid) for one in family)


def conversation(turns: int, size: int) -> bytes:
    """A request with so many turns, about `size` bytes of text."""
    text = "You are in a kitchen. There is a table here. " * max(1, size // turns // 45)
    messages = [{"role": "user", "content": f"Goal: cook\n{text}"}]
    for turn in range(turns - 1):
        messages.append({"role": "assistant", "content": f"go north {turn}"})
        messages.append({"role": "user", "content": text})
    return json.dumps({"model": "r2v-teacher", "messages": messages}).encode()


class Connection:
    """A keep-alive connection that knows just enough HTTP."""

    def __init__(self, port: int, body: bytes) -> None:
        self._port = port
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self) -> bytes:
        """One request; the body of its answer. Raises Mismatch for any status but 200."""
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise Mismatch(head.decode(errors="replace")[:200])
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at < 0:
            raise Mismatch("an answer without content-length")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        return await self._reader.readexactly(length)


async def latencies(side: Side, body: bytes, count: int) -> list[float]:
    """Milliseconds of `count` requests one after the other."""
    taken = []
    async with Connection(side.port, body) as connection:
        for _ in range(count):
            started = time.perf_counter()
            answer = await connection.ask()
            taken.append((time.perf_counter() - started) * 1e3)
    if json.loads(answer)["choices"][0]["message"]["content"] != "go north":
        raise Mismatch(f"{side.name} gives another answer")
    return taken


async def rate(side: Side, body: bytes, count: int, connections: int) -> float:
    """Requests a second on many connections."""
    left = count

    async def worker() -> None:
        nonlocal left
        async with Connection(side.port, body) as connection:
            while left > 0:
                left -= 1
                await connection.ask()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return count / (time.perf_counter() - started)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def servers(litellm: str) -> Iterator[list[Side]]:
    """All sides up: the stub itself, ours, the plain proxy and, if asked, LiteLLM's."""
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(4)]
        upstream = f"http://127.0.0.1:{ports[0]}/v1"
        module = [sys.executable, "-m", "benchmarks.gateway_sides"]
        commands = {
            "direct": [*module, "stub", str(ports[0])],
            "ours": [*module, "gateway", str(ports[1]), upstream],
            "proxy": [*module, "proxy", str(ports[2]), upstream],
        }
        if litellm:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            config = Path(folder) / "litellm.yaml"
            config.write_text(_LITELLM.format(upstream=upstream), encoding="utf-8")
            program = str(Path(litellm).parent / "litellm")
            commands["litellm"] = [
                *(program, "--config", str(config), "--port", str(ports[3])),
                *("--host", "127.0.0.1", "--num_workers", "1"),
            ]
        sides = []
        for (name, command), port in zip(commands.items(), ports, strict=False):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            sides.append(Side(name, port, psutil.Process(process.pid)))
        for side in sides:
            _await_port(side)
        _spread(sides)
        yield sides


def _await_port(side: Side) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", side.port), 1):
            return
        time.sleep(0.1)
    raise Mismatch(f"{side.name} did not start within {_START_S:g} s")


def _spread(sides: list[Side]) -> None:
    """The stub and the client on one core, what is measured on another."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    os.sched_setaffinity(0, {cores[0]})
    for side in sides:
        assert side.process is not None
        core = cores[0] if side.name == "direct" else cores[1]
        for one in (side.process, *side.process.children(recursive=True)):
            one.cpu_affinity([core])


async def compare(sides: list[Side], args: argparse.Namespace, body: bytes) -> None:
    """Interleaved blocks, after one of each as a warm-up."""
    for side in sides:
        await latencies(side, body, max(1, args.requests // 10))
    for round_number in range(args.repeats):
        for side in sides:
            before = side.spent()
            side.latencies.append(await latencies(side, body, args.requests))
            side.cpu_s += side.spent() - before
            side.asked += args.requests
        for side in sides:
            before = side.spent()
            side.rates.append(await rate(side, body, args.requests, args.connections))
            side.cpu_us.append((side.spent() - before) / args.requests * 1e6)
        print(f"round {round_number + 1} of {args.repeats}", file=sys.stderr, flush=True)


async def decision_ms(count: int, turns: int) -> list[float]:
    """Milliseconds of a whole decision in process, models that answer at once: the body is read,
    the conversation hashed, features and risks computed."""
    body = conversation(turns, 4000).replace(b'"r2v-teacher"', b'"r2v@never"')
    taken = []
    async with Upstream("http://127.0.0.1:9/v1", "", ServeConfig().upstream) as upstream:
        gateway = make_gateway(upstream, "http://127.0.0.1:9/v1")
        for _ in range(count):
            started = time.perf_counter()
            begun = await gateway.begin(read_request(body, {}), {}, Caller())
            gateway.body(begun)
            taken.append((time.perf_counter() - started) * 1e3)
    return taken


def quantile(values: list[float], share: float) -> float:
    """The value that this share of the values is below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def added(side: Side, direct: Side, share: float) -> float:
    """Milliseconds on top of asking the stub directly: the median over rounds."""
    pairs = zip(side.latencies, direct.latencies, strict=True)
    return statistics.median(quantile(a, share) - quantile(b, share) for a, b in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--requests", type=int, default=2000, help="of a block")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=1000, help="text of a request")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument(
        "--litellm", default="", help="python of an environment with litellm[proxy]"
    )
    args = parser.parse_args()
    body = conversation(args.turns, args.bytes)
    with servers(args.litellm) as sides:
        uvloop.run(compare(sides, args, body))
        memory = {
            side.name: side.process.memory_info().rss / 2**20
            for side in sides
            if side.process is not None
        }
    direct, ours, proxy, *others = sides
    decision = uvloop.run(decision_ms(max(50, args.requests // 2), 20))
    ratio = statistics.median(a / b for a, b in zip(ours.rates, proxy.rates, strict=True))
    spent = statistics.median(b / a for a, b in zip(ours.cpu_us, proxy.cpu_us, strict=True))
    table = []
    facts: dict[str, Any] = {}
    for side in (ours, proxy, *others):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            facts[f"{side.name}_added_{name}_ms"] = added(side, direct, share)
        facts[f"{side.name}_rps"] = statistics.median(side.rates)
        facts[f"{side.name}_cpu_us"] = statistics.median(side.cpu_us)
        facts[f"{side.name}_cpu_s_per_1000"] = side.cpu_s / side.asked * 1e3
        facts[f"{side.name}_rss_mib"] = memory[side.name]
    for name in ("added_p50_ms", "added_p99_ms", "rps", "cpu_us", "cpu_s_per_1000", "rss_mib"):
        shown = [f"{facts[f'{side.name}_{name}']:.3g}" for side in (proxy, *others)]
        table.append((name, f"{facts[f'ours_{name}']:.3g}", ", ".join(shown)))
    facts["cpu_ratio"] = spent
    facts["decision_p50_ms"] = quantile(decision, 0.5)
    facts["decision_p99_ms"] = quantile(decision, 0.99)
    table.append(("decision p50, p99 (ms)", f"{facts['decision_p50_ms']:.3f}, "
                  f"{facts['decision_p99_ms']:.3f}", ""))  # fmt: skip
    reference = "plain Starlette and aiohttp proxy" + (", LiteLLM" if others else "")
    publish("gateway", reference, ratio, table, connections=args.connections, **facts)


if __name__ == "__main__":
    main()
