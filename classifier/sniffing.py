"""A running live capture: a source and a follower, joined by a thread that never waits for anybody.

`Session` is what the command and `classifier.sniff` share. Sinks get reports through bounded queues of their own:
a slow one loses reports, which are counted, and never holds the capture up.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from classifier import limits
from classifier.assembly import decode_batch
from classifier.conclusion import Knowledge
from classifier.endpoints import Announcement, EndpointMap
from classifier.errors import UsageError
from classifier.following import Follower, Pace, Report
from classifier.headers import HeaderColumns
from classifier.packets import BATCH_ROWS, PacketBatch
from classifier.pipeline import Settings
from classifier.result import Conversation
from classifier.sources.live import LiveSource

SAVE_SECONDS: Final = 60
"""Seconds after which the endpoint map is written again, if it has changed."""

SWITCH_SECONDS: Final = 0.0005
"""How long the capturing thread waits for one that runs Python, each time: a tenth of what the interpreter has, with
which a batch of a busy interface took longer than the next one took to come."""


class Sink(Protocol):
    """Where reports go. Its methods are called in a thread of its own; OSError is survived and counted."""

    name: str

    def write(self, report: Report) -> None:
        """Take one report."""

    def tick(self) -> None:
        """Called about once a second."""

    def close(self) -> None:
        """No more reports come."""


class Keeper(Sink, Protocol):
    """A sink that is shown every packet too. lost: packets that it could not keep."""

    lost: int

    def take(self, batch: PacketBatch, numbers: NDArray[np.int64]) -> None:
        """Look at a batch, and the conversation number of each packet, -1 for none. Must not block."""


class RecordsLostError(OSError):
    """A sink lost more than the report it was given."""

    def __init__(self, error: OSError, records: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.records = records


@dataclass(slots=True)
class Outlet:
    """A sink with its queue and thread. lost: records that it could not take; trouble: why, in words."""

    sink: Sink
    say: Callable[[str], None]
    lost: int = 0
    trouble: str = ""
    _waiting: queue.SimpleQueue[Report | None] = field(default_factory=queue.SimpleQueue)
    _records: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to serve the sink."""
        self._thread = threading.Thread(target=self._serve, name=f"exflow-{self.sink.name}", daemon=True)
        self._thread.start()

    def offer(self, report: Report) -> None:
        """Hand a report over, or count it as lost."""
        with self._lock:
            fits = self._records + len(report) <= limits.LIVE_RECORDS or not self._records
            self._records += len(report) if fits else 0
        if fits:
            self._waiting.put(report)
        else:
            self.lost += len(report)
            self._note("too slow")

    def finish(self, patience: float) -> None:
        """Let the sink write what waits, and close it; gives up after that many seconds."""
        until = time.monotonic() + patience
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(max(until - time.monotonic(), 0.1))
            if self._thread.is_alive():
                self.lost += self._records

    def _serve(self) -> None:
        while True:
            try:
                report = self._waiting.get(timeout=1)
            except queue.Empty:
                self._try(self.sink.tick, 0)
                continue
            if report is None:
                break
            if self._try(lambda: self.sink.write(report), len(report)):  # noqa: B023
                self._try(self.sink.tick, 0)
            with self._lock:
                self._records -= len(report)
        self._try(self.sink.close, 0)

    def _try(self, action: Callable[[], None], records: int) -> bool:
        try:
            action()
        except OSError as error:
            self.lost += error.records if isinstance(error, RecordsLostError) else records
            self._note(error.strerror or str(error))
            return False
        if records and self.trouble:
            self.say(f"{self.sink.name}: writing again; {self.lost} records could not be written")
            self.trouble = ""
        return True

    def _note(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self.say(f"{self.sink.name}: {trouble}; records are lost until that ends, and counted")


class Session:
    """One live capture. Raises UsageError for broken settings.

    keeper: is shown the packets, too.
    say: called with lines for the user, from any thread. count: packets after which it ends; duration: seconds.
    """

    def __init__(
        self,
        source: LiveSource,
        settings: Settings,
        sinks: list[Sink],
        *,
        duration: float | None = None,
        count: int | None = None,
        pace: Pace | None = None,
        say: Callable[[str], None] = lambda line: None,
        keeper: Keeper | None = None,
    ) -> None:
        self.source, self.settings, self.say = source, settings, say
        self.keeper = keeper
        self.outlets = [Outlet(sink, say) for sink in ([*sinks, keeper] if keeper else sinks)]
        self.duration, self.count = duration, count
        known = Knowledge.of(settings)
        self._saved: list[Announcement] | None = list(known.endpoint_map.announcements)
        self._saved_at, self._unsaved = time.monotonic(), ""
        self.follower = Follower(source, known, self._distribute, pace, self._save_now_and_then)
        self.failure: BaseException | None = None
        self.processed = 0
        self._reload = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exflow-capture", daemon=True)

    def start(self) -> None:
        """Begin to capture."""
        for outlet in self.outlets:
            outlet.start()
        self._thread.start()

    def stop(self) -> None:
        """Ask the capture to end; what was seen is still reported."""
        self.source.stopped = True

    def reload(self) -> None:
        """Ask for signatures and inventory to be read anew; broken ones are refused, the old ones kept."""
        self._reload.set()

    def ended(self, timeout: float) -> bool:
        """Wait for the end for so many seconds; True when all is reported and written."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def counters(self) -> dict[str, int]:
        """What was received, and what was lost by whom."""
        counts, losses = self.follower.counts, self.source.losses
        return {
            "packets_received": losses.received,
            "packets_dropped_by_kernel": losses.kernel,
            "packets_dropped_by_interface": losses.interface,
            "packets_without_tcp_or_udp": self.follower.table.ignored_packets,
            "conversations": counts.conversations,
            "conversations_evicted": counts.evicted,
            "conversations_unreported": counts.unreported,
            "conversations_beyond_revision": self.follower.archive.forgotten[False],
            "conversations_without_payload_beyond_revision": self.follower.archive.forgotten[True],
            "packets_not_kept": self.keeper.lost if self.keeper else 0,
            "records_not_written": sum(outlet.lost for outlet in self.outlets),
        }

    def _distribute(self, report: Report) -> None:
        for outlet in self.outlets:
            outlet.offer(report)

    def _run(self) -> None:
        """Capture to the end; whatever that was, what was seen is labelled and written."""
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, SWITCH_SECONDS))
        try:
            self._capture()
        except BaseException as error:
            self.failure = error
        try:
            self.follower.finish()
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            sys.setswitchinterval(usual)
            with contextlib.suppress(OSError):
                self.source.count_losses()
            self.source.close()
            for outlet in self.outlets:
                outlet.finish(patience=30)
            self._save(self.follower.known.endpoint_map)

    def _capture(self) -> None:
        headers, started, asked = HeaderColumns.empty(BATCH_ROWS), time.monotonic(), 0.0
        for batch in self.source.batches():
            now = time.monotonic()
            if now - asked >= 1:  # before conversations end, so that they know of the loss
                asked = now
                lost = self.source.count_losses().lost
                self.follower.tick(time.time_ns() if batch is None else 0, lost)
                if self._reload.is_set():
                    self._take_up_changes()
            if batch is not None:
                left = batch.count if self.count is None else self.count - self.processed
                if left < batch.count:
                    batch = PacketBatch(batch.data, batch.columns.rows(0, left), left)
                numbers = self.follower.add(
                    decode_batch(batch, self.source.interfaces, headers, self.follower.assembly)
                )
                if self.keeper is not None:
                    self.keeper.take(batch, numbers)
                self.processed += batch.count
            if self.duration is not None and now - started >= self.duration:
                self.stop()
            if self.count is not None and self.processed >= self.count:
                break

    def _take_up_changes(self) -> None:
        self._reload.clear()
        try:
            learnt = self.follower.known.endpoint_map
            self.follower.known = replace(Knowledge.of(replace(self.settings, endpoint_map=None)), endpoint_map=learnt)
            self.say("signatures and inventory were read again")
        except UsageError as error:
            self.say(f"refused, the old ones stay in use: {error}")

    def _save_now_and_then(self, endpoint_map: EndpointMap) -> None:
        """Once a minute, so that a run that is killed leaves what it learnt."""
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self._saved_at = time.monotonic()
            self._save(endpoint_map)

    def _save(self, endpoint_map: EndpointMap) -> None:
        if self.settings.endpoint_map is None or endpoint_map.announcements == self._saved:
            return
        try:
            endpoint_map.save(self.settings.endpoint_map)
            self._saved, self._unsaved = list(endpoint_map.announcements), ""
        except OSError as error:
            if self._unsaved != str(error):
                self._unsaved = str(error)
                self.say(f"endpoint map {self.settings.endpoint_map}: {error.strerror}; it is tried again each minute")


class Handover:
    """A sink that a generator reads from."""

    name = "generator"

    def __init__(self) -> None:
        self.reports: queue.Queue[Report] = queue.Queue(1)
        self.left = False

    def write(self, report: Report) -> None:
        """Keep a report until the reader takes it, or has left."""
        while not self.left:
            with contextlib.suppress(queue.Full):
                self.reports.put(report, timeout=0.2)
                return

    def tick(self) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """Nothing is open."""


def conversations(session: Session, handover: Handover) -> Iterator[Conversation]:
    """Yield what a session reports, until it ends. Leaving the loop stops the capture."""
    session.start()
    try:
        while not (session.ended(0) and handover.reports.empty()):
            try:
                yield from handover.reports.get(timeout=0.2)
            except queue.Empty:
                continue
        if session.failure is not None:
            raise session.failure
    finally:
        handover.left = True
        session.stop()
        session.ended(60)
