"""Rulebook and facts → matches: which forms of which data paths the bytes and the port allow.

Owns the kinds of evidence and what each of them needs. Must not know roles, versions or certainty
(`verdicts` does), and has no knowledge of Exchange: all of that is in the rulebook.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from itertools import count
from typing import Final, NamedTuple

from .limits import MAX_SIGN_VALUES
from .rules import RANKS, Act, Condition, DataPath, Endpoint, Form, RpcInterface, Rulebook, Service


class Facts(NamedTuple):
    """What is known of one conversation; hashable, and equal facts get equal decisions.

    transport: "tcp" or "udp". server_port: the port, or the first of its run (`Rulebook.port_starts`).
    client_port: 0 unless a signature cares. protocol: seen in the payload (`model.ProtocolName`).
    interfaces, offered: (uuid, version) accepted by the server; bound, but the answer was not seen.
    asked: interfaces asked for at the endpoint mapper (protocol "epm"). answered: those of them it found;
    None when that is not known, which counts as found.
    resolved: interfaces that announcements or other conversations' binds put on this server port;
    resolved_kind: `model.ResolutionKind` of the announcement.
    signs: (field, value), as seen or as `telling_signs` shortens them.
    client_roles, server_roles: known roles of the hosts, from the inventory or other conversations; empty = unknown.
    client_versions, server_versions: known Exchange versions of the hosts; empty = unknown.
    condition: the absence that applies if nothing matches ("no-payload", "mid-stream" …); None = payload was readable.
    """

    transport: str
    server_port: int
    client_port: int = 0
    protocol: str | None = None
    interfaces: frozenset[tuple[str, str]] = frozenset()
    offered: frozenset[tuple[str, str]] = frozenset()
    asked: frozenset[tuple[str, str]] = frozenset()
    resolved: frozenset[tuple[str, str]] = frozenset()
    resolved_kind: str | None = None
    signs: frozenset[tuple[str, str]] = frozenset()
    client_roles: frozenset[str] = frozenset()
    server_roles: frozenset[str] = frozenset()
    client_versions: frozenset[str] = frozenset()
    server_versions: frozenset[str] = frozenset()
    condition: str | None = None
    answered: frozenset[tuple[str, str]] | None = None


class Level(IntEnum):
    """Kinds of evidence. A higher one says more about which service it is; it is not a score and never added up."""

    PORT = 0
    """The port alone: nothing of the payload can be read."""
    PROTOCOL = 1
    """A general protocol in the payload, on a port of the path."""
    SIGN = 2
    """A sign in the payload tells this service from others that share its protocol and port."""
    HANDOUT = 3
    """The port was handed out for an interface that only this product has."""
    PROOF = 4
    """Bytes that only this product has."""


class Speech(NamedTuple):
    """What the evidence says of one service. hint: it speaks for the product even where no role is known."""

    level: Level
    basis: str
    hint: bool = False


class Candidate(NamedTuple):
    """One form of a path, in one direction. number: its own; order: place in the documents, tables before
    notes before others."""

    number: int
    path: DataPath
    form: Form
    clients: tuple[str, ...]
    servers: tuple[str, ...]
    order: tuple[int, int]


class Match(NamedTuple):
    """A candidate that the evidence allows. on_port: an endpoint of the form covers the server port.
    disowned: the server names itself as another program."""

    candidate: Candidate
    speech: Speech
    on_port: bool
    disowned: bool = False


CARRIERS: Final = frozenset({"dcerpc", "epm", "ncacn-http", "rpc-over-http", "smb"})
"""Protocols in which RPC interfaces are bound or asked for."""

_DIRECT: Final = frozenset({"dcerpc", "epm", "smb"})
"""Carriers in which the client itself binds: behind HTTP it may be a proxy that binds for another."""

_UNKNOWN_INTERFACE: Final = {"mark": Speech(Level.SIGN, "protocol"), "plain": Speech(Level.PROTOCOL, "protocol")}
_ENDPOINT_MAPPER_PORT: Final = 135
_HTTP_MAPPER_PORT: Final = 593
"""The endpoint mapper that knows only what is behind a proxy ([MS-RPCH] 2.1.2.1)."""
_FIRST_DYNAMIC: Final = 1024


def matches(rulebook: Rulebook, facts: Facts) -> tuple[Match, ...]:
    """Every form of every path that the bytes and the port allow, in no meaning order.

    Of the hosts it counts only whether both are known, at ports that are chosen at run time and that nobody handed out,
    so the answer is shared by all hosts that say the same.
    """
    dynamic = facts.server_port >= _FIRST_DYNAMIC and not facts.resolved_kind
    both = _SOMEBODY if dynamic and facts.client_roles and facts.server_roles else _NOBODY
    return _matches(rulebook, facts._replace(
        client_roles=both, server_roles=both, client_versions=_NOBODY, server_versions=_NOBODY
    ))  # fmt: skip


_NOBODY: Final[frozenset[str]] = frozenset()
_SOMEBODY: Final = frozenset({"somebody"})


@lru_cache(maxsize=4096)
def _matches(rulebook: Rulebook, facts: Facts) -> tuple[Match, ...]:
    index = _index(rulebook)
    heard = _Hearing(rulebook, facts)
    found: dict[int, Match] = {}
    for service in index.relevant(facts, heard.interfaces):
        speech = heard.speech(service)
        if speech is None:
            continue
        for candidate in index.by_service[service.id]:
            match = _match(candidate, speech, facts, heard.somebody_else)
            if match and (
                candidate.number not in found or _strength(match.speech) > _strength(found[candidate.number].speech)
            ):
                found[candidate.number] = match
    return tuple(found.values())


def acts_in(rulebook: Rulebook, facts: Facts, *, labelled: bool) -> list[Act]:
    """What the conversation shows of its hosts (peers not asked).

    labelled: its bytes alone made it certain, or announced: only then a service says anything of a host.
    """
    index = _index(rulebook)
    acts = index.acts_by_protocol.get(facts.protocol or "", ())
    if not acts:
        return []
    heard = _Hearing(rulebook, facts)
    present = frozenset(each.name for each in _known(rulebook, _present(facts)) if each)
    return [act for act in acts if _shows(act, facts, heard, present, labelled)]


def _present(facts: Facts) -> frozenset[tuple[str, str]]:
    """Interfaces that the server has beyond doubt: it accepted a bind, or its mapper found them."""
    found = facts.asked if facts.answered is None else facts.answered & facts.asked
    confirmed = {pair for pair in facts.offered if pair[0] in {uuid for uuid, _ in facts.resolved}}
    return facts.interfaces | found | confirmed


def _shows(act: Act, facts: Facts, heard: _Hearing, present: frozenset[str], labelled: bool) -> bool:
    if act.ports and not any(endpoint.covers(facts.transport, facts.server_port) for endpoint in act.ports):
        return False
    direct = facts.protocol in _DIRECT and facts.server_port != _HTTP_MAPPER_PORT
    told = (direct and any(name in present for name in act.interfaces)) or any(
        protocol == facts.protocol and port in (0, facts.server_port) for protocol, port in act.plain
    )
    if not told and not (labelled and any(heard.proves(service) for service in act.services)):
        return False
    if act.signs and not any(heard.holds(condition) for condition in act.signs):
        return False
    return not any(heard.holds(condition) for condition in act.unless)


def telling_signs(rulebook: Rulebook, signs: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """The signs that some signature tests, each value replaced by the patterns it fits.

    A decision is the same with either, and there are few patterns but many values: so equal
    conversations have equal facts.
    """
    index = _index(rulebook)
    return frozenset((name, pattern) for name, value in signs for pattern in index.fitting(name, value))


def tells(rulebook: Rulebook, name: str, value: str) -> bool:
    """Whether some signature tests for this sign."""
    return bool(_index(rulebook).fitting(name, value))


def windows_interfaces(rulebook: Rulebook, facts: Facts) -> bool:
    """Whether the conversation bound interfaces that are all known not to be the product's own."""
    bound = _known(rulebook, facts.interfaces | facts.offered)
    named = [each for each in bound if each is not None]
    return bool(named) and len(named) == len(bound) and not any(each.exchange_only for each in named)


