"""Packets of several captures come in the order of their time, whatever the buffers, runs and blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from formats import Dribble, Frame, frame, pcap
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.limits import MAX_PACKET, MERGED_BLOCK
from classifier.packets import Frames, Interfaces, PacketBatch
from classifier.sources import merging
from classifier.sources.merging import Start, merged
from classifier.sources.pcap import PcapSource
from classifier.sources.reading import RING, Input, Window

pytestmark = pytest.mark.kernels

SECOND = 10**9
Packet = tuple[int, Frame]
"""A frame of a capture set: ordinal and contents."""


def by_time(files: list[list[Packet]]) -> list[Packet]:
    """One after the other: the earliest; of those, the one of the same file as before; of those, of the first file."""
    found, last, left = [], -1, {number: deque(file) for number, file in enumerate(files) if file}
    while left:
        last = min(left, key=lambda number: (left[number][0][1].time, number != last, number))
        found.append(left[last].popleft())
        if not left[last]:
            del left[last]
    return found


class Rows:
    """The packets of a batch, read while it is new and again when as many further ones have come as it lives for."""

    def __init__(self, batch: PacketBatch, interfaces: Interfaces) -> None:
        self.batch, self.interfaces = batch, interfaces
        self.packets = self.read()

    def read(self) -> list[Packet]:
        found, batch = [], self.batch
        columns = [column[: batch.count].tolist() for column in batch.columns]
        for offset, captured, wire, time, interface, ordinal in zip(*columns, strict=True):
            content = batch.data[offset : offset + captured].tobytes()
            found.append((ordinal, Frame(time, content, wire, int(self.interfaces.link_type[interface]))))
        return found


def read(files: list[bytes], times: list[int], capacity: int) -> list[list[Packet]]:
    """The packets of captures, batch by batch."""
    frames, interfaces = Frames(), Interfaces()
    starts = [Start(time, str(number), frames.open(str(number))) for number, time in enumerate(times)]

    def source(name: str, first_frame: int) -> Iterator[PacketBatch]:
        window = Window(Input(Dribble(files[int(name)])), capacity)
        return PcapSource(name, window, interfaces, first_frame, []).batches()

    alive, found = deque[Rows](), []
    for batch in merged(starts, source):
        alive.append(Rows(batch, interfaces))
        if len(alive) == RING:
            rows = alive.popleft()
            assert rows.read() == rows.packets
            found.append(rows.packets)
    return [*found, *(rows.packets for rows in alive)]


def set_of(files: list[list[Frame]]) -> list[list[Packet]]:
    """With their ordinals."""
    frames = Frames()
    return [list(enumerate(file, frames.open(""))) for file in files]


times = st.integers(0, 12) | st.integers(0, 2**31)
contents = st.binary(max_size=40)
captures = st.lists(st.lists(st.tuples(times, contents, st.integers(0, 99)), max_size=30), min_size=1, max_size=5)


@given(
    drawn=captures,
    shaken=st.booleans(),
    capacity=st.integers(24, 400),
    long_run=st.integers(1, 12),
    block=st.integers(40, 200),
    rows=st.integers(5, 40),
)
@settings(max_examples=400, deadline=None)
def test_the_order_is_that_of_time_whatever_the_blocks(
    drawn: list[list[tuple[int, bytes, int]]], shaken: bool, capacity: int, long_run: int, block: int, rows: int
) -> None:
    """shaken: clocks run back."""
    files = [
        [frame(time * SECOND, data, more, 101 + number) for time, data, more in (each if shaken else sorted(each))]
        for number, each in enumerate(drawn)
    ]
    files.sort(key=lambda each: each[0].time if each else 0)
    links = [each[0].link if each else 1 for each in files]
    data = [pcap(each, link=link) for each, link in zip(files, links, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "LONG_RUN", long_run)
        patch.setattr(merging, "MERGED_BLOCK", block)
        patch.setattr(merging, "BATCH_ROWS", rows)
        found = read(data, [each[0].time if each else 0 for each in files], capacity)
    assert [packet for batch in found for packet in batch] == by_time(set_of(files))


def test_where_files_alternate_batches_are_as_large_as_elsewhere() -> None:
    files = [[frame(time, bytes(100)) for time in range(number * 1000, 10**7, 10_000)] for number in range(10)]
    found = read([pcap(each, digits=9) for each in files], [each[0].time for each in files], 2**16)
    assert sum(map(len, found)) == 10_000
    assert len(found) < 60


def test_long_runs_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging._Mixer, "mix", None)
    spans = [(0, 5000), (10_000, 11_000)], [(5000, 10_000), (11_000, 12_000)], [(12_000, 13_000)]
    files = [[frame(time, bytes(100)) for span in each for time in range(*span)] for each in spans]
    found = read([pcap(each, digits=9) for each in files], [each[0].time for each in files], 2**18)
    assert [packet for batch in found for packet in batch] == by_time(set_of(files))


def test_the_largest_packets_in_turns() -> None:
    assert MERGED_BLOCK >= MAX_PACKET
    chance = np.random.default_rng(1)
    files = [[frame(at * 1000, chance.bytes(MAX_PACKET)) for at in range(number, 24, 2)] for number in range(2)]
    found = read([pcap(each) for each in files], [0, 1000], 2**20)
    assert [packet for batch in found for packet in batch] == by_time(set_of(files))
