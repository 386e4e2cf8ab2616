"""Conversations → hosts: what each host was seen to do, and so which roles it plays, once over all conversations.

Works on arrays: an act is looked for in each distinct set of facts, and the hosts that show it are found all at once.
Of many conversations that show the same, the first counts, so neither their order in memory nor how the capture was
cut changes anything. Of a live capture the conversations leave; what hosts did in them is remembered (`Remembered`).
Decides no label, and must not know what an act is recognised by (`matching`) or what follows from it (`roles`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier import roles
from classifier.hosts import NOBODY, UNKNOWN, Host, Known, Reason
from classifier.inspectors.base import Evidence, Place
from classifier.labelling import SILENCE, Labels, Scene, Tenants
from classifier.limits import LIVE_HOSTS, LIVE_NAMES
from classifier.matching import acts_in
from classifier.model import EXCHANGE_ROLES
from classifier.rules import Act, Condition, Rulebook
from classifier.verdicts import agrees

Seen = dict[str, int]
"""act → the first conversation that shows it, of one host."""


@dataclass(slots=True)
class Memory:
    """What is remembered of one address. acts: each with its first reason; names: rank and conversation of each.

    newest: start of the newest conversation, in nanoseconds.
    """

    acts: dict[str, Reason] = field(default_factory=dict)
    names: dict[str, tuple[int, int]] = field(default_factory=dict)
    newest: int = 0


@dataclass(slots=True)
class Remembered:
    """What hosts did, and what they are called, by address; of more than `limits.LIVE_HOSTS` the longest silent go.

    A conversation that is here again is read anew: what was remembered of it gives way to what it shows now.
    """

    hosts: dict[str, Memory] = field(default_factory=dict)
    forgotten: int = 0

    def recall(self, scene: Scene, tenants: Tenants) -> dict[int, Memory]:
        """What is remembered of the hosts of a scene beyond its own conversations, by their number in tenants."""
        if not self.hosts:
            return {}
        texts = scene.addresses.texts
        known = [each for each, at in enumerate(tenants.addresses.tolist()) if texts[at] in self.hosts]
        first, _ = tenants.spans(scene.table)
        found = {}
        for each in known:
            memory = self.hosts[texts[tenants.addresses[each]]]
            if first[each] - memory.newest < SILENCE:
                found[each] = memory
        return _without(found, scene)

    def keep(self, scene: Scene, tenants: Tenants, told: Mapping[int, Mapping[str, Reason]], names: _Names) -> None:
        """Remember what the hosts of a scene did and are called, with what was recalled of them."""
        _, newest = tenants.spans(scene.table)
        for each in sorted({*told, *names.of}):
            address = scene.addresses.texts[tenants.addresses[each]]
            called = sorted(names.of.get(each, {}).items(), key=lambda item: item[1])[:LIVE_NAMES]
            self.hosts.pop(address, None)
            if called or told.get(each):
                self.hosts[address] = Memory(dict(told.get(each, {})), dict(called), int(newest[each]))
        while len(self.hosts) > LIVE_HOSTS:
            del self.hosts[next(iter(self.hosts))]
            self.forgotten += 1


def _without(found: dict[int, Memory], scene: Scene) -> dict[int, Memory]:
    """The same, without what stands on conversations of this scene, or on acts that signatures no longer know."""
    acts = scene.rulebook.acts
    standing = [
        *(reason.conversation for memory in found.values() for reason in memory.acts.values()),
        *(conversation for memory in found.values() for _, conversation in memory.names.values()),
    ]
    here = {number for number, index in zip(standing, scene.indexes(standing), strict=True) if index >= 0}
    return {
        each: Memory(
            {act: reason for act, reason in memory.acts.items() if act in acts and reason.conversation not in here},
            {name: ranked for name, ranked in memory.names.items() if ranked[1] not in here},
        )
        for each, memory in found.items()
    }


def meet(scene: Scene, tenants: Tenants, first: Labels, remembered: Remembered | None = None) -> list[Host]:
    """What every host is, by its number in tenants, from first decisions, which knew no hosts."""
    recalled = remembered.recall(scene, tenants) if remembered is not None else {}
    seen = _Seen(scene, tenants, first, recalled)
    names = _names(scene, tenants, recalled)
    seen.look(peers=None, names=names)
    casting: dict[int, dict[str, tuple[str, ...]]] = {}
    listed = [UNKNOWN] * len(tenants.addresses)
    if scene.inventory.entries:
        listed = [scene.inventory.known(scene.addresses.texts[number]) for number in tenants.addresses.tolist()]
    for step in range(len(roles.STEPS)):
        if step:
            seen.look(peers=_roles(listed, casting), names=names)
        casting = _cast(scene.rulebook, seen, listed, step)
    told = _told(scene, seen)
    if remembered is not None:
        remembered.keep(scene, tenants, told, names)
    return _hosts(scene, told, casting, listed, names)


def _roles(listed: list[Known], casting: Mapping[int, Mapping[str, object]]) -> list[frozenset[str]]:
    """Roles of every host as far as they are known."""
    found = [known.roles for known in listed]
    for number, cast in casting.items():
        found[number] = found[number] or frozenset(cast)
    return found


def _cast(rulebook: Rulebook, seen: _Seen, listed: list[Known], step: int) -> dict[int, dict[str, tuple[str, ...]]]:
    """Roles of every host that did anything, once for each distinct set of acts."""
    made: dict[tuple[frozenset[str], Known], dict[str, tuple[str, ...]]] = {}
    found = {}
    for number, acts in seen.all_acts():
        key = (acts, listed[number])
        if key not in made:
            versions = listed[number].versions or roles.versions_of(rulebook, acts)
            made[key] = roles.cast(rulebook, key[0], versions, listed[number].roles, step)
        found[number] = made[key]
    return found


# ---- who did what ----------------------------------------------------------------------------


class _Seen:
    """The acts of every host, by number. recalled: what they did before."""

    def __init__(self, scene: Scene, tenants: Tenants, first: Labels, recalled: Mapping[int, Memory]) -> None:
        self._scene, self._tenants, self._rulebook, self.recalled = scene, tenants, scene.rulebook, recalled
        self.acts: dict[int, Seen] = {}
        showing: dict[str, list[int]] = {}
        for code, (facts, decision) in enumerate(zip(first.facts, first.decisions, strict=True)):
            labelled = decision.certainty in ("certain", "strong")
            for act in acts_in(scene.rulebook, facts, labelled=labelled):
                showing.setdefault(act.id, []).append(code)
        of_interest = np.zeros(len(first.facts), np.bool_)
        of_interest[[code for codes in showing.values() for code in codes]] = True
        rows = scene.in_order(np.flatnonzero(of_interest[first.codes]))
        codes = first.codes[rows]
        self._rows: dict[str, NDArray[np.int64]] = {}
        for act_id, theirs in showing.items():
            shown = np.zeros(len(first.facts), np.bool_)
            shown[theirs] = True
            self._rows[act_id] = rows[shown[codes]]

    def all_acts(self) -> Iterator[tuple[int, frozenset[str]]]:
        """Every host that did anything, with its acts now and before."""
        for number in sorted({*self.acts, *self.recalled}):
            before = self.recalled[number].acts if number in self.recalled else {}
            yield number, frozenset((*self.acts.get(number, {}), *before))

    def look(self, peers: list[frozenset[str]] | None, names: _Names) -> None:
        """Enter the acts that ask no peers, or (with the peers' roles) those that do."""
        for act_id, rows in self._rows.items():
            act = self._rulebook.acts[act_id]
            if bool(act.peers) == (peers is None):
                continue
            if act.side == "named":
                self._enter_named(act, rows, names)
                continue
            sides = self._tenants
            mine, other = (sides.server, sides.client) if act.side == "server" else (sides.client, sides.server)
            if peers is not None:
                fits = np.array([not theirs.isdisjoint(act.peers) for theirs in peers], np.bool_)
                rows = rows[fits[other[rows]]]
            hosts, first = np.unique(mine[rows], return_index=True)
            for number, index in zip(hosts.tolist(), rows[first].tolist(), strict=True):
                self.acts.setdefault(number, {}).setdefault(act_id, index)

    def _enter_named(self, act: Act, rows: NDArray[np.int64], names: _Names) -> None:
        codes, first = np.unique(self._scene.inspection.codes[rows], return_index=True)
        for code, index in sorted(zip(codes.tolist(), rows[first].tolist(), strict=True), key=lambda pair: pair[1]):
            entry = self._scene.inspection.found[code]
            for name in _named(act, entry) if isinstance(entry, Evidence) else ():
                for number in names.bearers(name):
                    self.acts.setdefault(number, {}).setdefault(act.id, index)


def _named(act: Act, evidence: Evidence) -> Iterator[str]:
    """Hosts that the signs of an act name: behind the slash of a service, or at the end of a DNS record."""
    for condition in act.signs:
        for sign in evidence.signs:
            if sign.field in _NAME_IN and _fits(condition, sign.field, sign.value):
                yield sign.value.rpartition(_NAME_IN[sign.field])[2]


_NAME_IN: Final = {"kerberos.service": "/", "dns.answer": " "}


def _fits(condition: Condition, field: str, value: str) -> bool:
    return any(pattern.matches(value) for pattern in condition.get(field, ()))


# ---- names ------------------------------------------------------------------------------------

_NAMING: Final = {
    "ntlm.server-dns": (0, "server"),
    "smtp.ehlo-name": (1, "server"),
    "tls.certificate-san": (2, "server"),
    "ntlm.workstation": (3, "client"),
    "smtp.helo": (4, "client"),
}
"""Signs that name a host: how much they are worth (less is better), and whose name it is."""

_NAMING_PROTOCOLS: Final = frozenset({"smtp", "dcerpc", "smb", "ncacn-http", "pop3", "imap4", "ldap"})
_BEST: Final = -1
"""Rank of a name that the DNS gives."""


@dataclass(slots=True)
class _Names:
    """of: host number → name → the best (rank, number of the conversation). bearers: name in lower case → hosts."""

    of: dict[int, dict[str, tuple[int, int]]] = field(default_factory=dict)
    _bearers: dict[str, set[int]] = field(default_factory=dict)

    def add(self, number: int, rank: int, conversation: int, name: str) -> None:
        """A name of a host, seen in a conversation."""
        self._bearers.setdefault(name.lower().rstrip("."), set()).add(number)
        mine = self.of.setdefault(number, {})
        mine[name] = min((rank, conversation), mine.get(name, (rank, conversation)))

    def best(self, number: int) -> str:
        """What a host is called, "" if nobody says."""
        return min(self.of.get(number, {"": (0, 0)}).items(), key=lambda item: (item[1], item[0]))[0]

    def bearers(self, name: str) -> list[int]:
        """Numbers of the hosts that have this name."""
        return sorted(self._bearers.get(name.lower().rstrip("."), ()))


def _names(scene: Scene, tenants: Tenants, recalled: Mapping[int, Memory]) -> _Names:
    """Names from NTLM challenges, SMTP, certificates and the DNS, for the hosts in the capture."""
    names, found = _Names(), scene.inspection.found
    for number, memory in recalled.items():
        for name, (rank, conversation) in memory.names.items():
            names.add(number, rank, conversation, name)
    said = {
        code: [(sign.field, sign.value) for sign in entry.signs if sign.field in _NAMING]
        for code, entry in enumerate(found)
        if isinstance(entry, Evidence) and entry.protocol in _NAMING_PROTOCOLS
    }
    telling = np.zeros(len(found), np.bool_)
    telling[[code for code, signs in said.items() if signs]] = True
    in_run = scene.table.rows["number"]
    rows = scene.in_order(np.flatnonzero(telling[scene.inspection.codes]))
    codes = scene.inspection.codes[rows].astype(np.int64)
    for side, numbers in (("server", tenants.server), ("client", tenants.client)):
        pairs, first = np.unique((codes << 32) | numbers[rows], return_index=True)
        for pair, conversation in zip(pairs.tolist(), in_run[rows[first]].tolist(), strict=True):
            for sign, value in said[pair >> 32]:
                rank, whose = _NAMING[sign]
                if whose == side and "*" not in value and value:
                    names.add(pair & 0xFFFFFFFF, rank, conversation, value)
    _names_of_dns(scene, tenants, names)
    return names


def _names_of_dns(scene: Scene, tenants: Tenants, names: _Names) -> None:
    numbers: dict[str, list[int]] = {}
    for number, address in enumerate(tenants.addresses.tolist()):
        numbers.setdefault(scene.addresses.texts[address], []).append(number)
    for index, evidence in scene.first_with_evidence(lambda entry: entry.protocol == "dns"):
        for sign in evidence.signs:
            name, kind, value = (*sign.value.split(" ", 2), "", "")[:3]
            if sign.field == "dns.answer" and kind in ("A", "AAAA"):
                for number in numbers.get(value, ()):
                    names.add(number, _BEST, scene.number(index), name)


# ---- what comes of it -------------------------------------------------------------------------


def _told(scene: Scene, seen: _Seen) -> dict[int, dict[str, Reason]]:
    """Every act of every host, with the first conversation that shows it, be it one that has left."""
    frames = _frames(scene, seen.acts)
    told = {
        number: {act: Reason(act, scene.number(index), frames[number, act]) for act, index in acts.items()}
        for number, acts in seen.acts.items()
    }
    for number, memory in seen.recalled.items():
        mine = told.setdefault(number, {})
        for act, reason in memory.acts.items():
            if act not in mine or reason.conversation < mine[act].conversation:
                mine[act] = reason
    return told


def _hosts(
    scene: Scene, told: Mapping[int, Mapping[str, Reason]], casting: Mapping[int, Mapping[str, tuple[str, ...]]],
    listed: list[Known], names: _Names,
) -> list[Host]:  # fmt: skip
    hosts = []
    for number, mine in enumerate(listed):
        acts, cast, name = told.get(number, {}), casting.get(number, {}), names.best(number)
        if not acts and not name and mine is UNKNOWN:
            hosts.append(NOBODY)
            continue
        known = mine.roles or cast.keys()
        ours = not known or not EXCHANGE_ROLES.isdisjoint(known)  # a mail program has no version of Exchange
        versions = roles.versions_of(scene.rulebook, acts) if ours else frozenset()
        reasons = {role: tuple(acts[act] for act in cast[role]) for role in sorted(cast)}
        inferred = Known(frozenset(cast), versions, name)
        hosts.append(Host(mine, inferred, reasons, _contradictions(scene.rulebook, mine, acts, reasons, versions)))
    return hosts


def _contradictions(
    rulebook: Rulebook, listed: Known, told: Mapping[str, Reason], reasons: Mapping[str, tuple[Reason, ...]],
    versions: frozenset[str],
) -> dict[str, tuple[Reason, ...]]:  # fmt: skip
    """Roles that the inventory doesn't allow; versions that acts tell and that it doesn't list."""
    found = {role: why for role, why in reasons.items() if listed.roles and not agrees(role, listed.roles)}
    if listed.versions and versions.isdisjoint(listed.versions):
        for act, reason in told.items():
            fitting = rulebook.acts[act].versions
            if fitting and listed.versions.isdisjoint(fitting):
                word = " or ".join(fitting)
                found[word] = (*found.get(word, ()), reason)
    return found


def _frames(scene: Scene, acts: Mapping[int, Seen]) -> dict[tuple[int, str], int]:
    """The frame that shows each act of each host."""
    keys, indexes, places = [], [], []
    made: dict[tuple[str, int], Place] = {}
    book, inspection = scene.rulebook, scene.inspection
    for number, seen in acts.items():
        for act_id, index in seen.items():
            code = int(inspection.codes[index])
            if (act_id, code) not in made:
                made[act_id, code] = _place(book, book.acts[act_id], inspection.evidence(index))
            keys.append((number, act_id))
            indexes.append(index)
            places.append(made[act_id, code])
    if not keys:
        return {}
    return dict(zip(keys, scene.inspection.locate(indexes, places).frames.tolist(), strict=True))


def _place(rulebook: Rulebook, act: Act, evidence: Evidence | None) -> Place:
    """Where in a conversation an act shows: at a sign that it names, an interface, or where the protocol does."""
    if evidence is None:
        return Evidence("").place
    for condition in (*act.signs, *_proofs(rulebook, act)):
        for sign in evidence.signs:
            if _fits(condition, sign.field, sign.value):
                return sign.place
    wanted = {*act.interfaces, *(name for service in act.services for name in rulebook.services[service].interfaces)}
    spoken = [(each.uuid, each.version, each.place) for each in evidence.interfaces]
    spoken += [(each.uuid, each.version, each.place) for each in evidence.queries]
    for uuid, version, place in spoken:
        interface = rulebook.interface(uuid, version)
        if interface and interface.name in wanted:
            return place
    return evidence.place


def _proofs(rulebook: Rulebook, act: Act) -> Iterator[Condition]:
    for service in act.services:
        yield from rulebook.services[service].proof
