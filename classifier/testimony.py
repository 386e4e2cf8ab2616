"""What each label stands on: the facts that its decision names, worded, each with the frame that shows it.

Owns the column `evidence`. A wording is made once for all conversations that share it; which frames show it is worked
out for all conversations at once. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, count
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.endpoints import Announcement
from classifier.fields import Framed, Hole
from classifier.headers import TCP
from classifier.hosts import Host, Reason
from classifier.inspection import counted
from classifier.inspectors.base import Evidence, Place
from classifier.labelling import Distinct, Labels, Resolution, Scene, Tenants, distinct_rows
from classifier.limits import MAX_SIGNS
from classifier.matching import telling_signs
from classifier.packets import Frames
from classifier.rules import Rulebook

FIRST, ANNOUNCED, READ, WITNESSED, UNSEEN = range(5)
"""What shows a fact: the conversation's first frame, that of the announcement, bytes of the payload, a reason for a
role, or nothing."""

Shown = tuple[int, int, int]
"""One of the above; for bytes their side and offset, for a reason its side (0 client, 1 server) and number."""

Facts = tuple[tuple[str, str, str, str | None], ...]
"""kind, field, value and file (None where no frame shows it) of facts in words."""

_MOST_ITEMS: Final = 2 * MAX_SIGNS
_MOST_REASONS: Final = 2
"""Reasons shown of each role with a label; `exflow hosts` has all."""


def evidence(
    scene: Scene, labels: Labels, resolved: dict[int, Resolution], tenants: Tenants, hosts: Sequence[Host],
    frames: Frames,
) -> Framed:  # fmt: skip
    """For each labelled conversation, the facts its decision names as its basis."""
    labelled = np.array([decision.certainty is not None for decision in labels.decisions], np.bool_)
    rows = np.flatnonzero(labelled[labels.codes])
    codes = np.zeros(scene.table.count, np.int32)
    if not len(rows):
        return Framed(codes, [[]], np.zeros((scene.table.count, 0), np.int64))
    told = _Told.of(rows, resolved, frames)
    numbers = tenants.client[rows], tenants.server[rows]
    casts = [_Cast.of(scene, labels, hosts, frames, rows, number, side) for side, number in enumerate(numbers)]
    first_file = scene.table.rows["first_frame"][rows] // frames.BLOCK
    port = _shown_port(scene, labels, rows, told)
    code = scene.inspection.codes[rows].astype(np.int64)
    wordings = (casts[0].wording, casts[1].wording)
    template_of, first = distinct_rows((code, told.stories, port, first_file, *wordings))
    wording = _Wording(scene, frames)
    made = [
        wording.of(int(rows[i]), told.best.get(i), bool(port[i]), [cast.texts[cast.wording[i]] for cast in casts])
        for i in first.tolist()
    ]
    texts = Distinct[Facts]()
    texts.code(())
    codes[rows] = np.array([texts.code(facts) for facts, _ in made], np.int32)[template_of]
    places = np.zeros((scene.table.count, max(len(shown) for _, shown in made)), np.int64)
    _fill(places, scene, frames, rows, template_of, [shown for _, shown in made], told, casts)
    items = cache(_item)  # thousands of wordings are made of some hundred items
    return Framed(codes, [list(map(items, count(), facts)) for facts in texts.values], places)


def _item(place: int, fact: tuple[str, str, str, str | None]) -> dict[str, Any]:
    kind, name, value, file = fact
    return {"kind": kind, "field": name, "value": value, "frame": None if file is None else Hole(place), "file": file}


def _shown_port(scene: Scene, labels: Labels, rows: NDArray[np.int64], told: _Told) -> NDArray[np.int64]:
    """2 * port + 1 for UDP where the port is part of the evidence, which it is too where nothing else is; else 0."""
    counts = np.array(["port" in decision.basis for decision in labels.decisions], np.bool_)[labels.codes[rows]]
    unread = np.array([not isinstance(entry, Evidence) for entry in scene.inspection.found], np.bool_)
    counts |= unread[scene.inspection.codes[rows]] & (told.stories == 0)
    udp = scene.table.rows["protocol"][rows] != TCP
    return np.where(counts, 2 * scene.sides.server_port[rows] + udp, 0)


# ---- what a port was handed out by ----------------------------------------------------------


class _Told(NamedTuple):
    """best: the announcement of a row's port, where it was handed out; stories: numbers of what that says, 0 for none;
    frames: where."""

    best: dict[int, Announcement]
    stories: NDArray[np.int64]
    frames: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.int64], resolved: dict[int, Resolution], frames: Frames) -> _Told:
        """Look up every row of those that are resolved. rows: in order."""
        stories = Distinct[tuple[str, ...] | None]()
        told = cls({}, np.full(len(rows), stories.code(None), np.int64), np.zeros(len(rows), np.int64))
        indexes = np.fromiter(resolved, np.int64)
        places = np.minimum(np.searchsorted(rows, indexes), len(rows) - 1)
        for index, place, met in zip(indexes.tolist(), places.tolist(), rows[places].tolist(), strict=True):
            if met == index:
                best = told.best[place] = resolved[index].best
                told.stories[place] = stories.code(_story(frames, best))
                told.frames[place] = frames.number(best.frame)
        return told


def _story(frames: Frames, best: Announcement) -> tuple[str, ...]:
    return best.kind, best.uuid, best.version, _file_of(frames, best) or ""


def _file_of(frames: Frames, best: Announcement) -> str | None:
    return frames.file(best.frame) if best.conversation >= 0 else None


# ---- why a host has its role ----------------------------------------------------------------


@dataclass(slots=True)
class _Cast:
    """One side's reasons for its roles, by host and by what the label says that it plays.

    wording: each row's number of a text; reason_of: each row's index into reasons; reasons: of each distinct host.
    """

    wording: NDArray[np.int64]
    reason_of: NDArray[np.int32]
    texts: list[Facts]
    frames: NDArray[np.int64]

    @classmethod
    def of(
        cls, scene: Scene, labels: Labels, hosts: Sequence[Host], frames: Frames, rows: NDArray[np.int64],
        numbers: NDArray[np.int64], side: int,
    ) -> _Cast:  # fmt: skip
        """Word the reasons once for each host and role that it plays. numbers: of the hosts on that side."""
        played = Distinct[str | None]()
        roles = [
            played.code((each.server_role if side else each.client_role) if "roles" in each.basis else "")
            for each in labels.decisions
        ]
        reason_of, first = distinct_rows((numbers, np.array(roles, np.int64)[labels.codes[rows]]))
        texts = Distinct[Facts]()
        wordings, told = [], []
        for index in first.tolist():
            host, role = hosts[numbers[index]], played.values[roles[labels.codes[rows[index]]]]
            shown = [] if role == "" else _reasons(host, role)
            told.append([frames.number(reason.frame) for _, reason in shown if reason])
            wordings.append(texts.code(tuple(_role_facts(scene.rulebook, frames, side, shown))))
        table = np.zeros((len(told), max(map(len, told), default=0)), np.int64)
        for number, each in enumerate(told):
            table[number, : len(each)] = each
        return cls(np.array(wordings, np.int64)[reason_of], reason_of, texts.values, table)


def _reasons(host: Host, played: str | None) -> list[tuple[str, Reason | None]]:
    """The roles that a label went by, with what shows them; of several inferred ones that which is played here."""
    if host.listed.roles:
        return [(role, None) for role in sorted(host.listed.roles)]
    chosen = {role: reasons for role, reasons in host.reasons.items() if role == played} or host.reasons
    return [(role, reason) for role, reasons in chosen.items() if role for reason in reasons[:_MOST_REASONS]]


def _role_facts(
    rulebook: Rulebook, frames: Frames, side: int, shown: Iterable[tuple[str, Reason | None]]
) -> Iterator[tuple[str, str, str, str | None]]:
    name = "server_role" if side else "client_role"
    for role, reason in shown:
        if reason is None:
            yield "inventory", name, role, None
        else:
            yield "role", name, f"{role}: {rulebook.acts[reason.act].title}", frames.file(reason.frame)


# ---- one wording, and its frames --------------------------------------------------------------


@dataclass(slots=True)
class _Wording:
    """Facts of a conversation in words, with what shows each; what a payload says is worded once."""

    scene: Scene
    frames: Frames
    _payloads: dict[tuple[int, str], tuple[Facts, list[Shown]]] = field(default_factory=dict)

    def of(
        self, index: int, best: Announcement | None, port: bool, casts: Sequence[Facts]
    ) -> tuple[Facts, list[Shown]]:
        """What the label of one conversation stands on. best: the announcement of its port. casts: reasons of roles."""
        own = self.frames.file(int(self.scene.table.rows["first_frame"][index]))
        facts: Facts = ()
        shown: list[Shown] = []
        if best is not None:
            file = _file_of(self.frames, best)
            facts = (("announcement", best.kind, _title(self.scene.rulebook, best.uuid, best.version), file),)
            shown = [(UNSEEN if file is None else ANNOUNCED, 0, 0)]
        read = self._payload(int(self.scene.inspection.codes[index]), own)
        facts, shown = (facts + read[0])[:_MOST_ITEMS], (shown + read[1])[:_MOST_ITEMS]
        if port:
            number, transport = self.scene.sides.server_port[index], self.scene.transport(index)
            facts += (("port", "server_port", f"{number}/{transport}", own),)
            shown.append((FIRST, 0, 0))
        for side, cast in enumerate(casts):
            facts += cast
            shown += [(UNSEEN if fact[3] is None else WITNESSED, side, i) for i, fact in enumerate(cast)]
        return facts, shown

    def _payload(self, code: int, own: str) -> tuple[Facts, list[Shown]]:
        made = self._payloads.get((code, own))
        if made is None:
            found = self.scene.inspection.found[code]
            items = list(_payload_items(self.scene.rulebook, found)) if isinstance(found, Evidence) else []
            facts = tuple((kind, name, value, own) for kind, name, value, _ in items)
            made = self._payloads[code, own] = facts, [(READ, int(at.side), at.offset) for *_, at in items]
        return made


def _fill(
    places: NDArray[np.int64], scene: Scene, frames: Frames, rows: NDArray[np.int64], template_of: NDArray[np.int32],
    made: Sequence[Sequence[Shown]], told: _Told, casts: Sequence[_Cast],
) -> None:  # fmt: skip
    """Enter the frame of every item of every labelled conversation, some of them at a time: each item takes room."""
    sizes = np.array([len(shown) for shown in made], np.int64)
    starts = np.cumsum(sizes) - sizes
    how = np.fromiter(chain.from_iterable(chain.from_iterable(made)), np.int64).reshape(-1, 3)
    for begin in range(0, len(rows), _FILLED_AT_ONCE):
        part = np.arange(begin, min(begin + _FILLED_AT_ONCE, len(rows)))
        templates = template_of[part]
        hole = counted(sizes[templates])
        spread = np.repeat(part, sizes[templates])
        shown = how[np.repeat(starts[templates], sizes[templates]) + hole]
        places[rows[spread], hole] = _frames_of(shown, spread, scene, frames, rows, told, casts)


_FILLED_AT_ONCE: Final = 1 << 16


def _frames_of(
    shown: NDArray[np.int64], spread: NDArray[np.int64], scene: Scene, frames: Frames, rows: NDArray[np.int64],
    told: _Told, casts: Sequence[_Cast],
) -> NDArray[np.int64]:  # fmt: skip
    """The frame of each item. shown: rows of `Shown`; spread: which of the labelled conversations each belongs to."""
    kind, side, offset = shown.T
    numbers = np.zeros(len(spread), np.int64)
    read = np.flatnonzero(kind == READ)
    located = scene.inspection.locate_all(rows[spread[read]], side[read], offset[read].copy())
    numbers[read] = located.frames % frames.BLOCK
    first = np.flatnonzero(kind == FIRST)
    numbers[first] = scene.table.rows["first_frame"][rows[spread[first]]] % frames.BLOCK
    announced = np.flatnonzero(kind == ANNOUNCED)
    numbers[announced] = told.frames[spread[announced]]
    for number, cast in enumerate(casts):
        mine = np.flatnonzero((kind == WITNESSED) & (side == number))
        numbers[mine] = cast.frames[cast.reason_of[spread[mine]], offset[mine]] if len(mine) else 0
    return numbers


_ALWAYS_SHOWN: Final = ("rpc.auth", "tls.decrypted", "http.x-requesttype")
"""Beginnings of signs that no path asks for and people do."""


def _payload_items(rulebook: Rulebook, evidence: Evidence) -> Iterator[tuple[str, str, str, Place]]:
    yield "payload", "protocol", evidence.protocol, evidence.place
    for interface in evidence.interfaces:
        answer = {True: "accepted", False: "refused", None: "no answer seen"}[interface.accepted]
        name = _title(rulebook, interface.uuid, interface.version)
        yield "interface", "rpc.interface", f"{name} {answer}", interface.place
    for query in evidence.queries:
        yield "query", "rpc.asked", _title(rulebook, query.uuid, query.version), query.place
    for sign in evidence.signs:
        if sign.field.startswith(_ALWAYS_SHOWN) or telling_signs(rulebook, [(sign.field, sign.value)]):
            yield "sign", sign.field, sign.value, sign.place


def _title(rulebook: Rulebook, uuid: str, version: str) -> str:
    """An interface for people: its name, and the UUID to search for."""
    interface = rulebook.interface(uuid, version)
    return f"{interface.name} ({uuid} v{version})" if interface else f"{uuid} v{version}" if uuid else ""
