"""A memory for threads: what several ask for at once is made once, and what could not be made is
made again.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Once(Generic[K, V]):
    """Remembers `kept` values, then starts anew."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._values: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key. Raises what `make` raises, in every thread that waits for it."""
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                if len(self._values) >= self._kept:
                    self._values.clear()
                future = self._values[key] = Future()
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._values.get(key) is future:
                        del self._values[key]
                future.set_exception(error)
        return future.result()
