"""Community IDs against the specification's own pseudocode, and against the values it publishes."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.community_id import LANES, community_ids, sha1_blocks
from classifier.conversations import CONVERSATION

pytestmark = pytest.mark.kernels

Flow = tuple[str, str, int, int, int]


def row(flow: Flow) -> tuple[int, ...]:
    """One conversation record's key: the smaller endpoint first, IPv4 as ::ffff:a.b.c.d."""
    words = []
    for address in flow[:2]:
        ip = ipaddress.ip_address(address)
        number = int(ip) if ip.version == 6 else 0xFFFF_0000_0000 | int(ip)
        words.append((number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF))
    ends = sorted([(*words[0], flow[2]), (*words[1], flow[3])])
    return *ends[0][:2], *ends[1][:2], ends[0][2], ends[1][2], flow[4]


def ours(flows: list[Flow]) -> list[str]:
    rows = np.zeros(len(flows), CONVERSATION)
    for index, flow in enumerate(flows):
        for name, value in zip(
            ("a_high", "a_low", "b_high", "b_low", "a_port", "b_port", "protocol"), row(flow), strict=True
        ):
            rows[name][index] = value
    return [name.decode() for name in community_ids(rows, len(flows)).tolist()]


def specified(flow: Flow) -> str:
    """github.com/corelight/community-id-spec, section "Pseudo code", seed 0."""
    source, target, sport, dport, protocol = flow
    ends = sorted([(ipaddress.ip_address(source).packed, sport), (ipaddress.ip_address(target).packed, dport)])
    message = struct.pack("!H", 0) + ends[0][0] + ends[1][0] + struct.pack("!BBHH", protocol, 0, ends[0][1], ends[1][1])
    return "1:" + base64.b64encode(hashlib.sha1(message).digest()).decode()


def test_published_values() -> None:
    """From the baseline of the specification, which Zeek and Suricata test against too."""
    published = {
        ("128.232.110.120", "66.35.250.204", 34855, 80, 6): "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        ("192.168.1.52", "8.8.8.8", 54585, 53, 17): "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
    }
    assert ours(list(published)) == list(published.values())


v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str)
port = st.integers(0, 65535)
pairs = st.one_of(st.tuples(v4, v4), st.tuples(v6, v6), v4.map(lambda ip: (ip, ip)))
flows = st.builds(lambda ends, a, b, protocol: (*ends, a, b, protocol), pairs, port, port, st.sampled_from([6, 17]))


@given(st.lists(flows, min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_flow(many: list[Flow]) -> None:
    expected = [specified(flow) for flow in many]
    assert ours(many) == expected
    assert ours([(target, source, dport, sport, kind) for source, target, sport, dport, kind in many]) == expected


def test_no_conversations_have_no_ids() -> None:
    assert ours([]) == []


@given(st.lists(st.binary(max_size=55), min_size=LANES, max_size=LANES))
@settings(deadline=None)
def test_sha1(messages: list[bytes]) -> None:
    blocks = [(message + b"\x80").ljust(56, b"\0") + struct.pack("!Q", 8 * len(message)) for message in messages]
    words, past = np.zeros((80, LANES), np.uint32), np.zeros((85, LANES), np.uint32)
    words[:16] = np.frombuffer(b"".join(blocks), ">u4").reshape(LANES, 16).T
    sha1_blocks(words.reshape(-1), past.reshape(-1))
    digests = past[:5].T.astype(">u4")
    assert [digest.tobytes() for digest in digests] == [hashlib.sha1(message).digest() for message in messages]
