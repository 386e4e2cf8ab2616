"""The routing engine of Exchange 2000 and 2003 (691/tcp): the greeting it speaks first.

What follows is undocumented and sealed. The greeting holds a length in braces, NODEINFO with two numbers, a
version and "Microsoft Routing Server ready", as public service probes have recorded it.
"""

from __future__ import annotations

import re
from typing import Final

from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place
from classifier.inspectors.reading import talk, text

_GREETING: Final = re.compile(rb"(?:\{[0-9a-fA-F]{1,8}\} ?)?[^\r\n]{0,200}NODEINFO[^\r\n]{0,400}")
_READY: Final = b"Microsoft Routing Server ready"
_BEGINS: Final = re.compile(rb"(?:\{[0-9a-fA-F]{1,8}\} ?)?(?:220 [^\r\n]{0,150})?NODEINFO")


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side begins with NODEINFO behind an optional length in braces."""
    return any(_BEGINS.match(data) for data in (client, server))


FIRST_OCTETS: Final = FirstOctets(b"{N2")


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Know the greeting, whichever way round."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp" or not opens(ours, theirs):
        return NOT_THIS
    turned = talk(dialogue, turned=_BEGINS.match(ours) is not None and _READY in ours[:600])
    found = _GREETING.match(turned.server)
    if found is None or _READY not in turned.server[:600]:
        return WAIT if b"\n" not in turned.server else NOT_THIS
    turned.by_server("link-state.greeting", text(found[0]), 0)
    return Evidence("link-state", Place(turned.server_side, 0), turned.reversed, signs=tuple(turned.signs.kept))
