"""Checkpoints in training of ranks whose nodes share nothing but an address."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from learners.common import remote_checkpoints
from r2v_dist.object_storage import mirror as mirrors
from tests.object_storage import mirror_of, s3_server

pytestmark = pytest.mark.slow  # processes that import torch
RANKS = 2
LOCAL = SimpleNamespace(local_process_index=0)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def stages(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """The folder of a stage on the nodes of two ranks, and on a third."""
    address = f"s3://bucket/{request.node.name}"
    roots = [mirror_of(address, tmp_path / f"node{number}") for number in range(3)]
    return [root / "stages" / "bc" for root in roots]


def on_ranks(work: Callable[[int, Path], None], stages: list[Path], meeting: Path) -> None:
    mp.spawn(_rank, (work, stages, meeting), nprocs=RANKS)


def _rank(rank: int, work: Callable[[int, Path], None], stages: list[Path], meeting: Path) -> None:
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=RANKS)
    work(rank, stages[rank])
    dist.destroy_process_group()


def save(rank: int, stage: Path, step: int) -> Path:
    """The part of a rank, which alone has it."""
    checkpoint = stage / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / f"part{rank}").write_text(f"step {step} of rank {rank}")
    if rank == 0:
        (stage / "metrics.jsonl").write_text(f'{{"step": {step}}}\n')
    return checkpoint


def three_and_an_unfinished_one(rank: int, stage: Path) -> None:
    if rank == 0:
        part = mirrors.of(stage)
        assert part is not None
        part.store.put("stages/bc/checkpoints/checkpoint-15/part7", b"of an earlier attempt")
    dist.barrier()
    for step in (5, 10, 15):
        remote_checkpoints.keep(save(rank, stage, step), LOCAL)
    unfinished = save(rank, stage, 20)
    if rank == 1:  # what a killed upload leaves
        mirror = mirrors.of(stage)
        assert mirror is not None
        mirror.store.put("stages/bc/checkpoints/checkpoint-20/part1", unfinished / "part1")
    dist.barrier()


def test_every_node_finds_the_last_whole_checkpoint(stages: list[Path], tmp_path: Path) -> None:
    on_ranks(three_and_an_unfinished_one, stages, tmp_path / "meeting")
    for stage in stages:
        remote_checkpoints.fetch_last(stage)
        [last] = (stage / "checkpoints").iterdir()
        assert last.name == "checkpoint-15"
        parts = {path.name: path.read_text() for path in last.iterdir() if path.name != "complete"}
        assert parts == {"part0": "step 15 of rank 0", "part1": "step 15 of rank 1"}
        assert (last / "complete").is_file()
    mirror = mirrors.of(stages[0])
    assert mirror is not None
    kept = {name.split("/")[0] for name in mirror.names(stages[0] / "checkpoints")}
    assert kept == {"checkpoint-10", "checkpoint-15", "checkpoint-20"}


def convert_then_follow(rank: int, stage: Path) -> None:
    remote_checkpoints.keep(save(rank, stage, 5), LOCAL)
    checkpoint = stage / "checkpoints" / "checkpoint-5"
    if rank == 0:
        (checkpoint / "universal").write_text("of all ranks")
    remote_checkpoints.follow(checkpoint, "universal")
    assert (checkpoint / "universal").read_text() == "of all ranks"
    assert (checkpoint / f"part{1 - rank}").is_file()
    remote_checkpoints.follow(checkpoint, "again")
    assert not checkpoint.exists()


def test_all_nodes_follow_what_the_first_rank_makes_of_a_checkpoint(
    stages: list[Path], tmp_path: Path
) -> None:
    on_ranks(convert_then_follow, stages, tmp_path / "meeting")
    remote_checkpoints.fetch_last(stages[2])
    assert not (stages[2] / "checkpoints" / "checkpoint-5").exists()
