""".NET NegotiateStream: a framed SPNEGO or NTLM exchange, then sealed frames. DAG replication uses it.

`read` also serves the upgrade inside .NET message framing. Source: MS-NNS section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from classifier import limits
from classifier.inspectors import gssapi
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place
from classifier.inspectors.reading import Talk, talk

DONE, ERROR, IN_PROGRESS = 0x14, 0x15, 0x16
"""MessageId values (MS-NNS 2.2.1)."""

_TOKEN_STARTS: Final = (b"\x60", b"\x6e", b"\xa0", b"\xa1", gssapi.NTLM_MAGIC)
_MAX_FRAMES: Final = 32
"""Frames of a handshake; Kerberos takes two of each side, NTLM the same."""


@dataclass(slots=True)
class Handshake:
    """What both sides' frames tell."""

    tokens: list[gssapi.Token] = field(default_factory=list)
    done: bool = False
    failed: bool = False

    @property
    def authentication(self) -> str:
        """Kerberos or NTLM by the tokens; which of the two is not yet settled: negotiate."""
        return gssapi.settle(self.tokens) or "negotiate"


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side begins with a frame of a handshake."""
    return _is_frame(client, 0) or _is_frame(server, 0)


def _is_frame(data: bytes, at: int) -> bool:
    """MessageId, version 1.0, and a payload that is a token, an error code or nothing."""
    if data[at + 1 : at + 3] != b"\1\0" or len(data) < at + 5:
        return False
    length, body = int.from_bytes(data[at + 3 : at + 5], "big"), data[at + 5 : at + 13]
    if data[at] == IN_PROGRESS:
        return length > 8 and body.startswith(_TOKEN_STARTS)
    if data[at] == DONE:
        return length == 0 or body.startswith(_TOKEN_STARTS)
    return data[at] == ERROR and length == 8


def _is_begun(data: bytes) -> bool:
    """Whether this is too short to tell, and could become a frame."""
    return len(data) < 13 and data[0] in (DONE, ERROR, IN_PROGRESS) and b"\1\0".startswith(data[1:3])


FIRST_OCTETS: Final = FirstOctets(bytes((DONE, ERROR, IN_PROGRESS)))


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read the handshake frames of both sides; a side that was captured must be made of them."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    if dialogue.transport != "tcp":
        return NOT_THIS
    heads = [data for data in (ours, theirs) if data]
    if not heads or not all(_is_frame(data, 0) or _is_begun(data) for data in heads):
        return NOT_THIS
    if not any(_is_frame(data, 0) for data in heads):
        return WAIT
    turned = talk(dialogue, turned=_server_first(ours, theirs))
    found = read(turned, 0, 0)
    return Evidence(
        "nego-stream",
        Place(turned.client_side if turned.client else turned.server_side, 0),
        turned.reversed if _asks(ours) or _asks(theirs) else None,
        authentication=found.authentication,
        encryption="nego-stream" if found.done else None,
        signs=tuple(turned.signs.kept),
        gap=turned.broken and not found.done,
    )


def _server_first(ours: bytes, theirs: bytes) -> bool:
    return not _asks(ours) and _asks(theirs)


def _asks(data: bytes) -> bool:
    """Whether a side begins with an initiator's token: a framed one, or NTLM's message of type 1."""
    return data[5:6] == b"\x60" or data[5:17] == gssapi.NTLM_MAGIC + b"\1\0\0\0"


def read(turned: Talk, client_at: int, server_at: int) -> Handshake:
    """Read the frames that begin at these offsets; names in the tokens go to `turned`'s signs."""
    found = Handshake()
    for data, at, side in (
        (turned.client, client_at, turned.client_side),
        (turned.server, server_at, turned.server_side),
    ):
        for kind, token, offset in _frames(data, at):
            found.done = found.done or kind == DONE
            found.failed = found.failed or kind == ERROR
            if kind != ERROR and token:
                _note(turned, found, token, Place(side, offset))
    if found.failed:
        turned.by_server("nego-stream.error", "failed", server_at)
    return found


def _frames(data: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    for _ in range(_MAX_FRAMES):
        if not _is_frame(data, at):
            return
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        yield data[at], data[at + 5 : end], at
        if data[at] != IN_PROGRESS:
            return
        at = end


def _note(turned: Talk, found: Handshake, token: bytes, place: Place) -> None:
    read_ = gssapi.read_token(token[: limits.MAX_TOKEN])
    found.tokens.append(read_)
    for name, value in read_.signs:
        turned.signs.add(name, value, place)
