"""Addresses of conversations: numbered once each, and written as Python's ipaddress writes them."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.addresses import Addresses
from classifier.conversations import CONVERSATION

pytestmark = pytest.mark.kernels

v4 = st.one_of(st.sampled_from(["0.0.0.0", "255.255.255.255", "9.10.99.100"]), st.ip_addresses(v=4).map(str))
v6 = st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str)
pairs = st.lists(st.tuples(v4 | v6, v4 | v6), max_size=30)


def words(address: str) -> tuple[int, int]:
    """High and low 64 bits, IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2)."""
    ip = ipaddress.ip_address(address)
    number = int(ip) if ip.version == 6 else 0xFFFF << 32 | int(ip)
    return number >> 64, number & (1 << 64) - 1


@given(pairs)
def test_texts_are_those_of_ipaddress_each_once(conversations: list[tuple[str, str]]) -> None:
    rows = np.zeros(len(conversations) + 1, CONVERSATION)
    for row, (a, b) in zip(rows, conversations, strict=False):
        row["a_high"], row["a_low"] = words(a)
        row["b_high"], row["b_low"] = words(b)
    addresses = Addresses.of(rows, len(conversations))
    assert [addresses.texts[number] for number in addresses.a] == [a for a, _ in conversations]
    assert [addresses.texts[number] for number in addresses.b] == [b for _, b in conversations]
    assert addresses.numbers == {text: number for number, text in enumerate(addresses.texts)}
    assert len(addresses.numbers) == len(addresses.texts)
