"""Who may write to a run directory. Invariant: of all who ever could, only the one of the latest
epoch may go on.

An epoch is taken by creating `lease/<epoch>.json`, which succeeds once, and it is over as soon as
the next one is taken. So neither clocks nor locks decide who may write. The four operations that
are needed (create what does not exist, read, list, renew the time of change) are those that an
object store has too: in the mirror of an address, the objects alone are asked.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2v_dist import files
from r2v_dist.errors import DamagedFile, Superseded
from r2v_dist.object_storage import mirror as mirrors

Record = Mapping[str, Any]
"""The content of an epoch's file: who took it."""


@dataclass(frozen=True)
class Fence:
    """The right to write under one epoch. Can be sent to another process or machine."""

    root: Path
    """The run directory."""
    epoch: int
    token: str
    """Differs between all epochs ever taken, also where `lease/` was deleted in between."""

    @property
    def path(self) -> Path:
        """The file of this epoch; its time of change is the last sign of life of its holder."""
        return path_of(self.root, self.epoch)

    def require(self) -> None:
        """Raises Superseded where this epoch is over."""
        successor = _read(path_of(self.root, self.epoch + 1))
        if successor is not None:
            raise Superseded(
                f"run_dir = {mirrors.shown(self.root)}: {who(successor)} has taken over; this run "
                f"ends, and what it committed is kept"
            )
        if read(self.path).get("token") != self.token:
            raise Superseded(
                f"run_dir = {mirrors.shown(self.root)}: {mirrors.shown(self.path)} was changed or "
                f"deleted; this run ends, and what it committed is kept; run the same command "
                f"again to continue"
            )


def take(root: Path, epoch: int, record: Record) -> Fence | None:
    """Take an epoch; None where somebody else has it."""
    token = secrets.token_hex(8)
    path = path_of(root, epoch)
    with files.scratch_beside(path) as scratch:
        scratch.write_text(json.dumps({**record, "token": token}, indent=1), encoding="utf-8")
        try:
            files.publish_new(scratch, path)
        except FileExistsError:
            if (
                read(path).get("token") != token
            ):  # else a first try took it, and its answer was lost
                return None
    return Fence(root, epoch, token)


def path_of(root: Path, epoch: int) -> Path:
    """The file of an epoch."""
    return root / "lease" / f"{epoch:06d}.json"


def latest(root: Path) -> int:
    """The latest epoch that was taken; 0 where none was."""
    folder = root / "lease"
    mirror = mirrors.of(root)
    names = mirror.names(folder) if mirror else [path.name for path in folder.glob("*.json")]
    epochs = [Path(name).stem for name in names]
    return max((int(epoch) for epoch in epochs if epoch.isdigit()), default=0)


def read(path: Path) -> Record:
    """Who took an epoch; an empty record where the file is missing or damaged."""
    return _read(path) or {}


def _read(path: Path) -> Record | None:
    """None where nobody took the epoch; an empty record where the file is damaged."""
    mirror = mirrors.of(path)
    if mirror is None:
        try:
            return files.read_json_object(path)
        except DamagedFile:
            return {} if path.exists() else None
    content = mirror.read(path)
    if content is None:
        return None
    with contextlib.suppress(ValueError):
        record = json.loads(content)
        return record if isinstance(record, dict) else {}
    return {}


def who(record: Record) -> str:
    """The holder of an epoch in words."""
    if not {"host", "pid", "since"} <= set(record):
        return "another run"
    return f"another run (host {record['host']}, process {record['pid']}, since {record['since']})"


def age_s(path: Path) -> float:
    """Seconds since an epoch's last sign of life, by the clock of the storage alone: clocks of
    machines differ."""
    if mirror := mirrors.of(path):
        return mirror.age_s(path)
    with files.scratch_beside(path) as probe:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime


def renew(path: Path) -> None:
    """Give a sign of life."""
    if mirrors.of(path):
        record = read(path)
        signs = record.get("signs", 0) + 1
        files.write_atomically(path, json.dumps({**record, "signs": signs}, indent=1))
    else:
        os.utime(path)


def sign(path: Path) -> Any:
    """The last sign of life, which differs from the one before it."""
    return read(path).get("signs", 0) if mirrors.of(path) else path.stat().st_mtime_ns


def end(fence: Fence, when: str) -> None:
    """Mark an epoch as given back, so that the next driver waits for nothing."""
    record = {**read(fence.path), "ended": when}
    files.write_atomically(fence.path, json.dumps(record, indent=1))
