"""Addresses as two 64-bit words ⇄ numbers ⇄ text: each distinct address of a run once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import Records, i64, kernel, u64
from classifier.hashing import SECRET, Secret, share, spread

_V4_MAPPED: Final = 0xFFFF


@kernel
def _intern(
    rows: Records, count: int, codes_a: NDArray[np.int32], codes_b: NDArray[np.int32],
    high: NDArray[np.uint64], low: NDArray[np.uint64], slots: NDArray[np.int32], secret: Secret,
) -> int:  # fmt: skip
    """Number the addresses of conversations in order of appearance. Returns how many there are.

    slots: zeros; a power of two of them, more than there can be addresses.
    """
    mask, known = len(slots) - 1, 0
    for index in range(2 * count):
        row = rows[index // 2]
        word_high, word_low = (row.b_high, row.b_low) if index & 1 else (row.a_high, row.a_low)
        slot = i64(spread(share(secret, 0, word_low) + share(secret, 1, word_high)) & u64(mask))
        while slots[slot] != 0 and (high[slots[slot] - 1] != word_high or low[slots[slot] - 1] != word_low):
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            high[known], low[known] = word_high, word_low
            known += 1
            slots[slot] = known
        if index & 1:
            codes_b[index // 2] = slots[slot] - 1
        else:
            codes_a[index // 2] = slots[slot] - 1
    return known


@dataclass(frozen=True)
class Addresses:
    """texts: distinct addresses; a, b: int32, number of each conversation's two addresses."""

    texts: list[str]
    a: NDArray[np.int32]
    b: NDArray[np.int32]

    @classmethod
    def of(cls, rows: Records, count: int) -> Addresses:
        """The addresses of the first count conversations (`conversations.CONVERSATION` records)."""
        a, b = np.empty(count, np.int32), np.empty(count, np.int32)
        high, low = np.empty(2 * count, np.uint64), np.empty(2 * count, np.uint64)
        slots = np.zeros(1 << (4 * count + 15).bit_length(), np.int32)
        known = int(_intern(rows, count, a, b, high, low, slots, SECRET))
        return cls(_texts(high[:known], low[:known]), a, b)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each address."""
        return {text: number for number, text in enumerate(self.texts)}


_LONGEST_V4: Final = len("255.255.255.255\n")


@kernel
def _spell_v4(high: NDArray[np.uint64], low: NDArray[np.uint64], out: NDArray[np.uint8]) -> int:
    """Lines of text, empty ones for addresses of IPv6. out: has room for _LONGEST_V4 each. Returns how much is used."""
    used = 0
    for number in range(len(high)):
        if high[number] == u64(0) and low[number] >> u64(32) == u64(_V4_MAPPED):
            for shift in range(24, -8, -8):
                octet = i64((low[number] >> u64(shift)) & u64(255))
                if octet >= 100:
                    out[used] = 48 + octet // 100
                    used += 1
                if octet >= 10:
                    out[used] = 48 + octet // 10 % 10
                    used += 1
                out[used] = 48 + octet % 10
                out[used + 1] = 46  # "."
                used += 2
            used -= 1
        out[used] = 10
        used += 1
    return used


def _texts(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> list[str]:
    """Addresses as `text` writes them."""
    out = np.empty(_LONGEST_V4 * len(high) + 1, np.uint8)
    texts = out[: int(_spell_v4(high, low, out))].tobytes().decode().split("\n")[:-1]
    for number in [number for number, line in enumerate(texts) if not line]:
        texts[number] = text(int(high[number]), int(low[number]))
    return texts


def text(high: int, low: int) -> str:
    """An address as people write it (RFC 5952 for IPv6)."""
    if high == 0 and low >> 32 == _V4_MAPPED:
        return f"{low >> 24 & 255}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}"
    return str(ipaddress.IPv6Address(high << 64 | low))
