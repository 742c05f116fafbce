"""The lease on a run directory, as a driver takes, keeps and gives it back.

Invariant: a driver that gives signs of life is never superseded, and one that is gone keeps nobody
waiting for longer than its lease. A driver that was silent for longer (it was stopped, or its
storage did not answer) learns at its next sign of life or its next write that it is superseded, and
ends.
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from r2v_dist.errors import RuntimeFailure, StoreFailure, Superseded, UsageError, explain, warn
from r2v_dist.object_storage.mirror import shown
from r2v_dist.processes import identity
from r2v_dist.storage import fence as fences
from r2v_dist.storage.fence import Fence, Record

_BEATS = 4
"""Signs of life in the time of a lease."""
_LOOK_S = 0.5
"""Time between two looks at the lease of a driver that may be gone."""
_LOST = signal.SIGUSR2


class Lease:
    """What a driver holds. The fence changes with every collector that it opens."""

    def __init__(self, fence: Fence, driver: Record) -> None:
        self.fence = fence
        self.lost: Superseded | None = None
        self._driver = driver
        self._holder = threading.current_thread()
        self._changing = threading.Lock()
        self._given_back = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def require(self) -> None:
        """Raises Superseded where another driver has taken over."""
        with self._changing:
            self.fence.require()

    def next_fence(self) -> Fence:
        """The fence of a new writer; whoever has an earlier one is superseded from here on.

        Raises Superseded where another driver has taken over.
        """
        with self._changing:
            self.fence.require()
            successor = fences.take(self.fence.root, self.fence.epoch + 1, self._driver)
            if successor is None:
                self.fence.require()
                raise Superseded(
                    f"run_dir = {shown(self.fence.root)}: another driver has taken over"
                )
            self.fence = successor
            return successor

    def keep(self) -> None:
        """Give signs of life from here on; a loss interrupts a holder that is the main thread."""
        self._keeper.start()

    def give_back(self) -> None:
        """Let the next driver start at once. Afterwards the main thread is not interrupted."""
        self._given_back.set()
        self._keeper.join()
        # What cannot be written here ends by itself.
        with contextlib.suppress(OSError, StoreFailure):
            self.fence.require()
            fences.end(self.fence, _now())

    def _keep(self) -> None:
        while not self._given_back.wait(self._driver["lease_s"] / _BEATS):
            try:
                with self._changing:
                    self.fence.require()
                    fences.renew(self.fence.path)
            except Superseded as error:
                self.lost = error
                if self._holder is threading.main_thread() and self._holder.ident is not None:
                    signal.pthread_kill(self._holder.ident, _LOST)
                return
            except (OSError, StoreFailure):
                continue  # the storage does not answer now; the next sign of life may come in time


@contextlib.contextmanager
def holding(root: Path, lease_s: float) -> Iterator[Lease]:
    """Hold a run directory while the block runs.

    Raises UsageError where a driver that is alive has it, Superseded where one took it meanwhile,
    RuntimeFailure where the directory cannot be written.
    """
    with _local_lock(root) as is_free:
        driver = _record(lease_s)
        lease = Lease(_take(root, driver, is_free), driver)
        try:
            with _kept(lease):
                yield lease
        except KeyboardInterrupt:
            if lease.lost is not None:
                raise lease.lost from None
            raise


@contextlib.contextmanager
def _local_lock(root: Path) -> Iterator[bool]:
    """A lock that the kernel releases when the process ends: whether it was free. Storage that
    knows no locks counts as free."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise RuntimeFailure(
            f"run_dir = {shown(root)} cannot be written: {explain(error)}"
        ) from None
    with handle:
        yield _locked(handle)


def _locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _kept(lease: Lease) -> Iterator[None]:
    """Keep the lease while the block runs, and give it back. In the main thread its loss raises
    KeyboardInterrupt."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    old_handler = signal.signal(_LOST, signal.default_int_handler) if in_main_thread else None
    lease.keep()
    try:
        yield
    finally:
        lease.give_back()
        # After a loss the signal may still be on its way, and would end the process.
        if in_main_thread and lease.lost is None:
            signal.signal(_LOST, old_handler)


def _take(root: Path, driver: Record, is_free: bool) -> Fence:
    """Take the next epoch once its holder is gone. Raises UsageError while there is one."""
    while True:
        epoch = fences.latest(root)
        record = fences.read(fences.path_of(root, epoch)) if epoch else {"ended": True}
        if "ended" not in record:
            _outlive(root, epoch, {"lease_s": driver["lease_s"], **record})
        elif not is_free:
            raise _refusal(root, {}, "wait for it")  # of an older version, or about to take it
        fence = fences.take(root, epoch + 1, driver)
        if fence is not None:
            return fence


def _outlive(root: Path, epoch: int, record: Record) -> None:
    """Return once the holder of an epoch is gone. Raises UsageError where it is alive.

    On this machine a look at its process is enough. A holder elsewhere is alive when it gives a
    sign of life, and gone when its lease ends without one.
    """
    is_local = identity.machine() != "" and record.get("machine") == identity.machine()
    if is_local and identity.started(record.get("pid", 0)) != record.get("started"):
        return
    path = fences.path_of(root, epoch)
    left_s = record["lease_s"] - fences.age_s(path)
    if is_local and left_s > 0:
        raise _refusal(root, record, "wait for it, end it")
    if left_s <= 0:
        warn(
            f"run_dir = {shown(root)}: {fences.who(record)} gives no sign of life and is superseded"
        )
        return
    sys.stderr.write(
        f"r2v: run_dir = {shown(root)}: {fences.who(record)} was at work there; waiting for at "
        f"most {left_s:.0f} s to see whether it still is\n"
    )
    sign_before = fences.sign(path)
    deadline = time.monotonic() + left_s
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        if "ended" in fences.read(path):
            return
        if fences.latest(root) != epoch or fences.sign(path) != sign_before:
            record = fences.read(fences.path_of(root, fences.latest(root)))
            raise _refusal(root, record, "wait for it, end it there")


def _refusal(root: Path, record: Record, fix: str) -> UsageError:
    return UsageError(
        f"run_dir = {shown(root)}: {fences.who(record)} is at work there; {fix} or choose another "
        f"run_dir"
    )


def _record(lease_s: float) -> Record:
    """This process, as the holder of an epoch."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": _now(),
        "machine": identity.machine(),
        "started": identity.started(os.getpid()),
        "lease_s": lease_s,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
