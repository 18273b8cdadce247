"""Having the memory that this process frees go back to the system."""

from __future__ import annotations

import ctypes
import os

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of glibc's `mallopt`."""
_ARENAS = 2
_OWN_PAGES_BYTES = 4 * 2**20


def give_back_freed_memory() -> None:
    """Have glibc keep less of what is freed. To be called before there are threads; does nothing elsewhere.

    By default each thread gets a heap of its own, and each visitor is answered in a thread: after thirty visitors of
    one document two of three gigabytes were nobody's. With two heaps, and pages of their own for large tensors, which
    go back one by one, it was a third. Who sets `MALLOC_ARENA_MAX` knows better.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc; Windows
        return
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
