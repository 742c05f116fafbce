"""How often the intervals of `r2v estimate` hold the true value: `python -m benchmarks.off_policy
[--logs N] [--conversations N] [--rate R]`.

Many logs are played in the SIMULATED world with thresholds that the gateway's own `Exploration`
draws and propensities that its own `Design` notes. What a threshold comes to is known exactly
there, by dynamic programming; an interval at the level .95 has to hold it in 95 % of the logs.
`ratio` is the share over .95, mean over thresholds and quantities; `worst` is the least of them.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field

import numpy as np

from envs.simulated.exact import Exact
from envs.simulated.labels import Simulator
from envs.simulated.world import SYMPTOM_OF_Z, World
from r2v_dist.evaluation.off_policy import LoggedConversation, OffPolicy, ThresholdEstimate
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.router.exploration import Design, Exploration

LEVEL = 0.95
PRICES = Prices(slm=1 / 50, failure=20.0)
_QUANTILES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.93)
PLAIN = ("success", "call_rate", "calls")
QUANTITIES = (*PLAIN, "extra_cost")
"""The last holds for all thresholds at once, so each of its intervals holds more often."""


@dataclass(frozen=True)
class Traffic:
    """Conversations of the simulated world under a policy whose score is the exact residual risk;
    `now` is its threshold."""

    exact: Exact
    design: Design
    exploration: Exploration
    now: float

    def log(
        self, first_task: int, count: int, rng: np.random.Generator
    ) -> list[LoggedConversation]:
        """A log."""
        world = self.exact.world
        tasks_N = np.arange(first_task, first_task + count)
        z_N = rng.integers(0, len(SYMPTOM_OF_Z), count)
        simulator = Simulator(world, tasks_N, z_N)
        everyone = np.arange(count)
        lines = simulator.begin(everyone, np.zeros(count, int), np.zeros(count, bool), 1)
        drawn = [self.exploration.drawn(str(task)) for task in tasks_N.tolist()]
        threshold_N = np.array([self.now if one is None else one for one in drawn])
        scores: list[list[float]] = [[] for _ in range(count)]
        actors: list[list[str]] = [[] for _ in range(count)]
        recorded = np.zeros(1, dtype=np.int64)
        for t in range(world.max_steps):
            live_N = lines.live[:, 0].copy()
            part_N = np.minimum(lines.part[:, 0], world.parts - 1)
            jam_N = lines.jammed[:, 0].astype(int)
            cue_N = simulator.luck.cue_NT[:, t]
            score_N = self.exact.rho[t, part_N, jam_N, cue_N, simulator.luck.symptom_N]
            asks_N = score_N >= threshold_N
            for row in np.flatnonzero(live_N).tolist():
                scores[row].append(float(score_N[row]))
                actors[row].append("teacher" if asks_N[row] else "slm")
            simulator.act(lines, "teacher", t, live_N & asks_N, recorded)
            simulator.act(lines, "slm", t, live_N & ~asks_N, recorded)
        won_N = lines.part[:, 0] == world.parts
        return [
            self._logged(str(tasks_N[row]), scores[row], actors[row], bool(won_N[row]))
            for row in range(count)
        ]

    def _logged(
        self, name: str, scores: list[float], actors: list[str], won: bool
    ) -> LoggedConversation:
        propensities = []
        for end in range(1, len(scores) + 1):
            propensity = self.design.propensity(scores[:end], actors[:end])
            assert propensity is not None
            propensities.append(propensity)
        return LoggedConversation(
            name, self.design, tuple(scores), tuple(actors), tuple(propensities), won, scores[0]
        )


def true_values(exact: Exact, threshold: float) -> dict[str, float]:
    """What a threshold comes to, exactly."""
    outcome = exact.evaluate((exact.rho >= threshold)[None].astype(float), latched=False)
    by_symptom = [
        values[0][list(SYMPTOM_OF_Z)].mean()
        for values in (outcome.failure_BV, outcome.teacher_calls_BV, outcome.slm_calls_BV)
    ]
    failure, calls, steps = map(float, by_symptom)
    cost = calls + PRICES.slm * steps + PRICES.failure * failure
    return {"success": 1 - failure, "calls": calls, "call_rate": calls / steps, "cost": cost}


def traffic(rate: float, seed: int) -> Traffic:
    """The policy that is served, and what it explores."""
    exact = Exact(World())
    reached = exact.reached_TIJEV.mean(axis=-1, keepdims=True) * np.ones(exact.world.symptoms)
    order = np.argsort(exact.rho, axis=None)
    mass = np.cumsum(reached.ravel()[order]) / reached.sum()
    levels = exact.rho.ravel()[order]
    thresholds = [float(levels[np.searchsorted(mass, one)]) for one in _QUANTILES]
    now = thresholds[3]
    exploration = Exploration(rate, tuple(thresholds), seed)
    return Traffic(exact, Design.of([(now, 1.0)]).explored(exploration), exploration, now)


@dataclass
class Tally:
    """Of one threshold over all logs: whether its intervals held the truth, by quantity, the errors
    of its success, and effective sizes."""

    held: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in QUANTITIES})
    errors: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def add(self, row: ThresholdEstimate, truth: dict[str, float]) -> None:
        """Take the estimate of a log in."""
        if row.success is None:
            return
        self.errors.append(row.success - truth["success"])
        self.sizes.append(row.effective)
        for name in QUANTITIES:
            interval = getattr(row, f"{name}_ci")
            if interval is not None:
                self.held[name].append(interval[0] <= truth[name] <= interval[1])

    def coverage(self) -> dict[str, float]:
        """Share of the logs whose interval held the truth, by quantity."""
        return {name: float(np.mean(held)) for name, held in self.held.items() if held}


def covered(played: Traffic, logs: int, conversations: int, seed: int) -> dict[float, Tally]:
    """The tally of every threshold over `logs` logs."""
    truth = {one: true_values(played.exact, one) for one in played.design.thresholds}
    for values in truth.values():
        values["extra_cost"] = values["cost"] - truth[played.now]["cost"]
    tallies = {one: Tally() for one in truth}
    rng = np.random.default_rng(seed)
    for log in range(logs):
        first_task = (seed * logs + log) * conversations
        log_of_traffic = played.log(first_task, conversations, rng)
        for row in OffPolicy(log_of_traffic, played.now, PRICES, level=LEVEL).estimates():
            tallies[row.threshold].add(row, truth[row.threshold])
    return tallies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=400)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    played = traffic(args.rate, args.seed)
    tallies = covered(played, args.logs, args.conversations, args.seed)
    print("SIMULATED world; success: true value, mean error, its sd; then shares of held intervals")
    shares: dict[str, list[float]] = {}
    for threshold, tally in tallies.items():
        coverage = tally.coverage()
        for name, share in coverage.items():
            shares.setdefault(name, []).append(share)
        true_success = true_values(played.exact, threshold)["success"]
        errors = np.array(tally.errors or [np.nan])
        told = ", ".join(f"{name} {share:.3f}" for name, share in coverage.items())
        print(
            f"{threshold:.4f}{'*' if threshold == played.now else ' '} logs {len(tally.errors)}, "
            f"effective {np.mean(tally.sizes or [0]):.0f}: {true_success:.3f} "
            f"{errors.mean():+.4f} {errors.std():.4f}; {told}"
        )
    plain = [share for name in PLAIN for share in shares[name]]
    result = {
        "name": "off_policy",
        "ratio": round(float(np.mean(plain)) / LEVEL, 4),
        "reference": f"level {LEVEL}",
        "worst": round(min(plain), 4),
        "coverage": {name: round(float(np.mean(share)), 4) for name, share in shares.items()},
        "logs": args.logs,
        "conversations": args.conversations,
        "rate": args.rate,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
