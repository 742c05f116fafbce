"""EvalPlus's comparison rules on values whose verdict is known by hand, and the plain data in which
values travel.
"""

import json
import math
import time
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs.coding.comparison import Comparison
from envs.coding.in_sandbox.harness import (
    Budget,
    Digest,
    Opaque,
    Oversize,
    decode,
    digest,
    dumps,
    encode,
    message,
    written,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
)
NUMBERS = st.lists(
    st.integers(-(2**52), 2**52) | st.sampled_from([2**200, -(2**64), 10 * 2**1000]), max_size=12
)


def sent(value: Any) -> Any:
    return decode(json.loads(dumps(encode(value, Budget(1 << 40)))))


@given(VALUES)
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    assert sent(value) == value
    assert type(sent(value)) is type(value)


@given(VALUES | st.floats())
def test_it_is_written_as_json_writes_it(value: Any) -> None:
    data = encode(value, Budget(1 << 40))
    assert dumps(data) == json.dumps(data)


@given(VALUES, VALUES)
def test_digests_are_equal_exactly_where_values_are(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (one == other)
    assert digest(one) == digest(sent(one))


def test_digests_follow_pythons_equality_of_numbers() -> None:
    assert digest([1, 0, 2.5]) == digest([1.0, False, 2.5])
    assert digest([1, -0.0]) == digest([True, 0])
    assert digest([2**60, 1]) == digest([float(2**60), 1.0])
    assert digest([2**60 + 1]) != digest([float(2**60)])
    assert digest([1]) != digest((1,))
    assert digest([object()]) != digest([object()])
    assert digest({1: "a", 2: "b"}) == digest({2: "b", 1: "a"})
    assert digest([math.nan, 1.0]) != digest([math.nan, 1.0])
    assert digest([{1: 0}.keys()]) == digest([{1}])
    assert digest([bytearray(b"x")]) == digest([b"x"])


class Equal:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class Sly(dict[Any, Any]):
    __eq__ = Equal.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]

    def items(self) -> Any:
        return [("right", "answer")]


class Colour(IntEnum):
    RED = 3


class Lying(complex):
    real = 10**400  # type: ignore[assignment]
    imag = 0


def test_only_content_crosses_and_foreign_objects_equal_nothing() -> None:
    assert type(sent(Sly(a=1))) is dict
    assert sent(Sly(a=1)) == {"a": 1}
    assert sent(Counter("aab")) == {"a": 2, "b": 1}
    assert sent(OrderedDict(a=1)) == {"a": 1}
    assert type(sent(Colour.RED)) is int
    assert sent(Lying(1, 2)) == 1 + 2j
    assert sent({1: 2}.keys()) == {1}
    assert sent({1: 2}.items()) == {(1, 2)}
    assert sent(bytearray(b"x")) == b"x"
    for foreign in (Equal(), object(), map(str, [1]), range(3), len, ...):
        opaque = sent(foreign)
        assert isinstance(opaque, Opaque)
        assert opaque != opaque
    assert sent([Equal()]) != [1]


def test_beyond_the_budget_a_digest_is_sent_except_of_floats_that_need_a_tolerance() -> None:
    with pytest.raises(Oversize):
        encode(list(range(11)), Budget(11))
    assert encode(list(range(10)), Budget(11)) == list(range(10))
    assert decode(message("x" * 100, 50, whole_floats=True)) == Digest(digest("x" * 100))
    assert decode(message([0.5] * 100, 50, whole_floats=True)) == [0.5] * 100
    assert decode(message([0.5] * 100, 50, whole_floats=False)) == [0.5] * 100
    assert decode(message([0.5, *range(99)], 50, whole_floats=False)) == [0.5, *range(99)]
    # Equal to a list of integers, which would be a digest.
    assert isinstance(decode(message([2.0] * 100, 50, whole_floats=False)), Digest)
    assert decode(message([2.0] * 100, 50, whole_floats=True)) == [2.0] * 100
    assert isinstance(decode(message([0.5, "x"] * 50, 50, whole_floats=True)), Digest)


@given(NUMBERS, st.integers(1, 40))
def test_equal_values_are_sent_in_one_form(values: list[Any], budget: int) -> None:
    """Else a right answer would not be recognised: what it is compared with has one form."""
    forms = set()
    for kind in (int, float, complex):
        sent_as = decode(message([tuple(map(kind, values))], budget, whole_floats=False))
        forms.add(type(sent_as))
    assert len(forms) == 1


def test_keys_that_collide_are_refused_before_a_set_is_made_of_them() -> None:
    modulus = (1 << 61) - 1
    keys = [k * modulus for k in range(20_000)]
    started = time.process_time()
    for data in ({"s": keys}, {"z": keys}, {"d": [[key, 0] for key in keys]}):
        with pytest.raises(ValueError, match="collide"):
            decode(data)
    assert not equal([1, 2], keys, "mbpp_plus", "Diff")
    assert time.process_time() - started < 1.0  # a set of them takes many seconds
    assert decode({"s": list(range(-2000, 2000))}) == set(range(-2000, 2000))
    assert equal([1, 2], [1, 2] * 1000, "mbpp_plus", "Diff")


@pytest.mark.parametrize(
    "data",
    [
        {"q": 1},
        {"t": 1},
        {"d": [1]},
        {"s": [[1]]},
        {"i": "z"},
        {"a": 1, "b": 2},
        {"b": "0"},
        {"c": [1, 2, 3]},
        {"e": "raised"},
    ],
)
def test_what_encode_cannot_have_written_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(data)


