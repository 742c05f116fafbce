"""Which games belong to which split: the same seed draws the same games."""

from envs.textworld.games import GameFamily, GameSpec, draw_games
from r2v_dist.config.env import SPLITS, EnvConfig, Split
from r2v_dist.errors import UsageError


def drawn_games(config: EnvConfig, seed: int) -> dict[Split, list[GameSpec]]:
    """The games to generate for every split. Raises UsageError where there are too few, or one is
    in two splits.
    """
    families = [
        GameFamily(g.challenge, tuple(sorted(g.settings.items())), config.text, g.weight)
        for g in config.games
    ]
    drawn: dict[Split, list[GameSpec]] = {split: [] for split in SPLITS}
    split_of: dict[str, Split] = {}
    for split in SPLITS:
        count = 0 if split in config.files else config.size(split)
        if count and not families:
            raise UsageError(
                f"env.splits.{split} = {count}: neither env.games nor env.files.{split} says "
                f"which; add one or set 0"
            )
        drawn[split] = draw_games(families, split, count, seed) if count else []
        for spec in drawn[split]:
            if spec.id in split_of:
                raise UsageError(
                    f"env: game {spec.id} is in the splits {split_of[spec.id]} and {split}; widen "
                    f"the ranges of env.games"
                )
            split_of[spec.id] = split
    return drawn
