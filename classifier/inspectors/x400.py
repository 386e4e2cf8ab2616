"""X.400 mail over TCP: TPKT, transport class 0, and the OSI session that must follow.

TPKT alone proves nothing: Remote Desktop, S7 controllers and conferencing use it as well. It is mail when a
session SPDU comes behind the transport's data header and its contexts are not those of another application.
Sources: RFC 1006 (TPKT), ITU-T X.224 section 13 (TPDUs), X.225 section 8 (SPDUs), X.419 (P1 over RTSE).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from classifier import limits
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets
from classifier.inspectors.reading import Talk, talk, text

CONNECT, CONFIRM, DATA = 0xE0, 0xD0, 0xF0
"""TPDU codes CR, CC, DT (X.224 table 8)."""

_SESSION: Final = {0x0D: "CONNECT", 0x0E: "ACCEPT", 0x0C: "REFUSE", 0x09: "FINISH", 0x0A: "DISCONNECT", 0x19: "ABORT"}
"""SPDU identifiers by which a session begins or ends (X.225 section 8.3); 1, GIVE TOKENS, precedes data."""

_MAIL: Final = {b"\x56\x00\x01\x06": "mts-transfer", b"\x56\x00\x01\x07": "mts-transfer-protocol-1984"}
"""Contents of the application context names {joint-iso-itu-t mhs(6) protocols(0) ...} of X.419 section 11."""

_OTHERS: Final = (b"\x28\xca\x22", b"\x28\xc2\x7b")
"""Contents beginning the object identifiers of MMS (1.0.9506) and FTAM (1.0.8571)."""


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side begins with a TPKT that holds a transport PDU."""
    return bool(_tpdu(client, 0) or _tpdu(server, 0))


def _tpdu(data: bytes, at: int) -> int:
    """Code of the transport PDU in the TPKT that begins here (RFC 1006 section 6), 0 if none does."""
    if len(data) < at + 7 or data[at : at + 2] != b"\3\0":
        return 0
    length, header = data[at + 2] << 8 | data[at + 3], data[at + 4]
    code = data[at + 5] & 0xF0
    return code if code in (CONNECT, CONFIRM, DATA) and 2 <= header <= length - 5 else 0


FIRST_OCTETS: Final = FirstOctets(b"\3")
"""TPKT's version."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read transport selectors and the beginning of the session of both sides."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    if any(head[:2] not in (b"\3\0", b"\3", b"") or (len(head) >= 7 and not _tpdu(head, 0)) for head in (ours, theirs)):
        return NOT_THIS
    turned = talk(dialogue, turned=_tpdu(ours, 0) == CONFIRM or _tpdu(theirs, 0) == CONNECT)
    sessions = [_read(turned, by_client) for by_client in (True, False)]
    if False in sessions:
        return NOT_THIS
    if True not in sessions:
        return WAIT
    known = CONNECT in (_tpdu(turned.client, 0), _tpdu(turned.server, 0)) or _tpdu(turned.server, 0) == CONFIRM
    return Evidence(
        "x400",
        turned.signs.kept[0].place,
        turned.reversed if known else None,
        encryption="none",
        signs=tuple(turned.signs.kept),
        gap=turned.broken,
        limited=turned.limited,
    )


def _read(turned: Talk, by_client: bool) -> bool | None:
    """True once a session SPDU was seen, False if the data is another protocol's, None if there is none yet."""
    note = turned.by_client if by_client else turned.by_server
    for code, body, offset in _packets(turned.client if by_client else turned.server):
        if code == CONNECT:
            if b"mstshash=" in body or body[-8:-4] == b"\1\0\x08\0":
                return False  # Remote Desktop (MS-RDPBCGR 2.2.1.1)
            _note_selectors(turned, body, offset, by_client)
        elif code == DATA and body:
            kind = _SESSION.get(body[0])
            if kind is None or any(other in body for other in _OTHERS):
                return False
            note("x400.session", kind, offset)
            for name, context in _MAIL.items():
                if name in body:
                    note("x400.application-context", context, offset)
            return True
    return None


def _packets(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """(code, what follows the fixed part of the TPDU, stream offset) of each TPKT."""
    at = 0
    for _ in range(limits.MAX_COMMANDS):
        code = _tpdu(data, at)
        if not code:
            return
        end = at + int.from_bytes(data[at + 2 : at + 4], "big")
        skip = 7 if code == DATA else 11
        yield code, data[at + skip : end], at
        at = end


def _note_selectors(turned: Talk, body: bytes, offset: int, by_client: bool) -> None:
    """Parameters C1 (calling) and C2 (called transport selector) of a CR (X.224 section 13.3.4)."""
    note = turned.by_client if by_client else turned.by_server
    at = 0
    while at + 2 <= len(body):
        kind, length = body[at], body[at + 1]
        if kind in (0xC1, 0xC2):
            name = "x400.calling-selector" if kind == 0xC1 else "x400.called-selector"
            note(name, text(body[at + 2 : at + 2 + length]), offset)
        at += 2 + length
