"""The folder that travels with a submitted job, as one zip file.

Invariant: equal files make equal bytes, so a cluster that has a package does not get it again; and
nothing hidden travels, since keys and environments lie in hidden files.
"""

import fnmatch
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.errors import UsageError

MOST_BYTES = 5_000_000
"""Of the zip file: every node of the cluster gets a copy."""
_MOST_READ_BYTES = 100_000_000
_MOST_FILES = 10_000
"""More is no project, but a home directory for example."""
CONFIG_FILE = "r2v_job.yaml"
"""The resolved configuration, at the top of the package."""
STAYS = frozenset(
    [
        "benchmarks",
        "build",
        "dist",
        "docs",
        "mlruns",
        "models",
        "node_modules",
        "results",
        "runs",
        "tests",
        "venv",
        "wandb",
    ]
)
"""Folders at the top that no job reads; a model in them that the configuration names travels."""
_CACHES = ("__pycache__", "*.egg-info")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SHOWN = 3


@dataclass(frozen=True)
class Package:
    """A zip file, and the names of its files."""

    data: bytes
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """A file of the package: its name there, and its sizes in bytes."""

    name: str
    path: Path
    size: int


def pack(
    folder: Path, text: str, models: Sequence[str] = (), excludes: Sequence[str] = ()
) -> Package:
    """The files of `folder`, with `text` as the configuration. `models` are folders in it that
    travel although `STAYS` names them; `excludes` are patterns of paths in it.

    Raises UsageError, with the largest files, for what is larger than a package may be.
    """
    entries: list[_Entry] = []
    for path in dict.fromkeys(_files(folder, models, excludes)):
        name = path.relative_to(folder).as_posix()
        entries.append(_Entry(name, path, path.stat().st_size))
        if len(entries) > _MOST_FILES:
            raise UsageError(
                f"{folder}: more than {_MOST_FILES:,} files; name the project's folder with "
                f"--working-dir, or leave some out with --exclude"
            )
    sizes = {entry.name: entry.size for entry in entries}
    if sum(sizes.values()) > _MOST_READ_BYTES:
        raise UsageError(_too_large(folder, sizes, _MOST_READ_BYTES, "before it is compressed"))
    return _zipped(folder, text, sorted(entries, key=lambda entry: entry.name))


def models_of(config: RunConfig | SimulatedConfig, folder: Path) -> list[str]:
    """Model folders of the configuration that lie in `folder` and are named relative to it."""
    if isinstance(config, SimulatedConfig):
        return []
    models = [model.model for model in (config.slm, config.teacher) if model.backend == "vllm"]
    if config.verifier is not None:
        models.append(config.verifier.model)
    relative = [name for name in models if name and not os.path.isabs(name)]
    return [name for name in relative if (folder / name).is_dir()]


def _files(folder: Path, models: Sequence[str], excludes: Sequence[str]) -> Iterator[Path]:
    """Every file that travels; one of two models that overlap comes twice."""
    yield from _walk(folder, folder, excludes, STAYS)
    for model in dict.fromkeys(models):
        top = Path(model).parts[0]
        if top in STAYS:
            yield from _walk(folder, folder / model, excludes, frozenset())


def _walk(
    folder: Path, start: Path, excludes: Sequence[str], stays: frozenset[str]
) -> Iterator[Path]:
    for place, folders, names in os.walk(start):
        here = Path(place)
        skipped = stays if here == start else frozenset()
        folders[:] = [
            name
            for name in folders
            if name not in skipped and not _left_out(folder, here / name, excludes)
        ]
        for name in names:
            path = here / name
            if path.is_file() and not _left_out(folder, path, excludes):
                yield path


def _left_out(folder: Path, path: Path, excludes: Sequence[str]) -> bool:
    if path.name.startswith(".") or any(fnmatch.fnmatch(path.name, cache) for cache in _CACHES):
        return True
    name = path.relative_to(folder).as_posix()
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in excludes)


def _zipped(folder: Path, text: str, entries: Sequence[_Entry]) -> Package:
    buffer = io.BytesIO()
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(CONFIG_FILE, _EPOCH), text)
        for entry in entries:
            if entry.name == CONFIG_FILE:
                raise UsageError(
                    f"{entry.path}: a job's own configuration has this name; rename it"
                )
            info = zipfile.ZipInfo(entry.name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o755 << 16
            archive.writestr(info, entry.path.read_bytes())
            sizes[entry.name] = info.compress_size
    data = buffer.getvalue()
    if len(data) > MOST_BYTES:
        raise UsageError(_too_large(folder, sizes, MOST_BYTES, "compressed"))
    return Package(data, (CONFIG_FILE, *sizes))


def _too_large(folder: Path, sizes: dict[str, int], limit: int, form: str) -> str:
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_SHOWN]
    files = ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
    return (
        f"{folder}: the package has {sum(sizes.values()) / 1e6:.1f} MB {form} and may have "
        f"{limit / 1e6:.0f}; largest: {files}; leave files out with --exclude, and name models by "
        f"an absolute path that every node sees, or by a hub id"
    )
