"""The router's losses against brute force in float64, their gradients against finite differences,
and sums over ranks.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.router.losses import (
    Episodes,
    Outcomes,
    Totals,
    ascend,
    brier_sum,
    constrained_loss,
    exact_cvar,
    latched,
    latched_outcomes,
    log_loss_sum,
    paper_outcomes,
)

SEEDS, STEPS, PRICE = 10, 5, 0.02


def alone(values: Tensor) -> Tensor:
    return values


def random_episodes(count: int, seed: int = 0) -> tuple[Episodes, Tensor]:
    """Episodes of one to STEPS steps, at least one a seed, and a probability of escalation for each
    step.
    """
    rng = np.random.default_rng(seed)
    mask = np.arange(STEPS) < rng.integers(1, STEPS + 1, count)[:, None]
    arrays = [
        mask.astype(float),
        rng.random((count, STEPS)) * mask,
        rng.integers(1, 6, (count, STEPS)) * mask * 1.0,
    ]
    lost, seeds = rng.integers(0, 2, count).astype(float), np.arange(count) % SEEDS
    return Episodes(
        *map(torch.tensor, arrays), torch.tensor(lost), torch.tensor(seeds)
    ), torch.tensor(rng.random((count, STEPS)))


def totals(episodes: Episodes, ranks: int = 1) -> Totals:
    steps = np.bincount(episodes.seed_E, episodes.mask_ET.sum(dim=1), SEEDS)
    return Totals(
        ranks,
        torch.tensor(np.bincount(episodes.seed_E, minlength=SEEDS) * 1.0),
        torch.tensor(steps),
        3.5,
    )


def walk(p: list[float], e: int, episodes: Episodes) -> tuple[float, float, float]:
    """Failure, teacher steps and SLM calls of one episode, summed over every step at which the
    hand-over may come.
    """
    alive, failure, teacher, calls = 1.0, 0.0, 0.0, 0.0
    length = int(episodes.mask_ET[e].sum())
    for t in range(length):
        calls += alive
        failure += alive * p[t] * float(episodes.rhoT_ET[e, t])
        teacher += alive * p[t] * float(episodes.m_ET[e, t])
        alive *= 1 - p[t]
    return failure + alive * float(episodes.lost_E[e]), teacher, calls


def worst_mean(failures: np.ndarray, alpha: float) -> float:
    """CVaR by definition: the least over eta of eta + mean excess / alpha, tried at every kink."""
    return min(eta + np.maximum(failures - eta, 0).mean() / alpha for eta in failures)


def objective(p: np.ndarray, episodes: Episodes, multiplier: float, alpha: float) -> float:
    """cost + lambda CVaR of the whole batch, by loops."""
    walks = np.array([walk(list(p[e]), e, episodes) for e in range(len(p))])
    rates = np.array([walks[episodes.seed_E.numpy() == z, 0].mean() for z in range(SEEDS)])
    return float(
        (walks[:, 1] + PRICE * walks[:, 2]).mean() / 3.5 + multiplier * worst_mean(rates, alpha)
    )


def test_brier_of_soft_labels_is_that_of_single_branches_up_to_a_constant() -> None:
    rng = np.random.default_rng(1)
    n, risk = rng.integers(1, 6, 40), rng.random((2, 40))
    branches = [rng.integers(0, 2, count) for count in n]
    rho = torch.tensor([b.mean() for b in branches])
    single = [sum(((r - b) ** 2).sum() for r, b in zip(row, branches, strict=True)) for row in risk]
    soft = [float(brier_sum(torch.tensor(row), rho, torch.tensor(n * 1.0))) for row in risk]
    assert soft[0] - soft[1] == pytest.approx(single[0] - single[1], abs=1e-12)


def test_log_loss_of_soft_labels_is_that_of_single_branches() -> None:
    rng = np.random.default_rng(1)
    n, p = rng.integers(1, 6, 40), rng.random(40)
    branches = [rng.integers(0, 2, count) for count in n]
    single = -sum(
        np.log(np.where(b == 1, q, 1 - q)).sum() for q, b in zip(p, branches, strict=True)
    )
    share = torch.tensor([b.mean() for b in branches])
    assert float(
        log_loss_sum(torch.tensor(np.log(p / (1 - p))), share, torch.tensor(n * 1.0))
    ) == pytest.approx(single, rel=1e-12)


def test_the_latched_surrogate_is_the_sum_over_hand_overs() -> None:
    episodes, p_ET = random_episodes(40)
    found = torch.stack(latched(p_ET, episodes), dim=1)
    expected = torch.tensor(
        [walk(p_ET[e].tolist(), e, episodes) for e in range(40)], dtype=torch.float64
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_hard_zero_and_one_are_the_policies_themselves() -> None:
    episodes, p_ET = random_episodes(30)
    failure_E, teacher_E, _ = latched(torch.zeros_like(p_ET), episodes)
    assert torch.equal(failure_E, episodes.lost_E)
    assert not teacher_E.any()
    failure_E, teacher_E, calls_E = latched(torch.ones_like(p_ET), episodes)
    assert torch.equal(failure_E, episodes.rhoT_ET[:, 0])
    assert torch.equal(teacher_E, episodes.m_ET[:, 0])
    assert torch.equal(calls_E, torch.ones_like(calls_E))


@pytest.mark.parametrize("alpha", [0.2, 0.25, 0.37, 1.0])
def test_exact_cvar_is_the_rockafellar_uryasev_minimum_and_its_weights_the_gradient(
    alpha: float,
) -> None:
    failures = torch.tensor(np.random.default_rng(3).random(SEEDS))
    tail = exact_cvar(failures, alpha)
    assert tail.value == pytest.approx(worst_mean(failures.numpy(), alpha), abs=1e-12)
    for z in range(SEEDS):
        step = torch.zeros_like(failures)
        step[z] = 1e-6
        slope = (
            worst_mean((failures + step).numpy(), alpha)
            - worst_mean((failures - step).numpy(), alpha)
        ) / 2e-6
        assert float(tail.weight_Z[z]) == pytest.approx(slope, abs=1e-6)


def test_the_gradient_of_the_latched_loss_is_that_of_finite_differences() -> None:
    episodes, p_ET = random_episodes(30, seed=5)
    p_ET.requires_grad_()
    loss, tail, cost = constrained_loss(
        latched_outcomes(p_ET, episodes, totals(episodes), PRICE),
        totals(episodes),
        2.5,
        0.25,
        alone,
    )
    loss.backward()
    p = p_ET.detach().numpy()
    assert cost + 2.5 * tail.value == pytest.approx(objective(p, episodes, 2.5, 0.25), abs=1e-12)
    assert p_ET.grad is not None
    for e, t in [(0, 0), (3, 1), (7, 2), (12, 0), (29, 0)]:
        up, down = p.copy(), p.copy()
        up[e, t] += 1e-6
        down[e, t] -= 1e-6
        slope = (objective(up, episodes, 2.5, 0.25) - objective(down, episodes, 2.5, 0.25)) / 2e-6
        assert float(p_ET.grad[e, t]) == pytest.approx(slope, abs=1e-7)


def test_the_papers_surrogate_is_a_mean_over_steps() -> None:
    episodes, p_ET = random_episodes(30)
    found = paper_outcomes(p_ET, episodes, totals(episodes))
    steps = [
        (int(episodes.seed_E[e]), float(episodes.lost_E[e]), float(p_ET[e, t]))
        for e, t in np.argwhere(episodes.mask_ET.numpy())
    ]
    for z in range(SEEDS):
        assert float(found.failure_Z[z] / found.per_Z[z]) == pytest.approx(
            np.mean([lost * (1 - p) for seed, lost, p in steps if seed == z])
        )
    assert float(found.cost) / found.per == pytest.approx(np.mean([p for *_, p in steps]))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_agree_with_one(ranks: int) -> None:
    episodes, p_ET = random_episodes(43)
    p_ET.requires_grad_()
    whole, tail, cost = constrained_loss(
        latched_outcomes(p_ET, episodes, totals(episodes), PRICE),
        totals(episodes),
        2.0,
        0.25,
        alone,
    )
    [expected] = torch.autograd.grad(whole, p_ET)
    shares = [torch.arange(43) % ranks == rank for rank in range(ranks)]
    parts = [
        Episodes(*(getattr(episodes, name)[mine] for name in Episodes.__dataclass_fields__))
        for mine in shares
    ]
    outcomes = [
        latched_outcomes(p_ET[mine], part, totals(episodes, ranks), PRICE)
        for mine, part in zip(shares, parts, strict=True)
    ]
    found = [
        constrained_loss(one, totals(episodes, ranks), 2.0, 0.25, adds(outcomes))
        for one in outcomes
    ]
    assert all(
        (one[1].value, one[2])
        == (pytest.approx(tail.value, rel=1e-12), pytest.approx(cost, rel=1e-12))
        for one in found
    )
    averaged = torch.stack([one[0] for one in found]).mean()
    assert float(averaged.detach()) == pytest.approx(float(whole.detach()), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(averaged, p_ET)[0], expected, rtol=1e-10, atol=1e-14
    )


def adds(outcomes: list[Outcomes]) -> Callable[[Tensor], Tensor]:
    """What an all-reduce gives every rank."""
    summed = sum(torch.cat([one.failure_Z.detach(), one.cost.detach()[None]]) for one in outcomes)
    assert isinstance(summed, Tensor)
    return lambda _: summed


def test_lambda_ascends_with_the_violation_and_stays_in_its_bounds() -> None:
    assert ascend(1.0, 0.2, 0.05, 20.0) == pytest.approx(1.01)
    assert ascend(0.001, -0.2, 0.05, 20.0) == 0.0
    assert ascend(19.999, 0.2, 0.05, 20.0) == 20.0
