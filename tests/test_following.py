"""Conversations over time: a capture replayed through the live way ends in the records of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import classifier
from classifier import ended, following, limits
from classifier.assembly import Decoded, decode_batch
from classifier.conclusion import Knowledge
from classifier.following import SECOND, Follower, Pace, Report
from classifier.headers import HeaderColumns
from classifier.packets import BATCH_ROWS, PacketBatch, PacketColumns
from classifier.retirement import Timeouts
from classifier.rulebook import load
from classifier.sources import CaptureSet
from classifier.streams import SEGMENTS
from tests.bench.soak import RECORD, scanning

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.pcap*"))
HOUR = 3600 * SECOND
PATIENT = Pace(timeouts=Timeouts(24 * HOUR, limits.UDP_TIMEOUT_NS, 24 * HOUR, HOUR, 300 * SECOND))
HASTY = Pace(tick=SECOND // 10, undecided=0, review=0, timeouts=PATIENT.timeouts)


def in_pieces(batch: PacketBatch, rows: int) -> list[PacketBatch]:
    return [
        PacketBatch(batch.data, batch.columns.rows(at, at + rows), min(rows, batch.count - at))
        for at in range(0, batch.count, rows)
    ]


def replay(capture: Path, pace: Pace, rows: int = 7, in_turns: bool = False) -> tuple[list[Report], Follower]:
    """Feed a capture file to a follower, a few packets at a time. in_turns: wait for labels behind each."""
    reports: list[Report] = []
    source = CaptureSet.of([capture])
    follower = Follower(source, Knowledge(load()), reports.append, pace)
    headers = HeaderColumns.empty(BATCH_ROWS)
    for batch in source.batches():
        for piece in in_pieces(batch, rows):
            follower.add(decode_batch(piece, source.interfaces, headers, follower.assembly))
            if in_turns:
                follower._wait()
    follower.finish()
    return reports, follower


def final(reports: list[Report]) -> dict[int, dict[str, Any]]:
    """The last record of each id."""
    return {row["id"]: row for report in reports for row in (entry.to_dict() for entry in report)}


TICKETS = [path for path in CAPTURES if path.stem.startswith("ticket")]
REPLAYS = [(path, HASTY) for path in CAPTURES[::4] + TICKETS] + [(path, PATIENT) for path in CAPTURES[2::8]]


@pytest.mark.parametrize(("capture", "pace"), REPLAYS)
def test_the_last_records_are_those_of_the_file(capture: Path, pace: Pace) -> None:
    reports, _ = replay(capture, pace)
    live = final(reports)
    expected = [entry.to_dict() for entry in classifier.classify(capture)]
    assert expected
    assert {row.pop("event") for row in live.values()} == {"end"}
    assert {row.pop("capture_loss") for row in live.values()} == {0}
    assert [live[number] for number in sorted(live)] == expected


def test_an_end_is_told_once_unless_it_is_revised() -> None:
    reports, _ = replay(CAPTURES[0], HASTY)
    told: dict[int, list[str]] = {}
    for report in reports:
        for entry in report:
            told.setdefault(entry.id, []).append(entry.event)
    assert told
    for events in told.values():
        assert events[0] in ("new", "end")
        assert events[-1] == "end"
        assert "new" not in events[1:]
        assert events.count("end") == 1


# ---- bounds ----------------------------------------------------------------------------------------


def listening(pace: Pace) -> tuple[Follower, list[Report]]:
    """A follower of an Ethernet interface, and what it reports."""
    source, reports = CaptureSet([]), list[Report]()
    source.interfaces.add(1, 9)
    source.frames.open("eth")
    return Follower(source, Knowledge(load()), reports.append, pace), reports


def scanned(follower: Follower, first: int, flows: int, time: int) -> Decoded:
    """SYNs, each to another port and host, some of them refused."""
    packets = scanning(first, flows)
    rows, zeros, sizes = len(packets), np.zeros(len(packets), np.int32), np.full(len(packets), RECORD - 16, np.int32)
    offsets = RECORD * np.arange(rows) + 16
    columns = PacketColumns(offsets, sizes, sizes, np.full(rows, time), zeros, 1 + 2 * first + np.arange(rows))
    batch = PacketBatch(packets.reshape(-1), columns, rows)
    return decode_batch(batch, follower.source.interfaces, HeaderColumns.empty(rows), follower.assembly)


def test_a_scan_ends_in_counted_eviction_and_not_in_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIVE_CONVERSATIONS", 100_000)
    monkeypatch.setattr(limits, "LIVE_ENDED_SILENT", 4 * limits.MIB)
    monkeypatch.setattr(limits, "LIVE_WAITING", 32 * limits.MIB)
    follower, reports = listening(Pace())
    most = 0
    for turn in range(20):
        follower.add(scanned(follower, turn * 20_000, 20_000, SECOND + turn * 10**8))
        most = max(most, follower.table.count)
    follower.finish()
    told = sum(len(report) for report in reports)
    assert most <= 100_000
    assert follower.counts.conversations == 400_000
    assert follower.counts.evicted > 0
    assert told + follower.counts.unreported == 400_000
    assert sum(block.size for block in follower.archive._all()) <= 4 * limits.MIB
    kept = sum(block.count for block in follower.archive._all())
    assert follower.archive.forgotten == {False: 0, True: told - kept}


def test_silence_ends_a_conversation_and_a_later_packet_begins_another() -> None:
    follower, reports = listening(Pace())
    for time in (SECOND, SECOND + limits.ATTEMPT_TIMEOUT_NS + 2 * SECOND):
        follower.tick(time)
        follower.add(scanned(follower, 1, 1, time))
    follower.finish()
    assert sorted(final(reports)) == [1, 2]


HURRIED = Pace(SECOND // 10, 0, 0, Timeouts(SECOND // 2, SECOND // 2, SECOND // 2, SECOND // 10, 300 * SECOND))
"""Everything ends within a second."""


def test_a_role_holds_when_the_conversations_that_showed_it_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each conversation is forgotten within a second; what hosts are was shown early, and what they do came later."""
    monkeypatch.setattr(limits, "LIVE_ENDED", 0)
    capture = CAPTURES[0].with_name("shown-2010-rpc.pcapng")
    reports, follower = replay(capture, HURRIED, rows=3, in_turns=True)
    assert follower.archive.forgotten[False] > 50
    expected = {entry.id: entry.data_paths for entry in classifier.classify(capture)}
    live = {number: row["data_paths"] for number, row in final(reports).items()}
    late = {number: paths for number, paths in expected.items() if number > 18}
    assert len(late) > 40
    assert {number: live[number] for number in late} == late


