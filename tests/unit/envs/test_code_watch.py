"""A call's time is counted from the first look at it on, also where the next look interrupts this
one, as it does on a busy machine.
"""

import time

import pytest

from envs.coding.in_sandbox import harness
from envs.coding.in_sandbox.harness import TimeLimit, Watch


def test_a_look_within_the_first_one_finds_no_call_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(60.0)
    looks = 0
    honest = time.process_time

    def interrupted() -> float:
        nonlocal looks
        looks += 1
        if looks < 20:
            watch.look()
        return honest()

    monkeypatch.setattr(harness.time, "process_time", interrupted)
    for call in range(3):
        looks = 0
        watch.call = call
        watch.look()
        watch.look()
        assert looks >= 20


def test_a_call_that_used_its_time_up_is_ended_and_may_begin_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(harness.time, "process_time", lambda: now)
    watch = Watch(2.0)
    watch.call = 0
    watch.look()
    now += 1.9
    watch.look()
    now += 0.2
    with pytest.raises(TimeLimit):
        watch.look()
    watch.look()  # the candidate caught it
    watch.call = 1
    now += 5.0
    watch.look()
