"""Sees to it that a process that is told to end does end, whatever it is in the middle of.

A Python signal handler runs between two instructions of the main thread, so a call into C that
waits for ever keeps Ctrl-C and SIGTERM waiting with it. The guard is a thread that learns of the
signal from the C level; when the process is still there `GRACE_S` later, it ends the process and
everything that it started.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any

import psutil

GRACE_S = 15.0
_LAST_WAIT_S = 5.0
_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def guarded(grace_s: float = GRACE_S) -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt while the block runs, and end the process where
    that is of no use.

    Only the main thread gets signals; in any other the block runs unguarded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old_handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=_watch, args=(reader, grace_s), daemon=True).start()
    interrupt_on_sigterm()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_writer)
        signal.signal(signal.SIGTERM, old_handler)
        os.close(writer)


def interrupt_on_sigterm() -> None:
    """Have SIGTERM raise KeyboardInterrupt. Ray sets a handler of its own, so this is done again
    after Ray's start.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C while the block runs: both raise KeyboardInterrupt, and nothing
    ends the process by force. For runs in one process, whose debugger takes Ctrl-C to itself.
    """
    old_handler = signal.getsignal(signal.SIGTERM)
    interrupt_on_sigterm()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, old_handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals change nothing in the course of the block: it ends what was started, and the guard
    still watches.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old_handlers = {number: signal.signal(number, _ignore) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def end_at_once(code: int, message: str) -> None:
    """End every process that this one started, then this one. For where nothing else works any
    more.
    """
    print(f"r2v: {message}", file=sys.stderr, flush=True)
    end_processes(psutil.Process().children(recursive=True))
    os._exit(code)


def end_processes(processes: Collection[psutil.Process]) -> None:
    """Kill those of the processes that are still there, and wait for their end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_LAST_WAIT_S)


def _watch(reader: int, grace_s: float) -> None:
    """Read the signals' numbers until one ends the run; an empty read means that the
    block is over.
    """
    while numbers := os.read(reader, 1):
        if numbers[0] in _ENDING:
            threading.Event().wait(grace_s)
            end_at_once(130, "interrupted; run the same command again to continue")
    os.close(reader)


def _ignore(*_: Any) -> None:
    """Not SIG_IGN, which would keep the signal from the guard as well."""
