"""What an agent's answer means: a command, keys to type, or the end. Read generously, as models
write: in fences, with prose around. Nothing here runs anything.
"""

import re
from dataclasses import dataclass
from typing import Literal

from r2v_dist.errors import UsageError

_FENCE = re.compile(r"^ {0,3}(?:`{3,}|~{3,})[ \t]*[\w+#.-]*[ \t]*$", re.MULTILINE)
_NAMES = {
    "Enter": b"\r",
    "Tab": b"\t",
    "Escape": b"\x1b",
    "Space": b" ",
    "BSpace": b"\x7f",
    "Up": b"\x1b[A",
    "Down": b"\x1b[B",
    "Right": b"\x1b[C",
    "Left": b"\x1b[D",
    "Home": b"\x1b[H",
    "End": b"\x1b[F",
    "PageUp": b"\x1b[5~",
    "PPage": b"\x1b[5~",
    "PageDown": b"\x1b[6~",
    "NPage": b"\x1b[6~",
    "DC": b"\x1b[3~",
    "IC": b"\x1b[2~",
    "BTab": b"\x1b[Z",
    **{
        f"F{n}": sequence
        for n, sequence in enumerate((b"\x1bOP", b"\x1bOQ", b"\x1bOR", b"\x1bOS"), 1)
    },
}
"""tmux's names of keys."""
_WORD = re.compile(r"'([^']*)'|\"((?:[^\"\\]|\\.)*)\"|(\S+)")


@dataclass(frozen=True)
class Action:
    """A command with its text, keys with their bytes, or the end of the episode."""

    kind: Literal["command", "keys", "submit", "nothing"]
    text: str = ""
    typed: bytes = b""


def parse_action(answer: str) -> Action:
    """The action of an answer. Raises UsageError for keys that do not exist."""
    text = _program(answer.replace("\r\n", "\n")).strip("\n")
    bare_text = text.strip()
    if not bare_text:
        return Action("nothing")
    if bare_text.lower() in ("submit", "submit."):
        return Action("submit")
    verb, _, names = bare_text.partition(" ")
    if verb == "keys" and "\n" not in bare_text:
        return Action("keys", bare_text, keys(names))
    if bare_text.startswith("$ ") and "\n" not in bare_text:
        text = bare_text[2:]
    return Action("command", text)


def keys(names: str) -> bytes:
    """The bytes of keys: tmux's names (`Enter`, `C-c`, `M-x`, `Escape`), and any other word as it
    is, quoted where it has spaces. Raises UsageError for a name that is none.
    """
    data = b""
    for single, double, word in _WORD.findall(names):
        if single or double:
            data += (single or double.replace('\\"', '"').replace("\\\\", "\\")).encode(
                "utf-8", "replace"
            )
        else:
            data += _key(word)
    return data


def _key(word: str) -> bytes:
    if word in _NAMES:
        return _NAMES[word]
    if re.fullmatch(r"C-[a-zA-Z@\[\]\\^_]", word):
        return bytes([ord(word[2].upper()) & 0x1F])
    if re.fullmatch(r"M-.", word):
        return b"\x1b" + word[2].encode("utf-8", "replace")
    if re.fullmatch(r"[CMS]-.+", word):
        raise UsageError(
            f"there is no key {word!r}; write Enter, C-c, M-x, Escape, Up and the like"
        )
    return word.encode("utf-8", "replace")


def _program(answer: str) -> str:
    """What is in the first fence, else all of it. A fence that nothing closes reaches to the
    end.
    """
    opening = _FENCE.search(answer)
    if opening is None:
        return answer
    closing = _FENCE.search(answer, opening.end())
    inside = answer[opening.end() : closing.start() if closing else len(answer)]
    return inside if inside.strip() else answer
