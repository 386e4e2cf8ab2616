"""Authentication tokens: SPNEGO, NTLM and Kerberos AP-REQ, as far as they are in clear.

Owns the reading of one token, whoever carries it (RPC, SMB, HTTP, LDAP, SMTP). It knows no carrier,
decrypts nothing and follows only the few ASN.1 values named here, with a bound on size and count.
Sources: RFC 4178 (SPNEGO), RFC 2743 section 3.1 (framing), RFC 4120 section 5 (Kerberos), MS-NLMP 2.2 (NTLM).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct, unpack_from
from typing import Final, NamedTuple

from classifier import limits

NTLM_MAGIC: Final = b"NTLMSSP\0"

MECHANISMS: Final = {
    bytes.fromhex("2b0601050502"): "spnego",
    bytes.fromhex("2a864882f712010202"): "kerberos",  # Microsoft's misspelling of it: 1.2.840.48018.1.2.2
    bytes.fromhex("2a864886f712010202"): "kerberos",
    bytes.fromhex("2a864886f71201020203"): "kerberos",  # user to user
    bytes.fromhex("2b06010401823702020a"): "ntlm",
    bytes.fromhex("2b06010401823702021e"): "negoex",
}
"""Object identifiers (contents octets) of the mechanisms: MS-SPNG 3.1.5.2, RFC 4121 section 4.1."""

ETYPES: Final = {1: "des-cbc-crc", 3: "des-cbc-md5", 17: "aes128-cts", 18: "aes256-cts", 23: "rc4-hmac"}
"""Kerberos encryption types (RFC 3961 section 8, RFC 3962, RFC 4757)."""


class Token(NamedTuple):
    """What one token tells.

    mechanism: "ntlm" or "kerberos" if the token itself is of that mechanism (also inside SPNEGO), else None.
    chosen: the mechanism the server settled on (supportedMech), None if this token doesn't say.
    offered: mechanisms that a negTokenInit lists, in its order. signs: (field, value) pairs for `Sign`.
    """

    mechanism: str | None = None
    chosen: str | None = None
    offered: tuple[str, ...] = ()
    signs: tuple[tuple[str, str], ...] = ()


NOTHING: Final = Token()


def read_token(data: bytes) -> Token:
    """Read one token; anything unknown, cut short or oversized gives `NOTHING`. Never raises."""
    if len(data) > limits.MAX_TOKEN:
        return NOTHING
    if data[:1] in (b"\xa0", b"\xa1"):
        return _spnego(data)
    mechanism, inner = _unframe(data)
    return _spnego(inner) if mechanism == "spnego" else _own(data)


def settle(tokens: Iterable[Token]) -> str | None:
    """The mechanism of an exchange, from its tokens in order: the server's choice, else the last token's own."""
    chosen = own = None
    for token in tokens:
        chosen = token.chosen or chosen
        own = token.mechanism or own
    return chosen if chosen in ("ntlm", "kerberos") else own


def mechanism_of_signature(value: bytes) -> str | None:
    """The mechanism that made a per-message token: NTLM's has version 1 and 16 bytes (MS-NLMP 2.2.2.9),
    Kerberos's starts with its token id (RFC 4121 section 4.2.6, RFC 4757 section 7)."""
    if len(value) == 16 and value.startswith(b"\1\0\0\0"):
        return "ntlm"
    if value[:2] in (b"\x05\x04", b"\x04\x04") or value[:1] == b"\x60":
        return "kerberos"
    return None


# ---- ASN.1 -----------------------------------------------------------------------------------


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag octet, contents) of each value in a row; stops at the first that is cut short or indefinite.

    The last value may be cut: tokens span fragments, and their beginning is what is read here.
    """
    position, size = 0, len(data)
    for _ in range(limits.MAX_ASN1_VALUES):
        if position + 2 > size:
            return
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            width = length & 0x7F
            if not 1 <= width <= 4 or position + width > size:
                return
            length = int.from_bytes(data[position : position + width], "big")
            position += width
        yield tag, data[position : position + length]
        position += length


def _child(data: bytes, *path: int) -> bytes:
    """Contents found by following tags downwards; b"" if one isn't there."""
    for wanted in path:
        data = next((contents for tag, contents in _values(data) if tag == wanted), b"")
    return data


def _text(raw: bytes) -> str:
    return raw[: limits.MAX_TEXT].decode("utf-8", "replace")


# ---- SPNEGO ----------------------------------------------------------------------------------


def _unframe(data: bytes) -> tuple[str | None, bytes]:
    """Mechanism and inner token of an InitialContextToken: [APPLICATION 0] { oid, inner } (RFC 2743 section 3.1)."""
    contents = _child(data, 0x60)
    if contents[:1] != b"\x06" or len(contents) < 2:
        return None, b""
    length = contents[1]
    return MECHANISMS.get(contents[2 : 2 + length]), contents[2 + length :]