@pytest.mark.parametrize("name", ["shown-2010-rpc.pcapng", "shown-2010-mail.pcapng", "shown-2003.pcapng"])
def test_what_is_learnt_late_revises_what_ended_long_before(name: str) -> None:
    """Everything was read at its end, and its bytes were given back; hosts and ports showed later."""
    reports, follower = replay(CAPTURES[0].with_name(name), HURRIED, rows=3, in_turns=True)
    expected = {entry.id: entry.data_paths for entry in classifier.classify(CAPTURES[0].with_name(name))}
    first: dict[int, Any] = {}
    for report in reports:
        for entry in report:
            if entry.event == "end":
                first.setdefault(entry.id, entry.data_paths)
    assert first != expected
    assert {number: row["data_paths"] for number, row in final(reports).items()} == expected
    assert not any(follower.archive.forgotten.values())


def test_what_ended_takes_a_fraction_of_its_bytes() -> None:
    """Payload is given back, and what many say is kept once."""
    _, follower = replay(CAPTURES[0].with_name("shown-2010-rpc.pcapng"), HURRIED, rows=3, in_turns=True)
    blocks = follower.archive._all()
    assert sum(block.count for block in blocks) == follower.counts.conversations
    assert sum(int(block.ended.table.store.counters[SEGMENTS]) for block in blocks) == 0
    answers = [code for block in blocks for code in block.gist.codes.tolist() if code]
    assert len(set(answers)) < len(answers)
    library = follower.archive.library
    assert library.size > 0
    for block in blocks:
        library.leave(block.gist.codes)
    assert library.size == 0


def test_readings_in_several_parts_end_in_the_same_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a few conversations are labelled at a time: the last part tells what the first ones are."""
    monkeypatch.setattr(limits, "LIVE_READ", 20)
    for module in (following, ended):
        monkeypatch.setattr(module, "BLOCK", 5)
    capture = CAPTURES[0].with_name("shown-2010-rpc.pcapng")
    reports, _ = replay(capture, HURRIED, rows=3)
    expected = {entry.id: entry.data_paths for entry in classifier.classify(capture)}
    assert len(expected) > 60
    assert {number: row["data_paths"] for number, row in final(reports).items()} == expected


def test_a_scan_displaces_nothing_that_said_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """While labels wait: silent conversations are dropped first, and counted."""
    capture = CAPTURES[0].with_name("ticket-49734.pcapng")
    expected = {entry.id for entry in classifier.classify(capture)}
    source, reports = CaptureSet.of([capture]), list[Report]()
    follower = Follower(source, Knowledge(load()), reports.append, HURRIED)
    headers = HeaderColumns.empty(BATCH_ROWS)
    follower._idle.clear()  # as if the labelling thread were busy
    for batch in source.batches():
        follower.add(decode_batch(batch, source.interfaces, headers, follower.assembly))
    end = follower._now + 10 * SECOND
    follower.tick(end)
    monkeypatch.setattr(limits, "LIVE_WAITING", sum(each.size for each in follower._waiting) + limits.MIB)
    for turn in range(5):
        follower.add(scanned(follower, turn * 20_000, 20_000, end + turn * SECOND))
    follower.tick(end + 10 * SECOND)
    follower._idle.set()
    follower.finish()
    assert follower.counts.unreported > 50_000
    assert expected <= final(reports).keys()
