"""What the benchmarks that start from a finished run read of it."""

from r2v_dist.storage.run_dir import Manifest, RunDir


def complete_stages(run: RunDir) -> dict[str, Manifest]:
    """The manifests of a run, by stage."""
    manifests = {}
    for path in (run.root / "stages").glob("*/manifest.json"):
        manifest = run.manifest(path.parent.name)
        if manifest is not None:
            manifests[path.parent.name] = manifest
    return manifests
