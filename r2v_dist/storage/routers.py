"""Trained routers in a run directory."""

from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_classifier import QUERY
from r2v_dist.router.query_features import QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION
from r2v_dist.storage.run_dir import RunDir


def load_router(run: RunDir, name: str, path: str) -> RouterModel:
    """A published router of a run."""
    if name == QUERY:
        return RouterModel.load(run.root / path, QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION)
    return RouterModel.load(run.root / path)
