"""What a full-screen program shows: its layout, as a person sees it, instead of what it wrote."""

from envs.terminal_bench.sandbox.shell import COLUMNS, ROWS

_BEGINS = b"\x1b[?1049h"
_ENDS = b"\x1b[?1049l"


class FullScreen:
    """The screen of a program that took it whole, from when it did to when it gave it back."""

    def __init__(self) -> None:
        # Only such a program needs it, and it takes time to import.
        import pyte

        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, output: bytes) -> None:
        """More of what the program wrote."""
        self._stream.feed(output)

    def text(self) -> str:
        """The lines, without what is empty at their ends and at the bottom."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n")


def took_screen(output: bytes) -> bool:
    """Whether a program took the whole screen, and did not give it back."""
    return output.rfind(_BEGINS) > output.rfind(_ENDS)


def after_screen(output: bytes) -> bytes:
    """What was written after the screen was given back; all of it where it never was."""
    return output.rpartition(_ENDS)[2]
