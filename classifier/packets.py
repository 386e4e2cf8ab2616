"""PacketBatch: packets as equal-length columns and the bytes they point into.

Every source of packets (a capture file, a ring of the kernel) makes these and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH_ROWS = 32_768
"""Rows of one batch at most: its columns stay within the processor's caches."""


class PacketColumns(NamedTuple):
    """One row a packet.

    offset: int64, where its bytes begin in the batch's data; captured: int32, how many are there;
    wire: int32, how long it was on the wire; time: int64, nanoseconds since 1970 UTC;
    interface: int32, index into `Interfaces`; frame: int64, its ordinal over the whole run (`Frames` turns it into file
    and number).
    """

    offset: NDArray[np.int64]
    captured: NDArray[np.int32]
    wire: NDArray[np.int32]
    time: NDArray[np.int64]
    interface: NDArray[np.int32]
    frame: NDArray[np.int64]

    @classmethod
    def empty(cls, rows: int) -> PacketColumns:
        """Columns for that many rows, their contents undefined."""
        return cls(
            np.empty(rows, np.int64),
            np.empty(rows, np.int32),
            np.empty(rows, np.int32),
            np.empty(rows, np.int64),
            np.empty(rows, np.int32),
            np.empty(rows, np.int64),
        )

    def copy(self) -> PacketColumns:
        """The same rows in memory of their own."""
        offset, captured, wire, time, interface, frame = self
        return PacketColumns(
            offset.copy(), captured.copy(), wire.copy(), time.copy(), interface.copy(), frame.copy()
        )  # fmt: skip

    def rows(self, start: int, stop: int) -> PacketColumns:
        """The rows from start up to stop, without copying."""
        part = slice(start, stop)
        return PacketColumns(
            self.offset[part], self.captured[part], self.wire[part], self.time[part], self.interface[part],
            self.frame[part],
        )  # fmt: skip


@dataclass(slots=True)
class PacketBatch:
    """count packets in the first rows of columns; data: uint8, read until its owner fills it again."""

    data: NDArray[np.uint8]
    columns: PacketColumns
    count: int


@dataclass(slots=True)
class Interfaces:
    """What the packets' interface column points at, for all captures of a run.

    link_type: int32, IANA/tcpdump LINKTYPE_ value; digits: int8, fraction digits of its time stamps.
    """

    link_type: NDArray[np.int32] = field(default_factory=lambda: np.zeros(16, np.int32))
    digits: NDArray[np.int8] = field(default_factory=lambda: np.zeros(16, np.int8))
    count: int = 0

    def add(self, link_type: int, digits: int) -> int:
        """Register one interface; returns its index."""
        if self.count == len(self.link_type):
            self.link_type = np.resize(self.link_type, 2 * self.count)
            self.digits = np.resize(self.digits, 2 * self.count)
        self.link_type[self.count], self.digits[self.count] = link_type, digits
        self.count += 1
        return self.count - 1


@dataclass(slots=True)
class Frames:
    """Frame ordinals of the run ⇄ (file, number in that file as Wireshark shows it, from 1).

    Each file owns a block of ordinals that starts at a multiple of BLOCK, so that files may be read
    in turns. Ordinals order frames within a file, not between files that overlap in time.
    """

    BLOCK = 1 << 40

    files: list[str] = field(default_factory=list)

    def open(self, name: str) -> int:
        """Register a file; returns the ordinal of its frame 1."""
        self.files.append(name)
        return (len(self.files) - 1) * self.BLOCK + 1

    def file(self, ordinal: int) -> str:
        """Name of the file that holds this frame."""
        return self.files[ordinal // self.BLOCK]

    def number(self, ordinal: int) -> int:
        """Number of this frame in its file."""
        return ordinal % self.BLOCK
