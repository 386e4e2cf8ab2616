"""Packets of a capture set → one table of conversations, while others are already at work on what is over.

Owns who reads when. A thread reads bytes and headers ahead of the one that enters packets; where it is possible both
are in a process of their own, which shares the table's memory, so that Python's lock keeps nobody waiting. Packets
enter in the order of the capture, and who leaves when depends on nothing but packets, so that no number of threads or
processes changes a result. Knows nothing of what conversations say.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from classifier import limits, memory
from classifier.beside import Ahead, Beside, forked, let_go
from classifier.conversations import CONVERSATION, USED, ConversationTable
from classifier.fragments import Completed, Reassembler
from classifier.headers import Encapsulations, HeaderColumns, decode
from classifier.packets import BATCH_ROWS, Interfaces, PacketBatch
from classifier.retirement import Timeouts, departing, take_out
from classifier.sources import CaptureSet, Progress
from classifier.streams import ARENA_USED, BLANKS, FLOW, SEGMENTS, Kept

_CROWDED_BYTES: Final = limits.ARENA_DEEP - limits.MAX_BLOCK
_CROWDED_SEGMENTS: Final = limits.MAX_SEGMENTS // 2

_WAIT_SECONDS: Final = 0.0005
"""Between two looks whether somebody has read on."""


@dataclass(slots=True)
class Assembly:
    """What reading a capture set leaves."""

    table: ConversationTable = field(default_factory=ConversationTable)
    encapsulations: Encapsulations = field(default_factory=Encapsulations)
    reassembler: Reassembler = field(default_factory=Reassembler)
    packets: int = 0


class Decoded(NamedTuple):
    """A batch whose headers were read; data: its bytes, with reassembled datagrams behind them."""

    batch: PacketBatch
    headers: HeaderColumns
    data: NDArray[np.uint8]
    completed: list[Completed]


class Departed(NamedTuple):
    """Conversations that are over, with their first bytes, in a table of their own until the next ones are asked for.

    home: int64, where each of them is in the table that it left.
    """

    table: ConversationTable
    home: NDArray[np.int64]


def decode_batch(batch: PacketBatch, interfaces: Interfaces, headers: HeaderColumns, assembly: Assembly) -> Decoded:
    """Read the headers of a batch into columns with room for them, and put fragments together."""
    data: NDArray[np.uint8] = batch.data
    completed: list[Completed] = []
    if decode(batch, interfaces, headers, assembly.encapsulations):
        data, completed = assembly.reassembler.complete(batch, headers, assembly.encapsulations)
    return Decoded(batch, headers, data, completed)


class Patience(NamedTuple):
    """When conversations leave early: with so many first bytes, or segments, in use. later: nanoseconds added to the
    time at which it is looked."""

    first_bytes: int = limits.READ_EARLY
    segments: int = limits.READ_EARLY_SEGMENTS
    later: int = 0


SOON: Final = Patience()
FOR_EVER: Final = Patience(2**63, 2**63)


class Departures:
    """Takes conversations that are over out of a table, whenever many first bytes are in use, to be read.

    So memory follows the open conversations. A result does not depend on it, but for bytes of a conversation that
    was over: those are not kept, and counted. First bytes lie in one of two memories: who leaves stays in the one where
    it was until its bytes were read, the others go over to the other one.
    """

    def __init__(self, table: ConversationTable, patience: Patience) -> None:
        self._table, self._patience = table, patience
        self._rows, self._flows = memory.zeros(limits.PARTY, CONVERSATION), memory.zeros(2 * limits.PARTY, FLOW)
        self._kept: tuple[Kept, ...] = Kept(table.store.segments, table.store.arena), Kept.empty()
        self._read = memory.zeros(1, np.int64)
        self._most, self._waiting = patience[:2], (0, 0)
        self._parties = self._met = 0

    def look(self, now: int) -> NDArray[np.int64] | None:
        """Who leaves (indexes), if it is time. now: of the newest packet, nanoseconds."""
        if self._read[0] == self._parties or self._is_crowded():
            self.settle()
        if all(used < most for used, most in zip(self._in_use(), self._most, strict=True)):
            return None
        self.settle()
        chosen = departing(self._table, now + self._patience.later, Timeouts(), limits.PARTY)
        if len(chosen):
            self._waiting, self._parties = self._in_use(), self._parties + 1
            take_out(self._table, chosen, self._rows, self._flows, self._kept[self._parties % 2])
        used, segments = self._in_use()
        self._most = max(self._patience.first_bytes, 2 * used), max(self._patience.segments, 2 * segments)
        return chosen if len(chosen) else None

    def settle(self) -> None:
        """Wait until all who left were read."""
        while self._read[0] < self._parties:
            time.sleep(_WAIT_SECONDS)
        if self._waiting[0] > limits.READ_EARLY_SPARE:
            memory.give_back(self._kept[(self._parties - 1) % 2].arena, limits.READ_EARLY_SPARE)
        self._waiting = 0, 0

    def departed(self, home: NDArray[np.int64]) -> Departed:
        """Those who left next, as they were then."""
        counters = self._table.counters.copy()
        counters[USED] = len(home)
        rows, flows = self._rows[: len(home)], self._flows[: 2 * len(home)]
        store = self._table.store.with_kept(self._kept[self._met % 2])._replace(flows=flows)
        self._met += 1
        return Departed(ConversationTable(rows, store, np.zeros(0, np.int32), counters), home)

    def were_read(self, party: Departed) -> None:
        """The bytes of those who left last are no longer needed."""
        party.table.store = party.table.store.with_kept(Kept.none())
        self._read[0] += 1

    def end(self) -> None:
        """Nobody leaves any more: whoever met all who did knows where the bytes of the others are."""
        self._table.store = self._table.store.with_kept(self._kept[self._met % 2])
        let_go([self._kept[1 - self._met % 2]])
        self._kept = ()

    def _is_crowded(self) -> bool:
        """Whether those who left must have been read before more packets come, for want of memory."""
        used, segments = (sum(each) for each in zip(self._in_use(), self._waiting, strict=True))
        return used > _CROWDED_BYTES or segments > _CROWDED_SEGMENTS

    def _in_use(self) -> tuple[int, int]:
        """First bytes, and segments of them, of those who stay."""
        counters = self._table.store.counters
        return int(counters[ARENA_USED]) - BLANKS, int(counters[SEGMENTS])


class _Outcome(NamedTuple):
    """What of an assembly is in no shared memory. rows: that the table has room for."""

    captures: CaptureSet
    reassembler: Reassembler
    packets: int
    rows: int


class Assembling:
    """A capture set that is being read: a context in which packets are entered into `assembly`.

    Iterate over it for the conversations that leave early; afterwards captures and assembly are whole.
    """

    def __init__(
        self, captures: CaptureSet, jobs: int = 2, progress: Progress | None = None, patience: Patience = SOON
    ) -> None:
        """jobs: 1 does all in turns."""
        self.captures, self.jobs, self.assembly = captures, jobs, Assembly()
        self._progress, self._bytes = progress, memory.zeros(2, np.int64)
        self._departures = Departures(self.assembly.table, patience)
        self._leaving: Generator[NDArray[np.int64], None, _Outcome] | Beside[NDArray[np.int64], _Outcome] | None = None

    def __enter__(self) -> Self:
        other = forked(lambda: self._enter(self._count_bytes), self._show_progress, self.jobs)
        self._leaving = other or self._enter(self._progress)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._leaving is not None:
            self._leaving.close()
            self._leaving = None  # it knows this context: together they would stay until cycles are collected

    def __iter__(self) -> Iterator[Departed]:
        assert self._leaving is not None, "not entered"
        try:
            while True:
                party = self._departures.departed(next(self._leaving))
                yield party
                self._departures.were_read(party)
        except StopIteration as end:
            outcome: _Outcome = end.value
        self.captures = outcome.captures
        self.assembly.reassembler, self.assembly.packets = outcome.reassembler, outcome.packets
        self.assembly.table.reach(outcome.rows)
        self._departures.end()

    def _enter(self, progress: Progress | None) -> Generator[NDArray[np.int64], None, _Outcome]:
        """Enter all packets into the table, and let out who is over."""
        decoded = self._decoded(progress)
        return self._entered(Ahead(decoded) if self.jobs > 1 else decoded)

    def _entered(
        self, decoded: Ahead[Decoded] | Generator[Decoded, None, None]
    ) -> Generator[NDArray[np.int64], None, _Outcome]:
        assembly = self.assembly
        with closing(decoded):
            for batch, headers, data, completed in decoded:
                assembly.packets += batch.count
                assembly.table.add(batch, headers, data, completed)
                if batch.count:
                    left = self._departures.look(int(batch.columns.time[batch.count - 1]))
                    if left is not None:
                        yield left
        self._departures.settle()
        return _Outcome(self.captures, assembly.reassembler, assembly.packets, len(assembly.table.rows))

    def _decoded(self, progress: Progress | None) -> Generator[Decoded, None, None]:
        """Batches with their headers; three sets of columns in turn: filled, waiting, in use."""
        spare = [HeaderColumns.empty(BATCH_ROWS) for _ in range(3)]
        for turn, batch in enumerate(self.captures.batches(progress)):
            yield decode_batch(batch, self.captures.interfaces, spare[turn % len(spare)], self.assembly)

    def _count_bytes(self, done: int, total: int) -> None:
        self._bytes[:] = done, total

    def _show_progress(self) -> None:
        if self._progress is not None:
            self._progress(int(self._bytes[0]), int(self._bytes[1]))


def assemble(captures: CaptureSet, jobs: int = 2, progress: Progress | None = None) -> Assembly:
    """Read all packets into one table of conversations, which keeps the first bytes of all."""
    with Assembling(captures, jobs, progress, FOR_EVER) as assembling:
        for _ in assembling:
            pass
    return assembling.assembly
