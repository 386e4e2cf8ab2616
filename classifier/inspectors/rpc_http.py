"""RPC over HTTP in clear, version 1 (RPC_CONNECT) and version 2 (RPC_IN_DATA and RPC_OUT_DATA): MS-RPCH.

Owns the requests to the RPC proxy, the target in their query, and the joining of the two connections that make
one virtual connection: binds and calls travel in the IN channel, their answers in the OUT channel. Each alone
gives what it can; `join` gives the rest when both are at hand. HTTP heads are `http`'s, PDUs `association`'s.

Bodies may have any length (a content length of 1 GiB stands for "without end") or be chunked. Behind a hole a
body goes on as it was, and the PDU reader finds its way again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Final

from classifier import limits
from classifier.inspectors import association, dcerpc, gssapi, http, sasl
from classifier.inspectors.base import (
    NOT_THIS,
    WAIT,
    Answer,
    Dialogue,
    Evidence,
    FirstOctets,
    Handout,
    Place,
    Side,
    Stream,
)
from classifier.inspectors.carried import Carried
from classifier.inspectors.ncacn_http import GREETING
from classifier.inspectors.reading import Signs, text

IN, OUT, CONNECT = b"RPC_IN_DATA", b"RPC_OUT_DATA", b"RPC_CONNECT"
_METHODS: Final = (IN, OUT, CONNECT)

_CONTENT_TYPE: Final = b"application/rpc"
"""MS-RPCH 2.1.2.1.1: what both channels call their bodies."""

_TARGET: Final = re.compile(r"\A(?:[^?]*\?)?([^:&?/\s]{1,255}):([0-9]{1,5})\Z")
"""host:port, bare (RPC_CONNECT) or as the query of the proxy's path (MS-RPCH 2.2.2)."""

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]{0,200}\r?\n")

_TEXTS: Final = (b"host", b"user-agent")
_OFFERED, _USED = b"www-authenticate", b"authorization"


@dataclass(slots=True)
class Channel:
    """One HTTP connection of a virtual connection, read.

    method: the verb of its request, b"" if only the answer was seen. client: the side of the dialogue that asks.
    requests, replies: the PDUs of either direction. link: where the virtual connection is named.
    """

    client: Side = Side.TO_SERVER
    method: bytes = b""
    target: str = ""
    scheme: str | None = None
    tokens: list[gssapi.Token] = field(default_factory=list)
    signs: Signs = field(default_factory=Signs)
    requests: Carried = field(default_factory=Carried)
    replies: Carried = field(default_factory=Carried)
    link: Place = field(default_factory=lambda: Place(Side.TO_SERVER, 0))
    streams: tuple[Stream, Stream] = (Stream(), Stream())

    def locate(self, side: Side, offset: int) -> Place:
        """Where a byte of the PDUs stands in the dialogue."""
        carried = self.requests if side is self.client else self.replies
        return Place(side, carried.origin(offset))

    @property
    def authentication(self) -> str | None:
        """What the HTTP layer used; None if nothing."""
        if self.scheme in ("negotiate", "ntlm", "kerberos"):
            return gssapi.settle(self.tokens) or self.scheme
        return self.scheme


@dataclass(frozen=True, slots=True)
class ChannelEvidence(Evidence):
    """Evidence of one connection, with what `join` needs to put it together with the other.

    virtual_connection: the cookie that both connections name, "" if it was not seen. channel: what was read, for
    another reading; evidence that says the same is equal without it.
    """

    virtual_connection: str = ""
    channel: Channel | None = field(default=None, compare=False)


FIRST_OCTETS: Final = FirstOctets(b"RH")
"""The three verbs; a status line."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read one connection between a client and an RPC proxy."""
    if dialogue.transport != "tcp":
        return NOT_THIS
    client = _client(dialogue)
    if client is None:
        return WAIT if _may_become(dialogue.to_server.head) or _may_become(dialogue.to_client.head) else NOT_THIS
    channel = _read_channel(dialogue, client)
    rpc = association.Association(dcerpc.WANTED, client)
    rpc.read_client(channel.requests.chunks())
    rpc.read_server(channel.replies.chunks())
    return _evidence(channel, dcerpc.conclude(rpc, "http", channel.locate))


