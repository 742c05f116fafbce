"""The label table: what is derived from counts, and that it survives a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from r2v_dist.errors import UsageError
from r2v_dist.labels.table import SCHEMA, LabelTable
from r2v_dist.router.features import FEATURE_NAMES


def columns(**changed: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "task": ["a", "a", "b"],
        "split": ["train"] * 3,
        "z": [1, 2, None],
        "prefix": [2**62, 5, 6],
        "t": [0, 3, 1],
        "source": ["slm_only", "random", "slm_only"],
        "features": np.arange(3.0 * len(FEATURE_NAMES)).reshape(3, -1),
        "n_s": [4, 4, 0],
        "s_s": [3, 1, 0],
        "n_t1": [2, 0, 1],
        "s_t1": [1, 0, 1],
        "n_tinf": [1, 1, 0],
        "s_tinf": [1, 0, 0],
        "m_tinf": [4.5, 2.0, np.nan],
        "differs": [True, None, False],
        "n_r": [2, 0, 1],
        "s_rs": [1, 0, 1],
        "s_rt": [2, 0, 1],
        "m_rs": [1.5, np.nan, 0.0],
        "m_rt": [1.0, np.nan, 2.0],
        "own_success": [True, None, False],
        "episode": ["e2", "e1", "e2"],
        "weight": [1.0, 1.0, 1.0],
    }
    return plain | changed


def test_shares_come_from_counts_and_the_own_outcome_is_one_more_branch() -> None:
    labels = LabelTable.of_columns(columns())
    np.testing.assert_array_equal(labels.n, [5, 4, 1])
    np.testing.assert_allclose(labels.rho, [1 - 4 / 5, 3 / 4, 1.0])
    np.testing.assert_allclose(labels.rho1, [0.5, np.nan, 0.0])
    np.testing.assert_allclose(labels.rhoT, [0.0, 1.0, np.nan])
    np.testing.assert_allclose(labels.m, [4.5, 2.0, np.nan])
    np.testing.assert_array_equal(labels.dissent, [1, np.nan, 0])
    np.testing.assert_array_equal(labels.n_dissent, [1, 0, 1])
    np.testing.assert_array_equal(labels.success_gained, [0.5, np.nan, 0.0])
    np.testing.assert_array_equal(labels.calls_saved, [0.5, np.nan, -2.0])
    np.testing.assert_array_equal(labels.z, [1, 2, -1])
    np.testing.assert_array_equal(labels.episode, [0, 1, 0])
    assert labels.features_NF.shape == (3, len(FEATURE_NAMES))


def test_a_file_gives_the_same_table(tmp_path: Path) -> None:
    labels = LabelTable.of_columns(columns())
    labels.save(tmp_path / "labels.arrow")
    again = LabelTable.load(tmp_path / "labels.arrow")
    assert again.table.equals(labels.table)
    np.testing.assert_array_equal(again.features_NF, labels.features_NF)
    assert again.table["prefix"].to_pylist()[0] == 2**62


def test_a_mask_keeps_states() -> None:
    labels = LabelTable.of_columns(columns())
    kept = labels.where(labels.task == "a")
    assert len(kept) == 2
    np.testing.assert_array_equal(kept.features_NF, labels.features_NF[:2])
    np.testing.assert_array_equal(kept.episode, [0, 1])


def test_labels_of_other_features_are_refused(tmp_path: Path) -> None:
    old = LabelTable.of_columns(columns()).table.replace_schema_metadata(
        {"r2v_feature_version": "0"}
    )
    pa.feather.write_feather(old, tmp_path / "old.arrow")
    with pytest.raises(UsageError, match="feature version 0"):
        LabelTable.load(tmp_path / "old.arrow")
    with pytest.raises(UsageError, match="no label table"):
        LabelTable.load(tmp_path / "none.arrow")
    with pytest.raises(KeyError):
        LabelTable.of_columns({})
    assert SCHEMA.field("features").type.list_size == len(FEATURE_NAMES)
