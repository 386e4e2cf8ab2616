"""Which TCP connections a capture holds, and which frames carried which bytes: read with scapy.

This is the laboratory's own look at what it recorded, to number frames. It knows headers and no application protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from scapy.config import conf
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import PcapReader

End = tuple[str, int]
SEQUENCE = 1 << 32
HEADERS = (Ether, IP, TCP)


@dataclass
class Flow:
    """One TCP connection. opener: who sent its SYN. segments: (frame, sender, sequence, size of the payload)."""

    first_frame: int
    opener: End
    other: End
    segments: list[tuple[int, End, int, int]] = field(default_factory=list)
    initial: dict[End, int] = field(default_factory=dict)

    def frames(self, sender: End, first: int, last: int) -> tuple[int, int]:
        """First and last frame that carried bytes first to last - 1 of what the sender said."""
        start = self.initial[sender] + 1
        carried = [
            frame
            for frame, who, sequence, size in self.segments
            if who == sender and size and (offset := (sequence - start) % SEQUENCE) < last and offset + size > first
        ]
        return carried[0], carried[-1]


def flows(capture: Path) -> tuple[list[Flow], int]:
    """Connections in order of their first frames, and the number of frames in the capture (TCP over IPv4 alone)."""
    found: dict[frozenset[End], Flow] = {}
    number = 0
    conf.layers.filter(HEADERS)
    with PcapReader(str(capture)) as reader:
        for number, packet in enumerate(reader, 1):
            header, segment = packet[IP], packet[TCP]
            source, target = (header.src, segment.sport), (header.dst, segment.dport)
            ends = frozenset((source, target))
            flow = found.setdefault(ends, Flow(number, source, target))
            if segment.flags.S:
                flow.initial[source] = segment.seq
            flow.segments.append((number, source, segment.seq, header.len - 4 * header.ihl - 4 * segment.dataofs))
    conf.layers.unfilter()
    return list(found.values()), number
