"""Associations: playbooks of bytes in, evidence out."""

from __future__ import annotations

import struct
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspectors.rpc_writer import (
    EMSMDB,
    EPM,
    FEATURES,
    FIRST,
    LAST,
    NDR32,
    NDR64,
    NSPI,
    RFRI,
    ack,
    bind,
    dialogue,
    fault,
    map_answer,
    map_request,
    nak,
    pdu,
    request,
    response,
    stream,
    syntax,
    tower,
    uuid_bytes,
    with_hole,
)  # fmt: skip

from classifier.inspectors import dcerpc
from classifier.inspectors.base import NOT_THIS, WAIT, Chunk, Dialogue, Evidence, Place, Side, Stream

PLAIN = [(0, EMSMDB, "0.81", [NDR32])]
NTLM_SIGNATURE = b"\1\0\0\0" + bytes(12)


def accepted(evidence):
    return [(found.uuid, found.version, found.accepted) for found in evidence.interfaces]


def signs(evidence, field):
    return [sign.value for sign in evidence.signs if sign.field == field]


@pytest.mark.parametrize("big", [False, True])
def test_an_accepted_bind_is_an_interface(big):
    found = dcerpc.inspect(dialogue([bind(PLAIN, big=big)], [ack([(0, NDR32)], address=b"49160", big=big)]))
    assert (found.protocol, found.reversed) == ("dcerpc", False)
    assert accepted(found) == [(EMSMDB, "0.81", True)]
    assert found.interfaces[0].place == Place(Side.TO_SERVER, 0)
    assert found.interfaces[0].transfer_syntax == NDR32
    (handout,) = found.handouts
    assert (handout.kind, handout.port, handout.uuid, handout.version) == ("secondary-address", 49160, EMSMDB, "0.81")
    assert (found.authentication, found.encryption) == ("none", "none")


def test_uuid_is_lower_case_whatever_the_bytes():
    found = dcerpc.inspect(dialogue([bind([(0, EMSMDB.upper(), "0.81", [NDR32])])], []))
    assert found.interfaces[0].uuid == EMSMDB
    assert found.interfaces[0].accepted is None


def test_results_belong_to_contexts_by_position_not_by_id():
    contexts = [(7, NSPI, "56.0", [NDR32]), (3, RFRI, "1.0", [NDR32])]
    found = dcerpc.inspect(dialogue([bind(contexts)], [ack([(2, NDR32), (0, NDR32)])]))
    assert accepted(found) == [(NSPI, "56.0", False), (RFRI, "1.0", True)]


def test_64_bit_windows_offers_three_contexts_and_takes_the_second():
    contexts = [(0, EPM, "3.0", [NDR32]), (1, EPM, "3.0", [NDR64]), (2, EPM, "3.0", [FEATURES])]
    found = dcerpc.inspect(dialogue([bind(contexts)], [ack([(2, NDR32), (0, NDR64), (3, NDR32)])]))
    assert found.protocol == "epm"
    assert accepted(found) == [(EPM, "3.0", True)]
    assert found.interfaces[0].transfer_syntax == NDR64


def test_negotiate_ack_accepts_nothing():
    contexts = [(0, EMSMDB, "0.81", [NDR32]), (1, EMSMDB, "0.81", [FEATURES])]
    found = dcerpc.inspect(dialogue([bind(contexts)], [ack([(2, NDR32), (3, NDR32)])]))
    assert accepted(found) == [(EMSMDB, "0.81", False)]


def test_a_refused_interface_has_no_secondary_address():
    found = dcerpc.inspect(dialogue([bind(PLAIN)], [ack([(2, NDR32)], address=b"49160")]))
    assert accepted(found) == [(EMSMDB, "0.81", False)]
    assert found.handouts == ()


def test_bind_nak_refuses_all():
    found = dcerpc.inspect(dialogue([bind(PLAIN)], [nak(reason=8)]))
    assert accepted(found) == [(EMSMDB, "0.81", False)]
    assert signs(found, "rpc.bind-nak") == ["8"]


def test_alter_context_adds_interfaces():
    asked = [bind(PLAIN), bind([(1, NSPI, "56.0", [NDR32])], call=2, ptype=14)]
    told = [ack([(0, NDR32)]), ack([(0, NDR32)], call=2, ptype=15, address=b"")]
    assert accepted(dcerpc.inspect(dialogue(asked, told))) == [(EMSMDB, "0.81", True), (NSPI, "56.0", True)]


