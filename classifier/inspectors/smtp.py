"""SMTP: greeting, EHLO keywords, commands, authentication, and the TLS that follows an upgrade.

The two streams are read one after the other, not step by step: whatever begins as TLS behind an upgrade
command (or behind a 220 that isn't the greeting) is TLS, so each side can be read when the other is missing.
Message contents are skipped but for the topmost Received field, which names the sending server's build.
Sources: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 3030 (BDAT), MS-XLOGIN, and for Exchange's own
verbs Microsoft's pages on receive connectors and shadow redundancy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from classifier import limits
from classifier.inspectors import sasl, tls
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place
from classifier.inspectors.reading import Talk, lines, talk, text

_VERBS: Final = frozenset(
    b"HELO EHLO LHLO MAIL RCPT DATA BDAT RSET QUIT NOOP VRFY EXPN HELP ETRN TURN ATRN AUTH STARTTLS".split()
)
_OPENING: Final = re.compile(rb"(?:EHLO|HELO|LHLO|STARTTLS|X-ANONYMOUSTLS|MAIL FROM:|RCPT TO:)(?:[ <\r\n]|$)", re.I)
_EXTENSION_VERB: Final = re.compile(rb"X[A-Z0-9-]{2,30}$")
"""Private verbs begin with X (RFC 5321 section 4.1.5); mail header fields end with a colon and don't match."""

_UPGRADES: Final = frozenset((b"STARTTLS", b"X-ANONYMOUSTLS"))
_AUTHENTICATES: Final = frozenset((b"AUTH", b"X-EXPS"))
_ARGUMENTS: Final = frozenset((*(name.encode() for name in sasl.MECHANISMS), b"FIRST", b"NEXT", b"LAST"))
"""First arguments that are words of the protocol (AUTH, X-EXPS, X-LINK2STATE); others are people's data."""

_REPLY: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?$", re.S)
_ENHANCED: Final = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?: |$)")
"""RFC 2034: mid-stream, the mark by which SMTP replies differ from those of FTP and NNTP."""

_GREETING_WORDS: Final = re.compile(rb"SMTP|Internet Mail|sendmail|postfix|exim", re.I)
_KEYWORD: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*(?:[ =].*)?$")
_KNOWN_KEYWORDS: Final = frozenset(
    b"SIZE PIPELINING 8BITMIME DSN ENHANCEDSTATUSCODES STARTTLS CHUNKING BINARYMIME AUTH ETRN VRFY HELP TURN "
    b"XEXCH50 X-EXPS X-LINK2STATE X-ANONYMOUSTLS XRDST XSHADOW SMTPUTF8".split()
)
_QUEUED: Final = re.compile(rb"2\.6\.0 <.*\[InternalId=[0-9]+(?:, ?Hostname=([^\]\s]+))?\]")
"""How Exchange 2007 and later confirm a message; the host name came with 2013."""

_RECEIVED: Final = re.compile(
    rb"Received: from .{1,400}? with (Microsoft SMTP Server|mapi)\b.{0,200}? id ([0-9.]+)", re.S
)


@dataclass(slots=True)
class _Session:
    """What is known of one session while its two streams are read."""

    recognised: bool = False
    upgrade: str | None = None
    client_tls_at: int | None = None
    server_tls_at: int | None = None
    exchange: sasl.Exchange | None = None
    mail_seen: bool = False


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with a reply code, or with a command that only SMTP has."""
    return _is_reply(server) or _is_reply(client) or bool(_OPENING.match(client) or _OPENING.match(server))


def _is_reply(data: bytes) -> bool:
    return data[:1] in (b"2", b"3", b"4", b"5") and (data[1:3] + b"00")[:2].isdigit() and data[3:4] in (b" ", b"-", b"")


FIRST_OCTETS: Final = FirstOctets(b"2345EHLMRSXehlmrsx")
"""Reply codes; the commands of `_OPENING`."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read a session in the orientation that its replies and commands prove."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    turned = talk(dialogue, turned=_is_reply(ours) or bool(_OPENING.match(theirs)))
    session = _Session()
    _read_client(turned, session)
    _read_server(turned, session)
    if not session.recognised:
        return WAIT if _may_become(turned.client, turned.server) else NOT_THIS
    return _conclude(turned, session)


