"""All families, and how their tasks are named."""

import shutil
from functools import lru_cache

from envs.terminal_bench.machine import File
from envs.terminal_bench.own import (
    archives,
    building,
    columns,
    databases,
    debugging,
    files,
    folders,
    git,
    projects,
    schedules,
    services,
    structured,
    text,
)
from envs.terminal_bench.own.family import Family
from r2v_dist.config.env import Split
from r2v_dist.errors import UsageError
from r2v_dist.seeding import stable_hash

_MODULES = (
    archives,
    building,
    columns,
    databases,
    debugging,
    files,
    folders,
    git,
    projects,
    schedules,
    services,
    structured,
    text,
)
FAMILIES: dict[str, Family] = {
    family.name: family for module in _MODULES for family in module.FAMILIES
}
PROGRAMS = {
    "git": "git",
    "sqlite3": "sqlite3",
    "gcc": "gcc",
    "make": "make",
    "binutils": "ar",
}
"""The program that a package of a family is there for."""


def families_of(split: Split) -> list[Family]:
    """The families of a split, in an order that depends on their names alone."""
    families = [family for family in FAMILIES.values() if family.split == split]
    return sorted(families, key=lambda family: stable_hash("terminal-split", family.name))


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
    families_by_program: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        for package in family.packages:
            program = PROGRAMS[package]
            if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin") is None:
                families_by_program.setdefault(program, []).append(family.name)
    return families_by_program
