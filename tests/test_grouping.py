"""Dialogues that have the same essence give the same evidence: whatever is blanked is changed, and read again.

The dialogues are those of all captures. Each is changed where its essence is blank, a few bytes or all of them, and
anywhere else by chance; where a change leaves the essence as it was, inspectors must not see it either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import shared
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

import classifier
from classifier import essence, inspectors
from classifier.assembly import assemble
from classifier.conclusion import named_ports
from classifier.dialogues import dialogues as dialogues_of
from classifier.inspection import PORT_CLASS, Reading
from classifier.inspectors.base import Chunk, Dialogue, Evidence, Stream
from classifier.limits import KIB
from classifier.orientation import first_look
from classifier.sources import CaptureSet

SHIPPED = sorted((Path(__file__).parents[1] / "captures").glob("*.pcap*"))
LONGEST = 96 * KIB
"""Longer dialogues are left out here: a dozen, which would take most of the time."""

Heads = tuple[bytes, bytes]


def heads_of(dialogue: Dialogue) -> Heads | None:
    """The bytes of both sides; None where they lie in several pieces, which are compared as they are."""
    streams = dialogue.to_server, dialogue.to_client
    if any(len(stream.chunks) > 1 or (stream.chunks and stream.chunks[0].offset) for stream in streams):
        return None
    ours, theirs = (stream.chunks[0].data if stream.chunks else b"" for stream in streams)
    return (ours, theirs) if len(ours) + len(theirs) <= LONGEST else None


def essence_of(dialogue: Dialogue, heads: Heads) -> Heads:
    """Both heads as `inspection` compares them."""
    rooms = [np.frombuffer(head + bytes(8), np.uint8).copy() for head in heads]
    asked, answered = map(len, heads)
    call = essence.first_call_id(rooms[0], 0, asked) if asked else essence.first_call_id(rooms[1], 0, answered)
    stubs = essence.reads_stubs(rooms[0], 0, asked)
    tcp = dialogue.transport == "tcp"
    ends = (
        essence.clean(rooms[0], 0, asked, tcp, call, dialogue.client_port, stubs),
        essence.clean(rooms[1], 0, answered, tcp, call, dialogue.server_port, stubs),
    )
    ours, theirs = (room[:end].tobytes() for room, end in zip(rooms, ends, strict=True))
    return ours, theirs


def blank_in(heads: Heads, kept: Heads) -> list[tuple[int, int]]:
    """Side and offset of each byte that was blanked or cut off."""
    blank = []
    for side, (head, rest) in enumerate(zip(heads, kept, strict=True)):
        both = (np.frombuffer(data, np.uint8, len(rest)) for data in (head, rest))
        blank += [(side, at) for at in np.flatnonzero(np.not_equal(*both)).tolist()]
    if heads[0][:1] == b"\x16" or heads[1][:1] == b"\x16":  # behind a handshake all is cut; RPC's rest has headers
        blank += [(side, at) for side in (0, 1) for at in range(len(kept[side]), len(heads[side]))]
    return blank


def changed(dialogue: Dialogue, heads: Heads, places: list[tuple[int, int]], chance: Random) -> tuple[Dialogue, Heads]:
    """The dialogue with other bytes at these places."""
    fresh = bytearray(heads[0]), bytearray(heads[1])
    for (side, at), value in zip(places, chance.randbytes(len(places)), strict=True):
        fresh[side][at] = value
    ours, theirs = bytes(fresh[0]), bytes(fresh[1])

    def stream(before: Stream, data: bytes) -> Stream:
        return before._replace(chunks=(Chunk(0, data),) if data else ())

    other = dialogue._replace(to_server=stream(dialogue.to_server, ours), to_client=stream(dialogue.to_client, theirs))
    return other, (ours, theirs)


def changes(heads: Heads, blank: list[tuple[int, int]], chance: Random) -> Iterator[list[tuple[int, int]]]:
    """Places to change: all that is blank, runs of it, and single bytes anywhere."""
    if blank:
        yield blank
        for _ in range(5):
            start = chance.randrange(len(blank))
            yield blank[start : start + chance.randrange(1, 5)]
    everywhere = [(side, at) for side in (0, 1) for at in range(len(heads[side]))]
    yield from ([place] for place in chance.sample(everywhere, min(12, len(everywhere))))


def dialogues(path: Path) -> list[Dialogue]:
    table = assemble(CaptureSet.of([path]), jobs=1).table
    return list(dialogues_of(table, first_look(table, named_ports(shared.rulebook())), np.arange(table.count)))


def told(dialogue: Dialogue) -> str:
    """What inspectors find, without the addresses of objects in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(inspectors.inspect(dialogue)))


