"""Tag, length, value: the one reader of BER and DER (ITU-T X.690 section 8.1), without schema.

Follows no nesting by itself: the depth is its caller's. Indefinite lengths (X.690 section 8.1.3.6) and
long tags are refused: no protocol read here has them (RFC 4511 section 5.1, RFC 4120 section 1.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from classifier import limits


def header(data: bytes, at: int = 0) -> tuple[int, int, int] | None:
    """Tag octet, offset of the contents and offset behind them; None where no header is whole.

    The contents may reach beyond what is there: compare with `len(data)`.
    """
    if at + 2 > len(data):
        return None
    tag, length = data[at], data[at + 1]
    at += 2
    if tag & 0x1F == 0x1F or length == 0x80:
        return None
    if length < 0x80:
        return tag, at, at + length
    width = length & 0x7F
    if width > 4 or at + width > len(data):
        return None
    return tag, at + width, at + width + int.from_bytes(data[at : at + width], "big")


def values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag octet, contents) of each value in a row; the last may be cut short, for captures cut packets."""
    at = 0
    for _ in range(limits.MAX_ASN1_VALUES):
        found = header(data, at)
        if found is None:
            return
        tag, start, at = found
        yield tag, data[start:at]


def child(data: bytes, *path: int) -> bytes:
    """Contents found by following tags downwards, the first of each tag; b"" where one isn't there."""
    for wanted in path:
        data = next((contents for tag, contents in values(data) if tag == wanted), b"")
    return data


def integer(contents: bytes) -> int:
    """A small INTEGER or ENUMERATED; -1 for anything longer than four octets or empty."""
    return int.from_bytes(contents, "big", signed=True) if 1 <= len(contents) <= 4 else -1
