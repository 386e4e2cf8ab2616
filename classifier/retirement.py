"""Conversations that leave a table: which are over, and how rows move to another table with their first bytes.

A live table would grow for ever. Rows that are done become tombstones (protocol 0, which no packet has), and now
and then what is left is carried over into a fresh table, as a copying garbage collector does. The same carrying
takes the copies that labels are made from, while the table itself goes on being filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import limits
from classifier.compiled import Record, Records, copy, i64, kernel
from classifier.conversations import CONVERSATION, ConversationTable
from classifier.headers import TCP
from classifier.limits import SPAN_PACKETS
from classifier.streams import (
    ARENA_USED,
    BLANKS,
    FLOW,
    FREE_HOLE,
    HOLE,
    HOLES,
    LIMITED,
    LIMITED_BYTES,
    PAYLOAD,
    SEEN,
    SEGMENT,
    SEGMENTS,
    SENT_FIN,
    SENT_RST,
    Kept,
    Store,
    keep_no_more,
)

TRACE: Final = np.dtype(
    [("told", np.uint64), ("told_at", np.int64), ("lost", np.int64), ("segment_a", np.int32), ("segment_b", np.int32)],
    align=True,
)  # fmt: skip
"""What is remembered beside a row. told: digest of what was last reported, 0 for nothing; told_at: when (packet
time); lost: packets the capture had lost when it began; segments: the flows' last ones when it was last read."""

# What `review` says of a row.
QUIET, CHANGED, OVER = 0, 1, 2


class Timeouts(NamedTuple):
    """Nanoseconds of silence that end a conversation. active: after this, one that goes on is reported again.

    closed: after FINs or a RST, for late segments; attempt: where only one side was ever seen.
    """

    tcp: int = limits.TCP_TIMEOUT_NS
    udp: int = limits.UDP_TIMEOUT_NS
    attempt: int = limits.ATTEMPT_TIMEOUT_NS
    closed: int = limits.CLOSED_TIMEOUT_NS
    active: int = limits.ACTIVE_TIMEOUT_NS

    @property
    def of_silence(self) -> tuple[int, int, int, int]:
        """Those that end a conversation: tcp, udp, attempt, closed."""
        return self.tcp, self.udp, self.attempt, self.closed


@kernel
def _is_over(row: Record, ahead: Record, back: Record, now: int, of_silence: tuple[int, int, int, int]) -> bool:
    tcp, udp, attempt, closed = of_silence
    flags, patience = i64(ahead.flags | back.flags), tcp
    if row.protocol != TCP:
        patience = udp
    elif flags & SENT_RST or (ahead.flags & back.flags & SENT_FIN):
        patience = closed
    elif ahead.flags & back.flags & SEEN == 0 and flags & PAYLOAD == 0:
        patience = attempt
    return i64(now - row.end) > patience


@kernel
def _departing(
    rows: Records, flows: Records, count: int, now: int, of_silence: tuple[int, int, int, int], out: NDArray[np.int64]
) -> int:
    departing = 0
    for index in range(count):
        ahead, back = flows[2 * index], flows[2 * index + 1]
        if (ahead.first_segment | back.first_segment) == 0 or departing == len(out):
            continue
        if _is_over(rows[index], ahead, back, now, of_silence):
            out[departing] = index
            departing += 1
    return departing


def departing(table: ConversationTable, now: int, timeouts: Timeouts, most: int) -> NDArray[np.int64]:
    """Indexes of the first conversations, so many at most, that have first bytes in use and are over at that time
    (nanoseconds)."""
    out = np.empty(min(most, table.count), np.int64)
    return out[: _departing(table.rows, table.store.flows, table.count, now, timeouts.of_silence, out)]


@kernel
def _review(
    rows: Records,
    flows: Records,
    count: int,
    traces: Records,
    now: int,
    undecided: int,
    of_silence: tuple[int, int, int, int],
    active: int,
    out: NDArray[np.uint8],
) -> None:
    for index in range(count):
        row, ahead, back, trace = rows[index], flows[2 * index], flows[2 * index + 1], traces[index]
        out[index] = QUIET
        if row.protocol == 0:
            continue
        if _is_over(row, ahead, back, now, of_silence):
            out[index] = OVER
        elif i64(ahead.flags | back.flags) & PAYLOAD == 0:
            continue
        elif trace.segment_a != ahead.last_segment or trace.segment_b != back.last_segment:
            out[index] = CHANGED
        elif trace.told == 0:
            if now - row.start > undecided:
                out[index] = CHANGED
        elif row.end > trace.told_at and now - trace.told_at > active:
            out[index] = CHANGED


