"""Whether what is served still looks like what the router was trained on.

`FeatureDrift`: the population stability index (PSI) of every feature, over the latest `WINDOW`
steps against the training states, in bins that are quantiles of the training states; and sooner,
the share of steps at which a feature lies beyond the range to which the router cuts it. `RiskTest`:
whether the SLM fails more often than was predicted, by a test that may be looked at after every
outcome (betting, Waudby-Smith and Ramdas 2024): under calibration its wealth exceeds 1 / alpha with
probability at most alpha, however long it runs.
"""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.scaler import Scaler

Array = npt.NDArray[np.float64]

WINDOW = 500
ALARM = 0.25
"""The customary bound of PSI for a population that has shifted."""
BEYOND = 0.1
"""Share of the steps at which a feature may lie beyond its range before somebody is told."""
_LEAST_STEPS = 20
"""Before so many steps nothing is said of the range."""
_BINS = 10
_SHOWN = 4
"""Features that are named."""
_LEAST = 1e-3
"""Share that an empty bin counts as."""
_SERVING_ONLY = frozenset({"budget_left"})
"""Features that the operator sets, not the traffic."""


class FeatureDrift:
    """`reference_NF` are the features of the training states, `scaler` is the router's."""

    def __init__(self, reference_NF: Array, scaler: Scaler) -> None:
        quantiles = np.linspace(0, 1, _BINS + 1)[1:-1]
        self._edges = [np.unique(np.quantile(column, quantiles)) for column in reference_NF.T]
        self._expected = [
            _shares(column, edges)
            for column, edges in zip(reference_NF.T, self._edges, strict=True)
        ]
        self._scaler = scaler
        self._recent: deque[Array] = deque(maxlen=WINDOW)

    def add(self, features_F: Array) -> None:
        """Take a step in."""
        self._recent.append(features_F)

    def psi(self) -> dict[str, float]:
        """The index of every feature; empty until the window is full."""
        if len(self._recent) < WINDOW:
            return {}
        indices = {}
        columns = zip(FEATURE_NAMES, np.stack(self._recent).T, strict=True)
        for place, (name, column) in enumerate(columns):
            if name in _SERVING_ONLY:
                continue
            actual_B = _shares(column, self._edges[place])
            expected_B = self._expected[place]
            indices[name] = float(((actual_B - expected_B) * np.log(actual_B / expected_B)).sum())
        return indices

    def beyond(self) -> dict[str, float]:
        """By feature, the share of the latest steps at which the router cuts it; empty before there
        are steps enough.
        """
        if len(self._recent) < _LEAST_STEPS:
            return {}
        share_F = self._scaler.outside(np.stack(self._recent)).mean(axis=0)
        shares = zip(FEATURE_NAMES, share_F.tolist(), strict=True)
        return {name: share for name, share in shares if name not in _SERVING_ONLY}

    def alarms(self) -> list[str]:
        """Features that have shifted."""
        return [name for name, index in self.psi().items() if index > ALARM]


class RiskTest:
    """One bet on every judged conversation that the SLM played alone."""

    def __init__(self, alpha: float = 0.01, stake: float = 0.5) -> None:
        self._alpha = alpha
        self._stake = stake
        self.log_wealth = 0.0
        self.log_most = 0.0
        self.failures = 0
        self.expected = 0.0
        self.count = 0

    def add(self, risk: float, failed: bool) -> None:
        """Take an outcome in, with the risk that was predicted before it."""
        self.count += 1
        self.failures += failed
        self.expected += risk
        self.log_wealth += float(np.log1p(self._stake * (float(failed) - risk)))
        self.log_most = max(self.log_most, self.log_wealth)

    @property
    def alarm(self) -> bool:
        """Whether the SLM has failed more often than predicted."""
        return self.log_most > float(-np.log(self._alpha))

    @property
    def gap(self) -> float | None:
        """Observed minus predicted share of failures; None before the first outcome."""
        return (self.failures - self.expected) / self.count if self.count else None


def said_of_range(beyond: Mapping[str, float]) -> str:
    """What is said of features that are often beyond their range; empty where none is."""
    names = sorted((name for name in beyond if beyond[name] > BEYOND), key=lambda n: -beyond[n])
    if not names:
        return ""
    shares = ", ".join(f"{name} in {beyond[name]:.0%} of the steps" for name in names[:_SHOWN])
    return (
        f"{shares} lie beyond the router's training states; it takes each at the edge of its "
        f"range. Train a router on this traffic, or do not rely on this one."
    )


def advice(alarms: Sequence[str], beyond: Mapping[str, float], risk_alarm: bool) -> str:
    """What to do, in words; empty where nothing is to be done."""
    if risk_alarm:
        return (
            "The SLM fails more often than predicted: lower the threshold or serve "
            "teacher-heavier (serve.operating_point), and train the router again on the log."
        )
    if said := said_of_range(beyond):
        return said
    if alarms:
        return (
            f"{', '.join(alarms[:_SHOWN])} differ from training: risks may be off. Collect "
            f"feedback; if failures exceed predictions too, train the router again."
        )
    return ""


def _shares(column: Array, edges: Array) -> Array:
    counts_B = np.bincount(np.searchsorted(edges, column, side="right"), minlength=len(edges) + 1)
    shares_B: Array = np.maximum(counts_B / len(column), _LEAST)
    return shares_B
