"""Text is UTF-8 whatever the locale of the machine: no file or pipe is opened without saying so."""

import ast
from collections.abc import Iterator

from tests.runs import ROOT

PRODUCT = ("r2v_dist", "actors", "cluster", "envs", "learners", "benchmarks", "scripts")
MODE_AT = {"open": 0, "fdopen": 1, "read_text": None, "write_text": None}


def test_no_text_is_opened_in_the_encoding_of_a_locale() -> None:
    paths = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(paths) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        for line in unspecified(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_the_check_sees_what_it_should() -> None:
    bad = [
        "open(a)",
        "open(a, 'w')",
        "p.open()",
        "p.open('a')",
        "p.read_text()",
        "p.write_text(s)",
        "os.fdopen(1, 'w')",
        "run(c, text=True)",
    ]
    good = [
        "open(a, 'rb')",
        "p.open('rb')",
        "p.read_text(encoding='utf-8')",
        "os.open(p, 0)",
        "run(c, text=True, encoding='utf-8')",
    ]
    assert [list(unspecified(code)) for code in bad] == [[1]] * len(bad)
    assert [list(unspecified(code)) for code in good] == [[]] * len(good)


def unspecified(code: str) -> Iterator[int]:
    """The lines of calls that open text without an encoding."""
    for call in ast.walk(ast.parse(code)):
        if (
            isinstance(call, ast.Call)
            and opens_text(call)
            and not any(k.arg == "encoding" for k in call.keywords)
        ):
            yield call.lineno


def opens_text(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if any(k.arg == "text" and getattr(k.value, "value", False) is True for k in call.keywords):
        return True
    if name == "read_text" and (isinstance(call.func, ast.Name) or owner == "files"):
        return False  # r2v_dist.files, which says it
    if name not in MODE_AT or (
        name == "open"
        and owner in ("os", "posix", "ipc", "pa", "webbrowser", "gzip", "tarfile", "Image")
    ):
        return False
    place = 1 if isinstance(call.func, ast.Name) else MODE_AT[name]
    if place is None:
        return True
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args[place : place + 1]
    mode = getattr(modes[0], "value", None) if modes else "r"
    return isinstance(mode, str) and "b" not in mode
