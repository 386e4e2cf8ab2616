"""Row by row: each documented path in a capture without an inventory, where roles show only in what hosts do.

`pytest -s -n0 tests/test_rows.py -k table` prints the table: row, certainty, roles, evidence codes of ambiguity.md.
What the maker claims of a conversation must come out whole: its paths, both roles, and no path beyond those that no
packet separates from it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_captures import CAPTURES, INDEX, REFERENCE, disagreements

import classifier

SHOWN = [entry for entry in INDEX if entry.get("roles") == "shown"]

CODES = {
    "announcement": "E-EPM", "interface": "E-BIND", "query": "E-EPM", "role": "E-SERVED", "smtp": "E-SMTP",
    "tls": "E-TLS", "http": "E-HTTP", "kerberos": "E-KRB", "ntlm": "E-NTLM", "net": "E-NMF", "nego-stream": "E-NNS",
    "sip": "E-SIP", "ldap": "E-LDAP", "dns": "E-DNS", "ncacn-http": "E-NCACN", "cluster-heartbeat": "E-SHAPE",
    "port": "E-DIR",
}  # fmt: skip
"""What kinds and fields of evidence are called in the evidence kit of ambiguity.md."""


class Row(NamedTuple):
    """One documented path as it came out: in which conversation, how sure, on what evidence."""

    path: str
    file: str
    id: int
    certainty: str
    roles: tuple[str, str]
    paths: tuple[str, ...]
    codes: tuple[str, ...]


@cache
def answers(file: str) -> dict[tuple[str, int], classifier.Conversation]:
    return {(talk.transport, talk.first_frame): talk for talk in classifier.classify(CAPTURES / file)}


@pytest.mark.parametrize("entry", SHOWN, ids=[entry["file"] for entry in SHOWN])
def test_every_claim_comes_out(entry: dict[str, Any]) -> None:
    said = answers(entry["file"])
    complaints = [line for truth in entry["conversation"] for line in disagreements(truth, said)]
    assert not complaints, "\n" + "\n".join(complaints)


def rows() -> Iterator[Row]:
    """Every claimed path, at its first conversation."""
    for entry in SHOWN:
        said = answers(entry["file"])
        for truth in entry["conversation"]:
            talk = said[truth["transport"], truth["first_frame"]]
            if (talk.client_role, talk.server_role) != (truth.get("client_role"), truth.get("server_role")):
                continue
            for path in set(truth.get("data_paths", [])) & set(talk.data_paths):
                yield Row(
                    path, entry["file"], talk.id, talk.certainty, (talk.client_role, talk.server_role),
                    tuple(talk.data_paths), tuple(sorted(codes(talk))),
                )  # fmt: skip


def codes(talk: classifier.Conversation) -> set[str]:
    """Codes of the evidence that a label stands on."""
    fields = {fact["field"].partition(".")[0] for fact in talk.evidence if fact["kind"] == "sign"}
    kinds = {fact["kind"] for fact in talk.evidence} | fields | {talk.protocol}
    return {"E-DIR", *(CODES[kind] for kind in kinds if kind in CODES)}


def reference(name: str) -> list[dict[str, str]]:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not there: rows were NOT compared with the documents")
    return list(csv.DictReader((REFERENCE / name).read_text().splitlines()))


def print_table(wanted: list[str]) -> list[str]:
    """Print what became of these rows; returns those that are missing."""
    best: dict[str, Row] = {}
    for row in rows():
        if row.path not in best or RANK[row.certainty] > RANK[best[row.path].certainty]:
            best[row.path] = row
    print()
    for path in wanted:
        row = best.get(path)
        if row:
            others = len(row.paths) - 1
            where = f"{Path(row.file).stem} {row.id}"
            cells = (row.certainty, " > ".join(row.roles), f"one of {others + 1}" if others else "alone", where)
            print(f"{path:42} {cells[0]:8} {cells[1]:38} {cells[2]:10} {cells[3]:22} {' '.join(row.codes)}")
        else:
            print(f"{path:42} MISSING")
    return [path for path in wanted if path not in best]


RANK = {"weak": 0, "strong": 1, "certain": 2}


def test_table_of_2010() -> None:
    wanted = [row["id"] for row in reference("exchange2010_data_paths.csv") if row["row_kind"] == "table-row"]
    assert len(wanted) == 53
    assert print_table(wanted) == []


def test_table_of_2003() -> None:
    wanted = [row["id"] for row in reference("exchange2003_services.csv") if row["ports"]]
    assert not print_table(wanted)


def test_table_of_later_versions() -> None:
    known = {row["id"].partition("-")[2] for row in reference("other_versions.csv") if row["id"][:5] > "v2003"}
    later = sorted({row.path for row in rows() if row.file.startswith("shown-later")} & known)
    assert not print_table(later)
    assert len(later) >= 30
