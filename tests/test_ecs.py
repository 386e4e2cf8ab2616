"""Documents of the Elastic Common Schema against the schema's own list of fields, and against the records."""

from __future__ import annotations

import io
import ipaddress
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import classifier
from classifier.cli import exflow
from classifier.ecs import SEVERITIES, write_ecs, write_ecs_findings
from classifier.result import Result

TYPES = json.loads(Path(__file__).with_name("ecs_fields.json").read_text())["fields"]
"""Field to TypeScript type, from the published definitions (see `source` and `licence` in the file)."""

CAPTURES = Path(__file__).parents[1] / "captures"


@pytest.fixture(scope="module")
def result() -> Result:
    inventory = CAPTURES / "ticket-49734.inventory.toml"
    captures = CAPTURES / "ticket-49734.pcapng", CAPTURES / "format-ipv6-extension-headers.pcap"
    return classifier.classify(*captures, inventory=inventory)


@pytest.fixture(scope="module")
def documents(result: Result) -> list[dict[str, Any]]:
    out = io.BytesIO()
    write_ecs(result.table, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def leaves(document: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict) and not before.startswith("exflow"):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def fits(value: Any, kind: str) -> bool:
    if "Array<string>" in kind:
        return isinstance(value, str) or all(isinstance(item, str) for item in value)
    return isinstance(value, int | float) if kind == "number" else isinstance(value, str)


@pytest.fixture(scope="module")
def findings() -> Result:
    name = "audit-wrong-ends"
    return classifier.classify(CAPTURES / f"{name}.pcap", inventory=CAPTURES / f"{name}.inventory.toml")


def alerts(result: Result) -> list[dict[str, Any]]:
    out = io.BytesIO()
    write_ecs_findings(result.finding_table, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_findings_are_alerts_with_all_they_say(findings: Result) -> None:
    told = findings.finding_table
    documents = alerts(findings)
    assert len(documents) == len(told) > 3
    for document, row in zip(documents, map(told.row, range(len(told))), strict=True):
        assert (document["event"]["kind"], document["event"]["dataset"]) == ("alert", "exflow.finding")
        assert document["@timestamp"] == row["start"]
        assert document["rule"]["id"] == row["id"]
        assert document["message"] == row["text"]
        assert document["event"]["severity"] == SEVERITIES[row["severity"]]
        assert document["destination"]["port"] == row["server_port"]
        assert document["exflow"]["documented"] == row["documented"]
        assert document["exflow"]["frame"] == row["frame"]


def test_no_findings_are_no_alerts() -> None:
    assert alerts(Result.empty()) == []


def test_every_field_outside_our_own_is_the_schemas(documents: list[dict[str, Any]], findings: Result) -> None:
    assert documents
    for document in documents + alerts(findings):
        for name, value in leaves(document):
            if not name.startswith("exflow."):
                assert name in TYPES
                assert value is None or fits(value, TYPES[name]), name


def test_values_are_those_of_the_records(result: Result, documents: list[dict[str, Any]]) -> None:
    for conversation, document in zip(result, documents, strict=True):
        assert document["@timestamp"] == document["event"]["start"] == conversation.start
        assert document["source"]["ip"] == conversation.client_ip
        assert document["destination"]["port"] == conversation.server_port
        assert document["network"]["bytes"] == conversation.bytes_to_server + conversation.bytes_to_client
        assert document["network"]["type"] == f"ipv{ipaddress.ip_address(conversation.client_ip).version}"
        assert document["network"]["community_id"] == conversation.community_id
        assert document["exflow"]["data_paths"] == conversation.data_paths
        assert document["exflow"]["evidence"] == conversation.evidence
        begin, end = (datetime.fromisoformat(document["event"][name][:26] + "+00:00") for name in ("start", "end"))
        assert abs((end - begin).total_seconds() - document["event"]["duration"] / 1e9) < 1e-5


def test_nothing_of_a_record_is_lost(result: Result, documents: list[dict[str, Any]]) -> None:
    said = {name for name, _ in leaves(documents[0])}
    renamed = {"client_ip", "tls_version", "start", "transport", "community_id", "tls_sni", "server_port"}
    assert {f"exflow.{name}" for name in result.columns} - said <= {
        f"exflow.{name}"
        for name in {*renamed, "end", "protocol", "client_port", "server_ip"}
        | {f"{what}_to_{side}" for what in ("packets", "bytes") for side in ("server", "client")}
    }


def test_versions_of_tls_are_words_of_the_schema() -> None:
    out = io.BytesIO()
    write_ecs(classifier.classify(CAPTURES / "tls-443.pcap").table, out)
    told = [json.loads(line)["tls"] for line in out.getvalue().splitlines()]
    assert {(each["version"], each["version_protocol"]) for each in told} >= {("1.2", "tls")}


def test_the_command_writes_them_for_conversations_only(tmp_path: Path) -> None:
    capture = str(CAPTURES / "tls-443.pcap")
    done = CliRunner().invoke(exflow, ["classify", capture, "--format", "ecs"])
    assert json.loads(done.stdout.splitlines()[0])["event"]["dataset"] == "exflow.conversation"
    assert CliRunner().invoke(exflow, ["hosts", capture, "--format", "ecs"]).exit_code == 2


def test_an_empty_table_is_no_lines() -> None:
    out = io.BytesIO()
    write_ecs(Result.empty().table, out)
    assert out.getvalue() == b""
