"""How files are read and written. Whatever reads or publishes a file does it here.

A reader gets the contents or a `DamagedFile` that names the file, never a parser's error. A writer
publishes a file that is whole and on disk, or none: a new name never shows a half-written file, not
even after a power cut. In the mirror of an address (`r2v_dist.object_storage.mirror`) what is
published is an object too, and in place of the disk the store keeps it. Half a last line of a
JSON-lines file is what a killed process leaves, and counts as not written.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r2v_dist.errors import DamagedFile
from r2v_dist.object_storage import mirror as mirrors

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def read_text(path: Path) -> str:
    """The file's text. Raises DamagedFile where there is none, or where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DamagedFile(path, "is missing") from None
    except UnicodeDecodeError as error:
        raise DamagedFile(path, f"is not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises DamagedFile for anything else."""
    text = read_text(path)
    if not text.strip():
        raise DamagedFile(path, "is empty")
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedFile(path, f"is not JSON ({error})") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The mapping of a JSON file. Raises DamagedFile for anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedFile(path, "holds no JSON object")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """One object a line; none where there is no file. Raises DamagedFile for any other line, half
    a last one excepted."""
    if not path.is_file():
        return []
    *lines, last_line = read_text(path).split("\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    with contextlib.suppress(DamagedFile):
        rows += [_row(path, len(lines) + 1, last_line)] if last_line.strip() else []
    return rows


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        raise DamagedFile(path, f"is damaged: line {number} is not JSON") from None
    if not isinstance(row, dict):
        raise DamagedFile(path, f"is damaged: line {number} is no JSON object")
    return row


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line. Half a line that a killed process left at the end makes way for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as log:
        _end_last_line(log)
        log.write(json.dumps(row).encode() + b"\n")


def _end_last_line(log: Any) -> None:
    """Have an open file end with a whole line: end the last one where it is JSON, else drop it."""
    size = log.seek(0, os.SEEK_END)
    if not size:
        return
    log.seek(size - 1)
    if log.read(1) == b"\n":
        return
    log.seek(0)
    whole_lines, _, last_line = log.read().rpartition(b"\n")
    try:
        json.loads(last_line)
    except ValueError:
        log.truncate(len(whole_lines) + 1 if whole_lines else 0)
    else:
        log.write(b"\n")


def read_tensors(path: Path) -> dict[str, Any]:
    """The numpy arrays of a safetensors file. Raises DamagedFile for anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise DamagedFile(path, "is missing") from None
    except SafetensorError as error:
        raise DamagedFile(path, f"is not a safetensors file ({error})") from None


def write_atomically(path: Path, text: str) -> None:
    """Publish a text file. It replaces an earlier one."""
    with scratch_beside(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
        publish(scratch, path)


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A name next to `path` that no other writer has, whatever machine it is on. What is left
    there at the end, file or folder, is removed: a full disk is not filled further by what could
    not be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")
    try:
        yield scratch
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)  # a write that fails does not know its file
        raise
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch)
        else:
            scratch.unlink(missing_ok=True)


def publish(scratch: Path, target: Path) -> None:
    """Give a written file or folder its name, once all of it is on disk. It replaces what has the
    name already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if mirror := mirrors.of(target):
        mirror.publish(scratch, target)
        return
    sync(scratch)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(scratch, target)
    sync_entries(target.parent)


def publish_new(scratch: Path, target: Path) -> None:
    """As `publish`, for a file whose name is taken once: raises FileExistsError where it is taken,
    and of two writers that try at one time only one succeeds."""
    if mirror := mirrors.of(target):
        mirror.publish_new(scratch, target)
        return
    sync(scratch)
    try:
        os.link(scratch, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Without hard links the name is taken by an empty file, which the scratch file replaces.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(scratch, target)
    sync_entries(target.parent)


def sync(path: Path) -> None:
    """Have a file, or everything in a folder, on disk, or in the store of a mirror."""
    if mirror := mirrors.of(path):
        mirror.share([path])
        return
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
        sync_entries(path)
        return
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_entries(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def set_aside(path: Path, target: Path) -> Path:
    """Move a file or folder to where nothing reads it; its new name, which has a number where an
    earlier one has the target's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mirror = mirrors.of(target)
    free_path = target
    number = 1
    while free_path.exists() or (mirror and mirror.exists(free_path)):
        number += 1
        free_path = target.with_name(f"{target.name}.{number}")
    if mirror:
        mirror.move(path, free_path)
    else:
        path.rename(free_path)
    return free_path


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one; in a mirror its objects too."""
    if mirror := mirrors.of(path):
        mirror.remove(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