def equal(
    expected: Any,
    output: Any,
    dataset: str = "humaneval_plus",
    entry_point: str = "f",
    atol: float = 0.0,
    arguments: Any = (),
) -> bool:
    return Comparison(dataset, entry_point, atol).equal(lambda: arguments, expected, output)


@pytest.mark.parametrize(
    ("expected", "output", "verdict"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], (1, 2), False),
        (1, True, True),
        (1, 1.0, True),
        (1.0, 1.0 + 9e-7, True),
        (1.0, 1.0 + 2e-6, False),
        (1.0, 1, True),
        (1.5, "1.5", False),
        (0.0, False, True),
        (1e9, 1e9 + 50, True),
        (1e9, 1e9 + 150, False),
        ([1.0, 2.0], [1.0, 2.0000005], True),
        ([1.0, 2.0], (1.0, 2.0000005), False),
        ([1.0, 2.0], [1.0], False),
        ([1.0, 2.0], [1.0, "b"], False),
        ([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]], False),
        ([1.0, 2.0], [[1.0], [2.0]], False),
        ([1.0, 2.0], [1.0, True], False),
        ([1.0, math.inf], [1.0 + 1e-9, math.inf], True),
        ([1.0, math.inf], [1.0 + 1e-9, -math.inf], False),
        ([0.5], [10**400], False),
        ([1.0, 2], [1.0000001, 2], False),
        (math.nan, math.nan, False),
        ("a", None, False),
        ([], [], True),
    ],
)
def test_equality_and_the_tolerance_of_floats(expected: Any, output: Any, verdict: bool) -> None:
    assert equal(expected, output) is verdict


NEAR = st.floats() | st.sampled_from(
    [0.0, -0.0, 1.0, 1.0 + 9e-7, 1.0 + 2e-6, 1e9, 1e9 + 90, 1e9 + 150, math.inf]
)


@given(st.lists(st.tuples(NEAR, NEAR | st.integers(-(2**53), 2**53)), min_size=1, max_size=5))
def test_the_tolerance_is_numpys(pairs: list[tuple[float, float]]) -> None:
    expected = [one for one, _ in pairs]
    output = [other for _, other in pairs]
    assert equal(expected, output) is (
        output == expected or bool(np.allclose(output, expected, rtol=1e-7, atol=1e-6))
    )


def test_a_tolerance_of_the_task_counts_for_every_type() -> None:
    assert equal(2.0, 2.00009, atol=1e-4)
    assert not equal(2.0, 2.0002, atol=1e-4)
    assert equal([[2.0], (1.0, 3)], [[2.00009], [1.0, 3]], atol=1e-4)
    assert not equal([[2.0], (1.0, 3)], [[2.00009], [1.0, 3, 3]], atol=1e-4)
    assert not equal("a", "b", atol=1e-4)
    assert not equal({1: 2.0}, {1: 2.00009}, atol=1e-4)


def test_after_the_first_floats_every_later_test_is_compared_with_a_tolerance() -> None:
    comparison = Comparison("humaneval_plus", "f", 0)
    assert not comparison.equal(tuple, [10**9], [10**9 + 1])
    assert comparison.equal(tuple, 0.5, 0.5)
    assert comparison.equal(tuple, [10**9], [10**9 + 1])


def test_a_root_counts_by_what_it_is_and_not_by_which_one() -> None:
    def root(x: float) -> bool:
        return equal(99.0, x, entry_point="find_zero", atol=1e-4, arguments=([-4.0, 0.0, 1.0],))

    assert root(2.0)
    assert root(-2.0)
    assert not root(99.0)
    assert not equal(99.0, "2", entry_point="find_zero", atol=1e-4, arguments=([-4.0, 0.0, 1.0],))


@pytest.mark.parametrize(
    ("name", "expected", "output", "arguments", "verdict"),
    [
        ("are_equivalent", True, "anything", (), True),
        ("sum_div", 12, 0, (), True),
        ("sum_div", 12, 11, (), False),
        ("Diff", [1, 2], [2, 1, 1], (), True),
        ("Diff", [1, 2], [2], (), False),
        ("Diff", [1, 2], None, (), False),
        ("check_str", True, Opaque("Match"), (), True),
        ("check_str", True, None, (), False),
        ("check_str", False, None, (), True),
        ("check_str", True, True, (), True),
        ("check_str", True, False, (), False),
        ("surface_Area", 0, 35, (3, 4), True),
        ("surface_Area", 0, 34, (3, 4), False),
        ("digit_distance_nums", 99, 1, (1, 2), True),
        ("digit_distance_nums", 99, 7, (123, 256), True),
        ("digit_distance_nums", 99, 6, (123, 256), False),
        ("other", [1, 2], [2, 1], (), False),
    ],
)
def test_the_oracles_of_mbpp(
    name: str, expected: Any, output: Any, arguments: Any, verdict: bool
) -> None:
    assert (
        equal(
            expected, output, "mbpp_plus", name, 1e-6 if name == "surface_Area" else 0.0, arguments
        )
        is verdict
    )
    assert equal([1, 2], [2, 1], "humaneval_plus", "Diff") is False


@given(
    VALUES | st.floats() | st.lists(st.integers()) | st.lists(st.text()) | st.lists(st.floats()),
    st.integers(1, 30),
    st.booleans(),
)
@example([math.nan], 1, False)
def test_the_short_way_to_a_values_text_is_no_other_text(
    value: Any, budget: int, whole_floats: bool
) -> None:
    """But for the digest of a value with a NaN, which equals nothing, not even itself."""
    short, long, again = (
        written(value, budget, whole_floats),
        *(dumps(message(value, budget, whole_floats)) for _ in range(2)),
    )
    assert short == long if long == again else short.startswith('{"h": ') and short != long
