"""NNTP: greeting, whether a reader or another server asks, login and the TLS behind STARTTLS.

Sources: RFC 3977, RFC 4643 (AUTHINFO), RFC 4642 (STARTTLS), RFC 4644 (streaming feeds).
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from classifier import limits
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets
from classifier.inspectors.logins import Session
from classifier.inspectors.reading import lines, talk, text

_GREETING: Final = re.compile(rb"(?:200|201|400|502) .*?(?:NNTP|News|NNRP|INN |posting)", re.I)
_REPLY: Final = re.compile(rb"[1-5][0-9]{2} ")
_COMMANDS: Final = frozenset(
    b"ARTICLE AUTHINFO BODY CAPABILITIES CHECK DATE GROUP HEAD HELP IHAVE LAST LIST LISTGROUP MODE NEWGROUPS NEWNEWS "
    b"NEXT OVER POST QUIT SLAVE STARTTLS STAT TAKETHIS XFEATURE XHDR XOVER XPAT".split()
)
_OPENING: Final = re.compile(
    rb"(?:MODE (?:READER|STREAM)|AUTHINFO |CAPABILITIES\r?\n|IHAVE <|CHECK <|TAKETHIS <|GROUP [\w.+-]+\r?\n"
    rb"|XOVER |LISTGROUP )",
    re.I,
)
"""Commands that no other protocol with reply codes has."""


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with a reply code, or with a command that only NNTP has."""
    return any(_REPLY.match(data) or _OPENING.match(data) for data in (client, server))


FIRST_OCTETS: Final = FirstOctets(b"12345MACITGXLmacitgxl")
"""Reply codes; the commands of `_OPENING`."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read a session in the orientation that its replies and commands prove."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    session = Session(talk(dialogue, turned=bool(_REPLY.match(ours) or _OPENING.match(theirs))))
    _read_client(session)
    _read_server(session)
    if session.recognised:
        return session.conclude("nntp")
    undecided = b"\n" not in session.turned.server and session.turned.server[:3] in (b"200", b"201")
    return WAIT if undecided and not session.turned.client else NOT_THIS


def _read_client(session: Session) -> None:
    for at, after, line in islice(lines(session.turned.client), limits.MAX_COMMANDS):
        words = line.split(b" ")
        verb = words[0].upper()
        if verb not in _COMMANDS:
            session.by_client(line, at)
            continue
        session.recognised = session.recognised or _OPENING.match(line + b"\n") is not None
        session.turned.by_client("nntp.command", text(verb), at)
        if verb == b"STARTTLS" and session.upgrades(after):
            return
        if verb == b"AUTHINFO" and len(words) > 1:
            _note_login(session, words[1:], at)


def _note_login(session: Session, words: list[bytes], at: int) -> None:
    """AUTHINFO PASS and SIMPLE are in clear; SASL, and GENERIC before it, name a mechanism (RFC 2980 section 3.1.3)."""
    kind = words[0].upper()
    if kind in (b"PASS", b"SIMPLE"):
        session.clear = "basic"
    elif kind in (b"SASL", b"GENERIC") and len(words) > 1:
        session.begin(words[1:], at)


def _read_server(session: Session) -> None:
    for at, after, line in islice(lines(session.turned.server), limits.MAX_COMMANDS):
        if at == 0 and _GREETING.match(line):
            session.turned.by_server("nntp.greeting", text(line), at)
            session.recognised = True
        if line.startswith((b"381 ", b"383 ")):
            session.by_server(line[4:], at)
        elif line.startswith(b"382") and session.upgraded(after):
            return
