"""X.509 certificates as Exchange Setup makes them: self-signed, five years, names of the host.

Keys and signatures are noise: no private key exists, and passive readers don't check signatures.
"""

from __future__ import annotations

from captures.makers.der import (
    BITS,
    NULL,
    OCTETS,
    UTC_TIME,
    UTF8,
    boolean,
    integer,
    oid,
    sequence,
    tagged,
    tlv,
)  # fmt: skip
from captures.makers.tokens import Noise

RSA, SHA1_RSA = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.5"
COMMON_NAME, ALT_NAME, KEY_USAGE = "2.5.4.3", "2.5.29.17", "2.5.29.37"


def _name(common: str) -> bytes:
    return sequence(tlv(0x31, sequence(oid(COMMON_NAME), tlv(UTF8, common.encode()))))


def certificate(
    noise: Noise, subject: str, names: tuple[str, ...] = (), *, issuer: str = "",
    valid: tuple[bytes, bytes] = (b"101101000000Z", b"151101000000Z"),
) -> bytes:  # fmt: skip
    """A certificate for `subject` (the issuer too, unless one is named) and further DNS names; valid: from, to."""
    algorithm = sequence(oid(SHA1_RSA), tlv(NULL))
    key = sequence(integer(int.from_bytes(b"\x00\xc1" + noise(255), "big")), integer(65537))
    alternative = sequence(*(tlv(0x82, name.encode()) for name in (subject, *names)))
    usage = sequence(oid("1.3.6.1.5.5.7.3.1"))
    body = sequence(
        tagged(0, integer(2)),
        integer(int.from_bytes(b"\x11" + noise(15), "big")),
        algorithm,
        _name(issuer or subject),
        sequence(*(tlv(UTC_TIME, time) for time in valid)),
        _name(subject),
        sequence(sequence(oid(RSA), tlv(NULL)), tlv(BITS, b"\0" + key)),
        tagged(3, sequence(
            sequence(oid(ALT_NAME), tlv(OCTETS, alternative)),
            sequence(oid(KEY_USAGE), boolean(True), tlv(OCTETS, usage)),
        )),
    )  # fmt: skip
    return sequence(body, algorithm, tlv(BITS, b"\0" + noise(256)))
