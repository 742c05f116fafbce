"""All families, which split each belongs to, and how their tasks are named.

Invariant: a family is in one split, so that no near-copy of a task crosses from training to test.
"""

import shutil
from functools import lru_cache

from envs.terminal_bench.machine import File
from envs.terminal_bench.own import files, text
from envs.terminal_bench.own.family import Family
from r2v_dist.config.env import SPLITS, Split
from r2v_dist.errors import UsageError
from r2v_dist.seeding import stable_hash

FAMILIES: dict[str, Family] = {
    family.name: family for module in (files, text) for family in module.FAMILIES
}
_SHARES: dict[Split, int] = {"train": 8, "validation": 3, "calibration": 5, "test": 4}
"""Of every twenty families."""
PROGRAMS = {
    "git": "git",
    "sqlite3": "sqlite3",
    "gcc": "gcc",
    "make": "make",
    "jq": "jq",
    "openssl": "openssl",
}
"""The program that a package of a family is there for."""


def families_of(split: Split) -> list[Family]:
    """The families of a split, which depend on their names alone."""
    ranked = sorted(FAMILIES, key=lambda name: stable_hash("terminal-split", name))
    turns = [one for one in SPLITS for _ in range(_SHARES[one])]
    order = sorted(range(len(turns)), key=lambda place: stable_hash("terminal-turn", place))
    dealt = {name: turns[order[place % len(order)]] for place, name in enumerate(ranked)}
    return [FAMILIES[name] for name in ranked if dealt[name] == split]


def task_name(family: Family, seed: int) -> str:
    """How a task is called: family and seed."""
    return f"{family.name}@{seed}"


@lru_cache(maxsize=64)
def folder_of(name: str) -> dict[str, File]:
    """The folder of a task. Raises UsageError for a name that is none."""
    family, at, seed = name.partition("@")
    if family not in FAMILIES or not at or not seed.isdigit():
        raise UsageError(
            f"terminal task {name}: there is no such task; write FAMILY@SEED with one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[family].folder(int(seed))


def missing_programs() -> dict[str, list[str]]:
    """Programs that families need and this machine's /usr lacks, with those families."""
    missing: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        for package in family.packages:
            program = PROGRAMS[package]
            if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin") is None:
                missing.setdefault(program, []).append(family.name)
    return missing
