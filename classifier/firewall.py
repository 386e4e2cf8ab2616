"""What a firewall has to let in, built from what was seen: rows by server and port, and rules as text.

Owns how ports, clients and labels of conversations become rules. Works on distinct values of a result's columns. Text
of rules holds addresses, numbers and words of our own vocabularies only: nothing that a stranger said.

Dynamic RPC ports: Windows hands them out from 1024 to 5000 before 2008, and Exchange Setup makes it 6005 to 65534 since
2010 (netsh shows start 6005, number 59530); an RPC port outside of its server's range was fixed by somebody. So was,
most likely, one that the documents use as their example of a fixed port (59531 to 59533).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifier.fields import FIREWALL_FIELDS, Coded, Framed, Numbers
from classifier.result import Result, Table, taken
from classifier.rules import Rulebook

MAPPERS: Final = (135, 593)
_HANDED_OUT: Final = frozenset({"ept_map", "ept_lookup", "oxid", "bind", "secondary-address", "endpoint-map-file"})
_OLD: Final = frozenset({"5.5", "2000", "2003"})
_NEW: Final = frozenset({"2010", "2013", "2016", "2019", "SE"})
_OLD_RANGE, _NEW_RANGE = range(1024, 5001), range(6005, 65_535)
_FAILED: Final = frozenset({"S0", "REJ"})


def firewall_table(result: Result, rulebook: Rulebook) -> Table:
    """One row for each port of each server that has labelled conversations, by address and port."""
    return Table.of_rows(FIREWALL_FIELDS, [row | {"kind": _kind(rulebook, row)} for row in _rows(result)])


class _Values:
    """The distinct values of a column in some rows, with how often each stands there."""

    def __init__(self, result: Result, rows: NDArray[np.int64]) -> None:
        self._result, self._rows = result, rows

    def counted(self, name: str) -> list[tuple[Any, int]]:
        column = taken(self._result.columns[name], self._rows)
        assert isinstance(column, Coded | Framed)
        codes, counts = np.unique(column.codes, return_counts=True)
        return [(column.values[code], count) for code, count in zip(codes.tolist(), counts.tolist(), strict=True)]

    def distinct(self, name: str) -> list[Any]:
        return [value for value, _ in self.counted(name) if value]

    def listed(self, name: str) -> list[str]:
        """Words of a column of lists, each once, in their order."""
        return list(dict.fromkeys(word for words in self.distinct(name) for word in words))


def _rows(result: Result) -> Iterator[dict[str, Any]]:
    columns = result.columns
    server, transport, certainty = (columns[name] for name in ("server_ip", "transport", "certainty"))
    port = columns["server_port"]
    assert isinstance(server, Coded) and isinstance(transport, Coded)  # noqa: PT018
    assert isinstance(certainty, Coded) and isinstance(port, Numbers)  # noqa: PT018
    known = np.array([value is not None for value in certainty.values] or [False], np.bool_)
    rows = np.flatnonzero(known[certainty.codes]) if len(port.values) else np.zeros(0, np.int64)
    key = (server.codes[rows].astype(np.int64) << 17) | (port.values[rows] << 1) | transport.codes[rows]
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    found = [_row(result, part) for part in np.split(rows[order], edges) if len(part)]
    yield from sorted(found, key=lambda row: (_order(row["server_ip"]), row["transport"], row["port"]))


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


def _row(result: Result, rows: NDArray[np.int64]) -> dict[str, Any]:
    values = _Values(result, rows)
    port = result.columns["server_port"]
    assert isinstance(port, Numbers)
    number = int(port.values[rows[0]])
    resolved = values.distinct("resolved_by")
    row = {
        "server_ip": values.distinct("server_ip")[0],
        "roles": sorted(values.distinct("server_role")),
        "transport": values.distinct("transport")[0],
        "port": number,
        "interfaces": _interfaces([*_all(values.distinct("rpc_interfaces")), *resolved]),
        "clients": sorted(values.distinct("client_ip"), key=_order),
        "data_paths": values.listed("data_paths"),
        "setup_rules": values.listed("firewall_rules"),
        "conversations": len(rows),
        "unanswered": sum(count for state, count in values.counted("conn_state") if state in _FAILED),
    }
    handed_out = bool({each["kind"] for each in resolved} & _HANDED_OUT)
    return row | {
        "rpc": handed_out or "dcerpc" in values.distinct("protocol"),
        "versions": frozenset(values.listed("exchange_versions")),
    }


def _all(lists: Iterable[list[Any]]) -> Iterator[Any]:
    for each in lists:
        yield from each


def _interfaces(told: Iterable[Mapping[str, Any]]) -> list[str]:
    """UUIDs with their names; an interface that was refused isn't served."""
    named = (
        f"{each['uuid']} {each['name']}" if each["name"] else each["uuid"]
        for each in told
        if each["uuid"] and each.get("accepted", True) is not False
    )  # fmt: skip
    return list(dict.fromkeys(named))


