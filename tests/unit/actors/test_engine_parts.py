"""What an engine is started again for, what it computes at once, and where its ranks go."""

import asyncio

import pytest

from actors.vllm.admission import Admission
from actors.vllm.health import Limits, Report, State, Verdict, Watch
from actors.vllm.placement import bundles_of
from r2v_dist.config.models import ModelConfig

LIMITS = Limits(request_s=60.0, start_s=600.0, load_s=300.0)


def serving(tokens: int = 0, **rest: float | str) -> Report:
    values = {"version": "v1", "computing": 4, "waiting": 4000, **rest}
    return Report(State.SERVING, tokens=tokens, **values)  # type: ignore[arg-type]


def test_an_engine_that_is_slow_and_has_a_long_queue_is_left_alone() -> None:
    watch = Watch(LIMITS)
    for tokens in range(100):
        report = serving(tokens, silent_s=100.0)
        assert watch.judge(report, "v1", 1e6) is Verdict.NOTHING


def test_a_cold_start_of_ten_minutes_is_no_death() -> None:
    watch = Watch(LIMITS)
    for second in range(0, 600, 5):
        report = None if second < 120 else Report(State.STARTING)
        assert watch.judge(report, "v1", float(second)) is Verdict.NOTHING
    assert watch.judge(Report(State.STARTING), "v1", 601.0) is Verdict.RESTART
    assert watch.problem.startswith("it did not start within 600 s")


def test_an_engine_that_sleeps_is_left_alone() -> None:
    watch = Watch(LIMITS)
    assert watch.judge(Report(State.ASLEEP), "v1", 1e6, 1e6) is Verdict.NOTHING


def test_three_silences_in_a_row_are_a_death_and_two_are_not() -> None:
    watch = Watch(LIMITS)
    replies = [serving(), None, None, serving(), None, None]
    assert {watch.judge(reply, "v1", 1e6) for reply in replies} == {Verdict.NOTHING}
    assert watch.judge(None, "v1", 1e6) is Verdict.RESTART


def test_an_engine_that_computes_and_never_answers_is_stuck() -> None:
    watch = Watch(LIMITS)
    assert watch.judge(serving(silent_s=119.0), "v1", 1e6) is Verdict.NOTHING
    assert watch.judge(serving(silent_s=121.0), "v1", 1e6) is Verdict.RESTART
    assert watch.judge(serving(silent_s=121.0, computing=0), "v1", 1e6) is Verdict.NOTHING


def test_an_engines_own_error_is_its_problem() -> None:
    watch = Watch(LIMITS)
    failed = Report(State.FAILED, problem="EngineDeadError: x")
    assert watch.judge(failed, "v1", 0.0) is Verdict.RESTART
    assert watch.problem == "EngineDeadError: x"


def test_a_process_that_came_back_is_told_what_to_serve() -> None:
    watch = Watch(LIMITS)
    watch.started()
    assert watch.judge(Report(State.EMPTY), "v1", 1.0) is Verdict.SERVE
    assert watch.judge(serving(), "v2", 1.0) is Verdict.SERVE
    assert watch.restarts == 1
    watch.judge(serving(tokens=5), "v1", 1.0)
    assert watch.restarts == 0


def test_weights_that_do_not_come_have_a_deadline() -> None:
    watch = Watch(LIMITS)
    assert watch.judge(serving(), "v2", 1e6, outdated_s=299.0) is Verdict.SERVE
    assert watch.judge(serving(), "v2", 1e6, outdated_s=301.0) is Verdict.RESTART


def test_what_does_not_fit_waits_in_order_of_arrival() -> None:
    order: list[str] = []

    async def enter(room: Admission, name: str, size: int, over: asyncio.Event) -> None:
        async with room.room(size):
            order.append(name)
            await over.wait()

    async def play() -> None:
        room = Admission(4)
        events = [asyncio.Event() for _ in range(5)]
        names = [("a", 3), ("b", 2), ("c", 1), ("gone", 1), ("large", 9)]
        tasks = []
        for (name, size), event in zip(names, events, strict=True):
            tasks.append(asyncio.ensure_future(enter(room, name, size, event)))
        await asyncio.sleep(0)
        assert (order, room.waiting) == (["a"], 4)
        tasks[3].cancel()
        events[0].set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert (order, room.waiting) == (["a", "b", "c"], 1)
        events[1].set()
        events[2].set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert order[-1] == "large"
        events[4].set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with room.room(4):
            assert room.waiting == 0

    asyncio.run(asyncio.wait_for(play(), 10))


@pytest.mark.parametrize(
    ("parallel", "largest", "strategy", "gpus", "across"),
    [
        ({}, 8, "", [], False),
        ({"tensor_parallel": 4}, 0, "", [], False),
        ({"tensor_parallel": 4}, 8, "STRICT_PACK", [4.0], False),
        ({"tensor_parallel": 4, "pipeline_parallel": 2}, 8, "STRICT_PACK", [8.0], False),
        ({"tensor_parallel": 4, "pipeline_parallel": 2}, 4, "PACK", [1.0] * 8, True),
    ],
)
def test_an_engine_is_on_one_node_where_one_can_hold_it(
    parallel: dict[str, int], largest: float, strategy: str, gpus: list[float], across: bool
) -> None:
    config = ModelConfig.model_validate({"backend": "vllm", "model": "m", **parallel})
    bundles = bundles_of(config, largest)
    assert (bundles.strategy, bundles.across_nodes) == (strategy, across)
    assert [bundle["GPU"] for bundle in bundles.resources] == gpus


def test_a_kind_of_gpu_is_asked_for_in_every_bundle() -> None:
    config = ModelConfig(backend="vllm", model="m", tensor_parallel=2, accelerator_type="H100")
    [bundle] = bundles_of(config, 8).resources
    assert bundle == {"GPU": 2.0, "accelerator_type:H100": 0.001}
