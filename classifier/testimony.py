"""What each label stands on: the facts that its decision names, worded, each with the frame that shows it.

Owns the column `evidence`, and what is told of ports that were handed out. A wording is made once for all conversations
that share it; which frames show it is worked out for all conversations at once. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.conversations import Spans
from classifier.fields import Framed, Hole
from classifier.hosts import Deeds, Hosts, Part
from classifier.inspectors.base import Evidence, Place
from classifier.labelling import Labels, Resolved, Scene, Tenants
from classifier.limits import MAX_SIGNS
from classifier.matching import tells
from classifier.numbering import Distinct, distinct_rows
from classifier.packets import Frames
from classifier.rules import Rulebook

Fact = tuple[str, str, str, str | None, int]
"""In words: kind, field, value, file (None where no frame shows it) and which of its `_Part`'s frames shows it."""

Facts = tuple[Fact, ...]

_MOST_ITEMS: Final = 2 * MAX_SIGNS
"""Facts shown of a payload."""

_MOST_REASONS: Final = 2
"""Reasons shown of each role with a label; `exflow hosts` has all."""


class _Part(NamedTuple):
    """What labels stand on of one kind, for all conversations that have one.

    codes: each one's index into texts; texts: distinct; frames: int64, numbers of the first, the second, ...
    of the frames that show it, 0 for none.
    """

    codes: NDArray[np.int32 | np.int64]
    texts: Sequence[Facts]
    frames: Sequence[NDArray[np.int64]]


def evidence(
    scene: Scene, labels: Labels, told: Told, tenants: Tenants, hosts: Hosts, spans: Spans, frames: Frames
) -> Framed:
    """For each labelled conversation, the facts its decision names as its basis. spans: of the same table."""
    labelled = np.array([decision.certainty is not None for decision in labels.decisions], np.bool_)
    rows = np.flatnonzero(labelled[labels.codes])
    file = spans.files[rows].astype(np.int64)
    parts = (
        _announced(scene.rulebook, told, rows),
        _read(scene, frames, rows, file),
        _on_port(scene, labels, told, spans, frames, rows, file),
        _cast(scene, labels, hosts, frames, rows, tenants.client[rows], 0),
        _cast(scene, labels, hosts, frames, rows, tenants.server[rows], 1),
    )
    template_of, first = distinct_rows([part.codes for part in parts])
    codes = np.zeros(scene.table.count, np.int32)
    codes[rows] = template_of + 1
    numbers: list[NDArray[np.int64]] = []
    worded, item = [], cache(_item)  # thousands of wordings are made of some hundred items
    for part in parts:
        texts = [[item(fact, len(numbers)) for fact in text] for text in part.texts]
        worded.append([texts[code] for code in part.codes[first].tolist()])
        numbers += part.frames
    values = [list(chain.from_iterable(texts)) for texts in zip(*worded, strict=True)]
    return Framed.of(codes, [[], *values], rows, numbers)


def _item(fact: Fact, hole: int) -> dict[str, Any]:
    """A fact as it stands in a record. hole: where the first of its part's frames goes."""
    kind, name, value, file, at = fact
    return {
        "kind": kind,
        "field": name,
        "value": value,
        "frame": None if file is None else Hole(hole + at),
        "file": file,
    }


# ---- what a port was handed out by ----------------------------------------------------------


