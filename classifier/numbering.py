"""Numbers for things of which many are equal: of values as they come, and of the rows of columns.

So what follows is done once for each distinct thing. Must not know what the numbers stand for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import Column, i64, kernel, u64
from classifier.hashing import SECRET, Secret, share, spread

_T = TypeVar("_T", bound=Hashable)


@dataclass(slots=True)
class Distinct(Generic[_T]):
    """Numbers for values as they come: equal values get equal numbers."""

    values: list[_T] = field(default_factory=list)
    _codes: dict[_T, int] = field(default_factory=dict)

    def code(self, value: _T) -> int:
        """The value's number."""
        code = self._codes.setdefault(value, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code


def distinct_rows(columns: Sequence[NDArray[np.integer[Any]]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number equal rows of columns, in order of appearance. Returns (each row's number, first row of each number)."""
    count = len(columns[0])
    codes, first = np.empty(count, np.int32), np.empty(count, np.int64)
    slots = np.zeros(1 << (2 * count).bit_length(), np.int32)
    known = int(_number_rows(np.stack(columns, dtype=np.int64), codes, first, slots, SECRET))
    return codes, first[:known].copy()


@kernel
def _number_rows(
    columns: NDArray[np.int64], codes: NDArray[np.int32], first: NDArray[np.int64], slots: NDArray[np.int32],
    secret: Secret,
) -> int:  # fmt: skip
    """As `distinct_rows`. slots: zeros; a power of two of them, more than there are rows. Returns how many numbers."""
    width, count = columns.shape
    mask, known = len(slots) - 1, 0
    for index in range(count):
        total = u64(0)
        for part in range(width):
            total += share(secret, part, columns[part, index])
        slot = i64(spread(total) & u64(mask))
        code = slots[slot] - 1
        while code >= 0 and not _equal(columns, first[code], index):
            slot = (slot + 1) & mask
            code = slots[slot] - 1
        if code < 0:
            code = known
            first[known] = index
            known += 1
            slots[slot] = known
        codes[index] = code
    return known


@kernel
def _equal(columns: Column, one: int, other: int) -> bool:
    """Whether two rows are equal."""
    part = 0
    while part < len(columns) and columns[part, one] == columns[part, other]:
        part += 1
    return part == len(columns)
