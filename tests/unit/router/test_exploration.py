"""Thresholds by chance: draws that can be made again, and propensities that are the probabilities
of paths that real routers play."""

import random
from collections import defaultdict

import pytest

from r2v_dist.router.exploration import Design, Exploration, agrees
from r2v_dist.router.policies import ContextThreshold
from r2v_dist.router.step_context import StepContext
from r2v_dist.router.switching import Held, Hysteresis

DESIGN = Design((0.2, 0.4, 0.7), (0.1, 0.6, 0.3))
HELD = Hysteresis(minimum_hold=2, releases=2, most_switches=3)


def played(threshold: float, hysteresis: Hysteresis | None, seed: int) -> tuple[str, ...]:
    """Who acts in an episode whose scores depend on who acted before, by the routers that play."""
    scores = path_scores(seed)
    actors: list[str] = []
    told: list[float | None] = []
    for t in range(6):
        score = scores(tuple(actors))
        router = ContextThreshold(threshold, lambda context, now=score: now)  # type: ignore[misc]
        whole = Held(router, hysteresis, threshold) if hysteresis else router
        context = StepContext(t, (), actors=tuple(actors), scores=tuple(told))
        actors.append("teacher" if whole.decide(context, None).escalate else "slm")
        told.append(score)
    return tuple(actors)


def path_scores(seed: int):  # type: ignore[no-untyped-def]
    return lambda actors: random.Random(f"{seed} {actors}").random()


def scores_along(actors: tuple[str, ...], seed: int) -> list[float]:
    return [path_scores(seed)(actors[:t]) for t in range(len(actors))]


@pytest.mark.parametrize("hysteresis", [None, HELD])
def test_propensities_multiply_to_the_chance_of_the_path(hysteresis: Hysteresis | None) -> None:
    paths = set()
    for seed in range(60):
        chance: dict[tuple[str, ...], float] = defaultdict(float)
        for threshold, probability in zip(DESIGN.thresholds, DESIGN.probabilities, strict=True):
            chance[played(threshold, hysteresis, seed)] += probability
        for actors, expected in chance.items():
            scores = scores_along(actors, seed)
            assert DESIGN.chance_of(scores, actors, hysteresis) == pytest.approx(expected)
            product = 1.0
            for end in range(1, len(actors) + 1):
                step = DESIGN.propensity(scores[:end], actors[:end], hysteresis)
                assert step is not None
                assert 0 < step <= 1
                product *= step
            assert product == pytest.approx(expected)
            paths.add(actors)
            for threshold in DESIGN.thresholds:
                alike = played(threshold, hysteresis, seed) == actors
                assert agrees(threshold, scores, actors, hysteresis) == alike
    assert len(paths) > 10


def test_what_no_threshold_would_do_has_no_propensity() -> None:
    assert DESIGN.propensity([0.1], ["teacher"]) is None
    assert DESIGN.propensity([None, 0.5], ["slm", "slm"]) is None
    assert DESIGN.propensity([0.3], ["teacher"]) == pytest.approx(0.1)
    assert DESIGN.propensity([0.3, 0.9], ["teacher", "teacher"]) == pytest.approx(1.0)


def test_draws_are_those_of_seed_and_name_at_the_rate() -> None:
    exploring = Exploration(0.3, (0.1, 0.5), seed=4)
    names = [f"conversation {number}" for number in range(4000)]
    drawn = [exploring.drawn(name) for name in names]
    assert drawn == [exploring.drawn(name) for name in names]
    assert drawn != [Exploration(0.3, (0.1, 0.5), seed=5).drawn(name) for name in names]
    for threshold in (0.1, 0.5):
        assert drawn.count(threshold) / len(names) == pytest.approx(0.15, abs=0.02)
    assert not any(Exploration(0.0, (0.1,)).drawn(name) for name in names)


def test_a_design_adds_up_what_is_equal_and_drops_what_cannot_be() -> None:
    design = Design.of([(0.5, 0.75), (0.3, 0.25), (0.9, 0.0)])
    assert design == Design((0.3, 0.5), (0.25, 0.75))
    explored = design.explored(Exploration(0.2, (0.5, 0.8)))
    assert explored.thresholds == (0.3, 0.5, 0.8)
    assert explored.probabilities == pytest.approx((0.2, 0.7, 0.1))
    assert design.explored(Exploration(0.0, (0.8,))) == design
