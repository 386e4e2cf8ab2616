"""What a rule is made of: the nouns of the rulebook, and the rulebook itself.

`DataPath` is a row of Microsoft's documents, `Service` says which bytes on the wire belong to it,
`RpcInterface` and `FirewallRule` are what their names say. All are immutable values.

Must not know TOML (`rulebook` does), conversations, or how evidence is weighed (`matching`, `verdicts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

from .errors import RulebookError, hint
from .model import VERSIONS

Rank = Literal["table", "note", "doc"]
"""Where a row stands: in a table of the source, in its notes only, or in other public documents."""

RANKS: Final[tuple[Rank, ...]] = ("table", "note", "doc")
_T = TypeVar("_T")
ANY: Final = "any"
"""The role word of a side on which any host may stand."""

COLUMNS: Final = (
    "application_protocol",
    "default_authentication",
    "supported_authentication",
    "encryption_supported",
    "encrypted_by_default",
    "encryption_mechanism",
)
"""Columns of the documents, word for word."""


class Endpoint(NamedTuple):
    """Where a service listens. kind: "port" (low to high), "dynamic-rpc" (a port that an endpoint mapper
    hands out), "dynamic" (any other port chosen at run time), "local" (never on a wire)."""

    kind: Literal["port", "dynamic-rpc", "dynamic", "local"]
    transport: str
    low: int = 0
    high: int = 0

    def covers(self, transport: str, port: int) -> bool:
        """Whether this endpoint names that very port (dynamic ones name none)."""
        return self.kind == "port" and self.transport == transport and self.low <= port <= self.high

    def __str__(self) -> str:
        if self.kind == "local":
            return "local-message-block"
        if self.kind != "port":
            return f"{self.kind}/{self.transport}"
        return f"{self.low}/{self.transport}" if self.low == self.high else f"{self.low}-{self.high}/{self.transport}"


_ENDPOINT: Final = re.compile(r"(?:(dynamic-rpc|dynamic)|(\d+)(?:-(\d+))?)/(tcp|udp)")


def parse_endpoint(text: str) -> Endpoint | None:
    """The endpoint written "25/tcp", "16000-17000/tcp", "dynamic-rpc/tcp", "dynamic/udp" or "local-message-block"."""
    if text == "local-message-block":
        return Endpoint("local", "")
    found = _ENDPOINT.fullmatch(text)
    if not found:
        return None
    dynamic, low, high, transport = found.groups()
    if dynamic:
        return Endpoint("dynamic-rpc" if dynamic == "dynamic-rpc" else "dynamic", transport)
    first, last = int(low), int(high or low)
    return Endpoint("port", transport, first, last) if 0 < first <= last <= 65_535 else None


class Form(NamedTuple):
    """What the documents say of a data path in some versions of Exchange; most paths have one form."""

    versions: tuple[str, ...]
    title: str
    client_roles: tuple[str, ...]
    server_roles: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    implied_endpoints: tuple[Endpoint, ...]
    speaks: tuple[str, ...]
    both_ways: bool
    application_protocol: str
    default_authentication: str
    supported_authentication: str
    encryption_supported: str
    encrypted_by_default: str
    encryption_mechanism: str
    notes: str


class DataPath(NamedTuple):
    """One documented way of data: a row of the reference tables.

    part_of: id of the path of which every conversation of this one is also one ("" if none).
    original_spelling: what the document printed where this signature corrects it.
    examples, counterexamples: facts in the notation of `signatures/README.md`.
    """

    id: str
    rank: Rank
    forms: tuple[Form, ...]
    part_of: str
    original_spelling: str
    source: str
    examples: tuple[str, ...]
    counterexamples: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title in the newest documents."""
        return self.forms[0].title

    @property
    def versions(self) -> tuple[str, ...]:
        """All Exchange versions that have this path, oldest first."""
        present = {version for form in self.forms for version in form.versions}
        return tuple(version for version in VERSIONS if version in present)

    @property
    def client_roles(self) -> tuple[str, ...]:
        """Roles on the client's side, in any version."""
        return _union(form.client_roles for form in self.forms)

    @property
    def server_roles(self) -> tuple[str, ...]:
        """Roles on the server's side, in any version."""
        return _union(form.server_roles for form in self.forms)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Documented endpoints, in any version."""
        return _union(form.endpoints for form in self.forms)

    @property
    def implied_endpoints(self) -> tuple[Endpoint, ...]:
        """Endpoints which the documents leave out but the traffic uses, in any version."""
        return _union(form.implied_endpoints for form in self.forms)

    def form(self, version: str | None = None) -> Form:
        """What the documents say in that version; the newest form if there is none or none is asked for."""
        return next((form for form in self.forms if version in form.versions), self.forms[0])


class RpcInterface(NamedTuple):
    """A DCE/RPC interface. version: "major.minor", "1.x" or "" where unknown.

    exchange_only: an accepted bind proves an Exchange server. neutral: every RPC server has it
    (remote management, the endpoint mapper), so a bind says nothing about the service.
    """

    uuid: str
    version: str
    name: str
    title: str
    category: str
    exchange_only: bool
    neutral: bool
    roles: tuple[str, ...]
    versions: tuple[str, ...]
    source: str

    @property
    def major(self) -> str:
        """Major version, "" where unknown."""
        return self.version.partition(".")[0]


class FirewallRule(NamedTuple):
    """A Windows Firewall rule that Exchange 2010 Setup makes. opens: "ports", "dynamic-rpc", "rpc-epmap", "any"."""

    id: str
    name: str
    roles: tuple[str, ...]
    opens: Literal["ports", "dynamic-rpc", "rpc-epmap", "any"]
    endpoints: tuple[Endpoint, ...]
    program: str
    original_spelling: str


class Pattern:
    """A sign's value with `*` for any run of characters; letters of either case."""

    __slots__ = ("_head", "_rest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._head, *self._rest = text.lower().split("*")

    def matches(self, value: str) -> bool:
        """Whether the whole value fits. A pattern's own text always does."""
        value = value.lower()
        if not self._rest:
            return value == self._head
        *middle, tail = self._rest
        at, end = len(self._head), len(value) - len(tail)
        if end < at or not (value.startswith(self._head) and value.endswith(tail)):
            return False
        for part in middle:
            found = value.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


Condition = Mapping[str, tuple[Pattern, ...]]
"""Sign field to patterns: every field must be there, with a value that fits one of its patterns."""


class Service(NamedTuple):
    """Which bytes belong to a service. Several data paths may speak one service; roles tell them apart.

    plain: payload protocols that carry it, each with the port it is limited to (0: the path's own ports).
    proof, hint, mark, unless: conditions on signs (README.md, "Evidence").
    interfaces: names of RPC interfaces; over: the protocols that carry them.
    unknown_interface: what a bind to an interface that no list names is worth: "mark", "plain", or "" for nothing.
    handed_out_by: kinds of announcement that lead to it. opaque: no inspector can read its bytes.
    """

    id: str
    title: str
    plain: tuple[tuple[str, int], ...]
    proof: tuple[Condition, ...]
    hint: tuple[Condition, ...]
    mark: tuple[Condition, ...]
    unless: tuple[Condition, ...]
    interfaces: tuple[str, ...]
    over: tuple[str, ...]
    unknown_interface: str
    handed_out_by: tuple[str, ...]
    opaque: bool


class Act(NamedTuple):
    """What one conversation shows of the host on one of its sides.

    side: "server", "client", or "named": the host that a Kerberos ticket or a mail exchanger record names.
    One of services (proven, or announced), plain (as in `Service`) or interfaces must be there, and besides them
    one of ports, one condition of signs, none of unless, and one of peers as a role of the other side, where given.
    versions: of which Exchange is who does that; empty: it doesn't tell.
    """

    id: str
    title: str
    side: Literal["server", "client", "named"]
    services: tuple[str, ...]
    plain: tuple[tuple[str, int], ...]
    interfaces: tuple[str, ...]
    ports: tuple[Endpoint, ...]
    signs: tuple[Condition, ...]
    unless: tuple[Condition, ...]
    peers: tuple[str, ...]
    versions: tuple[str, ...]
    source: str
    examples: tuple[str, ...]
    counterexamples: tuple[str, ...]


class RoleRule(NamedTuple):
    """Which acts make a host play a role: all of `every`, one of `some` (if any), none of `none`.

    versions: the host must be known to be of one of these, and of no other; empty: of any, known or not.
    outsider: only a host without an Exchange role.
    examples, counterexamples: acts, and "version=2010" where it matters.
    """

    id: str
    role: str
    every: tuple[str, ...]
    some: tuple[str, ...]
    none: tuple[str, ...]
    versions: tuple[str, ...]
    outsider: bool
    source: str
    examples: tuple[str, ...]
    counterexamples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Rulebook:
    """All signatures of one directory. Compared by identity; immutable."""

    paths: Mapping[str, DataPath]
    services: Mapping[str, Service]
    interfaces: tuple[RpcInterface, ...]
    firewall_rules: tuple[FirewallRule, ...]
    dedicated_ports: frozenset[tuple[str, int]]
    disowning: tuple[Condition, ...]
    sign_fields: frozenset[str]
    directory: Path = field(default=Path())
    acts: Mapping[str, Act] = field(default_factory=dict)
    roles: tuple[RoleRule, ...] = ()

    @cached_property
    def _by_uuid(self) -> Mapping[str, tuple[RpcInterface, ...]]:
        found: dict[str, tuple[RpcInterface, ...]] = {}
        for interface in self.interfaces:
            found[interface.uuid] = (*found.get(interface.uuid, ()), interface)
        return found

    def interface(self, uuid: str, version: str = "") -> RpcInterface | None:
        """The interface of that UUID (lower case) and version ("major.minor").

        The major version must agree where it decides: f5cc59b4… is Exchange's directory at 21 and
        the File Replication Service at 1 (OpenChange exchange.idl; [MS-FRS1]).
        """
        entries = self._by_uuid.get(uuid, ())
        major = version.partition(".")[0]
        for entry in entries:
            if not major or not entry.major or entry.major == major:
                return entry
        return entries[0] if len(entries) == 1 and not entries[0].exchange_only else None

    @cached_property
    def protocols(self) -> frozenset[str]:
        """Payload protocols that some service is carried by."""
        return frozenset(protocol for service in self.services.values() for protocol, _ in service.plain)

    @cached_property
    def _port_starts(self) -> Mapping[str, tuple[int, ...]]:
        starts: dict[str, set[int]] = {"tcp": {0, 1024}, "udp": {0, 1024}}
        for endpoint in self._all_endpoints():
            if endpoint.kind == "port":
                starts[endpoint.transport] |= {endpoint.low, endpoint.high + 1}
        return {transport: tuple(sorted(ports - {65_536})) for transport, ports in starts.items()}

    def _all_endpoints(self) -> Iterator[Endpoint]:
        for path in self.paths.values():
            yield from (*path.endpoints, *path.implied_endpoints)
        for rule in self.firewall_rules:
            yield from rule.endpoints
        plains = [each.plain for each in self.services.values()] + [act.plain for act in self.acts.values()]
        for plain in plains:
            yield from (Endpoint("port", "tcp", port, port) for _, port in plain if port)
        for act in self.acts.values():
            yield from act.ports

    def port_starts(self, transport: str) -> tuple[int, ...]:
        """First ports of the runs of ports that no signature tells apart, ascending from 0.

        A port may stand for its whole run in `Facts` (`starts[bisect_right(starts, port) - 1]`):
        equal runs give equal decisions, so there are few distinct facts.
        """
        return self._port_starts[transport]


class Issue(NamedTuple):
    """A defect of the signatures. file: name inside the directory; line: from 1; text: one sentence."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


# ---- what people read ----------------------------------------------------------------------


class ListedSignature(NamedTuple):
    """One line of `exflow signatures list`."""

    id: str
    title: str
    client_roles: tuple[str, ...]
    server_roles: tuple[str, ...]
    ports: tuple[str, ...]
    versions: tuple[str, ...]


def listing(rulebook: Rulebook) -> list[ListedSignature]:
    """Every data path, in the order of the documents."""
    return [
        ListedSignature(
            path.id, path.title, path.client_roles, path.server_roles, tuple(map(str, path.endpoints)), path.versions
        )
        for path in rulebook.paths.values()
    ]


def describe(rulebook: Rulebook, path_id: str) -> dict[str, Any]:
    """The whole of one signature, JSON-ready: what the documents say by version, and what it is recognised by.

    Raises UsageError's child RulebookError, with a suggestion, for an unknown id.
    """
    path = rulebook.paths.get(path_id)
    if path is None:
        raise RulebookError(f"no signature {path_id!r}{hint(path_id, rulebook.paths)}")
    return {
        "id": path.id,
        "rank": path.rank,
        "part_of": path.part_of,
        "source": path.source,
        "original_spelling": path.original_spelling,
        "forms": [_described_form(form) for form in path.forms],
        "recognised_by": [_described_service(rulebook, name) for name in _union(form.speaks for form in path.forms)],
        "examples": list(path.examples),
        "counterexamples": list(path.counterexamples),
    }


def _described_form(form: Form) -> dict[str, Any]:
    described: dict[str, Any] = form._asdict()
    for key in ("endpoints", "implied_endpoints"):
        described[key] = [str(endpoint) for endpoint in described[key]]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in described.items()}


def _described_service(rulebook: Rulebook, name: str) -> dict[str, Any]:
    service = rulebook.services[name]
    return {
        "service": name,
        "title": service.title,
        "payload": [f"{protocol} on {port}" if port else protocol for protocol, port in service.plain],
        "proof": _described_conditions(service.proof),
        "hint": _described_conditions(service.hint),
        "mark": _described_conditions(service.mark),
        "unless": _described_conditions(service.unless),
        "interfaces": [
            f"{each.uuid} {each.version} {each.title}"
            for each in rulebook.interfaces
            if each.name in service.interfaces
        ],
        "unknown_interface": service.unknown_interface,
    }


def _described_conditions(conditions: Iterable[Condition]) -> list[dict[str, list[str]]]:
    return [
        {name: [pattern.text for pattern in patterns] for name, patterns in condition.items()}
        for condition in conditions
    ]


def _union(groups: Iterable[Iterable[_T]]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(each for group in groups for each in group))
