"""Ports handed out by DCOM."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspectors.rpc_writer import NDR32, ack, bind, dialogue, request, response

from classifier.inspectors import dcerpc

EXPORTER = "99fcfec4-5260-101b-bbcb-00aa0021347a"
ACTIVATOR = "000001a0-0000-0000-c000-000000000046"


def bindings(*texts, big=False):
    """A DUALSTRINGARRAY; texts: (tower id, network address)."""
    mark, codec = (">", "utf-16-be") if big else ("<", "utf-16-le")
    words = b"".join(struct.pack(mark + "H", kind) + (text + "\0").encode(codec) for kind, text in texts) + b"\0\0"
    security = struct.pack(mark + "HH", 10, 0xFFFF) + b"\0\0\0\0"
    count = (len(words) + len(security)) // 2
    return struct.pack(mark + "IIHH", 1, count, count, len(words) // 2) + words + security


def resolve(opnum, answer, uuid=EXPORTER, big=False):
    asked = [bind([(0, uuid, "0.0", [NDR32])], big=big), request(opnum, bytes(20), big=big)]
    found = dcerpc.inspect(dialogue(asked, [ack([(0, NDR32)], address=b"", big=big), response(answer, big=big)]))
    assert found.protocol == "dcerpc"
    return [(item.kind, item.transport, item.port, item.host, item.address) for item in found.handouts]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("opnum", [0, 4])
def test_resolve_oxid(opnum, big):
    answer = bindings((7, "MAIL01[49155]"), (7, "10.0.0.5[49155]"), (8, "MAIL01[1025]"), big=big) + bytes(24)
    assert resolve(opnum, answer, big=big) == [
        ("oxid", "tcp", 49155, "MAIL01", ""),
        ("oxid", "tcp", 49155, "", "10.0.0.5"),
        ("oxid", "udp", 1025, "MAIL01", ""),
    ]


def test_activation():
    answer = b"MEOW" + bytes(200) + bindings((7, "MAIL01[49155]"))
    assert resolve(4, answer, ACTIVATOR) == [("oxid", "tcp", 49155, "MAIL01", "")]


def test_addresses_without_a_port_hand_out_nothing():
    assert resolve(5, bindings((7, "MAIL01"), (7, "10.0.0.5"))) == []


def test_other_operations_are_not_searched():
    assert resolve(3, bindings((7, "MAIL01[49155]"))) == []


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_impossible_ports(port):
    assert resolve(0, bindings((7, f"MAIL01[{port}]"))) == []


@given(st.binary(max_size=300))
def test_no_answer_raises(data):
    resolve(0, data)
