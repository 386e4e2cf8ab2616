"""Packets of several captures → one sequence by time.

Of the packets that come next in each file the earliest one is taken; of several at the same time that of the file
which gave the last one, or else of the file that begins first. Within a file its own order is kept, even where its
clock runs backwards. So the order depends on packets alone, and not on how they were read. Knows no formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import copy, i64, kernel
from classifier.limits import MERGED_BLOCK
from classifier.packets import BATCH_ROWS, PacketBatch, PacketColumns
from classifier.sources.reading import RING

LONG_RUN: Final = 256
"""Packets of one file in a row that are worth a batch of their own; fewer are copied together with those of others."""

_NEVER: Final = 2**63 - 1


class Start(NamedTuple):
    """A capture to be read. time: of its first packet; first_frame: ordinal of its frame 1."""

    time: int
    name: str
    first_frame: int


@dataclass(slots=True, eq=False)
class _Open:
    """A capture that is being read: the batch at hand, and the row of its next packet."""

    batches: Iterator[PacketBatch]
    batch: PacketBatch
    row: int = 0

    @property
    def now(self) -> int:
        """Time of its next packet."""
        return int(self.batch.columns.time[self.row])

    def next_rows(self, most: int) -> PacketColumns:
        """What comes next of the batch."""
        return self.batch.columns.rows(self.row, min(self.row + most, self.batch.count))

    def run_end(self, limit: int) -> int:
        """Row behind the run of packets that are not later than limit."""
        if limit == _NEVER:
            return self.batch.count
        later = np.flatnonzero(self.batch.columns.time[self.row : self.batch.count] > limit)
        return self.row + int(later[0]) if len(later) else self.batch.count

    def take(self, stop: int) -> PacketBatch:
        """The packets up to that row, where they are."""
        start, self.row = self.row, stop
        if start == 0 and stop == self.batch.count:
            return self.batch
        return PacketBatch(self.batch.data, self.batch.columns.rows(start, stop), stop - start)

    def read_on(self) -> bool:
        """Have a packet at hand, unless the file has ended."""
        if self.row == self.batch.count:
            following = next(self.batches, None)
            if following is None:
                return False
            self.batch, self.row = following, 0
        return True


def merged(starts: Sequence[Start], read: Callable[[str, int], Iterator[PacketBatch]]) -> Iterator[PacketBatch]:
    """Packets of several captures by time. starts: in the order of time; each is read when its time has come."""
    waiting, opened, mixer, last = list(starts), list[_Open](), _Mixer(), None
    while waiting or opened:
        while waiting and (not opened or waiting[0].time <= min(each.now for each in opened)):
            _, name, first_frame = waiting.pop(0)
            batches = read(name, first_frame)
            if (batch := next(batches, None)) is not None:
                opened.append(_Open(batches, batch))
        if not opened:
            continue
        opens = waiting[0].time if waiting else _NEVER
        following = min(opened, key=lambda each: (each.now, each is not last))
        limit = min([opens, *(each.now for each in opened if each is not following)])
        stop = following.run_end(limit)
        if stop == following.batch.count or stop - following.row >= LONG_RUN:
            last = following
            yield following.take(stop)
        else:
            batch, last = mixer.mix(opened, following, limit, opens)
            yield batch
        if not last.read_on():
            opened.remove(last)


class _Mixer:
    """Batches of packets of several files, copied into buffers that are filled in turn, as those of a `Window`."""

    def __init__(self) -> None:
        """What was handed out stays valid for RING - 1 further batches."""
        self._ring = cycle([(np.empty(MERGED_BLOCK, np.uint8), PacketColumns.empty(BATCH_ROWS)) for _ in range(RING)])
        self._time, self._captured = np.empty(BATCH_ROWS, np.int64), np.empty(BATCH_ROWS, np.int32)
        self._place = np.empty(BATCH_ROWS, np.int32)

    def mix(self, opened: Sequence[_Open], first: _Open, limit: int, opens: int) -> tuple[PacketBatch, _Open]:
        """The next packets, from that of first on, until a file's batch or share is used up, or another file opens.

        limit: time of the next packet of all others, and of their opening. Returns them, and whose the last one is.
        """
        share = BATCH_ROWS // len(opened)  # no process has as many files open
        coming = [each.next_rows(share) for each in opened]
        sizes = np.array([len(rows.time) for rows in coming])
        ends = np.cumsum(sizes)
        starts = ends - sizes
        np.concatenate([rows.time for rows in coming], out=self._time[: ends[-1]])
        np.concatenate([rows.captured for rows in coming], out=self._captured[: ends[-1]])
        data, columns = next(self._ring)
        upto = starts.copy()
        count, last = line_up(
            self._time, self._captured, upto, ends, opened.index(first), limit, opens, len(data), self._place, columns
        )
        for each, start, stop in zip(opened, starts.tolist(), upto.tolist(), strict=True):
            put_in_line(each.batch.data, each.batch.columns, each.row, self._place, start, stop, data, columns)
            each.row += stop - start
        return PacketBatch(data, columns, count), opened[last]


@kernel
def line_up(
    time: NDArray[np.int64],
    captured: NDArray[np.int32],
    upto: NDArray[np.int64],
    ends: NDArray[np.int64],
    first: int,
    limit: int,
    opens: int,
    room: int,
    place: NDArray[np.int32],
    columns: PacketColumns,
) -> tuple[int, int]:
    """Give packets rows of columns, and room behind one another in so many bytes, in the order of time.

    time, captured: of the packets of all files, one file behind the other; upto: where the next packet of each file
    is, moved on; ends: where its packets end. first: the file that begins; limit: time of the next packet of others.
    No packet later than opens is taken, nor any behind the last one here of a file. place[i] gets the row of packet i.
    Returns how many there are, and the file of the last one.
    """
    offset, length, _, when, _, _ = columns
    row, used, file, last = 0, 0, first, first
    while row < len(offset):
        if time[upto[file]] > limit:
            file, limit = 0, opens
            for other in range(1, len(upto)):
                if time[upto[other]] < time[upto[file]]:
                    file, other = other, file
                limit = min(limit, time[upto[other]])
            if time[upto[file]] > opens:
                break
        packet = upto[file]
        size = i64(captured[packet])
        if used + size > room:
            break
        place[packet], offset[row], length[row], when[row] = row, used, size, time[packet]
        row, used, last = row + 1, used + size, file
        upto[file] += 1
        if upto[file] == ends[file]:
            break
    return row, last


@kernel
def put_in_line(
    data: NDArray[np.uint8],
    packets: PacketColumns,
    row: int,
    place: NDArray[np.int32],
    start: int,
    stop: int,
    target: NDArray[np.uint8],
    columns: PacketColumns,
) -> None:
    """Copy packets of one file, from that row on, to where place[start:stop] has them, with what columns lack."""
    for i in range(start, stop):
        at = place[i]
        columns.wire[at], columns.interface[at], columns.frame[at] = (
            packets.wire[row], packets.interface[row], packets.frame[row]
        )  # fmt: skip
        copy(target, columns.offset[at], data, packets.offset[row], i64(packets.captured[row]))
        row += 1