def review(
    table: ConversationTable, traces: Records, now: int, undecided: int, timeouts: Timeouts
) -> NDArray[np.uint8]:
    """QUIET, CHANGED or OVER for each row. now: nanoseconds; undecided: how long a label may take to be found."""
    out = np.zeros(table.count, np.uint8)
    _review(
        table.rows, table.store.flows, table.count, traces, now, undecided, timeouts.of_silence, timeouts.active, out
    )
    return out


@kernel
def _extent(store: Store, segment: int) -> tuple[int, int]:
    """How many segments, and bytes of the arena, a chain of segments has."""
    segments, size = 0, 0
    while segment != 0:
        piece = store.segments[segment - 1]
        segments += 1
        size += piece.length if piece.arena >= BLANKS else 0
        segment = i64(piece.next)
    return segments, size


@kernel
def _measure(store: Store, chosen: NDArray[np.int64]) -> tuple[int, int, int]:
    """How many segments, bytes and holes the chosen conversations have."""
    segments, size, holes = 0, 0, 0
    for index in chosen:
        for number in (2 * index, 2 * index + 1):
            more_segments, more_size = _extent(store, i64(store.flows[number].first_segment))
            segments += more_segments
            size += more_size
            hole = i64(store.flows[number].hole)
            while hole != 0:
                holes += 1
                hole = i64(store.holes[hole - 1].next)
    return segments, size, holes


@kernel
def _carry_bytes(store: Store, segment: int, flow: Record, into: Store) -> None:
    """Make a chain of segments and their bytes those of a flow of another store; where that is full they are lost."""
    counters, previous = into.counters, i64(0)
    flow.first_segment = flow.last_segment = 0
    while segment != 0:
        piece = store.segments[segment - 1]
        length = i64(piece.length) if piece.arena >= BLANKS else i64(0)
        if counters[SEGMENTS] == len(into.segments) or counters[ARENA_USED] + length > len(into.arena):
            flow.flags |= LIMITED
            counters[LIMITED_BYTES] += piece.length
            break
        counters[SEGMENTS] += 1
        there = into.segments[counters[SEGMENTS] - 1]
        there.offset, there.length, there.arena = piece.offset, piece.length, piece.arena
        there.frame, there.time, there.next = piece.frame, piece.time, 0
        if length:
            there.arena = counters[ARENA_USED]
            copy(into.arena, there.arena, store.arena, piece.arena, length)
            counters[ARENA_USED] += length
        if previous == 0:
            flow.first_segment = counters[SEGMENTS]
        else:
            into.segments[previous - 1].next = counters[SEGMENTS]
        previous = i64(counters[SEGMENTS])
        flow.last_segment = previous
        segment = i64(piece.next)


@kernel
def _take_out(rows: Records, store: Store, chosen: NDArray[np.int64], to_rows: Records, to_flows: Records) -> None:
    for i in range(len(chosen)):
        to_rows[i] = rows[chosen[i]]
        for side in (0, 1):
            flow = store.flows[2 * chosen[i] + side]
            to_flows[2 * i + side] = flow
            to_flows[2 * i + side].hole = 0
            flow.first_segment = flow.last_segment = 0
            keep_no_more(flow, store)


@kernel
def _move(store: Store, flows: int, into: Store) -> None:
    """Move all first bytes to memory in which there are none, of a store with the same flows and counters."""
    into.counters[SEGMENTS], into.counters[ARENA_USED] = 0, BLANKS
    for number in range(flows):
        flow = into.flows[number]
        if flow.first_segment != 0:
            _carry_bytes(store, i64(flow.first_segment), flow, into)


def take_out(table: ConversationTable, chosen: NDArray[np.int64], rows: Records, flows: Records, spare: Kept) -> None:
    """Copy conversations as they are now, and keep no more bytes of them in the table: what it has of others goes over
    to spare memory, what it has of them stays where it is.

    chosen: int64, indexes; rows, flows: get the copies, have room for them.
    """
    _take_out(table.rows, table.store, chosen, rows, flows)
    store = table.store.with_kept(spare)
    _move(table.store, 2 * table.count, store)
    table.store = store


