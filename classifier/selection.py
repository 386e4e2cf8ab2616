"""Which conversations of a result are meant: by data path, role, host, certainty, time and so on.

Owns the conditions (`CONDITIONS`) and their meaning, which `Result.select` and the command share. Each is
answered on the distinct values of a column and then spread over the rows, so that a large result costs no more
than a small one with the same variety. Must not know who asks, nor what is done with the rows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from classifier.errors import UsageError, hint
from classifier.fields import Coded, Column, Framed, Numbers, Texts, Times

if TYPE_CHECKING:
    from classifier.result import Result

Rows = NDArray[np.bool_]
"""bool, one per conversation: whether a condition holds."""


def chosen(result: Result, conditions: Mapping[str, Any]) -> Rows:
    """The conversations for which every condition holds; a list of values holds where one of them does.

    A condition that is None asks for nothing. Raises UsageError for an unknown condition and for a value that
    can't be meant (an unknown role, a time that is none).
    """
    held = np.ones(len(result), np.bool_)
    for name, wanted in conditions.items():
        if name not in CONDITIONS:
            raise UsageError(f"no condition {name!r}, there are {', '.join(CONDITIONS)}{hint(name, CONDITIONS)}")
        if wanted is not None:
            held &= CONDITIONS[name](result, wanted)
    return held


def where(column: Column, holds: Callable[[Any], bool]) -> Rows:
    """Rows of a column whose value passes a test, which is made once for each distinct value."""
    codes, values = _coded(column)
    passed = np.fromiter(map(holds, values), np.bool_, len(values))
    return passed[codes] if len(values) else np.zeros(len(codes), np.bool_)


def _coded(column: Column) -> tuple[NDArray[np.integer[Any]], list[Any]]:
    """Codes and the distinct values that they stand for."""
    match column:
        case Coded(codes, values) | Framed(codes, values):
            return codes, values
        case Numbers(plain) | Times(plain):
            return _distinct(plain)
        case Texts(texts):
            return _distinct(texts.astype(str))


def _distinct(values: NDArray[Any]) -> tuple[NDArray[np.integer[Any]], list[Any]]:
    distinct, codes = np.unique(values, return_inverse=True)
    return codes, distinct.tolist()


def _among(column: str, words: str | None = None) -> Callable[[Result, Any], Rows]:
    """The value is one of those asked for. words: the field whose closed vocabulary they must be of."""

    def held(result: Result, wanted: Any) -> Rows:
        asked = _known(result, words, _several(wanted))
        return where(result.columns[column], lambda value: value in asked)

    return held


def _path(result: Result, wanted: Any) -> Rows:
    asked = set(map(str, _several(wanted)))
    return where(result.columns["data_paths"], lambda paths: not asked.isdisjoint(paths))


def _role(result: Result, wanted: Any) -> Rows:
    asked = _known(result, "client_role", _several(wanted))
    sides = (result.columns["client_role"], result.columns["server_role"])
    return np.logical_or(*(where(side, lambda role: role in asked) for side in sides))


def _host(result: Result, wanted: Any) -> Rows:
    """An address, a network, or the name of a host that the result knows."""
    names = {row["name"]: row["address"] for row in result.host_rows if row.get("name")}
    networks = [_network(names.get(str(each), each)) for each in _several(wanted)]

    def meant(address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in networks)

    return np.logical_or(*(where(result.columns[side], meant) for side in ("client_ip", "server_ip")))


def _network(text: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        raise UsageError(f"host {text!r}: no address, no network, and no host of that name is known") from None


def _interface(result: Result, wanted: Any) -> Rows:
    """A UUID or a short name of an RPC interface bound here, or whose port this is."""
    asked = {str(each).lower() for each in _several(wanted)}

    def named(item: Mapping[str, Any] | None) -> bool:
        return item is not None and not asked.isdisjoint({str(item["uuid"]).lower(), str(item["name"]).lower()})

    bound = where(result.columns["rpc_interfaces"], lambda items: any(map(named, items)))
    return bound | where(result.columns["resolved_by"], named)


def _labelled(result: Result, wanted: Any) -> Rows:
    return where(result.columns["certainty"], lambda certainty: (certainty is not None) == bool(wanted))


def _findings(result: Result, wanted: Any) -> Rows:
    """True: any finding; else those with one of these ids or severities."""
    if isinstance(wanted, bool):
        return where(result.columns["findings"], lambda found: bool(found) == wanted)
    asked = set(map(str, _several(wanted)))

    def meant(found: list[Mapping[str, Any]]) -> bool:
        return any(not asked.isdisjoint({each["id"], each["severity"]}) for each in found)

    return where(result.columns["findings"], meant)


def _since(result: Result, wanted: Any) -> Rows:
    """Still going at that time, or begun later."""
    return _times(result, "end") >= nanoseconds(wanted)


def _until(result: Result, wanted: Any) -> Rows:
    """Begun at that time, or before."""
    return _times(result, "start") <= nanoseconds(wanted)


def _times(result: Result, name: str) -> NDArray[np.int64]:
    column = result.columns[name]
    assert isinstance(column, Times)
    return column.ns


CONDITIONS: Final[Mapping[str, Callable[[Result, Any], Rows]]] = {
    "id": _among("id"),
    "path": _path,
    "role": _role,
    "host": _host,
    "port": _among("server_port"),
    "protocol": _among("protocol", "protocol"),
    "interface": _interface,
    "certainty": _among("certainty", "certainty"),
    "absence": _among("absence", "absence"),
    "labelled": _labelled,
    "findings": _findings,
    "since": _since,
    "until": _until,
}
"""Every condition by its name: what it asks of the conversations."""


def nanoseconds(moment: Any) -> int:
    """A point in time as nanoseconds since 1970 UTC: text in ISO 8601, a datetime, or what pandas has.

    Without a zone it is UTC. Raises UsageError for anything else.
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise UsageError(f"{moment!r} is no time; write it like 2026-01-31T14:05:00") from None
    value = getattr(moment, "value", None)  # pandas.Timestamp keeps nanoseconds
    if isinstance(value, int):
        return value
    if not isinstance(moment, datetime):
        raise UsageError(f"{moment!r} is no time")
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def _several(wanted: Any) -> list[Any]:
    return [wanted] if isinstance(wanted, str | bytes) or not isinstance(wanted, Iterable) else list(wanted)


def _known(result: Result, field: str | None, wanted: list[Any]) -> set[Any]:
    """The wanted values; raises UsageError if one is outside the vocabulary of a field."""
    words = next((each.words for each in result.table.fields if each.name == field), ())
    for each in wanted:
        if words and each not in words:
            raise UsageError(f"no {field} {each!r}{hint(each, words)}")
    return set(wanted)