def test_pipe_as_secondary_address_is_a_sign():
    found = dcerpc.inspect(dialogue([bind(PLAIN)], [ack([(0, NDR32)], address=b"\\PIPE\\lsass")]))
    assert found.handouts == ()
    assert signs(found, "rpc.secondary-address") == ["\\PIPE\\lsass"]


def test_opnum_belongs_to_the_call_and_its_own_context():
    contexts = [(0, EMSMDB, "0.81", [NDR32]), (1, NSPI, "56.0", [NDR32])]
    calls = [request(1, call=2, context=1), request(11, call=3), request(0, call=4, context=1), request(11, call=5)]
    found = dcerpc.inspect(dialogue([bind(contexts), *calls], [ack([(0, NDR32), (0, NDR32)])]))
    assert signs(found, "rpc.opnum") == [f"{NSPI}:1", f"{EMSMDB}:11", f"{NSPI}:0"]


def test_swapped_sides_are_told_by_the_pdu_types():
    found = dcerpc.inspect(dialogue([ack([(0, NDR32)])], [bind(PLAIN)], oriented=False))
    assert found.reversed is True
    assert accepted(found) == [(EMSMDB, "0.81", True)]
    assert found.interfaces[0].place.side is Side.TO_CLIENT


def test_answers_alone_make_an_offered_interface_accepted():
    found = dcerpc.inspect(Dialogue("tcp", stream(bind(PLAIN), request(1)), Stream((Chunk(60, response()),))))
    assert accepted(found) == [(EMSMDB, "0.81", True)]
    assert found.gap


def test_a_conversation_under_way_is_rpc_without_interfaces():
    middle = Stream((Chunk(0, b"\xaa" * 37 + request(3, bytes(40), call=9) + request(4, call=10)),), started=False)
    found = dcerpc.inspect(Dialogue("tcp", middle, Stream(started=False), oriented=False))
    assert (found.protocol, found.interfaces, found.authentication) == ("dcerpc", (), None)


def verification_trailer(uuid=EMSMDB, version="0.81", big=False):
    pcontext = syntax(uuid, version, big) + syntax(NDR32, "2.0", big)
    return bytes.fromhex("8ae3137102f43671") + struct.pack("<HHI", 1, 4, 1) + struct.pack("<HH", 0x4002, 40) + pcontext


@pytest.mark.parametrize(("replies", "taken"), [([], None), ([response(call=9)], True)])
def test_a_verification_trailer_witnesses_the_interface(replies, taken):
    asked = Stream((Chunk(0, request(6, bytes(8) + verification_trailer(), call=9)),), started=False)
    found = dcerpc.inspect(Dialogue("tcp", asked, stream(*replies, started=False), oriented=False))
    assert accepted(found) == [(EMSMDB, "0.81", taken)]
    assert signs(found, "rpc.opnum") == [f"{EMSMDB}:6"]


@pytest.mark.parametrize(
    ("level", "on_request", "encryption"),
    [(6, True, "rpc-privacy"), (5, True, "rpc-integrity"), (2, False, "none"), (6, False, "none"), (5, False, "none")],
)
def test_the_level_is_what_requests_do(level, on_request, encryption):
    auth = (10, level, b"NTLMSSP\0" + struct.pack("<I", 1) + bytes(20))
    calls = [request(1, bytes(8), auth=(10, level, NTLM_SIGNATURE) if on_request else None)]
    found = dcerpc.inspect(dialogue([bind(PLAIN, auth=auth), *calls], [ack([(0, NDR32)], auth=auth)]))
    assert (found.authentication, found.encryption) == ("ntlm", encryption)
    assert signs(found, "rpc.auth-level") == [str(level)]


def test_a_promised_level_without_any_request_is_not_observed():
    found = dcerpc.inspect(dialogue([bind(PLAIN, auth=(10, 6, bytes(8)))], [ack([(0, NDR32)])]))
    assert (found.authentication, found.encryption) == ("ntlm", None)


@pytest.mark.parametrize(("kind", "name"), [(10, "ntlm"), (16, "kerberos"), (68, "netlogon"), (9, "negotiate")])
def test_authentication_type(kind, name):
    found = dcerpc.inspect(dialogue([bind(PLAIN, auth=(kind, 2, b"\xff" * 8))], [ack([(0, NDR32)])]))
    assert found.authentication == name


