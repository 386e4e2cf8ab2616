"""Evidence of all conversations → what was handed out, and one decision for each distinct set of facts.

Joins what single conversations can't know: which announcement covers a port, which two HTTP connections are one
RPC association. Takes what is known of the hosts as given. Decides nothing itself: that is `verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.addresses import Addresses
from classifier.compiled import Records, i64, kernel
from classifier.conversations import ConversationTable
from classifier.endpoints import Claim, EndpointMap, reachable
from classifier.headers import TCP
from classifier.hosts import Hosts, Inventory, Known
from classifier.inspection import Inspection, are_channels, members, side_and_offset
from classifier.inspectors import rpc_http
from classifier.inspectors.base import Evidence, Handout, Place
from classifier.inspectors.rpc_http import ChannelEvidence
from classifier.matching import Facts, telling_signs
from classifier.numbering import Distinct, distinct_rows
from classifier.orientation import METHOD, Orientation
from classifier.rulebook import Rulebook
from classifier.streams import LIMITED, PAYLOAD, STARTED, TRUNCATED
from classifier.verdicts import Decision, decide, judge, standing_for

MAPPERS: Final = frozenset({135, 139, 445, 593})
"""Ports that are never handed out: the endpoint mapper's own and those of named pipes ([MS-RPCE] 2.1.1)."""

ENCRYPTED: Final = frozenset({"tls", "ssh", "quic"})


@dataclass(slots=True)
class Sides:
    """Client and server of every conversation: address numbers and ports, by the present orientation."""

    client: NDArray[np.int32]
    server: NDArray[np.int32]
    client_port: NDArray[np.int64]
    server_port: NDArray[np.int64]

    @classmethod
    def of(cls, table: ConversationTable, addresses: Addresses, orientation: Orientation) -> Sides:
        """Turn endpoints a and b into client and server."""
        rows, swapped = table.rows[: table.count], orientation.client == 1
        a_port, b_port = rows["a_port"].astype(np.int64), rows["b_port"].astype(np.int64)
        return cls(
            np.where(swapped, addresses.b, addresses.a),
            np.where(swapped, addresses.a, addresses.b),
            np.where(swapped, b_port, a_port),
            np.where(swapped, a_port, b_port),
        )


SILENCE: Final = 30 * 86_400 * 10**9
"""Nanoseconds after which an address may belong to another machine: longer than any usual DHCP lease, shorter than
what lies between captures of different years."""


