"""IMAP4: greeting, capabilities, login and the TLS behind STARTTLS.

Sources: RFC 3501, RFC 4959 (initial responses), MS-OXIMAP4.
"""

from __future__ import annotations

import re
from itertools import islice
from string import ascii_letters, digits
from typing import Final

from classifier import limits
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets
from classifier.inspectors.logins import Session
from classifier.inspectors.reading import lines, talk, text

_GREETING: Final = re.compile(rb"\* (?:OK|PREAUTH|BYE)(?: |\r?$)")
_COMMANDS: Final = frozenset(
    b"CAPABILITY NOOP LOGOUT STARTTLS AUTHENTICATE LOGIN SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE "
    b"LIST LSUB STATUS APPEND CHECK CLOSE EXPUNGE SEARCH FETCH STORE COPY MOVE UID IDLE ID ENABLE NAMESPACE".split()
)
_OPENING: Final = re.compile(rb"([A-Za-z0-9.$*_-]{1,20}) ([A-Za-z]{2,12})(?: [^\r\n]*)?\r?\n")
"""A tag, then a command (RFC 3501 section 2.2.1)."""

_UNTAGGED: Final = re.compile(
    rb"\* (?:OK|NO|BAD|CAPABILITY|FLAGS|LIST|LSUB|SEARCH|STATUS|ID|\d+ (?:EXISTS|RECENT|FETCH|EXPUNGE))\b"
)
_CAPABILITIES: Final = re.compile(rb"(?:\* |\[)CAPABILITY ([^\]]*)")


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with an untagged answer, or with a tag and a command of IMAP4."""
    return any(data[:2] == b"* " or _is_command(data) for data in (client, server))


def _is_command(data: bytes) -> bool:
    found = _OPENING.match(data)
    return found is not None and found[2].upper() in _COMMANDS


FIRST_OCTETS: Final = FirstOctets(b"*.$_-" + (digits + ascii_letters).encode())
"""Untagged answers; tags."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read a session in the orientation that its answers and commands prove."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    session = Session(talk(dialogue, turned=ours[:2] == b"* " or (theirs[:2] != b"* " and _is_command(theirs))))
    _read_client(session)
    _read_server(session)
    if session.recognised:
        return session.conclude("imap4")
    return WAIT if b"\n" not in session.turned.server else NOT_THIS


def _read_client(session: Session) -> None:
    for at, after, line in islice(lines(session.turned.client), limits.MAX_COMMANDS):
        words = line.split(b" ")
        verb = words[1].upper() if len(words) > 1 else b""
        if verb not in _COMMANDS:
            session.by_client(line, at)
            continue
        session.recognised = session.recognised or at == 0
        session.turned.by_client("imap4.command", text(verb), at)
        if verb == b"STARTTLS" and session.upgrades(after):
            return
        if verb == b"AUTHENTICATE" and len(words) > 2:
            session.begin(words[2:], at)
        elif verb == b"LOGIN":
            session.clear = "basic"


def _read_server(session: Session) -> None:
    for at, after, line in islice(lines(session.turned.server), limits.MAX_COMMANDS):
        if at == 0 and not _note_first(session, line):
            return
        for word in _capabilities(line):
            session.turned.by_server("imap4.capability", text(word), at)
        if line.startswith(b"+ "):
            session.by_server(line[2:], at)
        elif session.upgraded(after):
            return


def _note_first(session: Session, line: bytes) -> bool:
    """The greeting; in the middle of a stream, any untagged answer. Whether this can be IMAP4 at all."""
    if _GREETING.match(line):
        session.turned.by_server("imap4.greeting", text(line[2:]), 0)
        session.recognised = True
    elif _UNTAGGED.match(line):
        session.recognised = True
    return session.recognised


def _capabilities(line: bytes) -> list[bytes]:
    found = _CAPABILITIES.search(line) if b"CAPABILITY" in line else None
    return found[1].split()[:64] if found else []
