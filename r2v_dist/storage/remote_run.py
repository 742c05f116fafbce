"""What a machine fetches of a run that has an address, before it works with it.

Invariant: a driver has every published file of the run here, except the checkpoints in training;
who only looks at a run fetches no language model.
"""

from pathlib import Path

from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.object_storage.mirror import Mirror
from r2v_dist.storage import timeline

_CONFIG = "config.yaml"


def fetch_for_driver(mirror: Mirror) -> None:
    """Have here what a driver needs. Raises StoreFailure where the store does not answer."""
    mirror.pull(mirror.root, _is_record)
    for kind in ("checkpoints", "stages"):
        mirror.fetch_folders(mirror.root / kind)


def fetch_for_readers(root: Path) -> None:
    """Have here what is shown of a run, where its directory is an address."""
    mirror = mirrors.of(root)
    if mirror is None:
        return
    mirror.pull(root, lambda name: _is_record(name) or _describes_verifier(name))
    mirror.fetch_folders(root / "checkpoints" / "router")


def _is_record(name: str) -> bool:
    """Whether a file is no part of a folder that is published whole."""
    kind, *parts = name.split("/")
    # Ranks fetch for themselves what lies deeper in a stage, to continue from it. An object without
    # a suffix is what Ray Train makes for a folder, and no file may stand in that folder's place.
    in_stage = kind == "stages" and len(parts) == 2 and "." in parts[1]
    return kind in (_CONFIG, timeline.NAME, "rollouts") or in_stage


def _describes_verifier(name: str) -> bool:
    return name.startswith("checkpoints/verifier/") and name.endswith(".json")
