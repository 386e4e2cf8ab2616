"""A byte stream that travels inside another: a pipe in SMB messages, PDUs in an HTTP body.

Owns the joining of its pieces and the way back from its offsets to those of the stream around.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from classifier.inspectors.base import Chunk

_LOST: Final = 1 << 24
"""Distance put between pieces around a hole whose true size is not known; no PDU reaches over it."""


class Carried:
    """One direction of the inner stream."""

    __slots__ = ("_begins", "_holes", "_origins", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytearray]] = []
        self._begins: list[int] = []
        self._origins: list[int] = []
        self._holes = -1
        self._size = 0

    def append(self, data: bytes, origin: int, holes: int, missing: int = 0) -> None:
        """Add the next bytes.

        origin: their offset in the stream around. holes: how many holes that stream had before them.
        missing: bytes that belong behind them and are not there.
        """
        if holes != self._holes:
            self._size += _LOST if self._pieces else 0
            self._holes = holes
            self._pieces.append((self._size, bytearray()))
        self._begins.append(self._size)
        self._origins.append(origin)
        self._pieces[-1][1].extend(data)
        self._size += len(data) + missing
        if missing:
            self._pieces.append((self._size, bytearray()))

    def chunks(self) -> tuple[Chunk, ...]:
        """The bytes as the chunks of a stream."""
        return tuple(Chunk(offset, bytes(piece)) for offset, piece in self._pieces if piece)

    def origin(self, offset: int) -> int:
        """Where a byte of the inner stream stands in the stream around."""
        index = max(bisect_right(self._begins, offset) - 1, 0)
        return self._origins[index] + offset - self._begins[index] if self._begins else 0
