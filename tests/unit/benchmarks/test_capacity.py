"""The simulation gives the rates that arithmetic gives where one thing limits, and no number where
it disagrees with what was measured.
"""

from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from benchmarks.capacity.answers import Assumed, answers_for, check
from benchmarks.capacity.costs import Costs, Measured, Point, read_costs
from benchmarks.capacity.dispatcher import measure_loop, not_negative
from benchmarks.capacity.simulation import Shape, Simulation
from benchmarks.harness import Mismatch

FREE = Costs(*(0.0 for _ in fields(Costs)))
SHAPE = Shape(runners=4, in_flight=8, engines=2, places=4, answer_s=0.5, steps=5, cores=2)


def rate(shape: Shape = SHAPE, seconds: float = 200.0, **costs: float) -> float:
    found = Simulation(shape, replace(FREE, **costs)).watch(20.0, seconds)
    return found.steps_per_s


def test_full_engines_give_their_places_over_their_time() -> None:
    # Two engines of four places, and half a second an answer; chosen at random, so that one is
    # idle now and then while 24 of 32 questions wait for the other.
    assert rate() == pytest.approx(16.0, rel=0.03)
    outcome = Simulation(SHAPE, FREE).watch(20.0, 200.0)
    assert outcome.busy["engine"] == pytest.approx(1.0, abs=0.03)


def test_without_a_queue_the_time_of_an_answer_is_all() -> None:
    roomy = replace(SHAPE, places=1000)
    assert rate(roomy) == pytest.approx(32 / 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("costs", "steps_per_s"),
    [
        ({"runner_step": 0.08}, 25.0),  # two cores for four runners
        ({"engine_step": 0.05}, 40.0),  # of two fronts, each on a core
        ({"driver_unit": 0.25}, 20.0),  # four units of five steps
        ({"driver_loop_runner": 0.01, "driver_unit_runner": 0.05}, 25.0),
        ({"collector_step": 0.04}, 25.0),
        ({"machine_step": 0.1}, 20.0),  # of both cores
    ],
)
def test_what_is_short_of_time_limits(costs: dict[str, float], steps_per_s: float) -> None:
    roomy = replace(SHAPE, places=1000, in_flight=64)
    assert rate(roomy, **costs) <= 1.05 * steps_per_s
    assert rate(roomy, **costs) >= 0.85 * steps_per_s


def test_a_stage_ends_with_its_last_unit() -> None:
    outcome = Simulation(replace(SHAPE, places=1000), FREE).play(32)
    assert outcome.steps_per_s == pytest.approx(32 * 5 / 2.5)


def test_rates_that_differ_from_what_was_measured_are_no_basis() -> None:
    point = Point(1, 4, 1.0, 20, 1, 2, 4.0)
    assert check(Measured("here", FREE, (point,))) == pytest.approx(1.0)
    with pytest.raises(Mismatch):
        check(Measured("here", replace(FREE, runner_step=0.2), (point,)))


def test_the_measured_costs_give_the_measured_rates() -> None:
    measured = read_costs()
    assert check(measured) > 0.9
    small = answers_for(8, Assumed(places=8, answer_s=1.0, steps=20, arms=1), measured.costs)
    assert small[0].steps_per_s == pytest.approx(small[0].ideal, rel=0.1)


def test_costs_are_found_from_times_that_they_explain() -> None:
    rows = np.array([[1.0, 2, 1], [1, 8, 1], [1, 2, 4], [1, 8, 9]])
    for costs in ([3.0, 2.0, 1.0], [3.0, 0.0, 1.0]):
        assert not_negative(rows, rows @ costs) == pytest.approx(np.array(costs))


def test_no_cost_of_the_dispatchers_loop_is_negative() -> None:
    costs = measure_loop([(2, 2, 1), (2, 8, 1), (8, 2, 4), (8, 8, 4), (16, 4, 8)])
    assert min(asdict(costs).values()) >= 0
