"""The run directory. Invariant: a complete stage never runs again, an incomplete stage resumes, and
no file is overwritten in silence.

config.yaml                     the resolved configuration
stages/<name>/manifest.json     present only when the stage is complete; has its inputs' hash
stages/<name>/metrics.jsonl     what the stage logged
rollouts/<stage>/*.arrow        committed episodes
checkpoints/<model>/<version>/  Hugging Face directories
lease/<epoch>.json              who wrote here, and who may write now
timeline.jsonl                  when engines, runners and learners were there
quarantine/                     damaged files, under the paths that they had
report/  logs/
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from r2v_dist import files
from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.errors import DamagedFile, StoreFailure, UsageError, warn
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.storage import remote_run, timeline
from r2v_dist.storage.fence import Fence
from r2v_dist.storage.lease import Lease, holding

Result = TypeVar("Result")
_AGAIN = "`r2v run` with the run's configuration does stage {} again"


@dataclass(frozen=True)
class Manifest:
    """The record of a complete stage: the hash of its inputs, the duration of the attempt that
    completed it, and its results. `covers` are the sizes of its files, by path in the run
    directory; the stage is complete only with all of them. None where an older version of r2v
    completed the stage.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    stage: str
    input_hash: str
    wall_s: float
    attempts: int
    results: dict[str, Any]
    covers: dict[str, int] | None = None


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True)
class RunDir:
    """Paths of one run, and its record of complete stages. With a lease nothing is written once
    another driver has taken over (Superseded).
    """

    root: Path
    lease: Lease | None = None

    @property
    def fence(self) -> Fence | None:
        """This driver's right to write, as long as it begins no other episodes."""
        return self.lease.fence if self.lease else None

    def stage(self, name: str) -> Path:
        """The folder of a stage; it is made where it does not exist."""
        folder = self.root / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def rollouts(self, stage: str) -> Path:
        """The committed episodes of a stage."""
        return self.root / "rollouts" / stage

    def checkpoint(self, model: str, version: str) -> Path:
        """The folder of a model version."""
        return self.root / "checkpoints" / model / version

    def write_config(self, config: RunConfig) -> None:
        """Store the resolved configuration."""
        self.require_lease()
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        files.write_atomically(self.root / "config.yaml", text)

    def began_on_gpus(self) -> bool:
        """Whether the run has required GPUs before. A damaged configuration says nothing."""
        path = self.root / "config.yaml"
        if not path.is_file():
            return False
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "  gpus: require" in lines  # as `write_config` writes it

    def manifest(self, stage: str) -> Manifest | None:
        """The record of a complete stage, None when it is not complete. A damaged record gives a
        warning and None."""
        path = self.root / "stages" / stage / "manifest.json"
        if not path.is_file():
            return None
        try:
            return _manifest(path)
        except DamagedFile as error:
            warn(
                f"{path}: {error.problem}: stage {stage} counts as not complete; "
                f"{_AGAIN.format(stage)}"
            )
            return None

    def lost(self, manifest: Manifest) -> DamagedFile | None:
        """A file of a complete stage that is missing or changed; None where there is none."""
        fix = _AGAIN.format(manifest.stage)
        for name in _checkpoints(manifest.results):
            folder = self.root / name
            if not folder.is_dir():
                return DamagedFile(folder / "*.safetensors", "is missing", fix)
        for name, size in (manifest.covers or {}).items():
            path = self.root / name
            if not path.is_file():
                return DamagedFile(path, "is missing", fix)
            if path.stat().st_size != size:
                problem = f"is damaged: {path.stat().st_size} bytes instead of {size}"
                return DamagedFile(path, problem, fix)
        return self._added(manifest)

    def _added(self, manifest: Manifest) -> DamagedFile | None:
        """A shard that was added after the stage was completed; None where there is none."""
        if manifest.covers is None:
            return None
        for path in sorted(self.rollouts(manifest.stage).glob("*.arrow")):
            if str(path.relative_to(self.root)) not in manifest.covers:
                return DamagedFile(path, "was not there when its stage was completed")
        return None

    def require_rollouts(self, stage: str) -> None:
        """Raises DamagedFile where episodes of a complete stage are missing or changed."""
        manifest = self.manifest(stage)
        if manifest is None or manifest.covers is None:
            return
        covers = manifest.covers.items()
        episodes = {name: size for name, size in covers if name.startswith("rollouts/")}
        damaged = self.lost(replace(manifest, covers=episodes, results={}))
        if damaged is not None:
            raise damaged

    def begun(self, stage: str) -> str:
        """The hash of the inputs of the last attempt; empty where none can be read."""
        attempts = self.root / "stages" / stage / "attempts.jsonl"
        try:
            previous = files.read_json_lines(attempts)
        except DamagedFile:
            return ""
        return str(previous[-1].get("input_hash", "")) if previous else ""

    def begin(self, stage: str, input_hash: str) -> None:
        """Record an attempt; set aside the files of an attempt with other inputs."""
        self.require_lease()
        attempts = self.stage(stage) / "attempts.jsonl"
        try:
            previous = files.read_json_lines(attempts)
            old_hash = previous[-1].get("input_hash", "unknown") if previous else input_hash
        except DamagedFile as error:
            old_hash = "damaged"  # the inputs of the files are unknown
            warn(
                f"{attempts}: {error.problem}: what stage {stage} has is set aside, and made again"
            )
        if old_hash != input_hash:
            # The record of attempts goes last: a second try finds what is left to do.
            for folder in (self.rollouts(stage), self.root / "stages" / stage):
                if folder.is_dir():
                    files.set_aside(folder, folder.with_name(f"{folder.name}.{old_hash}"))
        attempt = {"input_hash": input_hash, "started": time.time(), "pid": os.getpid()}
        files.append_json_line(attempts, attempt)
        files.sync(attempts)

    def complete(self, stage: str, input_hash: str, wall_s: float, results: dict[str, Any]) -> None:
        """Record a stage as complete, with the sizes of its files."""
        self.require_lease()
        attempts = len(files.read_json_lines(self.stage(stage) / "attempts.jsonl"))
        paths = self._files_of(stage, results)
        self._keep(stage, paths)
        covers = {str(path.relative_to(self.root)): path.stat().st_size for path in paths}
        manifest = Manifest(stage, input_hash, wall_s, attempts, results, covers)
        text = json.dumps(asdict(manifest), indent=1)
        files.write_atomically(self.stage(stage) / "manifest.json", text)

    def _keep(self, stage: str, paths: list[Path]) -> None:
        """Have the files of a stage on disk, and in the store where the run has an address."""
        if mirror := mirrors.of(self.root):
            models = self.root / "checkpoints"  # which are there since they were published
            mirror.share(path for path in paths if not path.is_relative_to(models))
            mirror.share(self.stage(stage).glob("*.jsonl"))
            self._share_logs()
            return
        for folder in {path.parent for path in paths}:
            files.sync_entries(folder)

    def _share_logs(self) -> None:
        self.require_lease()
        if mirror := mirrors.of(self.root):
            mirror.share([self.root / timeline.NAME, *(self.root / "logs").rglob("*")])

    def _files_of(self, stage: str, results: dict[str, Any]) -> list[Path]:
        """The files of a stage that later stages read: tables, tasks, episodes and checkpoints."""
        paths = [*self.stage(stage).glob("*.arrow"), *self.stage(stage).glob("tasks.json")]
        paths += self.rollouts(stage).glob("*.arrow")
        for name in _checkpoints(results):
            paths += (self.root / name).glob("*")
        return sorted(path for path in paths if path.is_file())

    def repairing(self, work: Callable[[], Result]) -> Result:
        """The result of the work. When the work meets a damaged file of this run, the file is set
        aside and the work starts again: complete stages are skipped, and the content of the file is
        made again."""
        repaired: set[Path] = set()
        while True:
            try:
                return work()
            except DamagedFile as error:
                if error.path in repaired or not self.set_aside(error):
                    raise
                repaired.add(error.path)

    def set_aside(self, damaged: DamagedFile) -> bool:
        """Move a damaged file of this run, or the whole folder of its checkpoint, to `quarantine/`,
        so that it is made again. False where the file does not exist, or does not belong to this
        run."""
        self.require_lease()
        root = self.root.resolve()
        path = damaged.path.resolve()
        parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
        if not {"stages", "rollouts", "checkpoints"} & set(parts[:2]):
            return False
        moved_path = path.parent if "checkpoints" in parts else path
        if (mirror := mirrors.of(self.root)) and mirror.heal(damaged.path):
            warn(f"{path} {damaged.problem}: fetched again from {mirrors.shown(path)}")
            return True
        if not moved_path.exists():
            return False
        target = files.set_aside(moved_path, root / "quarantine" / moved_path.relative_to(root))
        warn(f"{path} {damaged.problem}: set aside as {target}, to be made again")
        return True

    @contextlib.contextmanager
    def lock(self, lease_s: float) -> Iterator["RunDir"]:
        """This directory with the right to write there, for one run. Raises as `lease.holding`."""
        if mirror := mirrors.of(self.root):
            mirror.store.require_creation()
        with holding(self.root, lease_s) as lease:
            if mirror:
                remote_run.fetch_for_driver(mirror)
            run = replace(self, lease=lease)
            try:
                yield run
            finally:
                try:
                    run._share_logs()
                except StoreFailure as error:  # the run's own end is what its caller has to know
                    warn(f"the last lines of the logs are in {self.root} only: {error}")

    def require_lease(self) -> None:
        """Raises Superseded where another driver has taken over."""
        if self.lease is not None:
            self.lease.require()


def _checkpoints(results: dict[str, Any]) -> list[str]:
    """The folders of the models that a stage published, in the run directory."""
    models = [results["checkpoint"]] if "checkpoint" in results else []
    return [*models, *results.get("routers", {}).values()]


def _manifest(path: Path) -> Manifest:
    values = files.read_json_object(path)
    try:
        return _MANIFEST.validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise DamagedFile(path, f"is no manifest ({key}: {problem['msg']})") from None


def open_run(root: Path) -> tuple[RunDir, RunConfig]:
    """A run that exists, and its configuration."""
    remote_run.fetch_for_readers(root)
    page = root / "report" / "index.html"
    address = mirrors.shown(root)
    if not (root / "config.yaml").is_file() and page.is_file():
        raise UsageError(
            f"{address}: a run of a simulated router, whose only report is {page}; `r2v run` "
            "writes it"
        )
    if not (root / "config.yaml").is_file():
        raise UsageError(
            f"{address}: not a run directory (no config.yaml); give the run_dir of a `r2v run`"
        )
    return RunDir(root), load_config(root / "config.yaml", [])


def stage_name(stage: str, training_seed: int) -> str:
    """The first training seed has the plain names."""
    return f"{stage}@{training_seed}" if training_seed else stage