def join(one: ChannelEvidence, other: ChannelEvidence) -> tuple[Evidence, Evidence]:
    """Both halves of a virtual connection, in the order given, each with what the other adds to it.

    Results in the OUT channel belong to binds in the IN channel, by call id and position. Places stay in the
    conversation whose evidence they are in: what was seen in the other one stands where the virtual
    connection is named. Two halves that are not IN and OUT of one connection are given back as they are.
    """
    halves = {evidence.channel.method or OUT: evidence.channel for evidence in (one, other) if evidence.channel}
    same = one.virtual_connection and one.virtual_connection == other.virtual_connection
    if set(halves) != {IN, OUT} or not same:
        return one, other
    inward, outward = halves[IN], halves[OUT]
    rpc = association.Association(dcerpc.WANTED)
    rpc.read_client(inward.requests.chunks())
    rpc.read_server(outward.replies.chunks())

    def seen_from(channel: Channel) -> Evidence:
        def locate(side: Side, offset: int) -> Place:
            own = side is Side.TO_SERVER if channel is inward else side is Side.TO_CLIENT
            return channel.locate(Side(side ^ channel.client), offset) if own else channel.link

        return _evidence(channel, dcerpc.conclude(rpc, "http", locate))

    return seen_from(one.channel or inward), seen_from(other.channel or outward)


# ---- which side, which message -----------------------------------------------------------------


def _client(dialogue: Dialogue) -> Side | None:
    """The side that asks: it sends the verbs, or the other answers with a body of PDUs."""
    for side in Side:
        if dialogue.stream(side).head.startswith(_METHODS):
            return side
    for side in Side:
        head = http.read_head(dialogue.stream(side).head)
        if head and head.status == 200 and head.get(b"content-type").lower() == _CONTENT_TYPE:
            return Side(1 - side)
    return None


def _may_become(head: bytes) -> bool:
    return bool(head) and any(method.startswith(head) for method in _METHODS)


def _read_channel(dialogue: Dialogue, client: Side) -> Channel:
    asking, answering = dialogue.stream(client), dialogue.stream(Side(1 - client))
    channel = Channel(client, streams=(asking, answering))
    for head, offset in _messages(asking, channel.requests):
        _note_request(channel, head, Place(client, offset))
    for head, offset in _messages(answering, channel.replies):
        for name, value in head.headers:
            if name == _OFFERED:
                _note_token(channel, value, Place(Side(1 - client), offset))
    return channel


def _messages(stream: Stream, pdus: Carried) -> Iterator[tuple[http.Head, int]]:
    """Heads of one stream with their offsets, their bodies added to `pdus` if they are RPC."""
    body: _Body | None = None
    left = limits.MAX_COMMANDS
    for holes, chunk in enumerate(stream.chunks):
        at, data = 0, chunk.data
        while at < len(data):
            if body is None:
                head = http.read_head(data, at) if left else None
                if head is None or not head.whole:
                    break
                left -= 1
                yield head, chunk.offset + at
                at, body = head.end, _body_of(head, chunk.offset + head.end, pdus)
                continue
            at = body.read(data, at, chunk.offset, holes)
            if body.ended:
                body = None


class _Body:
    """One message body on its way: of a known length, chunked, or up to the end of the stream."""

    def __init__(self, pdus: Carried | None, end: int, chunked: bool) -> None:
        self.pdus = pdus
        self.end = end
        self.chunked = chunked
        self.ended = False
        self._holes = -1

    def read(self, data: bytes, at: int, base: int, holes: int) -> int:
        """Take what belongs to the body from `at` on; says where it stopped. base: stream offset of data."""
        if self.chunked and self._holes not in (-1, holes):
            self.chunked = False  # where the next chunk begins was in the hole: from here on, take all there is
        self._holes = holes
        if self.chunked:
            return self._read_chunks(data, at, base, holes)
        stop = max(min(self.end - base, len(data)), at)
        self._take(data[at:stop], base + at, holes)
        self.ended = base + stop >= self.end
        return stop

    def _read_chunks(self, data: bytes, at: int, base: int, holes: int) -> int:
        """Chunks in a row (RFC 9112 section 7.1); the last may be cut."""
        while match := _CHUNK_SIZE.match(data, at):
            size, start = int(match[1], 16), match.end()
            if not size:
                self.ended = True
                return min(start + 2, len(data))
            self._take(data[start : start + size], base + start, holes)
            at = start + size + 2
        return len(data)

    def _take(self, data: bytes, origin: int, holes: int) -> None:
        if self.pdus is not None and data:
            greeting = len(GREETING) if data.startswith(GREETING) else 0  # the server's own, behind RPC_CONNECT
            self.pdus.append(data[greeting:], origin + greeting, holes)


