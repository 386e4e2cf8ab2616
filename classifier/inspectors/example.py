"""SSH, read as far as its greeting: the working model for someone who adds a protocol.

This module is real (SSH must not be mistaken for anything else) and as small as an inspector gets. To add one:

1. Copy this file under the protocol's name. Open it, as here, with what it owns and the specification it follows.
2. Write `opens`: a test of the first bytes that is cheap and never says no to the protocol. Either side may be the
   client's, since a capture that begins late doesn't tell who called whom.
3. Write `inspect`: `NOT_THIS` for another protocol, `WAIT` while what is there could still become this one, else
   `Evidence`. Check every length, bound every loop (`limits`), raise nothing, keep nothing between calls.
4. Write `FIRST_OCTETS` beside it: with which octets a stream begins that isn't `NOT_THIS`. About others `inspect`
   isn't asked at all, so with one too few it never sees a conversation; the tests of step 7 tell.
5. Name each observation as a `Sign` (dotted field, value, place). Never put a secret into one.
6. Add the protocol's word to `model.ProtocolName` and a line to `TCP` or `UDP` in this package's `__init__`, before
   any protocol that could be mistaken for it.
7. Add tests of bytes in and evidence out in `tests/inspectors/`, and a conversation to `spoken.py` there: the tests of
   segmentation and of hostile bytes, and the costs in `tests/bench`, are made of those.

Source: RFC 4253 section 4.2.
"""

from __future__ import annotations

import re
from typing import Final

from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place, Side
from classifier.inspectors.reading import Signs, text

_GREETING: Final = re.compile(rb"SSH-(?:1\.[0-9]{1,2}|2\.0)-([^\r\n]{1,250})\r?\n")
_BEGINS: Final = b"SSH-"


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side begins like a version exchange."""
    return client[:4] == _BEGINS or server[:4] == _BEGINS


FIRST_OCTETS: Final = FirstOctets(_BEGINS[:1])


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Keep the software version of each side that was captured.

    Both sides greet alike, so `Evidence.reversed` stays None: the payload doesn't tell who the server is.
    """
    if dialogue.transport != "tcp" or not opens(dialogue.to_server.head, dialogue.to_client.head):
        return NOT_THIS
    signs = Signs()
    for side in Side:
        found = _GREETING.match(dialogue.stream(side).head)
        if found:
            signs.add("ssh.software", text(found[1]), Place(side, 0))
    if not signs.kept:
        return WAIT  # a greeting whose line end has not come yet
    return Evidence("ssh", signs.kept[0].place, signs=tuple(signs.kept))
