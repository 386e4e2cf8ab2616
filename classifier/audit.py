"""Labels and what was read → findings, checked once for each distinct set of facts, and their column.

Owns which facts conversations share and which frame shows a finding. What is a finding is `expectations`' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.conversations import STATES, connection_states
from classifier.expectations import (
    FACTS,
    FindingRule,
    Found,
    Observed,
    authentication_verdict,
    check,
    encryption_verdict,
)
from classifier.fields import Framed, Hole
from classifier.inspectors.base import Evidence, Place
from classifier.labelling import Distinct, Labels, Scene, distinct_rows
from classifier.packets import Frames

Seen = tuple[str | None, str | None, str | None, frozenset[tuple[str, str]]]
"""Authentication, encryption, TLS version and the signs that findings ask for."""


def findings(
    scene: Scene, labels: Labels, rules: Sequence[FindingRule], frames: Frames
) -> tuple[Framed, dict[str, int]]:
    """The column of findings, and how many conversations conform, deviate or can't be decided, by what was compared."""
    asked = {name for rule in rules for test in (*rule.when, *rule.unless) for name in test if name not in FACTS}
    seen = Distinct[Seen]()
    asked.add("ldap.base-dn")
    seen_of = np.array([seen.code(_seen(entry, asked)) for entry in scene.inspection.found], np.int64)
    states = connection_states(scene.table, scene.orientation.client.astype(np.int64)).astype(np.int64)
    columns = (labels.codes.astype(np.int64), seen_of[scene.inspection.codes], states)
    codes, first = distinct_rows(columns)
    counts = np.bincount(codes, minlength=len(first))
    made: list[tuple[Found, ...]] = []
    verdicts: Counter[str] = Counter()
    for index, count in zip(first.tolist(), counts.tolist(), strict=True):
        label, own, state = (int(column[index]) for column in columns)
        observed = Observed(labels.facts[label], labels.decisions[label], *seen.values[own][:3], STATES[state],
                            seen.values[own][3])  # fmt: skip
        verdicts[f"authentication {authentication_verdict(scene.rulebook, observed)}"] += count
        verdicts[f"encryption {encryption_verdict(scene.rulebook, observed)}"] += count
        made.append(check(scene.rulebook, rules, observed))
    values = [[_worded(each, hole) for hole, each in enumerate(found)] for found in made]
    return Framed(codes, values, _frames(scene, codes, made, frames)), dict(verdicts)


def _seen(entry: object, asked: set[str]) -> Seen:
    if not isinstance(entry, Evidence):
        return None, None, None, frozenset()
    signs = frozenset((sign.field, sign.value) for sign in entry.signs if sign.field in asked)
    return entry.authentication, entry.encryption, entry.tls_version, signs


def _worded(found: Found, hole: int) -> dict[str, Any]:
    return {"id": found.id, "severity": found.severity, "text": found.text, "frame": Hole(hole)}


def _frames(
    scene: Scene, codes: NDArray[np.int32], made: Sequence[tuple[Found, ...]], frames: Frames
) -> NDArray[np.int64]:
    """Frame numbers by conversation and finding: of the sign that shows it, else of the payload, else the first."""
    first = scene.table.rows["first_frame"][: scene.table.count] % frames.BLOCK
    numbers = np.repeat(first[:, None], max(map(len, made), default=0), 1)
    filled = np.array([bool(found) for found in made], np.bool_)
    wanted: list[tuple[int, int, Place]] = []
    for index in np.flatnonzero(filled[codes]).tolist() if len(filled) else []:
        evidence = scene.inspection.evidence(index)
        if evidence is not None:
            wanted += [(index, hole, _place(evidence, found)) for hole, found in enumerate(made[codes[index]])]
    if wanted:
        rows, holes, places = zip(*wanted, strict=True)
        numbers[list(rows), list(holes)] = scene.inspection.locate(rows, places).frames % frames.BLOCK
    return numbers


def _place(evidence: Evidence, found: Found) -> Place:
    shown = set(found.shown_by)
    return next((sign.place for sign in evidence.signs if (sign.field, sign.value) in shown), evidence.place)
