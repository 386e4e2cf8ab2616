"""Dialogues written down as bytes, and short ways to look at the evidence they give."""

from __future__ import annotations

from classifier import limits
from classifier.inspectors import TCP, UDP, to_ask
from classifier.inspectors.base import NOT_THIS, Answer, Chunk, Dialogue, Evidence, Stream
from classifier.model import AUTHENTICATIONS, ENCRYPTIONS, PROTOCOLS


def stream(*pieces: bytes | tuple[int, bytes], started: bool = True) -> Stream:
    """Pieces one after the other; (gap, bytes) leaves that many bytes out before a piece."""
    chunks, at = [], 0
    for piece in pieces:
        gap, data = piece if isinstance(piece, tuple) else (0, piece)
        at += gap
        if data:
            chunks.append(Chunk(at, data))
        at += len(data)
    return Stream(tuple(chunks), started)


def tcp(client: bytes = b"", server: bytes = b"", *, turned: bool = False, port: int = 40000) -> Dialogue:
    """A connection whose two sides said this; turned: captured the wrong way round."""
    ours, theirs = (server, client) if turned else (client, server)
    return Dialogue("tcp", stream(ours), stream(theirs), port, 50000, not turned)


def udp(client: list[bytes], server: list[bytes] | None = None, ports: tuple[int, int] = (40000, 50000)) -> Dialogue:
    """Datagrams of both directions; ports: of the server, of the client."""
    return Dialogue("udp", stream(*client), stream(*(server or [])), *ports)


def values(found: object, name: str) -> list[str]:
    """Values of the signs of one field."""
    assert isinstance(found, Evidence), found
    return [sign.value for sign in found.signs if sign.field == name]


def everything(found: Evidence) -> str:
    """All text of an evidence, for tests of what must not be in it."""
    return "\n".join([repr(found.handouts), *(f"{sign.field}={sign.value}" for sign in found.signs)])


def check(found: Evidence | Answer, dialogue: Dialogue) -> None:
    """An evidence keeps to the vocabularies, and each of its places is inside the streams."""
    assert isinstance(found, Evidence | Answer)
    if not isinstance(found, Evidence):
        return
    assert found.protocol in PROTOCOLS
    assert found.authentication in (None, *AUTHENTICATIONS)
    assert found.encryption in (None, *ENCRYPTIONS)
    assert len(found.signs) <= limits.MAX_SIGNS
    for thing in (found, *found.signs, *found.handouts):
        chunks = dialogue.stream(thing.place.side).chunks
        end = chunks[-1].offset + len(chunks[-1].data) if chunks else 0
        assert 0 <= thing.place.offset <= end, thing
    assert all(sign.field and sign.value and len(sign.value) <= limits.MAX_TEXT for sign in found.signs)
    assert all(0 < handout.port < 65536 for handout in found.handouts)


def check_who_is_not_asked(dialogue: Dialogue) -> None:
    """They would have refused, in this dialogue: their `FIRST_OCTETS` are true."""
    asked = to_ask(dialogue)
    for row in TCP if dialogue.transport == "tcp" else UDP:
        assert row.inspect in asked or row.inspect(dialogue) is NOT_THIS, row.name
