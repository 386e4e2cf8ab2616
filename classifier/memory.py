"""Arrays whose memory is taken as it is used, and seen by processes that this one forks.

What a table may grow to is named at once, and costs nothing until rows are written. A file without a name backs it
where the system has such files (memfd_create, Linux): for those it does not ask at once whether all of it would fit.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def zeros(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """An array of that many zeros. Raises OSError if the system has no room for it."""
    kind = np.dtype(dtype)
    return np.frombuffer(_mapped(max(count * kind.itemsize, 1)), kind, count)


def _mapped(size: int) -> mmap.mmap:
    with suppress(OSError):  # too old a system, or a limit to the size of files
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("exflow")
            try:
                os.ftruncate(file, size)
                return mmap.mmap(file, size)
            finally:
                os.close(file)
    return mmap.mmap(-1, size)


def give_back(array: NDArray[np.uint8], start: int) -> None:
    """Give the system back what it gave for array[start:], of one that `zeros` made; zeros are there again."""
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    with suppress(OSError, AttributeError):  # where memory can't be given back, it is used again
        array.base.obj.madvise(mmap.MADV_REMOVE, start, len(array) - start)  # type: ignore[union-attr]


def resized(array: NDArray[Any], count: int) -> NDArray[Any]:
    """The same with so many elements, those beyond the old ones zeros: in its own memory if that reaches so far."""
    whole = array.base if isinstance(array.base, np.ndarray) else array
    if len(whole) >= count:
        return whole[:count]
    grown = np.zeros(count, array.dtype)
    grown[: len(array)] = array
    return grown
