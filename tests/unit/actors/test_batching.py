"""A batch goes out in one call; whoever asked goes on with its own reply, and a failure reaches
exactly those still waiting.
"""

import asyncio
import os
from collections.abc import Sequence

import pytest

from actors.batching import Arrivals, Batcher, all_at_once
from actors.vllm.cpu_affinity import openmp_on, parse_cores
from r2v_dist.errors import RuntimeFailure


def test_what_is_asked_in_one_turn_reaches_the_server_together() -> None:
    calls: list[list[int]] = []

    async def double(numbers: list[int]) -> list[int]:
        calls.append(numbers)
        return [2 * n for n in numbers]

    async def ask_all() -> list[int]:
        batcher = Batcher[int, int](
            lambda numbers: all_at_once(double(numbers)), 10.0, "the doubler"
        )
        return await asyncio.gather(*(batcher.ask(n) for n in range(5)))

    assert asyncio.run(ask_all()) == [0, 2, 4, 6, 8]
    assert calls == [[0, 1, 2, 3, 4]]


def test_what_is_asked_while_a_call_runs_goes_out_in_the_next() -> None:
    calls: list[list[int]] = []
    running = 0

    async def slowly(numbers: list[int]) -> list[int]:
        nonlocal running
        running += 1
        assert running == 1
        calls.append(numbers)
        await asyncio.sleep(0.02)
        running -= 1
        if numbers == [0]:
            raise OSError("no memory")
        return [2 * n for n in numbers]

    async def ask_all() -> list[int | BaseException]:
        batcher = Batcher[int, int](
            lambda numbers: all_at_once(slowly(numbers)), None, "the slow", one_at_a_time=True
        )
        asked = []
        for number in range(4):
            asked.append(asyncio.ensure_future(batcher.ask(number)))
            await asyncio.sleep(0.003)
        return await asyncio.gather(*asked, return_exceptions=True)

    first, *others = asyncio.run(ask_all())
    assert isinstance(first, RuntimeFailure)
    assert str(first) == "the slow did not answer: OSError: no memory"
    assert others == [2, 4, 6]
    assert calls == [[0], [1, 2, 3]]


def test_a_reply_does_not_wait_for_the_slowest() -> None:
    async def two_of_three_then_hang(numbers: Sequence[int]) -> Arrivals[int]:
        yield [(2, 20), (0, 0)]
        await asyncio.sleep(60)

    async def ask_all() -> list[int | BaseException]:
        batcher = Batcher[int, int](two_of_three_then_hang, 0.2, "the sleeper")
        return await asyncio.gather(*(batcher.ask(n) for n in range(3)), return_exceptions=True)

    first, slowest, last = asyncio.run(ask_all())
    assert (first, last) == (0, 20)
    assert isinstance(slowest, RuntimeFailure)
    assert "the sleeper did not answer: TimeoutError" in str(slowest)


def test_a_server_that_leaves_a_question_out_is_a_failure() -> None:
    async def one_of_two(numbers: Sequence[int]) -> Arrivals[int]:
        yield [(0, 0)]

    async def ask_all() -> list[int | BaseException]:
        batcher = Batcher[int, int](one_of_two, 10.0, "the forgetful")
        return await asyncio.gather(*(batcher.ask(n) for n in range(2)), return_exceptions=True)

    answered, forgotten = asyncio.run(ask_all())
    assert answered == 0
    assert isinstance(forgotten, RuntimeFailure)


def test_cores_are_read_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_cores("0-1,3") == [0, 1, 3]
    assert parse_cores("5") == [5]
    monkeypatch.delenv("OMP_PLACES", raising=False)
    with openmp_on([0, 3]):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_PLACES"]) == ("2", "{0},{3}")
    assert "OMP_PLACES" not in os.environ
