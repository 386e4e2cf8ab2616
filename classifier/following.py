"""Conversations over time: what becomes of an endless capture, in records that replace each other by id.

One thread enters packets into a table of open conversations. Now and then it hands copies of what changed and
what is over to a second one, which labels them with the very steps a capture file takes (`conclude`) and
reports them. Ended conversations are kept for a while: what is learnt later revises them. Everything is bounded;
what a bound kept out is counted. Knows no sockets, files or screens.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifier import limits
from classifier.acquaintance import Remembered
from classifier.assembly import Assembly, Decoded
from classifier.conclusion import Knowledge, conclude, named_ports
from classifier.conversations import CONVERSATION, ConversationTable
from classifier.ended import BLOCK, Archive, Ended, Kept
from classifier.endpoints import EndpointMap
from classifier.fields import LIVE_FIELDS, Coded, Column, Framed, Numbers, Texts, Times
from classifier.inspection import Gist, Reading
from classifier.orientation import first_look
from classifier.packets import BATCH_ROWS
from classifier.result import Conversation, Result, Table, taken
from classifier.retirement import (
    CHANGED,
    OVER,
    TRACE,
    Part,
    Timeouts,
    empty_store,
    joined,
    least_promising,
    measure,
    review,
)
from classifier.streams import ARENA_USED, BLANKS, FLOW, HOLE, PAYLOAD, SEGMENT, SEGMENTS, forget

SECOND: Final = 10**9

EVENTS: Final = ("new", "update", "end")

UNTOLD: Final = frozenset(
    {"id", "community_id", "last_frame", "end", "packets_to_server", "packets_to_client", "bytes_to_server",
     "bytes_to_client", "conn_state", "duplicate_packets", "missed_bytes"}
)  # fmt: skip
"""Columns that change with every packet, or never: a change of them alone is no news."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When conversations are read, reported and given up. In nanoseconds of packet time."""

    tick: int = SECOND
    undecided: int = 5 * SECOND
    review: int = 60 * SECOND
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(slots=True)
class _Task:
    """What the labelling thread is asked to read. review: and all that ended before, for what was learnt since; room:
    for so many of those at once."""

    ended: list[Ended]
    open_table: ConversationTable
    open_traces: Any
    now: int
    review: bool
    room: int


@dataclass(slots=True)
class Told:
    """What the labelling thread reported: digests by number of the conversation, ascending."""

    numbers: NDArray[np.int64]
    digests: NDArray[np.uint64]
    now: int


@dataclass(frozen=True, slots=True)
class Report:
    """Records of one moment: a table of `fields.FIELDS` and `fields.LIVE_FIELDS`."""

    table: Table

    @property
    def columns(self) -> Mapping[str, Column]:
        """Every column by its name."""
        return self.table.columns

    def reasoning(self, index: int) -> None:
        """What was weighed is not kept of a moment."""

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Conversation]:
        return (Conversation(self, index) for index in range(len(self)))


@dataclass(slots=True)
class Counts:
    """What was met on the way, beside the losses of the source."""

    evicted: int = 0
    unreported: int = 0
    conversations: int = 0


