"""Of SMB the inside of long messages that nobody reads is not kept, and what is kept tells what all of it tells."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inspectors import test_smb as smb
from inspectors.rpc_writer import EPM, NDR32, ack, bind, map_answer, map_request, request, response, tower
from scapy.packet import Packet
from test_streams import read, segment

from classifier import inspectors
from classifier.dialogues import read_stream
from classifier.headers import TCP
from classifier.inspectors.base import Chunk, Dialogue, Evidence, Stream
from classifier.limits import KIB, PIPE_MESSAGE
from classifier.streams import ARENA_USED, BLANKS, MESSAGE_HEAD, SEGMENTS

pytestmark = pytest.mark.kernels

PDU = bytes.fromhex("05000203100000001001000000000000")
SMALLEST = 672
"""Size from which on the inside of a message is blanked."""


class Message(NamedTuple):
    """One message of a stream. data: with the NetBIOS header; says: "file", "told", "unread" or "rpc"."""

    says: str
    data: bytes


def session(data: bytes) -> bytes:
    """In a NetBIOS session message ([MS-SMB2] 2.1)."""
    return b"\0" + len(data).to_bytes(3, "big") + data


def smb2(command: int, body: bytes, reply: bool = False, following: int = 0) -> bytes:
    fields = b"\xfeSMB", 64, 1, 0, command, 1, int(reply), following, 7, 0, 5, 9, b"S" * 16
    return struct.pack("<4sHHIHHIIQIIQ16s", *fields) + body


def smb1(command: int, words: bytes, data: bytes, reply: bool = False) -> bytes:
    head = struct.pack("<4sBIBHH8sHHHHH", b"\xffSMB", command, 0, 0x80 * reply, 0x8000, 0, b"S" * 8, 0, 1, 2, 3, 4)
    return session(head + bytes([len(words) // 2]) + words + struct.pack("<H", len(data) & 0xFFFF) + data)


def read2(data: bytes) -> bytes:
    return session(smb2(8, struct.pack("<HBBIII", 17, 80, 0, len(data), 0, 0) + data, reply=True))


def write2(data: bytes) -> bytes:
    return session(smb2(9, struct.pack("<HHIQ16sIIHHI", 49, 112, len(data), 0, b"F" * 16, 0, 0, 0, 0, 0) + data))


def read1(data: bytes) -> bytes:
    words = struct.pack("<BBHHHHHHH8s", 255, 0, 0, 0, 0, 0, len(data) & 0xFFFF, 59, 0, b"")
    return smb1(0x2E, words, data, reply=True)


def write1(data: bytes, raw: bool = False) -> bytes:
    words = struct.pack("<BBHHIIHHHHHI", 255, 0, 0, 9, 0, 0, 0x0C if raw else 0, 0, 0, len(data) & 0xFFFF, 64, 0)
    return smb1(0x2F, words, b"P" + (b"\xff\xff" if raw else b"") + data)


def transceive2(data: bytes) -> bytes:
    fields = 57, 0, 0x11C017, b"F" * 16, 120, len(data), 0, 0, 0, 0, 1, 0
    return session(smb2(11, struct.pack("<HHI16sIIIIIIII", *fields) + data))


def compound(data: bytes) -> bytes:
    return session(smb2(8, data, reply=True, following=64 + len(data)) + smb2(6, bytes(60), reply=True))


def filler(size: int) -> bytes:
    return bytes(97 + at % 23 for at in range(size))


KINDS = {
    "read": lambda size: Message("file", read2(filler(size))),
    "write": lambda size: Message("file", write2(filler(size))),
    "read, first version": lambda size: Message("file", read1(filler(size))),
    "write, first version": lambda size: Message("file", write1(filler(size))),
    "listing": lambda size: Message("unread", session(smb2(14, filler(size), reply=True))),
    "listing, first version": lambda size: Message("unread", smb1(0x32, bytes(20), filler(size), reply=True)),
    "encrypted": lambda size: Message("unread", session(b"\xfdSMB" + filler(48 + size))),
    "compressed": lambda size: Message("unread", session(b"\xfcSMB" + filler(12 + size))),
    "logon": lambda size: Message("told", session(smb2(1, filler(size)))),
    "logon, first version": lambda size: Message("told", smb1(0x73, filler(24), filler(size))),
    "compound": lambda size: Message("told", compound(filler(8 * size))),
    "keep-alive": lambda _: Message("told", b"\x85\0\0\0"),
    "pipe": lambda size: Message("rpc", read2(PDU + filler(size))),
    "pipe written": lambda size: Message("rpc", write2(PDU + filler(size))),
    "pipe transceived": lambda size: Message("rpc", transceive2(PDU + filler(size))),
    "pipe, first version": lambda size: Message("rpc", read1(PDU + filler(size))),
    "pipe written raw": lambda size: Message("rpc", write1(PDU + filler(size), raw=True)),
    "pipe transacted": lambda size: Message("rpc", smb1(0x25, bytes(28), PDU + filler(size))),
}


def kept(messages: list[Message]) -> bytes:
    """What should be kept, with zeros in place of the rest."""
    out, piped = b"", False
    for message in messages:
        size = len(message.data)
        piped |= message.says == "rpc"
        rest_of_pdu = message.says == "file" and piped and size <= PIPE_MESSAGE
        whole = message.says in ("told", "rpc") or rest_of_pdu or size < SMALLEST
        out += message.data if whole else message.data[:MESSAGE_HEAD].ljust(size, b"\0")
    return out


sizes = st.one_of(st.integers(0, 900), st.sampled_from([4 * KIB, 8 * KIB, 20_000]))
a_message = st.tuples(st.sampled_from(sorted(KINDS)), sizes).map(lambda pair: KINDS[pair[0]](pair[1]))
some_messages = st.lists(a_message, max_size=8)
slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(messages: list[Message]) -> list[Message]:
    """With a negotiation before them, which tells the protocol."""
    return [Message("told", session(smb2(0, filler(100)))), *messages]


def segments(stream: bytes, lengths: list[int]) -> list[Packet]:
    """The stream in segments of these lengths, again and again."""
    packets, at = [segment(True, 0, "S")], 0
    while at < len(stream):
        length = lengths[len(packets) % len(lengths)]
        packets.append(segment(True, 1 + at, "A", stream[at : at + length], number=len(packets)))
        at += length
    return packets


@given(messages=some_messages, lengths=st.lists(st.integers(MESSAGE_HEAD, 1460), min_size=1, max_size=5))
@slow
def test_the_same_is_kept_however_it_is_cut(tmp_path: Path, messages: list[Message], lengths: list[int]) -> None:
    messages = opened(messages)
    table = read(tmp_path / "x.pcap", segments(b"".join(message.data for message in messages), lengths))
    assert read_stream(table.store, 0, TCP).chunks == (Chunk(0, kept(messages)),)


@given(messages=some_messages, lengths=st.lists(st.integers(1, 400), min_size=1, max_size=5), chance=st.randoms())
@slow
def test_no_more_is_blanked_of_small_segments_out_of_order_or_lost(
    tmp_path: Path, messages: list[Message], lengths: list[int], chance: random.Random
) -> None:
    messages = opened([message for message in messages if len(message.data) < 2000][:3])
    whole, least = b"".join(message.data for message in messages), kept(messages)
    syn, *packets = segments(whole, lengths)
    late = chance.random() < 0.3
    first = int(late)  # behind many packets a SYN opens another stream, and this one begins with what was seen of it
    if len(packets) > 1 and chance.random() < 0.5:
        packets.pop(chance.randrange(first, len(packets)))
    for _ in range(chance.randint(0, 3)):
        packets.insert(chance.randrange(len(packets)), packets.pop(chance.randrange(len(packets))))
    packets.insert(len(packets) if late else 0, syn)
    stream = read_stream(read(tmp_path / "x.pcap", packets).store, 0, TCP)
    for chunk in stream.chunks:
        for at, octet in enumerate(chunk.data, chunk.offset):
            assert octet == whole[at] or (octet == 0 and least[at] == 0)


def test_blanked_bytes_take_neither_memory_nor_many_segments(tmp_path: Path) -> None:
    messages = opened([KINDS["write"](50_000) for _ in range(12)])
    stream = b"".join(message.data for message in messages)
    store = read(tmp_path / "x.pcap", segments(stream, [1460])).store
    assert len(read_stream(store, 0, TCP).head) == len(stream)
    assert store.counters[ARENA_USED] - BLANKS == len(messages[0].data) + 12 * MESSAGE_HEAD
    assert store.counters[SEGMENTS] < 40


def test_messages_of_a_pipe_that_begin_elsewhere_than_with_a_pdu_are_kept(tmp_path: Path) -> None:
    """A reader that gets a PDU in two goes, beside files: what hands out a port stands in the second."""
    ports = list(range(49_160, 49_190))
    answer = response(map_answer([tower(port=port) for port in ports]))
    assert len(answer) > 1024 + SMALLEST
    file = b"\xd0\xcf\x11\xe0" * 5000
    asked = [
        smb.frame(smb.message(5, smb.create("epmapper"), 1)),
        smb.frame(smb.message(9, smb.write(file, b"G" * 16), 2)),
        smb.frame(smb.message(11, smb.transceive(bind([(0, EPM, "3.0", [NDR32])])), 3)),
        smb.frame(smb.message(11, smb.transceive(request(3, map_request())), 4)),
        smb.frame(smb.message(8, smb.read(), 5)),
        smb.frame(smb.message(8, smb.read(b"G" * 16), 6)),
    ]
    told_back = [
        smb.frame(smb.message(5, smb.created(), 1, smb.REPLY)),
        smb.frame(smb.message(11, smb.transceived(ack([(0, NDR32)], address=b"")), 3, smb.REPLY)),
        smb.frame(smb.message(11, smb.transceived(answer[:1024]), 4, smb.REPLY, status=0x80000005)),
        smb.frame(smb.message(8, smb.got(answer[1024:]), 5, smb.REPLY)),
        smb.frame(smb.message(8, smb.got(file), 6, smb.REPLY)),
    ]
    whole = [b"".join(asked), b"".join(told_back)]
    kept_of = []
    for name, stream in zip(("asked", "told"), whole, strict=True):
        store = read(tmp_path / f"{name}.pcap", segments(stream, [1460, 700])).store
        kept_of.append(read_stream(store, 0, TCP).head)
    assert all(len(one) == len(other) and one != other for one, other in zip(kept_of, whole, strict=True))
    found, same = (
        inspectors.inspect(Dialogue("tcp", Stream((Chunk(0, ahead),)), Stream((Chunk(0, back),)), 445))
        for ahead, back in (kept_of, whole)
    )
    assert isinstance(found, Evidence)
    assert [item.port for item in found.handouts] == ports
    assert found == same
