"""The latest traffic: what the page counts and where scores lie."""

import pytest

from r2v_dist.serving.recent import BINS, SCORES, Recent


def test_answers_of_the_last_minute_are_counted() -> None:
    now = [0.0]
    recent = Recent(lambda: now[0])
    for second in range(100):
        now[0] = second + 0.5
        recent.answered()
        recent.answered()
    assert recent.per_minute == 120
    now[0] = 130.0
    assert recent.per_minute == 58  # those of seconds 71 to 99
    now[0] = 1000.0
    assert recent.per_minute == 0


def test_scores_lie_beside_the_thresholds_that_are_near() -> None:
    recent = Recent()
    assert recent.histogram([0.5]) is None
    for place in range(SCORES + 500):
        recent.scored(place % 10 / 10, place % 10 >= 5)
    told = recent.histogram([0.5, 1.5, 1e9])
    assert told is not None
    assert told["count"] == SCORES == sum(told["slm"]) + sum(told["teacher"])
    assert sum(told["teacher"]) == SCORES / 2
    assert len(told["slm"]) == BINS
    assert told["least"] < 0.0
    assert 1.5 < told["most"] < 2.0


@pytest.mark.parametrize("score", [0.0, -3.0, 1e-9])
def test_one_score_alone_has_a_bin(score: float) -> None:
    recent = Recent()
    recent.scored(score, False)
    told = recent.histogram([score])
    assert told is not None
    assert told["least"] < score < told["most"]
    assert sum(told["slm"]) == 1
