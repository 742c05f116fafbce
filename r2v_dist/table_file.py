"""An Arrow table as one file: published by renaming, read back only under the schema it was written with."""

from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc

from r2v_dist.errors import UsageError


def save(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write the table as Arrow IPC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    with ipc.new_file(scratch, schema, options=ipc.IpcWriteOptions(compression="lz4", unify_dictionaries=True)) as writer:
        writer.write_table(table.cast(schema))
    scratch.rename(path)


def load(path: Path, schema: pa.Schema, what: str) -> pa.Table:
    """Read the table. Raises UsageError when the file holds something else, or another version."""
    table = feather.read_table(path)
    if not table.schema.equals(schema, check_metadata=True):
        raise UsageError(f"{path}: not a table of {what} of this version; make it again")
    return table.unify_dictionaries()
