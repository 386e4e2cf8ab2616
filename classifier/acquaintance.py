"""Conversations → hosts: what each host was seen to do, and so which roles it plays, once over all conversations.

Works on arrays: an act is looked for in each distinct set of facts, and the hosts that show it are found all at once.
Of many conversations that show the same, the first counts, so neither their order in memory nor how the capture was
cut changes anything. Of a live capture the conversations leave; what hosts did in them is remembered (`Remembered`).
Decides no label, and must not know what an act is recognised by (`matching`) or what follows from it (`roles`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import roles
from classifier.hosts import UNKNOWN, Deeds, Hosts, Known, Part, Reason
from classifier.inspection import members
from classifier.inspectors.base import Evidence, Place
from classifier.labelling import SILENCE, Labels, Scene, Tenants
from classifier.limits import LIVE_HOSTS, LIVE_NAMES
from classifier.matching import acts_in
from classifier.model import EXCHANGE_ROLES
from classifier.numbering import Distinct, distinct_rows
from classifier.rules import Act, Condition, Rulebook
from classifier.verdicts import agrees

Shown = tuple[Act, NDArray[np.int64], NDArray[np.int64]]
"""An act, the hosts that show it, and the first conversation of each."""


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
        named = names.by_host()
        for each in sorted({*told, *named}):
            address = scene.addresses.texts[tenants.addresses[each]]
            called = sorted(named.get(each, {}).items(), key=lambda item: item[1])[:LIVE_NAMES]
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


def meet(scene: Scene, tenants: Tenants, first: Labels, remembered: Remembered | None = None) -> Hosts:
    """What every host is, by its number in tenants, from first decisions, which knew no hosts."""
    recalled = remembered.recall(scene, tenants) if remembered is not None else {}
    seen = _Seen(scene, tenants, first, recalled)
    names = _names(scene, tenants, recalled)
    seen.look(peers=None, names=names)
    entries, entry_of = Distinct[Known | None]([None], {None: 0}), np.zeros(len(tenants.addresses), np.int64)
    if scene.inventory.entries:
        listed = (scene.inventory.known(scene.addresses.texts[number]) for number in tenants.addresses.tolist())
        entry_of = np.array(list(map(entries.code, listed)), np.int64)
    for step in range(1, len(roles.STEPS)):
        seen.look(peers=_peers(scene.rulebook, seen, entries.values, entry_of, step - 1), names=names)
    of, sorts = _sorts(seen, entries.values, entry_of)
    parts = [_part(scene.rulebook, acts, entry) for acts, entry in sorts]
    deeds = _deeds(scene, seen, None if remembered is not None else (parts, of))
    if remembered is not None:
        remembered.keep(scene, tenants, deeds.by_host(range(len(tenants.addresses))), names)
    return Hosts(parts, of, *names.best(len(tenants.addresses)), deeds)


def _sorts(
    seen: _Seen, entries: Sequence[Known | None], entry_of: NDArray[np.int64]
) -> tuple[NDArray[np.int32], list[tuple[frozenset[str], Known | None]]]:
    """Of each host the number of its sort, and of each sort the acts and the entry in the inventory. entry_of: each
    host's."""
    set_of = seen.all_acts()
    of, first = distinct_rows((set_of, entry_of))
    sets, numbers = set_of[first].tolist(), entry_of[first].tolist()
    return of, [(seen.sets.values[acts], entries[entry]) for acts, entry in zip(sets, numbers, strict=True)]


class _Peers(NamedTuple):
    """Roles as far as they are known by a step. of: int32, the number of each host's sort; known: of each sort."""

    of: NDArray[np.int32]
    known: list[frozenset[str]]


def _peers(
    rulebook: Rulebook, seen: _Seen, entries: Sequence[Known | None], entry_of: NDArray[np.int64], step: int
) -> _Peers:
    of, sorts = _sorts(seen, entries, entry_of)
    listed = [(entry or UNKNOWN).roles for _, entry in sorts]
    inferred = [frozenset(_cast(rulebook, acts, entry, step)) for acts, entry in sorts]
    return _Peers(of, [known or told for known, told in zip(listed, inferred, strict=True)])


