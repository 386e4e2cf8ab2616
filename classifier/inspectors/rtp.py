"""RTP: told by several datagrams that continue one another, since one header proves nothing.

Source: RFC 3550 section 5.1 (header) and appendix A.1 (validity checks), RFC 3551 section 6 (payload types).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place, Side, Stream
from classifier.inspectors.reading import Signs

_header = Struct(">BBHII").unpack_from

NEEDED: Final = 3
"""Datagrams of one direction that must follow one another."""

_LOOKED_AT: Final = 16
_MAX_STEP: Final = 8
"""Sequence numbers may skip this many: losses, and silence suppression between captured packets."""

_RTCP_TYPES: Final = range(72, 77)
"""Payload types that RTCP's 200-204 look like; RFC 5761 section 4 keeps RTP off them."""

NAMES: Final = {
    0: "PCMU", 3: "GSM", 4: "G723", 8: "PCMA", 9: "G722", 13: "CN", 18: "G729", 34: "H263", 101: "telephone-event",
    114: "x-msrta", 115: "x-msrta",
}  # fmt: skip
"""Static types of RFC 3551, and the dynamic ones that Unified Messaging and its gateways are set to."""


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side's first datagram has version 2 and a payload type of RTP's."""
    return _plausible(client) or _plausible(server)


def _plausible(data: bytes) -> bool:
    return len(data) > 12 and data[0] & 0xC0 == 0x80 and data[1] & 0x7F not in _RTCP_TYPES


FIRST_OCTETS: Final = FirstOctets(bytes(range(0x80, 0xC0)))
"""Version 2."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Both directions must be RTP as far as they have datagrams, one of them with `NEEDED` in a row."""
    if dialogue.transport != "udp" or not opens(dialogue.to_server.head, dialogue.to_client.head):
        return NOT_THIS
    streams = [(side, dialogue.stream(side)) for side in Side if dialogue.stream(side).chunks]
    rows = [_in_a_row(stream) for _, stream in streams]
    if 0 in rows:
        return NOT_THIS
    if max(rows) < NEEDED:
        return WAIT
    signs = Signs()
    for side, stream in streams:
        kind = stream.chunks[0].data[1] & 0x7F
        signs.add("rtp.payload-type", NAMES.get(kind, str(kind)), Place(side, 0))
    return Evidence("rtp", signs.kept[0].place, signs=tuple(signs.kept))


def _in_a_row(stream: Stream) -> int:
    """How many of the first datagrams are one source's, in order; 0 as soon as one contradicts."""
    count, expected, source, clock = 0, -1, -1, 0
    for chunk in stream.chunks[:_LOOKED_AT]:
        if not _plausible(chunk.data):
            return 0
        _, _, sequence, timestamp, sender = _header(chunk.data)
        if count == 0:
            expected, source, clock = sequence, sender, timestamp
        step = (sequence - expected) & 0xFFFF
        if sender != source or step > _MAX_STEP or (timestamp - clock) & 0xFFFFFFFF > 0x7FFFFFFF:
            return count if count >= NEEDED else 0
        count, expected, clock = count + 1, (sequence + 1) & 0xFFFF, timestamp
    return count
