"""Where fetched models lie: `NAME@HASH` below the cache, where HASH begins the revision of the
repository, or the checksum of the GGUF file, that the model was made from.

Invariant: a folder of that name is a whole model, since it gets its name last.
"""

from pathlib import Path

from r2v_dist.config.places import cache_folder, named_path
from r2v_dist.errors import UsageError
from r2v_dist.pretrained.catalogue import Packages, Pretrained, catalogue

_LETTERS = 12


def hub_folder(name: str, model: Pretrained) -> Path:
    """The folder of the model as its repository has it."""
    return _folder(name, model.revision)


def packages_folder(name: str, packages: Packages) -> Path:
    """The folder of the model as packages have it."""
    return _folder(name, packages.sha256)


def _folder(name: str, source: str) -> Path:
    return cache_folder("models") / f"{name}@{source[:_LETTERS]}"


def fetched_folder(name: str, model: Pretrained) -> Path | None:
    """The model's folder; None where it is not fetched. That of the repository is preferred, since
    its weights were never quantised.
    """
    folders = [hub_folder(name, model)]
    if model.packages is not None:
        folders.append(packages_folder(name, model.packages))
    return next((folder for folder in folders if folder.is_dir()), None)


def model_path(model: str, key: str) -> Path:
    """The path that the `model` of a configuration stands for: the folder of a catalogue's model,
    and for anything else the text itself, which is a directory, a hub id or `scratch`.

    Raises UsageError, which names `key` and the command, for a model that is not fetched yet.
    """
    path = named_path(model, key)
    if model not in catalogue() or path.is_dir():
        return path
    folder = fetched_folder(model, catalogue()[model])
    if folder is None:
        raise UsageError(f"{key} = {model}: {not_fetched(model)}")
    return folder


def not_fetched(name: str) -> str:
    """What to do about a model that is not there."""
    return f"not fetched yet; run `r2v models fetch {name}`"
