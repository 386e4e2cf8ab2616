"""Kept first bytes → dialogues: what both sides of a conversation said, in order, as inspectors read it.

Across reordering, retransmission, overlap and gaps a stream is put in order; where two segments disagree about a
byte, the one that arrived first counts. Most streams lie ready as they came, and are copied compiled, many in one go.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import copy, i64, kernel
from classifier.conversations import ConversationTable
from classifier.headers import TCP, UDP
from classifier.inspectors.base import Chunk, Dialogue, Stream
from classifier.limits import MIB
from classifier.orientation import Orientation
from classifier.streams import LIMITED, STARTED, TRUNCATED, Store

BLOCK: Final = 2048
"""Conversations whose bytes are put together at a time."""


def dialogues(table: ConversationTable, orientation: Orientation, chosen: NDArray[np.int64]) -> Iterator[Dialogue]:
    """The dialogues of the chosen conversations, in their order."""
    rows = table.rows
    a_ports, b_ports = rows["a_port"][chosen].tolist(), rows["b_port"][chosen].tolist()
    clients, oriented = orientation.client[chosen].tolist(), orientation.proven[chosen].tolist()
    tcp = rows["protocol"][chosen] == TCP
    asking = 2 * chosen + orientation.client[chosen]
    numbers = np.stack([asking, asking ^ 1], axis=1).reshape(-1)
    streams = _streams(table.store, numbers, np.repeat(tcp, 2))
    for a_port, b_port, client, known, is_tcp in zip(a_ports, b_ports, clients, oriented, tcp.tolist(), strict=True):
        yield Dialogue(
            transport="tcp" if is_tcp else "udp",
            to_server=next(streams),
            to_client=next(streams),
            server_port=a_port if client else b_port,
            client_port=b_port if client else a_port,
            oriented=known,
        )


def _streams(store: Store, numbers: NDArray[np.int64], tcp: NDArray[np.bool_]) -> Iterator[Stream]:
    """The streams of flows, in their order: those that lie ready in one go, the others one by one."""
    out, starts = np.empty(4 * MIB, np.uint8), np.empty(2 * BLOCK + 1, np.int64)
    flags_of = store.flows["flags"]
    done = 0
    while done < len(numbers):
        block, kinds = numbers[done : done + 2 * BLOCK], tcp[done : done + 2 * BLOCK]
        ready = int(_gather(store, block, kinds, starts, out))
        if ready == 0:
            yield read_stream(store, int(block[0]), TCP if kinds[0] else UDP)
            done += 1
            continue
        bounds = [bound if bound >= 0 else -1 - bound for bound in starts[: ready + 1].tolist()]
        data, regular = out[: bounds[-1]].tobytes(), (starts[1 : ready + 1] >= 0).tolist()
        for i, (number, flags) in enumerate(zip(block[:ready].tolist(), flags_of[block[:ready]].tolist(), strict=True)):
            begin, end = bounds[i], bounds[i + 1]
            if not regular[i]:
                yield read_stream(store, number, TCP if kinds[i] else UDP)
                continue
            chunks = (Chunk(0, data[begin:end]),) if end > begin else ()
            started = not kinds[i] or bool(flags & STARTED)
            yield Stream(chunks, started, bool(flags & LIMITED), bool(flags & TRUNCATED))
        done += ready


@kernel
def _gather(
    store: Store, numbers: NDArray[np.int64], tcp: NDArray[np.bool_], starts: NDArray[np.int64], out: NDArray[np.uint8]
) -> int:
    """Copy the bytes of flows whose segments lie in order and without holes into out, one behind the other.

    starts[i] gets where flow i begins, starts[i + 1] where it ends; -1 - that for a flow that needs putting in
    order (nothing of it is copied). Returns how many flows were dealt with before out was full.
    """
    used = 0
    starts[0] = 0
    for i in range(len(numbers)):
        flow = store.flows[numbers[i]]
        segment, expected, begin, regular = i64(flow.first_segment), i64(flow.start_offset), used, True
        while segment != 0 and regular:
            piece = store.segments[segment - 1]
            regular = piece.offset == expected and (tcp[i] or expected == 0)
            if regular:
                if used + piece.length > len(out):
                    return i
                copy(out, used, store.arena, piece.arena, piece.length)
                used += piece.length
                expected += piece.length
            segment = i64(piece.next)
        if not regular:
            used = begin
        starts[i + 1] = used if regular else -1 - used
    return len(numbers)


# ---- one stream, whatever its order ------------------------------------------------------------


class Run(NamedTuple):
    """Stream bytes [offset, offset + length) lie at arena."""

    offset: int
    length: int
    arena: int


def read_stream(store: Store, number: int, kind: int) -> Stream:
    """Flow number's stream in order. kind: headers.TCP or headers.UDP (whose datagrams stay apart)."""
    flow = store.flows[number]
    flags, start = int(flow["flags"]), int(flow["start_offset"])
    runs = _runs(store, int(flow["first_segment"]), start, kind)
    return Stream(
        chunks=_chunks(store.arena, runs, kind),
        started=kind != TCP or bool(flags & STARTED),
        limited=bool(flags & LIMITED),
        truncated=bool(flags & TRUNCATED),
    )


def _runs(store: Store, number: int, start: int, kind: int) -> list[Run]:
    """The flow's segments from the stream's start on, cut so that none overlaps another."""
    segments = []
    while number:
        segment = store.segments[number - 1]
        offset, arena, _frame, _time, length, number = segment.item()
        before = max(start - offset, 0)
        if before < length:
            segments.append(Run(offset - start + before, length - before, arena + before))
    in_order = all(one.offset + one.length <= other.offset for one, other in pairwise(segments))
    return segments if in_order or kind == UDP else _first_arrivals(segments)


def _first_arrivals(segments: list[Run]) -> list[Run]:
    """Runs in the stream's order from segments in order of arrival: the first that brings a byte counts.

    One sweep along the stream; covering is a heap of the segments that reach it, the earliest on top.
    """
    beginning = sorted(range(len(segments)), key=lambda arrival: segments[arrival].offset)
    beginning.reverse()
    covering: list[int] = []
    runs: list[Run] = []
    at = 0
    while beginning or covering:
        if not covering:
            at = max(at, segments[beginning[-1]].offset)
        while beginning and segments[beginning[-1]].offset <= at:
            heappush(covering, beginning.pop())
        run = segments[covering[0]]
        end = run.offset + run.length
        if end <= at:
            heappop(covering)
            continue
        stop = min(end, segments[beginning[-1]].offset) if beginning else end
        runs.append(Run(at, stop - at, run.arena + at - run.offset))
        at = stop
    return runs


def _chunks(arena: NDArray[np.uint8], runs: list[Run], kind: int) -> tuple[Chunk, ...]:
    """Runs that touch become one chunk; each datagram is its own."""
    chunks: list[Chunk] = []
    parts: list[bytes] = []
    begin = end = 0
    for run in runs:
        data = arena[run.arena : run.arena + run.length].tobytes()
        if parts and (kind == UDP or run.offset != end):
            chunks.append(Chunk(begin, b"".join(parts)))
            parts = []
        if not parts:
            begin = run.offset
        parts.append(data)
        end = run.offset + run.length
    if parts:
        chunks.append(Chunk(begin, b"".join(parts)))
    return tuple(chunks)
