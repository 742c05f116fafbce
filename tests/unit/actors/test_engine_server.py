"""What an engine's actor does with requests, as a plain object whose engine sleeps."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from actors.routing import ServerNotReady
from actors.vllm.engine import (
    Arrived,
    EngineLost,
    EngineRequest,
    RequestFailed,
    Site,
    VllmEngine,
)
from actors.vllm.health import State
from actors.vllm.server import EngineServer
from benchmarks.sleeping_engine import SleepingEngine
from r2v_dist.config.models import ModelConfig


def request(number: int, prompt: int = 3) -> EngineRequest:
    return EngineRequest([prompt], number, 1, 0.5, 1.0, 4, 1, [], f"id{number}")


def server(make: Any = SleepingEngine, **settings: Any) -> EngineServer:
    config = ModelConfig(backend="vllm", model="sleeping", **settings)
    return EngineServer(config, Site(), make=make)


async def read(stream: AsyncIterator[Arrived]) -> dict[int, Any]:
    return {place: answer async for _, answers in stream for place, answer in answers}


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))  # type: ignore[arg-type]


def test_a_bad_request_fails_alone() -> None:
    async def play() -> None:
        engine = server(max_num_seqs=8)
        await engine.serve("", "v1")
        requests = [request(n, prompt=n) for n in range(-1, 7)]
        answers = await read(engine.stream(requests))
        assert answers.pop(0) == RequestFailed("ValueError: no such token")
        assert [answer.token_ids for answer in answers.values()] == [[[5]]] * 7
        assert (await engine.health()).tokens == 7

    run(play())


def test_what_takes_too_long_to_compute_is_stopped_and_waiting_does_not_count() -> None:
    async def play() -> None:
        engine = server(max_num_seqs=1, timeout_s=1.0)
        await engine.serve("answer_s=0.05", "v1")
        answers = await read(engine.stream([request(n) for n in range(30)]))
        assert not any(isinstance(answer, RequestFailed) for answer in answers.values())
        await engine.serve("answer_s=60", "v2")
        [answer] = (await read(engine.stream([request(0)]))).values()
        assert answer == RequestFailed("no answer after 1 s of computing (timeout_s)")
        assert (await engine.health()).computing == 0

    run(play())


def test_what_nobody_waits_for_any_more_is_stopped() -> None:
    async def play() -> None:
        engine = server(max_num_seqs=2)
        await engine.serve("answer_s=60", "v1")
        reading = asyncio.ensure_future(read(engine.stream([request(n) for n in range(8)])))
        while not (await engine.health()).waiting:
            await asyncio.sleep(0.01)
        for number in range(8):
            await engine.cancel(f"id{number}")
        answers = await reading
        assert set(answers.values()) == {RequestFailed("it was cancelled")}
        report = await engine.health()
        assert (report.computing, report.waiting) == (0, 0)

    run(play())


def test_without_an_engine_nothing_is_taken() -> None:
    async def play() -> None:
        engine = server()
        assert (await engine.health()).state is State.EMPTY
        with pytest.raises(ServerNotReady, match="the engine is empty"):
            await read(engine.stream([request(0)]))

    run(play())


def test_an_engine_that_does_not_start_says_why() -> None:
    def refuses(*_: Any) -> Any:
        raise ValueError("no memory for the cache")

    async def play() -> None:
        engine = server(refuses)
        with pytest.raises(ValueError, match="no memory"):
            await engine.serve("", "v1")
        report = await engine.health()
        assert (report.state, report.problem) == (
            State.FAILED,
            "ValueError: no memory for the cache",
        )

    run(play())


class Dying(SleepingEngine):
    async def generate(self, request: EngineRequest) -> Any:
        if request.seed == 1:
            raise EngineLost("the core has died")
        return await super().generate(request)


def test_an_engine_that_dies_says_so_and_takes_nothing_more() -> None:
    async def play() -> None:
        engine = server(Dying)
        await engine.serve("answer_s=60", "v1")
        with pytest.raises(EngineLost, match="the core has died"):
            await read(engine.stream([request(0), request(1)]))
        report = await engine.health()
        assert (report.state, report.problem) == (State.FAILED, "EngineLost: the core has died")
        with pytest.raises(ServerNotReady):
            await read(engine.stream([request(2)]))

    run(play())


def test_an_answer_names_the_version_that_gave_it() -> None:
    async def play() -> None:
        engine = server(max_num_seqs=2)
        await engine.serve("answer_s=0.05&token=1", "v1")
        answers: list[tuple[str, Any]] = []

        async def ask(number: int) -> None:
            async for version, arrived in engine.stream([request(number)]):
                answers.extend((version, answer) for _, answer in arrived)

        asked = [asyncio.ensure_future(ask(number)) for number in range(20)]
        while len(answers) < 4:
            await asyncio.sleep(0.01)
        await engine.serve("answer_s=0.05&token=2", "v2")
        await asyncio.gather(*asked)
        told = {(version, answer.token_ids[0][0]) for version, answer in answers}
        assert told == {("v1", 1), ("v2", 2)}

    run(play())


def test_an_engine_that_sleeps_takes_nothing_until_it_is_to_serve() -> None:
    async def play() -> None:
        engine = server()
        await engine.sleep()
        assert (await engine.health()).state is State.EMPTY
        await engine.serve("token=1", "v1")
        await engine.sleep()
        report = await engine.health()
        assert (report.state, report.version) == (State.ASLEEP, "")
        with pytest.raises(ServerNotReady, match="the engine is asleep"):
            await read(engine.stream([request(0)]))
        await engine.serve("token=2", "v1")
        [answer] = (await read(engine.stream([request(0)]))).values()
        assert answer.token_ids == [[2]]

    run(play())


def test_an_engine_that_does_not_wake_says_why() -> None:
    class Ill(SleepingEngine):
        async def wake(self, path: str, adapter: str = "") -> None:
            raise RuntimeError("CUDA out of memory")

    async def play() -> None:
        engine = server(Ill)
        await engine.serve("", "v1")
        await engine.sleep()
        with pytest.raises(RuntimeError, match="out of memory"):
            await engine.serve("", "v2")
        assert (await engine.health()).problem == "RuntimeError: CUDA out of memory"

    run(play())


class Noting:
    """Stands where vLLM's engine does, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        async def note(*values: Any, **named: Any) -> bool:
            self.told.append((name, *values, *named.values()))
            return True

        return note


