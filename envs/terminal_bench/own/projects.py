"""Families of long tasks, each of many steps in several tools."""

from envs.terminal_bench.own.accounts import monthly_accounts
from envs.terminal_bench.own.family import Family
from envs.terminal_bench.own.release import cut_release
from envs.terminal_bench.own.site import move_site

FAMILIES = (
    Family("cut-release", "projects", "hard", "train", cut_release, ("git", "gcc", "make")),
    Family("monthly-accounts", "projects", "hard", "calibration", monthly_accounts, ("sqlite3",)),
    Family("move-site", "projects", "hard", "test", move_site),
)