def disagreements(paths: list[Path]) -> tuple[int, list[str]]:
    """How many changes left the essence as it was; those that inspectors saw all the same."""
    chance, equal, seen = Random(7), 0, []
    for path in paths:
        for number, dialogue in enumerate(dialogues(path), 1):
            heads = heads_of(dialogue)
            if heads is None or not any(heads):
                continue
            kept, found = essence_of(dialogue, heads), told(dialogue)
            for places in changes(heads, blank_in(heads, kept), chance):
                other, other_heads = changed(dialogue, heads, places, chance)
                if essence_of(other, other_heads) != kept:
                    continue
                equal += 1
                if told(other) != found:
                    seen.append(f"{path.name} conversation {number}: bytes {places[:5]}")
    return equal, seen


def test_what_is_blank_tells_nothing() -> None:
    equal, seen = disagreements(SHIPPED)
    print(f"{equal} changes that leave the essence as it was")
    assert seen == []
    assert equal > 1000


@shared.needed
def test_what_is_blank_tells_nothing_in_real_captures() -> None:
    equal, seen = disagreements([shared.FOLDER / name for name in shared.captures("real")])
    print(f"{equal} changes that leave the essence as it was")
    assert seen == []
    assert equal > 4000


def test_the_port_of_the_client_tells_nothing_of_an_address_that_the_server_names() -> None:
    """A bind_ack names a port: nothing new if it is the server's own, whatever the client's is."""
    named = 0
    for dialogue in (dialogue for path in SHIPPED for dialogue in dialogues(path)):
        elsewhere = dialogue._replace(server_port=1 if dialogue.oriented else dialogue.server_port)
        found = inspectors.inspect(elsewhere)
        if isinstance(found, Evidence) and found.protocol == "dcerpc" and found.handouts:
            named += 1
            same = elsewhere._replace(client_port=found.handouts[0].port)
            assert inspectors.inspect(same) == found
    assert named > 20


@pytest.mark.parametrize("size", [0, 7, 8, 9, 40, 200])
def test_a_verification_trailer_is_found_wherever_it_stands_whole(size: int) -> None:
    """Its signature with four octets behind it ([MS-RPCE] 2.2.2.13), between the bytes given and nowhere else."""
    for place in range(size + 8):
        stub = np.full(size + 16, 0x8A, np.uint8)
        stub[4 + place : 8 + place] = 0x8A, 0xE3, 0x13, 0x71
        assert essence._has_trailer(stub, 4, 4 + size) == (place + 8 <= size)


@pytest.mark.parametrize("before", [0, 1, 30, 31, 32, 33, 100])
def test_tls_behind_lines_is_cleaned_wherever_it_begins(before: int) -> None:
    """A handshake behind a line feed, and a record that is encrypted, of which the first octet stays."""
    text, record = b"+OK" + b"x" * before + b"\r\n", bytes.fromhex("160301000402000000 1703030010") + bytes(16)
    for lines, kept in ((text, len(text) + 10), (text[:-1], len(text) - 1 + len(record))):
        both = np.frombuffer(lines + record, np.uint8).copy()
        assert essence.clean(both, 0, len(both), True, 0, 110, False) == kept