def test_a_fault_is_a_sign_and_answers_its_call_only():
    asked = [bind([(0, EPM, "3.0", [NDR32])]), request(3, map_request(), call=2), request(3, map_request(), call=3)]
    told = [ack([(0, NDR32)]), fault(0x1C010003, call=3), response(map_answer([tower()]), call=2)]
    found = dcerpc.inspect(dialogue(asked, told))
    assert [query.status for query in found.queries] == [0, 0x1C010003]
    assert signs(found, "rpc.fault") == ["0x1c010003"]


def test_object_uuid_moves_the_stub():
    asked = [bind([(0, EPM, "3.0", [NDR32])]), request(3, map_request(), object_uuid=uuid_bytes(NSPI))]
    found = dcerpc.inspect(dialogue(asked, [ack([(0, NDR32)])]))
    assert [(query.uuid, query.version, query.status) for query in found.queries] == [(EMSMDB, "0.81", None)]


def test_fragments_of_interleaved_calls_are_joined_by_call_id():
    stubs = {2: map_answer([tower(port=5001)]), 3: map_answer([tower(NSPI, "56.0", port=5002)])}
    asked = [bind([(0, EPM, "3.0", [NDR32])]), request(3, map_request(), call=2)]
    asked.append(request(3, map_request(tower(NSPI, "56.0", 135)), call=3))
    told = [ack([(0, NDR32)])]
    for flags, part in ((FIRST, slice(0, 50)), (0, slice(50, 90)), (LAST, slice(90, None))):
        told += [response(stub[part], call=call, flags=flags) for call, stub in stubs.items()]
    found = dcerpc.inspect(dialogue(asked, told))
    mapped = {(handout.uuid, handout.port) for handout in found.handouts if handout.kind == "ept_map"}
    assert mapped == {(EMSMDB, 5001), (NSPI, 5002)}


def test_minor_version_one_is_rpc_too():
    one = bind(PLAIN)[:1] + b"\1" + bind(PLAIN)[2:]
    assert accepted(dcerpc.inspect(dialogue([one], []))) == [(EMSMDB, "0.81", None)]


@pytest.mark.parametrize("size", range(1, 16))
def test_a_first_segment_shorter_than_a_header_is_waited_for(size):
    assert dcerpc.inspect(dialogue([bind(PLAIN)[:size]], [])) is WAIT


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\5\1\0", b"220 mail\r\n", bytes(40)])
def test_other_protocols_are_not_rpc(data):
    expected = WAIT if data == b"\5\1\0" else NOT_THIS
    assert dcerpc.inspect(dialogue([data], [])) is expected


def test_silence_is_nothing():
    assert not isinstance(dcerpc.inspect(dialogue([], [])), Evidence)


def test_a_cut_bind_says_nothing_about_authentication():
    cut = Stream((Chunk(0, bind(PLAIN, auth=(10, 6, bytes(40)))[:80]),), truncated=True)
    found = dcerpc.inspect(Dialogue("tcp", cut, Stream()))
    assert (found.authentication, found.encryption) == (None, None)
    assert accepted(found) == [(EMSMDB, "0.81", None)]


def test_a_hole_in_one_direction_does_not_silence_the_other():
    asked = stream(bind(PLAIN), *(request(number, bytes(100), call=number) for number in range(2, 30)))
    told = stream(ack([(0, NDR32)]), *(response(bytes(50), call=number) for number in range(2, 30)))
    holed = Dialogue("tcp", asked, with_hole(told, 10, 400))
    found = dcerpc.inspect(holed)
    assert accepted(found) == [(EMSMDB, "0.81", True)]
    assert len(signs(found, "rpc.opnum")) == 28
    assert found.gap


def test_behind_a_hole_reading_goes_on():
    calls = [request(number, bytes(100), call=number) for number in range(2, 30)]
    asked = with_hole(stream(bind(PLAIN), *calls), 200, 1500)
    found = dcerpc.inspect(Dialogue("tcp", asked, stream(ack([(0, NDR32)]))))
    assert f"{EMSMDB}:29" in signs(found, "rpc.opnum")


def test_several_security_contexts_the_protected_one_counts():
    asked = [bind(PLAIN, auth=(10, 2, bytes(8))), bind(PLAIN, call=2, ptype=14, auth=(16, 6, bytes(8)))]
    asked += [request(1, call=3), request(2, bytes(8), call=4, auth=(16, 6, bytes(60)))]
    found = dcerpc.inspect(dialogue(asked, []))
    assert (found.authentication, found.encryption) == ("kerberos", "rpc-privacy")
    assert signs(found, "rpc.auth-type") == ["10", "16"]


