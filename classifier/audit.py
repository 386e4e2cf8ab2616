"""Labels and what was read → findings, checked once for each distinct set of facts, and their column.

Owns which facts conversations share and which frame shows a finding. What is a finding is `findings`' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.conversations import STATES
from classifier.expectations import Observed, Remark
from classifier.fields import Framed, Hole
from classifier.findings import FACTS, Case, Checklist, FindingRule, Found, networks_of, within
from classifier.hosts import UNKNOWN, Hosts, Part
from classifier.inspectors.base import Evidence, Place
from classifier.labelling import Labels, Scene, Tenants
from classifier.model import EXCHANGE_ROLES, ROLES
from classifier.numbering import Distinct, distinct_rows
from classifier.packets import Frames

Seen = tuple[str | None, str | None, str | None, frozenset[tuple[str, str]]]
"""Authentication, encryption, TLS version and the signs that findings ask for."""


class Audit(NamedTuple):
    """The column of findings, and how many conversations conform, deviate or can't be decided, by what was compared."""

    findings: Framed
    verdicts: dict[str, int]


def audit(
    scene: Scene, labels: Labels, tenants: Tenants, hosts: Hosts, states: NDArray[np.int32],
    silent: NDArray[np.int64], rules: Sequence[FindingRule], frames: Frames,
) -> Audit:  # fmt: skip
    """Check every distinct set of facts once. states: into `STATES`; silent: as of `silent_servers`."""
    facts = _Columns(scene, labels, tenants, hosts, states, silent, rules, frames)
    checklist = Checklist(scene.rulebook, rules)
    codes, first = distinct_rows(facts.columns)
    cases = {index: Case.of(scene.rulebook, facts.observed(index)) for index in first.tolist()}
    of_codes = np.array(list(map(checklist.persons_asked, cases.values())), np.int64).reshape(-1, 2)
    roles = (of_codes[codes, side] * (1 + of) for side, of in enumerate(labels.sides))
    codes, first = distinct_rows((codes, *roles))
    counts = np.bincount(codes, minlength=len(first))
    made: list[tuple[Found, ...]] = []
    verdicts: Counter[str] = Counter()
    for index, count in zip(first.tolist(), counts.tolist(), strict=True):
        case = cases.get(index) or Case.of(scene.rulebook, facts.observed(index))
        for kind in ("authentication", "encryption"):
            [answer] = case.words[f"{kind}-verdict"]
            verdicts[f"{kind} {answer}"] += count
        made.append(checklist.check(case))
    values = [[_worded(each, hole) for hole, each in enumerate(found)] for found in made]
    rows = np.flatnonzero(np.array([bool(found) for found in made], np.bool_)[codes])
    return Audit(Framed.of(codes, values, rows, _frames(scene, rows, codes[rows], made, frames)), dict(verdicts))


def _worded(found: Found, hole: int) -> dict[str, Any]:
    return {
        "id": found.id, "severity": found.severity, "text": found.text, "documented": found.documented or None,
        "frame": Hole(hole),
    }  # fmt: skip


# ---- facts ----------------------------------------------------------------------------------------------


_SOURCES: Final = (None, "inventory", "traffic")


class _Columns:
    """What findings are made from, as numbers into distinct values, one column for each sort of fact; but for persons'
    roles that make no difference for a label (`Judgement.asked`)."""

    def __init__(
        self, scene: Scene, labels: Labels, tenants: Tenants, hosts: Hosts, states: NDArray[np.int32],
        silent: NDArray[np.int64], rules: Sequence[FindingRule], frames: Frames,
    ) -> None:  # fmt: skip
        self._labels, self._scene = labels, scene
        asked = {name for rule in rules for test in (*rule.when, *rule.unless) for name in test if name not in FACTS}
        asked.add("ldap.base-dn")
        self._seen, self._remarks = Distinct[Seen](), Distinct[tuple[Remark, ...]]()
        self._networks = Distinct[frozenset[str]]()
        seen_of = np.array([self._seen.code(_seen(entry, asked)) for entry in scene.inspection.found], np.int64)
        source_of = np.array([_source(part) for part in hosts.parts], np.int64)[hosts.of]
        network_of = self._network_of(rules)
        self.columns = (
            labels.codes,
            seen_of[scene.inspection.codes],
            states,
            source_of[tenants.client],
            source_of[tenants.server],
            network_of[scene.sides.client],
            network_of[scene.sides.server],
            self._remark_codes(tenants, hosts, frames),
            silent,
            _certificate_states(scene),
        )

    def observed(self, index: int) -> Observed:
        """The facts of one conversation."""
        label, own, state, client, server, from_, to, remarks, silent, certificate = (
            int(column[index]) for column in self.columns
        )
        authentication, encryption, tls_version, signs = self._seen.values[own]
        said = "nothing" if silent else "something"
        return Observed(
            self._labels.facts_of(index), self._labels.decisions[label], authentication, encryption, tls_version,
            STATES[state], said, _CERTIFICATES[certificate], signs, _SOURCES[client], _SOURCES[server],
            self._networks.values[from_], self._networks.values[to], self._remarks.values[remarks],
        )  # fmt: skip

    def _network_of(self, rules: Sequence[FindingRule]) -> NDArray[np.int64]:
        """Of each address, the number of the set of networks that it is in."""
        networks, texts = networks_of(rules), self._scene.addresses.texts
        nowhere = self._networks.code(frozenset())
        if not networks:
            return np.full(len(texts), nowhere, np.int64)
        return np.array([self._networks.code(within(networks, text)) for text in texts], np.int64)

    def _remark_codes(self, tenants: Tenants, hosts: Hosts, frames: Frames) -> NDArray[np.int64]:
        """Of each conversation, the number of what it shows against the inventory."""
        shown: dict[int, list[Remark]] = {}
        against = [_against(self._scene, part) for part in hosts.parts]
        remarkable = np.flatnonzero(np.array(list(map(bool, against)), np.bool_)[hosts.of]).tolist()
        for each, acts in hosts.deeds.by_host(remarkable).items():
            address = self._scene.addresses.texts[int(tenants.addresses[each])]
            for kind, word, listed, act in against[hosts.of[each]]:
                title, frame = self._scene.rulebook.acts[act].title, frames.number(acts[act].frame)
                remark = Remark(kind, word, address, listed, title, frame)
                shown.setdefault(acts[act].conversation, []).append(remark)
        codes = np.full(self._scene.table.count, self._remarks.code(()), np.int64)
        for index, remarks in zip(self._scene.indexes(list(shown)), shown.values(), strict=True):
            if index >= 0:
                codes[index] = self._remarks.code(tuple(remarks))
        return codes


