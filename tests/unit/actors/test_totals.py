"""Sums of what units came to."""

from dataclasses import fields

from actors.totals import Totals


def test_every_count_is_added() -> None:
    names = [field.name for field in fields(Totals)]
    first = Totals(**{name: place + 1 for place, name in enumerate(names)})
    second = Totals(**{name: 100 * (place + 1) for place, name in enumerate(names)})
    both = first + second
    assert [getattr(both, name) for name in names] == [101 * (i + 1) for i in range(len(names))]
    assert Totals() + first == first
