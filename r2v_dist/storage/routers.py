"""Trained routers in a run directory."""

import shutil
from pathlib import Path

from r2v_dist import files
from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_classifier import QUERY
from r2v_dist.router.query_features import QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION
from r2v_dist.storage.run_dir import RunDir


def publish_router(model: RouterModel, folder: Path) -> None:
    """Have a router in a folder of a run, whole or not at all."""
    scratch = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save(scratch)
    files.publish(scratch, folder)


def load_router(run: RunDir, name: str, path: str) -> RouterModel:
    """A published router of a run."""
    if name == QUERY:
        return RouterModel.load(run.root / path, QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION)
    return RouterModel.load(run.root / path)