def _strength(speech: Speech) -> tuple[Level, bool]:
    return speech.level, speech.hint


def _match(candidate: Candidate, speech: Speech, facts: Facts, disowned: bool) -> Match | None:
    """Evidence that names the service holds on any port; the rest only on the path's own.

    On 135 itself only interfaces of the RPC service run, so a bind that no list knows means nothing there.
    """
    if facts.protocol == "dcerpc" and facts.server_port == _ENDPOINT_MAPPER_PORT and speech.basis != "interface":
        return None
    on_port = any(_fits(endpoint, facts) for endpoint in candidate.form.endpoints) or any(
        _fits(endpoint, facts) for endpoint in candidate.form.implied_endpoints
    )
    if not on_port and speech.level < Level.HANDOUT and speech.basis != "interface":
        return None
    return Match(candidate, speech, on_port, disowned)


def _fits(endpoint: Endpoint, facts: Facts) -> bool:
    if endpoint.kind == "port":
        return endpoint.covers(facts.transport, facts.server_port)
    if endpoint.transport != facts.transport or facts.server_port == _ENDPOINT_MAPPER_PORT:
        return False
    if endpoint.kind == "dynamic-rpc":
        return facts.protocol == "dcerpc" or (facts.protocol is None and bool(facts.resolved and facts.condition))
    both_known = bool(facts.client_roles and facts.server_roles)
    return facts.server_port >= _FIRST_DYNAMIC and (bool(facts.resolved_kind) or both_known)