class Follower:
    """Follows a live source. `add` and `tick` belong to one thread; labels are made and reported in another.

    report: called with each `Report`, in the labelling thread; must not block for long. learnt: called there when
    conversations were read, since the endpoint map may know more then.
    """

    def __init__(
        self,
        source: Any,
        known: Knowledge,
        report: Callable[[Report], None],
        pace: Pace | None = None,
        learnt: Callable[[EndpointMap], None] = lambda endpoint_map: None,
    ) -> None:
        self.source, self.known = source, known
        self.pace, self.counts = pace or Pace(), Counts()
        self.assembly = Assembly(table=_fresh_table())
        self.archive = Archive()
        self._waiting: deque[Ended] = deque()
        self._report, self._learnt, self._remembered = report, learnt, Remembered()
        self._traces = np.zeros(len(self.assembly.table.rows), TRACE)
        self._lost, self._dead, self._now, self._last_tick, self._last_review = 0, 0, 0, 0, 0
        self._tasks: queue.Queue[_Task | None] = queue.Queue(maxsize=1)
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self.failure: BaseException | None = None
        self._labelling = threading.Thread(target=self._label, name="exflow-labels", daemon=True)
        self._labelling.start()

    @property
    def table(self) -> ConversationTable:
        """The open conversations, and tombstones."""
        return self.assembly.table

    # ---- the capturing thread --------------------------------------------------------------

    def add(self, decoded: Decoded) -> NDArray[np.int64]:
        """Enter a batch; returns the number of each packet's conversation, -1 for none.

        Raises what the labelling thread failed with.
        """
        if self.failure is not None:
            raise self.failure
        self._make_room()
        before = self.table.count
        self.assembly.packets += decoded.batch.count
        self.table.add(decoded.batch, decoded.headers, decoded.data, decoded.completed)
        if len(self._traces) < len(self.table.rows):
            self._traces = _longer(self._traces, len(self.table.rows))
        self._traces["lost"][before : self.table.count] = self._lost
        self.counts.conversations += self.table.count - before
        numbers = self.table.numbers(decoded.batch.count)
        if decoded.batch.count:
            self.tick(int(decoded.batch.columns.time[: decoded.batch.count].max()))
        return numbers

    def tick(self, now: int, lost: int | None = None) -> None:
        """Look for what is over or changed, if it is time. now: nanoseconds since 1970; lost: packets so far."""
        self._lost = self._lost if lost is None else lost
        self._now = max(self._now, now)
        if self._now - self._last_tick >= self.pace.tick:
            self._last_tick = self._now
            self._remember_told()
            said = review(self.table, self._traces, self._now, self.pace.undecided, self.pace.timeouts)
            self._end(np.flatnonzero(said == OVER))
            if self._idle.is_set():
                again = self._now - self._last_review >= self.pace.review
                self._hand_over(np.flatnonzero(said == CHANGED), again)
            self._compact_if_worthwhile()

    def finish(self) -> None:
        """End everything, label it, report it; afterwards nothing runs any more.

        What doesn't fit into one reading is read again once all was read, since the last part may tell of the first.
        """
        self._wait()
        self._remember_told()
        self._end(np.flatnonzero(self.table.rows["protocol"][: self.table.count]), bounded=False)
        for _ in range(limits.LIVE_LAST_REVIEWS):
            parts = 0
            while self.failure is None and self._hand_over(np.zeros(0, np.int64), again=not parts):
                parts += 1
                self._wait()
            if parts < 2:
                break
        self._tasks.put(None)
        self._labelling.join()
        if self.failure is not None:
            raise self.failure

    def _wait(self) -> None:
        self._idle.wait()

    def _end(self, chosen: NDArray[np.int64], bounded: bool = True) -> None:
        """Move rows to those that wait for their label, and leave tombstones. bounded: drop what is too much."""
        silent = (self.table.store.flows["flags"][: 2 * self.table.count].reshape(-1, 2) & PAYLOAD == 0).all(axis=1)
        for each in (False, True):
            some = chosen[silent[chosen] == each]
            for part in (some[at : at + BLOCK] for at in range(0, len(some), BLOCK)):
                traces = self._traces[part]
                traces["lost"] = self._lost - traces["lost"]
                self._waiting.append(Ended(joined([(self.table, part)]), traces, each))
        self.table.rows["protocol"][chosen] = 0
        self._dead += len(chosen)
        waiting = sum(each.size for each in self._waiting)
        while bounded and waiting > limits.LIVE_WAITING:
            oldest = next((each for each in self._waiting if each.silent), self._waiting[0])
            self._waiting.remove(oldest)
            waiting -= oldest.size
            self.counts.unreported += oldest.table.count

    def _hand_over(self, changed: NDArray[np.int64], again: bool) -> bool:
        """Give the labelling thread what it has not read yet. again: and all else too, for what was learnt since.

        No more than `limits.LIVE_READ` at once, silent ones last; the rest waits for the next time. False if there is
        nothing.
        """
        if again:
            self._last_review = self._now
            rows = self.table.rows[: self.table.count]
            paid = self.table.store.flows["first_segment"][: 2 * self.table.count].reshape(-1, 2).any(axis=1)
            changed = np.concatenate([changed, np.setdiff1d(np.flatnonzero((rows["protocol"] != 0) & paid), changed)])
        ended, room = self._take(silent=False, room=limits.LIVE_READ)
        changed = np.sort(changed[:room])
        unsaid, room = self._take(silent=True, room=room - len(changed))
        if not ended and not unsaid and not len(changed) and not self.archive.waits and not (again and self.archive):
            return False
        flows = self.table.store.flows
        self._traces["segment_a"][changed] = flows["last_segment"][2 * changed]
        self._traces["segment_b"][changed] = flows["last_segment"][2 * changed + 1]
        traces = self._traces[changed]
        traces["lost"] = self._lost - traces["lost"]
        self._idle.clear()
        self._tasks.put(_Task([*ended, *unsaid], joined([(self.table, changed)]), traces, self._now, again, room))
        return True

    def _take(self, silent: bool, room: int) -> tuple[list[Ended], int]:
        """Of those that wait, the oldest of one sort, as many as fit; and what room is left."""
        chosen: list[Ended] = []
        for each in self._waiting:
            if each.silent == silent and each.table.count <= room:
                chosen.append(each)
                room -= each.table.count
        self._waiting = deque(each for each in self._waiting if each not in chosen)
        return chosen, room

    def _remember_told(self) -> None:
        """Enter what was reported of open conversations into their traces."""
        while not self._told.empty():
            told = self._told.get()
            numbers = self.table.rows["number"][: self.table.count]
            place = np.minimum(np.searchsorted(numbers, told.numbers), max(len(numbers) - 1, 0))
            there = numbers[place] == told.numbers if len(numbers) else np.zeros(len(place), np.bool_)
            self._traces["told"][place[there]] = told.digests[there]
            self._traces["told_at"][place[there]] = told.now

    def _make_room(self) -> None:
        """Before a batch, if the table is full: end some early if that are not the dead; carry on the rest."""
        store = self.table.store
        tight = (
            self.table.count + BATCH_ROWS > limits.LIVE_CONVERSATIONS
            or store.counters[ARENA_USED] > 0.9 * len(store.arena)
            or store.counters[SEGMENTS] > 0.9 * len(store.segments)
        )
        if not tight:
            return
        self._remember_told()
        alive = np.flatnonzero(self.table.rows["protocol"][: self.table.count])
        segments, size, _ = measure(self.table, alive)
        full = max(
            (len(alive) + BATCH_ROWS) / limits.LIVE_CONVERSATIONS,
            (BLANKS + size) / len(store.arena),
            segments / len(store.segments),
        )
        if full > 0.75:
            victims = least_promising(self.table, len(alive) // 3)
            self.counts.evicted += len(victims)
            self._end(victims)
        self._compact()

    def _compact_if_worthwhile(self) -> None:
        if self._dead > 8192 and 3 * self._dead > self.table.count:
            self._compact()

    def _compact(self) -> None:
        old = self.table
        alive = np.flatnonzero(old.rows["protocol"][: old.count])
        flows = old.store.flows
        unread = [flows["last_segment"][2 * alive + i] != self._traces[name][alive] for i, name in enumerate(_SEGMENTS)]
        room = empty_store(limits.LIVE_SEGMENTS, limits.LIVE_ARENA, limits.MAX_HOLES)
        room.counters[4:] = old.store.counters[4:]
        self.assembly.table = table = joined([(old, alive)], room)
        traces = np.zeros(len(table.rows), TRACE)
        traces[: len(alive)] = self._traces[alive]
        flows = table.store.flows
        for i, name in enumerate(_SEGMENTS):
            last = flows["last_segment"][: 2 * table.count].reshape(-1, 2)[:, i]
            traces[name][: len(alive)] = np.where(unread[i], -1, last)
        self._traces, self._dead = traces, 0

    # ---- the labelling thread ----------------------------------------------------------------

    def _label(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._conclude(task)
            except BaseException as error:
                self.failure = error
            self._idle.set()

    def _conclude(self, task: _Task) -> None:
        """Label what is asked for, and report what is news. In the table: what is kept, just ended, open."""
        if task.review:
            self.archive.review()
        kept = self.archive.due(task.room)
        parts = [*(block.ended for block in kept), *task.ended]
        table = joined([*(_whole(each.table) for each in parts), _whole(task.open_table)])
        traces = np.concatenate([*(each.traces for each in parts), task.open_traces])
        firsts = np.cumsum([0, *(each.table.count for each in parts)]).tolist()
        reading, gists = self._read_ended(table, kept, task.ended, firsts[len(kept) :])
        assembly = Assembly(table=table, encapsulations=self.assembly.encapsulations)
        known = self.known
        result = conclude(self.source, assembly, known, 1, reading, remembered=self._remembered)
        known.endpoint_map.condense(limits.LIVE_ANNOUNCEMENTS)
        self._learnt(known.endpoint_map)
        digests = digest(result.columns)
        over = np.arange(table.count) < firsts[-1]
        news = _news(result, traces, digests, over, task.now, self.pace)
        chosen = np.flatnonzero(news >= 0)
        if len(chosen):
            self._report(_report(result, chosen, news, traces))
        for each, first in zip(parts, firsts, strict=False):
            each.traces["told"] = digests[first : first + each.table.count]
            each.traces["segment_a"] = _ENDED
        for each, gist in zip(task.ended, gists, strict=True):
            self.archive.add(each, gist, reading.found)
        told = chosen[chosen >= firsts[-1]]
        numbers = table.rows["number"][told]
        order = np.argsort(numbers)
        self._told.put(Told(numbers[order], digests[told][order], task.now))

    def _read_ended(
        self, table: ConversationTable, kept: list[Kept], ended: list[Ended], firsts: list[int]
    ) -> tuple[Reading, list[Gist]]:
        """Read what just ended, from firsts[0] to firsts[-1] in the table behind what is kept, and give its bytes back.

        Returns the reading, which knows of both, and what stays of each that ended.
        """
        reading, gist = Reading(1), Gist.joined([block.gist for block in kept])
        codes, found = self.archive.library.pick(gist.codes)
        reading.resume(gist._replace(codes=codes), found)
        chosen = np.arange(firsts[0], firsts[-1])
        needed = reading.early(table, first_look(table, named_ports(self.known.rulebook)), chosen, chosen)
        forget(table.store, np.setdiff1d(chosen, needed), table.count)
        for each, first in zip(ended, firsts, strict=False):
            if not each.silent:
                each.table = joined([(table, first + np.arange(each.table.count))])
        return reading, [reading.gist(first, each.table.count) for each, first in zip(ended, firsts, strict=False)]


def memory_bound(ring: int, packets: bool) -> int:
    """Bytes that a live capture takes at most, whatever comes in. ring: bytes of it; packets: whether some are kept.

    The table is there twice while it is carried over, and conversations are copied to be read; what waited for that is
    there until it was read, and as much waits again.
    """
    row = CONVERSATION.itemsize + 2 * FLOW.itemsize + TRACE.itemsize
    kept = limits.LIVE_ARENA + limits.LIVE_SEGMENTS * SEGMENT.itemsize + limits.MAX_HOLES * HOLE.itemsize
    slots = 4 * np.dtype(np.int32).itemsize * 2 * limits.LIVE_CONVERSATIONS
    table = limits.LIVE_CONVERSATIONS * row + kept + slots
    ended = limits.LIVE_ENDED + limits.LIVE_ENDED_SILENT + 2 * limits.LIVE_WAITING
    reading = limits.LIVE_READ * (row + limits.LIVE_READING) + limits.LIVE_ARENA
    waiting = limits.LIVE_RECORDS * limits.LIVE_RECORD + (limits.LIVE_DELAY if packets else 0)
    known = limits.LIVE_HOSTS * limits.LIVE_HOST + limits.LIVE_ANNOUNCEMENTS * limits.LIVE_ANNOUNCEMENT
    return limits.LIVE_PROGRAM + ring + 2 * table + ended + reading + waiting + known


_SEGMENTS: Final = ("segment_a", "segment_b")


def _whole(table: ConversationTable) -> Part:
    return table, np.arange(table.count)


def _fresh_table() -> ConversationTable:
    return joined([], empty_store(limits.LIVE_SEGMENTS, limits.LIVE_ARENA, limits.MAX_HOLES))


def _longer(traces: Any, rows: int) -> Any:
    grown = np.zeros(rows, TRACE)
    grown[: len(traces)] = traces
    return grown


def _news(
    result: Result, traces: Any, digests: NDArray[np.uint64], over: NDArray[np.bool_], now: int, pace: Pace
) -> NDArray[np.int8]:
    """Index into EVENTS of each conversation that is worth a record, -1 of the others."""
    starts, ends, certainty = result.columns["start"], result.columns["end"], result.columns["certainty"]
    assert isinstance(starts, Times)
    assert isinstance(ends, Times)
    assert isinstance(certainty, Coded)
    labelled = np.array([value is not None for value in certainty.values] or [False])[certainty.codes]
    untold = traces["told"] == 0
    differs = traces["told"] != digests
    decided = labelled | (now - starts.ns > pace.undecided)
    due = (now - traces["told_at"] > pace.timeouts.active) & (ends.ns > traces["told_at"])
    ending = over & (differs | (traces["segment_a"] != _ENDED))
    conditions = [ending, over, untold & decided, ~untold & (differs | due)]
    return np.select(conditions, [2, -1, 0, 1], -1).astype(np.int8)


_ENDED: Final = -2
"""In a trace's segment_a: the end was told."""


def _report(result: Result, chosen: NDArray[np.int64], news: NDArray[np.int8], traces: Any) -> Report:
    columns = {name: taken(column, chosen) for name, column in result.columns.items()}
    columns["event"] = Coded(news[chosen].astype(np.int32), list(EVENTS))
    columns["capture_loss"] = Numbers(traces["lost"][chosen].astype(np.int64))
    return Report(Table((*result.table.fields, *LIVE_FIELDS), columns))


def digest(columns: Mapping[str, Column]) -> NDArray[np.uint64]:
    """uint64 for each row, never 0: equal for rows that say the same, but for counts (`UNTOLD`)."""
    state: NDArray[np.uint64] | None = None
    for name, column in columns.items():
        if name not in UNTOLD:
            for words in _words(column):
                state = words if state is None else (state ^ words) * np.uint64(0x9E3779B97F4A7C15)
                state ^= state >> np.uint64(29)
    return np.zeros(0, np.uint64) if state is None else state | np.uint64(1)


def _words(column: Column) -> Iterator[NDArray[np.uint64]]:
    match column:
        case Numbers(values) | Times(values):
            yield values.astype(np.uint64)
        case Texts(texts):
            yield np.array([_hash(text) for text in texts.tolist()], np.uint64)
        case Coded(codes, distinct):
            yield _hashes(distinct)[codes]
        case Framed(codes, distinct, frames):
            yield _hashes(distinct)[codes]
            odd = np.arange(1, 2 * frames.shape[1], 2).astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
            yield (frames.astype(np.uint64) * odd).sum(axis=1, dtype=np.uint64)  # unused holes are 0 and add nothing


def _hashes(values: list[Any]) -> NDArray[np.uint64]:
    return np.array([_hash(repr(value).encode("utf-8", "surrogatepass")) for value in values], np.uint64)


def _hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
