"""What a capture does not show, as far as a result can tell: paths nobody took, parts that were not captured,
protection that the packets leave open. Owns what counts as that. Must not know the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.fields import Coded, Framed, Numbers
from classifier.result import Result
from classifier.rules import ANY, ListedSignature


class Gap(NamedTuple):
    """Something that was not seen: what, and more about it."""

    what: str
    about: str


def paths(result: Result) -> list[Gap]:
    """Documented data paths between roles that hosts of the capture have, of which no conversation may be one.

    Notes that restate another path are left out.
    """
    hosts: dict[str, set[str]] = defaultdict(set)
    for row in result.host_rows:
        for role in (*row["roles"], ANY):
            hosts[role].add(row["address"])
    versions = {version for row in result.host_rows for version in row["versions"]}
    taken = _taken(result)
    return [
        Gap(path.id, f"{path.title} ({', '.join(path.client_roles)} to {', '.join(path.server_roles)})")
        for path in result.documented
        if path.id not in taken and not path.id.startswith("note-") and _possible(path, hosts, versions)
    ]


def _taken(result: Result) -> set[str]:
    column = result.columns["data_paths"]
    assert isinstance(column, Coded | Framed)
    used = np.unique(column.codes).tolist()
    return {path for code in used for path in column.values[code]}


def _possible(path: ListedSignature, hosts: dict[str, set[str]], versions: set[str]) -> bool:
    """Whether two hosts have the roles of its two ends, and one of the versions seen is one of its own."""
    sides = path.client_roles, path.server_roles
    client, server = ({address for role in side for address in hosts.get(role, ())} for side in sides)
    two = bool(client and server) and len(client | server) > 1
    return two and (not versions or not path.versions or bool(versions & set(path.versions)))


def parts(result: Result) -> list[Gap]:
    """How many conversations were captured in part, or show too little of their protection."""
    return [Gap(what, f"{count} conversation{'s' * (count != 1)}") for what, count in _parts(result) if count]


def _parts(result: Result) -> Iterator[tuple[str, int]]:
    tcp = _equal(result, "transport", "tcp")
    there, back = (_numbers(result, f"packets_to_{side}") > 0 for side in ("server", "client"))
    begun = _equal(result, "orientation", "syn") | _equal(result, "orientation", "syn-ack")
    yield "TCP connections whose beginning is not in the capture", int(np.count_nonzero(tcp & ~begun))
    yield "only one direction was captured, or the other side was silent", int(np.count_nonzero(there != back))
    yield "bytes are missing inside", int(np.count_nonzero(_numbers(result, "missed_bytes") > 0))
    yield "packets cut by the snap length", int(np.count_nonzero(_equal(result, "absence", "truncated")))
    for what in ("authentication", "encryption"):
        yield f"{what}: the packets don't show whether it is as documented", result.verdicts.get(f"{what} undecided", 0)


def _equal(result: Result, name: str, word: str) -> NDArray[np.bool_]:
    column = result.columns[name]
    assert isinstance(column, Coded)
    matching = np.array([value == word for value in column.values], np.bool_)
    return matching[column.codes] if len(matching) else np.zeros(len(column.codes), np.bool_)


def _numbers(result: Result, name: str) -> NDArray[np.int64]:
    column = result.columns[name]
    assert isinstance(column, Numbers)
    return column.values
