"""Community ID v1 of many conversations at once (github.com/corelight/community-id-spec).

"1:" + base64(SHA-1(seed 0 . smaller address . larger address . protocol . 0 . its port . the other's port)).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import Record, Records, i64, inlined, kernel, u32, u64

WIDTH: Final = 30
"""Characters of every Community ID."""

_ALPHABET: Final = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
_V4_MAPPED: Final = u64(0xFFFF)


LANES: Final = 32
"""Blocks that are hashed side by side, as wide registers do it at no more cost than one by one."""


@inlined
def _rotate(value: int, by: int) -> int:
    return u32((value << u32(by)) | (value >> u32(32 - by)))


@inlined
def _mixed(i: int, b: int, c: int, d: int) -> int:
    """The function and the constant of round i (FIPS 180-4 sections 4.1.1 and 4.2.1)."""
    if i < 20:
        return u32(((b & c) | (~b & d)) + u32(0x5A827999))
    if i < 40:
        return u32((b ^ c ^ d) + u32(0x6ED9EBA1))
    if i < 60:
        return u32(((b & c) | (b & d) | (c & d)) + u32(0x8F1BBCDC))
    return u32((b ^ c ^ d) + u32(0xCA62C1D6))


@kernel
def sha1_blocks(words: NDArray[np.uint32], past: NDArray[np.uint32]) -> None:
    """SHA-1 of `LANES` padded 64-byte blocks (FIPS 180-4 section 6.1.2): words[j * LANES + k] is word j of block k,
    past[j * LANES + k] becomes that of its digest.

    words: uint32[80 * LANES]; past: uint32[85 * LANES], what is called a there before and after each round; b to e are
    the a of earlier rounds, all but b rotated.
    """
    for i in range(16 * LANES, 80 * LANES):
        words[i] = _rotate(
            words[i - 3 * LANES] ^ words[i - 8 * LANES] ^ words[i - 14 * LANES] ^ words[i - 16 * LANES], 1
        )
    for k in range(LANES):
        past[k], past[LANES + k] = _rotate(u32(0xC3D2E1F0), 2), _rotate(u32(0x10325476), 2)
        past[2 * LANES + k], past[3 * LANES + k] = _rotate(u32(0x98BADCFE), 2), u32(0xEFCDAB89)
        past[4 * LANES + k] = u32(0x67452301)
    for i in range(80):
        for k in range(i * LANES, (i + 1) * LANES):
            b, c = past[k + 3 * LANES], _rotate(past[k + 2 * LANES], 30)
            d, e = _rotate(past[k + LANES], 30), _rotate(past[k], 30)
            past[k + 5 * LANES] = u32(_rotate(past[k + 4 * LANES], 5) + _mixed(i, b, c, d) + e + words[k])
    for k in range(LANES):
        past[k] = u32(past[84 * LANES + k] + u32(0x67452301))
        past[LANES + k] = u32(past[83 * LANES + k] + u32(0xEFCDAB89))
        past[2 * LANES + k] = u32(_rotate(past[82 * LANES + k], 30) + u32(0x98BADCFE))
        past[3 * LANES + k] = u32(_rotate(past[81 * LANES + k], 30) + u32(0x10325476))
        past[4 * LANES + k] = u32(_rotate(past[80 * LANES + k], 30) + u32(0xC3D2E1F0))


@kernel
def _put(words: NDArray[np.uint32], lane: int, at: int, value: int) -> int:
    """Append eight octets behind the first two of word at; returns the word in which they end."""
    words[at * LANES + lane] |= u32(value >> u64(48))
    words[(at + 1) * LANES + lane] = u32(value >> u64(16))
    words[(at + 2) * LANES + lane] = u32(value << u64(16))
    return at + 2


@kernel
def _put_block(row: Record, words: NDArray[np.uint32], lane: int) -> None:
    """Lay out what is hashed of one conversation, and its padding."""
    for j in range(16):
        words[j * LANES + lane] = 0
    mapped = row.a_low >> u64(32) == _V4_MAPPED and row.b_low >> u64(32) == _V4_MAPPED
    if row.a_high == 0 and row.b_high == 0 and mapped:
        at = _put(words, lane, 0, row.a_low << u64(32) | (row.b_low & u64(0xFFFFFFFF)))
    else:
        at = _put(words, lane, _put(words, lane, 0, row.a_high), row.a_low)
        at = _put(words, lane, _put(words, lane, at, row.b_high), row.b_low)
    words[at * LANES + lane] |= u32(row.protocol) << u32(8)
    words[(at + 1) * LANES + lane] = u32(row.a_port) << u32(16) | u32(row.b_port)
    words[(at + 2) * LANES + lane] = u32(1 << 31)
    words[15 * LANES + lane] = u32(32 * (at + 2))


@kernel
def _put_text(past: NDArray[np.uint32], lane: int, alphabet: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Base64 (RFC 4648 section 4) of one digest, which nothing follows."""
    out[0], out[1] = 49, 58  # "1:"
    past[5 * LANES + lane] = 0
    for i in range(7):
        word, bit = 24 * i >> 5, 24 * i & 31
        both = u64(past[word * LANES + lane]) << u64(32) | u64(past[(word + 1) * LANES + lane])
        three = i64(both >> u64(40 - bit))
        for j in range(4):
            out[2 + 4 * i + j] = alphabet[three >> (18 - 6 * j) & 63]
    out[29] = 61  # "=": 20 bytes leave one padding character


@kernel
def _fill(
    rows: Records, alphabet: NDArray[np.uint8], words: NDArray[np.uint32], past: NDArray[np.uint32],
    out: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Write the text of each conversation's id. words, past: as of `sha1_blocks`."""
    count = min(len(rows), len(out))
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        for lane in range(lanes):
            _put_block(rows[first + lane], words, lane)
        sha1_blocks(words, past)
        for lane in range(lanes):
            _put_text(past, lane, alphabet, out[first + lane])


def community_ids(rows: Records, count: int) -> NDArray[np.bytes_]:
    """Community IDs of the first count conversations (`conversations.CONVERSATION` records), dtype S30."""
    out = np.empty((count, WIDTH), np.uint8)
    _fill(rows[:count], _ALPHABET, np.zeros(80 * LANES, np.uint32), np.zeros(85 * LANES, np.uint32), out)
    return out.reshape(-1).view(f"S{WIDTH}") if count else np.empty(0, f"S{WIDTH}")
