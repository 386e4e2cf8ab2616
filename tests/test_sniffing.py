"""A live session without an interface: a capture is played into it, sinks are slow or fail, and it goes on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

import classifier
from classifier import limits, sniffing
from classifier.ecs import write_ecs
from classifier.following import Report, memory_bound
from classifier.packets import PacketBatch
from classifier.pipeline import Settings
from classifier.sinks import Lines
from classifier.sniffing import Session, Sink
from classifier.sources import CaptureSet
from classifier.sources.live import LiveSource, Tap

TICKET = Path(__file__).parents[1] / "captures" / "ticket-49734.pcapng"


class Played(LiveSource):
    """A capture as if it came from an interface: its batches, then silence until it is stopped."""

    __slots__ = ("_captures",)

    def __init__(self, capture: Path) -> None:
        super().__init__(Tap("played"))
        self._captures = CaptureSet.of([capture])
        self.interfaces, self.frames = self._captures.interfaces, self._captures.frames

    def batches(self) -> Iterator[PacketBatch | None]:
        for batch in self._captures.batches(None):
            self.losses.received += batch.count
            yield batch
        while not self.stopped:
            time.sleep(0.02)
            yield None


class Kept:
    """A sink that keeps the records of every report."""

    name = "kept"

    def __init__(self) -> None:
        self.ids: set[int] = set()

    def write(self, report: Report) -> None:
        self.ids |= {entry.id for entry in report}

    def tick(self) -> None: ...

    def close(self) -> None: ...


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so (the first run on a machine compiles)."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def session(settings: Settings, sinks: list[Sink], said: list[str] | None = None) -> Session:
    return Session(Played(TICKET), settings, sinks, say=(said if said is not None else []).append)


def test_the_endpoint_map_is_saved_while_the_capture_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sniffing, "SAVE_SECONDS", 0)
    learnt = tmp_path / "map.jsonl"
    running = session(Settings(endpoint_map=learnt), [])
    running.start()
    until(learnt.exists)
    assert not running.ended(0)
    assert any(json.loads(line)["port"] == 49734 for line in learnt.read_text().splitlines())
    running.stop()
    assert running.ended(300)
    assert [path.name for path in tmp_path.iterdir()] == ["map.jsonl"]


def test_a_map_that_cannot_be_saved_is_told_once_and_nothing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sniffing, "SAVE_SECONDS", 0)
    folder = tmp_path / "gone"
    folder.mkdir()
    said: list[str] = []
    running = session(Settings(endpoint_map=folder / "map.jsonl"), [], said)
    folder.rmdir()
    running.start()
    until(lambda: said)
    running.stop()
    assert running.ended(300)
    assert running.failure is None
    assert len(said) == 1
    assert "No such file or directory" in said[0]


def test_what_nothing_revises_any_more_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIVE_ENDED", 0)
    running = session(Settings(), [])
    running.start()
    until(lambda: running.processed)
    running.stop()
    assert running.ended(300)
    assert running.counters["conversations_beyond_revision"] == len(classifier.classify(TICKET))
    assert running.counters["conversations_without_payload_beyond_revision"] == 0


def test_threads_switch_sooner_while_it_runs_and_as_before_afterwards() -> None:
    usual, kept = sys.getswitchinterval(), Kept()
    running = session(Settings(), [kept])
    running.start()
    until(lambda: kept.ids)
    meanwhile = sys.getswitchinterval()
    running.stop()
    assert running.ended(300)
    assert meanwhile < usual == sys.getswitchinterval()


def test_a_sink_that_breaks_costs_its_own_records_only() -> None:
    class Broken(Kept):
        name = "broken"

        def write(self, report: Report) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    kept, said = Kept(), list[str]()
    running = session(Settings(), [Broken(), kept], said)
    running.start()
    until(lambda: kept.ids)
    running.stop()
    assert running.ended(300)
    expected = {entry.id for entry in classifier.classify(TICKET)}
    assert kept.ids == expected
    assert running.counters["records_not_written"] >= len(expected)
    assert said == ["broken: Broken pipe; records are lost until that ends, and counted"]


def test_documents_for_a_siem_carry_event_and_loss() -> None:
    out = BytesIO()
    running = session(Settings(), [Lines(out, write_ecs)])
    running.start()
    running.stop()
    assert running.ended(300)
    documents = {each["exflow"]["id"]: each for each in map(json.loads, out.getvalue().splitlines())}.values()
    assert {each["exflow"]["event"] for each in documents} == {"end"}
    assert {each["exflow"]["capture_loss"] for each in documents} == {0}
    assert len(documents) == len(classifier.classify(TICKET))


def test_the_bound_on_memory_follows_what_is_asked_for() -> None:
    plain = memory_bound(limits.LIVE_RING, packets=False)
    assert memory_bound(2 * limits.LIVE_RING, packets=False) - plain == limits.LIVE_RING
    assert memory_bound(limits.LIVE_RING, packets=True) - plain == limits.LIVE_DELAY