def _cast(rulebook: Rulebook, acts: frozenset[str], entry: Known | None, step: int) -> dict[str, tuple[str, ...]]:
    """The roles of a sort of hosts that a step infers, with the acts that they stand on."""
    if not acts:
        return {}
    listed = entry or UNKNOWN
    return roles.cast(rulebook, acts, listed.versions or roles.versions_of(rulebook, acts), listed.roles, step)


def _part(rulebook: Rulebook, acts: frozenset[str], entry: Known | None) -> Part:
    """What a sort of hosts plays in the end."""
    listed, versions = entry or UNKNOWN, roles.versions_of(rulebook, acts)
    cast = dict(sorted(_cast(rulebook, acts, entry, len(roles.STEPS) - 1).items()))
    known = listed.roles or frozenset(cast)
    if known and EXCHANGE_ROLES.isdisjoint(known):  # a mail program has no version of Exchange
        versions = frozenset()
    against = {role: why for role, why in cast.items() if listed.roles and not agrees(role, listed.roles)}
    if listed.versions and versions.isdisjoint(listed.versions):
        for act in filter(acts.__contains__, rulebook.acts):
            fitting = rulebook.acts[act].versions
            if fitting and listed.versions.isdisjoint(fitting):
                word = " or ".join(fitting)
                against[word] = (*against.get(word, ()), act)
    return Part(entry, Known(frozenset(cast), versions), cast, against)


# ---- who did what ----------------------------------------------------------------------------


class _Seen:
    """The acts of every host, by number. recalled: what they did before.

    shown: all of them. sets: distinct sets of acts.
    """

    def __init__(self, scene: Scene, tenants: Tenants, first: Labels, recalled: Mapping[int, Memory]) -> None:
        self._scene, self._tenants, self.recalled = scene, tenants, recalled
        self.shown: list[Shown] = []
        self.sets = Distinct[frozenset[str]]()
        self._set_of = np.full(len(tenants.addresses), self.sets.code(frozenset()), np.int64)
        showing: dict[str, NDArray[np.bool_]] = {}
        for code, (facts, decision) in enumerate(zip(first.facts, first.decisions, strict=True)):
            labelled = decision.certainty in ("certain", "strong")
            for act in acts_in(scene.rulebook, facts, labelled=labelled):
                showing.setdefault(act.id, np.zeros(len(first.facts), np.bool_))[code] = True
        of_interest = np.any([np.zeros(len(first.facts), np.bool_), *showing.values()], axis=0)
        rows = scene.in_order(np.flatnonzero(of_interest[first.codes]))
        codes = first.codes[rows]
        alike = {
            side: distinct_rows((codes, hosts[rows]))[1]
            for side, hosts in (("client", tenants.client), ("server", tenants.server))
        }
        self._rows: dict[str, NDArray[np.int64]] = {}
        for act_id, shown in showing.items():
            act = scene.rulebook.acts[act_id]
            which = slice(None) if act.peers or act.side == "named" else alike[act.side]
            self._rows[act_id] = rows[which][shown[codes[which]]]

    def all_acts(self) -> NDArray[np.int64]:
        """The number of each host's set of acts, now and before."""
        numbers = self._set_of.copy()
        for number, memory in self.recalled.items():
            numbers[number] = self.sets.code(self.sets.values[numbers[number]].union(memory.acts))
        return numbers

    def look(self, peers: _Peers | None, names: _Names) -> None:
        """Enter the acts that ask no peers, or (with what the peers play) those that do."""
        for act_id, rows in self._rows.items():
            act = self._scene.rulebook.acts[act_id]
            if bool(act.peers) == (peers is None):
                continue
            if act.side == "named":
                self._enter_named(act, rows, names)
                continue
            sides = self._tenants
            mine, other = (sides.server, sides.client) if act.side == "server" else (sides.client, sides.server)
            if peers is not None:
                fits = np.array([not known.isdisjoint(act.peers) for known in peers.known], np.bool_)
                rows = rows[fits[peers.of[other[rows]]]]
            rows = rows[distinct_rows((mine[rows],))[1]]
            self._enter(act, mine[rows], rows)

    def _enter_named(self, act: Act, rows: NDArray[np.int64], names: _Names) -> None:
        _, first = distinct_rows((self._scene.inspection.codes[rows],))
        met: dict[int, int] = {}
        for index in sorted(rows[first].tolist()):
            entry = self._scene.inspection.evidence(index)
            for name in _named(act, entry) if entry is not None else ():
                for number in names.bearers(name):
                    met.setdefault(number, index)
        self._enter(act, np.array(list(met), np.int64), np.array(list(met.values()), np.int64))

    def _enter(self, act: Act, hosts: NDArray[np.int64], indexes: NDArray[np.int64]) -> None:
        """An act of distinct hosts, with the first conversation of each, unless it is known of a host already."""
        before, of = np.unique(self._set_of[hosts], return_inverse=True)
        after = [self.sets.code(self.sets.values[number] | {act.id}) for number in before.tolist()]
        new = np.array(after, np.int64)[of]
        fresh = new != self._set_of[hosts]
        self._set_of[hosts] = new
        self.shown.append((act, hosts[fresh], indexes[fresh]))


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
    "server": {"ntlm.server-dns": 0, "smtp.ehlo-name": 1, "tls.certificate-san": 2},
    "client": {"ntlm.workstation": 3, "smtp.helo": 4},
}
"""Signs that name the host of each side, and how much they are worth: less is better."""

