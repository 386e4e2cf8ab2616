"""Conversations → labels: the steps from an assembly to a result, and what of all that is asked for before.

The only module that knows their order. It loads what decrypts where something is to be decrypted, as few captures are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from classifier import acquaintance, audit, columns, labelling
from classifier.acceptance import Acceptance, load_acceptances
from classifier.addresses import Addresses
from classifier.assembly import Assembling, Assembly, Departed
from classifier.beside import let_go, meanwhile, soon
from classifier.crew import Crew
from classifier.endpoints import EndpointMap, Entry
from classifier.errors import UsageError
from classifier.fields import Column
from classifier.findings import FindingRule, load_findings, load_policy
from classifier.hosts import UNKNOWN, Hosts, Inventory, Reason
from classifier.inspection import Inspection, Reading
from classifier.labelling import Grounds, Labels, Resolved, Scene, Sides, Tenants
from classifier.model import VERSIONS
from classifier.orientation import first_look
from classifier.packets import Frames
from classifier.reasoning import reason
from classifier.result import Result
from classifier.retirement import bring_back, joined
from classifier.rulebook import Rulebook, load
from classifier.rules import listing
from classifier.sources import STDIN, CaptureSet
from classifier.streams import LIMITED_BYTES, LOST_HOLES

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from classifier.decryption import Insides
    from classifier.pipeline import Settings


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known before a packet is read.

    endpoint_map: learns from what is read. policy: the user's own findings; accepted: findings that the user lives
    with. keys: a log of session keys.
    """

    rulebook: Rulebook
    inventory: Inventory = field(default_factory=Inventory)
    endpoint_map: EndpointMap = field(default_factory=EndpointMap)
    policy: Sequence[FindingRule] = ()
    accepted: tuple[Acceptance, ...] = ()
    keys: bytes = b""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the user's files. Raises UsageError for one that is missing or broken."""
        rulebook = load(settings.signatures)
        policy = load_policy(rulebook, settings.policy) if settings.policy else ()
        known = frozenset(rule.id for rule in (*load_findings(rulebook), *policy))
        return cls(
            rulebook,
            Inventory.load(settings.inventory) if settings.inventory else Inventory(),
            EndpointMap.load(settings.endpoint_map) if settings.endpoint_map else EndpointMap(),
            policy,
            load_acceptances(settings.accept, known) if settings.accept else (),
            _keys(settings.keylog) if settings.keylog else b"",
        )


def _keys(path: Path) -> bytes:
    from classifier import decryption

    return decryption.keylog(path)


def classified(assembling: Assembling, knowledge: Knowledge, again: Callable[[], Assembling]) -> Result:
    """The result of a capture set that is being read. again: reads it once more, if it is to be decrypted.

    Raises UsageError for what can't be decrypted with the keys that the user names.
    """
    keys = knowledge.keys
    if keys:
        _check_usable(assembling.captures)
    with Crew(assembling.jobs) as crew:
        reading = read(assembling, knowledge.rulebook, crew)
        captures, told = assembling.captures, dict[str, int]()
        insides: Insides | None = None
        if keys or captures.secrets:
            told = _unusable(captures)
            if not told:
                first = conclude(
                    assembling.captures, assembling.assembly, replace(knowledge, endpoint_map=EndpointMap(), policy=()),
                    assembling.jobs, reading,
                )  # fmt: skip
                insides, told = _decrypted(first, keys, captures)
                with again() as assembling:
                    reading = read(assembling, knowledge.rulebook, crew)
        result = conclude(assembling.captures, assembling.assembly, knowledge, assembling.jobs, reading, insides)
    result.counters |= told
    result.acceptances = knowledge.accepted
    return result


def read(assembling: Assembling, rulebook: Rulebook, crew: Crew) -> Reading:
    """Inspect who leaves early, until all packets of the capture set are in its table."""
    reading, named, halves = Reading(assembling.jobs, crew), named_ports(rulebook), list[Departed]()
    for table, home in assembling:
        left = reading.early(table, first_look(table, named), np.arange(table.count), home)
        if len(left):
            halves.append(Departed(joined([(table, left)]), home[left]))
    for half in halves:
        bring_back(half.table, half.home, assembling.assembly.table)
    return reading


def _check_usable(captures: CaptureSet) -> None:
    """Raise UsageError where keys can't be used."""
    from classifier import tools

    if STDIN in captures.names:
        raise UsageError("standard input can't be decrypted: it can't be read a second time; name a file")
    tools.find("tshark")


def _unusable(captures: CaptureSet) -> dict[str, int]:
    """Why keys that a capture brings along can't be used; empty if they can."""
    try:
        _check_usable(captures)
    except UsageError as error:
        return {f"blocks of session keys not used: {error}": len(captures.secrets)}
    return {}


