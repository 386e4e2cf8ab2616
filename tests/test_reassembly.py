"""Streams in the middle of a connection, in both directions; and what an attacker's segments may cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from formats import frame, pcap
from hypothesis import given, settings
from hypothesis import strategies as st

import classifier
from classifier.assembly import assemble
from classifier.conversations import ConversationTable
from classifier.dialogues import read_stream
from classifier.limits import MAX_BEFORE_START, SPAN_WINDOW_NS
from classifier.sources import CaptureSet
from classifier.streams import locate

pytestmark = pytest.mark.kernels

SECOND = 10**9
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class Segment(NamedTuple):
    """One TCP segment; ours: from 192.0.2.1, port 40000, to 192.0.2.2."""

    sequence: int
    data: bytes = b""
    flags: int = ACK
    ack: int = 0
    ours: bool = True
    number: int = 0


def packet(segment: Segment, port: int = 8000) -> bytes:
    ends = [(b"\xc0\0\2\1", 40_000), (b"\xc0\0\2\2", port)]
    (source, source_port), (target, target_port) = ends if segment.ours else ends[::-1]
    ports = source_port.to_bytes(2, "big") + target_port.to_bytes(2, "big")
    numbers = (segment.sequence % 2**32).to_bytes(4, "big") + (segment.ack % 2**32).to_bytes(4, "big")
    tcp = ports + numbers + bytes([0x50, segment.flags]) + bytes(6) + segment.data
    head = b"\x45\0" + (20 + len(tcp)).to_bytes(2, "big") + (segment.number & 0xFFFF).to_bytes(2, "big")
    return head + b"\0\0\x40\x06\0\0" + source + target + tcp


def write(path: Path, segments: Sequence[Segment], gap: int, port: int) -> Path:
    """A capture of these segments, so many nanoseconds apart."""
    packets = [packet(each, port) for each in segments]
    frames = [frame(1000 * SECOND + gap * index, each) for index, each in enumerate(packets)]
    path.write_bytes(pcap(frames, digits=9, link=101))
    return path


def table_of(path: Path, segments: Sequence[Segment]) -> ConversationTable:
    """The table of a capture of these segments, so far apart that none is a mirror's copy."""
    write(path, segments, 2 * SPAN_WINDOW_NS, 8000)
    return assemble(CaptureSet.of([path]), jobs=1).table


class Held(NamedTuple):
    """What a stream should hold: runs of (offset, bytes), bytes missed between them, the frame of each byte."""

    runs: list[tuple[int, bytes]]
    missed: int
    frames: dict[int, int]


def reference(segments: Sequence[Segment], start: int | None = None) -> Held:
    """One direction, byte by byte: the first segment that brings a byte counts.

    start: sequence number of the first byte, where the handshake tells it; else the lowest seen is offset 0.
    """
    brought: dict[int, tuple[int, int]] = {}
    first = segments[0].sequence if start is None else start
    for index, segment in enumerate(segments, 1):
        place = (segment.sequence - first + 2**31) % 2**32 - 2**31
        for at, value in enumerate(segment.data, place):
            brought.setdefault(at, (value, index))
    origin = min(brought) if start is None else 0
    brought = {at - origin: what for at, what in sorted(brought.items()) if at >= origin}
    runs: list[tuple[int, bytes]] = []
    for at, (value, _) in brought.items():
        if runs and at == runs[-1][0] + len(runs[-1][1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + bytes([value]))
        else:
            runs.append((at, bytes([value])))
    return Held(runs, max(brought) + 1 - len(brought), {at: index for at, (_, index) in brought.items()})


def held(table: ConversationTable, number: int) -> Held:
    chunks = read_stream(table.store, number, 6).chunks
    places = np.array([at for chunk in chunks for at in range(chunk.offset, chunk.offset + len(chunk.data))], np.int64)
    frames, _ = locate(table.store, np.full(len(places), number), places)
    runs = [(chunk.offset, chunk.data) for chunk in chunks]
    by_place = dict(zip(places.tolist(), frames.tolist(), strict=True))
    return Held(runs, int(table.store.flows["missed"][number]), by_place)


starts = st.sampled_from([0, 1000, 2**31 - 30, 2**32 - 40, 2**32 - 1])
cuts = st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=30))


