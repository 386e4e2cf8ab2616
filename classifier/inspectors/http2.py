"""HTTP/2 told as HTTP/1, so that one inspector reads both: only what header blocks say, without bodies.

Owns frames and the joining of header blocks (RFC 9113 sections 4, 6.2, 6.10); the library hpack decompresses them
(RFC 7541). Only of use where TLS was decrypted: nobody speaks HTTP/2 in clear to Exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from classifier.limits import MAX_COMMANDS, MAX_LINE

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 section 3.4)."""

_HEADERS, _CONTINUATION = 1, 9
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 0x20
_MAX_FRAME: Final = 1 << 20
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"connection", b"host"))


def as_http1(data: bytes) -> list[tuple[int, bytes]]:
    """Each whole header block of one direction as the head of a message without a body, and the offset of its end.

    Ends at the first frame or block that can't be right; never fails.
    """
    from hpack import Decoder, HPACKError  # few runs have keys

    at = len(PREFACE) if data.startswith(PREFACE) else 0
    decoder = Decoder(max_header_list_size=MAX_LINE)
    told: list[tuple[int, bytes]] = []
    for end, block in _blocks(data, at):
        try:
            fields = decoder.decode(block, raw=True)
        except HPACKError:
            break
        head = _head([(bytes(field[0]), bytes(field[1])) for field in fields])
        if head:
            told.append((end, head))
    return told


def _blocks(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Header blocks joined from their frames, with the offset where each ends."""
    waiting = bytearray()
    for _ in range(MAX_COMMANDS):
        size = int.from_bytes(data[at : at + 3], "big")
        end = at + 9 + size
        if at + 9 > len(data) or size > _MAX_FRAME or end > len(data) or len(waiting) > MAX_LINE:
            return
        kind, flags, body = data[at + 3], data[at + 4], data[at + 9 : end]
        if kind == _HEADERS:
            padding = body[0] if flags & _PADDED and body else 0
            start = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
            waiting = bytearray(body[start : len(body) - padding])
        elif kind == _CONTINUATION:
            waiting += body
        if kind in (_HEADERS, _CONTINUATION) and flags & _END_HEADERS:
            yield end, bytes(waiting)
            waiting.clear()
        at = end


def _head(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The fields of a request or an answer as HTTP/1 has them; b"" for trailers."""
    told = {name: value for name, value in fields if name.startswith(b":")}
    if b":status" in told:
        first = b"HTTP/1.1 %b \r\n" % _word(told[b":status"])
    elif b":method" in told and b":path" in told:
        first = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % tuple(
            _word(told.get(name, b"")) for name in (b":method", b":path", b":authority")
        )
    else:
        return b""
    lines = (b"%b: %b\r\n" % (_word(name), _value(value)) for name, value in fields
             if not name.startswith(b":") and name not in _FRAMING)  # fmt: skip
    return first + b"".join(lines) + b"Content-Length: 0\r\n\r\n"


def _word(value: bytes) -> bytes:
    return b"".join(value.split())


def _value(value: bytes) -> bytes:
    return value.replace(b"\r", b" ").replace(b"\n", b" ")
