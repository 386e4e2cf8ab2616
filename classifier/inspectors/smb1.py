"""SMB 1 messages, as far as they tell about shares, logons and named pipes (MS-CIFS 2.2, MS-SMB 2.2).

Owns the 32-byte header, the chains of AndX commands and the parameters of the few commands that are read.
Multiplex ids are used again and again, so a reply is met in order: the next with the same command and ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from classifier import limits
from classifier.inspectors.base import Chunk
from classifier.inspectors.carried import Carried
from classifier.inspectors.netbios_session import MESSAGE, frames
from classifier.inspectors.pipes import Session

MAGIC: Final = b"\xffSMB"
MAGICS: Final = (MAGIC,)

TRANSACTION, OPEN, READ, WRITE, NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE = (
    0x25, 0x2D, 0x2E, 0x2F, 0x72, 0x73, 0x75, 0xA2,
)  # fmt: skip
"""SMB_COM_ codes, those with AndX where there are two (MS-CIFS 2.2.2.1)."""

_ANDX: Final = frozenset({OPEN, READ, WRITE, SESSION_SETUP, TREE_CONNECT, CREATE})
_READ_COMMANDS: Final = _ANDX | {TRANSACTION, NEGOTIATE}

REPLY: Final = 0x80
UNICODE: Final = 0x8000
SIGNED: Final = 0x0004
_NO_SIGNATURES: Final = (bytes(8), b"BSRSPYL ")
"""Signature fields that sign nothing: empty, and the placeholder of clients that could (MS-CIFS 3.2.4.1)."""

TRANSACT_PIPE: Final = 0x26
_RAW_MESSAGE_START: Final = 0x0C
"""WriteMode of a pipe in raw mode at the start of a message: two bytes of length precede (MS-CIFS 2.2.4.43.1)."""

_SIZE: Final = 32
_HEADER = Struct("<4sBIBHH8sHHHHH").unpack_from
_U16 = Struct("<H").unpack_from


class Command(NamedTuple):
    """One command of a chain. words: its parameters; strings: its data bytes; base, end: the message in data."""

    command: int
    key: tuple[int, int, int]
    flags2: int
    status: int
    tree: int
    words: bytes
    strings: bytes
    strings_at: int
    data: bytes
    base: int
    end: int
    offset: int
    holes: int
    whole: bool

    def u16(self, at: int) -> int:
        """A 16-bit parameter, 0 if there are not so many."""
        return _U16(self.words, at)[0] if at + 2 <= len(self.words) else 0

    def buffer(self, at: int, size: int) -> bytes:
        """size bytes at an offset from the header's beginning."""
        return self.data[self.base + at : min(self.base + at + size, self.end)]

    def text(self, at: int) -> str:
        """The string at an offset in the data bytes: UTF-16 on an even offset of the message, or OEM."""
        if not self.flags2 & UNICODE:
            return self.strings[at:].split(b"\0", 1)[0].decode("latin-1")[: limits.MAX_TEXT]
        at += (self.strings_at + at - self.base) % 2
        return self.strings[at:].decode("utf-16-le", "replace").split("\0", 1)[0][: limits.MAX_TEXT]


def commands(chunks: Sequence[Chunk], session: Session, reply: bool) -> Iterator[Command]:
    """The commands of one stream that are read; notes signing of all."""
    for count, frame in enumerate(frames(chunks), 1):
        session.limited |= count == limits.MAX_PDUS
        data, base = frame.data, frame.start
        if frame.kind != MESSAGE or base + _SIZE > frame.end or data[base : base + 4] != MAGIC:
            continue
        _, command, status, flags, flags2, _, signature, _, tree, process, _, multiplex = _HEADER(data, base)
        if bool(flags & REPLY) is not reply:
            continue
        if command not in (NEGOTIATE, SESSION_SETUP):
            signed = bool(flags2 & SIGNED) and signature not in _NO_SIGNATURES
            session.signed |= signed
            session.unsigned |= not signed
        position = base + _SIZE
        for _ in range(limits.MAX_COMPOUND):
            if command not in _READ_COMMANDS or position >= frame.end:
                break
            words_end = position + 1 + 2 * data[position]
            words = data[position + 1 : min(words_end, frame.end)]
            size = _U16(data, words_end)[0] if words_end + 2 <= frame.end else 0
            strings = data[words_end + 2 : min(words_end + 2 + size, frame.end)]
            yield Command(
                command, (command, process, multiplex), flags2, status, tree, words, strings, words_end + 2,
                data, base, frame.end, frame.offset, frame.holes, frame.whole,
            )  # fmt: skip
            following = base + _U16(words, 2)[0] if command in _ANDX and len(words) >= 4 else 0
            if following <= position:
                break
            command, position = words[0], following


def read(session: Session, requests: Sequence[Chunk], replies: Sequence[Chunk]) -> None:
    """Fill the session from both streams."""
    _Reader(session).read(requests, replies)