@given(start=starts, cuts=st.lists(cuts, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_in_the_middle_of_a_connection(
    tmp_path_factory: pytest.TempPathFactory, start: int, cuts: list[tuple[int, bytes]]
) -> None:
    """No SYN: the stream begins with the lowest byte seen; contradicting overlaps, the first arrival counts."""
    segments = [Segment(start + at, data, number=index) for index, (at, data) in enumerate(cuts)]
    table = table_of(tmp_path_factory.mktemp("middle") / "x", segments)
    assert table.count == 1
    assert not read_stream(table.store, 0, 6).started
    assert held(table, 0) == reference(segments)


@given(
    starts=st.tuples(starts, starts),
    cuts=st.lists(st.tuples(cuts, st.booleans()), min_size=1, max_size=14),
    late=st.integers(0, 6),
)
@settings(max_examples=150, deadline=None)
def test_both_directions_behind_a_handshake(
    tmp_path_factory: pytest.TempPathFactory,
    starts: tuple[int, int],
    cuts: list[tuple[tuple[int, bytes], bool]],
    late: int,
) -> None:
    """The server's SYN-ACK may come late, behind data of both sides."""
    ours, theirs = starts
    data = [
        Segment((ours if side else theirs) + 1 + at, content, ACK, (theirs if side else ours) + 1, side, index)
        for index, ((at, content), side) in enumerate(cuts, 10)
    ]
    data.insert(late, Segment(theirs, b"", SYN | ACK, ours + 1, False, 2))
    table = table_of(tmp_path_factory.mktemp("both") / "x", [Segment(ours, b"", SYN, number=1), *data])
    assert table.count == 1
    for number, side, start in ((0, True, ours + 1), (1, False, theirs + 1)):
        if any(segment.data for segment in data if segment.ours is side):
            blank = [segment if segment.ours is side else segment._replace(data=b"") for segment in data]
            expected = reference(blank, start)
            found = held(table, number)
            assert found.runs == expected.runs
            assert found.frames == {at: index + 1 for at, index in expected.frames.items()}
            assert found.missed == expected.missed


def test_bytes_far_before_the_first_are_not_believed(tmp_path: Path) -> None:
    segments = [Segment(10**9, b"here"), Segment(10**9 - MAX_BEFORE_START - 1, b"far", number=1)]
    assert held(table_of(tmp_path / "x", segments), 0).runs == [(0, b"here")]


def test_bytes_before_the_handshake_are_left_out(tmp_path: Path) -> None:
    segments = [Segment(999, b"", SYN), Segment(995, b"old, and new", number=1), Segment(999, b"\0", number=2)]
    assert held(table_of(tmp_path / "x", segments), 0).runs == [(0, b", and new"[-7:])]


def test_an_impossible_distance_is_no_gap(tmp_path: Path) -> None:
    segments = [Segment(0, b"", SYN), Segment(1, b"here"), Segment(1 + 2**30 + 5, b"far", number=1)]
    assert held(table_of(tmp_path / "x", segments), 0)[:2] == ([(0, b"here")], 0)


def seconds(path: Path, segments: Sequence[Segment], port: int) -> float:
    write(path, segments, 1, port)
    classifier.classify(SMALL)  # so that no kernel is compiled on the clock
    before = time.process_time()
    assert len(classifier.classify(path)) == 1
    return time.process_time() - before


SMALL = Path(__file__).parents[1] / "captures" / "row-e2003-is.pcap"
MANY = 40_000


@pytest.mark.parametrize("port", [135, 8000])
def test_segments_of_one_byte_backwards(tmp_path: Path, port: int) -> None:
    backwards = [Segment(MANY - index, b"\5", number=index) for index in range(MANY)]
    assert seconds(tmp_path / "x", backwards, port) < 10


def test_a_million_gaps(tmp_path: Path) -> None:
    gaps = [Segment(2 * index, b"x", number=index) for index in range(MANY)]
    late = [Segment(2 * index + 1, b"y", number=index) for index in range(MANY)]
    assert seconds(tmp_path / "x", gaps + late, 8000) < 10
