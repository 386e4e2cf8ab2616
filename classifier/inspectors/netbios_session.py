"""NetBIOS session service and its short form on port 445: the frames that SMB travels in.

Owns the four-byte header (RFC 1002 section 4.3, MS-SMB2 2.1). It knows of SMB only the four bytes that each of
its messages begins with, by which the reader finds its way again behind a hole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from classifier import limits
from classifier.inspectors.base import Chunk

MESSAGE, SESSION_REQUEST, POSITIVE, NEGATIVE, RETARGET, KEEP_ALIVE = 0x00, 0x81, 0x82, 0x83, 0x84, 0x85

_LENGTHS: Final = {
    SESSION_REQUEST: range(68, 520), POSITIVE: range(1), NEGATIVE: range(1, 2), RETARGET: range(6, 7),
    KEEP_ALIVE: range(1),
}  # fmt: skip
"""Lengths that each kind of control frame can have (RFC 1002 sections 4.3.2 to 4.3.6)."""

KINDS: Final = (MESSAGE, *_LENGTHS)
"""First octets of frames."""

_SMB: Final = re.compile(rb"\x00[\x00-\xff]{3}[\xfc-\xff]SMB")
_SMB_MAGIC: Final = frozenset({b"\xffSMB", b"\xfeSMB", b"\xfdSMB", b"\xfcSMB"})

HEADER_SIZE: Final = 4


class Frame:
    """The frame under the reader's eye; one object is used for a whole stream.

    data, start, end: its contents, without the header, as far as they are there. whole: all of them are.
    offset: of `start` in the stream. holes: how many holes the stream had before it.
    """

    __slots__ = ("data", "end", "holes", "kind", "offset", "start", "whole")
    data: bytes
    start: int
    end: int
    whole: bool
    offset: int
    kind: int
    holes: int


def opening(data: bytes) -> bool | None:
    """Whether data begins with a frame; None if it is too short to tell and fits so far."""
    if not data:
        return None
    if data[0] != MESSAGE:
        lengths = _LENGTHS.get(data[0])
        if lengths is None or len(data) < HEADER_SIZE:
            return None if lengths else False
        return int.from_bytes(data[1:4], "big") in lengths
    magic = data[4:8]
    if len(magic) < 4:
        return None if any(known.startswith(magic) for known in _SMB_MAGIC) else False
    return magic in _SMB_MAGIC


def frames(chunks: Sequence[Chunk]) -> Iterator[Frame]:
    """Walk the frames of one stream; the same `Frame` object each time. At most `limits.MAX_PDUS`."""
    frame = Frame()
    expected, left = 0, limits.MAX_PDUS
    for holes, chunk in enumerate(chunks):
        frame.data = data = chunk.data
        size = len(data)
        frame.holes = holes
        position = expected - chunk.offset
        if not 0 <= position < size:
            position = 0
        while 0 <= position <= size - HEADER_SIZE and left:
            if not opening(data[position : position + 8]):
                position = find_frame(data, position)
                continue
            left -= 1
            frame.kind = data[position]
            frame.start = position + HEADER_SIZE
            frame.offset = chunk.offset + frame.start
            position = frame.start + int.from_bytes(data[position + 1 : position + 4], "big")
            frame.whole = position <= size
            frame.end = min(position, size)
            yield frame
        expected = chunk.offset + position if position >= 0 else -1


def find_frame(data: bytes, start: int = 0) -> int:
    """Where the next frame with SMB in it begins; -1 if nowhere."""
    match = _SMB.search(data, start)
    return match.start() if match else -1


def name(encoded: bytes) -> str:
    """A NetBIOS name from its first-level encoding: two letters an octet (RFC 1001 section 14.1)."""
    if len(encoded) < 33 or encoded[0] != 32:
        return ""
    pairs = zip(encoded[1:33:2], encoded[2:33:2], strict=True)
    octets = bytes((high - 65 << 4 | low - 65) & 0xFF for high, low in pairs)
    return octets[:15].split(b"\0", 1)[0].decode("latin-1").rstrip(" ")[: limits.MAX_TEXT]
