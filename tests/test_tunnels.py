"""Rare forms of tunnels and links, byte by byte: those that scapy doesn't write, or doesn't write right."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from classifier.headers import Encapsulations, HeaderColumns, decode
from classifier.limits import MAX_ENCAPSULATION_STACKS, MAX_ENCAPSULATIONS
from classifier.packets import Interfaces, PacketBatch, PacketColumns

pytestmark = pytest.mark.kernels

SEGMENT = struct.pack(">HHIIBBHHH", 50_000, 135, 7, 8, 0x50, 0x18, 0, 0, 0) + b"payload!"


def four(protocol: int, content: bytes) -> bytes:
    """An IPv4 packet."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(content), 7, 0, 64, protocol, 0)
    return head + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + content


def six(protocol: int, content: bytes) -> bytes:
    """An IPv6 packet."""
    return struct.pack(">IHBB", 0x6000_0000, len(content), protocol, 64) + bytes(31) + b"\1" + content


INNER = four(6, SEGMENT)


def frame(kind: int, content: bytes = INNER) -> bytes:
    """An Ethernet frame."""
    return bytes(12) + struct.pack(">H", kind) + content


MIRRORED = frame(0x800)


def gre(bits: int, kind: int, content: bytes) -> bytes:
    return frame(0x800, four(47, struct.pack(">HH", bits, kind) + content))


def datagram(port: int, content: bytes) -> bytes:
    return frame(0x800, four(17, struct.pack(">HHHH", 33_333, port, 8 + len(content), 0) + content))


Look = tuple[bytes, list[int], list[str]]


def look(packets: list[bytes], known: Encapsulations | None = None) -> list[Look]:
    """Payload, VLANs and tunnels of each packet; (b"", [], []) where nothing counts."""
    interfaces, known, count = Interfaces(), known or Encapsulations(), len(packets)
    interfaces.add(1, 6)
    sizes = np.array(list(map(len, packets)), np.int32)
    time, interface = np.zeros(count, np.int64), np.zeros(count, np.int32)
    columns = PacketColumns(np.cumsum(sizes) - sizes, sizes, sizes, time, interface, np.arange(1, count + 1))
    data, headers = np.frombuffer(b"".join(packets), np.uint8), HeaderColumns.empty(count)
    decode(PacketBatch(data, columns, count), interfaces, headers, known)
    found: list[Look] = []
    for row in range(count):
        start, size = int(headers.payload[row]), int(headers.payload_captured[row])
        stack = int(headers.encapsulation[row])
        counts = headers.protocol[row] in (6, 17)
        content = data[start : start + size].tobytes()
        found.append((content, known.vlans(stack), known.tunnels(stack)) if counts else (b"", [], []))
    return found


FORMS: dict[str, Look] = {
    "tags of type 9100": (frame(0x9100, struct.pack(">HHHH", 10, 0x9100, 11, 0x800) + INNER), [10, 11], []),
    "a provider's backbone": (frame(0x88E7, struct.pack(">I", 0x1234) + MIRRORED), [], ["pbb:4660"]),
    "PPTP": (gre(0x3081, 0x880B, bytes(12) + b"\xff\x03\x00\x21" + INNER), [], ["gre"]),
    "PPTP without sequence": (gre(0x2001, 0x880B, bytes(4) + b"\x21" + INNER), [], ["gre"]),
    "ERSPAN III with a subheader": (
        gre(0x1000, 0x22EB, bytes(4) + b"\x20" + bytes(10) + b"\1" + bytes(8) + MIRRORED),
        [],
        ["erspan3"],
    ),
    "ERSPAN around a tag": (gre(0x1000, 0x88BE, bytes(12) + frame(0x8100, b"\0\5\x08\0" + INNER)), [5], ["erspan2"]),
    "VXLAN with a group policy": (datagram(4789, b"\x88\0\0\7\0\0\x2a\0" + MIRRORED), [], ["vxlan:42"]),
    "VXLAN with reserved bits": (datagram(4789, b"\x0c\0\0\0\0\0\x2a\0" + MIRRORED), [], ["vxlan:42"]),
    "VXLAN of Linux": (datagram(8472, b"\x08\0\0\0\0\0\x2a\0" + MIRRORED), [], ["vxlan:42"]),
    "GTP-U with extensions": (
        datagram(2152, b"\x34\xff\0\x50\0\0\0\x09" + b"\0\0\0\x85" + b"\1\0\0\0" + INNER),
        [],
        ["gtp-u:9"],
    ),
    "an authentication header": (frame(0x86DD, six(51, b"\6\4" + bytes(22) + SEGMENT)), [], []),
    "mobility": (frame(0x86DD, six(135, b"\6\0" + bytes(6) + SEGMENT)), [], []),
    "MPLS in IP": (frame(0x800, four(137, b"\0\0\x11\x40" + INNER)), [], ["mpls:1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_rare_forms(name: str) -> None:
    packet, vlans, tunnels = FORMS[name]
    assert look([packet]) == [(b"payload!", vlans, tunnels)]


NO_TUNNELS = [(4789, bytes(40)), (6081, b"\xff" * 40), (2152, b"\x32\x01" + bytes(40)), (2152, b"\x34\xff" + bytes(6))]


@pytest.mark.parametrize(("port", "content"), NO_TUNNELS)
def test_what_only_comes_to_a_tunnels_port_is_a_datagram(port: int, content: bytes) -> None:
    assert look([datagram(port, content)]) == [(content, [], [])]


NOTHING = {
    "ARP": frame(0x806, bytes(28)),
    "ICMP": frame(0x800, four(1, bytes(30))),
    "a TCP header of eight octets": frame(0x800, four(6, SEGMENT[:12] + b"\x20" + SEGMENT[13:])),
    "IPv4 that is shorter than its header": frame(0x800, INNER[:2] + b"\0\x0c" + INNER[4:]),
    "IPv4 without version 4": frame(0x800, b"\x55" + INNER[1:]),
    "an endless chain of tags": frame(0x8100, struct.pack(">HH", 1, 0x8100) * 200),
    "an endless chain of headers": frame(0x86DD, six(60, b"\x3c\0\1\4\0\0\0\0" * 200)),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_counts_for_nothing(name: str) -> None:
    assert look([NOTHING[name]]) == [(b"", [], [])]


def test_deep_stacks_are_walked_and_the_outermost_listed() -> None:
    deep = frame(0x8100, struct.pack(">HH", 1, 0x8100) * 11 + struct.pack(">HH", 2, 0x800) + INNER)
    assert look([deep]) == [(b"payload!", [1] * MAX_ENCAPSULATIONS, [])]


def test_distinct_stacks_are_bounded() -> None:
    heads = [b"\x08\0\0\0" + number.to_bytes(3, "big") + b"\0" for number in range(MAX_ENCAPSULATION_STACKS + 5)]
    known = Encapsulations()
    found = look([datagram(4789, head + MIRRORED) for head in heads], known=known)
    assert [found[0][2], found[1][2]] == [["vxlan:0"], ["vxlan:1"]]
    assert (found[-1], known.overflow) == ((b"payload!", [], []), 6)
