"""The certificate: p-values against enumeration, and its promise over 1,000 simulated calibration
sets.
"""

import itertools
import math

import numpy as np
import pytest

from r2v_dist.stats.cvar import cvar
from r2v_dist.stats.hypothesis_tests import bernoulli_kl, binomial_cdf, hoeffding_bentkus
from r2v_dist.stats.learn_then_test import Certificate, certify, least_tasks, task_losses

RISK = DELTA = 0.1
REPETITIONS = 1000


def lower_bound(hits: int, trials: int, level: float = 0.95) -> float:
    """One-sided Clopper-Pearson: the rate at which `hits` or more has probability 1 - level."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        at_least = 1 - binomial_cdf(hits - 1, trials, middle) if hits else 1.0
        low, high = (middle, high) if at_least < 1 - level else (low, middle)
    return low


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (6, 0.1), (9, 0.5)])
def test_the_binomial_is_the_sum_over_outcomes(n: int, p: float) -> None:
    for k in range(n + 1):
        exact = sum(
            p ** sum(one) * (1 - p) ** (n - sum(one))
            for one in itertools.product((0, 1), repeat=n)
            if sum(one) <= k
        )
        assert binomial_cdf(k, n, p) == pytest.approx(exact)
    assert binomial_cdf(-1, n, p) == 0.0


def test_p_values_in_closed_form() -> None:
    # Without a loss both bounds are powers of 1 - eps, and Hoeffding's is the smaller.
    assert hoeffding_bentkus(0.0, 22, RISK) == pytest.approx(0.9**22)
    assert hoeffding_bentkus(0.2, 50, RISK) == 1.0
    kl = 0.02 * math.log(0.02 / 0.1) + 0.98 * math.log(0.98 / 0.9)
    assert bernoulli_kl(0.02, 0.1) == pytest.approx(kl)
    bentkus = math.e * sum(math.comb(100, i) * 0.1**i * 0.9 ** (100 - i) for i in range(3))
    assert hoeffding_bentkus(0.02, 100, RISK) == pytest.approx(min(math.exp(-100 * kl), bentkus))
    # 0.07 * 100 is 7.000000000000001 in floating point and must still count as 7.
    assert hoeffding_bentkus(0.07, 100, 0.3) <= math.e * binomial_cdf(7, 100, 0.3) * (1 + 1e-12)
    assert least_tasks(RISK, DELTA) == 22
    assert hoeffding_bentkus(0.0, 21, RISK) > DELTA >= hoeffding_bentkus(0.0, 22, RISK)


def test_the_sequence_stops_at_the_first_failure_and_says_why() -> None:
    losses = np.zeros((4, 60))
    losses[2] = 0.5
    found = certify([0.0, 0.3, 0.6, 0.9], losses, RISK, DELTA)
    assert found.threshold == 0.3
    assert [one.rejected for one in found.tested] == [True, True, False]
    assert "threshold 0.6 has loss 0.500 on 60 tasks" in found.reason
    few = certify([0.0, 1.0], np.zeros((2, 10)), RISK, DELTA)
    assert few.threshold is None
    assert "no feasible threshold" in few.reason
    assert "22 tasks" in few.reason
    for thresholds, bad in (
        ([1.0, 0.0], np.zeros((2, 30))),
        ([0.0], np.full((1, 30), 1.5)),
        ([0.0, 1.0], np.zeros((1, 30))),
    ):
        with pytest.raises(ValueError, match="certify needs"):
            certify(thresholds, bad, RISK, DELTA)


def test_a_task_s_loss_is_over_its_seeds() -> None:
    failures = np.array([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(task_losses(failures, "mean", 0.4), [0.2, 0.0])
    np.testing.assert_allclose(task_losses(failures, "cvar", 0.4), [cvar(failures[0], 0.4), 0.0])


def simulate(true_risks: list[float], spread: float, seed: int) -> list[Certificate]:
    """Certificates of 80 fresh tasks each; a task's loss at every threshold comes from one draw of
    how hard it is.

    Over 10 seeds a task fails each with its own probability; the smaller `spread`, the more tasks
    are all or nothing.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(REPETITIONS):
        hard_T, luck_TZ = rng.random(80), rng.random((80, 10))
        rows = []
        for true in true_risks:
            strength_T = np.where(hard_T < true / spread, spread, 0.0)
            rows.append((luck_TZ < strength_T[:, None]).mean(axis=1))
        found.append(certify(list(range(len(rows))), np.array(rows), RISK, DELTA))
    return found


def violations(found: list[Certificate], true_risks: list[float]) -> int:
    return sum(one.threshold is not None and true_risks[int(one.threshold)] > RISK for one in found)


@pytest.mark.parametrize("spread", [1.0, 0.5])
@pytest.mark.parametrize(
    "true_risks",
    [
        [0.101],
        [0.0, 0.1001, 0.1002, 0.2],
        [0.02, 0.04, 0.06, 0.08, 0.0999, 0.1001, 0.12, 0.15, 0.3],
    ],
    ids=["always-escalating-just-fails", "cliff", "slope"],
)
def test_the_promise_is_kept(true_risks: list[float], spread: float) -> None:
    found = simulate(true_risks, spread, seed=1)
    assert lower_bound(violations(found, true_risks), REPETITIONS) <= DELTA


def test_the_check_would_notice_a_broken_promise() -> None:
    """Trusting the empirical mean violates far more often than delta, and the same
    bound says so.
    """
    true_risks = [0.0, 0.1001]
    naive = sum(one.tested[-1].empirical_risk <= RISK for one in simulate(true_risks, 1.0, seed=2))
    assert lower_bound(naive, REPETITIONS) > DELTA


def test_an_easy_setting_is_certified_beyond_always_escalating() -> None:
    """80 tasks, risks .01, .02, .03 and .2 at thresholds 0 to 3, limit .1 at delta .1."""
    true_risks = [0.01, 0.02, 0.03, 0.2]
    found = simulate(true_risks, 1.0, seed=3)
    assert (
        sum(one.threshold is not None and one.threshold > 0 for one in found) >= 0.8 * REPETITIONS
    )
    assert violations(found, true_risks) <= DELTA * REPETITIONS
