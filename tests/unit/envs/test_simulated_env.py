"""The simulated world: a checked env, the same luck everywhere, and exact values against
enumeration and against samples.
"""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs.make  # noqa: F401 -- registers
from envs.simulated.env import SimulatedEnv
from envs.simulated.exact import Exact, Score, scores
from envs.simulated.labels import all_cells, cell_of, draw_labels
from envs.simulated.optimum import Frontier
from envs.simulated.world import World, symptom, uniforms
from r2v_dist.config.simulated import SLM_PRICE
from r2v_dist.evaluation.handover import (
    LatchedEpisodes,
    LatchedPoint,
    cheapest,
    cheapest_mix,
    sweep,
    threshold_outcomes,
)
from r2v_dist.labels.table import LabelTable
from r2v_dist.stats.cvar import cvar

ZS = range(20)
TINY = World(
    parts=1,
    max_steps=2,
    difficulty_VD=((0.7, 0.3), (0.2, 0.8)),
    cue_DE=((0.8, 0.2), (0.3, 0.7)),
    slm_slip_D=(0.2, 0.6),
    slm_jam_slip_V=(0.3, 0.5),
    fatal_D=(0.1, 0.5),
)


def best_threshold(
    exact: Exact, score_TIJEV: np.ndarray, zs: range, alpha: float, epsilon: float
) -> Score | None:
    """The cheapest feasible threshold on a score, by evaluating all of them."""
    taus = np.append(np.unique(score_TIJEV[exact.reached_TIJEV > 0]), np.inf)
    outcomes = exact.evaluate((score_TIJEV >= taus[:, None, None, None, None, None]).astype(float))
    feasible = [score for score in scores(outcomes, zs, alpha) if score.cvar <= epsilon + 1e-12]
    return min(feasible, key=lambda score: score.cost, default=None)


@pytest.fixture(scope="module")
def exact() -> Exact:
    return Exact(World())


@pytest.fixture(scope="module")
def labels() -> LabelTable:
    return draw_labels(World(), "train", range(300), ZS, 3)


def play(env: SimulatedEnv) -> bool:
    env.reset()
    while True:
        _, reward, terminated, truncated, _ = env.step(env.slm_action())
        if terminated or truncated:
            return reward > 0


def risk(world: World, t: int, jammed: bool, cue: int | None, v: int, actors: str) -> float:
    """Failure probability of a one-part task, by recursion over every difficulty and slip. `actors`
    has a letter a step left.
    """
    if t == world.max_steps:
        return 1.0
    total = 0.0
    for d, share in enumerate(world.difficulty_VD[v]):
        for e, seen in enumerate(world.cue_DE[d]):
            if cue is not None and e != cue:
                continue
            slip = (
                world.teacher_slip
                if actors[0] == "t"
                else world.slm_jam_slip_V[v]
                if jammed
                else world.slm_slip_D[d]
            )
            fatal = world.fatal_D[d]
            after_right = risk(world, t + 1, False, None, v, actors[1:]) if jammed else 0.0
            after_wrong = fatal + (1 - fatal) * risk(world, t + 1, True, None, v, actors[1:])
            total += share * seen * ((1 - slip) * after_right + slip * after_wrong)
    return total / (
        1.0
        if cue is None
        else sum(s * world.cue_DE[d][cue] for d, s in enumerate(world.difficulty_VD[v]))
    )


def test_passes_gymnasiums_checker_and_the_expert_wins() -> None:
    env = gymnasium.make("r2v/Simulated-v0", task=3, z=9)
    check_env(env.unwrapped, skip_render_check=True)
    observation, info = env.reset()
    assert "part 1 of 4" in observation
    assert info["goal"]
    for _ in range(4):
        action = env.unwrapped.expert_action()  # type: ignore[attr-defined]
        observation, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["stop_reason"]) == (1.0, True, "won")


