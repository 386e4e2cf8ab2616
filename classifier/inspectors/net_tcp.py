""".NET message framing (net.tcp): the address a client asks for, and the upgrade that hides what follows.

Source: MC-NMF section 2.2.3 (records); the upgrade's own bytes are MS-NNS or TLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from classifier.inspectors import nego_stream, tls
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place
from classifier.inspectors.reading import Talk, talk, text

_VERSION, _MODE, _VIA, _KNOWN_ENCODING, _EXTENSIBLE_ENCODING = 0, 1, 2, 3, 4
_FAULT, _UPGRADE, _UPGRADE_ANSWER, _PREAMBLE_ACK, _PREAMBLE_END = 8, 9, 10, 11, 12
"""Record types (MC-NMF 2.2.1)."""

_PREAMBLE: Final = b"\0\1\0\1"
_MODES: Final = {1: "singleton", 2: "duplex", 3: "simplex", 4: "singleton-sized"}
_SERVER_STARTS: Final = (_UPGRADE_ANSWER, _PREAMBLE_ACK, _FAULT)
_MAX_STRING: Final = 4096
"""Longest Via or content type believed; implementations stop at 2048 and 256 octets."""


@dataclass(slots=True)
class _Preamble:
    """upgrade: its name; after: offset behind the upgrade record, or behind the preamble."""

    via: str = ""
    upgrade: str | None = None
    after: int = 0
    whole: bool = False


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side begins with the version and mode records."""
    return any(data[:4] == _PREAMBLE[: len(data[:4])] and data[:1] == b"\0" for data in (client, server))


FIRST_OCTETS: Final = FirstOctets(_PREAMBLE[:1])


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read the preamble of the client, then what the upgrade starts."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    turned = talk(dialogue, turned=not ours.startswith(_PREAMBLE) and theirs.startswith(_PREAMBLE))
    preamble = _read_preamble(turned)
    if preamble is None:
        return WAIT if _is_begun(turned.client) else NOT_THIS
    if turned.server and turned.server[0] not in _SERVER_STARTS:
        return NOT_THIS
    return _conclude(turned, preamble)


def _read_preamble(turned: Talk) -> _Preamble | None:
    """Records up to the upgrade or the preamble's end; None if what is there isn't one."""
    data, at, found = turned.client, 3, _Preamble()
    if not data.startswith(_PREAMBLE) or data[4:5] not in (b"\1", b"\2", b"\3", b"\4"):
        return None
    turned.by_client("net.tcp.mode", _MODES[data[4]], 0)
    at = 5
    while at < len(data):
        kind = data[at]
        if kind == _KNOWN_ENCODING:
            at += 2
        elif kind in (_VIA, _EXTENSIBLE_ENCODING, _UPGRADE):
            string, after = _string(data, at + 1)
            if string is None:
                break
            at = _note_string(turned, found, kind, string, at, after)
            if kind == _UPGRADE:
                break
        else:
            found.whole, found.after = kind == _PREAMBLE_END, at + 1
            break
    return found if found.via else None


def _is_begun(data: bytes) -> bool:
    """Whether this could become a preamble, and ends before its Via does."""
    mode, record = data[4:5], data[5:6]
    if not _PREAMBLE.startswith(data[:4]) or (mode and mode[0] not in _MODES) or (record and record[0] != _VIA):
        return False
    _, end = _string(data, 6)
    return len(data) < 11 if end == 6 else len(data) < end <= 11 + _MAX_STRING


def _note_string(turned: Talk, found: _Preamble, kind: int, string: bytes, at: int, after: int) -> int:
    if kind == _VIA:
        found.via = text(string)
        turned.by_client("net.tcp.via", found.via, at)
    elif kind == _UPGRADE:
        found.upgrade, found.after, found.whole = text(string), after, True
        turned.by_client("net.tcp.upgrade", found.upgrade, at)
    return after


def _string(data: bytes, at: int) -> tuple[bytes | None, int]:
    """A string behind its length in seven bits an octet, low first (MC-NMF 2.2.2.1), and the offset behind it."""
    length = shift = 0
    for index in range(5):
        if at + index >= len(data):
            return None, at
        octet = data[at + index]
        length |= (octet & 0x7F) << shift
        shift += 7
        if not octet & 0x80:
            start = at + index + 1
            whole = 0 < length <= _MAX_STRING and start + length <= len(data)
            return (data[start : start + length] if whole else None), start + length
    return None, at


def _conclude(turned: Talk, preamble: _Preamble) -> Evidence:
    server_at = 1 if turned.server[:1] == bytes((_UPGRADE_ANSWER,)) else len(turned.server)
    if turned.server[:1] == bytes((_FAULT,)):
        turned.by_server("net.tcp.fault", text(_string(turned.server, 1)[0] or b""), 0)
    authentication: str | None = None
    encryption: str | None = "none" if preamble.whole else None
    handshake = tls.Handshake()
    if preamble.upgrade == "application/negotiate":
        nego = nego_stream.read(turned, preamble.after, server_at)
        authentication, encryption = nego.authentication, "nego-stream"
    elif preamble.upgrade == "application/ssl-tls":
        handshake = tls.read(turned, preamble.after, server_at)
        authentication, encryption = handshake.authentication, "tls-upgrade"
    return Evidence(
        "net.tcp",
        Place(turned.client_side, 0),
        turned.reversed,
        authentication=authentication,
        encryption=encryption,
        tls_version=handshake.version or None,
        tls_sni=handshake.sni,
        ja4=handshake.ja4,
        signs=tuple(turned.signs.kept),
        gap=turned.broken and not preamble.whole,
    )
