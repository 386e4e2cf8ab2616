"""Bytes of one input in bounded pieces: a ring of buffers that are filled in turn.

Owns the buffers; knows nothing of what the bytes mean. A capture is never held as a whole.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import i64, inlined
from classifier.limits import READ_BLOCK
from classifier.packets import BATCH_ROWS, PacketBatch, PacketColumns

RING = 4
"""Buffers in turn: one being filled, one waiting, one in use, one just left."""


@inlined
def word(data: NDArray[np.uint8], p: int, big_endian: bool) -> int:
    """Four bytes at p as an unsigned number."""
    a, b, c, d = i64(data[p]), i64(data[p + 1]), i64(data[p + 2]), i64(data[p + 3])
    if big_endian:
        return (a << 24) | (b << 16) | (c << 8) | d
    return a | (b << 8) | (c << 16) | (d << 24)


class Readable(Protocol):
    """What a file, a pipe and a decompressor have in common."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill the buffer as far as it goes; 0 at the end."""


class Input:
    """One input whose first bytes may be looked at before they are read.

    failure: why it ended before its end, empty if it did not, or has not yet; beyond_limit:
    whether a bound was the reason.
    """

    def __init__(self, raw: Readable) -> None:
        self._raw, self._ahead = raw, b""
        self._news = 0
        self.failure = ""
        self.beyond_limit = False

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer at the end; they will be read all the same."""
        while len(self._ahead) < size:
            block = memoryview(bytearray(size - len(self._ahead)))
            got = self._read(block)
            if not got:
                break
            self._ahead += block[:got]
        return self._ahead[:size]

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as one step goes; 0 at the end."""
        if not self._ahead:
            return self._read(buffer)
        got = min(len(buffer), len(self._ahead))
        buffer[:got], self._ahead = self._ahead[:got], self._ahead[got:]
        return got

    def news(self) -> int:
        """Bytes read since this was last asked."""
        news, self._news = self._news, 0
        return news

    def _read(self, buffer: Any) -> int:
        got = self._raw.readinto(buffer) or 0
        self._news += got
        return got


class Window:
    """A moving view over an input: the unread rest of the last piece, then the next piece.

    data[start:end] are the bytes at hand; position is the input's offset of data[0].
    """

    __slots__ = (
        "_buffers", "_columns", "_columns_turn", "_input", "_lent", "_turn", "columns", "data", "end", "finished",
        "position", "start",
    )  # fmt: skip

    def __init__(self, opened: Input, capacity: int = READ_BLOCK) -> None:
        self._input = opened
        self._buffers = [np.empty(capacity, np.uint8) for _ in range(RING)]
        self._columns = [PacketColumns.empty(BATCH_ROWS) for _ in range(RING)]
        self._turn = self._columns_turn = 0
        self.data: NDArray[np.uint8] = self._buffers[0]
        self.columns = self._columns[0]
        self.start = self.end = 0
        self.position = 0
        self.finished = self._lent = False

    @property
    def offset(self) -> int:
        """Offset in the input of the first byte at hand."""
        return self.position + self.start

    @property
    def available(self) -> int:
        """How many bytes are at hand."""
        return self.end - self.start

    @property
    def ending(self) -> str:
        """What to say of something that the input's end leaves unfinished."""
        return self._input.failure or "cut short"

    def batch(self, rows: int) -> PacketBatch:
        """The rows filled in columns; the next ones go into other columns.

        What was handed out stays valid for RING - 1 further batches.
        """
        filled, self._lent = self.columns, True
        self._columns_turn = (self._columns_turn + 1) % RING
        self.columns = self._columns[self._columns_turn]
        return PacketBatch(self.data, filled, rows)

    def advance(self) -> bool:
        """Turn to the next buffer, if this one was handed out: keep the rest, read on behind it.

        False when nothing new came.
        """
        rest = self.data[self.start : self.end]
        if self._lent:
            self._turn, self._lent = (self._turn + 1) % RING, False
        fresh = self._buffers[self._turn]
        if len(rest) > len(fresh) // 2:
            fresh = self._buffers[self._turn] = np.empty(4 * len(rest), np.uint8)
        fresh[: len(rest)] = rest
        self.position += self.start
        self.data = fresh
        self.start, self.end = 0, len(rest)
        return self._fill()

    def _fill(self) -> bool:
        """Read until the buffer is full or the input ends (pipes give little at a time)."""
        before, view = self.end, memoryview(self.data.data)
        while self.end < len(self.data) and not self.finished:
            got = self._input.readinto(view[self.end :])
            self.end += got
            self.finished = not got
        return self.end > before

    def require(self, size: int) -> bool:
        """Whether size bytes are at hand, reading on if need be."""
        while self.available < size and not self.finished:
            self.advance()
        return self.available >= size

    def take(self, size: int) -> bytes:
        """Read size bytes (fewer at the end of the input) and step over them."""
        self.require(size)
        taken = self.data[self.start : min(self.start + size, self.end)].tobytes()
        self.start += len(taken)
        return taken

    def skip(self, size: int) -> int:
        """Step over size bytes without keeping them; returns how many there were."""
        left = size
        while left:
            step = min(left, self.available)
            self.start += step
            left -= step
            if left and not self.advance():
                break
        return size - left
