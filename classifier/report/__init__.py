"""One HTML file that shows a result to somebody else: no network needed, no string of a stranger runs in it.

Owns the page. Text goes through Jinja2's autoescape or arrives as JSON in a script element of a type that no browser
runs; the page's own script writes it with textContent only; figures are images inside the file. A Content Security
Policy admits those and that script, by its hash, and nothing else. The only module that imports jinja2. Must not know
how labels are found.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from classifier.figures import host_map, timeline
from classifier.limits import OVERVIEW_ROWS, REPORT_EXPLANATIONS, UNSEEN_PATHS
from classifier.overview import Overview
from classifier.records import CONVERSATIONS, ENDPOINTS, FINDINGS, HOSTS, View, cells, json_text, safe
from classifier.report import unseen
from classifier.result import Result, Table

_NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'"
_HERE: Final = Path(__file__).parent


def write(result: Result, out: IO[bytes]) -> None:
    """Write the report in UTF-8. Raises OSError as `out` does."""
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    script, style = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    page = environment.get_template("page.html").stream(
        policy=f"{_NOTHING}; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        script=Markup(script),
        style=Markup(style),
        conversations=len(result),
        labelled=len(result) - sum(count for _, count in Overview.of(result).absences),
        inputs=[safe(name) for name in result.inputs],
        counts=_counts(result),
        pictures=_pictures(result),
        unseen=_unseen(result),
        explained=min(len(result), REPORT_EXPLANATIONS),
        tables=_tables(result),
    )
    page.dump(out, encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _lost(result: Result) -> Iterable[str]:
    """What was not read or not kept."""
    yield from map(str, result.damages)
    yield from (f"{count} {what}" for what, count in result.shortfalls.items())
    yield from result.failures


def _counts(result: Result) -> list[tuple[str, str, list[tuple[str, int]]]]:
    seen = Overview.of(result)
    counted = (
        ("Data path", "Conversations", seen.paths),
        ("Role", "Hosts", seen.roles),
        ("No label because", "Conversations", seen.absences),
        ("Finding", "Conversations", seen.findings),
    )
    return [(what, of, [(safe(name), count) for name, count in _shortened(counts)]) for what, of, counts in counted]


def _shortened(counts: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first lines, and one for the others."""
    rest = counts[OVERVIEW_ROWS:]
    more = [(f"and {len(rest)} more", sum(count for _, count in rest))] if rest else []
    return counts[:OVERVIEW_ROWS] + more


def _pictures(result: Result) -> list[tuple[str, str, str]]:
    """Title, address and description of each figure. An image can hold no script that runs, nor load anything."""
    drawn = (
        ("Hosts and data paths", host_map, "Map of hosts and roles; the tables below say the same in words."),
        ("Over time", timeline, "When conversations of each data path began and ended."),
    )
    return [
        (title, f"data:image/svg+xml;base64,{base64.b64encode(draw(result).svg()).decode()}", words)
        for title, draw, words in drawn
        if len(result)
    ]


def _unseen(result: Result) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings, and lines of two texts below each."""
    paths, parts = unseen.paths(result), unseen.parts(result)
    left = len(paths) - UNSEEN_PATHS
    more = [unseen.Gap(f"and {left} more", "exflow signatures list")] if left > 0 else []
    listed = (
        ("Not read, or not kept", [unseen.Gap(text, "") for text in _lost(result)]),
        ("Captured in part", parts),
        ("Documented between roles that are here, and not seen", paths[:UNSEEN_PATHS] + more),
    )
    return [(title, [(safe(gap.what), safe(gap.about)) for gap in gaps]) for title, gaps in listed if gaps]


def _tables(result: Result) -> list[dict[str, Any]]:
    """Each table: its id and title, and its rows as JSON for the page's script."""
    explained = [each.explain() for each in islice(result, REPORT_EXPLANATIONS)]
    manuals = {rule.id: rule.manual for rule in result.rules}
    findings = result.finding_table
    found = [str(row["id"]) for row in map(findings.row, range(len(findings)))]
    ids = sorted(set(found) & set(manuals))
    pages = [safe_lines(manuals[each]) for each in ids]
    page_of = [ids.index(each) if each in manuals else None for each in found]
    listed = (
        ("findings", "Findings", findings, _json(findings, FINDINGS, pages, page_of)),
        ("conversations", "Conversations", result.table,
         _json(result.table, CONVERSATIONS, explained, list(range(len(explained))))),
        ("hosts", "Hosts", result.host_table, _json(result.host_table, HOSTS)),
        ("endpoints", "Endpoint map", result.endpoint_table, _json(result.endpoint_table, ENDPOINTS)),
    )  # fmt: skip
    return [{"id": name, "title": title, "rows": len(table), "data": data} for name, title, table, data in listed]


def safe_lines(text: str) -> str:
    """A text of several lines, each safe to show."""
    return "\n".join(map(safe, text.splitlines()))


def _json(table: Table, view: View, more: Sequence[str] = (), more_of: Sequence[int | None] = ()) -> Markup:
    """Headings, rows, and texts with which of them explains each row; nothing in it ends the element around it."""
    rows = [row for batch in cells(table, view) for row in batch]
    text = json_text({"headings": list(view.cells), "rows": rows, "more": more, "moreOf": more_of})
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