class _Reader:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.replies: dict[tuple[int, int, int], deque[Command]] = {}
        self.shares: dict[int, str] = {}

    def read(self, requests: Sequence[Chunk], replies: Sequence[Chunk]) -> None:
        for reply in commands(replies, self.session, reply=True):
            self.replies.setdefault(reply.key, deque()).append(reply)
        for request in commands(requests, self.session, reply=False):
            answers = self.replies.get(request.key)
            self._request(request, answers.popleft() if answers else None)
        self._unasked()

    def _request(self, request: Command, reply: Command | None) -> None:
        command = request.command
        if command == NEGOTIATE:
            self._negotiate(request, reply)
        elif command == SESSION_SETUP:
            self._log_on(request, reply)
        elif command == TREE_CONNECT:
            self._connect(request, reply)
        elif command in (CREATE, OPEN):
            self._create(request, reply)
        elif command == WRITE:
            raw = request.u16(14) & _RAW_MESSAGE_START == _RAW_MESSAGE_START
            skip = 2 if raw else 0
            length = request.u16(18) << 16 | request.u16(20)
            self._write(request, request.u16(4), request.u16(22) + skip, max(length - skip, 0))
        elif command == READ:
            self._answer(request.u16(4), reply)
        elif command == TRANSACTION and request.u16(28) == TRANSACT_PIPE:
            handle = request.u16(30)
            self._write(request, handle, request.u16(24), request.u16(22))
            self._answer(handle, reply)

    def _negotiate(self, request: Command, reply: Command | None) -> None:
        dialects = [name[1:] for name in request.strings.split(b"\0") if name[:1] == b"\2"]
        if reply is not None and reply.u16(0) < len(dialects):
            dialect = dialects[reply.u16(0)].decode("latin-1")
            self.session.mark("smb.dialect", dialect, self.session.server, reply.offset)

    def _log_on(self, request: Command, reply: Command | None) -> None:
        """SESSION_SETUP_ANDX: a token with extended security (12 words, MS-SMB 2.2.4.6.1), else NTLM or LM
        responses and names (13 words, MS-CIFS 2.2.4.53.1)."""
        session = self.session
        if len(request.words) == 24:
            session.token(request.strings[: request.u16(14)], session.client, request.offset)
        elif len(request.words) == 26 and request.u16(14) + request.u16(16):
            session.authentication = "ntlm"
            user = request.text(request.u16(14) + request.u16(16))
            session.mark("ntlm.user", user, session.client, request.offset)
        if reply is not None and len(reply.words) == 8:
            session.token(reply.strings[: reply.u16(6)], session.server, reply.offset)

    def _connect(self, request: Command, reply: Command | None) -> None:
        share = request.text(request.u16(6))
        self.session.mark("smb.share", share, self.session.client, request.offset)
        if reply is not None and not reply.status:
            self.shares[reply.tree] = share

    def _create(self, request: Command, reply: Command | None) -> None:
        if reply is not None and not reply.status and reply.words:
            at = 5 if request.command == CREATE else 4
            share = self.shares.get(request.tree, "")
            self.session.opened(reply.u16(at), request.text(0), share, request.offset)

    def _write(self, request: Command, handle: int, at: int, length: int) -> None:
        data = request.buffer(at, length)
        pipe = self.session.pipe(handle, data)
        if pipe is not None:
            missing = 0 if request.whole else length - len(data)
            pipe.halves[0].append(data, request.offset + at, request.holes, missing)

    def _answer(self, handle: int, reply: Command | None) -> None:
        pipe = self.session.pipes.get(handle)
        while pipe is not None and reply is not None:
            _append_output(pipe.halves[1], reply)
            later = self.replies.get(reply.key)
            reply = later.popleft() if later and _continues(later[0]) else None

    def _unasked(self) -> None:
        """Replies without their requests (a capture of one direction): what begins with a PDU is a pipe's."""
        for replies in self.replies.values():
            for reply in replies:
                if reply.command in (READ, TRANSACTION):
                    at, length = _output(reply)
                    pipe = self.session.pipe("unasked", reply.buffer(at, length)) if length else None
                    if pipe is not None:
                        _append_output(pipe.halves[1], reply)


def _output(reply: Command) -> tuple[int, int]:
    """Offset and length of the data in the reply to a READ_ANDX or TRANSACTION."""
    if reply.command == READ:
        return reply.u16(12), reply.u16(14) << 16 | reply.u16(10)
    return reply.u16(14), reply.u16(12)


def _continues(reply: Command) -> bool:
    """Whether a TRANSACTION reply carries on the one before (its data displacement is not 0)."""
    return reply.command == TRANSACTION and reply.u16(16) > 0


def _append_output(half: Carried, reply: Command) -> None:
    at, length = _output(reply)
    data = reply.buffer(at, length)
    if data:
        half.append(data, reply.offset + at, reply.holes, 0 if reply.whole else length - len(data))