def _known(rulebook: Rulebook, pairs: Iterable[tuple[str, str]]) -> list[RpcInterface | None]:
    """The interfaces of these UUIDs (None: in no list), without those that every RPC server has."""
    interfaces = (rulebook.interface(uuid, version) for uuid, version in pairs)
    return [interface for interface in interfaces if interface is None or not interface.neutral]


class _Hearing:
    """One conversation's facts, looked up once, to be held against many services."""

    def __init__(self, rulebook: Rulebook, facts: Facts) -> None:
        self._facts = facts
        self._services = rulebook.services
        self.interfaces: dict[str, Speech] = {}
        self.unknown_interface = self._foreign_interface = False
        self._signs_of: dict[str, list[str]] = {}
        for name, value in facts.signs:
            self._signs_of.setdefault(name, []).append(value)
        if facts.protocol in CARRIERS or (facts.protocol is None and facts.condition):
            self._hear_interfaces(rulebook)
        self.somebody_else = any(self.holds(condition) for condition in rulebook.disowning)

    def _hear_interfaces(self, rulebook: Rulebook) -> None:
        """A conversation's own bind outweighs what was announced for its port; an announcement
        confirms a bind whose answer was not seen."""
        facts = self._facts
        accepted, offered = _known(rulebook, facts.interfaces), _known(rulebook, facts.offered)
        resolved = {each.name for each in _known(rulebook, facts.resolved) if each}
        self._hear(accepted, Level.PROOF, "interface")
        self._hear([each for each in offered if each and each.name in resolved], Level.HANDOUT, "resolved")
        self._hear(offered, Level.SIGN, "interface")
        if not accepted and not offered and facts.protocol != "epm":
            self._hear(_known(rulebook, facts.resolved), Level.HANDOUT, "resolved")
        answered = facts.asked if facts.answered is None else facts.answered & facts.asked
        self._hear(_known(rulebook, answered), Level.HANDOUT, "interface")
        self._hear(_known(rulebook, facts.asked), Level.SIGN, "interface")
        self.unknown_interface = None in accepted
        self._foreign_interface = any((*accepted, *offered))

    def _hear(self, interfaces: list[RpcInterface | None], level: Level, basis: str) -> None:
        """Interfaces that others have too are signs, however they were met."""
        for interface in interfaces:
            if interface is not None:
                own = interface.exchange_only
                self.interfaces.setdefault(interface.name, Speech(level if own else Level.SIGN, basis, hint=own))

    def holds(self, condition: Condition) -> bool:
        """Whether for every field there is a sign whose value fits."""
        return all(
            name in self._signs_of
            and any(pattern.matches(value) for value in self._signs_of[name] for pattern in patterns)
            for name, patterns in condition.items()
        )

    def proves(self, name: str) -> bool:
        """Whether the facts prove this service, or an announcement does."""
        speech = self.speech(self._services[name])
        return speech is not None and speech.level >= Level.HANDOUT

    def speech(self, service: Service) -> Speech | None:
        """The strongest thing the facts say for this service, or None: nothing, or something against it."""
        said = [each for each in (self._signs(service), self._interface(service), self._handout(service)) if each]
        strongest = max(said, key=_strength) if said else self._protocol(service) or self._port(service)
        refused = strongest and self._signs_of and any(self.holds(condition) for condition in service.unless)
        return None if refused else strongest

    def _signs(self, service: Service) -> Speech | None:
        """Whoever says that another program answers lowers a proof to a hint: clients also ask in vain."""
        if not self._signs_of:
            return None
        if any(self.holds(condition) for condition in service.proof):
            return Speech(Level.SIGN if self.somebody_else else Level.PROOF, "sign", hint=True)
        if any(self.holds(condition) for condition in service.hint):
            return Speech(Level.SIGN, "sign", hint=True)
        return Speech(Level.SIGN, "sign") if any(self.holds(condition) for condition in service.mark) else None

    def _interface(self, service: Service) -> Speech | None:
        spoken = {self._facts.protocol}
        if "epm" in spoken:
            spoken.add("ncacn-http" if self._facts.server_port == _HTTP_MAPPER_PORT else "dcerpc")
        if self._facts.protocol is not None and spoken.isdisjoint(service.over):
            return None
        heard = [self.interfaces[name] for name in service.interfaces if name in self.interfaces]
        if service.unknown_interface and self.unknown_interface:
            heard.append(_UNKNOWN_INTERFACE[service.unknown_interface])
        return max(heard, key=_strength) if heard else None

    def _handout(self, service: Service) -> Speech | None:
        if self._facts.resolved_kind not in service.handed_out_by:
            return None
        carried = self._facts.protocol in {protocol for protocol, _ in service.plain}
        return Speech(Level.SIGN, "resolved") if carried or self._unread(service) else None

    def _protocol(self, service: Service) -> Speech | None:
        """A bind to an interface refuses every service that does not list it."""
        if self._foreign_interface:
            return None
        port = self._facts.server_port
        spoken = any(protocol == self._facts.protocol and at in (0, port) for protocol, at in service.plain)
        return Speech(Level.PROTOCOL, "protocol") if spoken else None

    def _port(self, service: Service) -> Speech | None:
        """RPC whose bind was missed may be any RPC service of its port; other payload must be unread."""
        rpc_unbound = self._facts.protocol in service.over and bool(service.interfaces or service.unknown_interface)
        own = self._facts.interfaces or self._facts.offered or self._facts.asked or self._facts.resolved
        if rpc_unbound and self._facts.protocol != "epm" and not own:
            return Speech(Level.PORT, "port")
        port = self._facts.server_port
        listens = any(at in (0, port) for _, at in service.plain) or (service.opaque and port != _ENDPOINT_MAPPER_PORT)
        return Speech(Level.PORT, "port") if listens and self._unread(service) else None

    def _unread(self, service: Service) -> bool:
        return self._facts.protocol is None and (self._facts.condition is not None or service.opaque)


