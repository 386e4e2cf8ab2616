"""Who an X.509 certificate speaks of, and from when to when: subject, issuer, alternative names, self-signed or not.

The structure is read by the `cryptography` package, loaded when the first certificate is met; whatever
it refuses is no certificate to us. Nothing is verified: a passive reader has no trust store.
Source: RFC 5280 section 4.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Final, NamedTuple

from classifier import limits

MAX_NAMES: Final = 64
"""Alternative names kept of one certificate; content networks have up to a hundred, Exchange has a dozen."""


class Certificate(NamedTuple):
    """Names as RFC 4514 text; dns_names: subjectAltName entries of type dNSName; not_before, not_after: RFC 3339, UTC,
    "" where they can't be read."""

    subject: str
    issuer: str
    dns_names: tuple[str, ...]
    not_before: str = ""
    not_after: str = ""

    @property
    def self_signed(self) -> bool:
        """Subject and issuer are the same name, as in the certificate that Exchange Setup makes for itself."""
        return self.subject == self.issuer


@lru_cache(maxsize=1024)
def read(der: bytes) -> Certificate | None:
    """One DER certificate; None if it is none, or larger than `limits.MAX_CERTIFICATE`.

    Servers send the same bytes in every connection, which the cache makes use of.
    """
    if not 0 < len(der) <= limits.MAX_CERTIFICATE:
        return None
    from cryptography import x509

    with warnings.catch_warnings():  # negative serial numbers and the like: not for the user's terminal
        warnings.simplefilter("ignore")
        try:
            found = x509.load_der_x509_certificate(der)
            subject, issuer = found.subject.rfc4514_string(), found.issuer.rfc4514_string()
        except Exception:  # the library documents no closed set of errors for hostile input
            return None
        names = subject[: limits.MAX_TEXT], issuer[: limits.MAX_TEXT], _dns_names(found)
        return Certificate(*names, *_validity(found))


def _validity(certificate: object) -> tuple[str, str]:
    from cryptography import x509

    try:
        assert isinstance(certificate, x509.Certificate)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except Exception:  # dates that no calendar has
        return "", ""
    return f"{begins:%Y-%m-%dT%H:%M:%SZ}", f"{ends:%Y-%m-%dT%H:%M:%SZ}"


def _dns_names(certificate: object) -> tuple[str, ...]:
    """Alternative names; a certificate whose extensions are broken still has its subject."""
    from cryptography import x509

    try:
        assert isinstance(certificate, x509.Certificate)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except Exception:  # absent, duplicate or malformed: each its own error class
        return ()
    return tuple(name[: limits.MAX_TEXT] for name in names[:MAX_NAMES])


def read_chain(body: bytes) -> Certificate | None:
    """The first certificate, the sender's own, of a Certificate message up to TLS 1.2 (RFC 5246 section 7.4.2)."""
    length = int.from_bytes(body[3:6], "big")
    return read(bytes(body[6 : 6 + length])) if 0 < length <= len(body) - 6 else None


def common_name(name: str) -> str:
    """The CN of an RFC 4514 name, "" if it has none."""
    return next((part[3:] for part in name.split(",") if part.upper().startswith("CN=")), "")