@dataclass(slots=True)
class Tenants:
    """Who holds an address: one host, until it is silent for long (`SILENCE`).

    client, server: number of each conversation's hosts. addresses: number of each host's address.
    """

    client: NDArray[np.int64]
    server: NDArray[np.int64]
    addresses: NDArray[np.int64]

    @classmethod
    def of(cls, table: ConversationTable, addresses: Addresses, sides: Sides) -> Tenants:
        """Number the hosts by address and time."""
        starts = table.rows["start"][: table.count]
        client, server = sides.client.astype(np.int64), sides.server.astype(np.int64)
        if not len(starts) or int(starts.max()) - int(starts.min()) < SILENCE:
            return cls(client, server, np.arange(len(addresses.texts)))
        both, times = np.concatenate([client, server]), np.concatenate([starts, starts])
        order = np.lexsort((times, both))
        new = (np.diff(both[order]) != 0) | (np.diff(times[order]) >= SILENCE)
        numbers = np.zeros(len(both), np.int64)
        numbers[order] = np.concatenate([[0], np.cumsum(new)])
        firsts = order[np.concatenate([[True], new])]
        return cls(numbers[: len(starts)], numbers[len(starts) :], both[firsts])

    def spans(self, table: ConversationTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """When the first and the last conversation of each host began, in nanoseconds."""
        starts = table.rows["start"][: table.count]
        first, last = np.full(len(self.addresses), 2**63 - 1), np.zeros(len(self.addresses), np.int64)
        for side in (self.client, self.server):
            np.minimum.at(first, side, starts)
            np.maximum.at(last, side, starts)
        return first, last


@dataclass(slots=True)
class Scene:
    """Everything about a run's conversations that labels are made from."""

    table: ConversationTable
    addresses: Addresses
    orientation: Orientation
    inspection: Inspection
    endpoint_map: EndpointMap
    inventory: Inventory
    rulebook: Rulebook
    sides: Sides

    def tenants(self) -> Tenants:
        """The hosts behind the addresses, by the present orientation."""
        return Tenants.of(self.table, self.addresses, self.sides)

    def number(self, index: int) -> int:
        """Number of the conversation in the run, which its id and announcements name."""
        return int(self.table.rows["number"][index])

    def indexes(self, numbers: Sequence[int]) -> list[int]:
        """The conversations with these numbers, -1 for one that isn't here."""
        own = self.table.rows["number"][: self.table.count]
        if not len(own) or not numbers:
            return [-1] * len(numbers)
        order = np.argsort(own, kind="stable")
        place = np.minimum(np.searchsorted(own, numbers, sorter=order), len(own) - 1)
        return np.where(own[order[place]] == numbers, order[place], -1).tolist()

    def with_evidence(self, wanted: Callable[[Evidence], object]) -> Iterator[tuple[int, Evidence]]:
        """Conversations whose evidence has what is wanted (asked once for each distinct evidence)."""
        return self._evidence_of(self.having(wanted).tolist())

    def first_with_evidence(self, wanted: Callable[[Evidence], object]) -> Iterator[tuple[int, Evidence]]:
        """Of the conversations with the same evidence only the one that began first."""
        rows = self.in_order(self.having(wanted))
        _, first = distinct_rows((self.inspection.codes[rows],))
        return self._evidence_of(rows[first].tolist())

    def in_order(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Conversations in the order in which they began, which a live table doesn't keep."""
        return rows[np.argsort(self.table.rows["number"][rows], kind="stable")]

    def having(self, wanted: Callable[[Evidence], object]) -> NDArray[np.int64]:
        """Indexes of the conversations whose evidence has what is wanted (asked once for each distinct evidence)."""
        found = self.inspection.found
        having = np.array([isinstance(entry, Evidence) and bool(wanted(entry)) for entry in found])
        return np.flatnonzero(having[self.inspection.codes])

    def _evidence_of(self, indexes: Iterable[int]) -> Iterator[tuple[int, Evidence]]:
        for index in indexes:
            entry = self.inspection.evidence(index)
            if entry is not None:
                yield index, entry


# ---- two connections, one association -------------------------------------------------------


def join_channels(inspection: Inspection) -> None:
    """Let the two HTTP connections of an RPC virtual connection tell what only both together know."""
    halves: dict[str, dict[int, int]] = {}
    for index in np.flatnonzero(are_channels(inspection.found)[inspection.codes]).tolist():
        evidence = inspection.found[inspection.codes[index]]
        if isinstance(evidence, ChannelEvidence) and evidence.virtual_connection:
            halves.setdefault(evidence.virtual_connection, {})[int(inspection.codes[index])] = index
    for pair in halves.values():
        if len(pair) == 2:
            one, other = pair.values()
            halves_found = [inspection.found[inspection.codes[index]] for index in (one, other)]
            channels = [entry for entry in halves_found if isinstance(entry, ChannelEvidence)]
            for index, evidence in zip((one, other), rpc_http.join(*channels), strict=True):
                inspection.codes[index] = len(inspection.found)
                inspection.found.append(evidence)


# ---- orientation by payload and by announcement --------------------------------------------


def orient_by_payload(orientation: Orientation, inspection: Inspection) -> None:
    """Where no handshake told, what the payload proves counts."""
    proofs = [entry.reversed if isinstance(entry, Evidence) else None for entry in inspection.found]
    proven = np.array([proof is not None for proof in proofs])[inspection.codes] & ~orientation.proven
    turned = np.array([proof is True for proof in proofs])[inspection.codes]
    index = np.flatnonzero(proven)
    orientation.decide(index, inspection.client[index] ^ turned[index], "payload")


def orient_by_announcement(scene: Scene) -> None:
    """Where neither handshake nor payload told, the side whose port was handed out serves."""
    undecided = np.flatnonzero(scene.orientation.method >= METHOD["known-port"])
    rows, addresses = scene.table.rows, scene.addresses
    a = _known_ports(scene, undecided, addresses.a, rows["a_port"]) >= 0
    b = _known_ports(scene, undecided, addresses.b, rows["b_port"]) >= 0
    if (a != b).any():
        scene.orientation.decide(undecided[a != b], a[a != b].astype(np.int8), "endpoint-map")
        scene.sides = Sides.of(scene.table, scene.addresses, scene.orientation)


# ---- what was handed out ----------------------------------------------------------------------


def learn(scene: Scene) -> None:
    """Enter into the endpoint map what every conversation handed out or bound."""
    inspection, sides = scene.inspection, scene.sides
    rows = scene.having(lambda entry: entry.handouts or entry.interfaces)
    ports = 2 * sides.server_port[rows] + (scene.table.rows["protocol"][rows] != TCP)
    speakers = inspection.codes[rows], sides.server[rows], ports
    alike, first = distinct_rows(speakers)
    distinct = zip(*(column[first].tolist() for column in speakers), strict=True)
    claims = [
        list(_claims(inspection.found[code], scene.addresses.texts[server], port, scene.inventory))
        for code, server, port in distinct
    ]
    sizes = np.array([len(each) for each in claims], np.int64)
    claim = members(sizes, alike)
    index = np.repeat(rows, sizes[alike])
    side, offset = side_and_offset(place for each in claims for _, place in each)
    located = inspection.locate_all(index, side[claim], offset[claim])
    when = np.stack([located.times, located.frames, scene.table.rows["number"][index]])
    scene.endpoint_map.enter([each for own in claims for each, _ in own], claim, when)
    scene.endpoint_map.settle()


def _claims(said: object, server: str, port: int, inventory: Inventory) -> Iterator[tuple[Claim, Place]]:
    """What a conversation hands out or binds, and where it says so. port: of the server, twice, and 1 for UDP."""
    if not isinstance(said, Evidence):
        return
    for handout in said.handouts:
        owner = _owner(server, handout, inventory)
        if owner and 0 < handout.port < 65_536:
            transport = "udp" if handout.transport == "udp" else "tcp"
            yield Claim(
                owner, transport, handout.port, handout.uuid, handout.version, handout.kind, handout.address,
                handout.annotation, over_http=handout.transport == "http",
            ), handout.place  # fmt: skip
    transport = "udp" if port & 1 else "tcp"
    for interface in said.interfaces if port >> 1 not in MAPPERS else ():
        if interface.accepted and not interface.via:
            yield Claim(server, transport, port >> 1, interface.uuid, interface.version, "bind"), interface.place


def _owner(server: str, handout: Handout, inventory: Inventory) -> str:
    """Whose port it is. RPC hands out ports of the host that answers; SIP, SDP and proxies name another one."""
    if handout.kind in ("sdp", "sip-redirect", "rpc-proxy"):
        return reachable(handout.address) or inventory.address_of(handout.host)
    return server


Answer = tuple[frozenset[tuple[str, str]], str]
"""Interfaces (uuid, version) that are served on a port, and the kind of the announcement that counts most."""


class Resolved(NamedTuple):
    """Conversations whose server port was handed out, or found bound by another conversation.

    rows: int64, their indexes; best: int64, for each the announcement that counts most (index into
    `EndpointMap.said`); codes: int64, index into answers: what the map says of the port, None for nothing.
    """

    rows: NDArray[np.int64]
    best: NDArray[np.int64]
    codes: NDArray[np.int64]
    answers: list[Answer | None]


OWN_BIND_SUFFICES: Final = frozenset({"bind", "secondary-address"})
"""What another conversation's bind tells adds nothing to a conversation's own."""


def resolve(scene: Scene) -> Resolved:
    """Ask the endpoint map about all server ports, once for each distinct evidence and what is told of its port.

    What was handed out with the port, and the payload doesn't show, is entered into their evidence.
    """
    table, endpoint_map, everyone = scene.table, scene.endpoint_map, np.arange(scene.table.count)
    ports = _known_ports(scene, everyone, scene.sides.server, scene.sides.server_port, besides=MAPPERS)
    rows = np.flatnonzero(ports >= 0)
    asked, said = endpoint_map.at(ports[rows], table.rows["start"][rows], table.rows["number"][rows])
    ends = np.searchsorted(asked, np.arange(len(rows) + 1))
    told = [(claim.kind, claim.uuid, claim.version) for claim in endpoint_map.claims]
    cases, case_of = _heard(scene.inspection.codes[rows], endpoint_map.said[0, said], told, ends)
    answers = Distinct[Answer | None]([None], {None: 0})
    places, codes = [], []
    for found, *heard in cases:
        place, answer = _answer(scene.inspection.found[found], [told[claim] for claim in heard])
        places.append(place)
        codes.append(answers.code(answer))
    code_of, best = np.array(codes, np.int64)[case_of], ends[:-1] + np.array(places, np.int64)[case_of]
    kept = code_of > 0
    resolved = Resolved(rows[kept], said[best[kept]], code_of[kept], answers.values)
    _protect_media(scene, resolved)
    return resolved


def _heard(
    found: NDArray[np.int32], claims: NDArray[np.int64], told: Sequence[Hashable], ends: NDArray[np.int64]
) -> tuple[list[tuple[int, ...]], NDArray[np.int64]]:
    """Distinct cases of what conversations say, and claims (one for all that tell the same) that they are told; and
    which case each conversation is.

    found: what each says; claims: what they are told, one's behind another's, with ends between them; told: what each
    claim tells.
    """
    firsts = {each: number for number, each in reversed(list(enumerate(told)))}
    alike = np.array([firsts[each] for each in told], np.int64)[claims].tolist()
    cases = Distinct[tuple[int, ...]]()
    spans = zip(found.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    case_of = [cases.code((own, *alike[first:end])) for own, first, end in spans]
    return cases.values, np.array(case_of, np.int64)


def _answer(found: object, told: Sequence[tuple[str, str, str]]) -> tuple[int, Answer | None]:
    """What counts of that which is told of a port, and the place of the first of it. told: kind, uuid and version."""
    interfaces = found.interfaces if isinstance(found, Evidence) else ()
    accepted = {entry.uuid for entry in interfaces if entry.accepted}
    fitting = [place for place, (_, uuid, _) in enumerate(told) if uuid in accepted] or list(range(len(told)))
    if not fitting or (accepted and told[fitting[0]][0] in OWN_BIND_SUFFICES):
        return 0, None
    named = frozenset(told[place][1:] for place in fitting if told[place][1])
    return fitting[0], (named, told[fitting[0]][0])


def _protect_media(scene: Scene, resolved: Resolved) -> None:
    """RTP looks the same sealed or not; the session description that named its port tells (RFC 4568 section 6).

    RTP/SAVP is sealed, RTP/AVP is not; RTP/AVP that offers keys all the same may be either.
    """
    codes, found, claims = scene.inspection.codes, scene.inspection.found, scene.endpoint_map.claims
    made: dict[tuple[int, str], int] = {}
    claim = scene.endpoint_map.said[0, resolved.best]
    described = np.array([each.first_kind == "sdp" for each in claims], np.bool_)[claim]
    for index, number in zip(resolved.rows[described].tolist(), claim[described].tolist(), strict=True):
        evidence = scene.inspection.evidence(index)
        if evidence is None or evidence.protocol != "rtp":
            continue
        profile, *keys = claims[number].annotation.split()[1:] or [""]
        encryption = "srtp" if "/SAVP" in profile else "none" if "/AVP" in profile and not keys else ""
        if encryption in ("", evidence.encryption):
            continue
        key = int(codes[index]), encryption
        if key not in made:
            made[key] = len(found)
            found.append(replace(evidence, encryption=encryption))
        codes[index] = made[key]


def _known_ports(
    scene: Scene,
    rows: NDArray[np.int64],
    address: NDArray[np.int32],
    port: NDArray[Any],
    besides: frozenset[int] = frozenset(),
) -> NDArray[np.int64]:
    """Index into the endpoints of the endpoint map for each of these conversations, -1 where nothing is said of it.

    address, port: of all conversations; besides: ports that are not looked up.
    """
    numbers = scene.addresses.numbers
    known = [
        ((numbers[server] << 17) | (port << 1) | (transport == "udp"), index)
        for index, (server, transport, port) in enumerate(scene.endpoint_map.endpoints)
        if server in numbers and port not in besides
    ]
    keys, indexes = np.array([(-1, -1), *sorted(known)], np.int64).T
    low = (port[rows].astype(np.int64) << 1) | (scene.table.rows["protocol"][rows] != TCP)
    named = np.zeros(1 << 17, np.bool_)
    named[keys[1:] & 0x1FFFF] = True
    near = np.flatnonzero(named[low])
    wanted = (address[rows[near]].astype(np.int64) << 17) | low[near]
    place = np.searchsorted(keys, wanted, side="right") - 1
    found = np.full(len(rows), -1)
    found[near] = np.where(keys[place] == wanted, indexes[place], -1)
    return found


# ---- facts and decisions ----------------------------------------------------------------------


class Said(NamedTuple):
    """The part of `Facts` that comes from a conversation's own payload."""

    protocol: str | None = None
    interfaces: frozenset[tuple[str, str]] = frozenset()
    offered: frozenset[tuple[str, str]] = frozenset()
    asked: frozenset[tuple[str, str]] = frozenset()
    answered: frozenset[tuple[str, str]] = frozenset()
    signs: frozenset[tuple[str, str]] = frozenset()
    stopped: str | None = None


@dataclass(slots=True)
class Labels:
    """codes: int32, one per conversation, index into decisions and the facts of one conversation that they were made
    for. The others differ from it at most in roles that don't count. hosts: what is known of them, by the numbers of
    each conversation's client and server.
    """

    codes: NDArray[np.int32]
    decisions: list[Decision]
    facts: list[Facts]
    hosts: list[Known]
    sides: tuple[NDArray[np.int64], NDArray[np.int64]]

    def __getitem__(self, index: int) -> Decision:
        return self.decisions[self.codes[index]]

    def facts_of(self, index: int) -> Facts:
        """The facts of one conversation."""
        client, server = (self.hosts[side[index]] for side in self.sides)
        return self.facts[self.codes[index]]._replace(client_roles=client.roles, server_roles=server.roles)


@dataclass(slots=True)
class Grounds:
    """What conversations say by themselves, which no knowledge of hosts changes.

    codes: int32, one per conversation, index into rows. rows: numbers into said, into answers, port, whether client and
    server port are the same, whether it is UDP, and its silence.
    """

    said: list[Said]
    answers: list[Answer | None]
    codes: NDArray[np.int32]
    rows: list[list[int]]

    @classmethod
    def of(cls, scene: Scene, resolved: Resolved) -> Grounds:
        """Look at every distinct answer of the inspectors once."""
        said = Distinct[Said]()
        said_of = np.array([said.code(_said(scene.rulebook, entry)) for entry in scene.inspection.found], np.int64)
        answer_of = np.zeros(scene.table.count, np.int64)
        answer_of[resolved.rows] = resolved.codes
        sides, udp = scene.sides, scene.table.rows["protocol"][: scene.table.count] != TCP
        ports = _port_runs(scene.rulebook, "tcp"), _port_runs(scene.rulebook, "udp")
        columns = (
            said_of[scene.inspection.codes],
            answer_of,
            np.where(udp, ports[1][sides.server_port], ports[0][sides.server_port]),
            sides.client_port == sides.server_port,
            udp,
            _silences(scene),
        )
        codes, first = distinct_rows(columns)
        rows = np.stack([column[first] for column in columns], axis=1).tolist()
        return cls(said.values, resolved.answers, codes, rows)

    def facts(self, number: int, client: Known, server: Known) -> Facts:
        """The facts of one row between two hosts."""
        mine, answer, port, same_port, is_udp, silence = self.rows[number]
        own = self.said[mine]
        handed_out, kind = self.answers[answer] or (frozenset(), None)
        return Facts(
            transport="udp" if is_udp else "tcp",
            server_port=port,
            client_port=port if same_port else 0,
            protocol=own.protocol,
            interfaces=own.interfaces,
            offered=own.offered,
            asked=own.asked,
            answered=own.answered,
            resolved=handed_out,
            resolved_kind=kind,
            signs=own.signs,
            client_roles=client.roles,
            server_roles=server.roles,
            client_versions=client.versions,
            server_versions=server.versions,
            condition=_condition(own, server, SILENCES[silence]),
        )


def label(scene: Scene, grounds: Grounds, tenants: Tenants, known: Hosts) -> Labels:
    """Judge every conversation, once for all whose facts and sorts of hosts are the same, and decide it, once for all
    of these whose hosts differ only in roles that its judgement doesn't ask for.

    known: the hosts by their numbers in tenants.
    """
    hosts, sorts = Distinct[Known](), Distinct[Known]()
    host_of = np.array([hosts.code(part.known) for part in known.parts], np.int64)[known.of]
    sort_of = np.array([sorts.code(Known(standing_for(each.roles), each.versions)) for each in hosts.values], np.int64)
    columns = grounds.codes, host_of[tenants.client], host_of[tenants.server]
    case_of, first = distinct_rows(columns)
    ground, client, server = cases = [column[first] for column in columns]

    def facts_of(rows: NDArray[np.int64]) -> list[Facts]:
        numbers = zip(*(each[rows].tolist() for each in cases), strict=True)
        return [grounds.facts(row, hosts.values[one], hosts.values[other]) for row, one, other in numbers]

    of, first = distinct_rows((ground, sort_of[client], sort_of[server]))
    judged = [judge(scene.rulebook, each) for each in facts_of(first)]
    asked = [each.asked() for each in judged]
    alike = [_alike(hosts.values, side, of, [each[i] for each in asked]) for i, side in enumerate((client, server))]
    codes, first = distinct_rows((of, *alike))
    facts = facts_of(first)
    decisions = [
        decide(scene.rulebook, each, judged[number]) for each, number in zip(facts, of[first].tolist(), strict=True)
    ]
    return Labels(codes[case_of], decisions, facts, hosts.values, columns[1:])


def _alike(
    hosts: Sequence[Known], side: NDArray[np.integer[Any]], judged: NDArray[np.int32], asked: Sequence[frozenset[str]]
) -> NDArray[np.int64]:
    """Numbers that are equal for hosts of which decisions on the same judgement make no difference.

    side: each case's host there; judged: its judgement; asked: roles that each of those asks for there.
    """
    sets, stand_ins = Distinct[frozenset[str]](), Distinct[frozenset[str]]()
    set_of = np.array([sets.code(each) for each in asked], np.int64)
    pairs, first = distinct_rows((set_of[judged], side))
    numbers = [
        stand_ins.code(standing_for(hosts[host].roles, sets.values[number]))
        for number, host in zip(set_of[judged[first]].tolist(), side[first].tolist(), strict=True)
    ]
    return np.array(numbers, np.int64)[pairs]


def _said(rulebook: Rulebook, found: object) -> Said:
    """What a payload says, as far as signatures ask."""
    if not isinstance(found, Evidence):
        return Said()
    interfaces = found.interfaces
    return Said(
        found.protocol,
        frozenset((entry.uuid, entry.version) for entry in interfaces if entry.accepted),
        frozenset((entry.uuid, entry.version) for entry in interfaces if entry.accepted is None),
        frozenset((query.uuid, query.version) for query in found.queries),
        frozenset((query.uuid, query.version) for query in found.queries if query.status == 0),
        telling_signs(rulebook, ((sign.field, sign.value) for sign in found.signs)),
        "gap" if found.gap else "limit-hit" if found.limited else None,
    )


def _port_runs(rulebook: Rulebook, transport: str) -> NDArray[np.int64]:
    """int64[65536]: the port that stands for each in facts."""
    starts = np.array(rulebook.port_starts(transport), np.int64)
    return starts[np.searchsorted(starts, np.arange(65_536), side="right") - 1]


SILENCES: Final = ("", "no-payload", "truncated", "gap", "limit-hit", "mid-stream")
"""Why a payload could not be recognised, if its streams give a reason; the first that applies."""


@kernel
def _silence(flows: Records, found: NDArray[np.int32], silences: NDArray[np.int64]) -> None:
    for index in range(len(silences)):
        ahead, back = flows[2 * index], flows[2 * index + 1]
        either, silence = i64(ahead.flags | back.flags), 0
        if either & PAYLOAD == 0:
            silence = 1
        elif either & TRUNCATED:
            silence = 2
        elif either & STARTED and (ahead.missed > 0 or back.missed > 0):
            silence = 3
        elif either & LIMITED and found[index] == 0:
            silence = 4
        elif ahead.flags & (PAYLOAD | STARTED) == PAYLOAD or back.flags & (PAYLOAD | STARTED) == PAYLOAD:
            silence = 5
        silences[index] = silence


def _silences(scene: Scene) -> NDArray[np.int64]:
    """Index into SILENCES of each conversation."""
    silences = np.empty(scene.table.count, np.int64)
    _silence(scene.table.store.flows, scene.inspection.codes, silences)
    return silences


def _condition(said: Said, server: Known, silence: str) -> str | None:
    """The absence that applies if nothing matches: None where the payload was read."""
    if said.protocol in ENCRYPTED and server.roles:
        return "encrypted"
    if said.protocol is None:
        return silence or None
    unnamed_rpc = said.protocol in ("dcerpc", "epm", "ncacn-http") and not (
        said.interfaces or said.offered or said.asked
    )
    if not unnamed_rpc:
        return None
    return next((reason for reason in SILENCES[1:] if reason in (said.stopped, silence)), None)
