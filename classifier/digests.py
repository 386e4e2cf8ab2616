"""A keyed digest of words, for telling in two words whether long rows of them are equal.

Whoever makes the words doesn't know the key, so can't make two rows that have the same digest: a universal hash, of
two kinds on top of each other. Blocks of `BLOCK` words go to two sums by NH, as UMAC has it (RFC 4418 section 5.2;
Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC: Fast and Secure Message Authentication", CRYPTO '99), the key of the
second shifted by one word against that of the first (their section 4.3, after Toeplitz). Each sum goes to a
polynomial of its own over the integers modulo 2^61 - 1, at a secret point (Carter and Wegman, 1981).

Two rows that differ have the same digest with a chance of at most 2^-63, up to 2^24 blocks. If a block differs, both
of its sums are equal with a chance of 2^-64; one of them with 2^-32; and polynomials of n blocks that differ, of a
degree below 2n, agree at no more than 2n of 2^61 points. If lengths differ, so do the polynomials: each block has one
coefficient that says how many words are in it, which is never zero.

Knows nothing of what the words mean. Rows are to be told apart by their words alone: who digests says lengths in them.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import i64, kernel, u64
from classifier.hashing import LOW

Words = NDArray[np.uint64]

BLOCK: Final = 512
"""Words that go to one pair of sums: 4 KiB, so that the key stays near the processor and most rows are one block."""

PRIME: Final = (1 << 61) - 1

# A state: how many words are in the sums of the present block; the sums; the values of the polynomials.
FILLED, SUMS, VALUES, STATE = 0, 1, 3, 5


class Key(NamedTuple):
    """words: uint64[BLOCK + 1]; points: uint64[2], below 2^61."""

    words: Words
    points: Words

    @classmethod
    def drawn(cls) -> Key:
        """A fresh one."""
        words = np.frombuffer(os.urandom(8 * (BLOCK + 3)), np.uint64)
        return cls(words[: BLOCK + 1], words[BLOCK + 1 :] & np.uint64(PRIME))


@kernel
def _joined(value: int, point: int, coefficient: int) -> int:
    """value * point + coefficient modulo 2^61 - 1, by halves of 32 bits; all three are below 2^61."""
    half, low = u64(32), u64(LOW)
    middle = (value >> half) * (point & low) + (value & low) * (point >> half)
    bottom = (value & low) * (point & low)
    result = ((value >> half) * (point >> half) << u64(3)) + (middle >> u64(29)) + ((middle & u64(LOW >> 3)) << half)
    result += (bottom & u64(PRIME)) + (bottom >> u64(61)) + coefficient
    result = (result & u64(PRIME)) + (result >> u64(61))
    return result - u64(PRIME) if result >= u64(PRIME) else result


@kernel
def _end_block(state: Words, key: Key) -> None:
    """Join the sums of a block to the polynomials: the lower half with how many words there were, and the upper."""
    for lane in range(2):
        total, value, point = state[SUMS + lane], state[VALUES + lane], key.points[lane]
        value = _joined(value, point, state[FILLED] << u64(32) | (total & u64(LOW)))
        state[VALUES + lane] = _joined(value, point, total >> u64(32))
        state[SUMS + lane] = 0
    state[FILLED] = 0


@kernel
def digest_words(state: Words, key: Key, words: Words, start: int, end: int) -> None:
    """Add words[start:end] to the row. state: uint64[STATE], zeros in the beginning.

    Indexes are unsigned, which Numba need not wrap, so that several words are summed at a time.
    """
    half, low = u64(32), u64(LOW)
    at, left = u64(start), end - start
    while left > 0:
        count, inside = min(left, BLOCK - i64(state[FILLED])), state[FILLED]
        one, two = u64(0), u64(0)
        for i in range(u64(count)):
            word, mine, next_one = words[at + i], key.words[inside + i], key.words[inside + i + u64(1)]
            one += (word + mine & low) * ((word >> half) + (mine >> half) & low)
            two += (word + next_one & low) * ((word >> half) + (next_one >> half) & low)
        state[SUMS] += one
        state[SUMS + 1] += two
        state[FILLED] += u64(count)
        if state[FILLED] == BLOCK:
            _end_block(state, key)
        at, left = at + u64(count), left - count


@kernel
def end_digest(state: Words, key: Key, digests: NDArray[np.uint64], row: int) -> None:
    """The digest of the row so far, to digests[row]; the state is as in the beginning then."""
    if state[FILLED] != 0:
        _end_block(state, key)
    for lane in range(2):
        digests[row, lane] = state[VALUES + lane]
        state[VALUES + lane] = 0
