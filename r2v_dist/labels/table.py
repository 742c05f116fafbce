"""Counterfactual branch labels (docs/method.md, section 6): one Arrow row a state, which holds
counts and successes rather than averages.

Invariant: risks and effects of a state are derived from its counts here and nowhere else. A label
table belongs to one version of the features.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from r2v_dist.errors import UsageError
from r2v_dist.router.features import FEATURE_NAMES, FEATURE_VERSION
from r2v_dist.storage import arrow_file as table_file

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("split", pa.string()),
        ("z", pa.int32()),
        ("prefix", pa.int64()),
        ("t", pa.int16()),
        ("source", pa.string()),
        ("features", pa.list_(pa.float64(), len(FEATURE_NAMES))),
        ("n_s", pa.int32()),
        ("s_s", pa.int32()),
        ("n_t1", pa.int32()),
        ("s_t1", pa.int32()),
        ("n_tinf", pa.int32()),
        ("s_tinf", pa.int32()),
        ("m_tinf", pa.float64()),
        ("differs", pa.bool_()),
        ("n_r", pa.int32()),
        ("s_rs", pa.int32()),
        ("s_rt", pa.int32()),
        ("m_rs", pa.float64()),
        ("m_rt", pa.float64()),
        ("own_success", pa.bool_()),
        ("episode", pa.string()),
        ("weight", pa.float64()),
    ],
    metadata={
        "r2v_feature_version": FEATURE_VERSION,
        "r2v_feature_names": json.dumps(FEATURE_NAMES),
    },
)
"""`n_*` and `s_*` count branches and successes of the S-, T1- and Tinf-branches, `m_tinf` is the
mean number of teacher steps of the Tinf-branches.
`differs` says whether the teacher's action differs from the SLM's, null where the teacher was not
asked.
`n_r` counts pairs of branches in which a router acts after the SLM's action (RS) or the teacher's
(RT); `s_rs`, `s_rt` are their successes and `m_rs`, `m_rt` their mean numbers of teacher steps.
`source` is "slm_only" for a state of an SLM-only episode, else the router whose episode it is from.
`own_success` is the outcome of that SLM-only episode, null for states of other routers.
"""


@dataclass(frozen=True)
class LabelTable:
    """Labelled states as numpy views, row i of each belonging to state i. Shares are nan where no
    branch was run.
    """

    table: pa.Table

    @classmethod
    def of_columns(cls, columns: dict[str, Any]) -> Self:
        """From one sequence a column of `SCHEMA`. Raises KeyError for a missing column,
        pa.ArrowInvalid for a wrong type.
        """
        arrays = []
        for field in SCHEMA:
            values = _plain(columns[field.name])
            # A mean over no branch is nan, which the table holds as null.
            nan_is_null = field.name.startswith("m_")
            arrays.append(pa.array(values, field.type, from_pandas=nan_is_null))
        return cls(pa.Table.from_arrays(arrays, schema=SCHEMA))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a table that `save` wrote. Raises UsageError when it is missing or of another
        version of the features.
        """
        if not path.is_file():
            raise UsageError(f"{path}: no label table; run the labelling stage first")
        table = table_file.read(path)
        version = (table.schema.metadata or {}).get(b"r2v_feature_version", b"none").decode()
        if version != FEATURE_VERSION or table.schema != SCHEMA:
            raise UsageError(
                f"{path}: labels of feature version {version}, this program has "
                f"{FEATURE_VERSION}; label again"
            )
        return cls(table)

    def save(self, path: Path) -> None:
        """Write as Arrow IPC and publish by renaming."""
        table_file.save(path, self.table, SCHEMA)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def plus(self, other: "LabelTable") -> "LabelTable":
        """These states, then those of another table."""
        return LabelTable(pa.concat_tables([self.table, other.table]))

    def where(self, keep_N: npt.NDArray[np.bool_]) -> "LabelTable":
        """The states that a mask keeps."""
        return LabelTable(self.table.filter(pa.array(keep_N)))

    @cached_property
    def features_NF(self) -> Array:
        """Feature vectors."""
        flat = self.table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float64).reshape(len(self), -1)

    @cached_property
    def n(self) -> Array:
        """Weight of `rho` in a Brier sum: the number of S-branches, plus 1 where the outcome of the
        SLM-only episode is known.
        """
        return self._counts("n_s") + np.isfinite(self.own_success).astype(np.float64)

    @cached_property
    def successes(self) -> Array:
        """Successes among the `n` outcomes."""
        return self._counts("s_s") + np.nan_to_num(self.own_success)

    @cached_property
    def rho(self) -> Array:
        """Residual failure risk: share of failures when the SLM acts to the end."""
        return _risk(self.successes, self.n)

    @cached_property
    def n1(self) -> Array:
        """Number of T1-branches."""
        return self._counts("n_t1")

    @cached_property
    def rho1(self) -> Array:
        """Risk after one teacher step, when the SLM acts from there on."""
        return _risk(self._counts("s_t1"), self.n1)

    @cached_property
    def nT(self) -> Array:
        """Number of Tinf-branches."""
        return self._counts("n_tinf")

    @cached_property
    def rhoT(self) -> Array:
        """Risk when the teacher acts to the end."""
        return _risk(self._counts("s_tinf"), self.nT)

    @cached_property
    def m(self) -> Array:
        """Mean number of teacher steps when the teacher acts from here to the end."""
        return self._counts("m_tinf")

    @cached_property
    def dissent(self) -> Array:
        """1 where the teacher's action differs from the SLM's, else 0; nan where the teacher was
        not asked.
        """
        return self._flags("differs")

    @cached_property
    def n_dissent(self) -> Array:
        """1 where `dissent` is known."""
        return np.isfinite(self.dissent).astype(np.float64)

    @cached_property
    def counts(self) -> dict[str, Array]:
        """Number of labels of every state, by the name of the quantity that they label."""
        return {"rho": self.n, "rho1": self.n1, "rhoT": self.nT, "dissent": self.n_dissent}

    @cached_property
    def pairs(self) -> Array:
        """Number of pairs of branches in which a router acts after the first action."""
        return self._counts("n_r")

    @cached_property
    def with_disagreement(self) -> npt.NDArray[np.bool_]:
        """States with pairs and a disagreeing teacher: only these measure the effect of a teacher
        step.
        """
        return np.asarray((self.pairs > 0) & (self.dissent == 1))

    @cached_property
    def success_gained(self) -> Array:
        """Mean success after the teacher's step minus mean success after the SLM's, when a router
        acts from there on; nan without a pair.
        """
        return _risk(self._counts("s_rs"), self.pairs) - _risk(self._counts("s_rt"), self.pairs)

    @cached_property
    def calls_saved(self) -> Array:
        """Mean number of teacher steps after the SLM's step, minus that after the teacher's step,
        which counts itself: -1 where the teacher step changes nothing.
        """
        return self._counts("m_rs") - self._counts("m_rt")

    @cached_property
    def own_success(self) -> Array:
        """1 or 0 for states of an SLM-only episode, nan elsewhere."""
        return self._flags("own_success")

    @cached_property
    def weight(self) -> Array:
        """Sampling weight of the state (1 unless states were chosen unevenly)."""
        return self._counts("weight")

    @cached_property
    def z(self) -> Ints:
        """Perturbation seeds; -1 for the clean environment."""
        seeds = [-1 if z is None else z for z in self.table["z"].to_pylist()]
        return np.array(seeds, dtype=np.int64)

    @cached_property
    def t(self) -> Ints:
        """Step of the state in its episode."""
        return np.asarray(self.table["t"].to_numpy(), dtype=np.int64)

    @cached_property
    def task(self) -> npt.NDArray[np.str_]:
        """Task ids: the unit of resampling and of cross-validation."""
        return np.array(self.table["task"].to_pylist(), dtype=np.str_)

    @cached_property
    def split(self) -> npt.NDArray[np.str_]:
        """Split of the task."""
        return np.array(self.table["split"].to_pylist(), dtype=np.str_)

    @cached_property
    def source(self) -> npt.NDArray[np.str_]:
        """`slm_only`, or the router whose episode the state is from."""
        return np.array(self.table["source"].to_pylist(), dtype=np.str_)

    @cached_property
    def episode(self) -> Ints:
        """Index of the state's episode among the table's episodes, in order of first appearance."""
        episodes = self.table["episode"].combine_chunks().dictionary_encode()
        return np.asarray(episodes.indices.to_numpy(), dtype=np.int64)

    def _flags(self, name: str) -> Array:
        """A column of truth values as 1 and 0; nan where it is null."""
        numbers = [np.nan if flag is None else float(flag) for flag in self.table[name].to_pylist()]
        return np.array(numbers, dtype=np.float64)

    def _counts(self, name: str) -> Array:
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)


def _plain(values: Any) -> Any:
    """An [N, F] matrix as a list of rows; other columns as they are."""
    return list(values) if isinstance(values, np.ndarray) and values.ndim == 2 else values


def _risk(successes_N: Array, n_N: Array) -> Array:
    nowhere_N = np.full(len(n_N), np.nan)
    risk_N: Array = 1.0 - np.divide(successes_N, n_N, out=nowhere_N, where=n_N > 0)
    return risk_N
