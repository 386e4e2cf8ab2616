"""The packets worth keeping of a live capture: pcapng files of what has no label, or findings.

Whether a packet is worth keeping is known only when its conversation has been read. So packets wait in a delay line
of bounded size and age; what leaves it is dropped if its conversation got a label and no findings, else written.
Old files give way to new ones. Format of packets: IETF draft-ietf-opsawg-pcapng, section 4.3.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import blocks
from classifier.compiled import copy, i64, kernel
from classifier.following import Report
from classifier.limits import LIVE_DELAY, LIVE_DELAY_SECONDS, LIVE_VERDICTS
from classifier.packets import PacketBatch, PacketColumns

FILES: Final = 16
"""Files that share the room of the ring."""


class _Waiting(NamedTuple):
    """A batch in the delay line. numbers: int64, of each packet's conversation, -1 for none."""

    since: float
    data: NDArray[np.uint8]
    columns: PacketColumns
    numbers: NDArray[np.int64]


@kernel
def lay_packets(
    data: NDArray[np.uint8], columns: PacketColumns, wanted: NDArray[np.bool_], out: NDArray[np.uint8]
) -> int:
    """Lay the wanted packets into out as Enhanced Packet Blocks (little-endian, interface 0, nanoseconds)."""
    at = 0
    for row in range(len(wanted)):
        if not wanted[row]:
            continue
        start, size = columns.offset[row], i64(columns.captured[row])
        padded = (size + 3) & ~3
        total = 32 + padded
        if start < 0 or size < 0 or start + size > len(data) or at + total > len(out):
            continue
        words = out[at : at + 28].view(np.uint32)
        words[0], words[1], words[2] = 6, total, 0
        words[3], words[4] = columns.time[row] >> 32, columns.time[row] & 0xFFFFFFFF
        words[5], words[6] = size, columns.wire[row]
        copy(out, at + 28, data, start, size)
        out[at + 28 + size : at + 28 + padded] = 0
        out[at + 28 + padded : at + total].view(np.uint32)[0] = total
        at += total
    return at


class PacketRing:
    """A sink for reports, and for packets too. Raises OSError if the folder can't be made.

    room: bytes of all files together. lost: packets that could not be written.
    """

    def __init__(self, folder: Path, room: int, link_type: int, say: Callable[[str], None]) -> None:
        self.name, self.folder, self.room, self.link_type, self.say = str(folder), folder, room, link_type, say
        self.lost = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._line: deque[_Waiting] = deque()
        self._size, self._newest = 0, -1
        self._labelled = np.zeros(LIVE_VERDICTS, np.bool_)
        self._leaving: queue.Queue[_Waiting | None] = queue.Queue(8)
        self._file: IO[bytes] | None = None
        self._number, self._trouble = 0, ""
        self._writer = threading.Thread(target=self._write_leaving, name="exflow-packets", daemon=True)
        self._writer.start()

    # ---- what the labels say -------------------------------------------------------------------

    def write(self, report: Report) -> None:
        """Note which conversations have a label and no findings."""
        for entry in report:
            self._labelled[(entry.id - 1) % LIVE_VERDICTS] = entry.certainty is not None and not entry.findings

    def tick(self) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """Write what still waits, now that everything has been read."""
        while self._line:
            self._leaving.put(self._line.popleft())
        self._leaving.put(None)
        self._writer.join()

    # ---- packets -----------------------------------------------------------------------------------

    def take(self, batch: PacketBatch, numbers: NDArray[np.int64]) -> None:
        """Let a batch wait; what has waited long enough goes on. Never blocks."""
        fresh = np.unique(numbers[numbers > self._newest])
        self._labelled[fresh % LIVE_VERDICTS] = False
        self._newest = max(self._newest, int(numbers.max(initial=-1)))
        columns = batch.columns.rows(0, batch.count).copy()
        self._line.append(_Waiting(time.monotonic(), batch.data.copy(), columns, numbers))
        self._size += len(batch.data)
        while self._line and (self._size > LIVE_DELAY or time.monotonic() - self._line[0].since > LIVE_DELAY_SECONDS):
            leaving = self._line.popleft()
            self._size -= len(leaving.data)
            try:
                self._leaving.put_nowait(leaving)
            except queue.Full:
                self.lost += len(leaving.numbers)

    # ---- files -------------------------------------------------------------------------------------

    def _write_leaving(self) -> None:
        while (leaving := self._leaving.get()) is not None:
            wanted = (leaving.numbers >= 0) & ~self._labelled[leaving.numbers % LIVE_VERDICTS]
            try:
                self._append(leaving, wanted)
                self._trouble = ""
            except OSError as error:
                self.lost += int(wanted.sum())
                self._tell(error.strerror or str(error))
        with suppress(OSError):
            self._finish()

    def _append(self, leaving: _Waiting, wanted: NDArray[np.bool_]) -> None:
        sizes = leaving.columns.captured[wanted].astype(np.int64)
        out = np.empty(int(((sizes + 3) & ~3).sum() + 32 * len(sizes)), np.uint8)
        used = int(lay_packets(leaving.data, leaving.columns, wanted, out))
        if not used:
            return
        if self._file is None:
            self._begin()
        assert self._file is not None
        self._file.write(out[:used].data)
        self._file.flush()
        if self._file.tell() > self.room // FILES:
            self._finish()

    def _begin(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._number += 1
        self._file = (self.folder / f"{stamp}-{self._number:06d}.pcapng.part").open("wb")
        self._file.write(blocks.section() + blocks.interface(self.link_type, digits=9))

    def _finish(self) -> None:
        """Give the file under way its final name, and let the oldest ones go."""
        if self._file is None:
            return
        path = Path(self._file.name)
        self._file.close()
        self._file = None
        path.rename(path.with_suffix(""))
        for old in sorted(self.folder.glob("*.pcapng"))[: -FILES + 1]:
            old.unlink()

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self.say(f"{self.name}: {trouble}; packets are lost until that ends, and counted")
