"""TLS handshakes made octet by octet, with certificates made by the `cryptography` package."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CHROME_CIPHERS = "0a0a 1301 1302 1303 c02b c02f c02c c030 cca9 cca8 c013 c014 009c 009d 002f 0035"
CHROME_ALGORITHMS = "0010 0403 0804 0401 0503 0805 0501 0806 0601"


def extension(number: int, body: bytes) -> bytes:
    return number.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def server_name(name: str) -> bytes:
    raw = name.encode()
    return extension(0, (len(raw) + 3).to_bytes(2, "big") + b"\0" + len(raw).to_bytes(2, "big") + raw)


def alpn(*names: bytes) -> bytes:
    listed = b"".join(bytes((len(name),)) + name for name in names)
    return extension(16, len(listed).to_bytes(2, "big") + listed)


def chrome_extensions(name: str = "mail.example.com") -> bytes:
    """Those of the browser in FoxIO's example, GREASE included."""
    bodies = {
        0x0017: b"", 0xFF01: b"\0", 0x000A: bytes.fromhex("00080a0a001d00170018"), 0x000B: b"\1\0", 0x0023: b"",
        0x0005: b"\1\0\0\0\0", 0x000D: bytes.fromhex(CHROME_ALGORITHMS), 0x0012: b"", 0x0033: bytes(43),
        0x002D: b"\1\1", 0x002B: bytes.fromhex("063a3a03040303"), 0x001B: b"\2\0\2", 0x4469: b"\0\3\2h2",
        0x3A3A: b"\0", 0x0015: bytes(60),
    }  # fmt: skip
    listed = b"".join(extension(number, body) for number, body in bodies.items())
    return extension(0x2A2A, b"") + server_name(name) + alpn(b"h2", b"http/1.1") + listed


def message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def record(*messages: bytes, kind: int = 22, version: bytes = b"\3\1") -> bytes:
    body = b"".join(messages)
    return bytes((kind,)) + version + len(body).to_bytes(2, "big") + body


def client_hello(extensions: bytes | None = None, ciphers: str = CHROME_CIPHERS, version: bytes = b"\3\3") -> bytes:
    """The message; None: without any extensions, as old clients sent it."""
    suites = bytes.fromhex(ciphers)
    body = version + bytes(32) + b"\x20" + bytes(32) + len(suites).to_bytes(2, "big") + suites + b"\1\0"
    if extensions is not None:
        body += len(extensions).to_bytes(2, "big") + extensions
    return message(1, body)


def server_hello(version: bytes = b"\3\3", cipher: str = "c02f", extensions: bytes = b"") -> bytes:
    body = version + bytes(32) + b"\0" + bytes.fromhex(cipher) + b"\0" + len(extensions).to_bytes(2, "big")
    return message(2, body + extensions)


TLS13 = extension(43, b"\3\4")
CHANGE = record(b"\1", kind=20, version=b"\3\3")
SECRET = record(bytes(range(40)), kind=23, version=b"\3\3")


@lru_cache
def certificate(name: str, issuer: str | None = None, alternatives: tuple[str, ...] = ()) -> bytes:
    """A certificate in DER; issuer None: made by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)]))
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + timedelta(days=1))
    )  # fmt: skip
    if alternatives:
        names = x509.SubjectAlternativeName([x509.DNSName(each) for each in alternatives])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def chain(*certificates: bytes) -> bytes:
    """A Certificate message up to TLS 1.2."""
    listed = b"".join(len(each).to_bytes(3, "big") + each for each in certificates)
    return message(11, len(listed).to_bytes(3, "big") + listed)
