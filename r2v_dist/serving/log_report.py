"""What a request log tells, as a table, as JSON, and as what to do. Nothing is computed here: the
numbers are those of `evaluation.off_policy`, the alarms those of `drift.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r2v_dist.evaluation.off_policy import ThresholdEstimate
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.serving.drift import ALARM, WINDOW, said_of_range
from r2v_dist.serving.log_traffic import CUT, LoggedTraffic
from r2v_dist.stats.off_policy import Interval

_SHOWN_FEATURES = 4
_MOST_CUT = 0.05
_UNTRUE = 4.0
"""Standard errors between the mean weight and 1 beyond which propensities are not believed."""


@dataclass(frozen=True)
class LogReport:
    """Thresholds, ascending, or why there are none (`problem`), and the traffic they are from."""

    traffic: LoggedTraffic
    rows: Sequence[ThresholdEstimate]
    prices: Prices
    problem: str = ""

    @property
    def actions(self) -> list[str]:
        """What to do, in words, the most urgent first."""
        actions = [*self._of_risk(), *self._of_features(), *self._of_weights(), *self._of_cuts()]
        return [*actions, self._of_threshold()]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        traffic = self.traffic
        return {
            "router": traffic.router,
            "router_version": traffic.router_version,
            "threshold": traffic.now,
            "answers": traffic.answers,
            "draws": traffic.draws,
            "judged": traffic.judged,
            "used": len(traffic.conversations),
            "left_out": dict(traffic.left_out),
            "prices": {"slm": self.prices.slm, "failure": self.prices.failure},
            "thresholds": [row.as_dict() for row in self.rows],
            "problem": self.problem,
            "slm_alone": traffic.risk_test.count,
            "calibration_gap": traffic.risk_test.gap,
            "calibration_alarm": traffic.risk_test.alarm,
            "psi": dict(traffic.psi),
            "beyond": dict(traffic.beyond),
            "actions": self.actions,
        }

    def render(self) -> str:
        """For the terminal."""
        traffic = self.traffic
        lines = [
            f"{traffic.answers} answers of {traffic.router} ({traffic.router_version}), "
            f"{traffic.draws} draws; {traffic.judged} conversations judged, "
            f"{len(traffic.conversations)} used"
        ]
        lines += [f"  left out: {count} {reason}" for reason, count in traffic.left_out.items()]
        if self.rows:
            lines += ["", *self._table(), ""]
        return "\n".join([*lines, *self.actions])

    def _table(self) -> list[str]:
        head = f"{'threshold':>12}  {'success':<22}{'LLM-call rate':<22}{'cost':>6}  "
        lines = [head + f"{'more than now':<22}{'alike':>6}{'effective':>10}"]
        lines += [self._line(row) for row in self.rows]
        lines.append(
            f"* is served now. Cost: teacher calls of a conversation, an SLM step at "
            f"{self.prices.slm:g}, a failure at {self.prices.failure:g}."
        )
        lines.append("Intervals: 95 %; those of 'more than now' hold for all thresholds at once.")
        return lines

    def _line(self, row: ThresholdEstimate) -> str:
        name = f"{'* ' if row.threshold == self.traffic.now else ''}{row.threshold:.6g}"
        if row.success is None:
            return f"{name:>12}  {row.problem}"
        success = _share(row.success, row.success_ci)
        rate = _share(row.call_rate, row.call_rate_ci)
        extra_cost = "" if row.extra_cost is None else _number(row.extra_cost, row.extra_cost_ci)
        return (
            f"{name:>12}  {success:<22}{rate:<22}{row.cost:>6.2f}  {extra_cost:<22}{row.alike:>6}"
            f"{row.effective:>10.0f}"
        )

    def _of_risk(self) -> list[str]:
        test = self.traffic.risk_test
        if not test.alarm:
            return []
        failure_rate, predicted_rate = test.failures / test.count, test.expected / test.count
        return [
            f"Recalibrate: the SLM failed in {failure_rate:.0%} of {test.count} conversations that "
            f"it played alone, {predicted_rate:.0%} was predicted (a test that is wrong with "
            f"probability .01). Train the router again; what other thresholds come to needs no "
            f"calibration."
        ]

    def _of_features(self) -> list[str]:
        said = said_of_range(self.traffic.beyond)
        lines = [f"Retrain: {said}"] if said else []
        psi = self.traffic.psi
        names = sorted((name for name in psi if psi[name] > ALARM), key=lambda n: -psi[n])
        if names:
            shifts = ", ".join(f"{name} (PSI {psi[name]:.2f})" for name in names[:_SHOWN_FEATURES])
            lines.append(
                f"Retrain: {len(names)} of {len(psi)} features differ from the training states "
                f"over the last {WINDOW} steps: {shifts}; above {ALARM:g} a population has shifted."
            )
        return lines

    def _of_weights(self) -> list[str]:
        """Whether weights have the mean that they must have."""
        odd_rows = [
            row
            for row in self.rows
            if row.mean_weight is not None
            and row.mean_weight_error is not None
            and abs(row.mean_weight - 1) > _UNTRUE * row.mean_weight_error + 1e-9
        ]
        if not odd_rows:
            return []
        thresholds = ", ".join(f"{row.threshold:.6g} ({row.mean_weight:.2f})" for row in odd_rows)
        return [
            f"Distrust the table: mean weights must be 1 but for chance, and are not at "
            f"{thresholds}. Feedback may be given for some outcomes or sides only."
        ]

    def _of_cuts(self) -> list[str]:
        cut = self.traffic.left_out.get(CUT, 0)
        total = cut + len(self.traffic.conversations)
        if not self.rows or cut <= _MOST_CUT * total:
            return []
        return [
            f"Distrust the table: {cut} of {total} conversations are left out because a budget, an "
            f"outage or a candidate that cannot be sent decided a step; the others may be easier."
        ]

    def _of_threshold(self) -> str:
        if self.problem:
            return f"No estimate: {self.problem}."
        threshold = self.traffic.now
        estimates = [row for row in self.rows if row.extra_cost_ci and row.threshold != threshold]
        cheaper = [row for row in estimates if row.extra_cost_ci and row.extra_cost_ci[1] < 0]
        if cheaper:
            best = min(cheaper, key=lambda row: row.extra_cost or 0.0)
            move = f"Move the threshold from {threshold:.6g} to {best.threshold:.6g}"
            return f"{move}: {self._why(best)}"
        if estimates:
            return (
                f"Keep the threshold {threshold:.6g}: none of the other {len(estimates)} with "
                f"enough data certainly costs less."
            )
        return (
            f"Keep the threshold {threshold:.6g}: there is too little data on any other. Set "
            f"serve.explore.rate, or explore fewer thresholds (serve.explore.thresholds)."
        )

    def _why(self, best: ThresholdEstimate) -> str:
        interval = best.extra_cost_ci
        assert interval is not None
        current = next(row for row in self.rows if row.threshold == self.traffic.now)
        change = ""
        if current.success is not None and current.call_rate is not None:
            change = f" Success {current.success:.1%} -> {best.success:.1%}, LLM-call rate "
            change += f"{current.call_rate:.1%} -> {best.call_rate:.1%}."
        return (
            f"a conversation costs {-(best.extra_cost or 0.0):.2f} "
            f"[{-interval[1]:.2f}, {-interval[0]:.2f}] teacher calls less.{change} "
            f"r2v serve RUN serve.threshold={best.threshold!r} does it; it is not certified."
        )


def _share(value: float | None, interval: Interval | None) -> str:
    assert value is not None
    assert interval is not None
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]".replace("%,", ",").replace(
        "%]", "]"
    )


def _number(value: float, interval: Interval | None) -> str:
    assert interval is not None
    return f"{value:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"
