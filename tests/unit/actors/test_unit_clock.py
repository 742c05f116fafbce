"""A unit's deadline counts its own time, and not the time that it waits for engines."""

import asyncio

import pytest

from actors.unit_clock import unit_deadline, waiting_for_engine


async def wait_for_engine(seconds: float) -> None:
    with waiting_for_engine():
        await asyncio.sleep(seconds)


def test_waits_for_engines_do_not_count() -> None:
    async def play() -> str:
        async with unit_deadline(0.2):
            await asyncio.gather(wait_for_engine(0.5), wait_for_engine(0.3))
            await asyncio.shield(asyncio.ensure_future(wait_for_engine(0.3)))
        return "played"

    assert asyncio.run(play()) == "played"


def test_own_time_counts_before_and_after_a_wait() -> None:
    async def play() -> None:
        async with unit_deadline(0.4):
            await asyncio.sleep(0.25)
            await wait_for_engine(0.5)
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(play(), 20))


def test_units_have_clocks_of_their_own_and_a_late_answer_stops_none() -> None:
    async def play() -> None:
        async with unit_deadline(0.2):
            late = asyncio.ensure_future(wait_for_engine(0.3))
            await asyncio.sleep(0)
        async with unit_deadline(0.5):
            await late
        with pytest.raises(TimeoutError):
            async with unit_deadline(0.1):
                await asyncio.sleep(60)

    asyncio.run(asyncio.wait_for(play(), 20))
    asyncio.run(wait_for_engine(0.0))
