"""DNS: what was asked, what was answered; multicast DNS and link-local resolution, which share its format.

Sources: RFC 1035 section 4, RFC 2782 (SRV), RFC 6762 (mDNS), RFC 4795 (LLMNR), RFC 7766 (DNS over TCP).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from classifier.inspectors.base import ANY_OCTET, NOT_THIS, WAIT, Answer, Dialogue, Evidence, Place, Side, Stream
from classifier.inspectors.reading import Signs

_header = Struct(">HHHHHH").unpack_from
_question = Struct(">HH").unpack_from
_record = Struct(">HHIH").unpack_from

TYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP", 24: "SIG", 25: "KEY",
    28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 37: "CERT", 39: "DNAME", 41: "OPT", 43: "DS", 44: "SSHFP",
    45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 59: "CDS",
    64: "SVCB", 65: "HTTPS", 99: "SPF", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA",
    0xFF01: "WINS", 0xFF02: "WINSR",
}  # fmt: skip
"""IANA "Domain Name System (DNS) Parameters", resource record types; the last two are Microsoft's."""

_CLASSES: Final = frozenset((1, 3, 4, 254, 255))
_MAX_NAME: Final = 255
_MAX_LENGTH: Final = 0x1000
"""A stream whose first two octets say more is not waited for; messages are as short as EDNS's 4096."""

_MAX_QUESTIONS: Final = 32
"""One is the rule (RFC 9619); multicast DNS asks a few dozen at once."""

_MAX_RECORDS: Final = 64
"""Answers read of one message; more are zone transfers, of which the first ones tell enough."""

_MAX_MESSAGES: Final = 64
"""Messages read of one conversation; resolvers open a new one for each question or keep one open for ever."""


def opens(client: bytes, server: bytes) -> bool:
    """Whether a datagram, or a stream behind its two octets of length, has a plausible header of few questions."""
    return any(_plausible(data, 0) or _plausible(data, 2) for data in (client, server) if data)


def _plausible(data: bytes, at: int) -> bool:
    """12 octets whose operation and Z bit are in use, and no more than a few questions (RFC 1035 section 4.1.1)."""
    return (
        len(data) >= at + 12
        and data[at + 2] & 0x78 in (0x00, 0x10, 0x20, 0x28)
        and not data[at + 3] & 0x40
        and data[at + 4] == 0
        and data[at + 5] <= _MAX_QUESTIONS
    )


FIRST_OCTETS: Final = ANY_OCTET
"""The high half of a random number, or of a length in a stream."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read the messages of both directions: each datagram, or each length-prefixed one of a stream."""
    signs = Signs()
    prefix = 2 if dialogue.transport == "tcp" else 0
    answering: bool | None = None
    short = False
    multicast = 5353 in (dialogue.server_port, dialogue.client_port)
    for side, stream in ((Side.TO_SERVER, dialogue.to_server), (Side.TO_CLIENT, dialogue.to_client)):
        head = stream.head
        if not head:
            continue
        said = _read_side(side, stream, prefix, signs) if _plausible(head, prefix) else None
        if said is not None:
            answering = said if side is Side.TO_SERVER else not said if answering is None else answering
        elif prefix and _is_short(head):
            short = True
        else:
            return NOT_THIS
    if answering is None:
        return WAIT if short else NOT_THIS
    return Evidence(
        _kind(dialogue, signs, multicast),
        signs.kept[0].place if signs.kept else Place(Side.TO_SERVER, 0),
        None if multicast else answering,
        signs=tuple(signs.kept),
        gap=bool(prefix) and (dialogue.to_server.has_hole or dialogue.to_client.has_hole),
        limited=signs.full,
    )


def _is_short(head: bytes) -> bool:
    """Whether a stream could become a message, and isn't one yet."""
    if len(head) < 14:
        return head[0] < _MAX_LENGTH >> 8
    return _plausible(head, 2) and len(head) < 2 + int.from_bytes(head[:2], "big")


