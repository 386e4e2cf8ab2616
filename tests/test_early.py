"""Conversations that are over are read while the capture goes on: the same result, with less memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import shared

from classifier import inspection, limits, memory
from classifier.assembly import Assembling, Assembly, Patience, assemble
from classifier.conclusion import Knowledge, conclude, read
from classifier.conversations import CONVERSATION, ConversationTable
from classifier.crew import Crew
from classifier.dialogues import read_stream
from classifier.headers import TCP
from classifier.inspection import EarlyPlaces, Inspection, Located, Reading
from classifier.inspectors.base import Place, Side
from classifier.records import write_jsonl
from classifier.retirement import Timeouts, departing, take_out
from classifier.sources import CaptureSet
from classifier.streams import (
    ARENA_USED,
    BLANKS,
    FLOW,
    LIMITED,
    LIMITED_BYTES,
    SEGMENTS,
    Kept,
    forget,
    have_bytes,
    keep_payload,
)  # fmt: skip

CAPTURES = sorted((Path(__file__).parents[1] / "captures").rglob("*.pcap*"))
IN_ONE_BATCH = [path for path in CAPTURES[::3] if path.stem != "format-pcapng-everything"]
"""Nothing of their conversations comes behind the moment at which they are read."""


AT_ONCE = Patience(0, 0, 10**14)
"""All leave behind every batch, as if it were hours later."""


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """This process and another one."""
    with Crew(2) as both:
        both.call()
        yield both


def read_early(captures: CaptureSet, crew: Crew, jobs: int = 1) -> tuple[Assembly, Reading]:
    """All conversations read as soon as a batch is in."""
    with Assembling(captures, jobs, patience=AT_ONCE) as assembling:
        reading = read(assembling, shared.rulebook(), crew)
    return assembling.assembly, reading


def records(paths: list[Path], crew: Crew | None = None) -> list[dict[str, object]]:
    """The records of a capture set; with a crew its conversations are read early, and by all of it."""
    captures = CaptureSet.of(paths)
    assembly, reading = read_early(captures, crew) if crew else (assemble(captures, 1), None)
    result = conclude(captures, assembly, Knowledge(shared.rulebook()), 1, reading)
    out = BytesIO()
    write_jsonl(result.table, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("path", IN_ONE_BATCH, ids=lambda path: path.stem)
def test_reading_early_and_in_two_processes_changes_no_record(path: Path, crew: Crew) -> None:
    assert sum(1 for _ in CaptureSet.of([path]).batches()) == 1
    assert records([path], crew) == records([path])


@pytest.mark.parametrize("path", IN_ONE_BATCH[::4], ids=lambda path: path.stem)
def test_memory_that_is_given_back_was_not_needed(path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(limits, "READ_EARLY_SPARE", 0)
    monkeypatch.setattr(memory, "give_back", lambda array, start: given.append(array[start:].fill(0)))
    assert records([path], crew) == records([path])
    assert given


@pytest.mark.parametrize(("many", "others"), [(1, 2), (10**6, 0)])
def test_others_are_called_where_there_is_much_to_read(many: int, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MANY_DIALOGUES", many)
    path = CAPTURES[0].parent / "ticket-49734.pcapng"
    with Crew(3) as crew:
        assert records([path], crew) == records([path])
        assert len(crew._mates) == others


@pytest.mark.kernels
@pytest.mark.parametrize("order", ["as they come", "sorted", "backwards"])
def test_places_are_remembered_or_else_the_first_frame_is_told(order: str) -> None:
    """Against a dictionary; bytes that no frame brought (-1) are remembered as such."""
    draw, table, early = np.random.default_rng(7), ConversationTable(), EarlyPlaces()
    table.rows["first_frame"][:50] = np.arange(1000, 1050)
    known = {}
    for flows in np.split(draw.permutation(100)[:60], 3):
        places = [(flow, offset) for flow in flows.tolist() for offset in draw.choice(40, 12, replace=False).tolist()]
        frames = draw.integers(-1, 500, len(places))
        early.add(*np.array(places, np.int64).T, Located(frames, 10 * frames))
        known |= dict(zip(places, frames.tolist(), strict=True))
    flow, offset = draw.integers(0, 100, 3000), draw.integers(0, 41, 3000)
    if order != "as they come":
        of = np.lexsort((offset, flow))[:: 1 if order == "sorted" else -1]
        flow, offset = flow[of], offset[of]
    inspection = Inspection(table, np.zeros(50, np.int8), np.zeros(50, np.int32), [None], early)
    located = inspection.locate_all(flow >> 1, flow & 1, offset)
    remembered = [known.get(place, -1) for place in zip(flow.tolist(), offset.tolist(), strict=True)]
    first = (1000 + (flow >> 1)).tolist()
    told = [frame if frame >= 0 else own for frame, own in zip(remembered, first, strict=True)]
    assert located.frames.tolist() == told
    assert located.times.tolist() == [10 * frame if frame >= 0 else 0 for frame in remembered]
    lists = [[], [Place(Side.TO_SERVER, 1), Place(Side.TO_CLIENT, 2)], [Place(Side.TO_CLIENT, 3)]]
    index, list_of = np.array([4, 0, 4, 9]), np.array([1, 0, 2, 1], np.int32)
    one, three, four = inspection.locate([4, 4, 9], [lists[1][0], lists[2][0], lists[1][0]]).frames.tolist()
    other, last = inspection.locate([4, 9], [lists[1][1]] * 2).frames.tolist()
    assert inspection.locate_lists(index, lists, list_of).tolist() == [[one, 0, three, four], [other, 0, 0, last]]


def test_only_halves_of_a_connection_over_http_are_kept() -> None:
    left = {}
    for name in ("ticket-49734.pcapng", "row-rpc-over-http-v2.pcap"):
        assembly, _ = read_early(CaptureSet.of([CAPTURES[0].parent / name]), Crew())
        left[name] = int(assembly.table.store.counters[SEGMENTS])
    assert left["ticket-49734.pcapng"] == 0
    assert left["row-rpc-over-http-v2.pcap"] > 0


def test_what_comes_after_the_reading_is_counted_and_told() -> None:
    path = CAPTURES[0].parent / "http-doc-ews.pcap"
    table = assemble(CaptureSet.of([path]), 1).table
    first = int(table.rows["first_frame"][0])
    store, flow = table.store, table.store.flows[0]
    forget(store, np.array([0]), table.count)
    keep_payload(np.zeros(9, np.uint8), 0, 9, int(flow["next_offset"]), first, 0, TCP, 80, 40_000, store, 0)
    assert store.counters[LIMITED_BYTES] == 9
    assert store.flows["flags"][0] & LIMITED
    assert read_stream(store, 0, TCP).chunks == ()


def test_what_is_forgotten_makes_room_and_the_rest_stays() -> None:
    table = assemble(CaptureSet.of([CAPTURES[0].parent / "ticket-49734.pcapng"]), 1).table
    kinds = table.rows["protocol"]
    before = [read_stream(table.store, flow, int(kinds[flow // 2])) for flow in range(2 * table.count)]
    used = int(table.store.counters[ARENA_USED])
    assert table.count > 1
    forget(table.store, np.arange(0, table.count, 2), table.count)
    for flow, stream in enumerate(before):
        now = read_stream(table.store, flow, int(kinds[flow // 2]))
        assert now.chunks == (() if flow // 2 % 2 == 0 else stream.chunks)
    assert BLANKS <= table.store.counters[ARENA_USED] < used
    forget(table.store, np.arange(table.count), table.count)
    assert (table.store.counters[ARENA_USED], table.store.counters[SEGMENTS]) == (BLANKS, 0)


@pytest.mark.kernels
def test_who_leaves_stays_where_it_was_and_the_others_go_over() -> None:
    table = assemble(CaptureSet.of([CAPTURES[0].parent / "ticket-49734.pcapng"]), 1).table
    kinds, first = table.rows["protocol"], table.store
    before = [read_stream(first, flow, int(kinds[flow // 2])).chunks for flow in range(2 * table.count)]
    used = int(first.counters[ARENA_USED])
    leaving, staying = np.arange(0, table.count, 2), np.arange(1, table.count, 2)
    rows, flows = np.zeros(len(leaving), CONVERSATION), np.zeros(2 * len(leaving), FLOW)
    take_out(table, leaving, rows, flows, Kept.empty())
    assert (rows == table.rows[leaving]).all()
    for flow, chunks in enumerate(before):
        index, side = divmod(flow, 2)
        now = read_stream(table.store, flow, int(kinds[index])).chunks
        assert now == (chunks if index in staying else ())
        if index in leaving:
            where_it_was = first._replace(flows=flows)
            assert read_stream(where_it_was, index + side, int(kinds[index])).chunks == chunks
    assert BLANKS < table.store.counters[ARENA_USED] < used
    take_out(table, staying, rows, flows, Kept(first.segments, first.arena))
    assert table.store.arena is first.arena
    assert (table.store.counters[ARENA_USED], table.store.counters[SEGMENTS]) == (BLANKS, 0)


def test_gaps_of_who_leaves_go_with_it() -> None:
    """They would tell late bytes from repetitions, of a stream that is read already."""
    table = assemble(CaptureSet.of([CAPTURES[0].parent / "rpc-hole.pcap"]), 1).table
    holes = table.store.flows["hole"]
    chosen = np.unique(np.flatnonzero(holes) // 2)
    assert len(chosen)
    copies = np.zeros(2 * len(chosen), FLOW)
    take_out(table, chosen, np.zeros(len(chosen), CONVERSATION), copies, Kept.empty())
    assert not holes.any()
    assert not copies["hole"].any()


def test_nobody_departs_who_was_just_seen_or_has_nothing_to_be_read() -> None:
    table = assemble(CaptureSet.of([CAPTURES[0].parent / "proxy-test.pcap"]), 1).table
    first, last = int(table.rows["start"][0]), int(table.rows["end"][: table.count].max())
    over, readable = last + Timeouts().tcp + 1, np.flatnonzero(have_bytes(table.store, np.arange(table.count))).tolist()
    assert 1 < len(readable) < table.count
    assert not len(departing(table, first, Timeouts(), table.count))
    assert departing(table, over, Timeouts(), table.count).tolist() == readable
    assert departing(table, over, Timeouts(), 1).tolist() == readable[:1]
