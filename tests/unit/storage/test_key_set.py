"""The set of committed keys: as a set of strings, in a fraction of its memory."""

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.storage import key_set
from r2v_dist.storage.key_set import KeySet

Keys = st.lists(st.integers(0, 40).map(str), max_size=12)


@given(st.lists(st.tuples(st.booleans(), Keys), max_size=8), st.integers(0, 5))
@settings(max_examples=100)
def test_it_is_a_set(batches: list[tuple[bool, list[str]]], at_least: int) -> None:
    before = key_set._AT_LEAST
    key_set._AT_LEAST = at_least
    try:
        keys, expected = KeySet(), set[str]()
        for absorbed, batch in batches:
            if absorbed:
                keys.absorb(KeySet(batch))
            else:
                keys.update(batch)
            expected |= set(batch)
            assert len(keys) == len(expected)
            assert {str(n) for n in range(45) if str(n) in keys} == expected
    finally:
        key_set._AT_LEAST = before


def test_a_million_keys_take_less_than_a_tenth_of_their_text() -> None:
    keys = KeySet()
    tracemalloc.start()
    try:
        for start in range(0, 1_000_000, 1000):
            keys.update(
                f"evaluate|0123456789ab|task-{n}|2000|arm|0" for n in range(start, start + 1000)
            )
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(keys) == 1_000_000
    assert used < 23e6


def test_another_process_knows_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(pickle.dumps(KeySet(["a", "b"])))
    ask = "import pickle; keys = pickle.load(open('keys', 'rb')); print([x in keys for x in 'abc'])"
    said = subprocess.check_output([sys.executable, "-c", ask], cwd=tmp_path, text=True)
    assert said.split() == ["[True,", "True,", "False]"]
