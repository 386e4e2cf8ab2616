"""What POP3, IMAP4 and NNTP share: a login in clear or by SASL, and TLS behind an upgrade command.

The protocol's own module knows its words; this one keeps the session's state and draws the conclusion.
"""

from __future__ import annotations

from dataclasses import dataclass

from classifier.inspectors import sasl, tls
from classifier.inspectors.base import Evidence, Place
from classifier.inspectors.reading import Talk, text


@dataclass(slots=True)
class Session:
    """One session as it is read. clear: how a login without SASL authenticates, once one was seen."""

    turned: Talk
    recognised: bool = False
    clear: str | None = None
    exchange: sasl.Exchange | None = None
    client_tls_at: int | None = None
    server_tls_at: int | None = None

    def begin(self, words: list[bytes], at: int) -> None:
        """A SASL mechanism was asked for, with its first token perhaps."""
        self.exchange = sasl.Exchange(text(words[0]), self.turned.signs)
        if len(words) > 1:
            self.exchange.read(words[1], self.turned.client_side, at)

    def by_client(self, line: bytes, at: int) -> None:
        """A client's line that isn't a command: a token, if one is awaited."""
        if self.exchange is not None:
            self.exchange.read(line, self.turned.client_side, at)

    def by_server(self, line: bytes, at: int) -> None:
        """A server's continuation line: a challenge, if one is awaited."""
        if self.exchange is not None:
            self.exchange.read(line, self.turned.server_side, at)

    def upgrades(self, after: int) -> bool:
        """Whether the client's bytes behind this command are TLS; they are kept in mind then."""
        if tls.hello_kind(self.turned.client, after):
            self.client_tls_at = after
        return self.client_tls_at is not None

    def upgraded(self, after: int) -> bool:
        """The same for the server's bytes behind an answer."""
        if tls.hello_kind(self.turned.server, after):
            self.server_tls_at = after
        return self.server_tls_at is not None

    def conclude(self, protocol: str) -> Evidence:
        """Everything that was seen."""
        turned = self.turned
        upgraded = self.client_tls_at is not None or self.server_tls_at is not None
        handshake = tls.Handshake()
        if upgraded:
            at_client = len(turned.client) if self.client_tls_at is None else self.client_tls_at
            at_server = len(turned.server) if self.server_tls_at is None else self.server_tls_at
            handshake = tls.read(turned, at_client, at_server)
        return Evidence(
            protocol,
            Place(turned.server_side if turned.server else turned.client_side, 0),
            turned.reversed,
            authentication=self._authentication(handshake if upgraded else None),
            encryption="tls-upgrade" if upgraded else "none",
            tls_version=handshake.version or None,
            tls_sni=handshake.sni,
            ja4=handshake.ja4,
            signs=tuple(turned.signs.kept),
            gap=turned.broken and not upgraded,
            limited=turned.signs.full or (turned.limited and not upgraded),
        )

    def _authentication(self, handshake: tls.Handshake | None) -> str | None:
        said = (self.exchange.authentication if self.exchange else None) or self.clear
        return said or (handshake.authentication if handshake else None)
