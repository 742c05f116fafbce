"""How a solution becomes a module: the one way in which the verdict, `test` and `run` load it.

Sent into the sandbox as text, before the program that uses it: it imports nothing but the standard
library.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # the sandbox need not import it
    from typing import Any
else:
    Any = object


def load(source: str) -> dict[str, Any]:
    """Run a solution as the module `solution`, known under that name as to a program that imports
    it; its names.

    A module that is not known has dataclasses, pickles and type hints fail. There is no file of it.
    """
    settle(source)
    module = type(sys)("solution")
    sys.modules["solution"] = module
    exec(
        compile(source.removeprefix("\ufeff"), "solution.py", "exec", dont_inherit=True),
        module.__dict__,
    )
    return module.__dict__


def settle(source: str) -> None:
    """Make a program that draws at random draw the same every time."""
    if "random" in source:  # it takes 2 ms to import
        import random

        random.seed(0)
