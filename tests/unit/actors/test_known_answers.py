"""Equal requests are computed once for each version of a model, where that is configured."""

import asyncio

from actors.vllm.engine import EngineRequest
from actors.vllm.known_answers import KnownAnswers, key_of


def request(
    seed: int = 0, temperature: float = 0.0, prompt: tuple[int, ...] = (1, 2)
) -> EngineRequest:
    return EngineRequest(list(prompt), seed, 1, temperature, 1.0, 8, 20, [0], f"id-{seed}")


def test_the_seed_decides_nothing_without_temperature() -> None:
    assert key_of(request(1)) == key_of(request(2))
    assert key_of(request(1)) != key_of(request(1, prompt=(1, 3)))
    assert key_of(request(1, 0.7)) == key_of(request(1, 0.7)) != key_of(request(2, 0.7))
    assert key_of(request(1, 0.7)) != key_of(request(1, 0.8))


class Model:
    def __init__(self, answers: list[int | None]) -> None:
        self.answers = answers
        self.asked = 0

    async def compute(self) -> int | None:
        self.asked += 1
        await asyncio.sleep(0)
        return self.answers[self.asked - 1]


async def _ask(known: KnownAnswers[int | None], model: Model) -> int | None:
    return await known.once(request(), model.compute)


def answers(capacity: int = 9) -> KnownAnswers[int | None]:
    return KnownAnswers(capacity, lambda outcome: outcome is not None)


def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    async def asking() -> None:
        known, model = answers(), Model([7, 8])
        assert await asyncio.gather(*(_ask(known, model) for _ in range(5))) == [7] * 5
        assert model.asked == 1
        assert await known.once(request(prompt=(3,)), model.compute) == 8

    asyncio.run(asking())


def test_a_failure_is_not_kept() -> None:
    async def asking() -> None:
        known, model = answers(), Model([None, 7])
        assert await asyncio.gather(*(_ask(known, model) for _ in range(3))) == [None, 7, 7]
        assert model.asked == 2

    asyncio.run(asking())


def test_one_who_gives_up_leaves_the_others_to_compute() -> None:
    async def asking() -> None:
        known, model = answers(), Model([2])

        async def never() -> int | None:
            await asyncio.Event().wait()
            return 1

        first = asyncio.ensure_future(known.once(request(), never))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(_ask(known, model))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 2

    asyncio.run(asking())


def test_another_version_is_asked_anew() -> None:
    async def asking() -> None:
        known, model = answers(), Model([1, 2])
        assert await _ask(known, model) == 1
        known.forget()
        assert await _ask(known, model) == 2

    asyncio.run(asking())


def test_the_oldest_go_and_without_room_nothing_is_kept() -> None:
    async def asking() -> None:
        known, model = answers(1), Model([1, 2, 3])
        assert await _ask(known, model) == 1
        assert await known.once(request(prompt=(3,)), model.compute) == 2
        assert await _ask(known, model) == 3
        none, model = answers(0), Model([1, 2])
        assert [await _ask(none, model), await _ask(none, model)] == [1, 2]

    asyncio.run(asking())
