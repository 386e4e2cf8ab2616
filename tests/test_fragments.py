"""Pieces of IP datagrams become whole ones, whatever their order; what contradicts itself or never ends is let go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from formats import frame, pcap
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import fragments
from classifier.assembly import Assembly, assemble
from classifier.dialogues import read_stream
from classifier.limits import FRAGMENT_TIMEOUT_NS
from classifier.sources import CaptureSet

pytestmark = pytest.mark.kernels

SECOND = 10**9
HEADER = b"\x13\x88\x00\x35"  # ports 5000 and 53


def datagram(payload: bytes) -> bytes:
    """A UDP datagram."""
    return HEADER + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload


def four(piece: bytes, offset: int, more: bool, number: int = 7, protocol: int = 17) -> bytes:
    """An IPv4 fragment (RFC 791 section 3.1)."""
    place = (offset // 8) | (0x2000 if more else 0)
    head = b"\x45\0" + (20 + len(piece)).to_bytes(2, "big") + number.to_bytes(2, "big") + place.to_bytes(2, "big")
    return head + bytes([64, protocol, 0, 0]) + bytes([192, 0, 2, 1]) + bytes([198, 51, 100, 1]) + piece


def six(piece: bytes, offset: int, more: bool, number: int = 7) -> bytes:
    """An IPv6 fragment behind a fragment header (RFC 8200 section 4.5)."""
    head = b"\x60\0\0\0" + (8 + len(piece)).to_bytes(2, "big") + b"\x2c\x40" + bytes(15) + b"\1" + bytes(15) + b"\2"
    return head + b"\x11\0" + (offset | more).to_bytes(2, "big") + number.to_bytes(4, "big") + piece


Make = Callable[..., bytes]


def pieces_of(content: bytes, cuts: Sequence[int], make: Make = four, number: int = 7) -> list[bytes]:
    """Fragments cut at these multiples of 8."""
    bounds = sorted({0, len(content), *(8 * cut for cut in cuts if 8 * cut < len(content))})
    ends = pairwise(bounds)
    return [make(content[start:stop], start, stop < len(content), number=number) for start, stop in ends]


def assembled(path: Path, packets: Sequence[bytes], times: Sequence[float] | None = None) -> Assembly:
    moments = times or [1000 + 0.5 * index for index in range(len(packets))]
    frames = [frame(int(moment * SECOND), packet) for moment, packet in zip(moments, packets, strict=True)]
    path.write_bytes(pcap(frames, digits=9, link=101))
    return assemble(CaptureSet.of([path]), jobs=1)


def payloads(assembly: Assembly) -> list[bytes]:
    """The datagrams of the only conversation, if there is one."""
    if not assembly.table.count:
        return []
    assert assembly.table.count == 1
    side = int(assembly.table.rows["first_flow"][0])
    return [chunk.data for chunk in read_stream(assembly.table.store, side, 17).chunks]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.pcap"


CONTENT = bytes(range(256)) * 3


@given(
    cuts=st.lists(st.integers(1, 97), max_size=12),
    chance=st.randoms(use_true_random=False),
    make=st.sampled_from([four, six]),
    repeats=st.integers(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_any_order_and_repetition(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], chance: Random, make: Make, repeats: int
) -> None:
    """Copies that a mirror made of pieces are left out of the counts, as those of whole packets are."""
    packets = pieces_of(datagram(CONTENT), cuts, make)
    pieces, wire = len(packets), sum(map(len, packets))
    chance.shuffle(packets)
    *before, last = packets
    packets = before + [chance.choice(before) for _ in range(repeats) if before] + [last]
    result = assembled(tmp_path_factory.mktemp("any") / "x", packets)
    row, flows = result.table.rows[0], result.table.store.flows
    assert payloads(result) == [CONTENT]
    assert int(flows["packets"][row["first_flow"]]) == pieces
    assert int(flows["bytes"][row["first_flow"]]) == wire
    assert (int(row["first_frame"]), int(row["last_frame"])) == (1, len(packets))
    assert (result.reassembler.unfinished, result.reassembler.overlaps) == (0, 0)
    assert result.table.ignored_packets == len(packets) - 1


@pytest.mark.parametrize("make", [four, six])
@pytest.mark.parametrize("order", [(0, 1, 0, 1), (0, 0, 1, 1), (1, 1, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1, 0, 1)], ids=str)
def test_copies_of_a_mirror_port_count_as_copies(path: Path, order: tuple[int, ...], make: Make) -> None:
    """Whole datagrams before and behind: their copies are told by the same means."""
    pieces = pieces_of(datagram(CONTENT), [40], make)
    result = assembled(path, [pieces[index] for index in order], [1000 + 0.001 * index for index in range(len(order))])
    row, flows = result.table.rows[0], result.table.store.flows
    assert payloads(result) == [CONTENT]
    assert (int(flows["packets"][row["first_flow"]]), int(row["duplicates"])) == (2, len(order) - 2)
    assert int(flows["bytes"][row["first_flow"]]) == sum(map(len, pieces))
    assert (result.reassembler.unfinished, result.reassembler.overlaps) == (0, 0)


def test_a_datagram_said_again_later_is_no_copy(path: Path) -> None:
    packets = pieces_of(datagram(b"x" * 100), [5])
    result = assembled(path, packets * 2, [1000, 1000.001, 1000.1, 1000.101])
    assert payloads(result) == [b"x" * 100] * 2
    assert (int(result.table.rows["duplicates"][0]), result.reassembler.unfinished) == (0, 0)


def test_thousands_of_pieces_cost_no_more_than_their_number(path: Path) -> None:
    packets = pieces_of(datagram(bytes(60_000)), range(1, 7600))
    Random(1).shuffle(packets)
    before = time.process_time()
    result = assembled(path, packets, [1000] * len(packets))
    assert int(result.table.store.flows["packets"].sum()) == len(packets)
    assert time.process_time() - before < 5


def test_datagrams_in_between_one_another(path: Path) -> None:
    one, two = pieces_of(datagram(b"1" * 100), [5], number=1), pieces_of(datagram(b"2" * 100), [5], number=2)
    assert payloads(assembled(path, [one[0], two[0], two[1], one[1]])) == [b"2" * 100, b"1" * 100]


def test_a_number_that_comes_again_is_another_datagram(path: Path) -> None:
    packets = pieces_of(datagram(b"1" * 100), [5]) + pieces_of(datagram(b"2" * 100), [5])
    assert payloads(assembled(path, packets)) == [b"1" * 100, b"2" * 100]


CONTRADICTIONS = {
    "bytes said twice and differently": [four(b"A" * 16, 0, True), four(b"B" * 16, 8, False)],
    "the same place with other bytes": [four(b"A" * 16, 0, True), four(b"B" * 16, 0, True)],
    "two ends": [four(b"A" * 8, 16, False), four(b"B" * 8, 24, False)],
    "more behind the end": [four(b"A" * 8, 8, False), four(b"B" * 8, 32, True)],
    "a middle that is no multiple of eight": [four(b"A" * 15, 0, True)],
    "beyond the largest datagram": [four(b"A" * 16, 65_528, False)],
    "a piece of nothing": [four(b"", 8, True)],
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_dropped_whole(path: Path, name: str) -> None:
    result = assembled(path, CONTRADICTIONS[name])
    assert (payloads(result), result.reassembler.overlaps) == ([], 1)


def test_a_piece_that_was_cut_by_the_snap_length_is_dropped(path: Path) -> None:
    packet = four(b"A" * 64, 0, True)
    path.write_bytes(pcap([frame(0, packet[:40], len(packet) - 40)], link=101))
    assert assemble(CaptureSet.of([path])).reassembler.overlaps == 1


def test_pieces_wait_for_a_minute(path: Path) -> None:
    first, second = pieces_of(datagram(b"x" * 100), [5])
    limit = FRAGMENT_TIMEOUT_NS / SECOND
    assert payloads(assembled(path, [first, second], [100, 100 + limit])) == [b"x" * 100]
    late = assembled(path, [first, second], [100, 101 + limit])
    assert (payloads(late), late.reassembler.unfinished) == ([], 2)


def test_the_oldest_gives_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "FRAGMENT_TABLE", 3)
    starts = [pieces_of(datagram(b"x" * 100), [5], number=number)[0] for number in range(5)]
    ends = [pieces_of(datagram(b"x" * 100), [5], number=number)[1] for number in (4, 3, 2)]
    result = assembled(path, starts + ends)
    assert (len(payloads(result)), result.reassembler.unfinished) == (3, 2)


def test_a_tunnel_in_pieces_is_followed(path: Path) -> None:
    inner = bytes(12) + b"\x08\0" + four(datagram(b"inner"), 0, False)
    outer = b"\x12\x34\x12\xb5" + (16 + len(inner)).to_bytes(2, "big") + bytes(2) + b"\x08\0\0\0\0\0\x2a\0" + inner
    result = assembled(path, pieces_of(outer, [3, 5]))
    stack = int(result.table.rows["encapsulation"][0])
    assert (payloads(result), result.encapsulations.tunnels(stack)) == ([b"inner"], ["vxlan:42"])


def test_what_is_no_segment_when_whole_counts_for_nothing(path: Path) -> None:
    result = assembled(path, [four(b"\x08\0" + bytes(6), 0, True, protocol=1), four(bytes(8), 8, False, protocol=1)])
    assert (result.table.count, result.table.ignored_packets, result.reassembler.unfinished) == (0, 2, 0)
