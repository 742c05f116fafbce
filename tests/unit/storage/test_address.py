"""A run at an address: the objects are the run, whatever a machine's disk holds of it."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow.feather as feather
import pytest
from pyarrow import fs

from r2v_dist import files
from r2v_dist.errors import StoreFailure, Superseded, UsageError
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.object_storage import object_store
from r2v_dist.object_storage.object_store import ObjectStore
from r2v_dist.storage import fence as fences
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.checkpoints import ADAPTER, Checkpoint, on_this_node, published
from r2v_dist.storage.lease import holding
from r2v_dist.storage.run_dir import RunDir
from r2v_dist.storage.timeline import Timeline, spans
from tests.object_storage import SECRET, mirror_of, s3_server
from tests.unit.storage.test_lease import ELSEWHERE, beating, taken
from tests.unit.storage.test_store import episode


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def address(server: str, request: pytest.FixtureRequest) -> str:
    return f"s3://bucket/runs/{request.node.name}"


@pytest.fixture
def here(address: str, tmp_path: Path) -> Path:
    return mirror_of(address, tmp_path / "here")


@pytest.fixture
def elsewhere(address: str, tmp_path: Path) -> Path:
    return mirror_of(address, tmp_path / "elsewhere")


def names(address: str) -> list[str]:
    return sorted(meta.name for meta in ObjectStore(address).list(""))


def folder_with(path: Path, *contents: str) -> Path:
    """An unfinished folder beside `path`, with one file for each content."""
    scratch = path.with_name(f"{path.name}.tmp")
    scratch.mkdir(parents=True)
    for number, content in enumerate(contents):
        (scratch / f"{number}.safetensors").write_text(content)
    return scratch


def test_a_second_driver_elsewhere_is_told_who_is_at_work(
    address: str, here: Path, elsewhere: Path
) -> None:
    with holding(here, 60), pytest.raises(UsageError) as refused, holding(elsewhere, 60):
        pass
    assert str(refused.value).startswith(f"run_dir = {address}: another run (host ")
    with holding(elsewhere, 60) as lease:
        assert lease.fence.epoch == 2


def test_whoever_is_silent_for_a_lease_is_superseded(
    address: str, here: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = taken(here, 1, lease_s=1.0)
    with holding(elsewhere, 1):
        pass
    with pytest.raises(Superseded, match=rf"^run_dir = {address}: another run .* has taken over"):
        silent.require()
    assert "host node7, " in capsys.readouterr().err


def test_a_driver_elsewhere_that_gives_signs_of_life_stays(here: Path, elsewhere: Path) -> None:
    alive = taken(here, 1)
    with (
        beating(alive),
        pytest.raises(UsageError, match=r"host node7, .* is at work there"),
        holding(elsewhere, 60),
    ):
        pass
    alive.require()


def test_a_store_that_is_away_for_a_moment_costs_no_lease(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_twice = threading.Event()
    asked: list[str] = []

    def away(store: ObjectStore, name: str) -> None:
        asked.append(name)
        if len(asked) == 2:
            asked_twice.set()
        raise StoreFailure("no answer")

    with holding(here, 0.4) as lease:
        with monkeypatch.context() as patched:
            patched.setattr(ObjectStore, "read", away)
            assert asked_twice.wait(30)
        before = fences.sign(lease.fence.path)
        deadline = time.monotonic() + 30
        while fences.sign(lease.fence.path) == before:
            assert time.monotonic() < deadline
        lease.require()


def test_of_many_takers_one_has_the_epoch(here: Path, elsewhere: Path) -> None:
    start = threading.Barrier(8)
    fortunate: list[fences.Fence] = []

    def grab(root: Path) -> None:
        start.wait()
        if fence := fences.take(root, 1, ELSEWHERE):
            fortunate.append(fence)

    takers = [threading.Thread(target=grab, args=(root,)) for root in [here, elsewhere] * 4]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    [fence] = fortunate
    fence.require()


def test_a_shard_is_committed_once_and_seen_everywhere(
    address: str, here: Path, elsewhere: Path, server: str
) -> None:
    shard = rollout_store.commit(here / "rollouts" / "evaluate", 0, [episode("a")], 1)
    name = f"rollouts/evaluate/{shard.name}"
    first = ObjectStore(address).head(name)
    again = rollout_store.commit(elsewhere / "rollouts" / "evaluate", 0, [episode("a")], 1)
    assert (again.name, ObjectStore(address).head(name)) == (shard.name, first)
    (here / "late.tmp").write_text("another content")
    with pytest.raises(FileExistsError):
        files.publish_new(here / "late.tmp", shard)
    table = rollout_store.read(elsewhere / "rollouts" / "evaluate")
    assert table.equals(rollout_store.read(here / "rollouts" / "evaluate"))

    arrow = fs.S3FileSystem(endpoint_override=server.removeprefix("http://"), scheme="http")
    with arrow.open_input_file(f"{address.removeprefix('s3://')}/{name}") as handle:
        assert feather.read_table(handle)["goal"].to_pylist() == ["the goal"] * 3


def test_a_late_shard_of_a_superseded_driver_counts_nothing_twice(
    here: Path, elsewhere: Path
) -> None:
    rollout_store.commit(here / "rollouts" / "evaluate", 0, [episode("a"), episode("b")], 1)
    rollout_store.commit(elsewhere / "rollouts" / "evaluate", 0, [episode("a")], 2)
    rows = rollout_store.outcomes(rollout_store.read(here / "rollouts" / "evaluate"))
    assert sorted(key.split("|")[2] for key in rows["key"].to_pylist()) == ["a", "b"]


def test_a_machine_with_an_empty_disk_continues(here: Path, elsewhere: Path) -> None:
    with RunDir(here).lock(60) as run:
        run.begin("collect", "inputs")
        rollout_store.commit(run.rollouts("collect"), 0, [episode("a")], 1)
        model = run.checkpoint("slm", "bc-1")
        files.publish(folder_with(model, "weights"), model)
        run.complete("collect", "inputs", 1.0, {"checkpoint": "checkpoints/slm/bc-1"})
        run.begin("labels", "inputs")
        rollout_store.commit(run.rollouts("labels"), 0, [episode("b")], 2)
    shutil.rmtree(here)
    with RunDir(elsewhere).lock(60) as run:
        manifest = run.manifest("collect")
        assert manifest is not None
        assert run.lost(manifest) is None
        assert (run.checkpoint("slm", "bc-1") / "0.safetensors").read_text() == "weights"
        assert run.begun("labels") == "inputs"
        assert str(episode("b").key) in rollout_store.committed_keys(run.rollouts("labels"))


def test_a_model_is_uploaded_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[str] = []
    honest = ObjectStore.put

    def counted(store: ObjectStore, name: str, content: Path | bytes) -> str:
        uploaded.append(name)
        return honest(store, name, content)

    monkeypatch.setattr(ObjectStore, "put", counted)
    with RunDir(here).lock(60) as run:
        run.begin("bc", "inputs")
        model = run.checkpoint("slm", "bc-1")
        files.publish(folder_with(model, "weights"), model)
        run.complete("bc", "inputs", 1.0, {"checkpoint": "checkpoints/slm/bc-1"})
    assert uploaded.count("checkpoints/slm/bc-1/0.safetensors") == 1


def test_what_other_inputs_left_is_set_aside(address: str, here: Path, elsewhere: Path) -> None:
    for inputs, root in (("one", here), ("two", elsewhere), ("three", here)):
        with RunDir(root).lock(60) as run:
            run.begin("collect", inputs)
            rollout_store.commit(run.rollouts("collect"), 0, [episode(inputs)], 1)
            run.complete("collect", inputs, 0.0, {})
    folders = {name.split("/")[1] for name in names(address) if name.startswith("rollouts/")}
    assert folders == {"collect", "collect.one", "collect.two"}
    [key] = rollout_store.keys_of(*rollout_store.shards(elsewhere / "rollouts" / "collect"))
    assert "|three|" in key


def test_a_killed_upload_leaves_nothing_that_anybody_reads(
    address: str, here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "checkpoints/slm/bc-1"
    honest = ObjectStore.put

    def killed(store: ObjectStore, name: str, content: Path | bytes) -> str:
        if name.endswith("1.safetensors"):
            raise KeyboardInterrupt
        return honest(store, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            files.publish(folder_with(here / model, "first", "second"), here / model)
    assert names(address) == [f"{model}/0.safetensors"]
    assert not (here / model).exists()
    with RunDir(elsewhere).lock(60):
        assert not (elsewhere / model).exists()

    shutil.rmtree(here / f"{model}.tmp")
    files.publish(folder_with(here / model, "other", "second"), here / model)
    mirrors.at_hand(elsewhere / model)
    assert [path.read_text() for path in sorted((elsewhere / model).glob("*.safetensors"))] == [
        "other",
        "second",
    ]


def test_a_published_folder_that_takes_another_name_counts_once(
    address: str, here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, model = "stages/verifier/trained", "checkpoints/verifier/v-1"
    honest = ObjectStore.put

    def killed(store: ObjectStore, name: str, content: Path | bytes) -> str:
        if name == f"{model}/verifier.json":
            raise KeyboardInterrupt
        return honest(store, name, content)

    files.publish(folder_with(here / trained, "weights"), here / trained)
    files.write_atomically(here / trained / "verifier.json", "{}")
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            files.publish(here / trained, here / model)
    assert not mirrors.at_hand(elsewhere / model).exists()

    files.publish(here / trained, here / model)
    files_of_it = ("0.safetensors", "_COMPLETE", "verifier.json")
    assert names(address) == [f"{model}/{name}" for name in files_of_it]
    mirrors.at_hand(elsewhere / model)
    assert sorted(path.name for path in (elsewhere / model).iterdir()) == list(files_of_it)


def test_an_adapter_finds_its_model_in_the_mirror_of_who_asks(here: Path, elsewhere: Path) -> None:
    model, adapter = "checkpoints/slm/scratch", "checkpoints/slm/bc-1"
    files.publish(folder_with(here / model, "weights"), here / model)
    scratch = folder_with(here / adapter, "added")
    named = {"base_model_name_or_path": str(here / model)}
    (scratch / ADAPTER).write_text(json.dumps(named))
    files.publish(scratch, here / adapter)

    on_this_node(elsewhere / adapter)
    assert (elsewhere / model / "0.safetensors").read_text() == "weights"
    assert published(elsewhere / adapter, "bc-1") == Checkpoint(
        str(elsewhere / model), "bc-1", str(elsewhere / adapter)
    )


def test_an_object_that_stands_for_a_folder_becomes_no_file(address: str, here: Path) -> None:
    ObjectStore(address).put("stages/bc/ray_train", b"")
    with RunDir(here).lock(60):
        files.write_atomically(here / "stages" / "bc" / "ray_train" / "verdict.json", "{}")
    assert "stages/bc/ray_train/verdict.json" in names(address)


def test_a_timeline_goes_on_elsewhere(here: Path, elsewhere: Path) -> None:
    for root, lane in ((here, "slm engine"), (elsewhere, "learner")):
        with RunDir(root).lock(60):
            timeline = Timeline(root)
            timeline.begin(lane, 1)
            timeline.end_all()
    assert [span.lane for span in spans(elsewhere)] == ["slm engine", "learner"]


def test_what_is_not_finished_is_no_object(address: str, here: Path) -> None:
    mirror = mirrors.of(here)
    assert mirror is not None
    scratch = folder_with(here / "logs" / "copy", "half")
    (here / "logs" / "engine.log").write_text("whole")
    mirror.share([*scratch.iterdir(), *(here / "logs").iterdir()])
    assert names(address) == ["logs/engine.log"]


def test_a_model_is_fetched_once_a_node_and_again_when_it_changed(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "checkpoints/slm/bc-1"
    fetched: list[str] = []
    honest = ObjectStore.download

    def counted(store: ObjectStore, meta: object_store.Meta, target: Path) -> None:
        fetched.append(meta.name)
        honest(store, meta, target)

    monkeypatch.setattr(ObjectStore, "download", counted)
    files.publish(folder_with(here / model, "old weights"), here / model)
    askers = [threading.Thread(target=mirrors.at_hand, args=(elsewhere / model,)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert fetched == [f"{model}/0.safetensors"]
    files.publish(folder_with(here / model, "new weights"), here / model)
    mirrors.at_hand(elsewhere / model)
    assert (elsewhere / model / "0.safetensors").read_text() == "new weights"


def test_a_model_that_lost_an_object_is_one_line(address: str, here: Path, elsewhere: Path) -> None:
    model = "checkpoints/slm/bc-1"
    files.publish(folder_with(here / model, "weights"), here / model)
    ObjectStore(address).delete([f"{model}/0.safetensors"])
    with pytest.raises(StoreFailure, match=rf"^{address}/{model}/0\.safetensors: missing"):
        mirrors.at_hand(elsewhere / model)
    ObjectStore(address).put(f"{model}/_COMPLETE", b"{")
    with pytest.raises(StoreFailure, match=rf"^{address}/{model}/_COMPLETE: damaged; delete it"):
        mirrors.at_hand(elsewhere / model)
    assert not (elsewhere / model).exists()


def test_what_a_disk_damaged_is_fetched_again(address: str, here: Path) -> None:
    with RunDir(here).lock(60) as run:
        run.begin("collect", "hash")
        shard = rollout_store.commit(run.rollouts("collect"), 0, [episode("a")], 1)
        before = names(address)
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        assert len(run.repairing(lambda: rollout_store.keys_of(shard))) == 1
    assert [name for name in names(address) if not name.startswith("lease/")] == [
        name for name in before if not name.startswith("lease/")
    ]


def test_a_store_that_does_not_answer_is_one_line_without_secrets(
    address: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(object_store.DEADLINE_VARIABLE, "1.01")  # a client of its own
    with pytest.raises(StoreFailure) as failure, RunDir(here).lock(60):
        pass
    said = str(failure.value)
    assert said.startswith(f"{address}/lease/.creation-")
    assert said.endswith("the storage does not answer within 1.01 s (cluster.storage_deadline_s)")
    assert "\n" not in said
    assert SECRET not in said


def test_a_missing_bucket_is_one_line(server: str, tmp_path: Path) -> None:
    root = mirror_of("s3://no-such-bucket/run", tmp_path)
    with pytest.raises(StoreFailure, match="the storage says NoSuchBucket; make the bucket"):
        RunDir(root).lock(60).__enter__()


class Forgetful(BaseHTTPRequestHandler):
    """Takes every object, and none of its conditions."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_DELETE = do_POST = do_PUT

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_store_that_overwrites_is_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = HTTPServer(("127.0.0.1", 0), Forgetful)
    threading.Thread(target=forgetful.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{forgetful.server_port}")
    root = mirror_of("s3://bucket/overwritten", tmp_path)
    with pytest.raises(StoreFailure, match=r"overwrites what must not be overwritten"):
        RunDir(root).lock(60).__enter__()
    forgetful.shutdown()
    forgetful.server_close()


def test_a_record_says_how_a_driver_ended(address: str, here: Path) -> None:
    with holding(here, 60):
        pass
    answer = ObjectStore(address).read("lease/000001.json")
    assert answer is not None
    assert "ended" in json.loads(answer)
