"""The one rule by which validation chooses a threshold."""

import numpy as np
import pytest

from r2v_dist.evaluation import ArmOutcomes, RouterRow, router_rows, selected_thresholds

TASKS, SEEDS = 20, 10


def rows(failures: dict[float, int], name: str = "r2v", by_teacher: int = 0) -> list[RouterRow]:
    """Thresholds with so many failures under seed 0, and the teacher with its own; a lower threshold makes more calls."""

    def arm(name: str, threshold: float | None, failed: int) -> ArmOutcomes:
        success_TZ = np.ones((TASKS, SEEDS))
        success_TZ[:failed, 0] = 0.0
        calls_TZ, tasks = np.full((TASKS, SEEDS), 10 * (1 - (threshold or 0.0))), tuple(map(str, range(TASKS)))
        return ArmOutcomes(
            name, threshold, 0, "validation", tasks, tuple(range(SEEDS)), success_TZ, calls_TZ, np.full((TASKS, SEEDS), 10.0)
        )

    return router_rows([arm("teacher_only", None, by_teacher), *(arm(name, *pair) for pair in failures.items())], 100, 0)


def test_the_cheapest_that_holds() -> None:
    # The worst fifth is two seeds: two failures are a CVaR of 2 / 40.
    swept = rows({0.9: 8, 0.7: 4, 0.5: 2, 0.3: 2, 0.1: 0})
    assert selected_thresholds(swept, 0.05) == {"r2v": 0.5}
    assert selected_thresholds(swept, 0.02) == {"r2v": 0.1}


def test_a_teacher_that_fails_itself_is_the_floor() -> None:
    swept = rows({0.9: 8, 0.7: 6, 0.5: 5, 0.3: 4}, by_teacher=4)
    assert selected_thresholds(swept, 0.06) == {"r2v": 0.7}
    assert selected_thresholds(swept, 0.03) == {"r2v": 0.5}


def test_where_none_holds_the_least_bad_one_is_taken() -> None:
    assert selected_thresholds(rows({0.9: 8, 0.5: 4, 0.1: 6}), 0.05) == {"r2v": 0.5}


@pytest.mark.parametrize(("name", "chosen"), [("r2v", 0.5), ("r2v_no_cvar", 0.7)])
def test_without_cvar_the_mean_counts(name: str, chosen: float) -> None:
    # Four failures of 200 episodes: a mean of .02, a CVaR of .1.
    assert selected_thresholds(rows({0.9: 20, 0.7: 4, 0.5: 2}, name), 0.05) == {name: chosen}
