"""Conversations over time: a capture replayed through the live way ends in the records of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import classifier
from classifier import limits, pipeline
from classifier.endpoints import EndpointMap
from classifier.following import SECOND, Follower, Pace, Report
from classifier.headers import HeaderColumns
from classifier.hosts import Inventory
from classifier.packets import BATCH_ROWS, PacketBatch
from classifier.retirement import Timeouts
from classifier.rulebook import load
from classifier.sources import CaptureSet

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.pcap*"))
HOUR = 3600 * SECOND
PATIENT = Pace(timeouts=Timeouts(24 * HOUR, limits.UDP_TIMEOUT_NS, 24 * HOUR, HOUR, 300 * SECOND))
HASTY = Pace(tick=SECOND // 10, undecided=0, review=0, timeouts=PATIENT.timeouts)


def in_pieces(batch: PacketBatch, rows: int) -> list[PacketBatch]:
    return [
        PacketBatch(batch.data, batch.columns.rows(at, at + rows), min(rows, batch.count - at), batch.first_frame + at)
        for at in range(0, batch.count, rows)
    ]


def replay(capture: Path, pace: Pace, rows: int = 7) -> tuple[list[Report], Follower]:
    """Feed a capture file to a follower, a few packets at a time."""
    reports: list[Report] = []
    source = CaptureSet.of([capture])
    follower = Follower(source, load(), Inventory(), EndpointMap(), reports.append, pace)
    headers = HeaderColumns.empty(BATCH_ROWS)
    for batch in source.batches():
        for piece in in_pieces(batch, rows):
            follower.add(pipeline.decode_batch(piece, source.interfaces, headers, follower.assembly))
    follower.finish()
    return reports, follower


def final(reports: list[Report]) -> dict[int, dict[str, Any]]:
    """The last record of each id."""
    return {row["id"]: row for report in reports for row in (entry.to_dict() for entry in report)}


@pytest.mark.parametrize("pace", [PATIENT, HASTY], ids=["patient", "hasty"])
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
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
