"""Capture files, written byte by byte: classic pcap in four variants, pcapng in all its block types.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Knows frames, not what is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from captures.makers.scene import Frame

ETHERNET, NULL, RAW, SLL, SLL2 = 1, 0, 101, 113, 276
SECTION, INTERFACE, PACKET, SIMPLE, NAMES, STATISTICS, ENHANCED, CUSTOM = (
    0x0A0D0D0A, 1, 2, 3, 4, 5, 6, 0x00000BAD,
)  # fmt: skip
PRIVATE = 0x80000ABC


def classic(frames: Sequence[Frame], *, order: str = "<", nanoseconds: bool = False, snaplen: int = 262_144) -> bytes:
    """A pcap file. order: "<" or ">"."""
    magic, unit = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, ETHERNET)]
    for frame in frames:
        seconds, rest = divmod(frame.ns, 10**9)
        kept = frame.data[:snaplen]
        out.append(struct.pack(order + "IIII", seconds, rest // unit, len(kept), frame.wire) + kept)
    return b"".join(out)


@dataclass(frozen=True)
class Interface:
    """A pcapng interface. per_second: ticks of its clock (a power of ten or of two); offset: seconds added to times."""

    link: int = ETHERNET
    per_second: int = 10**6
    offset: int = 0
    snaplen: int = 262_144
    name: str = ""

    def options(self, order: str) -> list[tuple[int, bytes]]:
        binary = self.per_second & (self.per_second - 1) == 0
        exponent = 0x80 | self.per_second.bit_length() - 1 if binary else len(str(self.per_second)) - 1
        listed = [(9, bytes([exponent]))]
        if self.name:
            listed.insert(0, (2, self.name.encode()))
        if self.offset:
            listed.append((14, struct.pack(order + "q", self.offset)))
        return listed

    def ticks(self, ns: int) -> int:
        return (ns - self.offset * 10**9) * self.per_second // 10**9


class Section:
    """One pcapng section under construction."""

    def __init__(self, interfaces: Sequence[Interface], order: str = "<") -> None:
        self.interfaces, self.order = interfaces, order
        header = struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)
        self.data = self.block(SECTION, header + self.option_list([(4, b"captures/makers")]))
        for interface in interfaces:
            body = struct.pack(order + "HHI", interface.link, 0, interface.snaplen)
            self.data += self.block(INTERFACE, body + self.option_list(interface.options(order)))

    def block(self, kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = 12 + len(body)
        return struct.pack(self.order + "II", kind, size) + body + struct.pack(self.order + "I", size)

    def option_list(self, options: Sequence[tuple[int, bytes]]) -> bytes:
        listed = b""
        for code, value in options:
            listed += struct.pack(self.order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
        return listed + bytes(4)

    def add(self, kind: int, body: bytes) -> None:
        """Any block."""
        self.data += self.block(kind, body)

    def _stamp(self, frame: Frame) -> tuple[int, int]:
        ticks = self.interfaces[frame.interface].ticks(frame.ns)
        return ticks >> 32, ticks & 0xFFFFFFFF

    def enhanced(self, frame: Frame, options: Sequence[tuple[int, bytes]] = ()) -> None:
        """An Enhanced Packet block."""
        kept = frame.data[: self.interfaces[frame.interface].snaplen]
        head = struct.pack(self.order + "IIIII", frame.interface, *self._stamp(frame), len(kept), frame.wire)
        tail = self.option_list(options) if options else b""
        self.add(ENHANCED, head + kept + bytes(-len(kept) % 4) + tail)

    def obsolete(self, frame: Frame) -> None:
        """A Packet block, as written before 2010."""
        stamp = self._stamp(frame)
        head = struct.pack(self.order + "HHIIII", frame.interface, 0, *stamp, len(frame.data), frame.wire)
        self.add(PACKET, head + frame.data)

    def simple(self, frame: Frame) -> None:
        """A Simple Packet block: interface 0, no time."""
        self.add(SIMPLE, struct.pack(self.order + "I", frame.wire) + frame.data)


def pcapng(frames: Sequence[Frame]) -> bytes:
    """One section, one Ethernet interface with nanoseconds."""
    section = Section([Interface(per_second=10**9, name="mirror0")])
    for frame in frames:
        section.enhanced(frame)
    return section.data
