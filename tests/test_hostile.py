"""A capture full of hostile strings through every way out: table, CSV, JSON, HTML, notebook, figures, live view.

The report in a browser is in `test_report`, Wireshark in `test_extraction` and `test_profile`.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hostile
import pytest
from click.testing import CliRunner
from rich.console import Console

import classifier
from classifier import cli
from classifier.cli.screen import Screen
from classifier.result import Result

COUNTERS = dict.fromkeys(
    ("packets_received", "conversations", "packets_dropped_by_kernel", "packets_dropped_by_interface",
     "conversations_evicted", "records_not_written"), 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return hostile.write(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def result(capture: tuple[Path, Path]) -> Result:
    return classifier.classify(capture[0], inventory=capture[1], jobs=1)


def steering(text: str) -> set[str]:
    """Characters that drive a terminal, reorder text or can't be seen, but for line ends."""
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char != "\n"}


def shown(capture: tuple[Path, Path], *arguments: str) -> str:
    path, inventory = capture
    command, *rest = arguments
    words = [command, str(path), *rest, "--inventory", str(inventory), "--jobs", "1"]
    return str(CliRunner().invoke(cli.exflow, words, standalone_mode=False).stdout)


def test_the_strings_are_in_the_capture(result: Result) -> None:
    """Else nothing here could fail."""
    said = json.dumps([talk.to_dict() for talk in result])
    assert "window.owned=1" in said
    assert "\\u001b]0;owned" in said
    assert "=HYPERLINK" in said


@pytest.mark.parametrize("command", ["classify", "hosts", "endpoints", "audit"])
def test_the_terminal_is_not_driven(capture: tuple[Path, Path], command: str) -> None:
    table = shown(capture, command)
    assert len(table.splitlines()) > 2
    assert not steering(table)


@pytest.mark.parametrize("conversation", ["1", "2", "3", "20"])
def test_an_explanation_drives_nothing_either(capture: tuple[Path, Path], conversation: str) -> None:
    told = shown(capture, "explain", conversation)
    assert told.startswith(f"conversation {conversation}")
    assert not steering(told)


@pytest.mark.parametrize("command", ["classify", "hosts", "endpoints", "audit"])
def test_no_cell_of_csv_is_a_formula(capture: tuple[Path, Path], command: str) -> None:
    rows = list(csv.reader(io.StringIO(shown(capture, command, "--format", "csv"), newline="")))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) > 2
    begins = {cell.lstrip(" ")[:1] for row in rows for cell in row}
    assert not begins & set("=+-@\t\r\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH COMMERCIAL AT}")
    assert not any(steering(cell) for row in rows for cell in row)


def test_json_lines_are_lines_of_json(capture: tuple[Path, Path], result: Result) -> None:
    text = shown(capture, "classify", "--format", "jsonl")
    assert [json.loads(line)["id"] for line in text.splitlines()] == [talk.id for talk in result]
    assert not steering(text)


class Tags(HTMLParser):
    """Which elements a page has; none may have an attribute but its style."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs} - {"style"}


def test_a_notebook_shows_text_only(result: Result) -> None:
    page = result._repr_html_()
    tags = Tags()
    tags.feed(page)
    assert tags.seen <= {"p", "b", "div", "table", "tr", "th", "td"}
    assert not steering(page)


@pytest.mark.parametrize("view", [0, 1, 2], ids=["conversations", "hosts", "findings"])
def test_the_live_view_is_not_driven(result: Result, view: int) -> None:
    screen = Screen("eth0\x1b[31m")
    reports: Any = [Told(talk.to_dict()) for talk in result]
    screen.write(reports)
    screen.view, screen.filter = view, ""
    screen.say("\x1b]0;owned\x07 said")
    out = io.StringIO()
    console = Console(file=out, width=200, height=400, color_system=None, force_terminal=False)
    console.print(screen.draw(dict(COUNTERS), 400))
    text = out.getvalue()
    assert "exflow on eth0\\x1b[31m" in text
    assert "\\x1b]0;owned" in text
    assert len(text.splitlines()) > 5
    assert not steering(text)


class Told:
    """A conversation as a live report tells it, with hostile strings in every text that the view shows."""

    def __init__(self, record: dict[str, Any]) -> None:
        bad = hostile.STRINGS[record["id"] % len(hostile.STRINGS)]
        finding = {"id": "x", "severity": "high", "text": bad, "frame": 1}
        self.id = record["id"]
        self._record = record | {"event": "new", "capture_loss": 0, "data_path": bad, "findings": [finding]}

    def to_dict(self) -> dict[str, Any]:
        return self._record
