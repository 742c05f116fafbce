"""What an agent reads of a terminal: plain text of bounded length, and how the command ended."""

import re

from envs.terminal_bench.machine import Came, Shown

_ESCAPES = re.compile(
    rb"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?"
    rb"|\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_LONGEST_LINE = 2000


def text_of(output: bytes, limit: int) -> str:
    """At most about `limit` characters, the beginning and the end, without control codes."""
    text = _ESCAPES.sub(b"", output).decode("utf-8", "replace").replace("\r\n", "\n")
    lines = [_line(line) for line in text.split("\n")]
    return cut("\n".join(lines).strip("\n"), limit)


def _line(line: str) -> str:
    """A line as it looks in the end: what a carriage return or a backspace lets overwrite is
    gone.
    """
    text = ""
    for part in line.split("\r"):
        text = part + text[len(part) :]
    if "\b" in text:
        text = _overwritten(text)
    text = _CONTROL.sub("\ufffd", text)
    return cut(text, _LONGEST_LINE).replace("\n", " ") if len(text) > _LONGEST_LINE else text


def _overwritten(line: str) -> str:
    cells: list[str] = []
    place = 0
    for character in line:
        if character == "\b":
            place = max(0, place - 1)
            continue
        cells[place : place + 1] = [character]
        place += 1
    return "".join(cells)


def cut(text: str, limit: int) -> str:
    """The beginning and, as errors end with what matters, more of the end."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 5
    tail = limit - head
    left_out = len(text) - limit
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[-tail:]}"


def observation_of(shown: Shown, limit: int, wait_s: float) -> str:
    """The terminal's text, and a line that says how the command ended, in which folder the shell
    is, and how many files changed.
    """
    ending = {
        Came.ENDED: f"exit {shown.code}" if shown.code is not None else "typed",
        Came.WAITS: "a program waits for input",
        Came.STOPPED: f"stopped after {wait_s:g} s",
        Came.SHELL_ENDED: f"exit {shown.code}, which ended the shell; this is a new one",
        Came.SHELL_KILLED: f"stopped after {wait_s:g} s by killing the shell; this is a new one",
    }[shown.came]
    parts = [ending, shown.folder]
    if shown.changed:
        files = "1 file" if shown.changed == 1 else f"{shown.changed} files"
        parts.append(f"{files} changed")
    status = f"[{'; '.join(parts)}]"
    text = text_of(shown.output, limit)
    return f"{text}\n{status}" if text else status
