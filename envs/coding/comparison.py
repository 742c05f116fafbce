"""EvalPlus's comparison rules on plain data: pure functions of inputs, expected outputs and
outputs.

Written from the behaviour of evalplus 0.3.1, its per-task oracles included, with one repair that
its later versions make too: a root that `find_zero` (HumanEval/32) finds within tolerance counts as
right.
"""

import cmath
import math
from collections.abc import Callable, Sequence
from typing import Any

from envs.coding.in_sandbox.harness import spread

_SET_EQUAL = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip
_NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}
"""MBPP functions that return a match object or None; only which of the two counts."""
_FLOAT_ATOL = 1e-6
_RTOL = 1e-7


class Comparison:
    """Compares the outputs of one list of tests, in order.

    The order matters in one way, as in EvalPlus: from the first expected output on that is made of
    floats, all that follow are compared with a tolerance.
    """

    def __init__(self, dataset: str, entry_point: str, atol: float) -> None:
        self._mbpp = dataset == "mbpp_plus"
        self._entry_point = entry_point
        self._atol = atol
        self._root = dataset == "humaneval_plus" and entry_point == "find_zero"

    def equal(self, arguments: Callable[[], Sequence[Any]], expected: Any, output: Any) -> bool:
        """Whether the output counts as right. `arguments` gives the call's arguments; most tasks
        never ask.
        """
        try:
            return self._equal(arguments, expected, output)
        except Exception:  # a boundary: whatever an output does to a comparison, it is not right
            return False

    def _equal(self, arguments: Callable[[], Sequence[Any]], expected: Any, output: Any) -> bool:
        if self._root:
            [coefficients] = arguments()
            return bool(abs(_polynomial(coefficients, output)) <= self._atol)
        exact = bool(output == expected)
        if self._mbpp:
            exact = self._mbpp_oracle(exact, arguments, expected, output)
        if self._atol == 0 and _is_floats(expected):
            self._atol = _FLOAT_ATOL
        if exact or self._atol == 0:
            return exact
        return type(output) is type(expected) and _near(output, expected, self._atol)

    def _mbpp_oracle(
        self, exact: bool, arguments: Callable[[], Sequence[Any]], expected: Any, output: Any
    ) -> bool:
        name = self._entry_point
        if name == "are_equivalent":
            return True
        if name == "sum_div":
            return exact or bool(output == 0)
        if name == "surface_Area":
            return exact or bool(abs(output - _pyramid_surface(*arguments())) <= self._atol)
        if name == "digit_distance_nums":
            return exact or bool(output == _digit_distance(*arguments()))
        if name in _SET_EQUAL:
            return set(spread(list(output))) == set(expected)
        if name in _NOT_NONE:
            return (
                bool(output == expected)
                if isinstance(output, bool)
                else expected is (output is not None)
            )
        return exact


def has_oracle(dataset: str, entry_point: str) -> bool:
    """Whether outputs are looked into by more than `==` and the tolerance for floats."""
    mbpp = (
        _SET_EQUAL
        | _NOT_NONE
        | {"are_equivalent", "sum_div", "surface_Area", "digit_distance_nums"}
    )
    return (
        entry_point in mbpp
        if dataset == "mbpp_plus"
        else dataset == "humaneval_plus" and entry_point == "find_zero"
    )


def expects_not_none(dataset: str, entry_point: str) -> bool:
    """Whether the expected output is only that there is one."""
    return dataset == "mbpp_plus" and entry_point in _NOT_NONE


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _near(output: Any, expected: Any, atol: float) -> bool:
    """As numpy's `allclose` on data of one shape: numbers, and lists or tuples of such. Nothing is
    converted and nothing broadcast, so a value of another shape is not near, and none costs more
    than its own length.
    """
    if isinstance(expected, list | tuple):
        if not isinstance(output, list | tuple) or len(output) != len(expected):
            return False
        return all(
            _near(item, expected_item, atol)
            for item, expected_item in zip(output, expected, strict=True)
        )
    if not all(isinstance(number, int | float | complex) for number in (output, expected)):
        return False
    if output == expected:
        return True
    return bool(
        cmath.isfinite(output)
        and cmath.isfinite(expected)
        and abs(output - expected) <= atol + _RTOL * abs(expected)
    )


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    return sum(c * math.pow(x, i) for i, c in enumerate(coefficients))


def _pyramid_surface(base: float, height: float) -> int:
    """Of a square pyramid; height is the perpendicular one."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def _digit_distance(first: int, second: int) -> int:
    """Sum of the digits' distances, the shorter number padded with zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)
