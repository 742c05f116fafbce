#!/usr/bin/env bash
# Creates the virtual environment and installs pinned versions into it. Safe to run again after a failure.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
extra=${EXTRA:-cpu}

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
[ -f "constraints-$extra.txt" ] || fail "EXTRA=$extra: there are cpu and gpu"
case $venv in
    /*) full=$venv ;;
    *) full=$PWD/$venv ;;
esac
# Ray starts its workers by a shell command in which this path is not quoted.
case $full in
    *[[:space:]\"\'\$\&\;\(\)\|\<\>\*\?\`\\\#]*)
        fail "$full: Ray cannot start workers from a path with a space or a character of the shell;" \
            "make the environment elsewhere: make setup VENV=/path/without/it" ;;
esac

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11 make setup"
command -v gcc >/dev/null || command -v cc >/dev/null ||
    fail "a C compiler is needed (two packages build from source); on Debian: apt-get install build-essential"

echo "setup: virtual environment in $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
    fail "python cannot make a virtual environment; on Debian: apt-get install python3-venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==0.13.9" ||
    fail "uv could not be installed; check the network and run the same command again"

options=(--constraint constraints.txt --constraint "constraints-$extra.txt" --overrides overrides.txt)
if [ "$extra" = cpu ]; then
    options+=(--overrides overrides-cpu.txt)
    # PyTorch without CUDA: from a local wheel folder where one is configured, else from PyTorch's CPU index.
    if [ -n "${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" ]; then
        export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}
    else
        export UV_TORCH_BACKEND=${UV_TORCH_BACKEND:-cpu}
    fi
fi
echo "setup: installing packages (on disk about 3.5 GB, with CUDA 10)"
# Compiled: a run starts dozens of processes, and each would compile what it imports where Python is told to keep no caches.
UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} "$venv/bin/uv" pip install --python "$venv/bin/python" \
    --compile-bytecode "${options[@]}" --editable ".[$extra,dev]" ||
    fail "installation failed; the lines above name the package. Run the same command again to continue"
"$venv/bin/r2v" --version >/dev/null || fail "r2v does not start; remove $venv and run the same command again"
echo "setup: done"
