"""Hashes of a few words, for the slots of tables whose keys strangers choose.

Who can foresee slots can make a capture whose keys all meet in one of them, and each search walks past all the others:
seconds for three megabytes, hours for a hundred. So hashes are keyed, with a secret that is drawn for each process; no
result depends on it. A word goes to a sum as in NH (UMAC, RFC 4418 section 5.2): two keys of as many words that differ
have equal sums with a chance of at most 2^-32.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import inlined, u64

Secret = NDArray[np.uint64]
"""uint64[2 * PLACES], below 2^32: two for the halves of each word."""

PLACES: Final = 64
"""Words of a key; further ones would share their secrets with the first. A power of two."""

SECRET: Final[Secret] = np.frombuffer(os.urandom(8 * PLACES), np.uint32).astype(np.uint64)

LOW: Final = (1 << 32) - 1
"""The lower half of a word."""


@inlined
def share(secret: Secret, place: int, word: int) -> int:
    """What a word of a key adds to the sum, by its place in the key (from 0)."""
    at = 2 * (place & (PLACES - 1))
    low = (u64(word) + secret[at]) & u64(LOW)
    high = ((u64(word) >> u64(32)) + secret[at + 1]) & u64(LOW)
    return u64(low * high)


@inlined
def spread(total: int) -> int:
    """A sum as a hash, all bits of which tell keys apart: its low ones may be a slot."""
    value = total * u64(0x9E37_79B9_7F4A_7C15)  # of Fibonacci hashing
    return value ^ (value >> u64(32))
