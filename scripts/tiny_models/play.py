"""Plays the games that the tiny base models read about: the split `base`, which no run ever uses
(`make base-model`).

A step of its own, so that the model can be trained on a machine with a GPU and without TextWorld.
"""

import argparse
import random
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from envs.perturbation.wrapper import Perturb, default_rates
from envs.textworld.env import TextWorldEnv
from envs.textworld.games import GameFamily, draw_games, game_path
from envs.textworld.generator import generate
from envs.textworld.lexicon import LEXICON
from r2v_dist.chat import Turn, opening_message
from r2v_dist.config.places import cache_folder, user_path
from r2v_dist.seeding import rng_for
from scripts.tiny_models.searching_expert import SearchingExpert
from scripts.tiny_models.train import RECIPES, Recipe
from scripts.tiny_models.transcripts import Transcript, write_transcripts

MAX_STEPS = 30
HASTY_SHARE = 0.5
"""Of the detours of an expert that searches: what the planner would do later, as a model does that
takes for done what is not.
"""


def base_families() -> tuple[GameFamily, ...]:
    """Quests of 2-6 steps in 1-4 rooms, goals told step by step or only by their last step."""
    ranges: tuple[tuple[str, tuple[int, int]], ...] = (
        ("rooms", (1, 4)),
        ("objects", (3, 8)),
        ("quest_length", (2, 6)),
    )
    return tuple(
        GameFamily("custom", (*ranges, ("instructions", told)), weight=weight)
        for told, weight in (("full", 0.6), ("last", 0.4))
    )


@dataclass(frozen=True)
class Job:
    """Episodes of one game. `searches`: the expert has to find out what the goal does not tell."""

    game: Path
    episodes: int
    recipe: Recipe
    searches: bool


def play_game(job: Job) -> list[Transcript]:
    """Won episodes of one game: the expert with random detours, a share of them under
    perturbation.
    """
    task = job.game.stem
    game = TextWorldEnv(str(job.game), expert=True, admissible=True, max_steps=MAX_STEPS)
    transcripts = []
    for episode in range(job.episodes):
        rng = rng_for("base-model", task, episode)
        z = rng.randrange(10**9, 2 * 10**9) if rng.random() < job.recipe.perturbed_share else None
        env = Perturb(game, task, z, default_rates(), MAX_STEPS, LEXICON)
        if transcript := _play(
            env, game, task, rng, rng.choice(job.recipe.detour_rates), job.searches
        ):
            transcripts.append(transcript)
    game.close()
    return transcripts


def _play(
    env: Perturb,
    game: TextWorldEnv,
    task: str,
    rng: random.Random,
    detour_rate: float,
    searches: bool,
) -> Transcript | None:
    observation, info = env.reset()
    user = opening_message(info["goal"], observation)
    searcher = SearchingExpert(game, info["goal"]) if searches else None
    turns: list[Turn] = []
    expert: list[bool] = []
    while (best := searcher.action(user) if searcher else env.expert_action()) is not None:
        action = best
        if rng.random() < detour_rate and (
            others := game.expert_plan()[1:]
            if searcher and rng.random() < HASTY_SHARE
            else info.get("admissible")
        ):
            action = rng.choice(others)
        turns.append(Turn(user, action))
        expert.append(action == best)
        user, reward, terminated, truncated, info = env.step(action)
        if searcher and info["executed"]:
            searcher.done(action)
        if terminated or truncated:
            return Transcript(task, tuple(turns), tuple(expert)) if reward > 0 else None
    return None


def main() -> None:
    """Generate the games, play them and write the won episodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", choices=RECIPES, default="tiny", help="whose share of detours the play has"
    )
    parser.add_argument("--games", type=int, default=800)
    parser.add_argument("--episodes", type=int, default=10, help="episodes a game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=user_path, default=cache_folder("textworld"))
    parser.add_argument("--output", type=Path, required=True, help="transcripts, JSON lines")
    args = parser.parse_args()

    specs = draw_games(base_families(), "base", args.games, args.seed)
    generate(specs, args.cache, 2, lambda done, total: print(f"game {done}/{total}", flush=True))
    recipe = RECIPES[args.size]
    jobs = []
    for spec in specs:
        searches = recipe.searches and dict(spec.settings)["instructions"] == "last"
        jobs.append(Job(game_path(args.cache, spec), args.episodes, recipe, searches))
    transcripts = []
    with get_context("spawn").Pool(2) as pool:
        for won_episodes in pool.imap(play_game, jobs, chunksize=4):
            transcripts += won_episodes
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_transcripts(args.output, transcripts)
    print(f"{len(transcripts)} won episodes of {args.games} games in {args.output}")


if __name__ == "__main__":
    main()
