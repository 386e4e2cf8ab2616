"""A Wireshark profile for one result: colours by path and role, decode-as, columns, filter buttons, names of hosts.

Owns the files of a profile (Wireshark User's Guide, appendix B). Their fields end at characters that a stranger may
have put into a name, so names of anything get in through a strict alphabet only. Must not know where they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from classifier.dissectors import LISTED_AS, decode_as
from classifier.extraction import host_names
from classifier.limits import PROFILE_GROUPS, PROFILE_TERMS
from classifier.result import Result

Groups = dict[str, dict[str, None]]
"""Display filters of conversations or hosts, in order, by what they have in common."""

GROUNDS: Final = ("77AADD", "EE8866", "EEDD88", "FFAABB", "99DDFF", "44BB99", "BBCC33", "AAAA00")
"""Red, green, blue of grounds that colour-blind readers tell apart under dark text (Paul Tol's light scheme)."""

NO_LABEL: Final = "DDDDDD"
COLUMNS: Final = {
    "No.": "%m", "Time": "%t", "Source": "%s", "Destination": "%d", "Port": "%uD", "Protocol": "%p",
    "exflow": "%Cus:frame.comment:0:R", "Info": "%i",
}  # fmt: skip


def files(result: Result) -> dict[str, str]:
    """Every file of the profile: its name, and what is in it."""
    records = [each.to_dict() for each in result]
    paths, roles = _by_path(records), _by_role(records)
    return {
        "preferences": _preferences(),
        "colorfilters": _lines(_colours(paths, roles)),
        "decode_as_entries": _lines(_decode_as(records)),
        "dfilter_buttons": _lines(_buttons(paths, roles, records)),
        "hosts": _lines(
            f"{address} {_word(name)}" for address, name in host_names(result, [row["id"] for row in records])
        ),
    }


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _word(text: str) -> str:
    return re.sub(r"[^\w.(),:-]", "_", text, flags=re.ASCII)


def _preferences() -> str:
    columns = ", ".join(f'"{title}", "{what}"' for title, what in COLUMNS.items())
    return f"gui.column.format: {columns}\nnameres.network_name: TRUE\nnameres.hosts_file_handling: TRUE\n"


# ---- display filters ---------------------------------------------------------------------------------


def _host(address: str) -> str:
    return f"{'ipv6' if ':' in address else 'ip'}.addr == {address}"


def _talk(record: Mapping[str, Any]) -> str:
    """All conversations of a client with this port of a server."""
    sides = f"{_host(record['client_ip'])} && {_host(record['server_ip'])}"
    return f"({sides} && {record['transport']}.port == {record['server_port']})"


def _by_path(records: Iterable[Mapping[str, Any]]) -> Groups:
    """By the best data path; None of them is `no label`."""
    groups: Groups = {}
    for record in records:
        name = _word(record["data_paths"][0]) if record["data_paths"] else ""
        groups.setdefault(name, {})[_talk(record)] = None
    return groups


def _by_role(records: Iterable[Mapping[str, Any]]) -> Groups:
    groups: Groups = {}
    for record in records:
        for side in ("client", "server"):
            if record[f"{side}_role"]:
                groups.setdefault(record[f"{side}_role"], {})[_host(record[f"{side}_ip"])] = None
    return groups


def _any(terms: Iterable[str]) -> str:
    """One filter; it ends at a bound, which Wireshark needs to stay quick."""
    return " || ".join(list(terms)[:PROFILE_TERMS])


# ---- the files ---------------------------------------------------------------------------------------


def _colours(paths: Groups, roles: Groups) -> Iterable[str]:
    """First match counts: paths, then what has no label, then any traffic of a host with a role."""
    named = [(f"path {name}", terms) for name, terms in paths.items() if name][:PROFILE_GROUPS]
    named += [(f"role {name}", terms) for name, terms in roles.items()]
    rules = [(name, terms, GROUNDS[number % len(GROUNDS)]) for number, (name, terms) in enumerate(named)]
    if "" in paths:
        rules.insert(min(len(paths) - 1, PROFILE_GROUPS), ("no label", paths[""], NO_LABEL))
    for name, terms, ground in rules:
        red, green, blue = (int(ground[at : at + 2], 16) * 257 for at in (0, 2, 4))
        yield f"@{name}@{_any(terms)}@[{red},{green},{blue}][4626,4626,4626]"


def _decode_as(records: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Ports that were handed out, or that Wireshark has no dissector for; not one that hosts use differently."""
    wanted: dict[str, set[str]] = {}
    for record in records:
        for where, name in decode_as(record).items():
            if record["resolved_by"] or name == "mc-nmf":
                wanted.setdefault(where, set()).add(name)
    for where, names in wanted.items():
        if len(names) == 1:
            selector, port = where.split("==")
            yield f"decode_as_entry: {selector},{port},(none),{LISTED_AS[names.pop()]}"


def _buttons(paths: Groups, roles: Groups, records: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """`//` puts buttons into a menu."""
    found = dict.fromkeys(_talk(record) for record in records if record["findings"])
    groups = {f"path//{name}": terms for name, terms in list(paths.items())[:PROFILE_GROUPS] if name}
    groups |= {f"role//{name}": terms for name, terms in roles.items()}
    groups |= {"no label": paths.get("", {}), "findings": found}
    return (f'"TRUE","{name}","{_any(terms)}","by exflow"' for name, terms in groups.items() if terms)