def test_a_wrong_action_jams_or_breaks_and_time_runs_out() -> None:
    endings = set()
    for task in range(30):
        env = SimulatedEnv(task, 3)
        env.reset()
        while True:
            _, reward, terminated, truncated, info = env.step("wait")
            assert reward == 0.0
            if terminated or truncated:
                endings.add(info["stop_reason"])
                break
            assert env.expert_action() == "clear the jam"
    assert endings == {"lost", "step_limit"}


def test_env_and_bulk_simulator_meet_the_same_luck(labels: LabelTable) -> None:
    first = labels.t == 0
    own = {
        (task, z): won
        for task, z, won in zip(
            labels.task[first], labels.z[first].tolist(), labels.own_success[first], strict=True
        )
    }
    for task, z in itertools.product(range(40), (0, 7, 8, 9)):
        assert play(SimulatedEnv(task, z)) == own[f"line-{task}", z]


def test_uniforms_are_uniform_and_independent_across_names() -> None:
    draws = uniforms(1, np.arange(300)[:, None], np.arange(300)[None], 0, 2).ravel()
    histogram = np.bincount((draws * 20).astype(int), minlength=20)
    assert (
        (histogram - 4500) ** 2 / 4500
    ).sum() < 45  # chi square, 19 degrees of freedom: 0.999 quantile 43.8
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.015
    assert (
        abs(
            np.corrcoef(
                draws, uniforms(2, np.arange(300)[:, None], np.arange(300)[None], 0, 2).ravel()
            )[0, 1]
        )
        < 0.015
    )


def test_exact_risks_are_those_of_enumeration() -> None:
    exact = Exact(TINY)
    for v, e in itertools.product(range(2), range(2)):
        assert exact.rho[0, 0, 0, e, v] == pytest.approx(
            risk(TINY, 0, False, e, v, "ss"), abs=1e-12
        )
        assert exact.rho1[0, 0, 0, e, v] == pytest.approx(
            risk(TINY, 0, False, e, v, "ts"), abs=1e-12
        )
        assert exact.rhoT[0, 0, 0, e, v] == pytest.approx(
            risk(TINY, 0, False, e, v, "tt"), abs=1e-12
        )
        assert exact.rho[1, 0, 1, e, v] == pytest.approx(risk(TINY, 1, True, e, v, "s"), abs=1e-12)
        fatal = sum(
            s * TINY.cue_DE[d][e] * TINY.fatal_D[d] for d, s in enumerate(TINY.difficulty_VD[v])
        )
        fatal /= sum(s * TINY.cue_DE[d][e] for d, s in enumerate(TINY.difficulty_VD[v]))
        assert exact.m[0, 0, 0, e, v] == pytest.approx(
            1 + TINY.teacher_slip * (1 - fatal), abs=1e-12
        )


def test_labels_are_unbiased_for_the_exact_values(exact: Exact, labels: LabelTable) -> None:
    cells = cell_of(exact.world, labels.features_NF)
    tasks, task_N = np.unique(labels.task, return_inverse=True)
    for label, truth in (
        (labels.rho, exact.rho),
        (labels.rho1, exact.rho1),
        (labels.rhoT, exact.rhoT),
        (labels.m, exact.m),
    ):
        for keep in (labels.t >= 0, cells[2] == 1, cells[3] == 4, cells[4] == 3):
            error = np.bincount(task_N, np.where(keep, label - truth[cells], 0.0), len(tasks))
            assert abs(error.mean()) < 4 * error.std() / len(tasks) ** 0.5


