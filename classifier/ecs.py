"""Conversations and findings in the Elastic Common Schema, one JSON document a line, for a SIEM.

Owns which column is which field of the schema. What the schema has no field for stands under `exflow`, with the
name that it has in the records. client and server are `source` and `destination`; a field without a value is null.

Source: Elastic Common Schema reference 9.4 (base, ecs, event, network, source, destination, rule and tls fields; the
values allowed for event.kind, category and type).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import IO, Any, Final

import numpy as np

from classifier.fields import NO_TIME, Coded, Column, Numbers, Times
from classifier.records import json_dialect, json_text
from classifier.result import Table

VERSION: Final = "9.4.0"

CONSTANTS: Final = {
    "ecs.version": VERSION,
    "event.kind": "event",
    "event.category": ["network"],
    "event.type": ["connection"],
    "event.module": "exflow",
    "event.dataset": "exflow.conversation",
}

RENAMED: Final = {
    "event.start": "start",
    "event.end": "end",
    "network.transport": "transport",
    "network.protocol": "protocol",
    "network.community_id": "community_id",
    "source.ip": "client_ip",
    "source.port": "client_port",
    "source.packets": "packets_to_server",
    "source.bytes": "bytes_to_server",
    "destination.ip": "server_ip",
    "destination.port": "server_port",
    "destination.packets": "packets_to_client",
    "destination.bytes": "bytes_to_client",
    "tls.client.server_name": "tls_sni",
}
"""Fields of the schema that are a column as it stands."""


FINDING_CONSTANTS: Final = CONSTANTS | {
    "event.kind": "alert", "event.type": ["info"], "event.dataset": "exflow.finding",
}  # fmt: skip

FINDING_RENAMED: Final = {
    "event.start": "start",
    "event.reason": "reason",
    "message": "text",
    "network.transport": "transport",
    "network.community_id": "community_id",
    "rule.id": "id",
    "source.ip": "client_ip",
    "source.port": "client_port",
    "destination.ip": "server_ip",
    "destination.port": "server_port",
}

SEVERITIES: Final = {"info": 10, "low": 30, "medium": 50, "high": 70, "critical": 90}
"""event.severity, which each source may number as it likes: higher is worse."""


def write_ecs(table: Table, out: IO[bytes]) -> None:
    """Write each conversation as one document in UTF-8. Raises OSError as `out` does."""
    _write(dict(_documents(table.columns)), out)


def write_ecs_findings(table: Table, out: IO[bytes]) -> None:
    """Write each finding (rows of `fields.FINDING_FIELDS`) as one document in UTF-8. Raises OSError as `out` does."""
    if len(table):
        _write(dict(_finding_documents(table.columns, len(table))), out)


def _finding_documents(columns: Mapping[str, Column], rows: int) -> Iterator[tuple[str, Column]]:
    fields = _constants(FINDING_CONSTANTS, rows) | {name: columns[column] for name, column in FINDING_RENAMED.items()}
    severity = columns["severity"]
    assert isinstance(severity, Coded)
    fields["event.severity"] = Coded(severity.codes, [SEVERITIES[word] for word in severity.values])
    fields |= {f"exflow.{name}": column for name, column in columns.items() if name not in FINDING_RENAMED.values()}
    yield "@timestamp", columns["start"]
    yield from _together(fields)


def _constants(values: Mapping[str, Any], rows: int) -> dict[str, Column]:
    return {name: Coded(np.zeros(rows, np.int32), [value]) for name, value in values.items()}


def _together(fields: Mapping[str, Column]) -> list[tuple[str, Column]]:
    """Fields of one object side by side."""
    return sorted(fields.items(), key=lambda item: item[0].split(".")[:-1])


def _write(documents: Mapping[str, Column], out: IO[bytes]) -> None:
    """Write documents, given by column for each dotted name, those of one object side by side."""
    from classifier.lines import render

    names = list(documents)
    before = dict(zip(names, _openings(names), strict=True))
    last = names[-1].count(".")
    dialect = json_dialect()._replace(before=lambda name, _: before[name], end="}" * (last + 1) + "\n")
    for text in render(documents, dialect):
        out.write(text)


def _documents(columns: Mapping[str, Column]) -> Iterator[tuple[str, Column]]:
    """Every field by its dotted name; fields of one object stand together."""
    rows = len(_numbers(columns["id"]))
    fields = _constants(CONSTANTS, rows) | {name: columns[column] for name, column in RENAMED.items()}
    fields["event.duration"] = _duration(columns["start"], columns["end"])
    fields["network.type"] = _mapped(columns["client_ip"], lambda text: f"ipv{ipaddress.ip_address(text).version}")
    for what in ("packets", "bytes"):
        both = (_numbers(columns[f"{what}_to_{side}"]) for side in ("server", "client"))
        fields[f"network.{what}"] = Numbers(sum(both, np.zeros(rows, np.int64)))
    fields["tls.version"] = _mapped(columns["tls_version"], lambda text: text.lstrip("TLSv"))
    fields["tls.version_protocol"] = _mapped(columns["tls_version"], lambda text: "ssl" if "SSL" in text else "tls")
    own = {*RENAMED.values(), "tls_version"}
    fields |= {f"exflow.{name}": column for name, column in columns.items() if name not in own}
    yield "@timestamp", columns["start"]
    yield from _together(fields)


def _numbers(column: Column) -> np.ndarray[Any, np.dtype[np.int64]]:
    assert isinstance(column, Numbers)
    return column.values


def _duration(start: Column, end: Column) -> Coded | Numbers:
    """Nanoseconds, as the schema asks; nothing where the capture has no time."""
    assert isinstance(start, Times)
    assert isinstance(end, Times)
    known = (start.ns != NO_TIME) & (end.ns != NO_TIME)
    return Numbers(np.where(known, end.ns - start.ns, 0))


def _mapped(column: Column, word: Callable[[str], str]) -> Coded:
    """The same column with other words; null stays null."""
    assert isinstance(column, Coded)
    return Coded(column.codes, [None if value is None else word(value) for value in column.values])


def _openings(names: Sequence[str]) -> Iterator[str]:
    """What stands in front of each field's value: objects that end, a comma, objects that begin, the key."""
    path: list[str] = []
    for number, name in enumerate(names):
        *parents, key = name.split(".")
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(path, parents, strict=False))))
        begun = "".join(f"{json_text(parent)}:{{" for parent in parents[shared:])
        comma = "," if number else "{"
        yield f"{'}' * (len(path) - shared)}{comma}{begun}{json_text(key)}:"
        path = parents
