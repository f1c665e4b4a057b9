"""What was decoded last, kept for all open files together, so that a page is not decoded for each of its blocks."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

# Bytes that are kept.
MAX_BYTES = 2**28
# Locks of what is being decoded: threads that want the same part wait, and those that want others mostly do not.
LOCKS = 61


class Decoded:
    """Decoded parts of files by their keys, of at most `limit` bytes, or the last one alone if it is larger.

    Parameters
    ----------
    limit : int
        Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._parts: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._decoding = [threading.Lock() for _ in range(LOCKS)]

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The part with a key, decoded if it is not here; it must not be written to."""
        with self._decoding[hash(key) % LOCKS]:
            with self._lock:
                if key in self._parts:
                    self._parts.move_to_end(key)
                    return self._parts[key]
            part = decode()
            with self._lock:
                self._parts[key] = part
                self._bytes += part.nbytes
                while self._bytes > self._limit and len(self._parts) > 1:
                    self._bytes -= self._parts.popitem(last=False)[1].nbytes
            return part

    def let_go(self) -> None:
        """Forget what is too large to be kept when the file that it belongs to is closed."""
        with self._lock:
            if self._bytes > self._limit:
                self._parts.clear()
                self._bytes = 0


DECODED = Decoded(MAX_BYTES)
# A child of a fork must not wait for locks that threads of its parent held.
os.register_at_fork(after_in_child=DECODED.clear)
