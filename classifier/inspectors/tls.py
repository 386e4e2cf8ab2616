"""TLS and SSL: the hellos, the certificates sent in clear, and the client's JA4.

Owns record and handshake framing; decrypts nothing. Other inspectors hand over the rest of their streams
after STARTTLS and the like to `read`. Sources: RFC 8446, RFC 5246, RFC 6101 appendix E (the SSL 2.0 shaped
hello), RFC 6066 section 3 (SNI), RFC 7301 (ALPN), RFC 8701 (GREASE), FoxIO's description of JA4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Final

from classifier import limits
from classifier.inspectors import certificates, cipher_suites
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place
from classifier.inspectors.reading import Talk, talk, text

VERSIONS: Final = {
    0x0002: "SSLv2", 0x0300: "SSLv3", 0x0301: "TLSv1.0", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3",
}  # fmt: skip
_JA4_VERSIONS: Final = {0x0002: "s2", 0x0300: "s3", 0x0301: "10", 0x0302: "11", 0x0303: "12", 0x0304: "13"}

_CHANGE_CIPHER_SPEC: Final = 20
_ALERT: Final = 21
_HANDSHAKE: Final = 22
_MAX_RECORD: Final = 0x4000 + 2048
"""A protected record's length bound (RFC 5246 section 6.2.3)."""

_CLIENT_HELLO, _SERVER_HELLO, _CERTIFICATE, _CERTIFICATE_REQUEST = 1, 2, 11, 13
_MESSAGES: Final = frozenset((0, 1, 2, 4, 6, 8, 11, 12, 13, 14, 15, 16, 20, 21, 22))
"""Handshake types (RFC 8446 section 4, RFC 5246 section 7.4); others mean that the rest is encrypted."""

_ALERTS: Final = {
    10: "unexpected message", 20: "bad record mac", 22: "record overflow", 40: "handshake failure",
    42: "bad certificate", 43: "unsupported certificate", 44: "certificate revoked", 45: "certificate expired",
    46: "certificate unknown", 47: "illegal parameter", 48: "unknown ca", 49: "access denied", 50: "decode error",
    51: "decrypt error", 70: "protocol version", 71: "insufficient security", 80: "internal error",
    86: "inappropriate fallback", 109: "missing extension", 110: "unsupported extension", 112: "unrecognized name",
    116: "certificate required", 120: "no application protocol",
}  # fmt: skip
"""Descriptions of alerts (RFC 8446 section 6; RFC 5246 section 7.2)."""

_SNI, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS = 0, 13, 16, 43

_GREASE: Final = frozenset(0x0A0A + 0x1010 * digit for digit in range(16))
"""RFC 8701 section 2."""

_extension = Struct(">HH").unpack_from


@dataclass(slots=True)
class ClientHello:
    """What a client offers. version: legacy_version; ciphers: two bytes each; extensions: in their order."""

    version: int
    ciphers: bytes
    extensions: dict[int, bytes]


@dataclass(slots=True)
class Handshake:
    """What a handshake tells. version: as in `VERSIONS`' values, the server's choice; "" until it answered."""

    version: str = ""
    sni: str | None = None
    ja4: str | None = None
    answered: bool = False
    client_certificate: certificates.Certificate | None = None
    server_certificate: certificates.Certificate | None = None
    certificate_requested: bool = False
    has_client_certificate: bool = False

    @property
    def mutual_self_signed(self) -> bool:
        """Both sides showed a certificate they made themselves: direct trust, as between Hub and Edge."""
        both = self.client_certificate, self.server_certificate
        return all(each is not None and each.self_signed for each in both)

    @property
    def authentication(self) -> str:
        """Word of `model.AuthenticationName`: what TLS itself shows of who the client is."""
        return "certificate" if self.has_client_certificate else "unknown-encrypted"


# ---- the inspector ---------------------------------------------------------------------------


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side begins as a TLS record or an SSL 2.0 shaped hello."""
    return _opens(client) or _opens(server)


def _opens(data: bytes) -> bool:
    return (data[:2] in _RECORD_STARTS) or (len(data) > 2 and data[0] & 0x80 != 0 and data[2] == _CLIENT_HELLO)


_RECORD_TYPES: Final = bytes(range(20, 24))
_RECORD_STARTS: Final = frozenset(bytes((kind, 3)) for kind in _RECORD_TYPES) | {b"\x16"}

FIRST_OCTETS: Final = FirstOctets(_RECORD_TYPES + bytes(range(0x80, 0x100)))
"""Content types; the high half of an SSL 2.0 record's length, with its highest bit set."""