def _own(data: bytes) -> Token:
    """A token of a mechanism proper, as SPNEGO carries it or bare."""
    if data.startswith(NTLM_MAGIC):
        return Token("ntlm", signs=_ntlm_signs(data))
    mechanism, inner = _unframe(data)
    if mechanism == "kerberos":
        return Token("kerberos", signs=_ap_req_signs(inner[2:]))  # two octets of token id (RFC 4121 section 4.1)
    if data[:1] == b"\x6e":
        return Token("kerberos", signs=_ap_req_signs(data))
    return Token("kerberos") if data[:1] == b"\x6f" else NOTHING  # an AP-REP has nothing in clear but its tag


def _spnego(data: bytes) -> Token:
    """A negTokenInit [0] or negTokenResp [1] (RFC 4178 section 4.2)."""
    initial = _child(data, 0xA0, 0x30)
    if initial:
        oids = (oid for tag, oid in _values(_child(initial, 0xA0, 0x30)) if tag == 0x06)
        offered = tuple(MECHANISMS.get(oid, "unknown") for oid in oids)
        inner = _own(_child(initial, 0xA2, 0x04))
        return Token(inner.mechanism, None, offered, inner.signs)
    answer = _child(data, 0xA1, 0x30)
    inner = _own(_child(answer, 0xA2, 0x04))
    return Token(inner.mechanism, MECHANISMS.get(_child(answer, 0xA1, 0x06)), (), inner.signs)


# ---- Kerberos --------------------------------------------------------------------------------


def _ap_req_signs(data: bytes) -> tuple[tuple[str, str], ...]:
    """Service, realm and encryption type of the ticket in an AP-REQ (RFC 4120 sections 5.3 and 5.5.1)."""
    ticket = _child(data, 0x6E, 0x30, 0xA3, 0x61, 0x30)
    names = [_text(name) for tag, name in _values(_child(ticket, 0xA2, 0x30, 0xA1, 0x30)) if tag == 0x1B]
    etype = _child(ticket, 0xA3, 0x30, 0xA0, 0x02)
    signs = (
        ("kerberos.service", "/".join(names)[: limits.MAX_TEXT]),
        ("kerberos.realm", _text(_child(ticket, 0xA1, 0x1B))),
        ("kerberos.etype", _etype(etype)),
    )
    return tuple(sign for sign in signs if sign[1])


def _etype(raw: bytes) -> str:
    if not raw or len(raw) > 4:
        return ""
    number = int.from_bytes(raw, "big", signed=True)
    return ETYPES.get(number, str(number))


# ---- NTLM ------------------------------------------------------------------------------------

_FIELD = Struct("<HHI").unpack_from
_UNICODE: Final = 0x1
_TARGET_NAMES: Final = {1: "ntlm.server", 2: "ntlm.server-domain", 3: "ntlm.server-dns", 4: "ntlm.server-dns-domain"}
"""AV_PAIR ids of a CHALLENGE's target info (MS-NLMP 2.2.2.1)."""

_NAMES: Final = {
    1: (("ntlm.domain", 16), ("ntlm.workstation", 24)),
    3: (("ntlm.domain", 28), ("ntlm.user", 36), ("ntlm.workstation", 44)),
}
"""Where NEGOTIATE (1) and AUTHENTICATE (3) keep the fields of their names (MS-NLMP 2.2.1.1, 2.2.1.3)."""


def _ntlm_signs(data: bytes) -> tuple[tuple[str, str], ...]:
    """Names in an NTLM message of any of the three types."""
    if len(data) < 12:
        return ()
    kind = unpack_from("<I", data, 8)[0]
    if kind == 2:
        return tuple(_target_info(_ntlm_field(data, 40)))
    # A NEGOTIATE is always in the OEM character set; an AUTHENTICATE says which it uses (flags at 60).
    wide = kind == 3 and (len(data) < 64 or bool(data[60] & _UNICODE))
    signs = ((name, _ntlm_text(_ntlm_field(data, at), wide)) for name, at in _NAMES.get(kind, ()))
    return tuple(sign for sign in signs if sign[1])


def _ntlm_field(data: bytes, at: int) -> bytes:
    """The bytes that a (length, allocated, offset) triple points to (MS-NLMP 2.2.1); b"" if they are not all there."""
    if len(data) < at + 8:
        return b""
    length, _, offset = _FIELD(data, at)
    return data[offset : offset + length] if offset + length <= len(data) else b""


def _ntlm_text(raw: bytes, wide: bool) -> str:
    return raw.decode("utf-16-le" if wide else "latin-1", "replace").strip("\0")[: limits.MAX_TEXT]


def _target_info(data: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    while position + 4 <= len(data):
        kind, length = unpack_from("<HH", data, position)
        position += 4
        if kind == 0:
            return
        name = _TARGET_NAMES.get(kind)
        if name and length:
            yield name, _ntlm_text(data[position : position + length], True)
        position += length
