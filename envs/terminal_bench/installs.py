"""What commands would install over the network. Nothing is installed here: it has to be there."""

import re
from dataclasses import dataclass
from itertools import pairwise

_TAKES_A_VALUE = {
    *("-p", "--python", "-w", "--with", "--from", "--with-requirements", "--with-editable"),
    *("-r", "--requirement", "-c", "--constraint", "-i", "--index", "--index-url"),
    *("--extra-index-url", "--project", "--directory", "-t", "--target"),
}
"""Options of uv and pip whose next word is no package."""
_WITH = {"-w", "--with"}


@dataclass(frozen=True)
class Installs:
    """Names of Debian's packages and of Python's, without versions."""

    debian: tuple[str, ...] = ()
    python: tuple[str, ...] = ()


def installs_of(command: str) -> Installs | None:
    """What a command would install; None where it is no command that installs."""
    words = command.split()
    if words[:1] == ["sudo"]:
        words = words[1:]
    if words[:3] in (["python", "-m", "pip"], ["python3", "-m", "pip"]):
        words = words[2:]
    tool = words[0].rpartition("/")[2] if words else ""
    if tool in ("apt-get", "apt"):
        return Installs(debian=_debian(words[1:]))
    if re.fullmatch(r"pip\d?", tool):
        return Installs(python=_python(words[1:], "install"))
    if tool == "uvx" or words[:3] == ["uv", "tool", "run"] or words[:2] == ["uv", "run"]:
        return Installs(python=_with(words))
    if tool == "uv":
        installing = "add" if words[1:2] == ["add"] else "install"
        return Installs(python=_python(words[1:], installing))
    return None


def _debian(words: list[str]) -> tuple[str, ...]:
    operands = [word for word in words if not word.startswith("-")]
    return (
        tuple(re.split("[=/]", word)[0] for word in operands[1:])
        if operands[:1] == ["install"]
        else ()
    )


def _python(words: list[str], installing: str) -> tuple[str, ...]:
    if installing not in words:
        return ()
    names = []
    arguments = iter(words[words.index(installing) + 1 :])
    for word in arguments:
        if word in _TAKES_A_VALUE:
            value = next(arguments, "")
            if word in ("-r", "--requirement"):
                names.append(value)
        elif not word.startswith("-"):
            names.append(_bare(word))
    return tuple(names)


def _with(words: list[str]) -> tuple[str, ...]:
    """Of a command that uv runs: what is to be there beside it."""
    return tuple(_bare(name) for option, name in pairwise(words) if option in _WITH)


def _bare(name: str) -> str:
    """A Python package without its version."""
    return re.split(r"[=<>@\[~!]", name.strip("\"'"))[0]
