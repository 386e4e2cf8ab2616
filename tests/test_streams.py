"""First bytes in order, whatever the network did to the segments: against a reference written for clarity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

from classifier.assembly import assemble
from classifier.conversations import STATES, ConversationTable, connection_states
from classifier.dialogues import read_stream
from classifier.sources import CaptureSet
from classifier.streams import locate

pytestmark = pytest.mark.kernels

CLIENT, SERVER = "192.0.2.1", "198.51.100.1"


def segment(to_server: bool, sequence: int, flags: str, data: bytes = b"", ack: int = 0, number: int = 0) -> Packet:
    ends = (CLIENT, SERVER, 40_000, 8_000) if to_server else (SERVER, CLIENT, 8_000, 40_000)
    ip = IP(src=ends[0], dst=ends[1], id=number)
    return ip / TCP(sport=ends[2], dport=ends[3], seq=sequence % 2**32, ack=ack % 2**32, flags=flags) / Raw(data)


def read(path: Path, packets: list[Packet], gap: float = 0.5) -> ConversationTable:
    """The table of a capture with these packets, so far apart that none is a mirror's copy."""
    with PcapWriter(str(path), linktype=101) as writer:
        for index, packet in enumerate(packets):
            packet.time = 1_000_000 + gap * index
            writer.write(packet)
    return assemble(CaptureSet.of([path]), jobs=1).table


