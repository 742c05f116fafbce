"""Preference pairs: the gap rule, ties, the second view, and an account that adds up."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from learners.dpo import pairs as preference_pairs
from learners.dpo.pairs import PairCounts, build_pairs, pairs_of
from r2v_dist.chat import Turn
from r2v_dist.errors import UsageError
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue

STATE: dict[str, Any] = {
    "key": "s",
    "task": "g",
    "split": "train",
    "z": 3,
    "prefix": 11,
    "t": 1,
    "history": (Turn("Goal: eat", "look", "slm", (1,)),),
    "user": "A kitchen.",
    "state_hash": 5,
    "policy": "bc",
}


def candidate(
    text: str, successes: int, index: int = 0, source: Any = "slm", n: int = 10, **changes: Any
) -> BranchValue:
    ids = (len(text), index) if source == "slm" else None
    row = {**STATE, **changes}
    return BranchValue(
        candidate=text,
        candidate_ids=ids,
        candidate_index=index,
        source=source,
        n=n,
        successes=successes,
        **row,
    )


def build(rows: list[BranchValue], **more: Any) -> tuple[list[dict[str, Any]], PairCounts]:
    table, counts = build_pairs(branch_values.to_table(rows), 0.1, **more)
    reasons = counts.clean + counts.one_action + counts.small_gap + counts.pairs
    assert reasons == counts.states
    assert (
        counts.with_view + counts.unseen_elsewhere + counts.other_state + counts.same_text
        == counts.pairs
        == len(table)
    )
    return table.to_pylist(), counts


def test_best_against_worst() -> None:
    [pair], counts = build([candidate("a", 4, 0), candidate("b", 9, 1), candidate("c", 1, 2)])
    assert (pair["chosen"], pair["chosen_ids"], pair["chosen_value"], pair["chosen_n"]) == (
        "b",
        [1, 1],
        0.9,
        10,
    )
    assert (pair["rejected"], pair["rejected_value"], pair["scored_by"]) == ("c", 0.1, "branches")
    assert (counts.states, counts.pairs) == (1, 1)


@pytest.mark.parametrize(
    ("low", "high", "kept"), [(4, 5, True), (6, 7, True), (2, 3, True), (5, 5, False)]
)
def test_the_gap_is_inclusive_whatever_the_rounding(low: int, high: int, kept: bool) -> None:
    found, counts = build([candidate("a", low, 0), candidate("b", high, 1)])
    assert len(found) == kept
    assert counts.small_gap == (not kept)


def test_the_teachers_recovery_is_chosen_when_it_is_better_than_all_proposals() -> None:
    rows = [candidate("a", 2, 0), candidate("b", 5, 1)]
    [pair], counts = build([*rows, candidate("go back", 1, 5, "teacher", n=1)])
    assert (pair["chosen"], pair["chosen_source"], pair["chosen_ids"]) == (
        "go back",
        "teacher",
        None,
    )
    assert counts.teacher_chosen == 1
    [pair], counts = build([*rows, candidate("go back", 5, 5, "teacher")])
    assert (pair["chosen"], counts.teacher_chosen) == ("b", 0)


def test_equal_words_are_one_action_and_keep_the_policys_own_tokens() -> None:
    rows = [
        candidate("a", 8, 0),
        candidate("a", 4, 1, n=5),
        candidate("a", 1, 5, "teacher", n=1),
        candidate("b", 0, 2),
    ]
    [pair], _ = build(rows)
    assert (pair["chosen"], pair["chosen_source"], pair["chosen_ids"], pair["chosen_n"]) == (
        "a",
        "slm",
        [1, 0],
        16,
    )
    assert pair["chosen_value"] == pytest.approx(13 / 16)
    assert build([candidate("a", 8, 0), candidate("a", 0, 1)])[1].one_action == 1


def test_states_met_without_perturbation_make_no_pair() -> None:
    assert build([candidate("a", 1, 0, z=None), candidate("b", 9, 1, z=None)])[1].clean == 1


def views(**other: Any) -> tuple[list[dict[str, Any]], PairCounts]:
    """A pair, and the same state met elsewhere with some difference."""
    elsewhere = {"key": "t", "z": 4, "user": "A kitchen. Smoke.", **other}
    return build([candidate("a", 1, 0), candidate("b", 9, 1), candidate("a", 5, 0, **elsewhere)])


def test_the_second_view_is_the_same_hidden_state_under_another_seed() -> None:
    [pair], counts = views()
    assert (pair["view_key"], pair["view_z"], pair["view_user"]) == ("t", 4, "A kitchen. Smoke.")
    assert (counts.with_view, counts.one_action) == (1, 1)
    assert views(z=None)[0][0]["view_z"] is None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"state_hash": 6}, "other_state"),
        ({"user": "A kitchen."}, "same_text"),
        ({"prefix": 12}, "unseen_elsewhere"),
        ({"task": "h"}, "unseen_elsewhere"),
        ({"z": 3}, "unseen_elsewhere"),
    ],
)
def test_a_missing_second_view_has_a_reason(other: dict[str, Any], reason: str) -> None:
    [pair], counts = views(**other)
    assert pair["view_key"] is None
    assert pair["view_history"] is None
    assert getattr(counts, reason) == 1


def test_scores_take_the_place_of_branch_values() -> None:
    rows = [candidate("a", 9, 0), candidate("b", 1, 1)]
    [pair], _ = build(rows, scores=np.array([0.2, 0.7]), scored_by="verifier-1")
    assert (pair["chosen"], pair["chosen_value"], pair["scored_by"]) == ("b", 0.7, "verifier-1")


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = [
        candidate(
            f"a{c}",
            int(rng.integers(11)),
            c,
            key=f"{task}|{z}",
            task=f"g{task}",
            z=z,
            user=f"seen {(7 * task + z) % 3}",
        )
        for task in range(5)
        for z in range(6)
        for c in range(3)
    ]
    first, counts = build(rows)
    assert counts.states == 30
    assert counts.with_view > 10
    second, again = build([rows[i] for i in rng.permutation(len(rows))])
    assert counts == again
    assert first == second


def test_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        candidate("a", 1, 0),
        candidate("b", 9, 1),
        replace(candidate("a", 5, 0), key="t", z=4, user="Smoke."),
    ]
    table, _ = build_pairs(branch_values.to_table(rows), 0.1)
    preference_pairs.save(tmp_path / "pairs.arrow", table)
    [pair] = pairs_of(preference_pairs.load(tmp_path / "pairs.arrow"))
    assert (pair.key, pair.history, pair.user) == ("s", STATE["history"], "A kitchen.")
    assert pair.chosen == Turn("A kitchen.", "b", "slm", (1, 1))
    assert pair.view is not None
    assert (pair.view.history, pair.view.user) == (STATE["history"], "Smoke.")
    branch_values.save(tmp_path / "other.arrow", branch_values.to_table(rows))
    with pytest.raises(UsageError, match=r"other\.arrow: not a table of preference pairs"):
        preference_pairs.load(tmp_path / "other.arrow")


def test_no_state_makes_an_empty_table() -> None:
    table, counts = build_pairs(branch_values.to_table([]), 0.1)
    assert isinstance(table, pa.Table)
    assert table.num_rows == 0
    assert {getattr(counts, f.name) for f in fields(counts)} == {0}
