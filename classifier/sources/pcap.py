"""pcap capture files, both byte orders, micro- and nanoseconds (IETF draft-ietf-opsawg-pcap, sections 4 and 5).

There is no mark between records: after a record that can't be right nothing behind it can be trusted,
so reading stops there and the damage is told.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import kernel
from classifier.errors import Damage
from classifier.limits import MAX_PACKET
from classifier.packets import BATCH_ROWS, Interfaces, PacketBatch, PacketColumns
from classifier.sources.reading import Window, word

FILE_HEADER: Final = 24

MAGICS: Final = {
    b"\xa1\xb2\xc3\xd4": (">", 6, 16),
    b"\xd4\xc3\xb2\xa1": ("<", 6, 16),
    b"\xa1\xb2\x3c\x4d": (">", 9, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 9, 16),
    b"\xa1\xb2\xcd\x34": (">", 6, 24),
    b"\x34\xcd\xb2\xa1": ("<", 6, 24),
}
"""Magic number → byte order, fraction digits, length of a record header (24: Kuznetzov's variant, with
interface, protocol and packet type behind the four usual words)."""


@kernel
def index_records(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    big_endian: bool,
    fraction_ns: int,
    header: int,
    interface: int,
    frame: int,
    largest: int,
    columns: PacketColumns,
) -> tuple[int, int, int]:
    """List the whole records in data[start:end]. frame: ordinal of the first one.

    Returns (rows filled, where the next record begins, 0 or 1 if the record there can't be right).
    """
    offset, captured, wire, time, on, frame_of = columns
    row, position, rows = 0, start, len(offset)
    while position + header <= end and row < rows:
        seconds, fraction = word(data, position, big_endian), word(data, position + 4, big_endian)
        length, on_wire = word(data, position + 8, big_endian), word(data, position + 12, big_endian)
        if length > largest:
            return row, position, 1
        if position + header + length > end:
            break
        offset[row] = position + header
        captured[row] = length
        wire[row] = min(max(on_wire, length), 0x7FFFFFFF)
        time[row] = seconds * 1_000_000_000 + fraction * fraction_ns
        on[row] = interface
        frame_of[row] = frame + row
        row += 1
        position += header + length
    return row, position, 0


@dataclass(slots=True)
class PcapSource:
    """One pcap input. batches() yields its packets; damages says afterwards what was wrong with it."""

    name: str
    window: Window
    interfaces: Interfaces
    first_frame: int
    damages: list[Damage]

    def batches(self) -> Iterator[PacketBatch]:
        """The packets in file order. What was read before a damaged record is always yielded."""
        window, frame = self.window, self.first_frame
        head = window.take(FILE_HEADER)
        if len(head) < FILE_HEADER:
            self._damaged(0, f"file header: {window.ending} ({len(head)} of {FILE_HEADER} bytes)")
            return
        order, digits, header = MAGICS[head[:4]]
        _major, _minor, _zone, _sigfigs, _snaplen, link = struct.unpack(order + "HHiIII", head[4:])
        interface = self.interfaces.add(link & 0xFFFF, digits)
        while True:
            rows, window.start, broken = index_records(
                window.data, window.start, window.end, order == ">", 10 ** (9 - digits), header, interface,
                frame, MAX_PACKET, window.columns,
            )  # fmt: skip
            if rows:
                yield window.batch(rows)
                frame += rows
            if broken:
                self._damaged(
                    window.offset, f"record of frame {frame - self.first_frame + 1} claims an impossible length"
                )
                return
            if rows < BATCH_ROWS and not window.advance() and not rows:
                break
        if window.available:
            self._damaged(window.offset, f"{window.ending} in the record of frame {frame - self.first_frame + 1}")

    def _damaged(self, byte: int, reason: str) -> None:
        self.damages.append(Damage(self.name, byte, reason))