BEGIN_IN_CLEAR: Final = frozenset((21, 25, 110, 119, 143, 389, 587, 3268))
"""Ports where a client asks for TLS first (STARTTLS, STLS, AUTH TLS): records without a beginning don't say how."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read a TLS conversation from its first byte, or know one by its records when the start is missing."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    kind = hello_kind(ours) or -hello_kind(theirs)
    if kind:
        return _from_hello(talk(dialogue, turned=kind in (_SERVER_HELLO, -_CLIENT_HELLO)))
    return _from_records(dialogue, ours, theirs)


def _from_hello(turned: Talk) -> Evidence:
    found = read(turned, 0, 0)
    return Evidence(
        "tls",
        Place(turned.client_side if turned.client else turned.server_side, 0),
        turned.reversed,
        authentication=found.authentication,
        encryption="tls-implicit",
        tls_version=found.version or None,
        tls_sni=found.sni,
        ja4=found.ja4,
        signs=tuple(turned.signs.kept),
        gap=turned.broken and not found.answered,
        limited=turned.limited and not found.answered,
    )


def _from_records(dialogue: Dialogue, ours: bytes, theirs: bytes) -> Evidence | Answer:
    """No hello was captured: several records in a row, each where the one before ends, are proof enough."""
    count = _records_in_a_row(ours), _records_in_a_row(theirs)
    if (ours and not count[0]) or (theirs and not count[1]):
        short = any(data and len(data) < 5 and _opens(data) for data in (ours, theirs))
        return WAIT if short else NOT_THIS
    if sum(count) < 2:
        return WAIT
    broken = dialogue.to_server.has_hole or dialogue.to_client.has_hole
    seen = dialogue.to_server.started or dialogue.to_client.started or dialogue.server_port not in BEGIN_IN_CLEAR
    return Evidence("tls", authentication="unknown-encrypted", encryption="tls-implicit" if seen else None, gap=broken)


def _records_in_a_row(data: bytes) -> int:
    """How many records follow one another up to the end of `data`; 0 if that is not what it is made of."""
    at = count = 0
    while at + 5 <= len(data):
        if not _is_record(data, at):
            return 0
        at += 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        count += 1
    return count


def _is_record(data: bytes, at: int) -> bool:
    """A record header: content type, version 3.0 to 3.4, a length that is possible (RFC 8446 section 5.1)."""
    length = data[at + 3] << 8 | data[at + 4]
    return 20 <= data[at] <= 23 and data[at + 1] == 3 and data[at + 2] <= 4 and 0 < length <= _MAX_RECORD


def hello_kind(data: bytes, at: int = 0) -> int:
    """1 if a ClientHello begins here, 2 if a ServerHello does, else 0."""
    if len(data) < at + 11:
        return 0
    if data[at] == _HANDSHAKE and data[at + 9] == 3 and data[at + 10] <= 4 and _is_record(data, at):
        kind = data[at + 5]
        return kind if kind in (_CLIENT_HELLO, _SERVER_HELLO) else 0
    return _CLIENT_HELLO if _is_sslv2_hello(data, at) else 0


def _is_sslv2_hello(data: bytes, at: int) -> bool:
    """The hello that clients up to Windows XP sent: length, 1, version, then three lengths that must add up."""
    if not data[at] & 0x80 or data[at + 2] != _CLIENT_HELLO or data[at + 3 : at + 5] not in _V2_VERSIONS:
        return False
    length = (data[at] & 0x7F) << 8 | data[at + 1]
    specs, session, challenge = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7, 9))
    return specs > 0 and specs % 3 == 0 and 16 <= challenge <= 32 and length == 9 + specs + session + challenge


_V2_VERSIONS: Final = frozenset((b"\0\2", b"\3\0", b"\3\1", b"\3\2", b"\3\3"))


# ---- one handshake ---------------------------------------------------------------------------


def read(turned: Talk, client_at: int, server_at: int) -> Handshake:
    """Read the handshake that begins at these offsets of the two streams; its signs go to `turned`.

    Either side may be missing. Reading stops where encryption begins.
    """
    found = Handshake()
    for kind, body, offset in messages(turned.client, client_at):
        if kind == _CLIENT_HELLO:
            _note_client_hello(turned, found, body, offset)
        elif kind == _CERTIFICATE:
            _note_client_certificate(turned, found, body, offset)
    for kind, body, offset in messages(turned.server, server_at):
        if kind == _SERVER_HELLO:
            _note_server_hello(turned, found, body, offset)
        elif kind == _CERTIFICATE:
            _note_server_certificate(turned, found, body, offset)
        elif kind == _CERTIFICATE_REQUEST:
            found.certificate_requested = True
    for data, at, side in (
        (turned.client, client_at, turned.client_side), (turned.server, server_at, turned.server_side),
    ):  # fmt: skip
        if alert := fatal_alert(data, at):
            turned.signs.add("tls.alert", alert[0], Place(side, alert[1]))
    return found


def fatal_alert(data: bytes, at: int) -> tuple[str, int] | None:
    """Name and offset of a fatal alert in clear among the records from `at` on (RFC 5246 section 7.2)."""
    while at + 7 <= len(data) and _is_record(data, at) and data[at] in (_ALERT, _HANDSHAKE):
        length = data[at + 3] << 8 | data[at + 4]
        if data[at] == _ALERT:
            fatal = length == 2 and data[at + 5] == 2
            return (_ALERTS.get(data[at + 6], f"alert {data[at + 6]}"), at) if fatal else None
        at += 5 + length
    return None


def messages(data: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    """(type, body, offset of its first record) of each whole handshake message in clear, joined over records."""
    if hello_kind(data, at) == _CLIENT_HELLO and data[at] != _HANDSHAKE:
        length = (data[at] & 0x7F) << 8 | data[at + 1]
        yield _SSLV2_HELLO_AS_TLS, data[at + 2 : at + 2 + length], at
        return
    pending, place = bytearray(), at
    while at + 5 <= len(data) and data[at] == _HANDSHAKE and _is_record(data, at):
        length = data[at + 3] << 8 | data[at + 4]
        place = place if pending else at
        pending += data[at + 5 : at + 5 + length]
        used = 0
        while used + 4 <= len(pending):
            end = used + 4 + int.from_bytes(pending[used + 1 : used + 4], "big")
            if pending[used] not in _MESSAGES or end - used > limits.MAX_HANDSHAKE:
                return
            if end > len(pending):
                break
            yield pending[used], bytes(pending[used + 4 : end]), place
            used, place = end, at
        del pending[:used]
        at += 5 + length


_SSLV2_HELLO_AS_TLS: Final = 6
"""Handshake type 6 has no other use in what is read here; an SSL 2.0 hello has neither SNI nor JA4."""


def read_client_hello(body: bytes) -> ClientHello | None:
    """RFC 8446 section 4.1.2; None where its lengths contradict one another."""
    at = 34
    if len(body) < at + 1:
        return None
    at += 1 + body[at]
    ciphers_end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if ciphers_end + 1 > len(body):
        return None
    ciphers = body[at + 2 : ciphers_end]
    at = ciphers_end + 1 + body[ciphers_end]
    return ClientHello(body[0] << 8 | body[1], ciphers, _extensions(body, at))


def _extensions(body: bytes, at: int) -> dict[int, bytes]:
    """Extensions by number, in their order (RFC 8446 section 4.2: no number comes twice)."""
    found: dict[int, bytes] = {}
    at += 2
    end = len(body) - 4
    while at <= end:
        kind, length = _extension(body, at)
        at += 4
        found[kind] = body[at : at + length]
        at += length
    return found


def _note_client_hello(turned: Talk, found: Handshake, body: bytes, offset: int) -> None:
    hello = read_client_hello(body)
    if hello is None or found.ja4:
        return
    found.ja4 = ja4(hello)
    place = Place(turned.client_side, offset)
    if _SNI in hello.extensions:
        found.sni = _sni(hello.extensions[_SNI])
        turned.signs.add("tls.sni", found.sni or "", place)
    if _ALPN in hello.extensions:
        for name in _protocols(hello.extensions[_ALPN]):
            turned.signs.add("tls.alpn", text(name), place)


def _sni(extension: bytes) -> str | None:
    """The first host_name of a ServerNameList (RFC 6066 section 3), in lower case."""
    if len(extension) < 5 or extension[2] != 0:
        return None
    name = extension[5 : 5 + int.from_bytes(extension[3:5], "big")]
    return text(name).lower() or None


def _protocols(extension: bytes) -> Iterator[bytes]:
    """Names of a ProtocolNameList (RFC 7301 section 3.1), at most a dozen."""
    at = 2
    for _ in range(12):
        if at >= len(extension) or not extension[at]:
            return
        yield extension[at + 1 : at + 1 + extension[at]]
        at += 1 + extension[at]


def _note_server_hello(turned: Talk, found: Handshake, body: bytes, offset: int) -> None:
    """RFC 8446 section 4.1.3: the version is in supported_versions if that is there."""
    if len(body) < 38:
        return
    at = 35 + body[34]
    cipher = int.from_bytes(body[at : at + 2], "big")
    extensions = _extensions(body, at + 3)
    version = int.from_bytes(extensions.get(_SUPPORTED_VERSIONS, body[:2])[:2], "big")
    found.answered = True
    found.version = VERSIONS.get(version, f"0x{version:04x}")
    place = Place(turned.server_side, offset)
    turned.signs.add("tls.version", found.version, place)
    turned.signs.add("tls.cipher", cipher_suites.name(cipher), place)


def _note_server_certificate(turned: Talk, found: Handshake, body: bytes, offset: int) -> None:
    certificate = found.server_certificate = certificates.read_chain(body)
    if certificate is None:
        return
    turned.by_server("tls.certificate-subject", certificate.subject, offset)
    turned.by_server("tls.certificate-issuer", certificate.issuer, offset)
    for name in certificate.dns_names:
        turned.by_server("tls.certificate-san", name, offset)
    turned.by_server("tls.certificate-not-before", certificate.not_before, offset)
    turned.by_server("tls.certificate-not-after", certificate.not_after, offset)
    if certificate.self_signed:
        turned.by_server("tls.certificate-self-signed", "server", offset)


def _note_client_certificate(turned: Talk, found: Handshake, body: bytes, offset: int) -> None:
    """A client that has none sends an empty list (RFC 5246 section 7.4.6)."""
    found.has_client_certificate = len(body) > 6 and any(body[:3])
    certificate = found.client_certificate = certificates.read_chain(body)
    if certificate is None:
        return
    turned.by_client("tls.client-certificate", certificate.subject, offset)
    if certificate.self_signed:
        turned.by_client("tls.certificate-self-signed", "client", offset)


# ---- JA4 -------------------------------------------------------------------------------------


def ja4(hello: ClientHello) -> str:
    """FoxIO's JA4 of a hello over TCP: what it offers, readable, then hashes of sorted ciphers and extensions."""
    extensions = hello.extensions
    return _ja4(
        hello.version,
        hello.ciphers,
        tuple(extensions),
        extensions.get(_SUPPORTED_VERSIONS, b""),
        extensions.get(_ALPN, b""),
        extensions.get(_SIGNATURE_ALGORITHMS, b""),
    )


