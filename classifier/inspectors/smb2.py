"""SMB 2 and 3 messages, as far as they tell about shares, logons and named pipes (MS-SMB2 2.2).

Owns the 64-byte header and the bodies of seven commands. The replies are indexed by message id first, so that
each request meets its reply whatever happened in between: credits, compounds, interim replies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from classifier import limits
from classifier.inspectors import pdus
from classifier.inspectors.base import Chunk
from classifier.inspectors.netbios_session import MESSAGE, frames
from classifier.inspectors.pipes import Session

MAGIC: Final = b"\xfeSMB"
TRANSFORM: Final = b"\xfdSMB"
"""What an encrypted message begins with instead (MS-SMB2 2.2.41)."""
MAGICS: Final = (MAGIC, TRANSFORM)

NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, READ, WRITE, IOCTL = 0, 1, 3, 5, 8, 9, 11

RESPONSE, SIGNED = 0x1, 0x8
"""Header flags (MS-SMB2 2.2.1.1)."""

PENDING: Final = 0x00000103
PIPE_TRANSCEIVE: Final = 0x0011C017
"""FSCTL_PIPE_TRANSCEIVE: write and read in one (MS-FSCC 2.3)."""

HEADER_SIZE: Final = 64
_HEADER = Struct("<4sHHIHHIIQIIQ").unpack_from
_PAIR = Struct("<HH").unpack_from
_LONGS = Struct("<II").unpack_from
_WRITE = Struct("<HI").unpack_from

_DIALECTS: Final = {0x0202: "2.0.2", 0x0210: "2.1", 0x02FF: "2.x", 0x0300: "3.0", 0x0302: "3.0.2", 0x0311: "3.1.1"}

_SAME_FILE: Final = b"\xff" * 16
"""FileId of a related request: the one of the compound's CREATE (MS-SMB2 3.3.5.2.7.2)."""

_ALWAYS_SIGNED: Final = frozenset({NEGOTIATE, SESSION_SETUP, TREE_CONNECT, IOCTL})
"""Commands that are signed in places although the session is not (MS-SMB2 3.2.4.1.1)."""


class Message(NamedTuple):
    """One message of a compound.

    start, end: in data. offset: of its start in the stream. whole: a hole did not cut it off.
    """

    data: bytes
    start: int
    end: int
    offset: int
    holes: int
    whole: bool
    command: int
    status: int
    flags: int
    number: int
    tree: int

    def body(self, at: int, size: int) -> bytes:
        """size bytes at an offset in the body, fewer if the message ends before."""
        start = self.start + HEADER_SIZE + at
        return self.data[start : min(start + size, self.end)]

    def buffer(self, at: int, size: int) -> bytes:
        """size bytes at an offset from the header's beginning, as the bodies' offset fields count."""
        start = self.start + at
        return self.data[start : min(start + size, self.end)]

    def pair(self, at: int) -> tuple[int, int]:
        """Two 16-bit fields of the body; (0, 0) if they aren't there."""
        start = self.start + HEADER_SIZE + at
        return _PAIR(self.data, start) if start + 4 <= self.end else (0, 0)

    def longs(self, at: int) -> tuple[int, int]:
        """Two 32-bit fields of the body; (0, 0) if they aren't there."""
        start = self.start + HEADER_SIZE + at
        return _LONGS(self.data, start) if start + 8 <= self.end else (0, 0)


_READ_COMMANDS: Final = frozenset({NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, READ, WRITE, IOCTL})


def messages(chunks: Sequence[Chunk], session: Session) -> Iterator[Message]:
    """The messages of one stream with a command that is read; notes signing and encryption of all."""
    for count, frame in enumerate(frames(chunks), 1):
        session.limited |= count == limits.MAX_PDUS
        data, start, end = frame.data, frame.start, frame.end
        session.encrypted |= data[start : start + 4] == TRANSFORM
        left = limits.MAX_COMPOUND if frame.kind == MESSAGE else 0
        while left and start + HEADER_SIZE <= end and data[start : start + 4] == MAGIC:
            left -= 1
            _, size, _, status, command, _, flags, following, number, _, tree, _ = _HEADER(data, start)
            if size != HEADER_SIZE:
                break
            if command not in _ALWAYS_SIGNED:
                session.signed |= bool(flags & SIGNED)
                session.unsigned |= not flags & SIGNED
            if command in _READ_COMMANDS:
                stop = min(start + following, end) if following else end
                offset = frame.offset + start - frame.start
                yield Message(data, start, stop, offset, frame.holes, frame.whole, command, status, flags, number, tree)
            if following < HEADER_SIZE:
                break
            start += following


