"""The arguments of MBPP+ calls as Python has them. JSON has lists only."""

from collections.abc import Callable, Sequence
from typing import Any

Conversion = Callable[[list[Any]], Sequence[Any]]


def _tuples(items: list[Any]) -> list[Any]:
    return [tuple(item) for item in items]


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


_MBPP_TYPES: tuple[tuple[tuple[int, ...], Conversion], ...] = (
    (
        (
            2,
            116,
            132,
            143,
            222,
            261,
            273,
            394,
            399,
            421,
            424,
            429,
            470,
            560,
            579,
            596,
            616,
            630,
            726,
            740,
            744,
            809,
        ),
        _tuples,
    ),
    (
        (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
        lambda a: [_tuples(x) for x in a],
    ),
    ((75, 413, 444, 753), lambda a: [_tuples(a[0]), a[1]]),
    ((106, 750), lambda a: [a[0], tuple(a[1])]),
    ((115,), lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]]),
    ((124,), lambda a: [float(a[0]), complex(a[1])]),
    ((250, 307, 405, 446, 617, 720, 763, 808), lambda a: [tuple(a[0]), *a[1:]]),
    ((252,), lambda a: [complex(a[0])]),
    ((259, 401, 445), lambda a: [tuple(_tuples(x)) for x in a]),
    ((278,), lambda a: [tuple(tuple(x) if isinstance(x, list) else x for x in a[0])]),
    ((580, 615, 791), lambda a: [_deep(x) for x in a]),
    ((722,), lambda a: [{key: tuple(value) for key, value in a[0].items()}, *a[1:]]),
)
"""Task numbers whose arguments are tuples, sets or complex numbers, as
EvalPlus 0.3.1 restores them.
"""


def conversion(task_id: str) -> Conversion:
    """What makes the arguments of one call of this task from JSON."""
    number = int(task_id.rpartition("/")[2])
    return next((convert for numbers, convert in _MBPP_TYPES if number in numbers), list)
