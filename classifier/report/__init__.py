"""One HTML file that shows a result to somebody else: no network needed, no string of a stranger runs in it.

Owns the page. Text goes through Jinja2's autoescape or arrives as JSON in a script element of a type that no browser
runs; the page's own script writes it with textContent only; a Content Security Policy admits that script, by its
hash, and nothing else. The only module that imports jinja2. Must not know how labels are found.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from classifier.limits import REPORT_EXPLANATIONS
from classifier.overview import Overview
from classifier.records import CONVERSATIONS, ENDPOINTS, FINDINGS, HOSTS, View, cells, json_text, safe
from classifier.result import Result, Table

_NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'"
_HERE: Final = Path(__file__).parent


def write(result: Result, out: IO[bytes]) -> None:
    """Write the report in UTF-8. Raises OSError as `out` does."""
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    script, style = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    page = environment.get_template("page.html").stream(
        policy=f"{_NOTHING}; style-src {_hash(style)}; script-src {_hash(script)}",
        script=Markup(script),
        style=Markup(style),
        conversations=len(result),
        labelled=len(result) - sum(count for _, count in Overview.of(result).absences),
        inputs=[safe(name) for name in result.inputs],
        counts=_counts(result),
        lost=[safe(text) for text in _lost(result)],
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
    return [(what, of, [(safe(name), count) for name, count in counts]) for what, of, counts in counted]


def _tables(result: Result) -> list[dict[str, Any]]:
    """Each table: its id and title, and its rows as JSON for the page's script."""
    told = [each.explain() for each in islice(result, REPORT_EXPLANATIONS)]
    listed: tuple[tuple[str, str, Table, View, list[str]], ...] = (
        ("findings", "Findings", result.finding_table, FINDINGS, []),
        ("conversations", "Conversations", result.table, CONVERSATIONS, told),
        ("hosts", "Hosts", result.host_table, HOSTS, []),
        ("endpoints", "Endpoint map", result.endpoint_table, ENDPOINTS, []),
    )
    return [{"id": name, "title": title, "data": _json(table, view, more)} for name, title, table, view, more in listed]


def _json(table: Table, view: View, more: list[str]) -> Markup:
    """Headings, rows and explanations; no character in it ends the element that it stands in."""
    rows = [row for batch in cells(table, view) for row in batch]
    text = json_text({"headings": list(view.cells), "rows": rows, "more": more})
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
