"""LDAP and CLDAP: how a client binds, what it searches below, StartTLS and the SASL layer behind a bind.

Owns message framing and the few fields read; filters are only looked through for names of Exchange's schema.
Sources: RFC 4511 (protocol), RFC 4513 section 5 (binds), RFC 4752 section 3.1 and RFC 4121 section 4.2.6.2 (wrapped
buffers), MS-ADTS 5.1.1.1 (Sicily, GSS-SPNEGO), 3.1.1.3.4 (capabilities) and 6.3.3 (CLDAP ping).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from classifier import limits
from classifier.inspectors import der, gssapi, sasl, tls
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place, Side
from classifier.inspectors.reading import Talk, talk, text

_BIND, _BIND_ANSWER, _SEARCH, _ENTRY, _EXTENDED, _EXTENDED_ANSWER = 0x60, 0x61, 0x63, 0x64, 0x77, 0x78
_REQUESTS: Final = frozenset((_BIND, 0x42, _SEARCH, 0x66, 0x68, 0x4A, 0x6C, 0x6E, 0x50, _EXTENDED))
_ANSWERS: Final = frozenset((_BIND_ANSWER, _ENTRY, 0x65, 0x67, 0x69, 0x6B, 0x6D, 0x6F, 0x73, _EXTENDED_ANSWER, 0x79))
"""Tags of the protocolOp choice that only a client or only a server sends (RFC 4511 section 4.2 onwards)."""

_START_TLS: Final = b"1.3.6.1.4.1.1466.20037"
_SICILY: Final = frozenset((0x89, 0x8A, 0x8B))
_EXCHANGE_NAME: Final = re.compile(rb"msExch[\w-]{1,60}")
_ROOT_DSE: Final = frozenset(
    b"dnshostname ldapservicename defaultnamingcontext configurationnamingcontext isglobalcatalogready "
    b"supportedcapabilities servername".split()
)
"""Attributes by which a server's rootDSE says who it is (MS-ADTS 3.1.1.3.2)."""

_MAX_BUFFER: Final = 0x100_0000
"""Largest SASL buffer believed (RFC 4752 section 3.1: lengths have three octets)."""


@dataclass(slots=True)
class _Session:
    """What is known while messages are read."""

    bind: str | None = None
    tokens: list[gssapi.Token] = field(default_factory=list)
    wrapped: str | None = None
    client_tls_at: int = -1
    server_tls_at: int = -1
    messages: int = 0


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with an LDAPMessage, or in the middle of a wrapped session with a SASL buffer."""
    return any(_operation(data, 0) or _wrapping(data, 0) for data in (client, server))


def _operation(data: bytes, at: int) -> int:
    """Tag of the operation of the LDAPMessage that begins here (RFC 4511 section 4.1.1), 0 if none does."""
    if data[at : at + 1] != b"\x30":
        return 0
    outer = der.header(data, at)
    if outer is None:
        return 0
    identity = der.header(data, outer[1])
    if identity is None or identity[0] != 0x02 or not 1 <= identity[2] - identity[1] <= 4 or identity[2] >= len(data):
        return 0
    inner = der.header(data, identity[2])
    known = data[identity[2]] in _REQUESTS or data[identity[2]] in _ANSWERS
    return data[identity[2]] if known and inner is not None and inner[2] <= outer[2] else 0


def _wrapping(data: bytes, at: int) -> str | None:
    """Protection of a SASL buffer: a length, then a Kerberos or NTLM per-message token, None if it's none.

    RFC 4121 section 4.2.2: flag 2 says sealed. NTLM has no such flag: what follows its 16 octets is an
    LDAPMessage if it is only signed (MS-NLMP 2.2.2.9.1).
    """
    size = int.from_bytes(data[at : at + 4], "big")
    token = data[at + 4 : at + 24]
    if not 16 < size < _MAX_BUFFER or len(token) < 18:
        return None
    if token[:2] == b"\x05\x04" and token[3] == 0xFF:
        return "sasl-seal" if token[2] & 2 else "sasl-sign"
    if token[:4] == b"\1\0\0\0":
        return "sasl-sign" if token[16] == 0x30 and token[17] < 0x85 else "sasl-seal"
    return _old_kerberos_wrapping(data, at + 4) if token[0] == 0x60 else None


def _old_kerberos_wrapping(data: bytes, at: int) -> str | None:
    """RFC 4757 section 7.3 in the frame of RFC 2743: token id 02 01, then SEAL_ALG, FFFF for none."""
    inside = der.header(data, at)
    body = data[inside[1] + 11 : inside[1] + 17] if inside else b""
    if body[:2] != b"\x02\x01":
        return None
    return "sasl-sign" if body[4:6] == b"\xff\xff" else "sasl-seal"


FIRST_OCTETS: Final = FirstOctets(b"\x30\0")
"""The tag of an LDAPMessage; the length of a SASL buffer, which is below `_MAX_BUFFER`."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read the messages of both sides until TLS or sealing hides them."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if not opens(ours, theirs):
        short = dialogue.transport == "tcp" and any(0 < len(data) < 8 and data[0] == 0x30 for data in (ours, theirs))
        return WAIT if short else NOT_THIS
    turned = talk(dialogue, turned=_operation(ours, 0) in _ANSWERS or _operation(theirs, 0) in _REQUESTS)
    proven = bool(_operation(ours, 0) or _operation(theirs, 0))
    session = _Session()
    _read_client(dialogue, turned, session)
    _read_server(dialogue, turned, session)
    return _conclude(dialogue, turned, session, turned.reversed if proven else None)


