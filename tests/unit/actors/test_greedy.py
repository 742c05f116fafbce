"""Greedy answers are computed once for each version of a model."""

import asyncio

from actors.vllm.engine import EngineRequest
from actors.vllm.greedy import GreedyAnswers, greedy_key


def request(
    seed: int = 0, temperature: float = 0.0, prompt: tuple[int, ...] = (1, 2)
) -> EngineRequest:
    return EngineRequest(list(prompt), seed, 1, temperature, 1.0, 8, 20, [0], f"id-{seed}")


def test_the_seed_decides_nothing_without_temperature() -> None:
    assert greedy_key(request(1)) == greedy_key(request(2))
    assert greedy_key(request(1)) != greedy_key(request(1, prompt=(1, 3)))
    assert greedy_key(request(1, temperature=0.7)) is None


class Model:
    def __init__(self, answers: list[int | None]) -> None:
        self.answers = answers
        self.asked = 0

    async def compute(self) -> int | None:
        self.asked += 1
        await asyncio.sleep(0)
        return self.answers[self.asked - 1]


async def _ask(known: GreedyAnswers[int | None], model: Model, key: object) -> int | None:
    return await known.once(greedy_key(request()) if key else None, model.compute)


def greedy() -> GreedyAnswers[int | None]:
    return GreedyAnswers(lambda outcome: outcome is not None)


def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    async def asking() -> None:
        known, model = greedy(), Model([7, 8])
        assert await asyncio.gather(*(_ask(known, model, "k") for _ in range(5))) == [7] * 5
        assert model.asked == 1
        assert [await _ask(known, model, None)] == [8]

    asyncio.run(asking())


def test_a_failure_is_not_kept() -> None:
    async def asking() -> None:
        known, model = greedy(), Model([None, 7])
        assert await asyncio.gather(*(_ask(known, model, "k") for _ in range(3))) == [None, 7, 7]
        assert model.asked == 2

    asyncio.run(asking())


def test_one_who_gives_up_leaves_the_others_to_compute() -> None:
    async def asking() -> None:
        known, model = greedy(), Model([2])

        async def never() -> int | None:
            await asyncio.Event().wait()
            return 1

        first = asyncio.ensure_future(known.once(greedy_key(request()), never))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(_ask(known, model, "k"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 2

    asyncio.run(asking())


def test_another_version_is_asked_anew() -> None:
    async def asking() -> None:
        known, model = greedy(), Model([1, 2])
        assert await _ask(known, model, "k") == 1
        known.forget()
        assert await _ask(known, model, "k") == 2

    asyncio.run(asking())