class _Index:
    """Where to look: from what a conversation shows to the services that it may concern."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._services = rulebook.services
        self._starts = {transport: rulebook.port_starts(transport) for transport in ("tcp", "udp")}
        self.by_service: dict[str, list[Candidate]] = {name: [] for name in rulebook.services}
        for candidate in candidates(rulebook):
            for name in candidate.form.speaks:
                self.by_service[name].append(candidate)
        self._by_key: dict[tuple[str, str], list[Service]] = {}
        self._patterns: dict[str, dict[str, Condition]] = {}
        self._fitting: dict[tuple[str, str], tuple[str, ...]] = {}
        self.acts_by_protocol = _by_protocol(rulebook)
        for service in rulebook.services.values():
            for key in self._keys(service):
                self._by_key.setdefault(key, []).append(service)
        self._remember_patterns(rulebook)

    def _keys(self, service: Service) -> set[tuple[str, str]]:
        keys = {("protocol", protocol) for protocol, _ in service.plain}
        keys |= {("sign", name) for condition in (*service.proof, *service.hint, *service.mark) for name in condition}
        keys |= {("interface", name) for name in service.interfaces}
        keys |= {("handout", kind) for kind in service.handed_out_by}
        if service.interfaces or service.unknown_interface:
            keys |= {("protocol", protocol) for protocol in service.over}
        if service.plain or service.opaque:
            keys |= {key for candidate in self.by_service[service.id] for key in self._port_keys(candidate.form)}
        return keys

    def _port_keys(self, form: Form) -> set[tuple[str, str]]:
        """One key for each run of ports that an endpoint covers; dynamic ports have one key for all."""
        keys = set()
        for endpoint in (*form.endpoints, *form.implied_endpoints):
            if endpoint.kind == "port":
                starts = self._starts[endpoint.transport]
                runs = starts[bisect_right(starts, endpoint.low) - 1 : bisect_right(starts, endpoint.high)]
                keys |= {(endpoint.transport, str(start)) for start in runs}
            elif endpoint.kind == "dynamic":
                keys.add((endpoint.transport, "dynamic"))
        return keys

    def _remember_patterns(self, rulebook: Rulebook) -> None:
        conditions = list(rulebook.disowning)
        for service in rulebook.services.values():
            conditions += [*service.proof, *service.hint, *service.mark, *service.unless]
        for act in rulebook.acts.values():
            conditions += [*act.signs, *act.unless]
        for condition in conditions:
            for name, patterns in condition.items():
                for pattern in patterns:
                    self._patterns.setdefault(name, {}).setdefault(pattern.text, {name: (pattern,)})

    def fitting(self, name: str, value: str) -> tuple[str, ...]:
        """Texts of the patterns that a sign's value fits; many conversations ask for the same values."""
        known = self._fitting.get((name, value))
        if known is None:
            if len(self._fitting) >= MAX_SIGN_VALUES:
                self._fitting.clear()
            patterns = self._patterns.get(name, {}).items()
            known = tuple(text for text, condition in patterns if condition[name][0].matches(value))
            self._fitting[name, value] = known
        return known

    def relevant(self, facts: Facts, interfaces: Mapping[str, Speech]) -> list[Service]:
        """Services which anything in the facts may concern, each once, in the rulebook's order."""
        starts = self._starts[facts.transport]
        keys = {("protocol", facts.protocol or ""), ("handout", facts.resolved_kind or "")}
        keys |= {("sign", name) for name, _ in facts.signs} | {("interface", name) for name in interfaces}
        if facts.protocol is None:
            start = starts[bisect_right(starts, facts.server_port) - 1]
            keys |= {(facts.transport, str(start)), (facts.transport, "dynamic")}
        return list({service.id: service for key in keys for service in self._by_key.get(key, ())}.values())


