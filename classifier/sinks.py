"""Where the reports of a live capture go: JSON lines or ECS, Parquet by the hour, figures for Prometheus.

A file is written under a name that ends in `.part` and renamed when it is whole, so that what has its final name
can be read even after the machine lost its power. Errors are OSErrors and the caller's matter.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Final

from classifier.following import Report
from classifier.records import write_jsonl
from classifier.result import Table
from classifier.sniffing import RecordsLostError

PARQUET_SECONDS: Final = 60
"""How long records wait in memory for the next Parquet file; so much is lost by SIGKILL."""

PARQUET_WAITING: Final = 50_000
"""Records in memory that make the next Parquet file due."""


Dialect = Callable[[Table, IO[bytes]], None]
"""Writes the rows of a table, one a line: `records.write_jsonl`, `ecs.write_ecs`."""


class Lines:
    """Records, one a line, to a stream that is open already. dialect: how they are written."""

    name = "standard output"

    def __init__(self, out: IO[bytes], dialect: Dialect = write_jsonl) -> None:
        self.out, self.dialect = out, dialect

    def write(self, report: Report) -> None:
        """Write the records, one a line."""
        self.dialect(report.table, self.out)
        self.out.flush()

    def tick(self) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """The stream is its owner's."""


class LineFiles:
    """Records, one a line, to files that are exchanged for a new one after so many seconds.

    The file under way is `OUT.part`; a finished one has its time before the suffix: `out-20260102T030405Z.jsonl`.
    Without rotation (0) there is one file, OUT itself, which is appended to.
    """

    def __init__(self, out: Path, seconds: float, dialect: Dialect = write_jsonl) -> None:
        self.name, self.out, self.seconds, self.dialect = str(out), out, seconds, dialect
        self._part = out.with_name(out.name + ".part") if seconds else out
        self._began = time.monotonic()
        self._file: IO[bytes] | None = None
        if seconds and self._part.exists():  # of a run that was killed: what is in it is kept
            self._rename()

    def write(self, report: Report) -> None:
        """Append the records. After an error the rest of a torn line is cut off."""
        if self._file is None:
            self._file = self._part.open("ab", buffering=0)
            self._began = time.monotonic()
        before = self._file.seek(0, os.SEEK_END)
        try:
            self.dialect(report.table, _Whole(self._file))  # type: ignore[arg-type]
        except OSError:
            self._file.truncate(before)
            raise

    def tick(self) -> None:
        """Exchange the file if its time has come."""
        if self.seconds and self._file is not None and time.monotonic() - self._began >= self.seconds:
            self.close()

    def close(self) -> None:
        """Give the file under way its final name."""
        if self._file is not None:
            self._file.close()
            self._file = None
            if self.seconds:
                self._rename()

    def _rename(self) -> None:
        self._part.rename(_unused(self.out.with_name(f"{self.out.stem}-{_stamp()}{self.out.suffix}")))


class _Whole:
    """A raw file that writes all it is given: it may take a part of it only when the disk is nearly full."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, data: memoryview) -> int:
        """Write all of it, or raise OSError."""
        view = memoryview(data).cast("B")
        while len(view):
            view = view[self.file.write(view) :]
        return len(data)


class ParquetHours:
    """Parquet files in a folder for each hour (`hour=20260102T03/`), a whole new file every minute."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = str(folder), folder
        self._waiting: list[Report] = []
        self._began = time.monotonic()

    def write(self, report: Report) -> None:
        """Take records in, and write a file when there are many."""
        self._waiting.append(report)
        if sum(map(len, self._waiting)) >= PARQUET_WAITING:
            self._flush()

    def tick(self) -> None:
        """Write a file if the time has come."""
        if time.monotonic() - self._began >= PARQUET_SECONDS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()

    def _flush(self) -> None:
        from classifier.arrow import write_tables

        waiting, self._waiting, self._began = self._waiting, [], time.monotonic()
        if not waiting:
            return
        target = _unused(self.folder / f"hour={_stamp()[:11]}" / f"{_stamp()}.parquet")
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                write_tables([report.table for report in waiting], file)
            part.rename(target)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise RecordsLostError(error, sum(map(len, waiting))) from error


class Metrics:
    """Counters for Prometheus (text exposition format 0.0.4) on the loopback interface."""

    def __init__(self, port: int, counters: Callable[[], dict[str, int]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answer with the counters as they are now."""
                body = "".join(
                    f"# TYPE exflow_{name}_total counter\nexflow_{name}_total {number}\n"
                    for name, number in counters().items()
                ).encode()
                self.send_response(200 if self.path in ("/", "/metrics") else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing of requests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, name="exflow-metrics", daemon=True).start()


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def _unused(path: Path) -> Path:
    """The path, or one with a number where it is taken."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate
