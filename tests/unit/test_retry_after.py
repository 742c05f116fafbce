"""What an endpoint asks to wait, whoever asked it."""

import time
from email.utils import formatdate

import pytest

from r2v_dist.retry_after import retry_after_s


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "300", "retry-after": "2"}, 0.3),
        ({"retry-after": formatdate(0, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_numbers_dates_and_what_is_neither(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_a_date_to_come() -> None:
    wait_s = retry_after_s({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert wait_s is not None
    assert 90 < wait_s <= 101
