"""Hosts: what the user already knows of them (the inventory), what the traffic shows, and where the two disagree.

Knows addresses and roles; must not know ports, payloads or how a capture is read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.errors import UsageError, hint
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


class Part(NamedTuple):
    """What hosts are that did the same, and of which the inventory says the same.

    listed: by the inventory, None where it has no such host. inferred: from the traffic, which tells names one by one.
    cast: role → acts that it stands on, of the inferred ones. contradicted: roles and versions that the traffic shows
    and the inventory doesn't allow, each with its acts.
    """

    listed: Known | None = None
    inferred: Known = UNKNOWN
    cast: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    contradicted: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def known(self) -> Known:
        """What labels go by: the inventory where it speaks, else the traffic; no name."""
        listed = self.listed or UNKNOWN
        return Known(listed.roles or self.inferred.roles, listed.versions or self.inferred.versions)


class Deeds(NamedTuple):
    """What hosts did, and what shows it; each act of each host once.

    acts: their ids. keys: int64, number of the host times the number of acts, plus that of the act, sorted.
    conversations, frames: int64, as of `Reason`, one for each key.
    """

    acts: list[str]
    keys: NDArray[np.int64]
    conversations: NDArray[np.int64]
    frames: NDArray[np.int64]

    @classmethod
    def of(cls, acts: list[str], rows: NDArray[np.int64]) -> Deeds:
        """rows: int64[4, any]: host, index of the act, conversation and frame. Of the same act of a host the first
        conversation counts, of the same conversation the first row."""
        keys = rows[0] * len(acts) + rows[1]
        order = np.lexsort((rows[2], keys))
        order = order[np.diff(keys[order], prepend=-1) != 0]
        return cls(acts, keys[order], *rows[2:, order])

    def frames_of(self, hosts: NDArray[np.int64], acts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The frame that shows each act (by its index) of each host, which did it."""
        return self.frames[np.searchsorted(self.keys, hosts * len(self.acts) + acts)]

    def by_host(self, hosts: Iterable[int]) -> dict[int, dict[str, Reason]]:
        """host → act → what shows it, of those hosts that did anything."""
        own = np.isin(self.keys // max(len(self.acts), 1), np.fromiter(hosts, np.int64))
        told: dict[int, dict[str, Reason]] = {}
        for key, *shown in zip(*(column[own].tolist() for column in self[1:]), strict=True):
            host, act = divmod(key, len(self.acts))
            told.setdefault(host, {})[self.acts[act]] = Reason(self.acts[act], *shown)
        return told


@dataclass(slots=True)
class Hosts:
    """All hosts of a run, by number. parts: distinct; of: int32, which one each host plays.

    names: distinct; called: int64, which one each host has, -1 for none. deeds: the acts that parts name.
    """

    parts: list[Part]
    of: NDArray[np.int32]
    names: list[str]
    called: NDArray[np.int64]
    deeds: Deeds

    @classmethod
    def unknown(cls, count: int) -> Hosts:
        """So many hosts of which nothing is known."""
        deeds = Deeds.of([], np.zeros((4, 0), np.int64))
        return cls([Part()], np.zeros(count, np.int32), [], np.full(count, -1), deeds)

    def name(self, number: int) -> str:
        """What a host is called, "" if nobody says."""
        return self.names[self.called[number]] if self.called[number] >= 0 else ""


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
        issues += [f"unknown key {key!r}{hint(key, ('host',))}" for key in others]
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

    def known(self, address: str) -> Known | None:
        """What the inventory says of this address; None if it isn't listed."""
        parsed = ipaddress.ip_address(address)
        for (version, prefix), table in self._by_prefix.items():
            if version == parsed.version:
                shift = parsed.max_prefixlen - prefix
                found = table.get(int(parsed) >> shift << shift)
                if found is not None:
                    return found
        return None

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
    issues += [f"{where}: unknown key {key!r}{hint(key, _KEYS)}" for key in host if key not in _KEYS]
    roles, versions = _words(host.get("role", [])), _words(host.get("version", []))
    issues += [f"{where}: unknown role {role!r}{hint(role, ROLES)}" for role in roles if role not in ROLES]
    issues += [
        f"{where}: unknown version {version!r}{hint(version, VERSIONS)}"
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
