"""What `r2v estimate` advises, in words."""

import json
from dataclasses import replace

import pytest

from r2v_dist.evaluation.off_policy import ThresholdEstimate
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.serving.drift import RiskTest
from r2v_dist.serving.log_report import LogReport
from r2v_dist.serving.log_traffic import CUT, LoggedTraffic

PRICES = Prices(0.02, 20.0)


def row(threshold: float, extra: tuple[float, float, float] | None) -> ThresholdEstimate:
    return ThresholdEstimate(
        threshold, 500, 200, 150.0, "", 0.94, (0.9, 0.97), 1.2, (1.0, 1.4), 0.25, (0.2, 0.3), 2.4,
        extra and extra[0], extra and extra[1:], 1.0, 0.01,
    )  # fmt: skip


def report(*rows: ThresholdEstimate, **traffic: object) -> LogReport:
    test = RiskTest()
    told = LoggedTraffic(
        "r2v", "r-1", 0.5, "slm", (), {"of another router": 3}, 900, 600, test, {}, {}
    )
    return LogReport(replace(told, **traffic), rows, PRICES)  # type: ignore[arg-type]


NOW = row(0.5, None)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((NOW, row(0.3, (-1.0, -1.6, -0.4))), "Move the threshold from 0.5 to 0.3: a conversation"),
        ((NOW, row(0.3, (-1.0, -2.1, 0.1))), "Keep the threshold 0.5: none of the other 1"),
        ((NOW,), "there is too little data on any other"),
    ],
)
def test_a_threshold_moves_where_another_certainly_costs_less(
    rows: tuple[ThresholdEstimate, ...], said: str
) -> None:
    assert said in report(*rows).actions[-1]


def test_of_several_that_cost_less_the_cheapest_is_taken() -> None:
    rows = (row(0.2, (-0.9, -1.1, -0.7)), row(0.3, (-1.0, -1.6, -0.4)), NOW)
    [action] = report(*rows).actions
    assert "to 0.3: a conversation costs 1.00 [0.40, 1.60] teacher calls less" in action
    assert "serve.threshold=0.3" in action


def test_alarms_come_first() -> None:
    test = RiskTest()
    for _ in range(60):
        test.add(0.1, True)
    found = report(NOW, risk_test=test, psi={"t": 0.9, "entropy": 0.3, "goal": 0.01})
    recalibrate, retrain, _ = found.actions
    assert "the SLM failed in 100% of 60 conversations" in recalibrate
    assert "10% was predicted" in recalibrate
    assert "2 of 3 features" in retrain
    assert "t (PSI 0.90), entropy (PSI 0.30)" in retrain


def test_steps_beyond_the_training_states_are_told_before_500_of_them() -> None:
    retrain, _ = report(NOW, beyond={"context_tokens": 0.84, "t": 0.02}).actions
    assert "Retrain: context_tokens in 84% of the steps lie beyond" in retrain


def test_weights_that_cannot_be_true_are_told() -> None:
    odd = replace(row(0.3, None), mean_weight=0.8)
    assert "Distrust the table" in report(NOW, odd).actions[0]


def test_conversations_that_were_cut_off_are_not_like_the_others() -> None:
    assert len(report(NOW, left_out={CUT: 0}).actions) == 1
    assert "Distrust the table: 4 of 4" in report(NOW, left_out={CUT: 4}).actions[0]


def test_the_table_and_its_json() -> None:
    found = report(row(0.3, (-1.0, -1.6, -0.4)), NOW, ThresholdEstimate(0.9, 500, 3, 2.0, "few"))
    text = found.render()
    assert "left out: 3 of another router" in text
    assert "* 0.5" in text
    assert "0.9  few" in text
    assert max(map(len, text.splitlines()[:-1])) <= 110
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert [one["threshold"] for one in told["thresholds"]] == [0.3, 0.5, 0.9]
