"""Capture files written byte by byte, by the drafts and not by the product's own ideas of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np

from classifier.errors import Damage
from classifier.packets import Interfaces
from classifier.sources import pcap as pcap_source
from classifier.sources import pcapng as pcapng_source
from classifier.sources.reading import Input, Window

PCAP_MAGIC = {(6, False): 0xA1B2C3D4, (9, False): 0xA1B23C4D, (6, True): 0xA1B2CD34}


class Frame(NamedTuple):
    """One packet: nanoseconds, its captured bytes, its length on the wire, the link type it came from."""

    time: int
    data: bytes
    wire: int
    link: int = 1


def frame(time: int, data: bytes, more: int = 0, link: int = 1) -> Frame:
    """A packet of which `more` bytes were cut off."""
    return Frame(time, data, len(data) + more, link)


# ---- pcap ------------------------------------------------------------------------------


def pcap(
    frames: Iterable[Frame], order: str = "<", digits: int = 6, *, kuznetzov: bool = False, link: int = 1
) -> bytes:
    """A pcap file (draft-ietf-opsawg-pcap); kuznetzov: with eight octets more in each record header."""
    head = struct.pack(order + "IHHiIII", PCAP_MAGIC[digits, kuznetzov], 2, 4, 0, 0, 262_144, link)
    return head + b"".join(pcap_record(each, order, digits, kuznetzov=kuznetzov) for each in frames)


def pcap_record(each: Frame, order: str = "<", digits: int = 6, *, kuznetzov: bool = False) -> bytes:
    """One record of a pcap file."""
    seconds, ns = divmod(each.time, 10**9)
    head = struct.pack(order + "IIII", seconds, ns // 10 ** (9 - digits), len(each.data), each.wire)
    return head + (struct.pack(order + "IHBB", 1, 0x800, 0, 0) if kuznetzov else b"") + each.data


# ---- pcapng ----------------------------------------------------------------------------


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Any block, its body padded to four octets (draft-ietf-opsawg-pcapng section 3.1)."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """One option, padded (section 3.5)."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", length: int = -1) -> bytes:
    """Section Header Block (4.1)."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, length), order)


def interface(
    order: str = "<", link: int = 1, snaplen: int = 0, resolution: int | None = None, offset: int | None = None
) -> bytes:
    """Interface Description Block (4.2)."""
    options = option(2, b"eth-\xc3\xa4", order)
    if resolution is not None:
        options += option(9, bytes([resolution]), order)
    if offset is not None:
        options += option(14, struct.pack(order + "q", offset), order)
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options + option(0, b"", order), order)


def enhanced(units: int, data: bytes, number: int = 0, more: int = 0, order: str = "<", options: bytes = b"") -> bytes:
    """Enhanced Packet Block (4.3)."""
    head = struct.pack(order + "IIIII", number, units >> 32, units & 0xFFFFFFFF, len(data), len(data) + more)
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


def simple(data: bytes, more: int = 0, order: str = "<") -> bytes:
    """Simple Packet Block (4.4)."""
    return block(3, struct.pack(order + "I", len(data) + more) + data, order)


def old_packet(units: int, data: bytes, number: int = 0, more: int = 0, order: str = "<") -> bytes:
    """Packet Block (obsolete; appendix A)."""
    head = struct.pack(order + "HHIIII", number, 7, units >> 32, units & 0xFFFFFFFF, len(data), len(data) + more)
    return block(2, head + data, order)


# ---- reading back ----------------------------------------------------------------------


class Dribble:
    """A pipe: gives at most so many bytes at a time, in turn."""

    def __init__(self, data: bytes, sizes: Sequence[int] = (1 << 30,)) -> None:
        self._stream, self._sizes, self._turn = BytesIO(data), sizes, 0

    def readinto(self, buffer: memoryview) -> int:
        """As io.RawIOBase."""
        self._turn += 1
        return self._stream.readinto(buffer[: self._sizes[self._turn % len(self._sizes)]])


def read(data: bytes, capacity: int = 2**16, sizes: Sequence[int] = (1 << 30,)) -> tuple[list[Frame], list[Damage]]:
    """The packets that the product finds in these bytes, with buffers of that capacity; and the damage."""
    interfaces, damages = Interfaces(), []
    known = pcapng_source.PcapngSource if data[:4] == pcapng_source.MAGIC else pcap_source.PcapSource
    source = known("x", Window(Input(Dribble(data, sizes)), capacity), interfaces, 1, damages)
    found: list[Frame] = []
    for batch in source.batches():
        columns = [column[: batch.count].tolist() for column in batch.columns]
        for offset, captured, wire, time, number, ordinal in zip(*columns, strict=True):
            assert ordinal == len(found) + 1
            content = batch.data[offset : offset + captured].tobytes()
            assert len(content) == captured
            found.append(Frame(time, content, wire, int(np.int64(interfaces.link_type[number]))))
    return found, damages
