"""RPC over a connection that greets with `ncacn_http/1.0` (MS-RPCH 2.1.2.1): endpoints behind an RPC proxy.

Owns the 14-byte greeting of the server. What follows are plain connection-oriented PDUs and RTS, read as any
association. The greeting tells the sides: the server sends it, first of all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from classifier.inspectors import dcerpc, epm
from classifier.inspectors.base import (
    NOT_THIS,
    WAIT,
    Answer,
    Chunk,
    Dialogue,
    Evidence,
    FirstOctets,
    Place,
    Side,
    Stream,
)

GREETING: Final = b"ncacn_http/1.0"

FIRST_OCTETS: Final = FirstOctets(GREETING[:1])


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read a conversation with an ncacn_http endpoint; protocol `epm` if the endpoint mapper is bound in it."""
    for side in (Side.TO_CLIENT, Side.TO_SERVER):
        head = dialogue.stream(side).head
        if head.startswith(GREETING):
            return _greeted(dialogue, side)
        if head and GREETING.startswith(head):
            return WAIT
    return NOT_THIS


def _greeted(dialogue: Dialogue, server: Side) -> Evidence:
    to_server, to_client = dialogue.to_server, dialogue.to_client
    if server is Side.TO_CLIENT:
        to_client = _without_greeting(to_client)
    else:
        to_server = _without_greeting(to_server)
    found = dcerpc.read_association(to_server, to_client, protocol="ncacn-http")
    if isinstance(found, Answer):
        found = Evidence("ncacn-http")
    if any(interface.uuid == epm.UUID for interface in found.interfaces):
        found = replace(found, protocol="epm")
    return replace(found, reversed=server is Side.TO_SERVER, place=Place(server, 0))


def _without_greeting(stream: Stream) -> Stream:
    first = stream.chunks[0]
    rest = (Chunk(len(GREETING), first.data[len(GREETING) :]),) if len(first.data) > len(GREETING) else ()
    return stream._replace(chunks=rest + stream.chunks[1:])