_NAMING_PROTOCOLS: Final = frozenset({"smtp", "dcerpc", "smb", "ncacn-http", "pop3", "imap4", "ldap"})
_BEST: Final = -1
"""Rank of a name that the DNS gives."""


class _Names:
    """What hosts are called. rows: int64, host, rank, number of the conversation that says so, and index into texts."""

    def __init__(self, rows: NDArray[np.int64], texts: list[str]) -> None:
        self.rows, self._texts = rows, texts
        folded = Distinct[str]()
        fold_of = np.array([folded.code(_folded(text)) for text in texts], np.int64)[rows[:, 3]]
        order = np.argsort(fold_of, kind="stable")
        ends = np.cumsum(np.bincount(fold_of, minlength=len(folded.values)))
        self._bearers = dict(zip(folded.values, np.split(rows[order, 0], ends), strict=False))  # and nothing behind

    def by_host(self) -> dict[int, dict[str, tuple[int, int]]]:
        """host → name → the best (rank, number of the conversation)."""
        found: dict[int, dict[str, tuple[int, int]]] = {}
        for host, rank, conversation, name in self.rows.tolist():
            mine, text = found.setdefault(host, {}), self._texts[name]
            mine[text] = min((rank, conversation), mine.get(text, (rank, conversation)))
        return found

    def best(self, count: int) -> tuple[list[str], NDArray[np.int64]]:
        """Distinct names, and which of them each host is called, -1 if nobody says: by rank, conversation and
        alphabet."""
        alphabet = sorted(range(len(self._texts)), key=self._texts.__getitem__)
        place = np.argsort(np.array(alphabet, np.int64))
        hosts, rank, conversation, name = self.rows.T
        order = np.lexsort((place[name], conversation, rank))[::-1]
        called = np.full(count, -1)
        called[hosts[order]] = name[order]  # of equal hosts the last one written stays
        return self._texts, called

    def bearers(self, name: str) -> list[int]:
        """Numbers of the hosts that have this name, in letters of either case."""
        return sorted(map(int, {*self._bearers.get(_folded(name), ())}))


def _folded(name: str) -> str:
    return name.lower().rstrip(".")


def _names(scene: Scene, tenants: Tenants, recalled: Mapping[int, Memory]) -> _Names:
    """Names from NTLM challenges, SMTP, certificates and the DNS, for the hosts in the capture."""
    texts = Distinct[str]()
    listed = [
        (host, rank, conversation, texts.code(name))
        for host, memory in recalled.items()
        for name, (rank, conversation) in memory.names.items()
    ]
    listed += _names_of_dns(scene, tenants, texts)
    parts = [np.array(listed, np.int64).reshape(-1, 4)]
    for side, hosts in (("server", tenants.server), ("client", tenants.client)):
        told = [_names_in(entry, _NAMING[side]) for entry in scene.inspection.found]
        flat = np.array([(rank, texts.code(name)) for each in told for rank, name in each], np.int64).reshape(-1, 2)
        sizes = np.array([len(each) for each in told], np.int64)
        rows = scene.in_order(np.flatnonzero(sizes[scene.inspection.codes]))
        rows = rows[distinct_rows((scene.inspection.codes[rows], hosts[rows]))[1]]
        codes = scene.inspection.codes[rows]
        spread, names = np.repeat(rows, sizes[codes]), flat[members(sizes, codes)]
        parts.append(np.column_stack([hosts[spread], names[:, 0], scene.table.rows["number"][spread], names[:, 1]]))
    return _Names(np.concatenate(parts), texts.values)