@lru_cache(maxsize=4096)
def _ja4(legacy: int, ciphers: bytes, extensions: tuple[int, ...], versions: bytes, alpn: bytes, signing: bytes) -> str:
    """The text of a fingerprint; a program's hellos differ in little else, so few of them are computed."""
    suites = sorted(_codes(ciphers))
    kinds = [kind for kind in extensions if kind not in _GREASE]
    hashed = [f"{kind:04x}" for kind in sorted(kinds) if kind not in (_SNI, _ALPN)]
    algorithms = _codes(signing[2:])
    tail = ",".join(hashed) + ("_" + ",".join(algorithms) if algorithms else "")
    return (
        f"t{_ja4_version(legacy, versions)}{'d' if _SNI in extensions else 'i'}"
        f"{min(len(suites), 99):02d}{min(len(kinds), 99):02d}{_ja4_protocol(next(_protocols(alpn), b''))}"
        f"_{_hash(','.join(suites))}_{_hash(tail) if hashed else _NO_HASH}"
    )


_NO_HASH: Final = "000000000000"


def _codes(numbers: bytes) -> list[str]:
    """16-bit numbers as four hexadecimal digits each, GREASE left out."""
    pairs = (numbers[at] << 8 | numbers[at + 1] for at in range(0, len(numbers) - 1, 2))
    return [f"{number:04x}" for number in pairs if number not in _GREASE]


def _hash(words: str) -> str:
    return sha256(words.encode()).hexdigest()[:12] if words else _NO_HASH


def _ja4_version(legacy: int, versions: bytes) -> str:
    """The highest of supported_versions, GREASE left out; legacy_version without that extension."""
    offered = [int(code, 16) for code in _codes(versions[1:])]
    return _JA4_VERSIONS.get(max(offered, default=legacy), "00")


def _ja4_protocol(name: bytes) -> str:
    """First and last character of the first ALPN name; of its hexadecimal digits if one is not alphanumeric."""
    if not name:
        return "00"
    ends = bytes((name[0], name[-1]))
    return ends.decode() if ends.isalnum() else name.hex()[0] + name.hex()[-1]
