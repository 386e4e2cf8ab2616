"""The keyed digest of words, against the same in plain integers, and what its bound rests on."""

from __future__ import annotations

import numpy as np
import pytest

from classifier.digests import BLOCK, PRIME, STATE, Key, Words, digest_words, end_digest

pytestmark = pytest.mark.kernels

LENGTHS = (0, 1, 2, 3, 31, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 7)

LAST = (1 << 64) - 1


def digest(key: Key, words: Words, *cuts: int) -> tuple[int, int]:
    """The digest of words, added in pieces that end at these places."""
    state, out = np.zeros(STATE, np.uint64), np.zeros((1, 2), np.uint64)
    ends = [*cuts, len(words)]
    for start, end in zip([0, *ends], ends, strict=False):
        digest_words(state, key, words, start, end)
    end_digest(state, key, out, 0)
    assert not state.any()
    return int(out[0, 0]), int(out[0, 1])


def in_plain_integers(key: Key, words: list[int]) -> tuple[int, int]:
    """As the module's docstring has it."""
    secret, low, values = key.words.tolist(), (1 << 32) - 1, [0, 0]
    for block in (words[at : at + BLOCK] for at in range(0, len(words), BLOCK)):
        for lane in (0, 1):
            total = 0
            for word, mine in zip(block, secret[lane:], strict=False):
                total += ((word + mine) & low) * (((word >> 32) + (mine >> 32)) & low)
            for coefficient in (len(block) << 32 | (total & low), total >> 32 & low):
                values[lane] = (values[lane] * int(key.points[lane]) + coefficient) % PRIME
    return values[0], values[1]


def same_secret(word: int, point: int) -> Key:
    """A key of equal words and points."""
    return Key(np.full(BLOCK + 1, word, np.uint64), np.full(2, point, np.uint64))


def random_words(count: int) -> Words:
    return np.random.default_rng(count).integers(0, LAST, count, np.uint64, endpoint=True)


@pytest.mark.parametrize("count", LENGTHS)
def test_digests_are_those_of_plain_integers(count: int) -> None:
    key = Key.drawn()
    for words in (random_words(count), np.zeros(count, np.uint64), np.full(count, LAST, np.uint64)):
        assert digest(key, words) == in_plain_integers(key, words.tolist())


@pytest.mark.parametrize("point", [0, 1, 1 << 32, (1 << 32) - 1, PRIME - 1, PRIME])
@pytest.mark.parametrize("word", [0, 1, (1 << 32) - 1, LAST])
def test_keys_at_the_edges_of_the_field_do_too(word: int, point: int) -> None:
    key, words = same_secret(word, point), random_words(3 * BLOCK + 5)
    assert digest(key, words) == in_plain_integers(key, words.tolist())


def test_pieces_make_no_difference() -> None:
    key, words = Key.drawn(), random_words(3 * BLOCK + 5)
    whole = digest(key, words)
    for cuts in ((1,), (0, BLOCK), (BLOCK - 1, BLOCK + 1), (7, 7, 2 * BLOCK + 3), tuple(range(0, 3 * BLOCK, 5))):
        assert digest(key, words, *cuts) == whole


def test_every_bit_and_every_length_counts() -> None:
    key, words = Key.drawn(), np.zeros(2 * BLOCK + 3, np.uint64)
    seen = {digest(key, words[:count]) for count in range(len(words) + 1)}
    assert len(seen) == len(words) + 1
    for at in range(0, len(words), 37):
        for bit in range(64):
            words[at] = np.uint64(1 << bit)
            seen.add(digest(key, words))
        words[at] = 0
    assert len(seen) == len(words) + 1 + 64 * len(range(0, len(words), 37))


def test_both_halves_of_a_digest_depend_on_secrets_of_their_own() -> None:
    key, words = Key.drawn(), random_words(BLOCK + 1)
    other = Key(np.concatenate([key.words[:-1], ~key.words[-1:]]), key.points)
    assert digest(key, words)[0] == digest(other, words)[0]
    assert digest(key, words)[1] != digest(other, words)[1]
    assert digest(key, words) != digest(Key.drawn(), words)


def test_top_bits_of_neighbours_do_not_cancel() -> None:
    """Whatever the key is: a digest of steps (state ^ word) * odd, folded, has pairs of words that always do."""
    for _ in range(200):
        key, words = Key.drawn(), random_words(4)
        flipped = words ^ np.array([1 << 63, 1 << 63 | 1 << 31, 0, 0], np.uint64)
        assert digest(key, words) != digest(key, flipped)
