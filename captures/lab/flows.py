"""Which TCP and UDP conversations a capture holds, and which frames carried which bytes: read with scapy.

This is the laboratory's own look at what it recorded, to number frames and to see what is lacking. It knows headers
(those of mirrors' tunnels too) and no application protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scapy.config import conf
from scapy.contrib.erspan import ERSPAN_II
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from scapy.utils import PcapReader

End = tuple[str, int]
SEQUENCE = 1 << 32
HEADERS = (Ether, Dot1Q, IP, IPv6, TCP, UDP, GRE, ERSPAN_II, VXLAN)


@dataclass
class Flow:
    """One conversation. opener: who sent its SYN, or its first frame.

    segments: (frame, sender, sequence, bytes of the payload that were recorded). initial: sequence number of the SYN.
    cut: some payload was not recorded to its end.
    """

    transport: str
    first_frame: int
    opener: End
    other: End
    segments: list[tuple[int, End, int, int]] = field(default_factory=list)
    initial: dict[End, int] = field(default_factory=dict)
    cut: bool = False

    def frames(self, sender: End, first: int, last: int) -> tuple[int, int] | None:
        """First and last frame that carried bytes first to last - 1 of what the sender said (last 0: all of it).

        None: not all of them are in the capture.
        """
        if sender not in self.initial:
            return None
        last = last or max((end for _, _, end in self._pieces(sender)), default=0)
        if not last or self._end(sender, first) < last:
            return None
        carried = [frame for frame, start, end in self._pieces(sender) if start < last and end > first]
        return carried[0], carried[-1]

    def whole(self) -> bool:
        """Are both sides here from their SYN on, without a hole?"""
        return not self.cut and all(
            end in self.initial and self._end(end, 0) == max((last for _, _, last in self._pieces(end)), default=0)
            for end in (self.opener, self.other)
        )

    def _pieces(self, sender: End) -> Iterator[tuple[int, int, int]]:
        """Frame, first byte and end of each payload of one side."""
        begin = self.initial[sender] + 1
        for frame, who, sequence, size in self.segments:
            if who == sender and size:
                start = (sequence - begin) % SEQUENCE
                yield frame, start, start + size

    def _end(self, sender: End, first: int) -> int:
        """How far the bytes of one side go from `first` on without a hole."""
        reached = first
        for start, end in sorted((start, end) for _, start, end in self._pieces(sender)):
            if start <= reached:
                reached = max(reached, end)
        return reached


def flows(capture: Path) -> tuple[list[Flow], int]:
    """Conversations in order of their first frames, and the number of frames in the capture."""
    found: dict[tuple[str, frozenset[End]], Flow] = {}
    number = 0
    conf.layers.filter(HEADERS)
    with PcapReader(str(capture)) as reader:
        for number, packet in enumerate(reader, 1):
            segment = innermost(packet)
            if segment is not None:
                _enter(found, number, segment)
    conf.layers.unfilter()
    return list(found.values()), number


def innermost(packet: Packet) -> Packet | None:
    """The TCP or UDP header that no tunnel comes after."""
    last = None
    while packet:
        if isinstance(packet, TCP | UDP | VXLAN):
            last = packet
        packet = packet.payload
    return None if isinstance(last, VXLAN) else last


def _enter(found: dict[tuple[str, frozenset[End]], Flow], number: int, segment: Packet) -> None:
    header = segment.underlayer
    source, target = (header.src, segment.sport), (header.dst, segment.dport)
    transport = "tcp" if isinstance(segment, TCP) else "udp"
    answers = transport == "tcp" and segment.flags.S and segment.flags.A
    ends = (target, source) if answers else (source, target)
    flow = found.setdefault((transport, frozenset(ends)), Flow(transport, number, *ends))
    if transport == "udp":
        return
    if segment.flags.S:
        flow.initial[source] = segment.seq
    room = header.len - 4 * header.ihl if isinstance(header, IP) else header.plen
    size = room - 4 * segment.dataofs
    flow.cut |= len(segment.payload) < size
    flow.segments.append((number, source, segment.seq, min(size, len(segment.payload))))
