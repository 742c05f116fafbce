"""A published model: its directory and its version."""

from dataclasses import dataclass
from pathlib import Path

from r2v_dist.errors import DamagedFile
from r2v_dist.files import read_json_object
from r2v_dist.object_storage import mirror as mirrors

ADAPTER = "adapter_config.json"
"""In a directory with an adapter; PEFT's name."""
_BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory and the version under which its answers are stored."""

    path: str
    version: str
    adapter: str = ""
    """A directory with a LoRA adapter to the model at `path`; empty for the model as it is."""


def published(folder: Path, version: str) -> Checkpoint:
    """What a learner has published in a folder: a model, or an adapter to one."""
    folder = folder.resolve()
    base = base_of(folder)
    if base is None:
        return Checkpoint(str(folder), version)
    return Checkpoint(str(base), version, str(folder))


def base_of(folder: Path) -> Path | None:
    """The model that the adapter in a folder belongs to; None where there is no adapter. Raises
    DamagedFile where the adapter names none.
    """
    path = folder / ADAPTER
    if not path.is_file():
        return None
    base = read_json_object(path).get(_BASE)
    if not isinstance(base, str) or not base:
        raise DamagedFile(path, f"names no model in {_BASE}")
    return _here(Path(base), folder)


def _here(base: Path, folder: Path) -> Path:
    """A model of the same run as `folder`: the machine that named it may have had its mirror of the
    run elsewhere.
    """
    theirs, ours = mirrors.of(base), mirrors.of(folder)
    if theirs is None or ours is None or theirs.address != ours.address:
        return base
    return ours.root / theirs.name(base)


def on_this_node(folder: Path) -> Path:
    """What a learner has published in a folder, and the model that an adapter there belongs to,
    where another node may have published them.
    """
    if (base := base_of(mirrors.at_hand(folder))) is not None:
        mirrors.at_hand(base)
    return folder
