"""The signatures hold every row of the reference tables, with the same ports, roles and columns.

Where a signature differs from the reference on purpose, the difference stands here with the number of the
discrepancy that justifies it.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from classifier import rulebook
from classifier.model import ROLES
from classifier.rules import Form, Rulebook

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"

COLUMNS = {
    "application_protocol": "application_protocol",
    "default_auth": "default_authentication",
    "supported_auth": "supported_authentication",
    "encryption_supported": "encryption_supported",
    "encrypted_by_default": "encrypted_by_default",
    "encryption_mechanism": "encryption_mechanism",
}

PORTS_OF_2003 = {
    "e2003-sa-rpchttp": ["6002/tcp", "6004/tcp"],  # D-03: 6003 is not used
    "e2003-mgmt-dynamic": ["dynamic-rpc/tcp"],  # D-02: TCP, not UDP
    "e2003-is-newmail-udp": ["1024-65535/udp"],  # the cell is a phrase: "random client port (1024-65535)"
}

ROLES_SET_RIGHT = {
    "um-web-service": {"client-access", "unified-messaging"},  # Client Access serves the directory
}

WITHOUT_TRAFFIC = {"client-rpc-tcp-unsupported"}  # says that there is none


def rows(name: str) -> list[dict[str, str]]:
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"REFERENCE NOT FOUND: {path} is absent, the signatures were not compared with it")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def book() -> Rulebook:
    return rulebook.load()


def ports(cell: str) -> list[str]:
    """The tokens of an endpoint cell without remarks in brackets."""
    tokens = [re.sub(r"\s*\(.*?\)", "", token).strip() for token in cell.split(";")]
    return [token for token in tokens if token and not token.startswith("IP protocol")]


def compare(path_id: str, form: Form, row: dict[str, str]) -> list[str]:
    """Everything in which a form differs from its row."""
    found = [f"{path_id}: {name}" for column, name in COLUMNS.items() if getattr(form, name) != row[column]]
    if [str(endpoint) for endpoint in form.endpoints] != ports(row["endpoints"]):
        found.append(f"{path_id}: ports")
    if [str(endpoint) for endpoint in form.implied_endpoints] != ports(row["implied_endpoints"]):
        found.append(f"{path_id}: implied ports")
    if form.title != row["data_path"]:
        found.append(f"{path_id}: title")
    for side, roles in (("source_role", form.client_roles), ("destination_role", form.server_roles)):
        expected = ROLES_SET_RIGHT.get(path_id) if side == "destination_role" else None
        if row[side] in ROLES and set(roles) != (expected or {row[side]}):
            found.append(f"{path_id}: {side}")
    return found


def test_rows_of_2010(book: Rulebook) -> None:
    table = rows("exchange2010_data_paths.csv")
    assert [row["id"] for row in table if row["id"] not in book.paths] == []
    differences = [text for row in table for text in compare(row["id"], book.paths[row["id"]].form("2010"), row)]
    assert differences == []
    ranks = {row["id"]: row["row_kind"].partition("-")[0] for row in table}
    assert {path: book.paths[path].rank for path in ranks} == ranks


def test_services_of_2003(book: Rulebook) -> None:
    table = [row for row in rows("exchange2003_services.csv") if row["ports"]]
    assert [row["id"] for row in table if row["id"] not in book.paths] == []
    for row in table:
        form = book.paths[row["id"]].form("2003")
        dynamic = row["ports"].startswith("dynamic")
        plain = ["dynamic-rpc/tcp"] if dynamic else [f"{port}/{row['transport']}" for port in row["ports"].split(";")]
        assert [str(endpoint) for endpoint in form.endpoints] == PORTS_OF_2003.get(row["id"], plain), row["id"]
        assert form.application_protocol == row["protocol"]
        assert book.paths[row["id"]].versions == ("2003",)


def test_rows_of_other_versions(book: Rulebook) -> None:
    differences, seen = [], set()
    for row in rows("other_versions.csv"):
        path_id = re.sub(r"^v(55|20\d\d|se)-", "", row["id"])
        if path_id in WITHOUT_TRAFFIC:
            assert not row["endpoints"]
            continue
        seen.add((path_id, row["version"]))
        assert row["version"] in book.paths[path_id].versions, row["id"]
        differences += compare(path_id, book.paths[path_id].form(row["version"]), row)
    assert differences == []
    own = {(path.id, version) for path in book.paths.values() for version in path.versions}
    reference = {(row["id"], "2010") for row in rows("exchange2010_data_paths.csv")}
    reference |= {(row["id"], "2003") for row in rows("exchange2003_services.csv")}
    assert own - reference == seen


def test_all_firewall_rules(book: Rulebook) -> None:
    table = rows("exchange2010_firewall_rules.csv")
    assert len(book.firewall_rules) == len(table) == 54
    for row, rule in zip(table, book.firewall_rules, strict=True):
        roles = ["any"] if row["server_roles"] == "all roles" else row["server_roles"].split(";")
        opens = {"Dynamic RPC": "dynamic-rpc", "RPC-EPMap": "rpc-epmap", "Any": "any"}.get(row["ports"], "ports")
        assert (rule.id, rule.name, list(rule.roles), rule.program, rule.opens) == (
            row["id"], row["rule_name"], roles, row["program"], opens,
        )  # fmt: skip
        if opens == "ports":
            assert [str(endpoint) for endpoint in rule.endpoints] == row["ports"].split(";")
        assert bool(rule.original_spelling) == bool(row["source_spelling"])


def test_every_interface(book: Rulebook) -> None:
    known = {(interface.uuid, interface.version) for interface in book.interfaces}
    table = [row for row in rows("rpc_interfaces.csv") if row["uuid"]]
    assert [row["uuid"] for row in table if (row["uuid"], row["version"]) not in known] == []
    assert len(known) == len(table)


def test_only_exchange_interfaces_prove(book: Rulebook) -> None:
    category = {(row["uuid"], row["version"]): row["category"] for row in rows("rpc_interfaces.csv")}
    proving = {(interface.uuid, interface.version) for interface in book.interfaces if interface.exchange_only}
    assert {category[key] for key in proving} == {"exchange", "exchange-legacy"}


def test_corrections_keep_the_original(book: Rulebook) -> None:
    """Every discrepancy that changes a row of the tables is told at that row."""
    told = " ".join(path.original_spelling for path in book.paths.values())
    for number in (
        1,
        2,
        3,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        14,
        20,
        21,
        22,
        23,
        24,
        25,
        28,
        29,
        30,
        31,
        32,
        33,
        34,
        36,
        37,
        39,
    ):
        assert f"D-{number:02d}" in told
