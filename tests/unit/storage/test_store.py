"""The store: whole episodes or none, exact contents back, order of commits without influence,
readable by others.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.collector import Collector, StageFolder
from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.language_model import Answer, Candidate, TopTokens
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage import step_table

ARM = Arm("entropy", 0.25, "bc-1", "expert", 0)


def episode(name: str, steps: int = 3, z: int | None = 7, success: bool = True) -> Episode:
    """An episode whose every field has a value that can be recognised."""

    def step(t: int) -> Step:
        candidates = tuple(Candidate(f"go {t}{k}", (t, k), (-0.5, -0.25 * k)) for k in range(t + 1))
        proposal = (
            Answer(candidates, "bc-1", 100 + t, TopTokens.of([(5, -0.1), (6, -2.5)]))
            if t != 1
            else None
        )
        actor, ids = ("slm", (t, 0)) if proposal else ("teacher", None)
        return Step(
            f"sée {t}",
            f"clean {t}",
            ("failure",) * (t % 2),
            actor,
            f"go {t}0",
            ids,
            t != 2,
            0.5 * t,
            proposal,
            t,
            2**40 + t,
            False,
            verifier_scores=(0.5, 0.25, 0.75)[: t + 1] if proposal else (),
            chosen_index=t if proposal else None,
        )

    reason = StopReason.WON if success else StopReason.STEP_LIMIT
    key = EpisodeKey("evaluate", "hash", name, z, ARM.id, 0)
    return Episode(
        key,
        "test",
        ARM,
        "the goal",
        tuple(step(t) for t in range(steps)),
        success,
        reason,
        "the end",
    )


def test_round_trip_and_schema(tmp_path: Path) -> None:
    rollout_store.commit(tmp_path, 0, [episode("a"), episode("b", 0, None, False)])
    table = rollout_store.read(tmp_path)
    assert table.schema.remove_metadata() == step_table.SCHEMA.remove_metadata()
    a, b = list(rollout_store.episodes_of(table))
    assert [row["t"] for row in a] == [0, 1, 2]
    assert [row["observation"] for row in a] == ["sée 0", "sée 1", "sée 2"]
    assert a[0]["action_ids"] == [0, 0]
    assert a[1]["action_ids"] is None
    assert a[2]["candidate_ids"] == [[2, 0], [2, 1], [2, 2]]
    assert a[2]["candidate_texts"] == ["go 20", "go 21", "go 22"]
    assert a[2]["candidate_logprobs"][2] == [-0.5, -0.5]
    assert a[0]["first_top_ids"] == [5, 6]
    assert a[1]["candidate_texts"] == []
    assert [row["executed"] for row in a] == [True, True, False]
    assert (b[0]["t"], b[0]["z"], b[0]["stop_reason"], b[0]["action"]) == (
        -1,
        None,
        "step_limit",
        None,
    )
    assert rollout_store.outcomes(table).num_rows == 2


def without_chosen_index(folder: Path) -> pa.Table:
    """Rewrite the first shard as version 2 of the schema had it; its rows as they are now."""
    path = rollout_store.shards(folder)[0]
    table = rollout_store.read_shard(path)
    old = table.drop_columns(["chosen_index"])
    feather.write_feather(old.replace_schema_metadata({"r2v_schema_version": "2"}), path)
    return table


def test_a_shard_from_before_the_chosen_index_reads_as_one_of_today(tmp_path: Path) -> None:
    rollout_store.commit(tmp_path, 0, [episode("a"), episode("b", 0, None, False)])
    rollout_store.commit(tmp_path, 1, [episode("c")])
    today = rollout_store.read(tmp_path)
    assert today["chosen_index"].to_pylist() == [0, None, 2, None, 0, None, 2]
    shard = without_chosen_index(tmp_path)
    path = rollout_store.shards(tmp_path)[0]
    assert "chosen_index" not in feather.read_table(path).column_names
    assert rollout_store.read_shard(path).equals(shard, check_metadata=True)
    assert rollout_store.read(tmp_path).equals(today)
    for columns in (["chosen_index"], ["t", "chosen_index", "key"], ["key", "t"]):
        some = rollout_store.read(tmp_path, columns)
        assert some.equals(today.select(columns)), columns


def test_readable_without_this_project(tmp_path: Path) -> None:
    path = rollout_store.commit(tmp_path, 0, [episode("a")])
    frame = pd.read_feather(path)
    assert frame["success"].tolist() == [True] * 3
    assert pa.ipc.open_file(path).schema.metadata[b"r2v_schema_version"] == b"3"


@given(st.permutations(range(5)))
@settings(max_examples=20)
def test_reading_does_not_depend_on_the_order_of_commits(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    for index, which in enumerate(order):
        rollout_store.commit(folder, index, [episode(f"task {which}")])
    keys = [e[0]["key"] for e in rollout_store.episodes_of(rollout_store.read(folder))]
    assert keys == sorted(str(episode(f"task {i}").key) for i in range(5))


def test_the_collector_commits_once(tmp_path: Path) -> None:
    collector = Collector(StageFolder(tmp_path, shard_episodes=2, shard_seconds=1e9))
    assert collector.add([episode("a")]) == 1
    assert not rollout_store.committed_keys(tmp_path)
    assert collector.add([episode("a"), episode("b")]) == 1
    assert len(rollout_store.committed_keys(tmp_path)) == 2
    later = Collector(StageFolder(tmp_path, shard_episodes=2, shard_seconds=1e9))
    assert later.add([episode("b"), episode("c")]) == 1
    assert later.flush() == 1
    assert rollout_store.outcomes(rollout_store.read(tmp_path)).num_rows == 3


def test_an_unfinished_shard_is_not_read(tmp_path: Path) -> None:
    rollout_store.commit(tmp_path, 0, [episode("a")])
    (tmp_path / "000001.tmp").write_bytes(b"half a shard")
    assert len(rollout_store.committed_keys(tmp_path)) == 1
