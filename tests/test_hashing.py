"""Keyed hashes: as NH is written down, and in no two processes the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from classifier.compiled import kernel
from classifier.hashing import PLACES, SECRET, Secret, share, spread
from classifier.headers import conversation_key

pytestmark = pytest.mark.kernels

ROOT = Path(__file__).parents[1]
words = st.integers(0, 2**64 - 1)
ports = st.integers(0, 2**16 - 1)
endpoints = st.tuples(words, words, ports)


@kernel
def _hash(row: NDArray[np.uint64], secret: Secret, out: NDArray[np.uint64]) -> None:
    total = share(secret, 0, row[0])
    for place in range(1, len(row)):
        total += share(secret, place, row[place])
    out[0] = total
    out[1] = spread(total)


@kernel
def _keys(one: NDArray[np.uint64], other: NDArray[np.uint64], secret: Secret, out: NDArray[np.uint64]) -> None:
    out[0] = conversation_key(one[0], one[1], one[2], other[0], other[1], other[2], 6, secret)
    out[1] = conversation_key(other[0], other[1], other[2], one[0], one[1], one[2], 6, secret)


@given(st.lists(words, min_size=1, max_size=12))
def test_a_sum_is_that_of_nh(row: list[int]) -> None:
    out, low, secret = np.zeros(2, np.uint64), 2**32 - 1, SECRET.tolist()
    _hash(np.array(row, np.uint64), SECRET, out)
    halves = [(word + secret[2 * i] & low, (word >> 32) + secret[2 * i + 1] & low) for i, word in enumerate(row)]
    total = sum(a * b for a, b in halves) % 2**64
    value = total * 0x9E37_79B9_7F4A_7C15 % 2**64
    assert out.tolist() == [total, value ^ value >> 32]


@given(endpoints, endpoints)
def test_a_conversation_has_one_key_whoever_sends(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    out = np.zeros(2, np.uint64)
    _keys(np.array(one, np.uint64), np.array(other, np.uint64), SECRET, out)
    assert out[0] == out[1]


def test_secrets_are_as_many_as_places_ask_for() -> None:
    assert len(SECRET) == 2 * PLACES
    assert PLACES & (PLACES - 1) == 0
    assert int(SECRET.max()) < 2**32


def test_every_process_has_secrets_of_its_own() -> None:
    code = "from classifier.hashing import SECRET; print(SECRET.tolist())"
    told = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(told) == 2
