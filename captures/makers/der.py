"""ASN.1 values in DER (X.690), as far as Kerberos, SPNEGO, LDAP and certificates in these captures need it."""

from __future__ import annotations

SEQUENCE, SET, INTEGER, OCTETS, OID, ENUMERATED, BITS, BOOLEAN = 0x30, 0x31, 0x02, 0x04, 0x06, 0x0A, 0x03, 0x01
GENERAL_STRING, GENERALIZED_TIME, UTF8, PRINTABLE, UTC_TIME, NULL = 0x1B, 0x18, 0x0C, 0x13, 0x17, 0x05


def tlv(tag: int, *parts: bytes) -> bytes:
    """One value: tag, definite length, contents."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(body).to_bytes(size, "big") + body


def sequence(*parts: bytes) -> bytes:
    return tlv(SEQUENCE, *parts)


def tagged(number: int, *parts: bytes) -> bytes:
    """A context-specific, constructed value: [number]."""
    return tlv(0xA0 | number, *parts)


def integer(value: int, tag: int = INTEGER) -> bytes:
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def octets(value: bytes | str, tag: int = OCTETS) -> bytes:
    return tlv(tag, value.encode() if isinstance(value, str) else value)


def general_string(value: str) -> bytes:
    return tlv(GENERAL_STRING, value.encode())


def boolean(value: bool) -> bytes:
    return tlv(BOOLEAN, b"\xff" if value else b"\x00")


def oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return tlv(OID, b"".join(_base128(arc) for arc in (first * 40 + second, *rest)))


def _base128(arc: int) -> bytes:
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(arc & 0x7F | 0x80)
    return bytes(reversed(digits))
