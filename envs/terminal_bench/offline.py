"""A task's tests where nothing can be fetched. Scripts of tests install uv and pytest over the
network, only to call pytest. The script is run as it is; programs of ours stand in for those that
fetch, and what they would install has to be there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from envs.terminal_bench.installs import installs_of
from envs.terminal_bench.machine import File

PYTEST_SAID = "/logs/verifier/r2v-pytest"
"""Where `pytest` says 1 if every run of it passed, else 0."""
_PLACE = "/tests/r2v-offline"
FAILED = f"{_PLACE}/failed"
"""A file of the tests that `pytest` changes where a run of it failed. That cannot be undone: the
time of its change stays.
"""
_FETCHES = re.compile(
    r"(?m)(?:^|[\s;&|(])(?:sudo\s+)?(?:curl|wget|uvx?|apt-get|apt|pip\d?|python3?\s+-m\s+pip)\s"
)
_PAST = re.compile(
    r"/python[\d.]*\s+(?:-\S+\s+)*-m\s+pytest|\bpython[\d.]*\s+(?:-(?!m\b)\S+\s+)+-m\s+pytest"
    r"|\bpython3?\.\d+\s+-m\s+pytest"
)
"""pytest, called past our programs."""
_NOT_NEEDED = frozenset({"curl", "wget", "ca-certificates", "pytest-json-ctrf", "uv"})
"""What serves to fetch, and a report that nobody reads here."""

_NOTHING = "#!/bin/bash\n# What this would install has to be there.\nexit 0\n"
_FETCH = """#!/bin/bash
# The installer of uv is not needed; what else is asked for is the real program's.
for word in "$@"; do
  case $word in *astral.sh/uv*) exit 0 ;; esac
done
PATH=${PATH//${0%/*}:/}
exec "${0##*/}" "$@"
"""
_UV = """#!/bin/bash
while [ $# -gt 0 ]; do
  case $1 in
    --directory) cd "$2" || exit; shift 2 ;;
    --project | --cache-dir | --config-file | --color) shift 2 ;;
    -* | tool) shift ;;
    *) break ;;
  esac
done
case $1 in
  run)
    shift
    exec "${0%/*}/uvx" "$@" ;;
  venv)
    place=.venv
    while shift && [ $# -gt 0 ]; do
      case $1 in -p | --python) shift ;; -*) ;; *) place=$1 ;; esac
    done
    mkdir -p "$place/bin" && : > "$place/bin/activate" ;;
esac
"""
_UVX = """#!/bin/bash
while [ $# -gt 0 ]; do
  case $1 in
    -p | --python | -w | --with | --from | --with-requirements | --with-editable | -i | --index \\
      | --index-url | --extra-index-url | --project | --directory) shift 2 ;;
    -m | --module) break ;;
    -*) shift ;;
    *) break ;;
  esac
done
case "$1 $2 $3 " in
  "-m pytest "* | "--module pytest "*) shift ;;
  "python -m pytest " | "python3 -m pytest ") shift 2 ;;
esac
case ${1%%@*} in
  pytest)
    shift
    exec "${0%/*}/pytest" "$@" ;;
  -m | --module)
    shift
    exec python3 -m "$@" ;;
  python | python3*)
    shift
    exec python3 "$@" ;;
esac
exec "$@"
"""
_PYTHON = """#!/bin/bash
here=${0%/*}
if [ "$1 $2" = "-m pytest" ]; then
  shift 2
  exec "$here/pytest" "$@"
fi
real=$(PATH=${PATH//$here:/} type -P "${0##*/}") || exit 127
exec "$real" "$@"
"""
_PYTEST = f"""#!/bin/bash
# --ctrf is an option of pytest-json-ctrf. Nothing of the agent's is loaded or configures pytest.
words=()
while [ $# -gt 0 ]; do
  case $1 in --ctrf) shift ;; --ctrf=*) ;; *) words+=("$1") ;; esac
  shift
done
CONFIGURED
python3 -s -c 'import sys; sys.path.pop(0); import pytest; sys.exit(pytest.console_main())' \\
  -p no:cacheprovider "${{own[@]}}" "${{words[@]}}"
code=$?
mkdir -p /logs/verifier
if [ $code != 0 ]; then
  echo >> {FAILED}
  echo 0 > {PYTEST_SAID}
elif [ ! -e {PYTEST_SAID} ]; then
  echo 1 > {PYTEST_SAID}
fi
exit $code
"""
_INI = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
_BEGIN = (
    'rm -rf "$HOME/.local/bin/env" && mkdir -p "$HOME/.local/bin" && : > "$HOME/.local/bin/env"; '
)
"""uv's installer leaves this file, and scripts read it."""
_END = f"; code=$?; [ $code = 0 ] && [ ! -e {PYTEST_SAID} ] && echo 1 > {PYTEST_SAID}; exit $code"
"""Where no pytest ran, the script itself decides."""


@dataclass(frozen=True)
class Offline:
    """A task's tests as they are put into a machine, the command that runs them, and the packages
    that have to be there, Debian's and Python's. `recorded`: whether every pytest that they run
    says in PYTEST_SAID how it ended.
    """

    tests: Mapping[str, File]
    command: str
    debian: tuple[str, ...]
    python: tuple[str, ...]
    recorded: bool


def offline(tests: Mapping[str, File], script: str) -> Offline:
    """Tests, by absolute path, of which a script is run; as they are, where nothing is fetched."""
    scripts = [
        _code(tests[path].content.decode("utf-8", "replace"))
        for path in sorted(tests)
        if path.endswith(".sh")
    ]
    debian, python = _needs(scripts)
    if not any(_FETCHES.search(code) for code in scripts):
        return Offline(tests, f"bash {script}", debian, python, False)
    recorded = not any(_PAST.search(code) for code in scripts)
    command = f"{_BEGIN}PATH={_PLACE}:$PATH bash {script}{_END if recorded else ''}"
    return Offline({**tests, **_programs(tests)}, command, debian, python, recorded)


def _needs(scripts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    debian: list[str] = []
    python = ["pytest"] if any("pytest" in script for script in scripts) else []
    for script in scripts:
        for command in re.split(r"&&|\|\|?|;|\n", script):
            if installs := installs_of(command):
                debian += installs.debian
                python += installs.python
    return _needed(debian), _needed(python)


def _programs(tests: Mapping[str, File]) -> dict[str, File]:
    """What stands in, by absolute path."""
    own_settings = any(path.rpartition("/")[2] in _INI for path in tests)
    settings = "own=()" if own_settings else "own=(-c /dev/null --rootdir /tests)"
    texts = {
        "apt": _NOTHING,
        "apt-get": _NOTHING,
        "pip": _NOTHING,
        "pip3": _NOTHING,
        "python": _PYTHON,
        "python3": _PYTHON,
        "curl": _FETCH,
        "wget": _FETCH,
        "uv": _UV,
        "uvx": _UVX,
        "pytest": _PYTEST.replace("CONFIGURED", settings),
    }
    programs = {f"{_PLACE}/{name}": File(text.encode(), 0o755) for name, text in texts.items()}
    return programs | {FAILED: File(b"")}


def _code(script: str) -> str:
    """Without comments, and with continued lines joined."""
    code = re.sub(r"\\\n", " ", script)
    return re.sub(r"(?m)(?:^|\s)#.*$", "", code)


def _needed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name not in _NOT_NEEDED)