def _decrypted(first: Result, keys: bytes, captures: CaptureSet) -> tuple[Insides | None, dict[str, int]]:
    """What a first answer's conversations say inside TLS, and what was not read of it.

    Keys that a capture brings along are used where that is possible; with keys that the user names, raises as
    `decryption.decrypt`.
    """
    from classifier import decryption

    try:
        insides = decryption.decrypt(first, b"\n".join((keys, *captures.secrets)))
    except UsageError as error:
        if keys:
            raise
        return None, {f"blocks of session keys not used: {error}": len(captures.secrets)}
    left = insides.beyond_limit
    return insides, {"conversations_with_session_keys_beyond_limit": left} if left else {}


def conclude(
    captures: CaptureSet,
    assembly: Assembly,
    known: Knowledge,
    jobs: int = 2,
    reading: Reading | None = None,
    insides: Insides | None = None,
    remembered: acquaintance.Remembered | None = None,
) -> Result:
    """Label every conversation of an assembly, whose first bytes are given back, and audit it.

    reading: what was read early. insides: what was said inside TLS, as far as it was decrypted. remembered: what hosts
    were seen to do in conversations that have left; what these show is added.
    """
    table, rulebook, endpoint_map = assembly.table, known.rulebook, known.endpoint_map
    addresses = Addresses.of(table.rows, table.count)
    orientation = first_look(table, named_ports(rulebook))
    inspection = (reading or Reading(jobs)).rest(table, orientation)
    arena = [table.store.arena]
    table.store = table.store.without_bytes()
    let_go(arena)
    with _reading_inside(inspection, insides):
        labelling.join_channels(inspection)
    labelling.orient_by_payload(orientation, inspection)
    scene = Scene(
        table, addresses, orientation, inspection, endpoint_map, known.inventory, rulebook,
        Sides.of(table, addresses, orientation),
    )  # fmt: skip
    labelling.learn(scene)
    labelling.orient_by_announcement(scene)
    counting = soon(partial(columns.Counted.of, table, orientation.client, captures.interfaces), jobs)
    resolved = labelling.resolve(scene)
    grounds = Grounds.of(scene, resolved)
    tenants = scene.tenants()
    first = labelling.label(scene, grounds, tenants, Hosts.unknown(len(tenants.addresses)))
    hosts = acquaintance.meet(scene, tenants, first, remembered)
    labels = labelling.label(scene, grounds, tenants, hosts)
    rules = (*load_findings(rulebook), *known.policy)
    table_columns, verdicts = _told(
        scene, labels, resolved, tenants, hosts, rules, captures, assembly, counting(), jobs
    )  # fmt: skip
    return Result(
        table_columns,
        verdicts=verdicts,
        rules=rules,
        documented=partial(listing, rulebook),
        damages=captures.damages,
        counters=_counters(captures, assembly, endpoint_map),
        inputs=captures.names,
        endpoint_rows=partial(_endpoint_rows, endpoint_map, rulebook, captures.frames),
        host_rows=partial(
            _host_rows, [addresses.texts[number] for number in tenants.addresses], hosts, rulebook, captures.frames
        ),
        reasoner=lambda index: reason(rulebook, labels.facts_of(index), labels[index]),
    )


def _told(
    scene: Scene, labels: Labels, resolved: Resolved, tenants: Tenants, hosts: Hosts,
    rules: Sequence[FindingRule], captures: CaptureSet, assembly: Assembly,
    counted: columns.Counted, jobs: int,
) -> tuple[dict[str, Column], dict[str, int]]:  # fmt: skip
    """All columns, and the verdicts of an audit, which is made meanwhile."""
    audit_all = partial(
        audit.audit, scene, labels, tenants, hosts, counted.states, counted.silent, rules, captures.frames
    )
    with meanwhile(audit_all, jobs) as audit_told:
        table_columns = columns.of_scene(
            scene, labels, resolved, tenants, hosts, counted, captures.frames, assembly.encapsulations,
        )  # fmt: skip
        audited = audit_told()
    return table_columns | {"findings": audited.findings}, audited.verdicts


def _reading_inside(inspection: Inspection, insides: Insides | None) -> AbstractContextManager[None]:
    """Around what joins evidence of several conversations: `decryption.reading`, where some were decrypted."""
    if insides is None:
        return nullcontext()
    from classifier import decryption

    return decryption.reading(inspection, insides)


def named_ports(rulebook: Rulebook) -> NDArray[np.bool_]:
    """bool[65536]: the ports that a signature names one by one (ranges name no service)."""
    named = np.zeros(65_536, np.bool_)
    for path in rulebook.paths.values():
        for endpoint in path.endpoints:
            if endpoint.kind == "port" and endpoint.low == endpoint.high:
                named[endpoint.low] = True
    return named


