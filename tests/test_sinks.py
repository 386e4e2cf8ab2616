"""Files of a live capture: whole whatever happens, and what could not be written is counted."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest

import classifier
from classifier import limits, sinks
from classifier.fields import LIVE_FIELDS, Coded, Numbers
from classifier.following import Report
from classifier.result import Table
from classifier.sniffing import Outlet

TICKET = Path(__file__).parents[1] / "captures" / "ticket-49734.pcapng"


@pytest.fixture(scope="module")
def report() -> Report:
    import numpy as np

    table = classifier.classify(TICKET).table
    nothing = np.zeros(len(table), np.int64)
    more = {"event": Coded(nothing.astype(np.int32), ["new"]), "capture_loss": Numbers(nothing)}
    return Report(Table((*table.fields, *LIVE_FIELDS), {**table.columns, **more}))


def ids(path: Path) -> list[int]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_a_file_under_way_has_another_name_until_it_is_whole(report: Report, tmp_path: Path) -> None:
    sink = sinks.LineFiles(tmp_path / "out.jsonl", 3600)
    sink.write(report)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.part"]
    sink.close()
    sink.write(report)
    sink.close()
    finished = sorted(tmp_path.iterdir())
    assert len(finished) == 2
    assert all(path.name.startswith("out-") and path.suffix == ".jsonl" for path in finished)
    assert [ids(path) for path in finished] == [list(range(1, len(report) + 1))] * 2


def test_what_a_killed_run_left_is_kept(report: Report, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.part").write_text('{"id":7}\n')
    sinks.LineFiles(tmp_path / "out.jsonl", 3600)
    [kept] = tmp_path.iterdir()
    assert ids(kept) == [7]


def test_parquet_by_the_hour(report: Report, tmp_path: Path) -> None:
    sink = sinks.ParquetHours(tmp_path)
    sink.write(report)
    sink.write(report)
    sink.close()
    [file] = tmp_path.rglob("*.parquet")
    assert file.parent.name.startswith("hour=")
    table = pq.ParquetFile(file).read()
    assert table.num_rows == 2 * len(report)
    assert table.column("event").to_pylist() == ["new"] * table.num_rows


def test_a_full_disk_is_counted_and_leaves_whole_lines(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sink = sinks.LineFiles(tmp_path / "out.jsonl", 0)
    sink.write(report)
    before = ids(tmp_path / "out.jsonl")

    def half(file: IO[bytes], data: memoryview) -> None:
        file.write(bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks._Whole, "write", lambda self, data: half(self.file, data))
    outlet = Outlet(sink, said.append)
    outlet.start()
    outlet.offer(report)
    outlet.finish(10)
    assert outlet.lost == len(report)
    assert "No space left on device" in said[0]
    assert ids(tmp_path / "out.jsonl") == before


def test_a_lost_parquet_file_counts_all_that_was_in_it(report: Report, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    outlet = Outlet(sinks.ParquetHours(tmp_path / "taken"), lambda line: None)
    outlet.start()
    outlet.offer(report)
    outlet.offer(report)
    outlet.finish(10)
    assert outlet.lost == 2 * len(report)


def test_a_slow_sink_holds_nobody_up(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIVE_RECORDS", 3 * len(report))
    go_on = threading.Event()

    class Slow:
        name = "slow"

        def write(self, report: Report) -> None:
            go_on.wait(10)

        def tick(self) -> None: ...

        def close(self) -> None: ...

    said: list[str] = []
    outlet = Outlet(Slow(), said.append)
    outlet.start()
    for _ in range(10):
        outlet.offer(report)
    go_on.set()
    outlet.finish(10)
    assert outlet.lost in (7 * len(report), 8 * len(report))
    assert "too slow" in said[0]


def test_figures_for_prometheus_are_on_the_loopback_interface_only() -> None:
    metrics = sinks.Metrics(0, lambda: {"packets_received": 7})
    host, port = metrics.server.server_address[:2]
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert "exflow_packets_received_total 7\n" in answer.read().decode()
    metrics.server.shutdown()
    metrics.server.server_close()