def _may_become(client: bytes, server: bytes) -> bool:
    """A greeting that names no protocol, and no command yet that another protocol would have begun with."""
    undecided = b"\n" not in client and len(client) < len("X-ANONYMOUSTLS")
    return undecided and _is_reply(server) and server.count(b"\n") <= 1


# ---- what the server says --------------------------------------------------------------------


def _read_server(turned: Talk, session: _Session) -> None:
    reply: list[bytes] = []
    start = count = 0
    for at, after, line in lines(turned.server):
        found = _REPLY.match(line)
        count += 1
        if found is None or count > limits.MAX_COMMANDS:
            return
        start = start if reply else at
        reply.append(found[3] or b"")
        if found[2] == b"-" and len(reply) < limits.MAX_HEADERS:
            continue
        _note_reply(turned, session, int(found[1]), reply, start)
        if found[1] == b"220" and tls.hello_kind(turned.server, after):
            session.server_tls_at = after
            return
        reply = []


def _note_reply(turned: Talk, session: _Session, code: int, reply: list[bytes], at: int) -> None:
    first = reply[0]
    enhanced = _ENHANCED.match(first) is not None
    session.recognised = session.recognised or enhanced
    if at == 0 and code in (220, 421, 554) and not enhanced:
        _note_greeting(turned, session, first)
    elif code == 250 and len(reply) > 1 and any(word.split(b" ")[0].upper() in _KNOWN_KEYWORDS for word in reply[1:]):
        session.recognised = True
        for word in reply[1:]:
            if _KEYWORD.match(word):
                turned.by_server("smtp.ehlo", text(word).strip(), at)
        turned.by_server("smtp.ehlo-name", text(first.split(b" ")[0]), at)
    elif code == 250 and (queued := _QUEUED.match(first)):
        turned.by_server("smtp.queued", text(queued[1] or b"2.6.0"), at)
    elif code == 334 and session.exchange:
        session.exchange.read(first, turned.server_side, at)
    elif code in (454, 535) and b"Exchange Server authentication" in first:
        turned.by_server("smtp.refused", "Exchange Server authentication", at)
    elif code == 454 and b"TLS" in first.upper():  # RFC 3207 section 4
        turned.by_server("smtp.refused", "STARTTLS", at)


def _note_greeting(turned: Talk, session: _Session, first: bytes) -> None:
    turned.by_server("smtp.banner", text(first).strip(), 0)
    session.recognised = session.recognised or bool(_GREETING_WORDS.search(first))


# ---- what the client says --------------------------------------------------------------------


def _read_client(turned: Talk, session: _Session) -> None:
    """Commands in order; contents are jumped over, which is why this isn't a plain loop over lines."""
    at = 0
    for _ in range(limits.MAX_COMMANDS):
        line = next(lines(turned.client, at), None)
        if line is None:
            return
        at = _note_line(turned, session, *line)
        if at < 0:
            return


def _note_line(turned: Talk, session: _Session, at: int, after: int, line: bytes) -> int:
    """Note one command, or one line of an authentication; where the next one begins, -1 for nowhere.

    A base64 line can look like a private verb, but has neither a blank nor a hyphen: secrets stay out of the signs.
    """
    verb, blank, rest = line.partition(b" ")
    verb = verb.upper()
    private = _EXTENSION_VERB.match(verb) and (session.exchange is None or blank or b"-" in verb)
    if verb in _VERBS or private:
        return _note_command(turned, session, verb, rest, at, after)
    if session.exchange is not None:
        session.exchange.read(line, turned.client_side, at)
    return after


