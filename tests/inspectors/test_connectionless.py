"""RPC over datagrams."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspectors.rpc_writer import EMSMDB, EPM, NSPI, datagrams, map_answer, map_request, tower, uuid_bytes

from classifier.inspectors import dcerpc
from classifier.inspectors.base import NOT_THIS, Chunk, Dialogue, Evidence, Stream

REQUEST, RESPONSE, FAULT, REJECT, FACK = 0, 2, 3, 6, 9


def datagram(
    ptype, uuid=EMSMDB, body=b"", opnum=1, sequence=0, fragment=0, flags=0, big=False, activity=b"A" * 16, auth=0
):
    mark = ">" if big else "<"
    head = struct.pack("BBBB", 4, ptype, flags, 0) + (b"\0\0\0" if big else b"\x10\0\0") + b"\0"
    head += bytes(16) + uuid_bytes(uuid, big) + activity
    major, minor = (0, 81) if uuid == EMSMDB else (3, 0)
    numbers = (0, minor << 16 | major, sequence, opnum, 0xFFFF, 0xFFFF, len(body), fragment)
    return head + struct.pack(mark + "IIIHHHHHBB", *numbers, auth, 0) + body


def inspect(asked, told):
    return dcerpc.inspect(Dialogue("udp", datagrams(*asked), datagrams(*told)))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("reply", "taken"), [(RESPONSE, True), (FACK, True), (REJECT, False), (None, None)])
def test_each_datagram_names_its_interface(big, reply, taken):
    told = [] if reply is None else [datagram(reply, big=big, body=bytes(4))]
    found = inspect([datagram(REQUEST, big=big)], told)
    assert [(item.uuid, item.version, item.accepted) for item in found.interfaces] == [(EMSMDB, "0.81", taken)]
    assert (found.protocol, found.reversed) == ("dcerpc", False)
    assert (found.authentication, found.encryption) == ("none", "none")


def test_swapped_sides():
    found = inspect([datagram(RESPONSE)], [datagram(REQUEST)])
    assert found.reversed is True


@pytest.mark.parametrize("big", [False, True])
def test_the_mapper_over_datagrams(big):
    answer = map_answer([tower(endpoint=8, port=1088)], big=big)
    pieces = [
        datagram(RESPONSE, EPM, answer[at : at + 60], 3, fragment=at // 60, flags=4, big=big)
        for at in range(0, len(answer), 60)
    ]
    found = inspect([datagram(REQUEST, EPM, map_request(big=big), 3, big=big)], pieces[::-1])
    assert found.protocol == "epm"
    assert [(query.uuid, query.status) for query in found.queries] == [(EMSMDB, 0)]
    assert [(item.kind, item.transport, item.port) for item in found.handouts] == [("ept_map", "udp", 1088)]


def test_a_fault_is_the_query_s_status():
    found = inspect(
        [datagram(REQUEST, EPM, map_request(), 3)], [datagram(FAULT, EPM, struct.pack("<I", 0x1C010003), 3)]
    )
    assert found.queries[0].status == 0x1C010003


def test_calls_are_matched_by_activity_and_sequence():
    asked = [
        datagram(REQUEST, EPM, map_request(), 3, sequence=1),
        datagram(REQUEST, EPM, map_request(tower(NSPI)), 3, sequence=2),
    ]
    found = inspect(asked, [datagram(RESPONSE, EPM, map_answer([tower()]), 3, sequence=2)])
    assert [(query.uuid, query.status) for query in found.queries] == [(EMSMDB, None), (NSPI, 0)]


@pytest.mark.parametrize("data", [b"\4\0\0", bytes(100), b"\4" + bytes(120), b"\4\x0c" + bytes(100)])
def test_other_datagrams(data):
    changed = data if data[:2] != b"\4\0" or len(data) < 80 else data[:5] + b"\x09" + data[6:]
    assert inspect([changed], []) is NOT_THIS


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), max_size=6))
def test_no_bytes_raise(data, changes):
    whole = bytearray(datagram(REQUEST, EPM, map_request(), 3))
    for at, value in changes:
        whole[at % len(whole)] = value
    dcerpc.inspect(Dialogue("udp", datagrams(bytes(whole), data), Stream((Chunk(0, data),))))
    assert isinstance(inspect([datagram(REQUEST)], [b"\4" + data]), (Evidence, type(NOT_THIS)))
