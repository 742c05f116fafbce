"""Playing TextWorld through the runner against bare TextWorld in a plain loop, on one core.

Invariant: both sides create, reset and step the same games with the same commands and the same
hidden-state tracking, so that what differs is our agent loop, wrappers, text cleaning and
bookkeeping. Every game must end in the same way on both.
"""

import argparse
import asyncio
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import textworld

from actors.env_runner import EnvRunner, RunnerSetup
from benchmarks.games import make_tasks, make_units
from benchmarks.harness import Spent, interleave, measure, median_wall, publish, same
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Episode, Unit

IN_FLIGHT = 8


@dataclass(frozen=True)
class Game:
    """One recorded episode: which commands were sent, and whether they won."""

    path: str
    commands: tuple[str, ...]
    won: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--games", type=int, default=8)
    parser.add_argument("--plays", type=int, default=4, help="of every game in one run")
    args = parser.parse_args()
    units = make_units(
        make_tasks(args.games), [None], Arm("teacher_only", None, "none", "expert", 0), args.plays
    )
    run(units, args.repeats)


def run(units: Sequence[Unit], repeats: int) -> None:
    """Record the commands, compare, print the result."""
    recorded = record(units)
    steps = sum(len(game.commands) for game in recorded)

    def ours() -> Spent:
        return measure(lambda: same("steps", play_units(units), steps))

    def reference() -> Spent:
        return measure(
            lambda: same("games won", play_bare(recorded), [game.won for game in recorded])
        )

    pairs = interleave(ours, reference, repeats)
    rates = steps / median_wall(pairs.ours), steps / median_wall(pairs.reference)
    publish(
        "env",
        "bare TextWorld",
        pairs.wall_ratio,
        [
            ("steps/s", f"{rates[0]:,.0f}", f"{rates[1]:,.0f}"),
            (
                "ms/game",
                f"{1e3 * median_wall(pairs.ours) / len(units):.1f}",
                f"{1e3 * median_wall(pairs.reference) / len(units):.1f}",
            ),
        ],
        cpu_ratio=pairs.cpu_ratio,
        steps_per_s=rates[0],
        reference_steps_per_s=rates[1],
        steps=steps,
        games=len(units),
        in_flight=IN_FLIGHT,
        repeats=repeats,
    )


def record(units: Sequence[Unit]) -> list[Game]:
    """Play once and note the commands, in the order of the units."""
    delivered: list[Episode] = []
    play_units(units, delivered)
    by_key = {str(episode.key): episode for episode in delivered}
    episodes = [by_key[str(unit.key(unit.arms[0]))] for unit in units]
    paths = [str(dict(unit.task.env_kwargs)["game"]) for unit in units]
    games = []
    for path, episode in zip(paths, episodes, strict=True):
        commands = [step.action for step in episode.steps]
        games.append(Game(path, tuple(commands), episode.success))
    return games


def play_units(units: Sequence[Unit], delivered: list[Episode] | None = None) -> int:
    """The product's path without Ray: one runner, several units in flight; returns the number of
    steps.
    """

    async def deliver(episodes: Sequence[Episode]) -> None:
        if delivered is not None:
            delivered.extend(episodes)

    async def play_all() -> int:
        runner = EnvRunner(_setup(), None, None)
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def play_one(unit: Unit) -> int:
            async with gate:
                return (await runner.run(unit, deliver)).steps

        return sum(await asyncio.gather(*map(play_one, units)))

    return asyncio.run(play_all())


def play_bare(games: Sequence[Game]) -> list[bool]:
    """TextWorld as its own documentation uses it, asked for what `envs.textworld.env` asks for with
    an expert.
    """
    won = []
    infos = textworld.EnvInfos(
        won=True, objective=True, policy_commands=True, admissible_commands=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for game in games:
            env = textworld.start(game.path, infos)
            state = env.reset()
            for command in game.commands:
                state, _, _ = env.step(command)
            won.append(bool(state.won))
            env.close()
    return won


def _setup() -> RunnerSetup:
    expert = ModelConfig(backend="expert")
    return RunnerSetup(
        expert, expert, "", "", PerturbConfig(), unit_timeout_s=ClusterConfig().unit_timeout_s
    )


if __name__ == "__main__":
    main()
