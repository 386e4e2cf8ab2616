"""A capture full of hostile strings through every way out: table, CSV, JSON, HTML, notebook, figures, live view.

The report in a browser is in `test_report`, Wireshark in `test_extraction` and `test_profile`.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from html.parser import HTMLParser
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from shipped import CAPTURES, result_of

from captures.makers.hostile import SCRIPT, STRINGS
from classifier import cli
from classifier.cli.screen import Screen
from classifier.result import Result

COUNTERS = dict.fromkeys(
    ("packets_received", "conversations", "packets_dropped_by_kernel", "packets_dropped_by_interface",
     "conversations_evicted", "records_not_written"), 0,
)  # fmt: skip


CAPTURE, INVENTORY = CAPTURES / "hostile-strings.pcap", CAPTURES / "hostile-strings.inventory.toml"


@pytest.fixture(scope="module")
def result() -> Result:
    return result_of("hostile-strings")


def steering(text: str) -> set[str]:
    """Characters that drive a terminal, reorder text or can't be seen, but for line ends."""
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char != "\n"}


def shown(command: str, *arguments: str) -> str:
    words = [command, str(CAPTURE), *arguments, "--inventory", str(INVENTORY), "--jobs", "1"]
    return str(CliRunner().invoke(cli.exflow, words, standalone_mode=False).stdout)


def test_the_strings_are_in_the_capture(result: Result) -> None:
    """Else nothing here could fail."""
    said = json.dumps([talk.to_dict() for talk in result])
    assert "window.owned=1" in said
    assert any(each["field"] == "ntlm.user" and each["value"] == SCRIPT for talk in result for each in talk.evidence)
    assert "\\u001b]0;owned" in said
    assert "=HYPERLINK" in said


@pytest.mark.parametrize("command", ["classify", "hosts", "endpoints", "audit"])
def test_the_terminal_is_not_driven(command: str) -> None:
    table = shown(command)
    assert len(table.splitlines()) > 2
    assert not steering(table)


@pytest.mark.parametrize("conversation", ["1", "2", "3", "20"])
def test_an_explanation_drives_nothing_either(conversation: str) -> None:
    told = shown("explain", conversation)
    assert told.startswith(f"conversation {conversation}")
    assert not steering(told)


@pytest.mark.parametrize("command", ["classify", "hosts", "endpoints", "audit"])
def test_no_cell_of_csv_is_a_formula(command: str) -> None:
    rows = list(csv.reader(io.StringIO(shown(command, "--format", "csv"), newline="")))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) > 2
    begins = {cell.lstrip(" ")[:1] for row in rows for cell in row}
    assert not begins & set("=+-@\t\r\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH COMMERCIAL AT}")
    assert not any(steering(cell) for row in rows for cell in row)


def test_json_lines_are_lines_of_json(result: Result) -> None:
    text = shown("classify", "--format", "jsonl")
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
        bad = STRINGS[record["id"] % len(STRINGS)]
        finding = {"id": "x", "severity": "high", "text": bad, "frame": 1}
        self.id = record["id"]
        self._record = record | {"event": "new", "capture_loss": 0, "data_path": bad, "findings": [finding]}

    def to_dict(self) -> dict[str, Any]:
        return self._record
