"""An Arrow table as one file. Invariant: a file is published whole, and read only if its bytes are
the bytes that were written.

The footer of every file holds a checksum of all its bytes. Damage by a disk or a copy is found
before anything is parsed, because a parser trusts the offsets that it reads. A file without a
checksum (of an older version, or rewritten by other tools) is checked by its structure alone.
"""

import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc

from r2v_dist import files
from r2v_dist.errors import DamagedFile, UsageError

_MARK = b"r2v-crc32:"
_DIGITS = 8
_TAIL = 1 << 20
"""Number of bytes at the end of a file in which the footer is searched for."""

# Tables are small: handing their buffers to other threads costs more than compressing them.
_OPTIONS = ipc.IpcWriteOptions(compression="lz4", use_threads=False, unify_dictionaries=True)

_sound: set[tuple[str, int, int]] = set()
"""(path, size, time of change) of the files whose checksum this process has checked."""


def save(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write the table as Arrow IPC; an earlier file is replaced."""
    with files.scratch_beside(path) as scratch:
        scratch.write_bytes(encoded(table.cast(schema)))
        files.publish(scratch, path)


def save_new(path: Path, data: memoryview) -> None:
    """Write an encoded table. Raises FileExistsError where the file exists."""
    with files.scratch_beside(path) as scratch:
        scratch.write_bytes(data)
        files.publish_new(scratch, path)


def encoded(table: pa.Table) -> memoryview:
    """The bytes of an Arrow IPC file with a checksum."""
    sink = pa.BufferOutputStream()
    blank = {"r2v_checksum": (_MARK + b"0" * _DIGITS).decode()}
    with ipc.new_file(sink, table.schema, options=_OPTIONS, metadata=blank) as writer:
        writer.write_table(table)
    data = memoryview(sink.getvalue()).cast("B")
    at = _place_of_checksum(data)
    assert at is not None
    content = bytearray(data)
    content[at : at + _DIGITS] = b"%08x" % zlib.crc32(data)
    return memoryview(content)


def load(path: Path, schema: pa.Schema, what: str) -> pa.Table:
    """Read the table. Raises UsageError when the file holds something else, or another version."""
    table = read(path)
    if not table.schema.equals(schema, check_metadata=True):
        raise UsageError(f"{path}: not a table of {what} of this version; make it again")
    return table.unify_dictionaries()


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Some columns of an Arrow IPC file. Raises DamagedFile where the file is missing, is no Arrow
    file, or has been changed.
    """
    try:
        has_checksum = _check(path)
        table = feather.read_table(path, columns=columns)
        if not has_checksum:
            table.validate(full=True)
    except FileNotFoundError:
        raise DamagedFile(path, "is missing") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the file could not be opened or read, so its content is unknown
        cause = " ".join(str(error).split())
        raise DamagedFile(path, f"is no whole Arrow file ({cause})") from None
    return table


def _check(path: Path) -> bool:
    """Whether the checksum was verified; False where there is none. Raises DamagedFile where it
    does not match.
    """
    status = path.stat()
    identity = (str(path), status.st_size, status.st_mtime_ns)
    if identity in _sound:
        return True
    data = memoryview(path.read_bytes())
    at = _place_of_checksum(data)
    if at is None:
        return False
    crc = zlib.crc32(data[:at])
    crc = zlib.crc32(b"0" * _DIGITS, crc)
    crc = zlib.crc32(data[at + _DIGITS :], crc)
    if bytes(data[at : at + _DIGITS]) != b"%08x" % crc:
        raise DamagedFile(path, "is damaged: its checksum does not match")
    _sound.add(identity)
    return True


def _place_of_checksum(data: memoryview) -> int | None:
    start = max(0, len(data) - _TAIL)
    at = bytes(data[start:]).rfind(_MARK)
    return None if at < 0 else start + at + len(_MARK)