def test_vllm_takes_weights_before_the_cache_when_it_wakes() -> None:
    """Level 2 forgets the weights: without reading them an engine answers gibberish."""
    vllm = Noting()
    config = ModelConfig(backend="vllm", model="m")
    engine = VllmEngine(config, "old", Site(sleeps=True), lambda *_: vllm)

    async def play() -> None:
        await engine.sleep()
        await engine.wake("new")

    run(play())
    assert vllm.told == [
        ("sleep", 2, "wait"),
        ("wake_up", ["weights"]),
        ("collective_rpc", "load_checkpoint", ("new",)),
        ("wake_up", ["kv_cache"]),
        ("reset_prefix_cache",),
    ]


def test_what_is_remembered_is_not_computed_again_until_weights_change() -> None:
    async def play() -> None:
        engine = server(max_num_seqs=8, remembered_answers=2)
        await engine.serve("", "v1")

        async def computed(*numbers: int) -> int:
            before = (await engine.health()).tokens
            version, answers = await engine.sample([request(number) for number in numbers])
            assert [answer.token_ids for answer in answers] == [[[5]]] * len(numbers)
            assert version == (await engine.health()).version
            return (await engine.health()).tokens - before

        assert [await computed(0, 1, 0), await computed(1, 0)] == [2, 0]
        await engine.serve("", "v2")
        assert [await computed(0), await computed(0), await computed(1, 2), await computed(0)] == [
            1,
            0,
            2,
            1,
        ]
        await engine.reload("")
        assert await computed(0) == 1

    run(play())


def test_the_latest_order_holds_in_whatever_order_they_come() -> None:
    async def play() -> None:
        engine = server()
        await engine.sleep(order=2)
        assert await engine.serve("", "v1", order=1) == ""
        assert (await engine.health()).state is State.EMPTY
        assert await engine.serve("", "v3", order=4) == "v3"
        assert await engine.serve("", "v2", order=3) == "v3"
        await engine.sleep(order=3)
        assert (await engine.health()).state is State.SERVING
        await engine.sleep(order=5)
        assert (await engine.health()).state is State.ASLEEP

    run(play())
