"""A result at a glance: its counts against pandas, and strangers' strings in it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import samples
from shipped import result_of

import classifier
from classifier import limits
from classifier.fields import Coded
from classifier.overview import Overview, show
from classifier.records import paths_text
from classifier.result import Result

CAPTURES = Path(__file__).parents[1] / "captures"


class Page(HTMLParser):
    """Tags and attributes that a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.fixture(scope="module")
def ticket() -> Result:
    path = CAPTURES / "ticket-49734.pcapng"
    return classifier.classify(path, inventory=path.with_suffix(".inventory.toml"), jobs=1)


def test_counts_are_those_of_the_frame(ticket: Result) -> None:
    for result in (ticket, samples.result(500)):
        seen, frame = Overview.of(result), result.to_pandas()
        labelled = frame[frame.certainty.notna()]
        told = labelled[["data_path", "data_paths", "protocol"]].itertuples(index=False)
        names = [path if isinstance(path, str) else paths_text(fitting, spoken if isinstance(spoken, str) else "?")
                 for path, fitting, spoken in told]  # fmt: skip
        counted = (labelled.assign(name=names).name + " (" + labelled.certainty.astype(str) + ")").value_counts()
        assert dict(seen.paths) == counted.to_dict()
        assert dict(seen.absences) == frame.absence.dropna().astype(str).value_counts().to_dict()
    assert dict(Overview.of(ticket).roles)["mailbox"] == sum("mailbox" in row for row in ticket.hosts().roles)


def test_a_selection_counts_its_own_hosts(ticket: Result) -> None:
    assert dict(Overview.of(ticket.select(port=49734)).roles) == {"client-access": 1, "mailbox": 1}
    assert "1 conversation in 1 capture" in Page(ticket.select(port=49734)._repr_html_()).cells


def test_a_finding_counts_once_for_a_conversation() -> None:
    weak = {"id": "weak", "severity": "high", "text": "x", "frame": 3}
    result = samples.result(3, findings=Coded(np.array([0, 1, 1], np.int32), [[], [weak, weak]]))
    assert Overview.of(result).findings == [("high: weak", 2)]


def test_it_says_what_is_there_before_any_code(ticket: Result) -> None:
    cells = Page(ticket._repr_html_()).cells
    assert "25 conversations in 1 capture" in cells
    assert {"cas-to-mailbox (certain)", "Data path", "Role", "mailbox"} <= set(cells)
    assert "trace.pcapng: byte 4711: record cut short: 40 bytes of 60" in Page(samples.result(1)._repr_html_()).cells


def test_nothing_at_all_is_shown_too() -> None:
    assert "0 conversations in 0 captures" in show(Result.empty())


def test_more_than_its_lines_is_summed_up() -> None:
    names = [f"path-{number}" for number in range(limits.OVERVIEW_ROWS + 3)]
    rows = len(names)
    result = samples.result(rows, data_path=Coded(np.arange(rows, dtype=np.int32), list(names)),
                            data_paths=Coded(np.zeros(rows, np.int32), [[]]))  # fmt: skip
    kinds = len(Overview.of(result).paths)
    assert kinds >= rows
    assert f"and {kinds - limits.OVERVIEW_ROWS} more" in Page(show(result)).cells


def test_hostile_strings_stay_text() -> None:
    for result in (samples.hostile(), result_of("hostile-strings")):
        page = Page(result._repr_html_())
        assert page.tags == {"p", "b", "div", "table", "tr", "th", "td"}
        assert page.attributes == {"style"}
        assert all(cell.isprintable() for cell in page.cells)
