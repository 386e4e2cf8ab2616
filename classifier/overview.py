"""A result at a glance, for a notebook: how much is labelled, which paths and roles, what is not, and what was found.

Owns the counts, which are made on the distinct values of columns. Must not know how a label is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.fields import Coded, Framed
from classifier.limits import OVERVIEW_ROWS
from classifier.records import html, html_table, paths_text
from classifier.result import Result

Count = tuple[str, int]
"""What, and how many."""


class Overview(NamedTuple):
    """Counts, most first. paths: conversations by data path (in short where nothing tells them apart) and certainty;
    roles: hosts by role; absences: conversations without a label by the reason; findings: by severity and id."""

    paths: list[Count]
    roles: list[Count]
    absences: list[Count]
    findings: list[Count]

    @classmethod
    def of(cls, result: Result) -> Overview:
        """Count a result."""
        return cls(
            _paths(result).most_common(),
            _roles(result).most_common(),
            _counts(result, "absence", lambda why: [why] if why else []).most_common(),
            _counts(
                result, "findings", lambda found: {f"{each['severity']}: {each['id']}" for each in found}
            ).most_common(),
        )


def _paths(result: Result) -> Counter[str]:
    """Each combination of what a label is made of is worded once."""
    columns = [_coded(result, name) for name in ("data_path", "data_paths", "protocol", "certainty")]
    codes = np.stack([column.codes for column in columns])
    counter: Counter[str] = Counter()
    for combination, count in zip(
        *(each.T.tolist() for each in np.unique(codes, axis=1, return_counts=True)), strict=True
    ):
        values = (column.values[code] for column, code in zip(columns, combination, strict=True))
        path, fitting, spoken, certainty = values
        if certainty:
            counter[f"{path or paths_text(fitting, spoken or '?')} ({certainty})"] += count
    return counter


def _roles(result: Result) -> Counter[str]:
    """Of the hosts that have a conversation here: a selection keeps the hosts of the whole run."""
    here = {
        column.values[code]
        for column in (_coded(result, side) for side in ("client_ip", "server_ip"))
        for code in np.unique(column.codes).tolist()
    }
    talking = (row["roles"] for row in result.host_rows if row["address"] in here)
    return Counter(role for roles in talking for role in roles or ["unknown"])


def names(result: Result) -> tuple[NDArray[np.int64], list[str], list[bool]]:
    """What each conversation is called in figures: codes, one each, into the names and into whether that is a label.

    A name is the data path, several of them in short where nothing tells them apart, or "none:" and the reason.
    """
    columns = [_coded(result, name) for name in ("data_path", "data_paths", "protocol", "absence")]
    if not len(result):
        return np.empty(0, np.int64), [], []
    found, codes = np.unique(np.stack([column.codes for column in columns]), axis=1, return_inverse=True)
    rows = [[column.values[code] for column, code in zip(columns, row, strict=True)] for row in found.T.tolist()]
    called = [f"none: {why}" if why else path or paths_text(paths, spoken or "?") for path, paths, spoken, why in rows]
    known = {name: place for place, name in enumerate(dict.fromkeys(called))}
    labelled = dict(zip(called, (row[-1] is None for row in rows), strict=True))
    places = np.array([known[name] for name in called], np.int64)
    return places[codes.reshape(-1)], list(known), [labelled[name] for name in known]


def _counts(result: Result, name: str, words: Callable[[Any], Iterable[str]]) -> Counter[str]:
    """How many conversations have each of the words of their value."""
    column, counter = _coded(result, name), Counter[str]()
    for value, count in zip(
        column.values, np.bincount(column.codes, minlength=len(column.values)).tolist(), strict=True
    ):
        for word in words(value) if count else ():
            counter[word] += count
    return counter


def _coded(result: Result, name: str) -> Coded | Framed:
    column = result.columns[name]
    assert isinstance(column, Coded | Framed)
    return column


_BESIDE: Final = '<div style="display:inline-block;vertical-align:top;margin-right:2em">'


def show(result: Result) -> str:
    """The overview and the first conversations as HTML, every text escaped."""
    seen, captures = Overview.of(result), len(result.inputs)
    without = sum(count for _, count in seen.absences)
    head = f"{len(result)} conversation{'s' * (len(result) != 1)} in {captures} capture{'s' * (captures != 1)}"
    tables = (
        _small(["Data path", "Conversations"], seen.paths),
        _small(["Role", "Hosts"], seen.roles),
        _small(["No label because", "Conversations"], seen.absences),
        _small(["Finding", "Conversations"], seen.findings),
    )
    lost = [
        *map(str, result.damages),
        *(f"{count} {what}" for what, count in result.shortfalls.items()),
        *result.failures,
    ]
    told = html_table(["Not read, or not kept"], [[text] for text in lost[:OVERVIEW_ROWS]]) if lost else ""
    beside = "".join(f"{_BESIDE}{each}</div>" for each in tables if each)
    return f"<p><b>{head}</b>: {len(result) - without} labelled, {without} not</p>{beside}{told}{html(result.table)}"


def _small(headings: list[str], counts: list[Count]) -> str:
    """The first counts as a table; how many kinds more there are stands below. Empty where there are none."""
    rows = [[what, str(count)] for what, count in counts[:OVERVIEW_ROWS]]
    if len(counts) > OVERVIEW_ROWS:
        rows.append([f"and {len(counts) - OVERVIEW_ROWS} more", str(sum(count for _, count in counts[OVERVIEW_ROWS:]))])
    return html_table(headings, rows) if rows else ""
