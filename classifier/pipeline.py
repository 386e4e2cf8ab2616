"""The order of the steps from captures to a result. The only module that knows it.

sources ▸ headers ▸ fragments ▸ conversations + streams        (compiled, batch by batch)
▸ orientation ▸ inspection ▸ endpoint map                       (once, over all conversations)
▸ first decisions ▸ hosts ▸ labels ▸ columns
"""

from __future__ import annotations

import gc
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import acquaintance, audit, columns, decryption, labelling, limits, tools
from classifier.acceptance import load_acceptances
from classifier.addresses import Addresses
from classifier.conversations import ConversationTable
from classifier.crew import Crew
from classifier.decryption import Insides
from classifier.endpoints import EndpointMap, Entry
from classifier.errors import UsageError
from classifier.fields import Coded
from classifier.findings import FindingRule, load_findings, load_policy
from classifier.fragments import Completed, Reassembler
from classifier.headers import Encapsulations, HeaderColumns, decode
from classifier.hosts import NOBODY, UNKNOWN, Host, Inventory, Reason
from classifier.inspection import Reading
from classifier.labelling import Grounds, Scene, Sides
from classifier.model import VERSIONS
from classifier.orientation import first_look
from classifier.packets import BATCH_ROWS, Frames, Interfaces, PacketBatch
from classifier.reasoning import reason
from classifier.result import Result
from classifier.retirement import Timeouts, over
from classifier.rulebook import Rulebook, load
from classifier.rules import listing
from classifier.sources import STDIN, CaptureSet
from classifier.streams import ARENA_USED, BLANKS, LIMITED_BYTES, LOST_HOLES, SEGMENTS

Progress = Callable[[int, int], None]
"""Called with bytes read and bytes in all (0: unknown)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked to use.

    jobs: 1 reads, assembles and inspects in turns; more does so at once, in as many threads or processes; None: as many
    as there are cores.
    policy: the user's own findings; accept: findings that the user lives with (both TOML).
    keylog: session keys of TLS, as libraries log them.
    """

    inventory: Path | None = None
    signatures: Path | None = None
    endpoint_map: Path | None = None
    jobs: int | None = None
    policy: Path | None = None
    accept: Path | None = None
    keylog: Path | None = None


def run(inputs: Sequence[str | Path], settings: Settings | None = None, progress: Progress | None = None) -> Result:
    """Classify one capture set.

    Raises UsageError (a missing file, a broken inventory, endpoint map or signature). Damage to a capture is
    no error: it is told in the result's `damages`, and what could be read is classified. Nor is an endpoint map
    that can't be written: `failures` tells.
    """
    settings = settings or Settings()
    keys = decryption.keylog(settings.keylog) if settings.keylog else b""
    if keys:
        tools.find("tshark")
        if STDIN in map(str, inputs):
            raise UsageError("standard input can't be decrypted: it can't be read a second time; name a file")
    rulebook = load(settings.signatures)
    inventory = Inventory.load(settings.inventory) if settings.inventory else Inventory()
    endpoint_map = EndpointMap.load(settings.endpoint_map) if settings.endpoint_map else EndpointMap()
    policy = load_policy(rulebook, settings.policy) if settings.policy else ()
    known = frozenset(rule.id for rule in (*load_findings(rulebook), *policy))
    accepted = load_acceptances(settings.accept, known) if settings.accept else ()
    jobs = settings.jobs or os.cpu_count() or 1
    with _collector_at_rest(), Crew(jobs) as crew:
        captures, assembly, reading = _read(inputs, rulebook, jobs, crew, progress)
        insides, told = Insides(), dict[str, int]()
        if keys or captures.secrets:
            told = _unusable(captures)
            if not told:
                first = conclude(captures, assembly, rulebook, inventory, EndpointMap(), jobs, (), reading)
                insides, told = _decrypted(first, keys, captures)
                captures, assembly, reading = _read(inputs, rulebook, jobs, crew)
        result = conclude(captures, assembly, rulebook, inventory, endpoint_map, jobs, policy, reading, insides)
        result.counters |= told
        result.acceptances = accepted
    if settings.endpoint_map:
        try:
            endpoint_map.save(settings.endpoint_map)
        except OSError as error:
            result.failures.append(f"endpoint map {settings.endpoint_map} was not written: {error.strerror}")
    return result


def _read(
    inputs: Sequence[str | Path], rulebook: Rulebook, jobs: int, crew: Crew, progress: Progress | None = None
) -> tuple[CaptureSet, Assembly, Reading]:
    """Read a capture set from its first packet to its last; what is over early is inspected early."""
    captures, reading = CaptureSet.of(inputs), Reading(jobs, crew)
    return captures, assemble(captures, jobs, progress, EarlyReader(reading, named_ports(rulebook))), reading


