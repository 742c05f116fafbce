"""Which CPU cores an engine computes on, and how a process is told."""

import contextlib
import os
from collections.abc import Iterator, Sequence


def parse_cores(text: str) -> list[int]:
    """Core numbers of a list such as `0-1,3`; every core this process may use for an empty one."""
    if not text:
        return sorted(os.sched_getaffinity(0))
    cores: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores


@contextlib.contextmanager
def openmp_on(cores: Sequence[int]) -> Iterator[None]:
    """Processes started inside compute with one OpenMP thread a core, each bound to its own; their
    first thread is one of them.
    """
    settings = {
        "OMP_NUM_THREADS": str(len(cores)),
        "OMP_PLACES": ",".join(f"{{{core}}}" for core in cores),
        "OMP_PROC_BIND": "true",
    }
    old_values = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in old_values.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