def read(session: Session, requests: Sequence[Chunk], replies: Sequence[Chunk]) -> None:
    """Fill the session from both streams."""
    _Reader(session).read(requests, replies)


class _Reader:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.replies: dict[tuple[int, int], Message] = {}
        self.shares: dict[int, str] = {}
        self.last_created: bytes = b""

    def read(self, requests: Sequence[Chunk], replies: Sequence[Chunk]) -> None:
        for message in messages(replies, self.session):
            if message.flags & RESPONSE and message.status != PENDING:
                self.replies[message.command, message.number] = message
                self._reply(message)
        asked: set[tuple[int, int]] = set()
        for message in messages(requests, self.session):
            if not message.flags & RESPONSE:
                asked.add((message.command, message.number))
                self._request(message)
        self._unasked(asked)

    def _reply(self, reply: Message) -> None:
        session = self.session
        if reply.command == NEGOTIATE:
            session.mark("smb.dialect", _DIALECTS.get(reply.pair(4)[0], ""), session.server, reply.offset)
        elif reply.command == SESSION_SETUP and reply.whole:
            session.token(reply.buffer(*reply.pair(4)), session.server, reply.offset)

    def _request(self, request: Message) -> None:
        session, command = self.session, request.command
        if command == SESSION_SETUP and request.whole:
            session.token(request.buffer(*request.pair(12)), session.client, request.offset)
        elif command == TREE_CONNECT:
            self._connect(request)
        elif command == CREATE:
            self._create(request)
        elif command == WRITE:
            at, length = _WRITE(request.body(2, 6)) if len(request.body(2, 6)) == 6 else (0, 0)
            self._write(request, request.body(16, 16), at, length)
        elif command == READ:
            self._answer(request, request.body(16, 16))
        elif command == IOCTL and request.longs(4)[0] == PIPE_TRANSCEIVE:
            handle = request.body(8, 16)
            self._write(request, handle, *request.longs(24))
            self._answer(request, handle)

    def _connect(self, request: Message) -> None:
        share = _name(request.buffer(*request.pair(4)))
        self.session.mark("smb.share", share, self.session.client, request.offset)
        reply = self.replies.get((TREE_CONNECT, request.number))
        if reply is not None and not reply.status and len(self.shares) < limits.MAX_CALLS:
            self.shares[reply.tree] = share

    def _create(self, request: Message) -> None:
        self.last_created = b""
        reply = self.replies.get((CREATE, request.number))
        share = self.shares.get(request.tree, "")
        name = _name(request.buffer(*request.pair(44)))
        if reply is not None and not reply.status:
            self.last_created = reply.body(64, 16)
            self.session.opened(self.last_created, name, share, request.offset)

    def _handle(self, handle: bytes) -> bytes:
        return self.last_created if handle == _SAME_FILE else handle

    def _write(self, request: Message, handle: bytes, at: int, length: int) -> None:
        data = request.buffer(at, min(length, pdus.HEADER_SIZE))
        pipe = self.session.pipe(self._handle(handle), data)
        if pipe is not None:
            data = request.buffer(at, length)
            missing = 0 if request.whole else length - len(data)
            pipe.halves[0].append(data, request.offset + at, request.holes, missing)

    def _answer(self, request: Message, handle: bytes) -> None:
        pipe = self.session.pipes.get(self._handle(handle))
        reply = self.replies.get((request.command, request.number))
        if pipe is not None and reply is not None:
            at, length = _output(reply)
            data = reply.buffer(at, length)
            if data:
                missing = 0 if reply.whole else length - len(data)
                pipe.halves[1].append(data, reply.offset + at, reply.holes, missing)

    def _unasked(self, asked: set[tuple[int, int]]) -> None:
        """Replies without their requests (a capture of one direction): what begins with a PDU is a pipe's."""
        for key, reply in self.replies.items():
            if key in asked or reply.command not in (READ, IOCTL):
                continue
            at, length = _output(reply)
            pipe = self.session.pipe("unasked", reply.buffer(at, length)) if length else None
            if pipe is not None:
                pipe.halves[1].append(reply.buffer(at, length), reply.offset + at, reply.holes)


def _output(reply: Message) -> tuple[int, int]:
    """Offset and length of the data in the reply to a READ or IOCTL."""
    if reply.command == IOCTL:
        return reply.longs(32)
    head = reply.body(2, 6)
    return (head[0], int.from_bytes(head[2:6], "little")) if len(head) == 6 else (0, 0)


def _name(raw: bytes) -> str:
    return raw.decode("utf-16-le", "replace")[: limits.MAX_TEXT]