_ENDLESS: Final = 1 << 62


def _body_of(head: http.Head, start: int, pdus: Carried) -> _Body:
    chunked = head.get(b"transfer-encoding").lower().endswith(b"chunked")
    length = head.get(b"content-length")
    size = int(length) if length.isdigit() and len(length) < 16 else _ENDLESS
    is_rpc = head.method in _METHODS or 200 <= head.status < 300
    return _Body(pdus if is_rpc else None, start + size, chunked)


# ---- what a request says -----------------------------------------------------------------------


def _note_request(channel: Channel, head: http.Head, place: Place) -> None:
    target = text(head.target)
    channel.method = channel.method or head.method
    channel.signs.add("http.method", text(head.method), place)
    if head.method != CONNECT:
        channel.signs.add("http.path", target.partition("?")[0], place)
    if not channel.target and _TARGET.match(target):
        channel.target = target.rpartition("?")[2]
        channel.link = place
        channel.signs.add("rpc.proxy-target", channel.target, place)
    for name, value in head.headers:
        if name in _TEXTS:
            channel.signs.add(f"http.{text(name)}", text(value), place)
        elif name == _USED:
            _note_token(channel, value, place)
            scheme = text(value.partition(b" ")[0]).lower()
            channel.scheme = _SCHEMES.get(scheme, channel.scheme)
            channel.signs.add("http.authorization", scheme, place)


_SCHEMES: Final = {
    "basic": "basic", "digest": "digest", "ntlm": "ntlm", "negotiate": "negotiate", "bearer": "bearer",
}  # fmt: skip


def _note_token(channel: Channel, value: bytes, place: Place) -> None:
    """Tokens of NTLM and Negotiate; credentials of other schemes are never decoded."""
    scheme, _, blob = value.partition(b" ")
    if scheme.lower() not in (b"ntlm", b"negotiate") or not blob:
        return
    token = gssapi.read_token(sasl.decode(blob))
    if len(channel.tokens) < limits.MAX_CONTEXTS:
        channel.tokens.append(token)
    for name, told in token.signs:
        channel.signs.add(name, told, place)


def _evidence(channel: Channel, findings: dcerpc.Findings) -> ChannelEvidence:
    cookie = next((sign for sign in findings.signs if sign.field == "rpc.virtual-connection"), None)
    handouts = _proxied(channel, findings)
    base = dcerpc.evidence_of(
        replace(findings, signs=channel.signs.kept + findings.signs, handouts=handouts + findings.handouts),
        "rpc-over-http",
        channel.client is Side.TO_CLIENT,
        channel.streams,
    )
    values = {item.name: getattr(base, item.name) for item in fields(Evidence)}
    values["authentication"] = channel.authentication or findings.authentication
    values["encryption"] = findings.encryption or "none"
    return ChannelEvidence(**values, virtual_connection=cookie.value if cookie else "", channel=channel)


def _proxied(channel: Channel, findings: dcerpc.Findings) -> list[Handout]:
    """The port behind the proxy: with the interfaces accepted there, once they are known."""
    host, _, port = channel.target.rpartition(":")
    if not port or not 0 < int(port) < 65536:
        return []
    accepted = [(found.uuid, found.version) for found in findings.interfaces if found.accepted] or [("", "")]
    return [
        Handout("rpc-proxy", "http", int(port), channel.link, uuid, version, host=host) for uuid, version in accepted
    ]
