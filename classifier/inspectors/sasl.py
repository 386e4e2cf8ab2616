"""Authentication inside line protocols: names of mechanisms, and tokens written as base64 lines.

Shared by SMTP, POP3, IMAP4 and NNTP. Tokens of LOGIN, PLAIN and their like hold passwords: they are
never decoded, and nothing of them is kept. Sources: RFC 4422, MS-XLOGIN, MS-SMTPNTLM, MS-POP3, IMAP's RFC 3501.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from typing import Final

from classifier import limits
from classifier.inspectors import gssapi
from classifier.inspectors.base import Place, Side
from classifier.inspectors.reading import Signs

MECHANISMS: Final = {
    "NTLM": "ntlm",
    "GSSAPI": "kerberos",
    "GSS-SPNEGO": "negotiate",
    "NEGOTIATE": "negotiate",
    "KERBEROS_V4": "kerberos",
    "LOGIN": "basic",
    "PLAIN": "basic",
    "MSN": "ntlm",
    "DIGEST-MD5": "digest",
    "CRAM-MD5": "digest",
    "SCRAM-SHA-1": "digest",
    "SCRAM-SHA-256": "digest",
    "EXTERNAL": "certificate",
    "XOAUTH2": "bearer",
    "OAUTHBEARER": "bearer",
    "ANONYMOUS": "anonymous",
    "EXCHANGEAUTH": "exchange-server",
}
"""SASL mechanism (IANA registry, and Microsoft's own) to word of `model.AuthenticationName`."""

_WITH_TOKENS: Final = frozenset(("NTLM", "GSSAPI", "GSS-SPNEGO", "NEGOTIATE", "EXCHANGEAUTH"))


class Exchange:
    """One authentication as it goes on: the mechanism asked for, then what its tokens turn out to be."""

    def __init__(self, mechanism: str, signs: Signs) -> None:
        self.mechanism = mechanism.upper()
        self._signs = signs
        self._tokens: list[gssapi.Token] = []

    def read(self, line: bytes, side: Side, offset: int) -> None:
        """Look into one base64 line, if the mechanism's tokens are of the kind that names can be read in."""
        if self.mechanism not in _WITH_TOKENS or len(self._tokens) >= _MAX_TOKENS:
            return
        token = gssapi.read_token(decode(line))
        self._tokens.append(token)
        for name, value in token.signs:
            self._signs.add(name, value, Place(side, offset))

    @property
    def authentication(self) -> str | None:
        """What the tokens prove, else what the mechanism's name says; None for an unknown mechanism."""
        said = MECHANISMS.get(self.mechanism)
        return said if said == "exchange-server" else gssapi.settle(self._tokens) or said


_MAX_TOKENS: Final = 16
"""Tokens read of one exchange; NTLM takes three, Kerberos up to four."""


def decode(line: bytes) -> bytes:
    """Bytes of a base64 line; b"" for what isn't base64 or is larger than `limits.MAX_TOKEN`."""
    if len(line) > limits.MAX_TOKEN:
        return b""
    try:
        return b64decode(line.strip(), validate=True)
    except (Error, ValueError):
        return b""
