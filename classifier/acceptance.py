"""Findings that a user lives with: which ones, why, and until when.

Owns the file of `audit --accept` and what it covers. Must not know how findings come about or are shown.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final, NamedTuple

from classifier.errors import UsageError, hint
from classifier.hosts import Network
from classifier.toml_files import read_tables

_KEYS: Final = ("finding", "reason", "expires", "client", "server", "port", "data-path")


class Acceptance(NamedTuple):
    """Findings of one kind that are accepted, of all conversations or of those between hosts and at a port.

    expires: the last day on which it holds. port: of the server; 0 for any. path: a data path; "" for any.
    """

    finding: str
    reason: str
    expires: date
    client: Network | None = None
    server: Network | None = None
    port: int = 0
    path: str = ""

    def holds(self, today: date) -> bool:
        """Whether it has not expired."""
        return today <= self.expires

    def covers(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of `fields.FINDING_FIELDS` is meant."""
        return (
            row["id"] == self.finding
            and self.port in (0, row["server_port"])
            and (not self.path or self.path in row["data_paths"])
            and all(
                network is None or ipaddress.ip_address(row[f"{side}_ip"]) in network
                for side, network in (("client", self.client), ("server", self.server))
            )
        )

    def __str__(self) -> str:
        named = {"client": self.client, "server": self.server, "port": self.port, "data path": self.path}
        return " ".join([self.finding, *(f"{name} {value}" for name, value in named.items() if value)])


def load_acceptances(path: Path, known: frozenset[str]) -> tuple[Acceptance, ...]:
    """Read a file of accepted findings (TOML, tables `[[accept]]`). known: ids of findings that there are.

    finding, reason and expires (a date) are needed; client, server (address or network), port and data-path narrow it.
    Raises UsageError with every mistake in it.
    """
    tables, others = read_tables(path, "accepted findings", "accept")
    issues = [f"unknown key {key!r}; write [[accept]]" for key in others]
    entries = []
    for number, table in enumerate(tables, 1):
        problems = [f"accept {number}: {problem}" for problem in _problems(table, known)]
        issues += problems
        if not problems:
            entries.append(_entry(table))
    if issues:
        raise UsageError("\n".join(f"accepted findings {path}: {issue}" for issue in issues))
    return tuple(entries)


def _problems(table: Any, known: frozenset[str]) -> Iterator[str]:
    if not isinstance(table, dict):
        yield "not a table"
        return
    yield from (f"unknown key {key!r}{hint(key, _KEYS)}" for key in table if key not in _KEYS)
    for key in ("finding", "reason"):
        if not isinstance(table.get(key), str) or not table[key].strip():
            yield f"{key} is missing"
    name = table.get("finding")
    if isinstance(name, str) and name and name not in known:
        yield f"unknown finding {name!r}{hint(name, sorted(known))}"
    if type(table.get("expires")) is not date:
        yield "expires is missing; write a date such as 2027-06-30"
    for key in ("client", "server"):
        try:
            _network(table.get(key))
        except ValueError as error:
            yield f"{key}: {error}"
    port, path = table.get("port", 0), table.get("data-path", "")
    if type(port) is not int or not 0 <= port <= 65_535:
        yield f"port {port!r} is no port"
    if not isinstance(path, str):
        yield f"data-path {path!r} is no text"


def _entry(table: Mapping[str, Any]) -> Acceptance:
    sides = _network(table.get("client")), _network(table.get("server"))
    return Acceptance(
        table["finding"], table["reason"], table["expires"], *sides, table.get("port", 0), table.get("data-path", "")
    )


def _network(value: Any) -> Network | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return ipaddress.ip_network(value, strict=False)
