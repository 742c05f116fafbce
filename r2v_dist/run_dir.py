"""The run directory: what is complete is never done again, what is half done resumes, nothing is overwritten in silence.

config.yaml                     the resolved configuration
stages/<name>/manifest.json     present only when the stage is complete; its input hash says for which inputs
stages/<name>/metrics.jsonl     what the stage logged
rollouts/<stage>/*.arrow        committed episodes
checkpoints/<model>/<version>/  Hugging Face directories
report/  logs/
"""

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from r2v_dist.config import RunConfig
from r2v_dist.errors import UsageError


def write_atomically(path: Path, text: str) -> None:
    """Publish a file by renaming it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")  # caches have more than one writer
    scratch.write_text(text)
    os.replace(scratch, path)


@dataclass(frozen=True)
class Manifest:
    """A complete stage: what it was made from, how long the run that finished it took, and what it found."""

    stage: str
    input_hash: str
    wall_s: float
    attempts: int
    results: dict[str, Any]


@dataclass(frozen=True)
class RunDir:
    """Paths of one run, and its record of complete stages."""

    root: Path

    def stage(self, name: str) -> Path:
        """The folder of a stage, made if there is none."""
        folder = self.root / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def rollouts(self, stage: str) -> Path:
        """The committed episodes of a stage."""
        return self.root / "rollouts" / stage

    def checkpoint(self, model: str, version: str) -> Path:
        """Where a model version is kept."""
        return self.root / "checkpoints" / model / version

    def write_config(self, config: RunConfig) -> None:
        """Store the resolved configuration."""
        write_atomically(self.root / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    def manifest(self, stage: str) -> Manifest | None:
        """The record of a complete stage, None when it is not complete."""
        path = self.root / "stages" / stage / "manifest.json"
        return Manifest(**json.loads(path.read_text())) if path.is_file() else None

    def begin(self, stage: str, input_hash: str) -> None:
        """Note an attempt; set aside what an attempt with other inputs has left."""
        attempts = self.stage(stage) / "attempts.jsonl"
        previous = [json.loads(line) for line in attempts.read_text().splitlines()] if attempts.is_file() else []
        if previous and previous[-1]["input_hash"] != input_hash:
            self._set_aside(stage, previous[-1]["input_hash"])
        with (self.stage(stage) / "attempts.jsonl").open("a") as log:
            log.write(json.dumps({"input_hash": input_hash, "started": time.time(), "pid": os.getpid()}) + "\n")

    def complete(self, stage: str, input_hash: str, wall_s: float, results: dict[str, Any]) -> None:
        """Record a stage as complete."""
        attempts = len((self.stage(stage) / "attempts.jsonl").read_text().splitlines())
        manifest = {"stage": stage, "input_hash": input_hash, "wall_s": wall_s, "attempts": attempts, "results": results}
        write_atomically(self.stage(stage) / "manifest.json", json.dumps(manifest, indent=1))

    def _set_aside(self, stage: str, old_hash: str) -> None:
        for folder in (self.root / "stages" / stage, self.rollouts(stage)):
            if folder.is_dir():
                target = folder.with_name(f"{folder.name}.{old_hash}")
                number = 1
                while target.exists():
                    number += 1
                    target = folder.with_name(f"{folder.name}.{old_hash}.{number}")
                folder.rename(target)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for one run; the lock goes with the process, however it ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"run_dir = {self.root}: another run is at work there; wait for it or choose another run_dir") from None
            yield


def checkpoint_version(name: str, folder: Path) -> str:
    """A version that names the weights themselves: `name` and a hash of the safetensors files."""
    digest = hashlib.blake2b(digest_size=6)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: no safetensors file; a model is a Hugging Face directory with safetensors weights")
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return f"{name}-{digest.hexdigest()}"
