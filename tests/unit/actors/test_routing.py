"""A group keeps to its server, load is even, and what a lost server had is asked of another."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from actors import routing
from actors.batching import Arrivals
from actors.routing import MARGIN, Router, ServerLost, ServerNotReady, choose
from r2v_dist.errors import RuntimeFailure

Server = Callable[[list[int]], Arrivals[str]]


def test_a_group_keeps_to_its_server_and_groups_are_spread() -> None:
    idle = [0, 0, 0, 0]
    there = [True] * 4
    places = [choose(group, idle, there) for group in range(400)]
    assert places == [choose(group, idle, there) for group in range(400)]
    assert all(70 < count < 130 for count in Counter(places).values())


def test_only_the_groups_of_a_lost_server_move() -> None:
    before = [choose(group, [0] * 4, [True] * 4) for group in range(400)]
    after = [choose(group, [0] * 4, [True, False, True, True]) for group in range(400)]
    moved = Counter(new for old, new in zip(before, after, strict=True) if old == 1)
    assert all(old in (new, 1) for old, new in zip(before, after, strict=True))
    assert set(moved) == {0, 2, 3}
    assert choose(7, [0] * 4, [False] * 4) is None


def test_a_busy_server_is_left_at_the_margin() -> None:
    group = next(g for g in range(100) if choose(g, [0, 0], [True, True]) == 0)
    assert choose(group, [MARGIN, 0], [True, True]) == 0
    assert choose(group, [MARGIN + 1, 0], [True, True]) == 1


def test_load_is_even_and_few_groups_leave_their_server() -> None:
    """As many conversations as an engine has slots, each with one question under way at a time."""
    loads = [0, 0, 0]
    seen: list[set[int]] = [set() for _ in range(60)]
    asked: dict[int, int] = {}
    for turn in range(60 * 20):
        group = (turn * 7) % 60
        if group in asked:
            loads[asked[group]] -= 1
        place = choose(group, loads, [True] * 3)
        assert place is not None
        asked[group] = place
        loads[place] += 1
        seen[group].add(place)
    assert max(loads) - min(loads) <= MARGIN + 1
    assert sum(map(len, seen)) < 1.5 * len(seen)


async def fine(questions: list[int]) -> Arrivals[str]:
    yield [(place, f"{question}") for place, question in enumerate(questions)]


async def lost(questions: list[int]) -> Arrivals[str]:
    raise ServerLost("it is gone")
    yield []


def test_what_a_lost_server_was_asked_is_asked_of_another() -> None:
    async def ask_all() -> list[str]:
        router = Router[int, str]([lost, fine], "the engine", wait_s=10.0)
        return await asyncio.gather(*(router.ask(group, group) for group in range(20)))

    assert asyncio.run(ask_all()) == [str(group) for group in range(20)]


def test_a_lone_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PAUSE_S", 0.01)
    calls: list[int] = []

    async def back_at_the_third(questions: list[int]) -> Arrivals[str]:
        calls.append(len(questions))
        async for replies in (fine if len(calls) > 2 else lost)(questions):
            yield replies

    async def ask() -> str:
        return await Router[int, str]([back_at_the_third], "the engine", 10.0).ask(0, 5)

    assert asyncio.run(ask()) == "5"
    assert len(calls) == 3


def test_no_server_for_too_long_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PAUSE_S", 0.01)
    with pytest.raises(RuntimeFailure, match="the engine did not come back"):
        asyncio.run(Router[int, str]([lost, lost], "the engine", 0.05).ask(0, 5))


def test_a_question_that_ends_every_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PAUSE_S", 0.01)
    asked: list[int] = []

    async def ends(questions: list[int]) -> Arrivals[str]:
        asked.extend(questions)
        raise ServerLost("it is gone") if len(asked) % 4 == 1 else ServerNotReady("it starts")
        yield []

    with pytest.raises(RuntimeFailure, match="lost 4 times with this request under way"):
        asyncio.run(Router[int, str]([ends], "the engine", 10.0).ask(0, 13))
    assert len(asked) == 13


def test_a_long_start_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PAUSE_S", 0.01)
    asked: list[int] = []

    async def late(questions: list[int]) -> Arrivals[str]:
        asked.extend(questions)
        if len(asked) < 20:
            raise ServerNotReady("it starts")
        async for replies in fine(questions):
            yield replies

    assert asyncio.run(Router[int, str]([late], "the engine", 10.0).ask(0, 13)) == "13"


def test_the_server_learns_of_a_question_that_nobody_waits_for() -> None:
    told: list[tuple[int, int]] = []

    async def sleeps(questions: list[int]) -> Arrivals[str]:
        await asyncio.sleep(60)
        yield []

    async def give_up() -> None:
        router = Router[int, str](
            [sleeps], "the engine", 10.0, lambda place, question: told.append((place, question))
        )
        asked = asyncio.ensure_future(router.ask(0, 5))
        await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(give_up())
    assert told == [(0, 5)]
