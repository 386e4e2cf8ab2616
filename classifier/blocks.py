"""Blocks of a pcapng file, to be written. Little-endian, each padded to 32 bits.

Format: IETF draft-ietf-opsawg-pcapng, the sections that each function names. Must not know what is in the packets,
nor who reads the file.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Final

END_OF_OPTIONS: Final = 0
COMMENT: Final = 1
DESCRIPTION: Final = 3
RESOLUTION: Final = 9

Option = tuple[int, bytes]
"""Code and value, at most 65535 bytes (3.5)."""


def section() -> bytes:
    """Section Header Block (4.1): version 1.0, length not told."""
    return _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(link_type: int, digits: int, description: str = "") -> bytes:
    """Interface Description Block (4.2): LINKTYPE_ value, no snap length, clock with so many decimal digits."""
    options = [(RESOLUTION, bytes([digits]))]
    if description:
        options.insert(0, (DESCRIPTION, description.encode()))
    return _block(1, struct.pack("<HHI", link_type, 0, 0) + _options(options))


def packet(interface: int, units: int, data: bytes, wire: int, comments: Iterable[str] = ()) -> bytes:
    """Enhanced Packet Block (4.3). units: time since 1970 in the interface's resolution; wire: original length."""
    head = struct.pack("<IIIII", interface, units >> 32, units & 0xFFFF_FFFF, len(data), wire)
    return _block(6, head + _padded(data) + _options([(COMMENT, text.encode()) for text in comments]))


def names(known: Iterable[tuple[str, str]]) -> bytes:
    """Name Resolution Block (4.5): addresses, as text, with the name of each."""
    return _block(4, b"".join(_record(address, name) for address, name in known) + bytes(4))


def _record(address: str, name: str) -> bytes:
    parsed = ipaddress.ip_address(address)
    value = parsed.packed + name.encode() + b"\0"
    return struct.pack("<HH", 1 if parsed.version == 4 else 2, len(value)) + _padded(value)


def _options(options: list[Option]) -> bytes:
    if not options:
        return b""
    written = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
    return written + struct.pack("<HH", END_OF_OPTIONS, 0)


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
