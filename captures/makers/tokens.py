"""Authentication tokens as they travel in RPC verifiers, LDAP binds, HTTP headers and SMB sessions.

NTLM messages follow [MS-NLMP] 2.2.1, Kerberos RFC 4120 and RFC 4121 section 4.1, SPNEGO RFC 4178 with [MS-SPNG].
What would be encrypted or random is noise from the scene; names, flags and lengths are real.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from captures.makers.der import (
    BITS,
    ENUMERATED,
    general_string,
    integer,
    octets,
    oid,
    sequence,
    tagged,
    tlv,
)  # fmt: skip

Noise = Callable[[int], bytes]

KERBEROS = "1.2.840.113554.1.2.2"
MS_KERBEROS = "1.2.840.48018.1.2.2"
NTLMSSP = "1.3.6.1.4.1.311.2.2.10"
SPNEGO = "1.3.6.1.5.5.2"

NTLM_FLAGS = 0xE2888215
"""Unicode, sign, seal, NTLM, always sign, extended session security, target info, version, 128, key exchange, 56."""

VERSION = struct.pack("<BBH3xB", 6, 1, 7601, 15)
"""Windows Server 2008 R2 SP1, the usual home of Exchange 2010."""


def ntlm_negotiate() -> bytes:
    return b"NTLMSSP\0" + struct.pack("<II", 1, NTLM_FLAGS) + bytes(16) + VERSION


def ntlm_challenge(noise: Noise, server: str, fqdn: str, domain: str = "EXAMPLE") -> bytes:
    forest = fqdn.partition(".")[2]
    pairs = [(2, domain), (1, server), (4, forest), (3, fqdn), (5, forest)]
    info = b"".join(_pair(kind, text.encode("utf-16-le")) for kind, text in pairs)
    info += _pair(7, struct.pack("<Q", 129_338_604_000_000_000)) + _pair(0, b"")
    name = domain.encode("utf-16-le")
    head = b"NTLMSSP\0" + struct.pack("<IHHII", 2, len(name), len(name), 56, NTLM_FLAGS) + noise(8) + bytes(8)
    return head + struct.pack("<HHI", len(info), len(info), 56 + len(name)) + VERSION + name + info


def _pair(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


def ntlm_authenticate(noise: Noise, user: str, workstation: str, domain: str = "EXAMPLE") -> bytes:
    names = [text.encode("utf-16-le") for text in (domain, user, workstation)]
    response = noise(16) + b"\x01\x01" + bytes(6) + noise(120)
    values = [bytes(24), response, *names, noise(16)]
    offset, fields, payload = 88, b"", b""
    for value in [*names, *values[:2], values[5]]:
        fields += struct.pack("<HHI", len(value), len(value), offset)
        offset += len(value)
        payload += value
    by_order = [fields[24:32], fields[32:40], fields[0:8], fields[8:16], fields[16:24], fields[40:48]]
    return b"NTLMSSP\0\x03\0\0\0" + b"".join(by_order) + struct.pack("<I", NTLM_FLAGS) + VERSION + noise(16) + payload


def ntlm_signature(noise: Noise) -> bytes:
    """The 16 bytes behind a signed or sealed message ([MS-NLMP] 2.2.2.9)."""
    return struct.pack("<I", 1) + noise(12)


def principal(name: str) -> bytes:
    """A PrincipalName: service/instance (type 2) or user (type 1)."""
    parts = name.split("/")
    kind = 1 if len(parts) == 1 else 2
    return sequence(tagged(0, integer(kind)), tagged(1, sequence(*map(general_string, parts))))


def encrypted(noise: Noise, size: int, etype: int = 18, kvno: int | None = None) -> bytes:
    version = [] if kvno is None else [tagged(1, integer(kvno))]
    return sequence(tagged(0, integer(etype)), *version, tagged(2, octets(noise(size))))


def ticket(noise: Noise, service: str, realm: str = "EXAMPLE.TEST", size: int = 1050, etype: int = 18) -> bytes:
    body = sequence(
        tagged(0, integer(5)),
        tagged(1, general_string(realm)),
        tagged(2, principal(service)),
        tagged(3, encrypted(noise, size, etype, kvno=3)),
    )
    return tlv(0x61, body)


def ap_req(noise: Noise, service: str, *, mutual: bool = True, size: int = 1050) -> bytes:
    body = sequence(
        tagged(0, integer(5)),
        tagged(1, integer(14)),
        tagged(2, tlv(BITS, b"\x00\x20\x00\x00\x00" if mutual else bytes(5))),
        tagged(3, ticket(noise, service, size=size)),
        tagged(4, encrypted(noise, 400)),
    )
    return tlv(0x6E, body)


def ap_rep(noise: Noise) -> bytes:
    return tlv(0x6F, sequence(tagged(0, integer(5)), tagged(1, integer(15)), tagged(2, encrypted(noise, 82))))


def gss_kerberos(inner: bytes, kind: bytes = b"\x01\x00") -> bytes:
    """The GSS-API frame of a Kerberos token (01 00 AP-REQ, 02 00 AP-REP)."""
    return tlv(0x60, oid(KERBEROS), kind, inner)


def spnego_init(token: bytes, mechanisms: tuple[str, ...] = (MS_KERBEROS, KERBEROS, NTLMSSP)) -> bytes:
    body = sequence(tagged(0, sequence(*map(oid, mechanisms))), tagged(2, octets(token)))
    return tlv(0x60, oid(SPNEGO), tagged(0, body))


def spnego_response(token: bytes = b"", mechanism: str = "", state: int = 1) -> bytes:
    """A negTokenResp; state 0 completed, 1 incomplete."""
    parts = [tagged(0, tlv(ENUMERATED, bytes([state])))]
    if mechanism:
        parts.append(tagged(1, oid(mechanism)))
    if token:
        parts.append(tagged(2, octets(token)))
    return tagged(1, sequence(*parts))


def kerberos_wrap_signature(noise: Noise) -> bytes:
    """The 76 bytes behind a message sealed with AES in DCE style (RFC 4121 section 4.2.6.2: EC 16, RRC 28)."""
    return b"\x05\x04\x06\xff\x00\x10\x00\x1c" + bytes(4) + noise(4) + noise(60)
