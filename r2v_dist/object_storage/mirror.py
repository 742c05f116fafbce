"""A run at an address (`s3://bucket/run`): each node that takes part has a folder with copies of
the run's objects, its mirror.

Invariant: the objects are the run, and a mirror holds nothing that counts. What is published is
an object first and a file after it; what others may have written is fetched before it is read; and
a folder of objects shows only together with its `_COMPLETE`, which is written last. So a machine
with an empty disk continues a run, and a killed upload leaves nothing that anybody reads.

The name of a mirror's folder is its address, so that every process knows from a path alone where
its content comes from.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from r2v_dist.errors import StoreFailure
from r2v_dist.object_storage.mirror_notes import (
    NOTES,
    Notes,
    beside,
    identity_of,
    mark_of,
    sizes_in,
)
from r2v_dist.object_storage.object_store import SCHEMES, Meta, ObjectStore

COMPLETE = "_COMPLETE"
"""Names, sizes and tags of a published folder's objects; the folder is whole where it exists."""
_MARKS = (COMPLETE, "complete")
"""What says that a folder is whole; the second is of checkpoints in training."""
_ROOT = re.compile(rf"(?:{'|'.join(SCHEMES)})%3A%2F%2F.+")
_LOCKS = ".locks"
_AT_ONCE = 8
"""Objects on their way at the same time."""


def folder_name(address: str) -> str:
    """The name of the mirror of an address."""
    return quote(address.rstrip("/"), safe="")


def of(path: Path) -> "Mirror | None":
    """The mirror in which a path lies; None for other paths, and for unfinished files in one."""
    for folder in (path, *path.parents):
        if _ROOT.fullmatch(folder.name):
            return Mirror(folder)
        if folder.suffix == ".tmp":
            return None
    return None


def shown(path: Path) -> str:
    """A path as the user knows it: by its address where it has one."""
    mirror = of(path)
    if mirror is None:
        return str(path)
    name = mirror.name(path)
    return f"{mirror.address}/{name}" if name != "." else mirror.address


def at_hand(path: Path) -> Path:
    """A file or folder that another node may have published, here; any other path as it is."""
    if mirror := of(path):
        mirror.fetch(path)
    return path


