"""The connection-oriented PDUs of DCE/RPC in a stream: where each begins, its header, its security trailer.

Owns the 16-byte header (C706 section 12.6.3.1) and the way through a stream, holes included. It knows nothing of
what the bodies mean.

Holes: PDUs follow each other without any mark, so behind a hole the reader takes the offset at which the next
PDU is known to begin (the length of the one that the hole cut), else it searches for the next bytes that read
as a whole header and whose length leads to another header or to the end of what is there. A PDU that is cut
is read as far as its bytes go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from struct import Struct
from typing import Final

from classifier import limits
from classifier.inspectors.base import Chunk
from classifier.inspectors.ndr import BIG, LITTLE, Order

REQUEST, RESPONSE, FAULT = 0, 2, 3
BIND, BIND_ACK, BIND_NAK, ALTER, ALTER_RESPONSE, AUTH3 = 11, 12, 13, 14, 15, 16
SHUTDOWN, CO_CANCEL, ORPHANED, RTS = 17, 18, 19, 20

FROM_CLIENT: Final = frozenset({REQUEST, BIND, ALTER, AUTH3, CO_CANCEL, ORPHANED})
FROM_SERVER: Final = frozenset({RESPONSE, FAULT, BIND_ACK, BIND_NAK, ALTER_RESPONSE, SHUTDOWN})
"""Who sends which PDU (C706 section 12.6.1); RTS goes both ways."""

FIRST_FRAGMENT, LAST_FRAGMENT, OBJECT_UUID = 0x01, 0x02, 0x80

HEADER_SIZE: Final = 16

_SHORTEST: Final = {
    REQUEST: 24, RESPONSE: 24, FAULT: 24, BIND: 28, BIND_ACK: 24, BIND_NAK: 18, ALTER: 28, ALTER_RESPONSE: 24,
    AUTH3: 20, SHUTDOWN: 16, CO_CANCEL: 16, ORPHANED: 16, RTS: 20,
}  # fmt: skip
"""Least frag_length of each PDU type; a type that is not here is not connection-oriented."""

_ORDERS: Final = {
    bytes((integers | characters, floats, 0, 0)): LITTLE if integers else BIG
    for integers in (0x00, 0x10)
    for characters in (0, 1)
    for floats in range(4)
}
"""Data representation label (C706 section 14.1) -> byte order; any other label is not RPC."""

_HEADER = Struct("<BBBB4sHHI").unpack_from
_CANDIDATE: Final = re.compile(rb"\x05[\x00\x01][\x00\x02\x03\x0b-\x14].[\x00\x01\x10\x11][\x00-\x03]\x00\x00", re.S)
_PREFIX: Final = (frozenset({5}), frozenset({0, 1}), frozenset(_SHORTEST), None, frozenset({0, 1, 16, 17}))


class Pdu:
    """The PDU under the reader's eye. One object is used for a whole stream; take what must last.

    data, start, end: its bytes, as far as they are there. whole: all of them are. offset: in the stream.
    """

    __slots__ = ("auth_length", "call_id", "data", "end", "flags", "offset", "order", "ptype", "start", "whole")
    data: bytes
    start: int
    end: int
    whole: bool
    offset: int
    ptype: int
    flags: int
    order: Order
    auth_length: int
    call_id: int

    def stub(self, at: int) -> bytes:
        """The bytes from offset `at` in the PDU to the security trailer and its padding."""
        end = self.end
        if self.auth_length and self.whole:
            trailer = end - self.auth_length - 8
            end = trailer - self.data[trailer + 2]
        return self.data[self.start + at : end]

    def security(self) -> tuple[int, int] | None:
        """(auth_type, auth_level) of the security trailer (MS-RPCE 2.2.2.11); None without one."""
        if not self.auth_length or not self.whole:
            return None
        trailer = self.end - self.auth_length - 8
        return self.data[trailer], self.data[trailer + 1]

    def token(self) -> bytes:
        """auth_value of the security trailer."""
        return self.data[self.end - self.auth_length : self.end] if self.auth_length and self.whole else b""


ALIEN: Final = -1
"""Stands where a PDU type would, for bytes that are no PDU."""


def opening(data: bytes) -> int | None:
    """The PDU type if data begins with a PDU; `ALIEN` if not; None if it is too short to tell and fits so far."""
    if len(data) < HEADER_SIZE:
        fits = all(allowed is None or byte in allowed for byte, allowed in zip(data, _PREFIX, strict=False))
        return None if fits else ALIEN
    return data[2] if _plausible(data, 0) else ALIEN


def pdus(chunks: Sequence[Chunk]) -> Iterator[Pdu]:
    """Walk the PDUs of one stream; the same `Pdu` object each time. At most `limits.MAX_PDUS`."""
    pdu = Pdu()
    expected, left = 0, limits.MAX_PDUS
    for chunk in chunks:
        pdu.data = data = chunk.data
        size = len(data)
        position = expected - chunk.offset
        if position >= size:  # all of it lies inside a PDU that a hole has cut
            continue
        if position < 0:
            position = find_pdu(data)
        while 0 <= position <= size - HEADER_SIZE and left:
            version, minor, pdu.ptype, pdu.flags, drep, length, auth_length, call_id = _HEADER(data, position)
            order = _ORDERS.get(drep)
            if order is BIG:
                length, auth_length, call_id = BIG.triple(data, position + 8)
            shortest = _SHORTEST.get(pdu.ptype)
            if version != 5 or minor > 1 or shortest is None or order is None or length < shortest:
                position = find_pdu(data, position + 1)
                continue
            left -= 1
            pdu.start, pdu.order, pdu.call_id = position, order, call_id
            pdu.auth_length = auth_length if auth_length + 8 + HEADER_SIZE <= length else 0
            pdu.offset = chunk.offset + position
            position += length
            pdu.whole = position <= size
            pdu.end = position if pdu.whole else size
            yield pdu
        expected = chunk.offset + position if position >= 0 else -1


def find_pdu(data: bytes, start: int = 0) -> int:
    """Where the next PDU begins, for a reader that lost its way; -1 if nowhere."""
    for match in islice(_CANDIDATE.finditer(data, start), limits.MAX_PDUS):
        position = match.start()
        if _plausible(data, position):
            following = position + _length(data, position)
            if following + HEADER_SIZE > len(data) or _plausible(data, following):
                return position
    return -1


def _length(data: bytes, position: int) -> int:
    order = BIG if data[position + 4] < 0x10 else LITTLE
    length: int = order.u16(data, position + 8)[0]
    return length


def _plausible(data: bytes, position: int) -> bool:
    """Whether a whole header stands there (C706 section 12.6.3.1)."""
    if len(data) - position < HEADER_SIZE:
        return False
    version, minor, ptype, _, drep, length, auth_length, _ = _HEADER(data, position)
    order = _ORDERS.get(drep)
    if version != 5 or minor > 1 or order is None or ptype not in _SHORTEST:
        return False
    if order is BIG:
        length, auth_length, _ = BIG.triple(data, position + 8)
    return bool(length >= _SHORTEST[ptype] and (not auth_length or auth_length + 8 + HEADER_SIZE <= length))
