"""Pieces of IP datagrams → whole datagrams (RFC 815, RFC 8200 section 4.5).

Fragments are rare, so this is plain Python; it is bounded in datagrams, bytes and time all the same.
A finished datagram takes the place of its last fragment in the batch, as in Wireshark. A mirror port's copy of a
fragment counts as one packet of the conversation's copies: those that come before the datagram is whole are told
with it, one that comes a moment later takes the place of a copy of the whole datagram.
"""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.headers import FRAGMENT, Encapsulations, HeaderColumns, decode_datagram
from classifier.limits import FRAGMENT_COPIES, FRAGMENT_TABLE, FRAGMENT_TIMEOUT_NS, MAX_DATAGRAM, SPAN_WINDOW_NS
from classifier.packets import PacketBatch


class DatagramKey(NamedTuple):
    """What pieces of one datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5)."""

    source: tuple[int, int]
    target: tuple[int, int]
    protocol: int
    identification: int


@dataclass(slots=True)
class _Datagram:
    """One datagram under reassembly, or just finished.

    time: of its first fragment, then of the one that finished it. pieces: by offset, none of which overlap; offsets:
    theirs, in order; held: bytes in them. size: of the whole, -1 until its end was seen. frames, wire: how many
    fragments, and their bytes on the wire; copies: a mirror port's of them, which count for neither.
    """

    time: int
    first_frame: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)
    held: int = 0
    size: int = -1
    frames: int = 0
    wire: int = 0
    copies: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is missing: pieces never overlap, so their sizes add up."""
        return self.held == self.size

    @property
    def content(self) -> bytes:
        """What the pieces have in them, in order."""
        return b"".join(self.pieces[offset] for offset in self.offsets)

    def holds(self, offset: int, piece: bytes, more: bool) -> bool:
        """Whether this very piece is there already."""
        return self.pieces.get(offset) == piece and (more or self.size == offset + len(piece))

    def take(self, offset: int, piece: bytes, more: bool) -> bool:
        """Keep a piece, unless it can't be true: too long, or at odds with those that are there."""
        end = offset + len(piece)
        if not piece or end > MAX_DATAGRAM or (more and len(piece) & 7):
            return False
        if not more:
            if self.size not in (-1, end):
                return False
            self.size = end
        place = bisect(self.offsets, offset)
        before, behind = self.offsets[place - 1 : place], self.offsets[place : place + 1]
        if any(each + len(self.pieces[each]) > offset for each in before) or any(each < end for each in behind):
            return False
        furthest = end if not behind else self.offsets[-1] + len(self.pieces[self.offsets[-1]])
        if self.size >= 0 and furthest > self.size:
            return False
        self.offsets.insert(place, offset)
        self.pieces[offset] = piece
        self.held += len(piece)
        return True


class Completed(NamedTuple):
    """A row that now stands for several frames: which, what the earlier ones add to its counts, and copies of those."""

    row: int
    frames_before: int
    wire_before: int
    copies_before: int
    first_frame: int


@dataclass(slots=True)
class Reassembler:
    """Datagrams under reassembly over a whole run.

    abandoned: datagrams given up (time, table full, impossible sizes). overlaps: datagrams whose pieces
    contradict each other; they are dropped whole (RFC 5722).
    """

    abandoned: int = 0
    overlaps: int = 0
    _waiting: OrderedDict[DatagramKey, _Datagram] = field(default_factory=OrderedDict)
    _finished: OrderedDict[DatagramKey, _Datagram] = field(default_factory=OrderedDict)

    @property
    def unfinished(self) -> int:
        """Datagrams of which pieces are missing."""
        return len(self._waiting) + self.abandoned

    def complete(
        self, batch: PacketBatch, headers: HeaderColumns, known: Encapsulations
    ) -> tuple[NDArray[np.uint8], list[Completed]]:
        """Take in the fragment rows of a batch.

        Rows that complete a datagram are filled anew and point into the returned data (the batch's bytes,
        grown by the datagrams), and so are copies of a fragment that come right behind; other fragment rows
        stay FRAGMENT, which counts for nothing.
        """
        grown: list[NDArray[np.uint8]] = []
        end = len(batch.data)
        whole: list[tuple[int, int, int]] = []
        done: list[Completed] = []
        for row in np.flatnonzero(headers.protocol[: batch.count] == FRAGMENT).tolist():
            datagram, copied = self._add(batch, headers, row)
            if datagram is None:
                continue
            content = np.frombuffer(datagram.content, np.uint8)
            whole.append((row, end, len(content)))
            grown.append(content)
            end += len(content)
            if not copied:
                wire = datagram.wire - int(batch.columns.wire[row])
                done.append(Completed(row, datagram.frames - 1, wire, datagram.copies, datagram.first_frame))
        if not whole:
            return batch.data, []
        data = np.concatenate([batch.data, *grown])
        for row, start, size in whole:
            decode_datagram(data, start, size, int(headers.flags[row]), row, headers, known)
        return data, [each for each in done if headers.protocol[each.row] not in (0, FRAGMENT)]

    def _add(self, batch: PacketBatch, headers: HeaderColumns, row: int) -> tuple[_Datagram | None, bool]:
        """Take in one fragment. Returns the datagram if it is whole now, and whether it was so before (a copy)."""
        time = int(batch.columns.time[row])
        key = DatagramKey(
            (int(headers.source_high[row]), int(headers.source_low[row])),
            (int(headers.target_high[row]), int(headers.target_low[row])),
            int(headers.flags[row]),
            int(headers.sequence[row]),
        )
        place, start = int(headers.acknowledgement[row]), int(headers.payload[row])
        offset, more = place & ~7, bool(place & 1)
        piece = batch.data[start : start + int(headers.payload_captured[row])].tobytes()
        before = self._finished.get(key)
        if before is not None and abs(time - before.time) <= SPAN_WINDOW_NS and before.holds(offset, piece, more):
            return before, True
        datagram = self._open(key, time, int(batch.columns.frame[row]))
        if datagram.holds(offset, piece, more):
            datagram.copies += 1
            return None, False
        datagram.frames += 1
        datagram.wire += int(batch.columns.wire[row])
        if int(headers.payload_length[row]) != len(piece) or not datagram.take(offset, piece, more):
            del self._waiting[key]
            self.overlaps += 1
            return None, False
        return (self._finish(key, time), False) if datagram.finished else (None, False)

    def _open(self, key: DatagramKey, time: int, frame: int) -> _Datagram:
        """The datagram that waits under this key, a new one if there is none, or none that could still wait."""
        datagram = self._waiting.get(key)
        if datagram is not None and abs(time - datagram.time) <= FRAGMENT_TIMEOUT_NS:
            return datagram
        if datagram is not None:
            del self._waiting[key]
            self.abandoned += 1
        self._make_room()
        datagram = self._waiting[key] = _Datagram(time, frame)
        return datagram

    def _finish(self, key: DatagramKey, time: int) -> _Datagram:
        """Take a whole datagram out of those that wait; it is remembered a moment for the sake of copies."""
        datagram = self._waiting.pop(key)
        datagram.time = time
        self._finished.pop(key, None)
        self._finished[key] = datagram
        if len(self._finished) > FRAGMENT_COPIES:
            self._finished.popitem(last=False)
        return datagram

    def _make_room(self) -> None:
        if len(self._waiting) >= FRAGMENT_TABLE:
            self._waiting.popitem(last=False)
            self.abandoned += 1