def _names_in(entry: object, naming: Mapping[str, int]) -> list[tuple[int, str]]:
    """Ranks and names that the signs of a payload give."""
    if not isinstance(entry, Evidence) or entry.protocol not in _NAMING_PROTOCOLS:
        return []
    told = [(naming[sign.field], sign.value) for sign in entry.signs if sign.field in naming]
    return [(rank, name) for rank, name in told if name and "*" not in name]


def _names_of_dns(scene: Scene, tenants: Tenants, texts: Distinct[str]) -> Iterator[tuple[int, int, int, int]]:
    hosts = np.argsort(tenants.addresses, kind="stable")
    address_of = tenants.addresses[hosts]
    for index, evidence in scene.first_with_evidence(lambda entry: entry.protocol == "dns"):
        for sign in evidence.signs:
            name, kind, value = (*sign.value.split(" ", 2), "", "")[:3]
            if sign.field == "dns.answer" and kind in ("A", "AAAA") and name:
                address = scene.addresses.numbers.get(value, -1)
                first, end = np.searchsorted(address_of, (address, address + 1)).tolist()
                for host in hosts[first:end].tolist():
                    yield host, _BEST, scene.number(index), texts.code(name)


# ---- what comes of it -------------------------------------------------------------------------


def _deeds(scene: Scene, seen: _Seen, cast: tuple[Sequence[Part], NDArray[np.int32]] | None) -> Deeds:
    """Every act of every host, with the first conversation that shows it, be it one that has left. cast: parts, and the
    number of each host's; where it is given, only acts that parts name."""
    shown = seen.shown
    if cast is not None:
        named = [frozenset(chain.from_iterable((*part.cast.values(), *part.contradicted.values()))) for part in cast[0]]
        shown = [_named_in(named, cast[1], *each) for each in shown]
    acts = Distinct[str]()
    rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, _, rows in shown)])
    hosts = np.concatenate([np.zeros(0, np.int64), *(hosts for _, hosts, _ in shown)])
    codes = np.array([acts.code(act.id) for act, _, _ in shown], np.int64)
    of = np.repeat(codes, np.array([len(rows) for _, _, rows in shown], np.int64))
    told = np.stack((hosts, of, scene.table.rows["number"][rows], _frames(scene, shown)))
    recalled = [
        (host, acts.code(act), reason.conversation, reason.frame)
        for host, memory in seen.recalled.items()
        for act, reason in memory.acts.items()
    ]
    return Deeds.of(acts.values, np.concatenate((told, np.array(recalled, np.int64).reshape(-1, 4).T), axis=1))


def _named_in(
    named: Sequence[frozenset[str]], of: NDArray[np.int32], act: Act, hosts: NDArray[np.int64], rows: NDArray[np.int64]
) -> Shown:
    """An act, where the parts of its hosts name it."""
    told = np.array([act.id in acts for acts in named], np.bool_)[of[hosts]]
    return act, hosts[told], rows[told]


def _frames(scene: Scene, shown: list[Shown]) -> NDArray[np.int64]:
    """The frame that shows each act of each host."""
    rows, places = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    for act, _, theirs in shown:
        of, first = distinct_rows((scene.inspection.codes[theirs],))
        found = [_place(scene.rulebook, act, scene.inspection.evidence(index)) for index in theirs[first].tolist()]
        rows.append(theirs)
        places.append(np.array(found, np.int64).reshape(-1, 2)[of])
    side, offset = np.concatenate(places).T
    return scene.inspection.locate_all(np.concatenate(rows), side, offset).frames


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
