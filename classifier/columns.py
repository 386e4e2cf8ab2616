"""Everything known of a run's conversations → the columns of `fields`, whole columns at a time.

Owns how a fact is worded in a record; decides nothing. Values that many conversations share are made
once; frame numbers, which they don't share, are kept apart (`fields.Framed`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from classifier import testimony
from classifier.community_id import community_ids
from classifier.conversations import (
    STATES,
    ConversationTable,
    Spans,
    connection_states,
    silent_servers,
    spans,
    tallies,
)
from classifier.fields import Coded, Column, Framed, Hole, Numbers, Texts, Times
from classifier.headers import Encapsulations
from classifier.hosts import Hosts
from classifier.inspectors.base import Evidence
from classifier.labelling import Labels, Resolved, Scene, Tenants
from classifier.model import ORIENTATIONS
from classifier.numbering import Distinct, distinct_rows
from classifier.packets import Frames, Interfaces
from classifier.rulebook import Rulebook
from classifier.verdicts import Decision


class Counted(NamedTuple):
    """What kernels alone make of conversations: their Community IDs, `Spans`, `STATES`, `silent_servers` and
    `tallies`."""

    community_ids: NDArray[np.bytes_]
    spans: Spans
    states: NDArray[np.int32]
    silent: NDArray[np.int64]
    tallies: NDArray[np.int64]

    @classmethod
    def of(cls, table: ConversationTable, client: NDArray[np.int8], interfaces: Interfaces) -> Self:
        """client: as of `connection_states`."""
        return cls(
            community_ids(table.rows, table.count),
            spans(table, interfaces),
            connection_states(table, client),
            silent_servers(table, client),
            tallies(table, client),
        )


def of_scene(
    scene: Scene,
    labels: Labels,
    resolved: Resolved,
    tenants: Tenants,
    hosts: Hosts,
    counted: Counted,
    frames: Frames,
    encapsulations: Encapsulations,
) -> dict[str, Column]:
    """All columns of `fields.FIELDS` but the findings, which are `audit`'s. counted: of the same table."""
    told = testimony.Told.of(scene, resolved, frames)
    return {
        **_identity(scene, frames, counted),
        **_counts(counted),
        **_encapsulation(counted, encapsulations),
        **_of_evidence(scene, "protocol"),
        "rpc_interfaces": _rpc_interfaces(scene, frames),
        "resolved_by": _resolved_by(scene.rulebook, told),
        **_label(labels),
        **_of_evidence(scene, "authentication", "encryption", "tls_version", "tls_sni", "ja4"),
        "firewall_rules": _lists_of_decision(labels, lambda decision: decision.firewall_rules),
        "evidence": testimony.evidence(scene, labels, told, tenants, hosts, counted.spans, frames),
    }


# ---- who, when, how much -----------------------------------------------------------------------


def _identity(scene: Scene, frames: Frames, counted: Counted) -> dict[str, Column]:
    texts: list[Any] = scene.addresses.texts
    (numbers, times, digits, files, udp, _), sides = counted.spans, scene.sides
    return {
        "id": Numbers(numbers[0]),
        "community_id": Texts(counted.community_ids),
        "file": Coded(files, list(frames.files)),
        "first_frame": Numbers(numbers[1]),
        "last_frame": Numbers(numbers[2]),
        "start": Times(times[0], digits[0]),
        "end": Times(times[1], digits[1]),
        "transport": Coded(udp, ["tcp", "udp"]),
        "client_ip": Coded(sides.client, texts),
        "client_port": Numbers(sides.client_port),
        "server_ip": Coded(sides.server, texts),
        "server_port": Numbers(sides.server_port),
        "orientation": Coded(scene.orientation.method.astype(np.int32), list(ORIENTATIONS)),
    }


def _counts(counted: Counted) -> dict[str, Column]:
    to_server, to_client, bytes_to_server, bytes_to_client, duplicates, lost = map(Numbers, counted.tallies)
    return {
        "packets_to_server": to_server,
        "packets_to_client": to_client,
        "bytes_to_server": bytes_to_server,
        "bytes_to_client": bytes_to_client,
        "conn_state": Coded(counted.states, list(STATES)),
        "duplicate_packets": duplicates,
        "missed_bytes": lost,
    }