class Told(NamedTuple):
    """What handed out the server ports of all conversations.

    codes: int32, each one's index into stories; stories: kind, interface, version and file (None where the conversation
    that told it isn't known), of None for a port that nothing handed out; frames, conversations: int64, the number of
    the frame and the id of the conversation that told it.
    """

    codes: NDArray[np.int32]
    stories: list[tuple[str, str, str, str | None] | None]
    frames: NDArray[np.int64]
    conversations: NDArray[np.int64]

    @classmethod
    def of(cls, scene: Scene, resolved: Resolved, frames: Frames) -> Told:
        """Look up the announcements of all resolved conversations."""
        claim, _, frame, conversation = scene.endpoint_map.said[:, resolved.best]
        file = np.where(conversation >= 0, frame // frames.BLOCK, -1)
        told_of, first = distinct_rows((claim, file))
        stories = Distinct[tuple[str, str, str, str | None] | None]([None], {None: 0})
        told = [
            stories.code((each.kind, each.uuid, each.version, frames.files[own] if own >= 0 else None))
            for each, own in zip(
                map(scene.endpoint_map.claims.__getitem__, claim[first]), file[first].tolist(), strict=True
            )
        ]
        columns = np.zeros((3, scene.table.count), np.int64)
        columns[:, resolved.rows] = np.array(told, np.int64)[told_of], frame % frames.BLOCK, conversation + 1
        return cls(columns[0].astype(np.int32), stories.values, columns[1], columns[2])


def _announced(rulebook: Rulebook, told: Told, rows: NDArray[np.int64]) -> _Part:
    texts: list[Facts] = [
        (("announcement", story[0], _title(rulebook, story[1], story[2]), story[3], 0),) if story else ()
        for story in told.stories
    ]
    return _Part(told.codes[rows], texts, [told.frames[rows]])


# ---- what was read, and the port ------------------------------------------------------------


def _read(scene: Scene, frames: Frames, rows: NDArray[np.int64], file: NDArray[np.int64]) -> _Part:
    """What payloads say. file: in which each conversation began."""
    code = scene.inspection.codes[rows]
    pair_of, first = distinct_rows((code, file))
    texts = Distinct[Facts]()
    numbers, places = [], []
    for found, own in zip(code[first].tolist(), file[first].tolist(), strict=True):
        items = islice(_payload_items(scene.rulebook, scene.inspection.found[found]), _MOST_ITEMS)
        at: dict[Place, int] = {}
        text = [
            (kind, name, value, frames.files[own], at.setdefault(place, len(at))) for kind, name, value, place in items
        ]
        numbers.append(texts.code(tuple(text)))
        places.append(list(at))
    columns = scene.inspection.locate_lists(rows, places, pair_of)
    return _Part(np.array(numbers, np.int32)[pair_of], texts.values, list(columns % frames.BLOCK))


_ALWAYS_SHOWN: Final = ("rpc.auth", "tls.decrypted", "http.x-requesttype")
"""Beginnings of signs that no path asks for and people do."""


def _payload_items(rulebook: Rulebook, evidence: object) -> Iterator[tuple[str, str, str, Place]]:
    """kind, field, value and place of what a payload says, if anything."""
    if not isinstance(evidence, Evidence):
        return
    yield "payload", "protocol", evidence.protocol, evidence.place
    for interface in evidence.interfaces:
        answer = {True: "accepted", False: "refused", None: "no answer seen"}[interface.accepted]
        name = _title(rulebook, interface.uuid, interface.version)
        yield "interface", "rpc.interface", f"{name} {answer}", interface.place
    for query in evidence.queries:
        yield "query", "rpc.asked", _title(rulebook, query.uuid, query.version), query.place
    for sign in evidence.signs:
        if sign.field.startswith(_ALWAYS_SHOWN) or tells(rulebook, sign.field, sign.value):
            yield "sign", sign.field, sign.value, sign.place


def _on_port(
    scene: Scene, labels: Labels, told: Told, spans: Spans, frames: Frames, rows: NDArray[np.int64],
    file: NDArray[np.int64],
) -> _Part:  # fmt: skip
    """The server port where it is part of the evidence, which it is too where nothing else is; the first frame shows
    it."""
    counts = np.array(["port" in decision.basis for decision in labels.decisions], np.bool_)[labels.codes[rows]]
    unread = np.array([not isinstance(entry, Evidence) for entry in scene.inspection.found], np.bool_)
    counts |= unread[scene.inspection.codes[rows]] & (told.codes[rows] == 0)
    port = (2 * scene.sides.server_port[rows] + spans.udp[rows]) * counts
    codes, first = distinct_rows((port, file * counts))
    texts: list[Facts] = [
        (("port", "server_port", f"{both >> 1}/{'udp' if both & 1 else 'tcp'}", frames.files[own], 0),) if both else ()
        for both, own in zip(port[first].tolist(), file[first].tolist(), strict=True)
    ]
    return _Part(codes, texts, [spans.numbers[1][rows] * counts])


# ---- why a host has its role ----------------------------------------------------------------


def _cast(
    scene: Scene, labels: Labels, hosts: Hosts, frames: Frames, rows: NDArray[np.int64],
    numbers: NDArray[np.int64], side: int,
) -> _Part:  # fmt: skip
    """Why one side has its roles, by host and by what the label says that it plays. numbers: of the hosts there; side:
    0 for clients, 1 for servers."""
    played = Distinct[str | None]()
    plays = [
        played.code((each.server_role if side else each.client_role) if "roles" in each.basis else "")
        for each in labels.decisions
    ]
    play = np.array(plays, np.int64)[labels.codes[rows]]
    pair_of, first = distinct_rows((numbers, play))
    host = numbers[first]
    case_of, sample = distinct_rows((hosts.of[host], play[first]))
    cases = zip(hosts.of[host[sample]].tolist(), play[first[sample]].tolist(), strict=True)
    bases = Distinct[tuple[tuple[str, str], ...]]()
    base_of = [bases.code(tuple(_roles(hosts.parts[part], played.values[own]))) for part, own in cases]
    base = np.array(base_of, np.int64)[case_of]
    shown = _frames_of(hosts.deeds, bases.values, base, host)
    text_of, sample = distinct_rows((base, *(shown // frames.BLOCK)))
    texts = [
        tuple(_role_facts(scene.rulebook, frames, side, bases.values[basis], files))
        for basis, files in zip(base[sample].tolist(), (shown[:, sample] // frames.BLOCK).T.tolist(), strict=True)
    ]
    return _Part(text_of[pair_of], texts, list((shown % frames.BLOCK)[:, pair_of]))


def _frames_of(
    deeds: Deeds, bases: Sequence[tuple[tuple[str, str], ...]], base: NDArray[np.int64], host: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Frames of the first, the second, ... role of some hosts, 0 where it has fewer or no act shows it: rows. bases: as
    of `_roles`; base: each host's."""
    numbers = {act: number for number, act in enumerate(deeds.acts)} | {"": -1}
    acts = np.full((max(map(len, bases), default=0), len(bases)), -1)
    for column, roles in enumerate(bases):
        acts[: len(roles), column] = [numbers[act] for _, act in roles]
    act = acts[:, base]
    shown, at = np.zeros_like(act), act >= 0
    shown[at] = deeds.frames_of(np.broadcast_to(host, act.shape)[at], act[at])
    return shown


def _roles(part: Part, played: str | None) -> list[tuple[str, str]]:
    """The roles that a label went by, with an act that shows each; of several inferred ones that which is played here.
    played: "" where the label went by none. No act ("") shows a role that the inventory has."""
    if played == "":
        return []
    if part.listed and part.listed.roles:
        return [(role, "") for role in sorted(part.listed.roles)]
    if played and played in part.cast:
        return [(played, act) for act in part.cast[played][:_MOST_REASONS]]
    return [(role, act) for role, acts in part.cast.items() if role for act in acts[:_MOST_REASONS]]


def _role_facts(
    rulebook: Rulebook, frames: Frames, side: int, shown: Iterable[tuple[str, str]], files: Sequence[int]
) -> Iterator[Fact]:
    """shown: as of `_roles`; files: that show it."""
    name = "server_role" if side else "client_role"
    for at, (role, act) in enumerate(shown):
        if act:
            yield "role", name, f"{role}: {rulebook.acts[act].title}", frames.files[files[at]], at
        else:
            yield "inventory", name, role, None, at


def _title(rulebook: Rulebook, uuid: str, version: str) -> str:
    """An interface for people: its name, and the UUID to search for."""
    interface = rulebook.interface(uuid, version)
    return f"{interface.name} ({uuid} v{version})" if interface else f"{uuid} v{version}" if uuid else ""