@kernel
def _carry(rows: Records, store: Store, chosen: NDArray[np.int64], into_rows: Records, into: Store, first: int) -> None:
    """Append the chosen conversations behind the first ones of another table, which has room for them."""
    counters = into.counters
    for i in range(len(chosen)):
        into_rows[first + i] = rows[chosen[i]]
        for side in (0, 1):
            into.flows[2 * (first + i) + side] = store.flows[2 * chosen[i] + side]
            flow = into.flows[2 * (first + i) + side]
            _carry_bytes(store, i64(flow.first_segment), flow, into)
            hole, previous = i64(flow.hole), i64(0)
            while hole != 0:
                counters[HOLES] += 1
                gap = into.holes[counters[HOLES] - 1]
                gap.start, gap.end, gap.next = store.holes[hole - 1].start, store.holes[hole - 1].end, 0
                if previous == 0:
                    flow.hole = counters[HOLES]
                else:
                    into.holes[previous - 1].next = counters[HOLES]
                previous = i64(counters[HOLES])
                hole = i64(store.holes[hole - 1].next)


@kernel
def _bring_back(store: Store, home: NDArray[np.int64], into: Store) -> None:
    for i in range(len(home)):
        for side in (0, 1):
            _carry_bytes(store, i64(store.flows[2 * i + side].first_segment), into.flows[2 * home[i] + side], into)


def bring_back(part: ConversationTable, home: NDArray[np.int64], table: ConversationTable) -> None:
    """Give conversations of a table their first bytes back that still are in a part of it, as far as there is room.

    home: int64, where each conversation of the part is in the table. What came after they left is lost.
    """
    _bring_back(part.store, home, table.store)


def measure(table: ConversationTable, chosen: NDArray[np.int64]) -> tuple[int, int, int]:
    """How many segments, bytes and holes the chosen conversations have."""
    return _measure(table.store, chosen)


Part = tuple[ConversationTable, NDArray[np.int64]]
"""A table and which of its rows."""


def joined(parts: Sequence[Part], room: Store | None = None) -> ConversationTable:
    """A new table of the chosen rows of others, in this order, each with its number.

    room: an empty store to take instead of one that just fits, for a table that goes on being filled.
    """
    count = sum(len(chosen) for _, chosen in parts)
    store = room if room is not None else _fitting(parts)
    size = 8192 if room is not None else 1
    while size < (2 * count if room is not None else count):
        size *= 2
    rows = np.zeros(size, CONVERSATION)
    store = store._replace(flows=np.zeros(2 * size, FLOW))
    if room is not None and parts:
        store = store._replace(recent=parts[0][0].store.recent)
    first = 0
    for table, chosen in parts:
        _carry(table.rows, table.store, chosen, rows, store, first)
        first += len(chosen)
    return ConversationTable.of(rows, count, store, parts[0][0].counters if parts else np.zeros(4, np.int64))


def _fitting(parts: Sequence[Part]) -> Store:
    measured = [measure(table, chosen) for table, chosen in parts]
    segments, size, holes = (sum(each) for each in zip(*measured, strict=True)) if measured else (0, 0, 0)
    return empty_store(segments, BLANKS + size, holes, 0)


def empty_store(segments: int, arena: int, holes: int, recent: int = SPAN_PACKETS) -> Store:
    """A store of that size, its flows still missing. recent: marks of packets, 0 where none will be added."""
    counters = np.zeros(6, np.int64)
    counters[ARENA_USED] = BLANKS
    counters[FREE_HOLE] = 0
    return Store(
        np.zeros(0, FLOW), np.empty(segments, SEGMENT), np.empty(holes, HOLE), np.zeros(arena, np.uint8), counters,
        np.zeros(recent, np.uint64),
    )  # fmt: skip


def least_promising(table: ConversationTable, number: int) -> NDArray[np.int64]:
    """So many rows to end early: those without payload first, then closed ones; of each the longest silent.

    A closed one goes second because its last acknowledgement, coming late, would be a conversation of its own.
    """
    rows = table.rows[: table.count]
    flags = table.store.flows["flags"][: 2 * table.count].reshape(-1, 2)
    either = flags[:, 0] | flags[:, 1]
    closed = ((flags[:, 0] & flags[:, 1] & SENT_FIN) | (either & SENT_RST)) != 0
    rank = np.where((either & PAYLOAD) == 0, 0, np.where(closed, 1, 2))
    alive = np.flatnonzero(rows["protocol"])
    order = np.lexsort((rows["end"][alive], rank[alive]))
    return np.sort(alive[order[:number]])


def size_of(table: ConversationTable) -> int:
    """Bytes that a table of `joined` takes."""
    store, slots = table.store, 4 * np.dtype(np.int32).itemsize * len(table.rows)
    return slots + sum(part.nbytes for part in (table.rows, store.flows, store.segments, store.holes, store.arena))