def _counters(captures: CaptureSet, assembly: Assembly, endpoint_map: EndpointMap) -> dict[str, int]:
    """What was counted on the way; of bounds only those that were met."""
    store = assembly.table.store
    met = {
        "decompressions_beyond_limit": captures.beyond_limit,
        "packets_of_conversations_beyond_limit": assembly.table.dropped_packets,
        "first_bytes_not_kept": int(store.counters[LIMITED_BYTES]),
        "gaps_beyond_limit": int(store.counters[LOST_HOLES]),
        "encapsulations_beyond_limit": assembly.encapsulations.overflow,
        "datagrams_with_missing_fragments": assembly.reassembler.unfinished,
        "datagrams_with_contradicting_fragments": assembly.reassembler.overlaps,
        "announcements_beyond_limit": endpoint_map.refused,
    }
    always = {"packets": assembly.packets, "packets_without_tcp_or_udp": assembly.table.ignored_packets}
    return always | {name: number for name, number in met.items() if number}


def _endpoint_rows(endpoint_map: EndpointMap, rulebook: Rulebook, frames: Frames) -> Iterator[dict[str, Any]]:
    """One row for each interface on a port, by each kind of announcement."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in endpoint_map:
        claim = entry.announcement.claim
        groups.setdefault((claim.endpoint, claim.uuid, claim.version, claim.kind), []).append(entry)
    at_port: dict[Any, dict[str, set[str]]] = {}
    for endpoint, uuid, _, kind in groups:
        at_port.setdefault(endpoint, {}).setdefault("bind" if kind == "bind" else "said", set()).add(uuid)
    for (endpoint, uuid, version, kind), entries in groups.items():
        first = min(entries, key=lambda entry: entry.announcement.time).announcement
        claim, learnt = first.claim, first.conversation >= 0
        yield {
            "server_ip": claim.server,
            "transport": claim.transport,
            "port": claim.port,
            "uuid": uuid or None,
            "version": version or None,
            "name": columns.short_name(rulebook, uuid, version) if uuid else None,
            "kind": kind,
            "first_seen": first.time,
            "last_seen": max(entry.announcement.time for entry in entries),
            "frame": frames.number(first.frame) if learnt else None,
            "file": frames.file(first.frame) if learnt else None,
            "conversation": first.conversation + 1 if learnt else None,
            "address": claim.address or None,
            "annotation": claim.annotation or None,
            "disagreement": _disagreement(rulebook, at_port[endpoint], uuid, kind),
        }


def _disagreement(rulebook: Rulebook, at_port: dict[str, set[str]], uuid: str, kind: str) -> str | None:
    """What binds on a port say against an announcement of it: others were accepted, this one never."""
    bound = at_port.get("bind", set())
    if kind == "bind" or not uuid or not bound or uuid in bound or bound & at_port["said"]:
        return None
    names = sorted(columns.short_name(rulebook, other, "") or other for other in bound)
    return "bound on this port: " + ", ".join(names)


def _host_rows(
    addresses: Sequence[str], hosts: Hosts, rulebook: Rulebook, frames: Frames
) -> Iterator[dict[str, Any]]:
    """One row for each host that the inventory or the traffic tells something of."""
    somebody = np.array([part.listed is not None or bool(part.cast) for part in hosts.parts], np.bool_)[hosts.of]
    telling = np.flatnonzero(somebody | (hosts.called >= 0)).tolist()
    told = hosts.deeds.by_host(telling)
    for number in telling:
        part, acts = hosts.parts[hosts.of[number]], told.get(number, {})
        known, listed = part.known, part.listed or UNKNOWN
        yield {
            "address": addresses[number],
            "name": listed.name or hosts.name(number) or None,
            "roles": sorted(known.roles),
            "versions": [version for version in VERSIONS if version in known.versions],
            "source": "traffic" if part.listed is None else "inventory",
            "evidence": [
                _host_fact(rulebook, frames, "role", role, acts[act]) for role, why in part.cast.items() for act in why
            ],
            "contradictions": [
                _host_fact(rulebook, frames, "contradiction", word, acts[act])
                for word, why in part.contradicted.items()
                for act in why
            ],
        }


def _host_fact(rulebook: Rulebook, frames: Frames, kind: str, word: str, reason: Reason) -> dict[str, Any]:
    return {
        "kind": kind,
        "field": word,
        "value": rulebook.acts[reason.act].title,
        "conversation": reason.conversation + 1,
        "frame": frames.number(reason.frame),
        "file": frames.file(reason.frame),
    }