def _unusable(captures: CaptureSet) -> dict[str, int]:
    """Why keys that a capture brings along can't be used; empty if they can."""
    try:
        if STDIN in captures.names:
            raise UsageError("standard input can't be read a second time")
        tools.find("tshark")
    except UsageError as error:
        return {f"blocks of session keys not used: {error}": len(captures.secrets)}
    return {}


def _decrypted(first: Result, keys: bytes, captures: CaptureSet) -> tuple[Insides, dict[str, int]]:
    """What a first answer's conversations say inside TLS, and what was not read of it.

    Keys that a capture brings along are used where that is possible; with keys that the user names, raises as
    `decryption.decrypt`.
    """
    try:
        insides = decryption.decrypt(first, b"\n".join((keys, *captures.secrets)))
    except UsageError as error:
        if keys:
            raise
        return Insides(), {f"blocks of session keys not used: {error}": len(captures.secrets)}
    left = insides.beyond_limit
    return insides, {"conversations_with_session_keys_beyond_limit": left} if left else {}


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No garbage collection: what is built holds no cycles, and there is much of it (a quarter of the time)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ---- packets to conversations ----------------------------------------------------------------------


@dataclass(slots=True)
class Assembly:
    """What reading a capture set leaves."""

    table: ConversationTable = field(default_factory=ConversationTable)
    encapsulations: Encapsulations = field(default_factory=Encapsulations)
    reassembler: Reassembler = field(default_factory=Reassembler)
    packets: int = 0


class Decoded(NamedTuple):
    """A batch whose headers were read; data: its bytes, with reassembled datagrams behind them."""

    batch: PacketBatch
    headers: HeaderColumns
    data: NDArray[np.uint8]
    completed: list[Completed]


def assemble(
    captures: CaptureSet, jobs: int = 2, progress: Progress | None = None, early: EarlyReader | None = None
) -> Assembly:
    """Read all packets into one table of conversations. early: who reads what is over before the end."""
    assembly = Assembly()
    decoded = _decoded(captures, assembly, progress)
    for batch, headers, data, completed in _ahead(decoded) if jobs > 1 else decoded:
        assembly.packets += batch.count
        assembly.table.add(batch, headers, data, completed)
        if early is not None and batch.count:
            early.look(assembly.table, int(batch.columns.time[batch.count - 1]))
    return assembly


class EarlyReader:
    """Has conversations read that are over, whenever many first bytes are in use, and gives those back.

    So memory follows the open conversations. A result does not depend on it, but for bytes of a conversation that
    was over: those are not kept, and counted.
    """

    def __init__(self, reading: Reading, named: NDArray[np.bool_], most: int = limits.READ_EARLY) -> None:
        """named: bool[65536], as `named_ports`."""
        self._reading, self._named = reading, named
        self._bytes, self._segments = most, min(most, limits.READ_EARLY_SEGMENTS)
        self._most = self._bytes, self._segments

    def look(self, table: ConversationTable, now: int) -> None:
        """See whether it is time. now: of the newest packet, nanoseconds."""
        counters = table.store.counters
        used, segments = int(counters[ARENA_USED] - BLANKS), int(counters[SEGMENTS])
        if used < self._bytes and segments < self._segments:
            return
        chosen = over(table, now, Timeouts())
        if len(chosen):
            self._reading.early(table, first_look(table, self._named), chosen)
        self._bytes = max(self._most[0], 2 * int(counters[ARENA_USED] - BLANKS))
        self._segments = max(self._most[1], 2 * int(counters[SEGMENTS]))


def _decoded(captures: CaptureSet, assembly: Assembly, progress: Progress | None) -> Iterator[Decoded]:
    """Batches with their headers; three sets of columns in turn: filled, waiting, in use."""
    spare = [HeaderColumns.empty(BATCH_ROWS) for _ in range(3)]
    for turn, batch in enumerate(captures.batches(progress)):
        yield decode_batch(batch, captures.interfaces, spare[turn % len(spare)], assembly)


def decode_batch(batch: PacketBatch, interfaces: Interfaces, headers: HeaderColumns, assembly: Assembly) -> Decoded:
    """Read the headers of a batch into columns with room for them, and put fragments together."""
    data: NDArray[np.uint8] = batch.data
    completed: list[Completed] = []
    if decode(batch, interfaces, headers, assembly.encapsulations):
        data, completed = assembly.reassembler.complete(batch, headers, assembly.encapsulations)
    return Decoded(batch, headers, data, completed)