def _seen(entry: object, asked: set[str]) -> Seen:
    if not isinstance(entry, Evidence):
        return None, None, None, frozenset()
    signs = frozenset((sign.field, sign.value) for sign in entry.signs if sign.field in asked)
    return entry.authentication, entry.encryption, entry.tls_version, signs


_CERTIFICATES: Final = (None, "valid", "expired", "not-yet-valid")


def _certificate_states(scene: Scene) -> NDArray[np.int64]:
    """Index into _CERTIFICATES: the server's certificate, at the time at which each conversation began."""
    dates = np.array([_validity(entry) for entry in scene.inspection.found], np.int64).reshape(-1, 3)
    rows = np.flatnonzero((dates[:, 0] != 0)[scene.inspection.codes])
    states = np.zeros(scene.table.count, np.int64)
    _, begins, ends = dates[scene.inspection.codes[rows]].T
    start = scene.table.rows["start"][rows] // 10**9
    states[rows] = np.where(start > ends, 2, np.where(start < begins, 3, 1))
    return states


def _validity(entry: object) -> tuple[int, int, int]:
    """1 if a server's certificate was read, and from when to when it is valid, in seconds since 1970."""
    if not isinstance(entry, Evidence) or not entry.tls_version:
        return 0, 0, 0
    signs = {sign.field: sign.value for sign in entry.signs if sign.field in _VALIDITY}
    dates = [signs[name] for name in _VALIDITY if signs.get(name)]
    if len(dates) < len(_VALIDITY):
        return 0, 0, 0
    begins, ends = (int(datetime.fromisoformat(date).timestamp()) for date in dates)
    return 1, begins, ends


_VALIDITY: Final = ("tls.certificate-not-before", "tls.certificate-not-after")


def _source(part: Part) -> int:
    """Index into _SOURCES: who says what a host is."""
    return 1 if part.listed and part.listed.roles else 2 if part.inferred.roles else 0


def _against(scene: Scene, part: Part) -> list[tuple[str, str, str, str]]:
    """What hosts with this part show against the inventory: the kind of `Remark`, a role or version, what is listed
    instead, and the act that shows it.

    Of hosts that are not listed, what makes them Exchange servers: of each role the first act.
    """
    entry = part.listed or UNKNOWN
    found = [
        ("contradiction", word, ", ".join(sorted(entry.roles if word in ROLES else entry.versions)), act)
        for word, acts in part.contradicted.items()
        for act in acts
    ]
    if part.listed is None and scene.inventory.entries:
        found += [("unlisted", role, "", part.cast[role][0]) for role in sorted(EXCHANGE_ROLES.intersection(part.cast))]
    return found


# ---- frames ---------------------------------------------------------------------------------------------


def _frames(
    scene: Scene, rows: NDArray[np.int64], codes: NDArray[np.int32], made: Sequence[tuple[Found, ...]], frames: Frames
) -> list[NDArray[np.int64]]:
    """Frame numbers of some rows, by finding: of the remark or sign that shows it, else of the payload, else the first.
    Places are worked out once for each finding of each distinct payload. codes: each row's index into made."""
    pair_of, sample = distinct_rows((codes, scene.inspection.codes[rows]))
    shown = [
        _shown(scene, index, made[code])
        for index, code in zip(rows[sample].tolist(), codes[sample].tolist(), strict=True)
    ]
    first, numbers = scene.table.rows["first_frame"][rows], []
    for hole in range(max(map(len, shown), default=0)):
        table = np.array([pair[hole] if hole < len(pair) else _FIRST for pair in shown], np.int64)[pair_of]
        known, placed = table[:, 0] == _KNOWN, table[:, 0] >= 0
        column = np.where(known, table[:, 1], first)
        column[placed] = scene.inspection.locate_all(rows[placed], table[placed, 0], table[placed, 1]).frames
        numbers.append(column % frames.BLOCK)
    return numbers


_FIRST: Final = (-1, 0)
_KNOWN: Final = -2
"""Instead of a side of the dialogue: the first frame shows it; the frame is known, and stands behind it."""


def _shown(scene: Scene, index: int, found: Sequence[Found]) -> list[tuple[int, int]]:
    """What shows each finding of a conversation: side and offset in the dialogue, or one of the above."""
    evidence = scene.inspection.evidence(index)
    return [
        (_KNOWN, each.frame) if each.frame is not None else _FIRST if evidence is None else _place(evidence, each)
        for each in found
    ]


def _place(evidence: Evidence, found: Found) -> Place:
    shown = set(found.shown_by)
    return next((sign.place for sign in evidence.signs if (sign.field, sign.value) in shown), evidence.place)
