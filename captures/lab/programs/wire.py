"""A wire that does what this kernel may not: frames change places, come twice, or are carried in a mirror's tunnel.

    python -m captures.lab.programs.wire restless DEVICE DEVICE       # between two interfaces, both ways
    python -m captures.lab.programs.wire mirror SOURCE KIND=DEVICE... # from one interface to others, by kind

`restless` lets every 5th frame of a direction be overtaken by the next, and sends every 7th twice. KIND: `vlan`
(802.1Q), `gre` (RFC 2784, transparent Ethernet bridging), `erspan` (type II), `twice` (a mirror port that copies each
frame at both of the switch's ports).
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Callable

from scapy.layers.inet import IP
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Raw

OVERTAKEN, TWICE = 5, 7
PATIENCE_SECONDS = 0.02
"""How long a frame waits for another to overtake it."""
FRAME = 65_536
SESSION, TAG = 7, 30
OUTER = Ether(src="02:20:00:00:00:01", dst="02:20:00:00:00:02") / IP(src="10.99.0.1", dst="10.99.0.2", proto=47)


class Port:
    """An interface, read and written as frames."""

    def __init__(self, device: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        self.socket.bind((device, 0))

    def read(self) -> bytes | None:
        """The next frame that came from outside; None for one that this host sent."""
        data, where = self.socket.recvfrom(FRAME)
        return None if where[2] == socket.PACKET_OUTGOING else data

    def write(self, data: bytes) -> None:
        self.socket.send(data)


class Way:
    """One direction of the restless wire."""

    def __init__(self, target: Port) -> None:
        self.target, self.count = target, 0
        self.held: list[bytes] = []

    def carry(self, data: bytes) -> None:
        self.count += 1
        if self.count % OVERTAKEN == 0 and not self.held:
            self.held.append(data)
            return
        self.target.write(data)
        if self.count % TWICE == 0:
            self.target.write(data)
        self.flush()

    def flush(self) -> None:
        while self.held:
            self.target.write(self.held.pop(0))


def restless(one: str, other: str) -> None:
    """Carry frames both ways, for ever."""
    ports = Port(one), Port(other)
    ways = {ports[0].socket: (ports[0], Way(ports[1])), ports[1].socket: (ports[1], Way(ports[0]))}
    while True:
        ready, _, _ = select.select(ways, [], [], PATIENCE_SECONDS)
        for item in ready:
            port, way = ways[item]
            if (data := port.read()) is not None:
                way.carry(data)
        if not ready:
            for _, way in ways.values():
                way.flush()


def mirror(source: str, *targets: str) -> None:
    """Copy each frame to each target, for ever."""
    port = Port(source)
    kinds = [(KINDS[kind], Port(device)) for kind, device in (word.split("=") for word in targets)]
    number = 0
    while True:
        data = port.read()
        for encode, target in kinds if data is not None else ():
            for frame in encode(data, number):
                target.write(frame)
        number += data is not None


def vlan(data: bytes, number: int) -> list[bytes]:
    """IEEE 802.1Q: the tag stands behind the addresses."""
    return [data[:12] + struct.pack(">HH", 0x8100, TAG) + data[12:]]


def gre(data: bytes, number: int) -> list[bytes]:
    """RFC 2784 with protocol type 0x6558 (RFC 1701: transparent Ethernet bridging)."""
    return [bytes(OUTER / GRE(proto=0x6558) / Raw(data))]


def erspan(data: bytes, number: int) -> list[bytes]:
    """draft-foschiano-erspan-03 section 4.2: GRE with a sequence number, then version 1, VLAN, session and index."""
    header = struct.pack(">HHI", 1 << 12 | TAG, SESSION, 0)
    return [bytes(OUTER / GRE(proto=0x88BE, seqnum_present=1, seqence_number=number) / Raw(header + data))]


def twice(data: bytes, number: int) -> list[bytes]:
    return [data, data]


KINDS: dict[str, Callable[[bytes, int], list[bytes]]] = {"vlan": vlan, "gre": gre, "erspan": erspan, "twice": twice}


if __name__ == "__main__":
    {"restless": restless, "mirror": mirror}[sys.argv[1]](*sys.argv[2:])
