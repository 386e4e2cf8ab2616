"""Hosts: what the user already knows of them (the inventory), what the traffic shows, and where the two disagree.

Knows addresses and roles; must not know ports, payloads or how a capture is read.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from classifier.errors import UsageError
from classifier.model import ROLES, VERSIONS
from classifier.toml_files import read_tables

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_KEYS: Final = ("address", "role", "version", "name")


class Known(NamedTuple):
    """What is known of a host. Empty means unknown, not none."""

    roles: frozenset[str] = frozenset()
    versions: frozenset[str] = frozenset()
    name: str = ""


UNKNOWN: Final = Known()


class Reason(NamedTuple):
    """An act of a host, and what shows it. conversation: its number in the run; frame: ordinal in the run."""

    act: str
    conversation: int
    frame: int


class Host(NamedTuple):
    """One host. listed: by the inventory. inferred: from the traffic. reasons: role → acts, the first of each kind.

    contradicted: roles and versions that the traffic shows and the inventory doesn't allow, each with its acts.
    """

    listed: Known = UNKNOWN
    inferred: Known = UNKNOWN
    reasons: Mapping[str, tuple[Reason, ...]] = MappingProxyType({})
    contradicted: Mapping[str, tuple[Reason, ...]] = MappingProxyType({})

    @property
    def known(self) -> Known:
        """What labels go by: the inventory where it speaks, else the traffic."""
        return Known(
            self.listed.roles or self.inferred.roles,
            self.listed.versions or self.inferred.versions,
            self.listed.name or self.inferred.name,
        )


NOBODY: Final = Host()


@dataclass(frozen=True)
class Inventory:
    """The user's own list of hosts: networks with what is known of the hosts in them.

    A host's entry is the one with the longest prefix.
    """

    entries: Mapping[Network, Known] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Inventory:
        """Read an inventory (TOML, tables `[[host]]` with address, role, version, name).

        Raises UsageError with every mistake in it.
        """
        hosts, others = read_tables(path, "inventory", "host")
        issues: list[str] = []
        entries: dict[Network, Known] = {}
        issues += [f"unknown key {key!r}{_hint(key, ('host',))}" for key in others]
        for number, host in enumerate(hosts, 1):
            _read_host(host, f"host {number}", entries, issues)
        if issues:
            raise UsageError("\n".join(f"inventory {path}: {issue}" for issue in issues))
        return cls(entries)

    @cached_property
    def _by_prefix(self) -> dict[tuple[int, int], dict[int, Known]]:
        """(version, prefix length) → network number → what is known; longest prefixes first."""
        tables: dict[tuple[int, int], dict[int, Known]] = {}
        for network, known in sorted(self.entries.items(), key=lambda item: -item[0].prefixlen):
            tables.setdefault((network.version, network.prefixlen), {})[int(network.network_address)] = known
        return tables

    def known(self, address: str) -> Known:
        """What the inventory says of this address."""
        parsed = ipaddress.ip_address(address)
        for (version, prefix), table in self._by_prefix.items():
            if version == parsed.version:
                shift = parsed.max_prefixlen - prefix
                found = table.get(int(parsed) >> shift << shift)
                if found is not None:
                    return found
        return UNKNOWN

    def address_of(self, name: str) -> str:
        """The address of a host with that name (or its first label); "" if none, or a whole network, has it."""
        wanted = name.lower().rstrip(".")
        for network, known in self.entries.items():
            own = known.name.lower()
            if own and network.num_addresses == 1 and wanted in (own, own.partition(".")[0]):
                return str(network.network_address)
        return ""


def _read_host(host: Any, where: str, entries: dict[Network, Known], issues: list[str]) -> None:
    """Check one [[host]] table and enter it."""
    if not isinstance(host, dict):
        issues.append(f"{where}: not a table")
        return
    issues += [f"{where}: unknown key {key!r}{_hint(key, _KEYS)}" for key in host if key not in _KEYS]
    roles, versions = _words(host.get("role", [])), _words(host.get("version", []))
    issues += [f"{where}: unknown role {role!r}{_hint(role, ROLES)}" for role in roles if role not in ROLES]
    issues += [
        f"{where}: unknown version {version!r}{_hint(version, VERSIONS)}"
        for version in versions
        if version not in VERSIONS
    ]
    name = host.get("name", "")
    if not isinstance(name, str):
        issues.append(f"{where}: name {name!r} is no text")
    try:
        network = _network(host.get("address"))
    except ValueError as error:
        issues.append(f"{where}: {error}")
        return
    if network in entries:
        issues.append(f"{where}: {network} stands here twice")
    entries[network] = Known(frozenset(roles), frozenset(versions), name)


def _network(address: Any) -> Network:
    """A host is a network of one. Numbers, which the library takes for addresses too, are typing mistakes."""
    if address is None:
        raise ValueError("address is missing")
    if not isinstance(address, str):
        raise ValueError(f"address {address!r} is no text")
    return ipaddress.ip_network(address, strict=False)


def _words(value: Any) -> list[str]:
    return [str(word) for word in (value if isinstance(value, list) else [value])]


def _hint(word: str, vocabulary: tuple[str, ...]) -> str:
    folded = {known.lower(): known for known in vocabulary}
    close = difflib.get_close_matches(word.lower(), folded, 1)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""