def reference(stream: bytes, pieces: list[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Contiguous runs of what arrived."""
    here = [False] * len(stream)
    for start, stop in pieces:
        here[start:stop] = [True] * (stop - start)
    runs: list[tuple[int, bytes]] = []
    for offset, arrived in enumerate(here):
        if arrived and offset and here[offset - 1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + stream[offset : offset + 1])
        elif arrived:
            runs.append((offset, stream[offset : offset + 1]))
    return runs


STREAM = bytes(range(97, 123)) * 4

piece = st.tuples(st.integers(0, len(STREAM) - 1), st.integers(1, 40)).map(
    lambda pair: (pair[0], min(pair[0] + pair[1], len(STREAM)))
)


@given(
    pieces=st.lists(piece, min_size=1, max_size=14),
    start=st.sampled_from([0, 5, 2**31 - 20, 2**32 - 50, 2**32 - 1]),
    syn_at=st.integers(0, 14),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_segments_in_any_order(tmp_path: Path, pieces: list[tuple[int, int]], start: int, syn_at: int) -> None:
    """Reordering, repetition, overlap, loss, sequence wrap, a SYN that arrives late."""
    packets = [segment(True, start + 1 + a, "A", STREAM[a:b], number=i + 2) for i, (a, b) in enumerate(pieces)]
    packets.insert(min(syn_at, len(packets)), segment(True, start, "S", number=1))
    table = read(tmp_path / "x.pcap", packets)
    assert table.count == 1
    number = next(side for side in (0, 1) if table.store.flows["packets"][side])
    stream = read_stream(table.store, number, 6)
    expected = reference(STREAM, pieces)
    assert stream.started
    assert [(chunk.offset, chunk.data) for chunk in stream.chunks] == expected
    held = sum(len(data) for _, data in expected)
    reach = max(b for _, b in pieces)
    beginning = min(a for a, _ in pieces) if syn_at and table.store.flows["missed"][number] != reach - held else 0
    assert table.store.flows["missed"][number] in (reach - held, reach - held - beginning)
    for offset, data in expected:
        frames, _ = locate(table.store, np.full(len(data), number), np.arange(offset, offset + len(data)))
        for place, frame in zip(range(offset, offset + len(data)), frames.tolist(), strict=True):
            payload = packets[frame - 1][TCP]
            at = (payload.seq - start - 1) % 2**32
            assert at <= place < at + len(payload.payload)


def test_the_first_of_two_versions_counts(tmp_path: Path) -> None:
    packets = [
        segment(True, 0, "S"),
        segment(True, 4, "A", b"XYZ", number=2),
        segment(True, 1, "A", b"abcdef", number=3),
    ]
    stream = read_stream(read(tmp_path / "x.pcap", packets).store, 0, 6)
    assert stream.head == b"abcXYZ"


HANDSHAKE = [segment(True, 0, "S"), segment(False, 500, "SA", ack=1), segment(True, 1, "A", ack=501)]
CASES = {
    "S0": [segment(True, 0, "S")],
    "REJ": [segment(True, 0, "S"), segment(False, 0, "RA", ack=1)],
    "S1": HANDSHAKE,
    "SF": [*HANDSHAKE, segment(True, 1, "FA", ack=501), segment(False, 501, "FA", ack=2)],
    "S2": [*HANDSHAKE, segment(True, 1, "FA", ack=501)],
    "S3": [*HANDSHAKE, segment(False, 501, "FA", ack=1)],
    "RSTO": [*HANDSHAKE, segment(True, 1, "R")],
    "RSTR": [*HANDSHAKE, segment(True, 1, "A", b"hello", ack=501), segment(False, 501, "R")],
    "RSTOS0": [segment(True, 0, "S"), segment(True, 1, "R")],
    "RSTRH": [segment(False, 500, "SA", ack=1), segment(False, 501, "R")],
    "SH": [segment(True, 0, "S"), segment(True, 1, "F")],
    "SHR": [segment(False, 500, "SA", ack=1), segment(False, 501, "F")],
    "OTH": [segment(True, 77, "A", b"middle", ack=5)],
}


@pytest.mark.parametrize("state", CASES)
def test_connection_states_are_zeeks(tmp_path: Path, state: str) -> None:
    table = read(tmp_path / "x.pcap", [packet.copy() for packet in CASES[state]])
    assert STATES[connection_states(table, np.zeros(table.count, np.int8))[0]] == state


def test_a_new_syn_begins_a_new_conversation_and_a_repeated_one_does_not(tmp_path: Path) -> None:
    again = [segment(True, 9000, "S", number=7), segment(True, 9001, "A", b"second", number=8)]
    first = [
        segment(True, 0, "S", number=1),
        segment(True, 0, "S", number=2),
        segment(True, 1, "A", b"first", number=3),
    ]
    table = read(tmp_path / "x.pcap", first + again)
    assert table.count == 2
    assert [read_stream(table.store, 2 * index, 6).head for index in (0, 1)] == [b"first", b"second"]


def test_a_syn_that_comes_behind_its_answer(tmp_path: Path) -> None:
    packets = [segment(False, 500, "SA", ack=1), segment(True, 0, "S"), segment(True, 1, "A", b"x", ack=501)]
    assert read(tmp_path / "x.pcap", packets).count == 1


@pytest.mark.parametrize(("gap", "conversations"), [(1.0, 1), (200.0, 2)])
def test_silence_ends_a_conversation_of_datagrams(tmp_path: Path, gap: float, conversations: int) -> None:
    packets = [IP(src=CLIENT, dst=SERVER, id=i) / UDP(sport=5000, dport=6000) / Raw(b"x") for i in (1, 2)]
    assert read(tmp_path / "x.pcap", packets, gap).count == conversations


def test_a_mirrors_copy_is_left_out_and_a_retransmission_is_not(tmp_path: Path) -> None:
    packets = [packet for packet in HANDSHAKE for _ in (1, 2)]
    copies = read(tmp_path / "copies.pcap", [packet.copy() for packet in packets], gap=0.0001)
    assert (copies.rows["duplicates"][0], copies.store.flows["packets"][:2].tolist()) == (3, [2, 1])
    data = [segment(True, 1, "A", b"again", number=number) for number in (5, 6)]
    resent = read(tmp_path / "resent.pcap", [*[packet.copy() for packet in HANDSHAKE], *data], gap=0.0001)
    assert (resent.rows["duplicates"][0], resent.store.flows["packets"][:2].tolist()) == (0, [4, 1])


def test_bytes_that_only_an_acknowledgement_tells_of_are_missed(tmp_path: Path) -> None:
    import classifier

    read(tmp_path / "x.pcap", [*[packet.copy() for packet in HANDSHAKE], segment(True, 1, "A", ack=2501)])
    assert classifier.classify(tmp_path / "x.pcap")[1].missed_bytes == 2000


def test_a_snap_length_is_told(tmp_path: Path) -> None:
    long = segment(True, 1, "A", bytes(100))
    path = tmp_path / "x.pcap"
    with PcapWriter(str(path), linktype=101, snaplen=60) as writer:
        writer.write_header(None)
        for index, packet in enumerate([*HANDSHAKE, long]):
            whole = bytes(packet)
            writer.write_packet(whole[:60], sec=index, usec=0, caplen=min(60, len(whole)), wirelen=len(whole))
    table = assemble(CaptureSet.of([path]), jobs=1).table
    stream = read_stream(table.store, 0, 6)
    assert (stream.truncated, len(stream.head), int(table.store.flows["missed"][0])) == (True, 20, 80)
