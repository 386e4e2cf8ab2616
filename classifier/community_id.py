"""Community ID v1 of many conversations at once (github.com/corelight/community-id-spec).

"1:" + base64(SHA-1(seed 0 . smaller address . larger address . protocol . 0 . its port . the other's port)).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import Records, i64, inlined, kernel, on_stack, u8, u32, u64

WIDTH: Final = 30
"""Characters of every Community ID."""

_ALPHABET: Final = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
_V4_MAPPED: Final = u64(0xFFFF)


@inlined
def _rotate(value: int, by: int) -> int:
    return u32((value << u32(by)) | (value >> u32(32 - by)))


@kernel
def sha1_block(block: NDArray[np.uint8], digest: NDArray[np.uint8]) -> None:
    """SHA-1 of one padded 64-byte block (FIPS 180-4 section 6.1.2) into digest[:20]."""
    words = on_stack(80)
    for i in range(16):
        word = u32(0)
        for j in range(4):
            word = u32((word << u32(8)) | u32(block[4 * i + j]))
        words[i] = i64(word)
    for i in range(16, 80):
        words[i] = i64(_rotate(u32(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]), 1))
    a, b, c, d, e = u32(0x67452301), u32(0xEFCDAB89), u32(0x98BADCFE), u32(0x10325476), u32(0xC3D2E1F0)
    before = a, b, c, d, e
    for i in range(80):
        if i < 20:
            mixed, constant = u32((b & c) | (~b & d)), u32(0x5A827999)
        elif i < 40:
            mixed, constant = u32(b ^ c ^ d), u32(0x6ED9EBA1)
        elif i < 60:
            mixed, constant = u32((b & c) | (b & d) | (c & d)), u32(0x8F1BBCDC)
        else:
            mixed, constant = u32(b ^ c ^ d), u32(0xCA62C1D6)
        following = u32(_rotate(a, 5) + mixed + e + constant + u32(words[i]))
        e, d, c, b, a = d, c, _rotate(b, 30), a, following
    after = a, b, c, d, e
    for i in range(20):
        word = u32(before[i // 4] + after[i // 4])
        digest[i] = u8((word >> u32(24 - 8 * (i % 4))) & u32(0xFF))


@kernel
def _put_address(block: NDArray[np.uint8], at: int, high: int, low: int, four: bool) -> int:
    if not four:
        for i in range(8):
            block[at + i] = u8((high >> u64(56 - 8 * i)) & u64(0xFF))
        at += 8
    for i in range(4 if four else 0, 8):
        block[at] = u8((low >> u64(56 - 8 * i)) & u64(0xFF))
        at += 1
    return at


@kernel
def _fill(
    rows: Records,
    count: int,
    alphabet: NDArray[np.uint8],
    block: NDArray[np.uint8],
    digest: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    """Write the text of each conversation's id; block: room for 64 octets, digest: for 20 and a zero."""
    for index in range(count):
        row = rows[index]
        four = (
            row.a_high == 0
            and row.b_high == 0
            and row.a_low >> u64(32) == _V4_MAPPED
            and (row.b_low >> u64(32) == _V4_MAPPED)
        )
        block[:] = 0
        at = _put_address(block, 2, row.a_high, row.a_low, four)
        at = _put_address(block, at, row.b_high, row.b_low, four)
        block[at] = row.protocol
        block[at + 2], block[at + 3] = row.a_port >> 8, row.a_port & 0xFF
        block[at + 4], block[at + 5] = row.b_port >> 8, row.b_port & 0xFF
        at += 6
        block[at] = 0x80
        block[62], block[63] = (8 * at) >> 8, (8 * at) & 0xFF
        sha1_block(block, digest)
        out[index, 0], out[index, 1] = 49, 58  # "1:"
        for group in range(7):
            three = (i64(digest[3 * group]) << 16) | (i64(digest[3 * group + 1]) << 8)
            three |= i64(digest[3 * group + 2])
            for j in range(4):
                out[index, 2 + 4 * group + j] = alphabet[(three >> (18 - 6 * j)) & 63]
        out[index, WIDTH - 1] = 61  # "=": 20 bytes leave one padding character


def community_ids(rows: Records, count: int) -> NDArray[np.bytes_]:
    """Community IDs of the first count conversations (`conversations.CONVERSATION` records), dtype S30."""
    out = np.empty((count, WIDTH), np.uint8)
    _fill(rows, count, _ALPHABET, np.zeros(64, np.uint8), np.zeros(21, np.uint8), out)
    return out.reshape(-1).view(f"S{WIDTH}") if count else np.empty(0, f"S{WIDTH}")
