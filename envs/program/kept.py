"""A program, the folder it runs in, and the keeper that ends both when they are given up or this
process is gone.
"""

import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from r2v_dist.errors import RuntimeFailure

_KEEPER = Path(__file__).with_name("keeper.py")
_END_S = 30.0
"""Within which everything that a program started has ended."""
_TAIL = 300
"""Letters of a program's output that are shown where it fails."""


class Kept:
    """Starts the command. `folder` is the program's from here on, and deleted after it."""

    def __init__(self, command: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._code: int | None = None
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), folder, *command],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ended(self) -> bool:
        """Whether the program has ended. Raises RuntimeFailure where its keeper has, which nobody
        may end but this object.
        """
        assert self._keeper.stdout is not None
        if self._code is None and select.select([self._keeper.stdout], [], [], 0)[0]:
            said = os.read(self._keeper.stdout.fileno(), 64)
            if not said:
                raise RuntimeFailure(f"the program's keeper was ended: {self.last_words()}")
            self._code = int(said)
        return self._code is not None

    @property
    def exit_code(self) -> int | None:
        """Of the program, once it has `ended`; negative for the signal that ended it."""
        return self._code

    def last_words(self) -> str:
        """The end of what the program printed."""
        path = Path(self.folder) / "output.txt"
        said = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return " ".join(said.split())[-_TAIL:] or "it said nothing"

    def close(self) -> None:
        """End the program and all that it started, and drop its folder."""
        try:
            self._keeper.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