def _messages(dialogue: Dialogue, side: Side) -> Iterator[tuple[bytes, int, int]]:
    """(data, offset in it, stream offset) of each message: one a datagram, or one after the other in a stream."""
    for chunk in dialogue.stream(side).chunks[: limits.MAX_COMMANDS]:
        at = 0
        while at < len(chunk.data):
            yield chunk.data, at, chunk.offset + at
            size = _size(chunk.data, at)
            if dialogue.transport == "udp" or size <= 0:
                break
            at += size


def _size(data: bytes, at: int) -> int:
    """Length of the message or SASL buffer at this offset, 0 if neither is there."""
    if _operation(data, at):
        found = der.header(data, at)
        return found[2] - at if found else 0
    return 4 + int.from_bytes(data[at : at + 4], "big") if _wrapping(data, at) else 0


def _read_client(dialogue: Dialogue, turned: Talk, session: _Session) -> None:
    for data, at, offset in _messages(dialogue, turned.client_side):
        kind = _operation(data, at)
        if not _count(session, data, at, kind):
            return
        if kind == _BIND:
            _note_bind(turned, session, _body(data, at), offset)
        elif kind == _SEARCH:
            _note_search(turned, _body(data, at), offset)
        elif kind == _EXTENDED and der.child(_body(data, at), 0x80) == _START_TLS:
            turned.by_client("ldap.starttls", _START_TLS.decode(), offset)
            after = at + _size(data, at)
            if tls.hello_kind(data, after):
                session.client_tls_at = after
                return


def _count(session: _Session, data: bytes, at: int, kind: int) -> bool:
    """Note how a wrapped buffer is protected; whether to read on."""
    session.messages += 1
    if not kind:
        session.wrapped = session.wrapped or _wrapping(data, at)
    return session.messages <= limits.MAX_COMMANDS


def _body(data: bytes, at: int) -> bytes:
    """Contents of the protocolOp of the LDAPMessage at this offset."""
    message = der.header(data, at)
    parts = list(der.values(data[message[1] : message[2]])) if message else []
    return parts[1][1] if len(parts) > 1 else b""


def _note_bind(turned: Talk, session: _Session, body: bytes, offset: int) -> None:
    """RFC 4511 section 4.2: version, name, then the choice of authentication. Passwords are not looked at."""
    parts = list(der.values(body))
    if len(parts) < 3:
        return
    name, (choice, credentials) = parts[1][1], parts[2]
    how = _bind_kind(choice, name, credentials)
    session.bind = how
    turned.by_client("ldap.bind", how, offset)
    turned.by_client("ldap.bind-dn", text(name) if choice == 0x80 else "", offset)
    token = der.child(credentials, 0x04) if choice == 0xA3 else credentials if choice in _SICILY else b""
    mechanism_first = [value for tag, value in der.values(credentials) if tag == 0x04] if choice == 0xA3 else []
    _note_token(turned, session, mechanism_first[1] if len(mechanism_first) > 1 else token, turned.client_side, offset)