def test_exact_outcomes_of_thresholds_are_those_of_the_labelled_episodes(
    exact: Exact, labels: LabelTable
) -> None:
    cells, episodes = cell_of(exact.world, labels.features_NF), LatchedEpisodes.of(labels)
    assert (len(episodes), episodes.dropped) == (6000, 0)
    for tau in (0.05, 0.3, 0.5, np.inf):
        failure_E, cost_E = threshold_outcomes(episodes, exact.rho[cells], tau, SLM_PRICE)
        outcome = exact.evaluate((exact.rho >= tau).astype(float))
        for v in range(4):
            mine = np.array([symptom(z) == v for z in episodes.z_E.tolist()])
            for sample, truth in (
                (failure_E[mine], outcome.failure_BV[v]),
                (cost_E[mine], outcome.cost_BV[v]),
            ):
                assert abs(sample.mean() - truth) < 5 * sample.std() / mine.sum() ** 0.5 + 1e-12


def test_no_router_of_a_small_world_beats_the_hull_and_its_vertices_are_routers() -> None:
    exact = Exact(TINY)
    cells = np.argwhere(exact.reached_TIJEV > 0)
    choices = np.array(list(itertools.product((0.0, 1.0), repeat=len(cells))))
    policies = np.zeros((len(choices), *exact.shape))
    policies[:, *cells.T] = choices
    outcome = exact.evaluate(policies)
    for v, curve in enumerate(Frontier(exact).curves):
        line = np.interp(outcome.failure_BV[:, v], curve[::-1, 0], curve[::-1, 1])
        inside = outcome.failure_BV[:, v] <= curve[0, 0] + 1e-12
        assert (outcome.cost_BV[inside, v] >= line[inside] - 1e-9).all()
        points = np.stack([outcome.failure_BV[:, v], outcome.cost_BV[:, v]], axis=1)
        assert all(np.abs(points - vertex).max(axis=1).min() < 1e-12 for vertex in curve)


def test_the_optimum_is_feasible_tight_and_below_every_policy_tried(exact: Exact) -> None:
    best = Frontier(exact).best(ZS, 0.2, 0.1)
    assert cvar(best.failure_V[[symptom(z) for z in ZS]], 0.2) == pytest.approx(0.1, abs=1e-9)
    gain = (exact.rho - exact.rhoT) / exact.m
    for score in (
        exact.rho,
        exact.rho - exact.rho1,
        gain,
        gain + 0.05 * np.random.default_rng(0).random(exact.shape),
    ):
        threshold = best_threshold(exact, score, ZS, 0.2, 0.1)
        assert threshold is not None
        assert threshold.cost > best.cost
    # Randomised between prices, policies per symptom: the linear program must not lose to them
    # either.
    prices = np.geomspace(1, 100, 25)
    outcome = exact.evaluate(exact.best_responses(prices))
    symptoms = [symptom(z) for z in ZS]
    for combination in itertools.product(range(0, 25, 4), repeat=4):
        failure_V = outcome.failure_BV[list(combination), range(4)]
        if cvar(failure_V[symptoms], 0.2) <= 0.1:
            assert outcome.cost_BV[list(combination), range(4)][symptoms].mean() >= best.cost - 1e-9


def test_a_bound_on_the_mean_violates_cvar(exact: Exact) -> None:
    frontier = Frontier(exact)
    mean_best = frontier.best(ZS, 1.0, 0.1)
    failures = mean_best.failure_V[[symptom(z) for z in ZS]]
    assert failures.mean() == pytest.approx(0.1, abs=1e-9)
    assert cvar(failures, 0.2) > 0.25
    assert mean_best.cost < frontier.best(ZS, 0.2, 0.1).cost
    with pytest.raises(ValueError, match="safest"):
        frontier.best(ZS, 0.2, 0.005)


def test_the_mean_is_bounded_so_that_the_tail_is_equal(exact: Exact) -> None:
    frontier = Frontier(exact)
    bound = frontier.mean_bound(ZS, 0.2, 0.1)
    bounded = frontier.best(ZS, 1.0, bound)
    failures = bounded.failure_V[[symptom(z) for z in ZS]]
    assert failures.mean() == pytest.approx(bound)
    assert cvar(failures, 0.2) == pytest.approx(0.1, abs=1e-3)
    assert frontier.best(ZS, 0.2, 0.1).cost < bounded.cost
    # Where the mean is the tail, the bound is the same.
    assert frontier.mean_bound(ZS, 1.0, 0.1) == pytest.approx(0.1, abs=1e-4)


