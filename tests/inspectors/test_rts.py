"""RTS messages of RPC over HTTP."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.inspectors import rts
from classifier.inspectors.ndr import BIG, LITTLE

NUMBER, COOKIE, CHANNEL = bytes(4), bytes(range(16)), bytes(16)
IPV4, IPV6 = struct.pack("<I", 0) + bytes(16), struct.pack("<I", 1) + bytes(28)
NAMED = ("rpc.virtual-connection", "03020100-0504-0706-0809-0a0b0c0d0e0f")


def body(*commands, count=None):
    written = b"".join(struct.pack("<I", kind) + data for kind, data in commands)
    return struct.pack("<HH", 0, len(commands) if count is None else count) + written


HELLO = (6, NUMBER), (3, COOKIE), (3, CHANNEL)


@pytest.mark.parametrize(
    ("commands", "signs"),
    [
        ((*HELLO, (0, NUMBER)), [("rpc.rts", "CONN/A1"), NAMED]),
        ((*HELLO, (4, NUMBER), (5, NUMBER), (0xC, CHANNEL)), [("rpc.rts", "CONN/B1"), NAMED]),
        ((*HELLO, (0, NUMBER), (2, NUMBER), (0xC, CHANNEL), (0xB, IPV4)), [("rpc.rts", "CONN/B2"), NAMED]),
        ((*HELLO, (0, NUMBER), (2, NUMBER), (0xC, CHANNEL), (0xB, IPV6)), [("rpc.rts", "CONN/B2"), NAMED]),
        (((2, NUMBER),), [("rpc.rts", "CONN/A3")]),
        (((0, NUMBER), (6, NUMBER)), [("rpc.rts", "CONN/B3")]),
        (((6, NUMBER), (0, NUMBER), (2, NUMBER)), [("rpc.rts", "CONN/C2")]),
        (((0xD, NUMBER), (1, bytes(24))), []),
        ((), []),
    ],
)
def test_messages(commands, signs):
    assert rts.read(body(*commands), LITTLE) == signs


@pytest.mark.parametrize("size", range(len(body(*HELLO, (0, NUMBER)))))
def test_a_cut_message_is_none(size):
    assert rts.read(body(*HELLO, (0, NUMBER))[:size], LITTLE) == []


@given(st.binary(max_size=100), st.integers(0, 65535))
def test_no_bytes_raise(data, count):
    for order in (LITTLE, BIG):
        rts.read(struct.pack("<HH", 0, count) + data, order)
        rts.read(data, order)
