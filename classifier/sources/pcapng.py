"""pcapng capture files (IETF draft-ietf-opsawg-pcapng, sections 3 and 4).

Sections of both byte orders, several interfaces each with its own link type, time resolution and offset;
Enhanced, Simple and (obsolete) Packet Blocks; of blocks of other types those that Wireshark numbers leave an
empty row, the rest are stepped over. A block whose two lengths disagree is damage: reading goes on at the next
place that looks like a block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import i64, kernel, u64
from classifier.errors import Damage
from classifier.limits import MAX_BLOCK, MAX_DAMAGES, MAX_INTERFACES, MAX_KEYLOG, MAX_PACKET, MAX_PACKET_BLOCK
from classifier.packets import BATCH_ROWS, Interfaces, PacketBatch, PacketColumns
from classifier.sources.reading import Window, word

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE: Final = 1
PACKET: Final = 2
SIMPLE_PACKET: Final = 3
SECRETS: Final = 10
ENHANCED_PACKET: Final = 6

EVENTS: Final = (9, 0xBAD, 0x40000BAD, 0x204, 0x216, 0x221)
"""Journal entries, custom blocks and Sysdig's events: no packets, yet Wireshark gives each the number of a frame."""

MAGIC: Final = b"\x0a\x0d\x0d\x0a"
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D

TLS_KEY_LOG: Final = 0x544C534B
"""Secrets type of a TLS key log (4.7)."""

OPTION_END, OPTION_TSRESOL, OPTION_TSOFFSET = 0, 9, 14

# What index_blocks stopped at.
MORE, DEFINITION, LONG, BROKEN, NONSENSE = 0, 1, 2, 3, 4


class SectionInterfaces(NamedTuple):
    """The interfaces of the current section, one row each.

    number: int32 index into the run's `Interfaces`; snaplen: int64, 0 for none; exponent: int64 time
    resolution (tsresol: 10^-n, or 2^-n with the top bit set); offset_s: int64 seconds added to every time.
    """

    number: NDArray[np.int32]
    snaplen: NDArray[np.int64]
    exponent: NDArray[np.int64]
    offset_s: NDArray[np.int64]