def test_handing_back_is_never_dearer(exact: Exact) -> None:
    assert (
        Frontier(exact, latched=False).best(ZS, 0.2, 0.1).cost
        < Frontier(exact).best(ZS, 0.2, 0.1).cost
    )


def test_the_cheapest_threshold_is_found_and_none_where_none_is(
    exact: Exact, labels: LabelTable
) -> None:
    episodes = LatchedEpisodes.of(labels)
    score_N = exact.rho[cell_of(exact.world, labels.features_NF)]
    points = sweep(episodes, score_N, 0.2, SLM_PRICE)
    for point in points[:: len(points) // 7]:
        failure_E, cost_E = threshold_outcomes(episodes, score_N, point.threshold, SLM_PRICE)
        rates = [failure_E[episodes.z_E == z].mean() for z in ZS]
        found = (point.cost, point.failure, point.cvar)
        assert found == pytest.approx(
            (cost_E.mean(), failure_E.mean(), cvar(np.array(rates), 0.2)), abs=1e-12
        )
    chosen = cheapest(points, 0.1)
    assert chosen is not None
    assert chosen.cvar <= 0.1
    truth = scores(exact.evaluate((exact.rho >= chosen.threshold).astype(float)), ZS, 0.2)[0]
    assert truth.cvar == pytest.approx(chosen.cvar, abs=0.03)
    assert cheapest(points, 0.0001) is None


def test_cells_and_features_are_inverse(exact: Exact) -> None:
    grid = np.indices(exact.shape)
    for found, expected in zip(cell_of(exact.world, all_cells(exact.world)), grid, strict=True):
        assert np.array_equal(found, expected.ravel())


def test_no_pair_of_thresholds_is_cheaper_than_the_mix() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, tails = np.sort(rng.random(8))[::-1], np.sort(rng.random(8))
        points = [
            LatchedPoint(float(i), float(cost), 0.0, float(tail))
            for i, (cost, tail) in enumerate(zip(costs, tails, strict=True))
        ]
        shares = np.linspace(0, 1, 401)
        feasible = [
            share * a.cost + (1 - share) * b.cost
            for a, b in itertools.product(points, points)
            for share in shares
            if share * a.cvar + (1 - share) * b.cvar <= 0.5
        ]
        mix = cheapest_mix(points, 0.5)
        assert mix is not None
        expensive, cheap = points[int(mix.expensive)], points[int(mix.cheap)]
        assert mix.cost == pytest.approx(mix.share * expensive.cost + (1 - mix.share) * cheap.cost)
        assert mix.share * expensive.cvar + (1 - mix.share) * cheap.cvar <= 0.5 + 1e-12
        assert min(feasible) - 0.01 < mix.cost <= min(feasible) + 1e-9
    alone = cheapest_mix([LatchedPoint(0.0, 4.0, 0.0, 0.1), LatchedPoint(1.0, 1.0, 0.0, 0.2)], 0.2)
    assert alone is not None
    assert (alone.expensive, alone.cheap, alone.share, alone.cost) == (1.0, 1.0, 1.0, 1.0)
    assert cheapest_mix([LatchedPoint(0.0, 4.0, 0.0, 0.3)], 0.2) is None


def test_mixing_two_routers_mixes_what_they_come_to(exact: Exact) -> None:
    slm, teacher = exact.evaluate(np.zeros(exact.shape)), exact.evaluate(np.ones(exact.shape))
    mixed = slm.mixed(teacher, 0.25)
    np.testing.assert_allclose(mixed.failure_BV, 0.25 * slm.failure_BV + 0.75 * teacher.failure_BV)
    np.testing.assert_allclose(mixed.cost_BV, 0.25 * slm.cost_BV + 0.75 * teacher.cost_BV)