def _note_command(turned: Talk, session: _Session, verb: bytes, rest: bytes, at: int, after: int) -> int:
    session.recognised = session.recognised or _OPENING.match(verb + b" " + rest) is not None
    words = rest.split(b" ")
    argument = words[0].upper()
    turned.by_client("smtp.command", text(verb + b" " + argument if argument in _ARGUMENTS else verb), at)
    if verb in (b"EHLO", b"HELO", b"LHLO"):
        turned.by_client("smtp.helo", text(rest).strip(), at)
    elif verb in _AUTHENTICATES:
        _begin_exchange(turned, session, words, at)
    elif verb == b"MAIL":
        session.mail_seen = True
        turned.by_client("smtp.mail-from-domain", _domain(rest), at)
    elif verb in _UPGRADES and tls.hello_kind(turned.client, after):
        session.upgrade, session.client_tls_at = verb.decode(), after
        return -1
    return _behind_contents(turned, session, verb, words, after)


def _begin_exchange(turned: Talk, session: _Session, words: list[bytes], at: int) -> None:
    """AUTH or X-EXPS with its mechanism; EXCHANGEAUTH names a hash before its token."""
    session.exchange = sasl.Exchange(text(words[0]), turned.signs)
    if len(words) > 1:
        session.exchange.read(words[-1], turned.client_side, at)


def _domain(rest: bytes) -> str:
    """The domain of MAIL FROM:<local@domain>, in lower case."""
    return text(rest.partition(b"@")[2].partition(b">")[0]).lower()


def _behind_contents(turned: Talk, session: _Session, verb: bytes, words: list[bytes], after: int) -> int:
    """Offset behind the message that DATA, BDAT or XEXCH50 announce; -1 if its end isn't here."""
    if verb == b"DATA":
        _note_received(turned, after)
        end = turned.client.find(b"\r\n.\r\n", after)
        return end + 5 if end >= 0 else -1
    if verb in (b"BDAT", b"XEXCH50") and words[0].isdigit() and len(words[0]) < 12:
        _note_received(turned, after)
        return after + int(words[0])
    return after


def _note_received(turned: Talk, at: int) -> None:
    """The topmost Received field is the sender's own: it tells which server software and build that is."""
    found = _RECEIVED.match(turned.client[at : at + 1024])
    if found:
        turned.by_client("smtp.received", f"{text(found[1])} id {text(found[2])}", at)


# ---- conclusion ------------------------------------------------------------------------------


def _conclude(turned: Talk, session: _Session) -> Evidence:
    upgraded = session.client_tls_at is not None or session.server_tls_at is not None
    handshake = tls.Handshake()
    if upgraded:
        ends = len(turned.client), len(turned.server)
        handshake = tls.read(turned, _or(session.client_tls_at, ends[0]), _or(session.server_tls_at, ends[1]))
    return Evidence(
        "smtp",
        Place(turned.server_side if turned.server else turned.client_side, 0),
        turned.reversed,
        authentication=_authentication(session, handshake, upgraded),
        encryption="tls-upgrade" if upgraded else "none",
        tls_version=handshake.version or None,
        tls_sni=handshake.sni,
        ja4=handshake.ja4,
        signs=tuple(turned.signs.kept),
        gap=turned.broken and not upgraded,
        limited=turned.signs.full or (turned.limited and not upgraded),
    )


def _or(offset: int | None, otherwise: int) -> int:
    return otherwise if offset is None else offset


def _authentication(session: _Session, handshake: tls.Handshake, upgraded: bool) -> str | None:
    """X-ANONYMOUSTLS is only ever followed by X-EXPS inside; certificates count only when the client shows one."""
    if upgraded and session.upgrade == "X-ANONYMOUSTLS":
        return "exchange-server"
    if session.exchange is not None and session.exchange.authentication:
        return session.exchange.authentication
    if upgraded:
        return "direct-trust" if handshake.mutual_self_signed else handshake.authentication
    return "anonymous" if session.mail_seen else None