def _ahead(batches: Iterator[Decoded]) -> Iterator[Decoded]:
    """The same batches, read by a thread of their own while the one before is worked on."""
    handover: queue.Queue[Decoded | BaseException | None] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def offer(item: Decoded | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                handover.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for batch in batches:
                if not offer(batch):
                    return
            offer(None)
        except BaseException as error:
            offer(error)

    reader = threading.Thread(target=read, name="exflow-reader", daemon=True)
    reader.start()
    try:
        while (item := handover.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()  # the reader may be blocked in a read of a silent pipe: nobody waits for it


# ---- conversations to labels -------------------------------------------------------------------------


def conclude(
    captures: CaptureSet,
    assembly: Assembly,
    rulebook: Rulebook,
    inventory: Inventory,
    endpoint_map: EndpointMap,
    jobs: int = 2,
    policy: Sequence[FindingRule] = (),
    reading: Reading | None = None,
    insides: Insides | None = None,
    remembered: acquaintance.Remembered | None = None,
) -> Result:
    """Label every conversation of an assembly, whose first bytes are given back, and audit it.

    policy: findings besides those of the signatures. reading: what was read early. insides: what was said inside TLS,
    as far as it was decrypted. remembered: what hosts were seen to do in conversations that have left; what these show
    is added.
    """
    table = assembly.table
    addresses = Addresses.of(table.rows, table.count)
    orientation = first_look(table, named_ports(rulebook))
    inspection = (reading or Reading(jobs)).rest(table, orientation)
    table.store = table.store.without_bytes()
    with decryption.reading(inspection, insides or Insides()):
        labelling.join_channels(inspection)
    labelling.orient_by_payload(orientation, inspection)
    scene = Scene(
        table, addresses, orientation, inspection, endpoint_map, inventory, rulebook,
        Sides.of(table, addresses, orientation),
    )  # fmt: skip
    labelling.learn(scene)
    labelling.orient_by_announcement(scene)
    scene.sides = Sides.of(table, addresses, orientation)
    resolved = labelling.resolve(scene)
    grounds = Grounds.of(scene, resolved)
    tenants = scene.tenants()
    first = labelling.label(scene, grounds, tenants, [UNKNOWN] * len(tenants.addresses))
    hosts = acquaintance.meet(scene, tenants, first, remembered)
    labels = labelling.label(scene, grounds, tenants, [host.known for host in hosts])
    rules = (*load_findings(rulebook), *policy)
    table_columns = columns.of_scene(
        scene, labels, resolved, tenants, hosts, captures.interfaces, captures.frames, assembly.encapsulations
    )
    states = table_columns["conn_state"]
    assert isinstance(states, Coded)
    audited = audit.audit(scene, labels, tenants, hosts, states, rules, captures.frames)
    return Result(
        table_columns | {"findings": audited.findings},
        verdicts=audited.verdicts,
        rules=rules,
        documented=listing(rulebook),
        damages=captures.damages,
        counters=_counters(captures, assembly, endpoint_map),
        inputs=captures.names,
        endpoint_rows=partial(_endpoint_rows, endpoint_map, rulebook, captures.frames),
        host_rows=partial(
            _host_rows, [addresses.texts[number] for number in tenants.addresses], hosts, rulebook, captures.frames
        ),
        reasoner=lambda index: reason(rulebook, labels.facts_of(index), labels[index]),
    )


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
        said = entry.announcement
        groups.setdefault((said.endpoint, said.uuid, said.version, said.kind), []).append(entry)
    at_port: dict[Any, dict[str, set[str]]] = {}
    for endpoint, uuid, _, kind in groups:
        at_port.setdefault(endpoint, {}).setdefault("bind" if kind == "bind" else "said", set()).add(uuid)
    for (endpoint, uuid, version, kind), entries in groups.items():
        first = min(entries, key=lambda entry: entry.announcement.time).announcement
        learnt = first.conversation >= 0
        yield {
            "server_ip": first.server,
            "transport": first.transport,
            "port": first.port,
            "uuid": uuid or None,
            "version": version or None,
            "name": columns.short_name(rulebook, uuid, version) if uuid else None,
            "kind": kind,
            "first_seen": first.time,
            "last_seen": max(entry.announcement.time for entry in entries),
            "frame": frames.number(first.frame) if learnt else None,
            "file": frames.file(first.frame) if learnt else None,
            "conversation": first.conversation + 1 if learnt else None,
            "address": first.address or None,
            "annotation": first.annotation or None,
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
    addresses: Sequence[str], hosts: Sequence[Host], rulebook: Rulebook, frames: Frames
) -> Iterator[dict[str, Any]]:
    """One row for each host that the inventory or the traffic tells something of."""
    for address, host in zip(addresses, hosts, strict=True):
        if host is NOBODY or not (host.listed is not UNKNOWN or host.reasons or host.inferred.name):
            continue
        known, listed = host.known, host.listed is not UNKNOWN
        yield {
            "address": address,
            "name": known.name or None,
            "roles": sorted(known.roles),
            "versions": [version for version in VERSIONS if version in known.versions],
            "source": "inventory" if listed else "traffic",
            "evidence": [
                _host_fact(rulebook, frames, "role", role, reason)
                for role, reasons in host.reasons.items()
                for reason in reasons
            ],
            "contradictions": [
                _host_fact(rulebook, frames, "contradiction", word, reason)
                for word, reasons in host.contradicted.items()
                for reason in reasons
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