def _bind_kind(choice: int, name: bytes, credentials: bytes) -> str:
    if choice == 0xA3:
        return f"sasl {text(der.child(credentials, 0x04))}"
    if choice in _SICILY:
        return "sicily"
    if choice == 0x80:
        return "simple" if name and credentials else "anonymous"
    return f"0x{choice:02x}"


def _note_token(turned: Talk, session: _Session, token: bytes, side: Side, offset: int) -> None:
    if not token or len(session.tokens) >= limits.MAX_CONTEXTS:
        return
    found = gssapi.read_token(token)
    session.tokens.append(found)
    for name, value in found.signs:
        turned.signs.add(name, value, Place(side, offset))


def _note_search(turned: Talk, body: bytes, offset: int) -> None:
    """RFC 4511 section 4.5.1: base, scope, aliases, two limits, typesOnly, filter, attributes."""
    parts = list(der.values(body))
    if not parts or parts[0][0] != 0x04:
        return
    base = text(parts[0][1])
    turned.by_client("ldap.base-dn", base or "rootDSE", offset)
    rest = b"".join(value for _, value in parts[6:])
    for name in _EXCHANGE_NAME.findall(rest[: limits.MAX_TOKEN]):
        turned.by_client("ldap.attribute", text(name), offset)
    if not base and b"Netlogon" in rest[-64:]:
        turned.by_client("ldap.attribute", "Netlogon", offset)


def _read_server(dialogue: Dialogue, turned: Talk, session: _Session) -> None:
    for data, at, offset in _messages(dialogue, turned.server_side):
        kind = _operation(data, at)
        if not _count(session, data, at, kind):
            return
        if kind == _BIND_ANSWER:
            _note_token(turned, session, der.child(_body(data, at), 0x87), turned.server_side, offset)
        elif kind == _ENTRY:
            _note_entry(turned, _body(data, at), offset)
        elif kind == _EXTENDED_ANSWER:
            after = at + _size(data, at)
            if tls.hello_kind(data, after):
                session.server_tls_at = after
                return


def _note_entry(turned: Talk, body: bytes, offset: int) -> None:
    """A SearchResultEntry without name is the rootDSE: objectName, then attributes with their values."""
    parts = list(der.values(body))
    if len(parts) < 2 or parts[0][1]:
        return
    for _, attribute in der.values(parts[1][1]):
        pieces = list(der.values(attribute))
        name = pieces[0][1].lower() if pieces else b""
        if len(pieces) > 1 and name in _ROOT_DSE:
            for _, value in der.values(pieces[1][1]):
                turned.by_server(f"ldap.{text(name)}", text(value), offset)


def _conclude(dialogue: Dialogue, turned: Talk, session: _Session, reversed_: bool | None) -> Evidence:
    upgraded = session.client_tls_at >= 0 or session.server_tls_at >= 0
    handshake = tls.Handshake()
    if upgraded:
        client_at = session.client_tls_at if session.client_tls_at >= 0 else len(turned.client)
        server_at = session.server_tls_at if session.server_tls_at >= 0 else len(turned.server)
        handshake = tls.read(turned, client_at, server_at)
    streamed = dialogue.transport == "tcp"
    return Evidence(
        "ldap",
        Place(turned.client_side if turned.client else turned.server_side, 0),
        reversed_,
        authentication=_authentication(session) or ("unknown-encrypted" if upgraded else None),
        encryption="tls-upgrade" if upgraded else session.wrapped or "none",
        tls_version=handshake.version or None,
        tls_sni=handshake.sni,
        ja4=handshake.ja4,
        signs=tuple(turned.signs.kept),
        gap=streamed and turned.broken and not upgraded,
        limited=turned.signs.full or (streamed and turned.limited and not upgraded),
    )


def _authentication(session: _Session) -> str | None:
    """By token if there is one, else by the kind of the last bind; a wrapped session without its bind is a secret."""
    settled = gssapi.settle(session.tokens)
    if settled or session.bind is None:
        return settled or ("unknown-encrypted" if session.wrapped else None)
    if session.bind.startswith("sasl "):
        return sasl.MECHANISMS.get(session.bind[5:])
    return {"simple": "basic", "anonymous": "anonymous", "sicily": "ntlm"}.get(session.bind)