def test_work_is_bounded():
    calls = request(1, call=2) * 30_000
    found = dcerpc.inspect(dialogue([bind(PLAIN), calls], []))
    assert found.limited


def test_repeated_answers_need_no_second_bind():
    asked = [bind(PLAIN, call=1), bind([(0, NSPI, "56.0", [NDR32])], call=1, ptype=14)]
    told = [ack([(0, NDR32)], call=1), ack([(2, NDR32)], call=1, ptype=15, address=b"")]
    assert accepted(dcerpc.inspect(dialogue(asked, told))) == [(EMSMDB, "0.81", True), (NSPI, "56.0", False)]


# ---- properties ----------------------------------------------------------------------------------

WALK = dialogue(
    [bind([(0, EPM, "3.0", [NDR32])]), request(3, map_request()), request(3, map_request(tower(NSPI)), call=3)],
    [ack([(0, NDR32)]), response(map_answer([tower()])), fault(0x16C9A0D6, call=3), pdu(17, b"")],
)


@given(st.binary(max_size=400), st.binary(max_size=400), st.booleans())
def test_no_bytes_raise(left, right, started):
    streams = Stream((Chunk(0, left),), started=started), Stream((Chunk(9, right),), started=started)
    dcerpc.inspect(Dialogue("tcp", *streams))


def parts(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [Chunk(start, data[start:end]) for start, end in pairwise(edges) if start < end]


@given(
    st.sampled_from(list(Side)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_changed_bytes_and_holes_never_raise(side, changes, cuts):
    streams = [WALK.to_server, WALK.to_client]
    data = bytearray(streams[side].chunks[0].data)
    for at, value in changes:
        data[at % len(data)] = value
    pieces = parts(bytes(data), cuts)
    streams[side] = Stream(tuple(pieces[::2]))  # every second piece is a hole
    dcerpc.inspect(Dialogue("tcp", *streams))


@given(st.integers(0, 300), st.integers(0, 300))
def test_what_is_read_around_a_hole_is_true(start, length):
    """A hole may lose facts; it never makes one up."""
    whole = dcerpc.inspect(WALK)
    holed = dcerpc.inspect(Dialogue("tcp", WALK.to_server, with_hole(WALK.to_client, start, start + length)))
    assert isinstance(holed, Evidence)
    known = {(handout.kind, handout.port) for handout in whole.handouts}
    assert {(handout.kind, handout.port) for handout in holed.handouts} <= known
    assert {(query.uuid, query.version) for query in holed.queries} == {(EMSMDB, "0.81"), (NSPI, "0.81")}


# ---- other writers -------------------------------------------------------------------------------


def test_a_bind_written_by_impacket():
    rpcrt = pytest.importorskip("impacket.dcerpc.v5.rpcrt")
    uuid = pytest.importorskip("impacket.uuid")
    item = rpcrt.CtxItem()
    item["AbstractSyntax"] = uuid.uuidtup_to_bin((EMSMDB, "0.81"))
    item["TransferSyntax"] = uuid.uuidtup_to_bin((NDR32, "2.0"))
    item["ContextID"], item["TransItems"] = 0, 1
    body = rpcrt.MSRPCBind()
    body.addCtxItem(item)
    header = rpcrt.MSRPCHeader()
    header["type"] = rpcrt.MSRPC_BIND
    header["pduData"] = body.getData()
    assert accepted(dcerpc.inspect(dialogue([header.get_packet()], []))) == [(EMSMDB, "0.81", None)]


def test_a_bind_written_by_scapy():
    rpc = pytest.importorskip("scapy.layers.dcerpc")
    context = rpc.DceRpc5Context(
        cont_id=0,
        abstract_syntax=rpc.DceRpc5AbstractSyntax(if_uuid=UUID(EMSMDB), if_version=81 << 16),
        transfer_syntaxes=[rpc.DceRpc5TransferSyntax(if_uuid=UUID(NDR32), if_version=2)],
    )
    written = bytes(rpc.DceRpc5(ptype="bind", call_id=1) / rpc.DceRpc5Bind(context_elem=[context]))
    assert accepted(dcerpc.inspect(dialogue([written], []))) == [(EMSMDB, "0.81", None)]