@dataclass(frozen=True)
class Mirror:
    """The copies of a run's objects on this node. Every method raises StoreFailure where the store
    does not answer."""

    root: Path

    @property
    def address(self) -> str:
        """Where the objects are."""
        return unquote(self.root.name)

    @property
    def store(self) -> ObjectStore:
        """The objects."""
        return ObjectStore(self.address)

    def name(self, path: Path) -> str:
        """The name of a file's object."""
        return path.relative_to(self.root).as_posix()

    def publish(self, scratch: Path, target: Path) -> None:
        """Give a written file or folder its name, in the store and then here."""
        if scratch.is_dir():
            self._publish_folder(scratch, target)
            return
        tag = self.store.put(self.name(target), scratch)
        os.replace(scratch, target)
        self._notes.remember(self.name(target), tag)

    def publish_new(self, scratch: Path, target: Path) -> None:
        """As `publish`, for a name that is taken once. Raises FileExistsError where it is taken."""
        tag = self.store.create(self.name(target), scratch)
        os.replace(scratch, target)
        self._notes.remember(self.name(target), tag)

    def _publish_folder(self, scratch: Path, target: Path) -> None:
        self.remove(target)
        # It may have been published itself, under the name that it gives up.
        paths = [path for path in _files(scratch) if path != scratch / COMPLETE]
        names = [path.relative_to(scratch).as_posix() for path in paths]
        tags = self._upload(paths, lambda path: self.name(target / path.relative_to(scratch)))
        content = mark_of(names, [path.stat().st_size for path in paths], tags)
        self.store.put(f"{self.name(target)}/{COMPLETE}", content)
        (scratch / COMPLETE).write_bytes(content)
        os.replace(scratch, target)
        if of(scratch):
            self.forget(scratch)

    def share(self, paths: Iterable[Path]) -> None:
        """Have files that were written here as objects, where they changed."""
        names = [self.name(path) for path in paths if path.is_file() and of(path)]
        identity_by_name = {
            name: identity_of(self.root / name) for name in names if not self._notes.hold(name)
        }
        tags = self._upload([self.root / name for name in identity_by_name], self.name)
        for (name, identity), tag in zip(identity_by_name.items(), tags, strict=True):
            self._notes.remember(name, tag, identity)  # a log may have grown meanwhile

    def _upload(self, paths: list[Path], name: Callable[[Path], str]) -> list[str]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda path: self.store.put(name(path), path), paths))

    def remove(self, path: Path) -> None:
        """Remove a file or a folder, in the store and here."""
        self.forget(path)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)

    def forget(self, path: Path) -> None:
        """Remove the objects of a file or a folder; what says that it is whole goes first."""
        metas = self.store.list(f"{self.name(path)}/")
        names = [meta.name for meta in metas] or [self.name(path)]
        marks = [name for name in names if name.rpartition("/")[2] in _MARKS]
        self.store.delete(marks)
        self.store.delete([name for name in names if name not in marks])

    def move(self, path: Path, target: Path) -> None:
        """Move a file or a folder, in the store and here. Killed half-way, it can be done again:
        nothing is deleted before all of it is copied."""
        name = self.name(path)
        names = [meta.name for meta in self.store.list(f"{name}/")] or [name]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            new_names = [self.name(target) + old_name[len(name) :] for old_name in names]
            list(pool.map(self.store.copy, names, new_names))
        self.forget(path)
        path.rename(target)

    def exists(self, path: Path) -> bool:
        """Whether there is an object, or a folder of objects, of this name."""
        name = self.name(path)
        return self.store.head(name) is not None or bool(self.store.list(f"{name}/"))

    def read(self, path: Path) -> bytes | None:
        """The content of a small object, whatever is here; None where there is none."""
        return self.store.read(self.name(path))

    def pull(self, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Have the objects of a folder here as they are in the store, and nothing else besides.

        Args:
            wanted: whether a file matters, by its name in the run; the others stay as they are.
        """
        with self._locked(folder):
            paths = [path for path in _files(folder) if wanted(self.name(path))]
            prefix = "" if folder == self.root else f"{self.name(folder)}/"
            metas = [meta for meta in self.store.list(prefix) if wanted(meta.name)]
            stored_names = {meta.name for meta in metas}
            for path in paths:
                if self.name(path) not in stored_names:
                    path.unlink(missing_ok=True)
            self._download([meta for meta in metas if not self._notes.hold(meta.name, meta.tag)])

    def names(self, folder: Path) -> list[str]:
        """The objects of a folder, by their names in it."""
        prefix = f"{self.name(folder)}/"
        return [meta.name.removeprefix(prefix) for meta in self.store.list(prefix)]

    def fetch(self, path: Path) -> None:
        """Have a file or a published folder here as it is in the store, where it is there."""
        meta = self.store.head(self.name(path))
        if meta is None:
            self.fetch_folder(path)
            return
        with self._locked(path):
            if not self._notes.hold(meta.name, meta.tag):
                self._download([meta])

    def fetch_folder(self, folder: Path) -> bool:
        """Have a published folder here, whole; False where there is none."""
        with self._locked(folder):
            answer = self.store.read(f"{self.name(folder)}/{COMPLETE}")
            if answer is None:
                return False
            mark = folder / COMPLETE
            if mark.is_file() and mark.read_bytes() == answer:
                return True
            shutil.rmtree(folder, ignore_errors=True)
            self._assemble(folder, answer)
        return True

    def fetch_folders(self, above: Path) -> None:
        """Have all published folders below a folder here, and no others."""
        prefix, mark = f"{self.name(above)}/", f"/{COMPLETE}"
        names = [meta.name for meta in self.store.list(prefix) if meta.name.endswith(mark)]
        folders = {self.root / name.removesuffix(mark) for name in names}
        for path in list(above.rglob(COMPLETE)):
            if path.parent not in folders:
                shutil.rmtree(path.parent)
        for folder in sorted(folders):
            self.fetch_folder(folder)

    def heal(self, path: Path) -> bool:
        """Replace a damaged file by its object; False where that is damaged too, or not there."""
        meta = self.store.head(self.name(path))
        if meta is None:
            return False
        with beside(path) as scratch:
            self.store.download(meta, scratch)
            if path.is_file() and path.read_bytes() == scratch.read_bytes():
                return False
            os.replace(scratch, path)
        self._notes.remember(meta.name, meta.tag)
        return True

    def _assemble(self, folder: Path, content: bytes) -> None:
        sizes = sizes_in(content, shown(folder / COMPLETE))
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")
        try:
            prefix = f"{self.name(folder)}/"
            inner = {meta.name.removeprefix(prefix): meta for meta in self.store.list(prefix)}
            for name, size in sizes.items():
                if name not in inner or inner[name].size != size:
                    raise StoreFailure(
                        f"{shown(folder / name)}: missing or changed since it was published; "
                        f"delete {shown(folder / COMPLETE)} and run the same command again"
                    )
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda n: self.store.download(inner[n], scratch / n), sizes))
            (scratch / COMPLETE).write_bytes(content)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _download(self, metas: list[Meta]) -> None:
        def fetch(meta: Meta) -> None:
            path = self.root / meta.name
            with beside(path) as scratch:
                self.store.download(meta, scratch)
                os.replace(scratch, path)
            self._notes.remember(meta.name, meta.tag)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, metas))

    def age_s(self, path: Path) -> float:
        """Seconds since an object changed, by the clock of the store."""
        name = f"{self.name(path)}.now-{secrets.token_hex(6)}"
        self.store.put(name, b"")
        now, then = self.store.head(name), self.store.head(self.name(path))
        self.store.delete([name])
        return 0.0 if now is None or then is None else (now.changed - then.changed).total_seconds()

    @property
    def _notes(self) -> Notes:
        return Notes(self.root)

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One process of this node fetches a folder; the others wait and find it."""
        lock = self.root / _LOCKS / f"{folder_name(self.name(path))}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("wb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _files(folder: Path) -> list[Path]:
    """The finished files below a folder, without what mirrors note."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".tmp" and not {NOTES, _LOCKS} & set(path.parts)
    ]
