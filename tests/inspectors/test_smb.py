"""SMB sessions: shares, logons, protection, and RPC in named pipes; messages written by impacket."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspectors.rpc_writer import (
    EMSMDB,
    EPM,
    NDR32,
    NSPI,
    ack,
    bind,
    dialogue,
    map_answer,
    map_request,
    request,
    response,
    stream,
    tower,
    with_hole,
)

from classifier.inspectors import netbios_session, smb
from classifier.inspectors.base import NOT_THIS, WAIT, Chunk, Dialogue, Side, Stream

smb2 = pytest.importorskip("impacket.smb3structs")
smb1 = pytest.importorskip("impacket.smb")

FILE = b"F" * 16
SAME = b"\xff" * 16
SIGNED, RELATED, REPLY, ASYNC = 8, 4, 1, 2


def frame(*messages):
    data = b"".join(messages)
    return b"\0" + len(data).to_bytes(3, "big") + data


def message(command, body, number, flags=0, status=0, tree=5, following=False):
    packet = smb2.SMB2Packet()
    packet["Command"], packet["MessageID"], packet["Flags"], packet["Status"] = command, number, flags, status
    packet["TreeID"], packet["Data"] = tree, body if isinstance(body, bytes) else body.getData()
    data = packet.getData()
    if following:
        data += bytes(-len(data) % 8)
        data = data[:20] + struct.pack("<I", len(data)) + data[24:]
    return data


def connect(share="\\\\mail\\IPC$"):
    body = smb2.SMB2TreeConnect()
    body["Buffer"] = share.encode("utf-16-le")
    body["PathLength"] = len(body["Buffer"])
    return body


def create(name):
    body = smb2.SMB2Create()
    body["Buffer"], body["NameLength"] = name.encode("utf-16-le"), 2 * len(name)
    return body


def created():
    body = smb2.SMB2Create_Response()
    body["FileID"] = FILE
    body["Buffer"] = b"\0"
    return body


def write(data, file=FILE):
    body = smb2.SMB2Write()
    body["FileID"], body["Length"], body["Buffer"], body["WriteChannelInfoOffset"] = file, len(data), data, 0
    return body


def read(file=FILE):
    body = smb2.SMB2Read()
    body["FileID"], body["Length"] = file, 4096
    return body


def got(data):
    body = smb2.SMB2Read_Response()
    body["DataOffset"], body["DataLength"], body["Buffer"] = 80, len(data), data
    return body


def transceive(data, file=FILE):
    body = smb2.SMB2Ioctl()
    body["FileID"], body["CtlCode"] = file, 0x0011C017
    body["InputOffset"], body["InputCount"], body["Buffer"] = 120, len(data), data
    return body


def transceived(data):
    body = smb2.SMB2Ioctl_Response()
    body["CtlCode"], body["FileID"] = 0x0011C017, FILE
    body["InputOffset"], body["OutputOffset"], body["OutputCount"], body["Buffer"] = 112, 112, len(data), data
    return body


BIND = bind([(0, NSPI, "56.0", [NDR32]), (1, EMSMDB, "0.81", [NDR32])])
ACK = ack([(0, NDR32), (2, NDR32)], address=b"\\PIPE\\lsass")


def playbook(flags=0):
    asked = [
        frame(message(3, connect(), 3, flags)),
        frame(message(5, create("lsass"), 4, flags)),
        frame(message(9, write(BIND), 5, flags)),
        frame(message(8, read(), 6, flags)),
        frame(message(11, transceive(request(0, bytes(20))), 7, flags)),
    ]
    told = [
        frame(message(3, bytes.fromhex("1000020000000000000000001f01ff01"), 3, REPLY | flags)),
        frame(message(5, created(), 4, REPLY | flags)),
        frame(message(9, smb2.SMB2Write_Response(), 5, REPLY | flags)),
        frame(message(8, bytes(9), 6, REPLY | ASYNC | flags, status=0x103)),
        frame(message(8, got(ACK), 6, REPLY | ASYNC | flags)),
        frame(message(11, transceived(response(bytes(8))), 7, REPLY | flags)),
    ]
    return asked, told


def interfaces(evidence):
    return [(item.uuid, item.version, item.accepted, item.via) for item in evidence.interfaces]


def signs(evidence, field):
    return [sign.value for sign in evidence.signs if sign.field == field]


def test_rpc_in_a_pipe():
    asked, told = playbook()
    found = smb.inspect(dialogue(asked, told))
    assert (found.protocol, found.reversed) == ("smb", False)
    assert interfaces(found) == [(NSPI, "56.0", True, "\\PIPE\\lsass"), (EMSMDB, "0.81", False, "\\PIPE\\lsass")]
    assert signs(found, "smb.share") == ["\\\\mail\\IPC$"]
    assert signs(found, "smb.pipe") == ["lsass"]
    assert signs(found, "rpc.opnum") == [f"{NSPI}:0"]
    assert signs(found, "rpc.secondary-address") == ["\\PIPE\\lsass"]
    assert found.encryption == "none"


def test_places_are_those_of_the_stream_around():
    asked, told = playbook()
    (first, *_) = smb.inspect(dialogue(asked, told)).interfaces
    whole = b"".join(asked)
    assert first.place.side is Side.TO_SERVER
    assert whole[first.place.offset :].startswith(BIND)


def test_the_mapper_in_its_pipe():
    asked = [
        frame(message(5, create("epmapper"), 1)),
        frame(message(11, transceive(bind([(0, EPM, "3.0", [NDR32])])), 2)),
    ]
    asked.append(frame(message(11, transceive(request(3, map_request())), 3)))
    told = [
        frame(message(5, created(), 1, REPLY)),
        frame(message(11, transceived(ack([(0, NDR32)], address=b"")), 2, REPLY)),
    ]
    told.append(frame(message(11, transceived(response(map_answer([tower()]))), 3, REPLY)))
    found = smb.inspect(dialogue(asked, told))
    assert [item.port for item in found.handouts] == [49160]
    assert b"".join(told)[found.handouts[0].place.offset :].startswith(response(map_answer([tower()])))
    assert b"".join(asked)[found.queries[0].place.offset :].startswith(request(3, map_request()))


def test_a_compound_names_its_file_by_the_create_before():
    asked = [
        frame(
            message(5, create("lsass"), 1, following=True),
            message(9, write(BIND, SAME), 2, RELATED, following=True),
            message(8, read(SAME), 3, RELATED),
        )
    ]
    told = [
        frame(
            message(5, created(), 1, REPLY, following=True),
            message(9, smb2.SMB2Write_Response(), 2, REPLY, following=True),
            message(8, got(ACK), 3, REPLY),
        )
    ]
    found = smb.inspect(dialogue(asked, told))
    assert interfaces(found)[0] == (NSPI, "56.0", True, "\\PIPE\\lsass")


def test_files_are_not_pipes():
    asked = [frame(message(5, create("letter.doc"), 1)), frame(message(9, write(b"\xd0\xcf\x11\xe0" * 5000), 2))]
    found = smb.inspect(dialogue(asked, [frame(message(5, created(), 1, REPLY))]))
    assert interfaces(found) == []
    assert signs(found, "smb.pipe") == []


@pytest.mark.parametrize(("flags", "protection"), [(0, "none"), (SIGNED, "smb-sign")])
def test_signing(flags, protection):
    assert smb.inspect(dialogue(*playbook(flags))).encryption == protection


def test_encryption():
    sealed = b"\0\0\0\x40\xfdSMB" + bytes(60)
    found = smb.inspect(dialogue([sealed], [sealed]))
    assert (found.protocol, found.encryption, found.reversed) == ("smb", "smb3", None)


def test_swapped_sides():
    asked, told = playbook()
    found = smb.inspect(dialogue(told, asked))
    assert found.reversed is True
    assert interfaces(found)[0][2] is True


def test_one_direction_alone():
    asked, told = playbook()
    assert interfaces(smb.inspect(dialogue(asked, [])))[0] == (NSPI, "56.0", None, "\\PIPE")
    assert smb.inspect(dialogue(told, [])).reversed is True


def test_behind_a_hole_frames_are_found_again():
    asked, told = playbook()
    filler = frame(message(9, write(b"\xd0\xcf" * 3000, b"G" * 16), 9))
    holed = with_hole(stream(filler, *asked), 100, 5900)
    found = smb.inspect(Dialogue("tcp", holed, stream(*told)))
    assert interfaces(found)[0] == (NSPI, "56.0", True, "\\PIPE\\lsass")
    assert found.gap


def smb1_message(command, words, data, reply=False, multiplex=1):
    flags = 0x80 if reply else 0
    head = b"\xffSMB" + struct.pack("<BIBHH8sHHHHH", command, 0, flags, 0x8000, 0, bytes(8), 0, 1, 2, 3, multiplex)
    return frame(head + bytes([len(words) // 2]) + words + struct.pack("<H", len(data)) + data)


def first_version():
    name = b"\0" + "\\winreg\0".encode("utf-16-le")
    asked = [
        smb1_message(0xA2, b"\xff\0\0\0\0" + struct.pack("<H", 16) + bytes(41), name),
        smb1_message(
            0x2F,
            struct.pack("<BBHHIIHHHHH", 255, 0, 0, 9, 0, 0, 8, 0, 0, len(BIND), 65) + bytes(4),
            b"\0" * 2 + BIND,
            multiplex=2,
        ),
        smb1_message(0x2E, struct.pack("<BBHH", 255, 0, 0, 9) + bytes(14), b"", multiplex=3),
        smb1_message(
            0x25, bytes(22) + struct.pack("<HHBBHH", 32, 68, 2, 0, 0x26, 9), b"\0" + request(0, bytes(8)), multiplex=4
        ),
    ]
    told = [
        smb1_message(0xA2, b"\xff\0\0\0\0" + struct.pack("<H", 9) + bytes(61), b"", True),
        smb1_message(0x2F, b"\xff\0\0\0" + bytes(8), b"", True, 2),
        smb1_message(0x2E, struct.pack("<BBHHHHHH", 255, 0, 0, 0, 0, 0, len(ACK), 57) + bytes(8), ACK, True, 3),
    ]
    return asked, told


def test_a_pipe_in_the_first_version():
    found = smb.inspect(dialogue(*first_version()))
    assert interfaces(found)[0] == (NSPI, "56.0", True, "\\PIPE\\winreg")
    assert signs(found, "rpc.opnum") == [f"{NSPI}:0"]


def test_netbios_session_without_smb():
    name = b"\x20" + b"CKFDENECFDEFFCFGEFFCCACACACACACA" + b"\0"
    found = smb.inspect(dialogue([b"\x81\0\0\x44" + name + name], [b"\x82\0\0\0"]))
    assert (found.protocol, found.reversed) == ("netbios-ssn", False)
    assert signs(found, "netbios.called") == ["*SMBSERVER"]


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\x40", b"\0\0\0\x40\xfeSM"])
def test_the_beginning_of_a_frame_is_waited_for(data):
    assert smb.inspect(dialogue([data], [])) is WAIT


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x40HTTP", b"\x16\3\1\0", b"\x85\0\0\1"])
def test_other_protocols(data):
    assert smb.inspect(dialogue([data], [])) is NOT_THIS


def test_a_frame_s_name_needs_its_length():
    assert netbios_session.name(b"\x20" + b"A" * 10) == ""


# ---- properties ----------------------------------------------------------------------------------

ASKED, TOLD = (b"".join(side) for side in playbook())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2000), st.integers(0, 255)), max_size=10), st.integers(0, 900))
def test_changed_bytes_never_raise(changes, cut):
    sides = bytearray(ASKED), bytearray(TOLD)
    for side, at, value in changes:
        sides[side][at % len(sides[side])] = value
    smb.inspect(dialogue([bytes(sides[0])], [bytes(sides[1])[:cut]]))


@given(st.integers(0, 900), st.integers(1, 300), st.booleans())
def test_holes_never_raise_or_invent(start, length, in_replies):
    streams = [stream(ASKED), stream(TOLD)]
    streams[in_replies] = with_hole(streams[in_replies], start, start + length)
    found = smb.inspect(Dialogue("tcp", *streams))
    if found not in (WAIT, NOT_THIS):
        assert {item[0] for item in interfaces(found)} <= {NSPI, EMSMDB}


@given(st.binary(max_size=200))
def test_no_bytes_raise(data):
    for magic in (b"\xfeSMB\x40\0", b"\xffSMB\x25", b"\xfdSMB", b""):
        head = b"\0" + (len(data) + len(magic)).to_bytes(3, "big")
        smb.inspect(Dialogue("tcp", Stream((Chunk(0, head + magic + data),)), Stream((Chunk(3, head + magic + data),))))