def _kind(dialogue: Dialogue, signs: Signs, multicast: bool) -> str:
    """mDNS and LLMNR have no bytes of their own: their registered ports tell them from DNS."""
    if multicast:
        return "mdns"
    return "llmnr" if 5355 in (dialogue.server_port, dialogue.client_port) else "dns"


def _read_side(side: Side, stream: Stream, prefix: int, signs: Signs) -> bool | None:
    """Whether this side answers (QR bit of its first message); None if its first message is no DNS."""
    first: bool | None = None
    for offset, data in _messages(stream, prefix):
        if not _read_message(data, Place(side, offset), signs):
            break
        if first is None:
            first = data[2] & 0x80 != 0
    return first


def _messages(stream: Stream, prefix: int) -> list[tuple[int, bytes]]:
    """(offset, message): the datagrams, or what the lengths of a stream mark out (RFC 7766 section 8)."""
    if not prefix:
        return [(chunk.offset, chunk.data) for chunk in stream.chunks[:_MAX_MESSAGES]]
    found: list[tuple[int, bytes]] = []
    at, data = 0, stream.head
    while at + 14 <= len(data) and len(found) < _MAX_MESSAGES:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            break
        found.append((at, data[at + 2 : end]))
        at = end
    return found


def _read_message(data: bytes, place: Place, signs: Signs) -> bool:
    """Keep questions and answers; False if this is no DNS message."""
    if not _plausible(data, 0):
        return False
    _, flags, questions, answers, _, _ = _header(data)
    at = 12
    for _ in range(questions):
        name, at = _name(data, at)
        if name is None or at + 4 > len(data):
            return False
        kind, group = _question(data, at)
        if group & 0x7FFF not in _CLASSES:
            return False
        signs.add("dns.query", f"{name} {TYPES.get(kind) or f'TYPE{kind}'}", place)
        at += 4
    if flags & 0x8000:
        return _read_answers(data, at, answers, place, signs) or at > 12
    return at > 12


def _read_answers(data: bytes, at: int, count: int, place: Place, signs: Signs) -> bool:
    """Keep the answers; True if there was at least one whole record."""
    for index in range(min(count, _MAX_RECORDS)):
        name, at = _name(data, at)
        if name is None or at + 10 > len(data):
            return index > 0
        kind, group, _, length = _record(data, at)
        at += 10
        if at + length > len(data) or group & 0x7FFF not in _CLASSES:
            return index > 0
        value = _value(data, at, kind, length)
        if value:
            signs.add("dns.answer", f"{name} {TYPES[kind]} {value}", place)
        at += length
    return count > 0


def _value(data: bytes, at: int, kind: int, length: int) -> str:
    """Text of the record types that name hosts (RFC 1035 section 3.3, RFC 3596, RFC 2782); "" for others."""
    if kind == 1 and length == 4:
        return ".".join(map(str, data[at : at + 4]))
    if kind == 28 and length == 16:
        return data[at : at + 16].hex(":", 2)
    if kind in (2, 5, 12):
        return _name(data, at)[0] or ""
    if kind == 15 and length > 2:
        return _name(data, at + 2)[0] or ""
    if kind == 33 and length > 6:
        return f"{_name(data, at + 6)[0] or ''}:{int.from_bytes(data[at + 4 : at + 6], 'big')}"
    return ""


def _name(data: bytes, at: int) -> tuple[str | None, int]:
    """A name in lower case without its last dot, and the offset behind it; None if it's broken.

    A pointer must point backwards (RFC 1035 section 4.1.4), so that following them ends.
    """
    labels: list[bytes] = []
    size, behind, limit = 0, -1, at
    while at < len(data):
        length = data[at]
        if length == 0:
            name = b".".join(labels).decode("utf-8", "replace").lower()
            return name or ".", at + 1 if behind < 0 else behind
        if length >= 0xC0:
            target = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
            if at + 2 > len(data) or target >= limit:
                return None, at
            behind = at + 2 if behind < 0 else behind
            at = limit = target
            continue
        size += length + 1
        if length > 63 or size > _MAX_NAME:
            return None, at
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return None, at
