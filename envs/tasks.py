"""From a configuration to tasks: every split its own problems, no problem in two splits."""

import os
from collections.abc import Callable
from itertools import islice

from envs.code_tasks import Dataset, task_ids
from envs.sandbox import Sandbox
from envs.textworld_check import checked_names
from envs.textworld_games import GameFamily, GameSpec, draw_games, game_path, generate
from r2v_dist.env_config import SPLITS, EnvConfig, PerturbConfig, SandboxConfig, Split
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError
from r2v_dist.seeding import stable_hash

_DEFAULT_SANDBOX = SandboxConfig()
SEED_BLOCK = 1000
"""Seeds of a split start at SEED_BLOCK x its position, so splits never share one."""


def make_tasks(
    config: EnvConfig, seed: int, workers: int, on_done: Callable[[int, int], None], sandbox: SandboxConfig = _DEFAULT_SANDBOX
) -> list[Task]:
    """All tasks of a run; generates the games that are not cached.

    Raises UsageError for missing games or data, and where two splits would share a task.
    """
    if config.kind == "humaneval_plus":
        return _code_tasks(config, sandbox)
    cache = config.cache.expanduser().resolve()
    names = checked_names(config.files, cache)
    specs = {split: _drawn(config, split, seed) for split in SPLITS}
    generate([spec for split in SPLITS for spec in specs[split]], cache, workers, on_done)
    tasks = []
    for split in SPLITS:
        files = [(names[game], game) for game in config.files.get(split, ())]
        for name, path in [*files, *((spec.id, game_path(cache, spec)) for spec in specs[split])]:
            kwargs: tuple[tuple[str, str | int | bool], ...] = (("game", str(path.resolve())), ("max_steps", config.max_steps))
            tasks.append(Task(name, split, "r2v/TextWorld-v0", kwargs))
    ids = [task.id for task in tasks]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise UsageError(f"env: game {twice[0]} is in two splits; give every split its own games")
    return tasks


def _code_tasks(config: EnvConfig, sandbox: SandboxConfig) -> list[Task]:
    """Which tasks a split has depends on their ids and the sizes only, so that every run of a benchmark means the same ones."""
    code, sizes = config.code, config.splits
    kwargs: list[tuple[str, str | int | bool]] = [("max_steps", config.max_steps), ("observation_chars", code.observation_chars)]
    if code.source == "evalplus" and (data_dir := code.data_dir or os.environ.get("R2V_DATA_DIR", "")):
        kwargs.append(("data_dir", data_dir))  # other nodes need not know the variable
    Sandbox(warm=0, allow_weaker=sandbox.allow_weaker).close()  # refuses here and now where programs must not run
    if sandbox != _DEFAULT_SANDBOX:
        kwargs.append(("sandbox", sandbox.model_dump_json()))
    if code.source == "shipped":
        pools: list[tuple[Dataset, tuple[Split, ...]]] = [("shipped", SPLITS)]
    else:
        pools = [("mbpp_plus", ("train", "validation", "calibration")), ("humaneval_plus", ("test",))]
    tasks = []
    for dataset, splits in pools:
        ids = sorted(task_ids(dataset, code.data_dir), key=lambda name: stable_hash("code-split", name))
        asked = sum(getattr(sizes, split) for split in splits)
        if asked > len(ids):
            raise UsageError(f"env.splits: {' + '.join(splits)} ask for {asked} tasks where {dataset} has {len(ids)}; lower the sizes")
        rest = iter(ids)
        for split in splits:
            name = "r2v/MBPPPlus-v0" if dataset == "mbpp_plus" else "r2v/HumanEvalPlus-v0"
            tasks += [Task(i, split, name, (("task", i), *kwargs)) for i in islice(rest, getattr(sizes, split))]
    return tasks


def seeds(config: PerturbConfig, split: Split) -> list[int]:
    """Perturbation seeds of a split. Calibration meets the test seeds on tasks of its own (METHOD section 10)."""
    count, block = {
        "train": (config.train_seeds, 0),
        "validation": (config.validation_seeds, 1),
        "calibration": (config.test_seeds, 2),
        "test": (config.test_seeds, 2),
    }[split]
    return [SEED_BLOCK * block + i for i in range(count)]


def _drawn(config: EnvConfig, split: Split, seed: int) -> list[GameSpec]:
    if split in config.files:
        return []
    families = [GameFamily(g.challenge, tuple(sorted(g.settings.items())), config.text, g.weight) for g in config.games]
    count: int = getattr(config.splits, split)
    return draw_games(families, split, count, seed) if count else []
