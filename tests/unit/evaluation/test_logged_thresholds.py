"""Thresholds from logged conversations, in the simulated world, whose values are known exactly."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.off_policy import PRICES, Traffic, covered, traffic, true_values
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.off_policy import LEAST, LoggedConversation, OffPolicy
from r2v_dist.router.exploration import Design


@pytest.fixture(scope="module")
def played() -> Traffic:
    return traffic(rate=0.6, seed=3)


@pytest.fixture(scope="module")
def log(played: Traffic) -> list[LoggedConversation]:
    return played.log(0, 1000, np.random.default_rng(3))


def test_every_threshold_that_was_explored_is_estimated(
    played: Traffic, log: list[LoggedConversation]
) -> None:
    rows = OffPolicy(log, played.now, PRICES).estimates()
    assert [row.threshold for row in rows] == list(played.design.thresholds)
    for row in rows:
        truth = true_values(played.exact, row.threshold)
        assert row.success is not None
        assert row.success == pytest.approx(truth["success"], abs=0.06)
        assert row.calls == pytest.approx(truth["calls"], abs=0.5)
        assert row.call_rate == pytest.approx(truth["call_rate"], abs=0.06)
        assert row.cost == pytest.approx(truth["cost"], abs=1.4)
        assert (row.mean_weight or 0) == pytest.approx(1, abs=4 * (row.mean_weight_error or 0))
        assert LEAST <= row.effective <= row.alike <= row.conversations == 1000


def test_the_served_threshold_of_a_log_without_chance_is_its_plain_mean(played: Traffic) -> None:
    alone = replace(played, exploration=replace(played.exploration, rate=0.0))
    alone = replace(alone, design=Design.of([(played.now, 1.0)]))
    log = alone.log(0, 200, np.random.default_rng(0))
    [row] = OffPolicy(log, played.now, PRICES).estimates()
    assert row.success == pytest.approx(np.mean([one.success for one in log]))
    assert row.calls == pytest.approx(np.mean([one.calls for one in log]))
    assert row.effective == pytest.approx(200)
    assert row.extra_cost is None


def test_a_conversation_without_overlap_is_not_taken_for_one_that_disagrees(
    played: Traffic, log: list[LoggedConversation]
) -> None:
    certain = Design.of([(played.now, 1.0)])
    earlier = [
        replace(one, drawn_by=f"earlier {one.drawn_by}", design=certain, propensities=(1.0,))
        for one in log
        if one.propensity > 0.3
    ]
    joined = OffPolicy([*log, *earlier], played.now, PRICES)
    alone = OffPolicy(log, played.now, PRICES)
    other = played.design.thresholds[0]
    assert joined.at(other) == alone.at(other)
    assert joined.at(played.now).conversations == len(log) + len(earlier)


@pytest.mark.parametrize(
    ("count", "threshold", "said"),
    [(1000, 0.123, "no overlap"), (LEAST - 1, 0.123, f"an estimate takes {LEAST}")],
)
def test_what_cannot_be_estimated_is_told_in_a_line(
    played: Traffic, log: list[LoggedConversation], count: int, threshold: float, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        OffPolicy(log[:count], played.now, PRICES).at(threshold)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_conversations_like_it_give_a_reason_and_no_number(
    played: Traffic, log: list[LoggedConversation]
) -> None:
    row = OffPolicy(log[:60], played.now, PRICES).at(played.design.thresholds[0])
    assert row.success is None
    assert "are needed" in row.problem


@pytest.mark.slow
def test_intervals_hold_the_live_value_at_the_nominal_rate(played: Traffic) -> None:
    shares = []
    for tally in covered(played, logs=120, conversations=600, seed=1).values():
        assert len(tally.errors) > 100
        shares.append(list(tally.coverage().values()))
    assert np.mean([np.mean(held[:3]) for held in shares]) > 0.95 - 0.02
    assert min(map(min, shares)) > 0.95 - 4 * (0.95 * 0.05 / 120) ** 0.5