def _by_protocol(rulebook: Rulebook) -> Mapping[str, list[Act]]:
    """The acts that a conversation of each payload protocol can show."""
    found: dict[str, list[Act]] = {}
    for act in rulebook.acts.values():
        protocols = {protocol for protocol, _ in act.plain} | (_DIRECT if act.interfaces else frozenset())
        for service in (rulebook.services[name] for name in act.services):
            protocols |= {name.rpartition(".")[0] for condition in service.proof for name in condition}
            protocols |= {*service.over, "epm"} if service.interfaces else set()
        protocols |= {"rpc-over-http"} if "http" in protocols else set()
        for protocol in protocols:
            found.setdefault(protocol, []).append(act)
    return found


def candidates(rulebook: Rulebook) -> Iterable[Candidate]:
    """Every form of every path, once for each direction."""
    numbers = count()
    for place, path in enumerate(rulebook.paths.values()):
        order = (RANKS.index(path.rank), place)
        for form in path.forms:
            yield Candidate(next(numbers), path, form, form.client_roles, form.server_roles, order)
            if form.both_ways and form.client_roles != form.server_roles:
                yield Candidate(next(numbers), path, form, form.server_roles, form.client_roles, order)


@lru_cache(maxsize=8)
def _index(rulebook: Rulebook) -> _Index:
    return _Index(rulebook)
