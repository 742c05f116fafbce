"""Plays the games that the tiny base models read about: the split `base`, which no run ever uses (`make base-model`).

A step of its own, so that the model can be trained on a machine with a GPU and without TextWorld.
"""

import argparse
import random
from multiprocessing import get_context
from pathlib import Path

from envs.perturb import Perturb, default_rates
from envs.textworld import LEXICON, TextWorldEnv
from envs.textworld_games import GameFamily, draw_games, game_path, generate
from learners.base_data import Transcript, write_transcripts
from learners.base_model import PERTURBED_SHARE, RECIPES
from r2v_dist.chat import Turn, opening_message
from r2v_dist.seeding import rng_for

MAX_STEPS = 30


def base_families() -> tuple[GameFamily, ...]:
    """Quests of 2-6 steps in 1-4 rooms, goals told step by step or only by their last step."""
    ranges: tuple[tuple[str, tuple[int, int]], ...] = (("rooms", (1, 4)), ("objects", (3, 8)), ("quest_length", (2, 6)))
    return tuple(GameFamily("custom", (*ranges, ("instructions", told)), weight=weight) for told, weight in (("full", 0.6), ("last", 0.4)))


def play_game(job: tuple[str, int, tuple[float, ...]]) -> list[Transcript]:
    """Won episodes of one game: the expert with random detours, a quarter of them under perturbation."""
    path, episodes, detour_rates = job
    task = Path(path).stem
    game = TextWorldEnv(path, expert=True, admissible=True, max_steps=MAX_STEPS)
    transcripts = []
    for episode in range(episodes):
        rng = rng_for("base-model", task, episode)
        z = rng.randrange(10**9, 2 * 10**9) if rng.random() < PERTURBED_SHARE else None
        env = Perturb(game, task, z, default_rates(), MAX_STEPS, LEXICON)
        if transcript := _play(env, task, rng, rng.choice(detour_rates)):
            transcripts.append(transcript)
    game.close()
    return transcripts


def _play(env: Perturb, task: str, rng: random.Random, detour_rate: float) -> Transcript | None:
    observation, info = env.reset()
    user = opening_message(info["goal"], observation)
    turns: list[Turn] = []
    expert: list[bool] = []
    while (best := env.expert_action()) is not None:
        action = best
        if rng.random() < detour_rate and info.get("admissible"):
            action = rng.choice(info["admissible"])
        turns.append(Turn(user, action))
        expert.append(action == best)
        user, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return Transcript(task, tuple(turns), tuple(expert)) if reward > 0 else None
    return None


def main() -> None:
    """Generate the games, play them and write the won episodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=RECIPES, default="tiny", help="whose share of detours the play has")
    parser.add_argument("--games", type=int, default=800)
    parser.add_argument("--episodes", type=int, default=10, help="episodes a game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/r2v/textworld").expanduser())
    parser.add_argument("--output", type=Path, required=True, help="transcripts, JSON lines")
    args = parser.parse_args()

    specs = draw_games(base_families(), "base", args.games, args.seed)
    generate(specs, args.cache, 2, lambda done, total: print(f"game {done}/{total}", flush=True))
    jobs = [(str(game_path(args.cache, spec)), args.episodes, RECIPES[args.size].detour_rates) for spec in specs]
    with get_context("spawn").Pool(2) as pool:
        transcripts = [transcript for episodes in pool.imap(play_game, jobs, chunksize=4) for transcript in episodes]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_transcripts(args.output, transcripts)
    print(f"{len(transcripts)} won episodes of {args.games} games in {args.output}")


if __name__ == "__main__":
    main()
