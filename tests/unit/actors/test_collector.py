"""The collectors under fences: a superseded one adds nothing, what it published late counts for
nothing that somebody else has too, and however many there are, each key is written once.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.collector import Collector, CollectorActor, StageFolder
from actors.collector_handle import place_for
from r2v_dist.errors import Superseded
from r2v_dist.storage import fence as fences
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.lease import holding
from tests.unit.storage.test_damage import episode

FOLDER = "rollouts"


def tasks_in(folder: Path) -> list[str]:
    return sorted(rollout_store.outcomes(rollout_store.read(folder))["task"].to_pylist())


def test_a_collector_that_was_given_up_commits_nothing(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    with holding(tmp_path, 60) as lease:
        given_up = CollectorActor()
        given_up.open(StageFolder(folder, 2, 1e9, lease.next_fence()))
        given_up.add([episode("a"), episode("b")])
        given_up.add([episode("c")])
        later = Collector(StageFolder(folder, 2, 1e9, lease.next_fence()))
        for try_again in (lambda: given_up.add([episode("d")]), given_up.flush):
            with pytest.raises(Superseded, match="has taken over"):
                try_again()
        assert later.add([episode(task) for task in "abcd"]) == 2
    assert tasks_in(folder) == list("abcd")
    assert [path.name[:14] for path in rollout_store.shards(folder)] == [
        "e000002-000000",
        "e000003-000000",
    ]


def test_the_same_shard_twice_is_one(tmp_path: Path) -> None:
    first = rollout_store.commit(tmp_path, 0, [episode("a")], epoch=3)
    assert rollout_store.commit(tmp_path, 0, [episode("a")], epoch=3) == first
    assert rollout_store.shards(tmp_path) == [first]


def test_a_late_shard_counts_only_for_what_nobody_else_has(tmp_path: Path) -> None:
    again = replace(episode("a"), success=True)
    rollout_store.commit(tmp_path, 0, [again, episode("b")], epoch=2)
    rollout_store.commit(tmp_path, 0, [episode("a"), episode("c")], epoch=1)
    table = rollout_store.outcomes(rollout_store.read(tmp_path, ["task", "success", "t"]))
    assert dict(zip(*table.select(["task", "success"]).to_pydict().values(), strict=True)) == {
        "a": True,
        "b": False,
        "c": False,
    }
    kept = rollout_store.rows_where(tmp_path, lambda rows: rows["t"].to_numpy() == 0, ["t", "task"])
    assert sorted(kept["task"].to_pylist()) == list("abc")
    assert kept.column_names == ["t", "task"]
    assert len(rollout_store.committed_keys(tmp_path)) == 3


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.integers(0, 3), min_size=1)))
@settings(max_examples=40)
def test_every_key_counts_once_and_the_latest_epoch_has_it(
    tmp_path_factory: pytest.TempPathFactory, epochs_by_task: dict[str, set[int]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    for epoch in range(4):
        tasks = [task for task, epochs in epochs_by_task.items() if epoch in epochs]
        if tasks:
            marked = [replace(episode(task), goal=str(epoch)) for task in tasks]
            rollout_store.commit(folder, 0, marked, epoch)
    table = rollout_store.outcomes(rollout_store.read(folder, ["task", "goal", "t"]))
    counted = zip(table["task"].to_pylist(), table["goal"].to_pylist(), strict=True)
    latest = ((task, str(max(epochs))) for task, epochs in epochs_by_task.items())
    assert sorted(counted) == sorted(latest)


def test_shards_that_are_named_by_number_are_of_epoch_0(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    rollout_store.commit(folder, 0, [episode("a"), episode("b")]).rename(folder / "000007.arrow")
    with holding(tmp_path, 60) as lease:
        collector = Collector(StageFolder(folder, 1, 1e9, lease.next_fence()))
        assert collector.add([episode("b"), episode("c")]) == 1
    assert [rollout_store.epoch_of(path) for path in rollout_store.shards(folder)] == [0, 2]
    assert tasks_in(folder) == list("abc")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 10**6))
@settings(max_examples=25)
def test_any_number_of_collectors_that_may_die_commits_each_key_once(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int
) -> None:
    """In every epoch another number, deliveries in any order and some of them twice."""
    root = tmp_path_factory.mktemp("run")
    folder = root / FOLDER
    rng = random.Random(seed)
    units = [[episode(f"t{task}", z=z) for z in (1, 2)] for task in range(8)]
    for epoch, count in enumerate(counts, 1):
        fence = fences.take(root, epoch, {})
        committed = rollout_store.committed_keys(folder)
        actors = [Collector(StageFolder(folder, 3, 1e9, fence), committed) for _ in range(count)]
        last = epoch == len(counts)
        delivered = rng.choices(units, k=rng.randrange(12)) + (units if last else [])
        for unit in delivered:
            actors[place_for(unit[0].key.task, count)].add(unit)
        for actor in actors:
            if last or rng.random() < 0.5:
                actor.flush()
    rows = [key for path in rollout_store.shards(folder) for key in rollout_store.keys_of(path)]
    assert sorted(rows) == sorted(str(one.key) for unit in units for one in unit)


def test_tasks_are_spread_over_collectors() -> None:
    places = [place_for(f"task-{n}", 4) for n in range(400)]
    assert all(60 < places.count(collector) < 140 for collector in range(4))


def test_what_took_long_is_committed_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("actors.collector.time.monotonic", lambda: now)
    folder = tmp_path / FOLDER
    collector = Collector(StageFolder(folder, 100, 5.0))
    committed = []
    for task, now in (("a", 60.0), ("b", 61.0), ("c", 64.0), ("d", 66.0)):  # noqa: B007
        collector.add([episode(task)])
        committed.append("".join(tasks_in(folder)))
    assert committed == ["a", "a", "a", "abcd"]