@kernel
def nanoseconds(high: int, low: int, exponent: int, offset_s: int) -> int:
    """A 64-bit time stamp in units of its resolution as nanoseconds since 1970 (pcapng 4.2, if_tsresol)."""
    units = (u64(high) << u64(32)) | u64(low)
    if exponent & 0x80:
        bits = u64(min(exponent & 0x7F, 63))
        seconds = i64(units >> bits)
        fraction = units & ((u64(1) << bits) - u64(1))
        spare = u64(max(i64(bits) - 34, 0))  # keep fraction * 10^9 within 64 bits
        return (seconds + offset_s) * 1_000_000_000 + i64(((fraction >> spare) * u64(1_000_000_000)) >> (bits - spare))
    scale = u64(1)
    for _ in range(abs(9 - min(exponent, 27))):
        scale *= u64(10)
    ns = i64(units * scale) if exponent <= 9 else i64(units // scale)
    return ns + offset_s * 1_000_000_000


@kernel
def index_blocks(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    big_endian: bool,
    interfaces: SectionInterfaces,
    interface_count: int,
    last_time: int,
    frame: int,
    columns: PacketColumns,
) -> tuple[int, int, int, int]:
    """List the packets of the whole blocks in data[start:end], up to the first block that defines something.

    frame: ordinal of the first packet.

    Returns (rows filled, where the next block begins, why it stopped there, time of the last packet).
    """
    offset, captured, wire, time, on, frame_of = columns
    row, position, rows = 0, start, len(offset)
    while position + 12 <= end and row < rows:
        kind = word(data, position, big_endian)
        if kind in (SECTION_HEADER, INTERFACE):
            return row, position, DEFINITION, last_time
        length = word(data, position + 4, big_endian)
        packet = kind in (ENHANCED_PACKET, SIMPLE_PACKET, PACKET)
        if length < 12 or length > (MAX_PACKET_BLOCK if packet else MAX_BLOCK):
            return row, position, BROKEN, last_time
        length = (length + 3) & ~3
        if length > MAX_PACKET_BLOCK:
            return row, position, LONG, last_time
        if kind == SECRETS:
            return row, position, DEFINITION, last_time
        if position + length > end:
            break
        if word(data, position + length - 4, big_endian) != word(data, position + 4, big_endian):
            return row, position, BROKEN, last_time
        if packet:
            body, size = position + 8, length - 12
            interface, header = 0, 20
            if kind == SIMPLE_PACKET:
                header = 4
            elif size >= 20:
                interface = word(data, body, big_endian)
                if kind == PACKET:  # interface id and drop count are 16 bits each
                    interface = (interface >> 16) if big_endian else (interface & 0xFFFF)
            if size < header or interface >= interface_count:
                return row, position, NONSENSE, last_time
            if kind == SIMPLE_PACKET:
                on_wire = word(data, body, big_endian)
                kept = on_wire if interfaces.snaplen[0] == 0 else min(on_wire, interfaces.snaplen[0])
                kept = min(kept, size - header)
            else:
                kept, on_wire = word(data, body + 12, big_endian), word(data, body + 16, big_endian)
                last_time = nanoseconds(
                    word(data, body + 4, big_endian),
                    word(data, body + 8, big_endian),
                    interfaces.exponent[interface],
                    interfaces.offset_s[interface],
                )
            if kept > size - header or kept > MAX_PACKET:
                return row, position, NONSENSE, last_time
            offset[row] = body + header
            captured[row] = kept
            wire[row] = min(max(on_wire, kept), 0x7FFFFFFF)
            time[row] = last_time
            on[row] = interfaces.number[interface]
            frame_of[row] = frame + row
            row += 1
        elif kind in EVENTS:
            offset[row], captured[row], wire[row] = position + 8, 0, 0
            time[row], on[row], frame_of[row] = last_time, interfaces.number[0], frame + row
            row += 1
        position += length
    return row, position, MORE, last_time


@kernel
def next_block(data: NDArray[np.uint8], start: int, end: int, big_endian: bool) -> int:
    """The next place from start on that is a block by its type and both its lengths, or -1."""
    for position in range(start, end - 11):
        kind = word(data, position, big_endian)
        if kind != SECTION_HEADER and (kind == 0 or kind > 10):
            continue
        order = big_endian
        if kind == SECTION_HEADER:  # says its byte order itself
            order = word(data, position + 8, True) == BYTE_ORDER_MAGIC
        length = word(data, position + 4, order)
        if length < 12 or length & 3 or position + length > end:
            continue
        if word(data, position + length - 4, order) == length:
            return position
    return -1


def _empty_interfaces() -> SectionInterfaces:
    return SectionInterfaces(
        np.zeros(MAX_INTERFACES, np.int32), *(np.zeros(MAX_INTERFACES, np.int64) for _ in range(3))
    )


@dataclass(slots=True)
class PcapngSource:
    """One pcapng input. batches() yields its packets; damages says afterwards what was wrong with it.

    secrets: gets the TLS key logs of Decryption Secrets Blocks, up to `limits.MAX_KEYLOG` bytes in all.
    """

    name: str
    window: Window
    interfaces: Interfaces
    first_frame: int
    damages: list[Damage]
    secrets: list[bytes] = field(default_factory=list)
    _big_endian: bool = False
    _section: SectionInterfaces = field(default_factory=_empty_interfaces)
    _defined: int = 0
    _told: int = 0

    def batches(self) -> Iterator[PacketBatch]:
        """The packets in file order, over all sections. Damaged blocks are told and stepped over."""
        window, frame, time = self.window, self.first_frame, 0
        window.require(12)
        while True:
            rows, window.start, stop, time = index_blocks(
                window.data, window.start, window.end, self._big_endian, self._section, self._defined, time,
                frame, window.columns,
            )  # fmt: skip
            if rows:
                yield window.batch(rows)
                frame += rows
            if stop != MORE:
                if not self._special(stop):
                    return
            elif rows < BATCH_ROWS and not window.advance() and not rows:
                break
        if window.available:
            self._damaged(f"{window.ending} in a block behind frame {frame - self.first_frame}")

    def _special(self, stop: int) -> bool:
        """Deal with the block that index_blocks stopped at; False when there's nothing more to read."""
        if stop == DEFINITION:
            return self._define()
        if stop == LONG:
            return self._step_over_long()
        if stop == NONSENSE:
            self._damaged("packet block contradicts itself; stepped over")
            length = self._word(self.window.start + 4)
            self.window.start += (length + 3) & ~3
            return True
        self._damaged("block lengths can't be right; went on at the next block that is whole")
        return self._resynchronise()

    def _define(self) -> bool:
        """Read a Section Header, Interface Description or Decryption Secrets Block."""
        window = self.window
        order = ">" if self._big_endian else "<"
        kind = self._word(window.start)
        section = kind == SECTION_HEADER
        if section:
            magic = struct.unpack_from("<I", window.data[window.start + 8 : window.start + 12].tobytes())[0]
            if magic not in (BYTE_ORDER_MAGIC, 0x4D3C2B1A):
                self._damaged("section header without byte-order magic")
                return self._resynchronise()
            self._big_endian = magic != BYTE_ORDER_MAGIC
            order = ">" if self._big_endian else "<"
        length = self._word(window.start + 4)
        if length < (28 if section else 20) or length > MAX_BLOCK:
            self._damaged("block length can't be right; went on at the next block that is whole")
            return self._resynchronise()
        if not window.require((length + 3) & ~3):
            self._damaged(f"{window.ending} in a block header")
            return False
        block = window.take((length + 3) & ~3)
        if section:
            self._defined = 0
        elif kind == SECRETS:
            self._keep_secrets(block[8:-4], order)
        elif self._defined < MAX_INTERFACES:
            self._add_interface(block[8:-4], order)
        return True

    def _keep_secrets(self, body: bytes, order: str) -> None:
        """Decryption Secrets Block (4.7): type and length of secrets, of which TLS key logs are kept."""
        kind, length = struct.unpack_from(order + "II", body)
        keys = body[8 : 8 + length]
        if kind == TLS_KEY_LOG and sum(map(len, self.secrets)) + len(keys) <= MAX_KEYLOG:
            self.secrets.append(keys)

    def _add_interface(self, body: bytes, order: str) -> None:
        """Interface Description Block (4.2): link type, snap length, if_tsresol, if_tsoffset."""
        link, _reserved, snaplen = struct.unpack_from(order + "HHI", body)
        exponent, offset_s, position = 6, 0, 8
        while position + 4 <= len(body):
            code, size = struct.unpack_from(order + "HH", body, position)
            value = body[position + 4 : position + 4 + size]
            if code == OPTION_END:
                break
            if code == OPTION_TSRESOL and len(value) == 1:
                exponent = value[0]
            elif code == OPTION_TSOFFSET and len(value) == 8:
                offset_s = struct.unpack(order + "q", value)[0]
            position += 4 + ((size + 3) & ~3)
        digits = 9 if exponent & 0x80 else min(exponent, 9)
        row, self._defined = self._defined, self._defined + 1
        self._section.number[row] = self.interfaces.add(link, digits)
        self._section.snaplen[row] = snaplen
        self._section.exponent[row] = exponent
        self._section.offset_s[row] = max(-(2**33), min(offset_s, 2**33))

    def _step_over_long(self) -> bool:
        """A block longer than any with a packet in it (a gathering of secrets or names): skip it."""
        window = self.window
        length = (self._word(window.start + 4) + 3) & ~3
        if window.skip(length) < length:
            self._damaged(f"{window.ending} in a long block")
            return False
        return True

    def _resynchronise(self) -> bool:
        window = self.window
        window.start += 4
        while True:
            found = next_block(window.data, window.start, window.end, self._big_endian)
            if found >= 0:
                window.start = found
                return True
            window.start = max(window.start, window.end - MAX_PACKET)
            if not window.advance():
                window.start = window.end
                return False

    def _word(self, position: int) -> int:
        return int.from_bytes(
            self.window.data[position : position + 4].tobytes(), "big" if self._big_endian else "little"
        )

    def _damaged(self, reason: str) -> None:
        self._told += 1
        if self._told < MAX_DAMAGES:
            self.damages.append(Damage(self.name, self.window.offset, reason))
        elif self._told == MAX_DAMAGES:
            self.damages.append(Damage(self.name, self.window.offset, f"{reason}; further damage is not listed"))
