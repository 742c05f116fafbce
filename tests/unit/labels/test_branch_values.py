"""Branch values survive the trip to disk unchanged, and a table of another kind is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from r2v_dist.chat import Turn
from r2v_dist.errors import UsageError
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue

ROW = BranchValue(
    key="train|g1|7|99",
    task="g1",
    split="train",
    z=7,
    prefix=99,
    t=1,
    history=(
        Turn("Goal: eat", "take apple", "slm", (4, 5)),
        Turn("Taken.", "go east", "teacher", None),
    ),
    user="A kitchen.",
    candidate="eat apple",
    candidate_ids=(6, 7, 8),
    candidate_index=0,
    source="slm",
    n=4,
    successes=3,
    state_hash=-5,
    policy="bc-1",
)
TEACHER = replace(
    ROW,
    candidate="go west",
    candidate_ids=None,
    candidate_index=5,
    source="teacher",
    n=1,
    successes=1,
    z=None,
)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    branch_values.save(tmp_path / "values.arrow", branch_values.to_table([ROW, TEACHER]))
    table = branch_values.load(tmp_path / "values.arrow")
    assert list(branch_values.rows_of(table)) == [ROW, TEACHER]
    assert np.array_equal(branch_values.values(table), [0.75, 1.0])
    assert [path.name for path in tmp_path.iterdir()] == ["values.arrow"]


def test_states_are_in_the_order_of_their_keys_and_candidates() -> None:
    other = replace(ROW, key="a", candidate_index=2)
    table = branch_values.to_table([TEACHER, other, ROW])
    assert branch_values.states_of(table) == [[other], [ROW, TEACHER]]


def test_an_empty_table_has_no_states(tmp_path: Path) -> None:
    branch_values.save(tmp_path / "values.arrow", branch_values.to_table([]))
    assert branch_values.states_of(branch_values.load(tmp_path / "values.arrow")) == []


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="5 successes of 4"):
        replace(ROW, successes=5)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    feather.write_feather(pa.table({"key": ["x"]}), tmp_path / "other.arrow")
    with pytest.raises(UsageError, match=r"other\.arrow: not a table of branch values"):
        branch_values.load(tmp_path / "other.arrow")
