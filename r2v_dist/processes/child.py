"""Programs of this environment in a process of their own. Invariant: they import what this process
imports. A module of the same name in the current folder, such as somebody's own `envs`, is not
ours, and Python looks there first.
"""

import os
import sys


def child_command(*arguments: str) -> list[str]:
    """The command for this Python, without the current folder among its modules."""
    return [sys.executable, "-P", *arguments]


def child_environment() -> dict[str, str]:
    """Environment variables with which it finds the modules of this process."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
