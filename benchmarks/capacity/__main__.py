"""SIMULATED: what limits a rollout on 10, 100 and 1,000 GPUs, and at a million episodes a day.

The simulation is fed with costs that `--measure` has measured here, and first shows that it gives
the rates that `benchmarks.scaling` measured, within 10 %; else there is no number. What an engine
on a GPU does is assumed (`--places`, `--answer`), and what a network does is not simulated.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.capacity.answers import Answer, Assumed, answers_for, check
from benchmarks.capacity.costs import MEASURED, Costs, Measured, read_costs
from benchmarks.capacity.simulation import SHARD_EPISODES

DAY_S = 86_400.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", type=Path, default=MEASURED, help="what --measure wrote")
    parser.add_argument("--measure", action="store_true", help="measure, and write --costs")
    parser.add_argument("--runners", default="1,8", help="numbers of runners to measure")
    parser.add_argument("--gpus", default="10,100,1000")
    parser.add_argument("--places", type=int, default=64, help="questions that an engine computes")
    parser.add_argument("--answer", type=float, default=2.0, help="seconds of an answer")
    parser.add_argument("--steps", type=int, default=20, help="steps of an episode")
    parser.add_argument("--arms", type=int, default=1, help="episodes of a unit")
    args = parser.parse_args()
    if args.measure:
        from benchmarks.capacity.measuring import measure

        measure([int(size) for size in args.runners.split(",")]).write(args.costs)
    measured = read_costs(args.costs)
    agreement = check(measured)
    assumed = Assumed(args.places, args.answer, args.steps, args.arms)
    answers = []
    for gpus in map(int, args.gpus.split(",")):
        answers += answers_for(gpus, assumed, measured.costs)
    report(measured, agreement, answers, assumed)


def report(measured: Measured, agreement: float, answers: list[Answer], assumed: Assumed) -> None:
    """Print the table, and then the result as one JSON object."""
    print(
        f"\nSIMULATED, with engines that are ASSUMED to answer {assumed.places} questions in "
        f"{assumed.answer_s:g} s:\n"
    )
    head = ("GPUs", "design", "steps/s", "of ideal", "episodes a day", "limited by")
    print("{:>5}  {:<24} {:>9} {:>9} {:>16}  {}".format(*head))
    rows = []
    for one in answers:
        episodes = one.steps_per_s / assumed.steps * DAY_S
        share = one.steps_per_s / one.ideal
        print(
            f"{one.gpus:>5}  {one.design:<24} {one.steps_per_s:>9,.0f} {share:>9.2f} "
            f"{episodes:>16,.0f}  {one.limit}"
        )
        rows.append(_rounded(asdict(one) | {"episodes_per_day": episodes, "share": share}))
    store = _million(measured.costs, assumed)
    print(
        f"\nA million episodes: {store['gib']:.1f} GiB in {store['shards']:,.0f} shards, ", end=""
    )
    print(f"{store['resume_s']:.0f} s to read their keys when a stage begins again")
    result = {
        "name": "capacity",
        "simulated": True,
        "ratio": agreement,
        "reference": "measured rates of benchmarks.scaling",
        "costs": measured.source,
        "assumed": asdict(assumed),
        "answers": rows,
        "million_episodes": _rounded(store),
    }
    print(json.dumps(_rounded(result)), flush=True)


def _million(costs: Costs, assumed: Assumed) -> dict[str, float]:
    episodes = 1e6
    return {
        "gib": episodes * assumed.steps * costs.shard_step_bytes / 2**30,
        "shards": episodes / SHARD_EPISODES,
        "resume_s": episodes * costs.resume_episode,
        "per_s": episodes / DAY_S,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
