"""Pieces of IP datagrams → whole datagrams (RFC 815, RFC 8200 section 4.5).

Fragments are rare, so this is plain Python; it is bounded in datagrams, bytes and time all the same.
A finished datagram takes the place of its last fragment in the batch, as in Wireshark.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.headers import FRAGMENT, Encapsulations, HeaderColumns, decode_datagram
from classifier.limits import FRAGMENT_TABLE, FRAGMENT_TIMEOUT_NS, MAX_DATAGRAM
from classifier.packets import PacketBatch


class DatagramKey(NamedTuple):
    """What pieces of one datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5)."""

    source: tuple[int, int]
    target: tuple[int, int]
    protocol: int
    identification: int


@dataclass(slots=True)
class _Datagram:
    """One datagram under reassembly."""

    time: int
    first_frame: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = -1
    frames: int = 0
    wire: int = 0


class Completed(NamedTuple):
    """A row that now stands for several frames: which, and what the earlier ones add to its counts."""

    row: int
    frames_before: int
    wire_before: int
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

    @property
    def unfinished(self) -> int:
        """Datagrams of which pieces are missing."""
        return len(self._waiting) + self.abandoned

    def complete(
        self, batch: PacketBatch, headers: HeaderColumns, known: Encapsulations
    ) -> tuple[NDArray[np.uint8], list[Completed]]:
        """Take in the fragment rows of a batch.

        Rows that complete a datagram are filled anew and point into the returned data (the batch's bytes,
        grown by the datagrams); other fragment rows stay FRAGMENT, which counts for nothing.
        """
        grown: list[NDArray[np.uint8]] = []
        end = len(batch.data)
        done: list[tuple[Completed, int, int, int]] = []
        for row in np.flatnonzero(headers.protocol[: batch.count] == FRAGMENT).tolist():
            datagram = self._add(batch, headers, row)
            if datagram is None:
                continue
            payload = np.frombuffer(b"".join(piece for _, piece in sorted(datagram.pieces.items())), np.uint8)
            wire = int(batch.columns.wire[row])
            completed = Completed(row, datagram.frames - 1, datagram.wire - wire, datagram.first_frame)
            done.append((completed, int(headers.flags[row]), end, len(payload)))
            grown.append(payload)
            end += len(payload)
        if not done:
            return batch.data, []
        data = np.concatenate([batch.data, *grown])
        for completed, protocol, start, size in done:
            decode_datagram(data, start, size, protocol, completed.row, headers, known)
        return data, [completed for completed, *_ in done if headers.protocol[completed.row] not in (0, FRAGMENT)]

    def _add(self, batch: PacketBatch, headers: HeaderColumns, row: int) -> _Datagram | None:
        """Take in one fragment; the datagram if it is whole now."""
        time = int(batch.columns.time[row])
        key = DatagramKey(
            (int(headers.source_high[row]), int(headers.source_low[row])),
            (int(headers.target_high[row]), int(headers.target_low[row])),
            int(headers.flags[row]),
            int(headers.sequence[row]),
        )
        datagram = self._waiting.get(key)
        if datagram is not None and abs(time - datagram.time) > FRAGMENT_TIMEOUT_NS:
            del self._waiting[key]
            self.abandoned += 1
            datagram = None
        if datagram is None:
            self._make_room()
            datagram = self._waiting[key] = _Datagram(time, batch.first_frame + row)
        place = int(headers.acknowledgement[row])
        offset, more = place & ~7, place & 1
        start = int(headers.payload[row])
        piece = batch.data[start : start + int(headers.payload_captured[row])].tobytes()
        if datagram.pieces.get(offset) == piece and (more or datagram.size == offset + len(piece)):
            return None  # a mirror's copy, which counts for nothing
        datagram.frames += 1
        datagram.wire += int(batch.columns.wire[row])
        if not self._fits(datagram, offset, piece, bool(more), int(headers.payload_length[row])):
            del self._waiting[key]
            self.overlaps += 1
            return None
        if datagram.size >= 0 and sum(map(len, datagram.pieces.values())) == datagram.size:
            return self._waiting.pop(key)
        return None

    def _make_room(self) -> None:
        if len(self._waiting) >= FRAGMENT_TABLE:
            self._waiting.popitem(last=False)
            self.abandoned += 1

    @staticmethod
    def _fits(datagram: _Datagram, offset: int, piece: bytes, more: bool, length: int) -> bool:
        """Keep a piece unless it can't be true: cut, too long, or at odds with one that is there."""
        end = offset + len(piece)
        if length != len(piece) or not piece or end > MAX_DATAGRAM or (more and len(piece) & 7):
            return False
        if not more:
            if datagram.size not in (-1, end):
                return False
            datagram.size = end
        if datagram.pieces.get(offset) == piece:
            return True
        overlapping = any(o < end and offset < o + len(p) for o, p in datagram.pieces.items())
        if overlapping or (datagram.size >= 0 and end > datagram.size):
            return False
        datagram.pieces[offset] = piece
        return True
