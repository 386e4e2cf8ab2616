"""The endpoint mapper: what is asked, what is handed out, in every shape of NDR."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspectors.rpc_writer import (
    EMSMDB,
    EPM,
    FIRST,
    LAST,
    NDR32,
    NDR64,
    NSPI,
    RFRI,
    ack,
    bind,
    dialogue,
    lookup_answer,
    lookup_request,
    map_answer,
    map_request,
    request,
    response,
    tower,
)  # fmt: skip

from classifier.inspectors import dcerpc, epm
from classifier.inspectors.base import Place, Side

KINDS = [{"big": big, "wide": wide} for big in (False, True) for wide in (False, True)]


def exchange(asked, answered, opnum=3, big=False, wide=False, **more):
    syntax = NDR64 if wide else NDR32
    to_server = [bind([(0, EPM, "3.0", [syntax])], big=big), request(opnum, asked, big=big)]
    to_client = [ack([(0, syntax)], address=b"", big=big)]
    if answered is not None:
        to_client.append(response(answered, big=big, **more))
    return dcerpc.inspect(dialogue(to_server, to_client))


def handed_out(evidence):
    return [(found.kind, found.transport, found.port, found.uuid, found.version) for found in evidence.handouts]


@pytest.mark.parametrize("kind", KINDS)
def test_map(kind):
    found = exchange(map_request(**kind), map_answer([tower()], **kind), **kind)
    (query,) = found.queries
    assert (query.uuid, query.version, query.status) == (EMSMDB, "0.81", 0)
    assert query.place == Place(Side.TO_SERVER, 72)
    (handout,) = found.handouts
    assert handed_out(found) == [("ept_map", "tcp", 49160, EMSMDB, "0.81")]
    assert handout.address == "10.20.0.21"
    assert handout.place.side is Side.TO_CLIENT
    assert found.protocol == "epm"


@pytest.mark.parametrize("kind", KINDS)
def test_all_towers_are_read(kind):
    towers = [
        tower(),
        tower(endpoint=0x1F, port=6001),
        tower(endpoint=8, port=137),
        tower(endpoint=0xF, port=b"\\pipe\\x\0"),
    ]
    found = exchange(map_request(**kind), map_answer(towers, **kind), **kind)
    assert [(handout.transport, handout.port) for handout in found.handouts] == [
        ("tcp", 49160),
        ("http", 6001),
        ("udp", 137),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_lookup_with_annotations(kind):
    entries = [
        (tower(NSPI, "56.0", 6004), b"MS NSPI"),
        (tower(RFRI, "1.0", 6002), b"MS Exchange Directory RFR Interface"),
    ]
    found = exchange(lookup_request(NSPI, "56.0", **kind), lookup_answer(entries, **kind), opnum=2, **kind)
    assert [(query.uuid, query.version, query.status) for query in found.queries] == [(NSPI, "56.0", 0)]
    assert [(h.kind, h.port, h.annotation) for h in found.handouts] == [
        ("ept_lookup", 6004, "MS NSPI"),
        ("ept_lookup", 6002, "MS Exchange Directory RFR Interface"),
    ]
    assert ("rpc.annotation", "MS NSPI") in {(sign.field, sign.value) for sign in found.signs}


@pytest.mark.parametrize("kind", KINDS)
def test_not_registered(kind):
    found = exchange(map_request(**kind), map_answer([], epm.NOT_REGISTERED, **kind), **kind)
    assert [query.status for query in found.queries] == [0x16C9A0D6]
    assert found.handouts == ()


@pytest.mark.parametrize("kind", KINDS)
def test_aliases_name_a_tower_that_comes_once(kind):
    answer = map_answer([tower()] * 3, referents=[9, 9, 9], bodies=[tower()], status=0, **kind)
    found = exchange(map_request(**kind), answer, **kind)
    assert handed_out(found) == [("ept_map", "tcp", 49160, EMSMDB, "0.81")]
    assert found.queries[0].status == 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_id_for_all_towers_written_out(kind):
    towers = [tower(), tower(port=5000)]
    found = exchange(map_request(**kind), map_answer(towers, referents=[9, 9], **kind), **kind)
    assert [handout.port for handout in found.handouts] == [49160, 5000]
    assert found.queries[0].status == 0


def test_repeated_towers_are_one_handout():
    found = exchange(map_request(), map_answer([tower()] * 4))
    assert len(found.handouts) == 1


def test_an_unanswered_query_has_no_status():
    assert [query.status for query in exchange(map_request(), None).queries] == [None]


def test_a_stub_out_of_shape_is_searched_for_towers():
    found = exchange(map_request(), b"\xff" * 11 + tower() + b"\x77" * 5 + tower(NSPI, "56.0", 5000))
    assert [handout.port for handout in found.handouts] == [49160, 5000]


def test_an_answer_in_fragments():
    stub = map_answer([tower(port=port) for port in range(2000, 2040)])
    pieces = [stub[at : at + 700] for at in range(0, len(stub), 700)]
    flags = [FIRST, *[0] * (len(pieces) - 2), LAST]
    told = [response(piece, flags=flag) for piece, flag in zip(pieces, flags, strict=True)]
    asked = [bind([(0, EPM, "3.0", [NDR32])]), request(3, map_request())]
    found = dcerpc.inspect(dialogue(asked, [ack([(0, NDR32)], address=b""), *told]))
    assert [handout.port for handout in found.handouts] == list(range(2000, 2040))


def test_a_signed_stub_is_read_and_a_sealed_one_is_not():
    for level, ports in ((5, [49160]), (6, [])):
        found = exchange(map_request(), map_answer([tower()]), auth=(10, level, b"\1\0\0\0" + bytes(12)))
        assert [handout.port for handout in found.handouts] == ports


def test_the_answer_alone_hands_out_without_an_interface():
    found = dcerpc.inspect(dialogue([], [ack([(0, NDR32)]), response(map_answer([tower()]))]))
    assert (found.protocol, found.interfaces) == ("epm", ())
    assert [handout.port for handout in found.handouts] == [135, 49160]


def test_other_services_on_the_port_are_not_the_mapper():
    activator = "000001a0-0000-0000-c000-000000000046"
    assert dcerpc.inspect(dialogue([bind([(0, activator, "0.0", [NDR32])])], [])).protocol == "dcerpc"


@pytest.mark.parametrize("floors", [0, 1, 2, 17, 65535])
def test_a_tower_with_an_impossible_count_is_none(floors):
    assert epm.read_tower(floors.to_bytes(2, "little") + tower()[2:]) is None


@given(st.integers(0, 75))
def test_a_cut_tower_is_none(size):
    found = epm.read_tower(tower()[:size])
    assert found is None or size == len(tower())


@given(st.binary(max_size=300), st.sampled_from(KINDS), st.sampled_from([2, 3]))
def test_no_stub_raises(stub, kind, opnum):
    exchange(stub, stub, opnum=opnum, **kind)


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6), st.sampled_from(KINDS))
def test_no_changed_stub_raises(changes, kind):
    stub = bytearray(lookup_answer([(tower(), b"one"), (tower(NSPI), b"two")], **kind))
    for at, value in changes:
        stub[at % len(stub)] = value
    exchange(bytes(stub), bytes(stub), opnum=2, **kind)


def test_a_tower_written_by_impacket():
    mapper = pytest.importorskip("impacket.dcerpc.v5.epm")
    uuid = pytest.importorskip("impacket.uuid")
    interface = mapper.EPMRPCInterface()
    interface["InterfaceUUID"] = uuid.string_to_bin(EMSMDB)
    interface["MajorVersion"], interface["MinorVersion"] = 0, 81
    syntax = mapper.EPMRPCDataRepresentation()
    syntax["DataRepUuid"] = uuid.string_to_bin(NDR32)
    syntax["MajorVersion"], syntax["MinorVersion"] = 2, 0
    protocol = mapper.EPMProtocolIdentifier()
    protocol["ProtIdentifier"] = mapper.FLOOR_RPCV5_IDENTIFIER
    port = mapper.EPMPortAddr()
    port["IpPort"] = 49160
    host = mapper.EPMHostAddr()
    host["Ip4addr"] = bytes([10, 20, 0, 21])
    written = mapper.EPMTower()
    written["NumberOfFloors"] = 5
    written["Floors"] = b"".join(floor.getData() for floor in (interface, syntax, protocol, port, host))
    assert written.getData() == tower()