def _encapsulation(counted: Counted, encapsulations: Encapsulations) -> dict[str, Column]:
    codes, first = distinct_rows((counted.spans.stacks,))
    used = counted.spans.stacks[first].tolist()
    return {
        "vlan": Coded(codes, [encapsulations.vlans(stack) for stack in used]),
        "tunnel": Coded(codes, [encapsulations.tunnels(stack) for stack in used]),
    }


# ---- what was read ------------------------------------------------------------------------------


def _of_evidence(scene: Scene, *names: str) -> dict[str, Column]:
    """Columns that each distinct evidence has one value for, with the same codes."""
    said = Distinct[tuple[str | None, ...]]()
    nothing = (None,) * len(names)
    codes = [
        said.code(tuple([getattr(entry, name) for name in names]) if isinstance(entry, Evidence) else nothing)
        for entry in scene.inspection.found
    ]
    of_rows = np.array(codes, np.int32)[scene.inspection.codes]
    return {name: Coded(of_rows, [values[place] for values in said.values]) for place, name in enumerate(names)}


def short_name(rulebook: Rulebook, uuid: str, version: str) -> str | None:
    """The name that signatures give to an interface."""
    interface = rulebook.interface(uuid, version)
    return interface.name if interface else None


def _rpc_interfaces(scene: Scene, frames: Frames) -> Framed:
    """Values by evidence; a frame for each of its interfaces by conversation."""
    spoken = [entry.interfaces if isinstance(entry, Evidence) else () for entry in scene.inspection.found]
    bound = Distinct[tuple[tuple[str, str, bool | None], ...]]()
    answers = (tuple([(each.uuid, each.version, each.accepted) for each in interfaces]) for interfaces in spoken)
    value_of = np.array(list(map(bound.code, answers)), np.int32)
    values = [[_interface(scene.rulebook, *each, i) for i, each in enumerate(value)] for value in bound.values]
    places = [[each.place for each in interfaces] for interfaces in spoken]
    codes = scene.inspection.codes
    rows = np.flatnonzero(np.array([bool(each) for each in spoken], np.bool_)[codes])
    located = scene.inspection.locate_lists(rows, places, codes[rows])
    return Framed.of(value_of[codes], values, rows, list(located % frames.BLOCK))


def _interface(rulebook: Rulebook, uuid: str, version: str, accepted: bool | None, hole: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "version": version,
        "name": short_name(rulebook, uuid, version),
        "accepted": accepted,
        "frame": Hole(hole),
    }


def _resolved_by(rulebook: Rulebook, told: testimony.Told) -> Framed:
    values = [None if story is None else _resolution(rulebook, *story) for story in told.stories]
    rows = np.flatnonzero(told.codes)
    return Framed.of(told.codes, values, rows, [told.frames[rows], told.conversations[rows]])


def _resolution(rulebook: Rulebook, kind: str, uuid: str, version: str, file: str | None) -> dict[str, Any]:
    seen = file is not None
    return {
        "kind": kind,
        "uuid": uuid or None,
        "name": short_name(rulebook, uuid, version) if uuid else None,
        "frame": Hole(0) if seen else None,
        "file": file,
        "conversation": Hole(1) if seen else None,
    }


# ---- the label ------------------------------------------------------------------------------------


def _of_decision(labels: Labels, take: Callable[[Decision], Any]) -> Coded:
    return Coded(labels.codes, [take(decision) for decision in labels.decisions])


def _lists_of_decision(labels: Labels, take: Callable[[Decision], tuple[str, ...]]) -> Coded:
    """Equal lists are one object, which is worded once."""
    listed = cache(list[str])
    return _of_decision(labels, lambda decision: listed(take(decision)))


def _label(labels: Labels) -> dict[str, Column]:
    return {
        "data_paths": _lists_of_decision(labels, lambda decision: decision.data_paths),
        "data_path": _of_decision(labels, lambda decision: decision.data_path),
        "client_role": _of_decision(labels, lambda decision: decision.client_role),
        "server_role": _of_decision(labels, lambda decision: decision.server_role),
        "exchange_versions": _lists_of_decision(labels, lambda decision: decision.exchange_versions),
        "certainty": _of_decision(labels, lambda decision: decision.certainty),
        "absence": _of_decision(labels, lambda decision: decision.absence),
    }