@pytest.mark.parametrize("port", inspectors.PORTS)
def test_ports_that_inspectors_tell_apart_are_of_a_class_of_their_own(port: int) -> None:
    assert np.flatnonzero(PORT_CLASS[port] == PORT_CLASS).tolist() == [port]


def test_ports_of_one_class_are_one_to_inspectors() -> None:
    """Any port for any other of its class, but for a server of RPC, which may name its own (above)."""
    chance, plain = Random(3), [np.flatnonzero(number == PORT_CLASS).tolist() for number in (0, 1)]
    assert sum(map(len, plain)) + len(inspectors.PORTS) == 65_536
    moved = 0
    for dialogue in (dialogue for path in SHIPPED[::4] for dialogue in dialogues(path)):
        ports = dialogue.server_port, dialogue.client_port
        fresh = [chance.choice(plain[PORT_CLASS[port]]) if PORT_CLASS[port] < 2 else port for port in ports]
        found = inspectors.inspect(dialogue)
        if isinstance(found, Evidence) and found.protocol in ("dcerpc", "epm"):
            fresh[int(found.reversed)] = ports[int(found.reversed)]
        moved += fresh != list(ports)
        assert inspectors.inspect(dialogue._replace(server_port=fresh[0], client_port=fresh[1])) == found
    assert moved > 100


def mid_stream(ports: list[int], path: Path) -> Path:
    """Two TLS records each way on each of these server ports, without a beginning."""
    record = bytes.fromhex("1703030020") + bytes(range(32))
    packets = []
    for number, port in enumerate(ports):
        for turn in range(4):
            ends = [("192.0.2.1", 40000 + number), ("192.0.2.2", port)][:: -1 if turn % 2 else 1]
            (source, sport), (target, dport) = ends
            segment = TCP(sport=sport, dport=dport, flags="PA", seq=1 + 37 * (turn // 2), ack=1)
            link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
            packet = link / IP(src=source, dst=target) / segment / record
            packet.time = 1_700_000_000 + number + turn / 10
            packets.append(packet)
    wrpcap(str(path), packets)
    return path


@pytest.mark.parametrize("port", [21, 25, 110, 119, 143, 389, 587, 3268])
def test_a_port_that_inspectors_know_is_no_other_ports_equal(port: int, tmp_path: Path) -> None:
    """Equal bytes on a port where TLS is asked for in clear say less than on the ports beside it, in any order."""
    for ports in ([port - 1, port, port + 1], [port, port - 1, port + 1]):
        result = classifier.classify(mid_stream(ports, tmp_path / "tls.pcap"), jobs=1)
        found = {talk.server_port: talk.encryption for talk in result}
        assert found == {port - 1: "tls-implicit", port: None, port + 1: "tls-implicit"}


def out_of_order(payloads: list[bytes], path: Path) -> Path:
    """A conversation for each payload, whose client sends the second half of it, from octet 9 on, before the first."""
    packets = []
    for number, payload in enumerate(payloads):
        for flags, start, end in (("S", -1, 0), ("A", 9, len(payload)), ("A", 0, 9)):
            segment = TCP(sport=40000 + number, dport=49000, flags=flags, seq=101 + start, ack=int(flags == "A"))
            link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
            packet = link / IP(src="192.0.2.1", dst="192.0.2.2") / segment / payload[max(start, 0) : end]
            packet.time = 1_700_000_000 + len(packets) / 10
            packets.append(packet)
    wrpcap(str(path), packets)
    return path


def test_streams_in_pieces_are_one_group_where_all_their_pieces_are_equal(tmp_path: Path) -> None:
    first, other, longer = b"\x01" * 40, b"\x01" * 39 + b"\x02", b"\x01" * 40 + bytes(1)
    table = assemble(CaptureSet.of([out_of_order([first, other, longer, first], tmp_path / "pieces.pcap")]), 1).table
    codes = Reading().rest(table, first_look(table, named_ports(shared.rulebook()))).codes.tolist()
    assert codes == [1, 2, 3, 1]
