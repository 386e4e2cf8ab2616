"""Findings as SARIF against the published schema, and against the findings."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from click.testing import CliRunner

import classifier
from classifier.cli import exflow
from classifier.fields import FINDING_FIELDS
from classifier.findings import load_findings
from classifier.result import Result, Table
from classifier.rulebook import load
from classifier.sarif import write_sarif

SCHEMA = json.loads(Path(__file__).with_name("sarif-2.1.0-rtm.5.json").read_text())
"""The published schema (its first line names source and licence)."""

CAPTURES = Path(__file__).parents[1] / "captures"
AUDITED = sorted(path.stem for path in CAPTURES.glob("audit-*.pcap"))


def log_of(table: Table) -> dict[str, Any]:
    out = io.BytesIO()
    write_sarif(load_findings(load()), table, out)
    log: dict[str, Any] = json.loads(out.getvalue())
    jsonschema.validate(log, SCHEMA, format_checker=jsonschema.FormatChecker())
    return log


@pytest.mark.parametrize("name", AUDITED)
def test_each_finding_is_a_result(name: str) -> None:
    found = classifier.classify(CAPTURES / f"{name}.pcap", inventory=CAPTURES / f"{name}.inventory.toml").finding_table
    (run,) = log_of(found)["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == len(found) > 0
    for result, row in zip(run["results"], map(found.row, range(len(found))), strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == row["id"]
        assert rules[result["ruleIndex"]]["help"]["markdown"]
        (location,) = result["locations"]
        assert unquote(location["physicalLocation"]["artifactLocation"]["uri"]) == row["file"]
        assert location["logicalLocations"][0]["fullyQualifiedName"].endswith(f"frame {row['frame']}")
        assert "suppressions" not in result


def test_strings_of_strangers_make_no_links_and_no_placeholders() -> None:
    row = {
        "conversation": 1, "file": "a b/\udce9?.pcap", "id": "refused", "severity": "high", "frame": 3,
        "text": "look [here](https://example.test) {0}\x1b[2J \\", "documented": None, "start": None,
        "transport": "tcp", "client_ip": "10.0.0.1", "client_port": 1, "server_ip": "10.0.0.2", "server_port": 2,
        "data_paths": [], "conn_state": "REJ", "community_id": "1:x", "reason": "r", "accepted": "since spring",
    }  # fmt: skip
    (result,) = log_of(Table.of_rows(FINDING_FIELDS, [row]))["runs"][0]["results"]
    text = result["message"]["text"]
    assert not re.search(r"(?<!\\)\[", text)
    assert not re.search(r"(?<!{){(?!{)", text)
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/%E9%3F.pcap"
    assert result["suppressions"] == [{"kind": "external", "justification": "since spring"}]


def test_no_findings_are_a_run_without_results() -> None:
    (run,) = log_of(Result.empty().finding_table)["runs"]
    assert run["results"] == []


def test_the_command_writes_it(tmp_path: Path) -> None:
    capture = str(CAPTURES / "audit-no-answer.pcap")
    done = CliRunner().invoke(exflow, ["audit", capture, "-o", str(tmp_path / "out.sarif")])
    assert done.exit_code == 0
    jsonschema.validate(json.loads((tmp_path / "out.sarif").read_text()), SCHEMA)
    assert CliRunner().invoke(exflow, ["classify", capture, "-o", str(tmp_path / "o.sarif")]).exit_code == 2
    done = CliRunner().invoke(exflow, ["audit", capture, "--format", "ecs"])
    assert all(json.loads(line)["event"]["kind"] == "alert" for line in done.stdout.splitlines())