def _kind(rulebook: Rulebook, row: Mapping[str, Any]) -> str:
    port, versions = row["port"], row["versions"]
    if port in MAPPERS:
        return "mapper"
    if not row["rpc"]:
        return "fixed"
    ours = _NEW_RANGE if versions <= _NEW else _OLD_RANGE if versions <= _OLD else None
    beyond = bool(versions) and ours is not None and port not in ours
    return "static-rpc" if beyond or _documented(rulebook, row) else "dynamic-rpc"


def _documented(rulebook: Rulebook, row: Mapping[str, Any]) -> bool:
    """Whether the documents name this very port for one of the paths, as they do for the usual fixed ports."""
    ends = (end for path in row["data_paths"] if path in rulebook.paths for end in rulebook.paths[path].endpoints)
    return any(end.low == end.high and end.covers(row["transport"], row["port"]) for end in ends)


# ---- rules as text ----------------------------------------------------------------------------------------

_CHANGES: Final = "handed out by the endpoint mapper: another one after a restart, unless it is fixed in the registry"


def nftables(table: Table) -> Iterator[str]:
    """Lines of a file for `nft -f`: a chain that lets in what was seen, and nothing else, to jump to."""
    yield "# What `exflow firewall` saw, for the way to the servers. The chain has no hook; jump to it from your own:"
    yield "#   nft add rule inet filter forward jump exflow-servers"
    yield "table inet exflow {"
    yield "  chain exflow-servers {"
    for row in _readable(table):
        family = "ip6" if ":" in row["server_ip"] else "ip"
        if row["kind"] == "dynamic-rpc":
            yield f"    # {row['transport']}/{row['port']} was {_CHANGES}"
        for clients in _chunks(row["clients"]):
            yield (
                f"    {family} saddr {{ {', '.join(clients)} }} {family} daddr {row['server_ip']} "
                f'{row["transport"]} dport {row["port"]} accept comment "{_comment(row)}"'
            )
    yield "  }"
    yield "}"


_LONGEST_COMMENT: Final = 120
"""nft takes 128 bytes."""
_MOST_CLIENTS: Final = 200
"""Addresses in a rule, so that lines stay readable."""


def _comment(row: Mapping[str, Any]) -> str:
    text = ", ".join(row["data_paths"])
    return text if len(text) <= _LONGEST_COMMENT else text[: _LONGEST_COMMENT - 4].rpartition(",")[0] + " ..."


def _chunks(clients: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(clients), _MOST_CLIENTS):
        yield clients[start : start + _MOST_CLIENTS]


def powershell(table: Table) -> Iterator[str]:
    """Lines of a script of New-NetFirewallRule, one part for each server, to be run there."""
    yield "# What `exflow firewall` saw. Each part belongs on the server that it names; look at it before you run it."
    yield "# LocalPort RPC admits whatever the endpoint mapper hands out, RPCEPMap the mapper itself."
    server = ""
    for row in _readable(table):
        if row["server_ip"] != server:
            server = row["server_ip"]
            yield f"\n# ---- on {server} ({', '.join(row['roles']) or 'role unknown'})"
        if row["setup_rules"]:
            yield f"# Exchange Setup has: {', '.join(row['setup_rules'])}"
        port = {"mapper": "RPCEPMap", "dynamic-rpc": "RPC"}.get(row["kind"], str(row["port"]))
        if row["port"] == 593:
            port = "593"
        clients = ", ".join(f"'{address}'" for address in row["clients"])
        yield (
            f"New-NetFirewallRule -DisplayName 'exflow {row['transport']}/{row['port']} {row['kind']}' "
            f"-Description '{_comment(row)}' -Direction Inbound -Action Allow "
            f"-Protocol {row['transport'].upper()} -LocalPort {port} -RemoteAddress {clients}"
        )


def _readable(table: Table) -> Iterator[dict[str, Any]]:
    return map(table.row, range(len(table)))


SCRIPTS: Final = {"nftables": nftables, "powershell": powershell}
"""Rules as text, by the name of the format."""
