"""POP3: greeting, login and the TLS behind STLS.

Sources: RFC 1939, RFC 2449 (CAPA), RFC 5034 (AUTH), RFC 2595 (STLS), MS-POP3.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from classifier import limits
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets
from classifier.inspectors.logins import Session
from classifier.inspectors.reading import lines, talk, text

_OPENING: Final = re.compile(rb"(?:USER |APOP |STLS\r?\n|CAPA\r?\n|AUTH(?: |\r?\n))", re.I)
_OWN: Final = re.compile(rb"(?:APOP |STLS$|CAPA$|STAT$|UIDL|RETR \d|TOP \d+ \d|DELE \d)", re.I)
"""Commands that FTP, which also has USER and PASS, hasn't."""

_ANSWER: Final = re.compile(rb"(?:\+OK|-ERR)(?: |$)")
_FIRST_ANSWER: Final = re.compile(rb"(?:\+OK|-ERR) [^\r\n]")
"""With words behind it: other servers (Redis, for one) say a bare +OK."""

_COMMANDS: Final = frozenset(
    b"USER PASS APOP STLS CAPA AUTH STAT LIST RETR DELE NOOP RSET QUIT TOP UIDL UTF8 XTND".split()
)


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with +OK or -ERR, or with a command of POP3."""
    return any(data[:3] in (b"+OK", b"-ER") or _OPENING.match(data) for data in (client, server))


FIRST_OCTETS: Final = FirstOctets(b"+-UASCuasc")
"""Answers; the commands of `_OPENING`."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read a session in the orientation that its answers and commands prove."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    turned = talk(dialogue, turned=ours[:3] in (b"+OK", b"-ER") or bool(_OPENING.match(theirs)))
    session = Session(turned)
    if not _speaks(turned.client):
        return NOT_THIS
    _read_client(session)
    _read_server(session)
    if session.recognised:
        return session.conclude("pop3")
    return WAIT if b"\n" not in turned.server and turned.server[:1] in (b"", b"+", b"-") else NOT_THIS


def _speaks(client: bytes) -> bool:
    """Whether a command is among the client's first lines, as far as it said anything."""
    said = list(islice(lines(client), 4))
    return not said or any(line.split(b" ")[0].upper() in _COMMANDS for _, _, line in said)


def _read_client(session: Session) -> None:
    for at, after, line in islice(lines(session.turned.client), limits.MAX_COMMANDS):
        verb, *words = line.split(b" ")
        verb = verb.upper()
        if verb not in _COMMANDS:
            session.by_client(line, at)
            continue
        session.recognised = session.recognised or _OWN.match(line) is not None
        session.turned.by_client("pop3.command", text(verb), at)
        if verb == b"STLS" and session.upgrades(after):
            return
        if verb == b"AUTH" and words:
            session.begin(words, at)
        elif verb == b"PASS":
            session.clear = "basic"
        elif verb == b"APOP":
            session.clear = "digest"


def _read_server(session: Session) -> None:
    """Answers; the first is the greeting. Anything that is neither an answer nor behind one is no POP3."""
    for at, after, line in islice(lines(session.turned.server), limits.MAX_COMMANDS):
        if _ANSWER.match(line):
            session.recognised = session.recognised or _FIRST_ANSWER.match(line) is not None
            if at == 0:
                session.turned.by_server("pop3.greeting", text(line[4:]), at)
            if session.upgraded(after):
                return
        elif not session.recognised:
            return
        elif line.startswith(b"+ "):
            session.by_server(line[2:], at)
