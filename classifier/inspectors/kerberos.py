"""Kerberos: which service a client asks a ticket for, in whose name, with which encryption types.

Reads the fields that are in clear; the rest of a message is sealed. Source: RFC 4120 sections 5.4 (KDC exchange),
5.3 (tickets), 5.9 (errors) and 7.2.2 (TCP framing).
"""

from __future__ import annotations

from typing import Final

from classifier import limits
from classifier.inspectors import der, gssapi
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place, Side
from classifier.inspectors.reading import Signs, text

_AS_REQ, _AS_REP, _TGS_REQ, _TGS_REP, _ERROR = 0x6A, 0x6B, 0x6C, 0x6D, 0x7E
_REQUESTS: Final = frozenset((_AS_REQ, _TGS_REQ))
_ANSWERS: Final = frozenset((_AS_REP, _TGS_REP, _ERROR))
_MAX_MESSAGES: Final = 64
"""Messages read of one conversation; clients open one for one or two tickets."""


def opens(client: bytes, server: bytes) -> bool:
    """Whether a datagram, or a stream behind its four octets of length, begins with a message of the KDC exchange."""
    return any(_kind(data, 0) or (data[:1] == b"\0" and _kind(data, 4)) for data in (client, server))


def _kind(data: bytes, at: int) -> int:
    """Tag of the message that begins here, 0 if none does: its number is written twice (RFC 4120 section 5.10)."""
    if len(data) < at + 12 or data[at] not in _REQUESTS | _ANSWERS:
        return 0
    outer = der.header(data, at)
    sequence = der.header(data, outer[1]) if outer else None
    if outer is None or sequence is None or sequence[0] != 0x30 or sequence[2] > outer[2]:
        return 0
    version = data[sequence[1] : sequence[1] + 5]
    first = 0xA1 if data[at] in _REQUESTS else 0xA0
    return data[at] if version == bytes((first, 3, 2, 1, 5)) else 0


FIRST_OCTETS: Final = FirstOctets(bytes((0, *_REQUESTS, *_ANSWERS)))
"""The length of a message in a stream; the tag of one in a datagram."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read the messages of both directions."""
    prefix = 4 if dialogue.transport == "tcp" else 0
    if not opens(dialogue.to_server.head, dialogue.to_client.head):
        return _undecided(dialogue, prefix)
    signs = Signs()
    asking: bool | None = None
    for side in Side:
        for offset, message in _messages(dialogue, side, prefix):
            kind = _kind(message, 0)
            if not kind:
                break
            asking = (kind in _REQUESTS) == (side is Side.TO_SERVER)
            _note(kind, message, Place(side, offset), signs)
    if asking is None:
        return _undecided(dialogue, prefix)
    streamed = prefix > 0
    return Evidence(
        "kerberos",
        signs.kept[0].place if signs.kept else Place(Side.TO_SERVER, 0),
        not asking,
        authentication="kerberos",
        signs=tuple(signs.kept),
        gap=streamed and (dialogue.to_server.has_hole or dialogue.to_client.has_hole),
        limited=signs.full,
    )


def _messages(dialogue: Dialogue, side: Side, prefix: int) -> list[tuple[int, bytes]]:
    """(offset, message): datagrams, or what the lengths of a stream mark out; the last may be cut short."""
    stream = dialogue.stream(side)
    if not prefix:
        return [(chunk.offset, chunk.data) for chunk in stream.chunks[:_MAX_MESSAGES]]
    found: list[tuple[int, bytes]] = []
    at, data = 0, stream.head
    while at + 4 < len(data) and len(found) < _MAX_MESSAGES:
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        found.append((at, data[at + 4 : end]))
        at = end
    return found


def _undecided(dialogue: Dialogue, prefix: int) -> Answer:
    """Four octets of length below a megabyte, and nothing yet or an application tag behind them."""
    heads = [head for head in (dialogue.to_server.head, dialogue.to_client.head) if head]
    if not prefix or not heads or any(len(head) >= prefix + 12 for head in heads):
        return NOT_THIS
    begun = all(head[:1] == b"\0" and head[4:5] in _FIRST_OCTETS for head in heads)
    return WAIT if begun else NOT_THIS


_FIRST_OCTETS: Final = frozenset((b"", *(bytes((tag,)) for tag in _REQUESTS | _ANSWERS)))


def _note(kind: int, message: bytes, place: Place, signs: Signs) -> None:
    body = der.child(message, kind, 0x30)
    if kind in _REQUESTS:
        _note_request(kind, der.child(body, 0xA4, 0x30), place, signs)
    elif kind == _ERROR:
        signs.add("kerberos.error", str(der.integer(der.child(body, 0xA6, 0x02))), place)
        signs.add("kerberos.realm", text(der.child(body, 0xA9, 0x1B)), place)
    else:
        _note_answer(body, place, signs)


def _note_request(kind: int, body: bytes, place: Place, signs: Signs) -> None:
    """KDC-REQ-BODY (RFC 4120 section 5.4.1): the client is named in an AS-REQ only."""
    signs.add("kerberos.message", "AS-REQ" if kind == _AS_REQ else "TGS-REQ", place)
    signs.add("kerberos.service", _principal(der.child(body, 0xA3, 0x30)), place)
    signs.add("kerberos.client", _principal(der.child(body, 0xA1, 0x30)), place)
    signs.add("kerberos.realm", text(der.child(body, 0xA2, 0x1B)), place)
    for tag, value in der.values(der.child(body, 0xA8, 0x30)):
        if tag == 0x02:
            signs.add("kerberos.etype-offered", _etype(value), place)


def _note_answer(body: bytes, place: Place, signs: Signs) -> None:
    """KDC-REP (RFC 4120 section 5.4.2): client, and the ticket with its service and encryption type."""
    ticket = der.child(body, 0xA5, 0x61, 0x30)
    signs.add("kerberos.client", _principal(der.child(body, 0xA4, 0x30)), place)
    signs.add("kerberos.realm", text(der.child(body, 0xA3, 0x1B)), place)
    signs.add("kerberos.service", _principal(der.child(ticket, 0xA2, 0x30)), place)
    signs.add("kerberos.etype", _etype(der.child(ticket, 0xA3, 0x30, 0xA0, 0x02)), place)


def _principal(name: bytes) -> str:
    """Components of a PrincipalName joined by slashes, as in "SMTPSVC/hub.example.com"."""
    parts = [text(part) for tag, part in der.values(der.child(name, 0xA1, 0x30)) if tag == 0x1B]
    return "/".join(parts)[: limits.MAX_TEXT]


def _etype(contents: bytes) -> str:
    number = der.integer(contents)
    return gssapi.ETYPES.get(number, str(number)) if contents else ""
