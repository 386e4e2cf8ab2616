"""Findings as SARIF 2.1.0, one log with one run, for code scanning and whatever else reads it.

Owns which part of a finding is which property of SARIF. A capture is the artifact, a frame the logical location in it.
Source: SARIF 2.1.0 (OASIS standard), sections 3.11 (messages), 3.27 (results), 3.35 (suppressions), 3.49 (rules).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from classifier.records import json_text
from classifier.result import Table

if TYPE_CHECKING:
    from classifier.findings import FindingRule

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0-rtm.5.json"

LEVELS: Final = {"info": "note", "low": "note", "medium": "warning", "high": "error", "critical": "error"}

SECURITY_SEVERITIES: Final = {"info": "0.0", "low": "3.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}
"""What GitHub sorts by (property security-severity of a rule): the middle of the range of each word of CVSS 3."""

_ESCAPES: Final = str.maketrans({"\\": r"\\", "[": r"\[", "]": r"\]", "{": "{{", "}": "}}"})
"""Strings of strangers must make no link and no placeholder (sections 3.11.5 and 3.11.6)."""


def write_sarif(rules: Iterable[FindingRule], table: Table, out: IO[bytes]) -> None:
    """Write findings (rows of `fields.FINDING_FIELDS`) and what was looked for. Raises OSError as `out` does."""
    listed = list(rules)
    index = {rule.id: number for number, rule in enumerate(listed)}
    driver = {"name": "exflow", "version": version("exflow"), "rules": [_rule(rule) for rule in listed]}
    head = {"$schema": SCHEMA, "version": "2.1.0"}
    out.write(f'{json_text(head)[:-1]},"runs":[{{"tool":{{"driver":{json_text(driver)}}},"results":['.encode())
    for number in range(len(table)):
        out.write(("," * (number > 0) + "\n" + json_text(_result(table.row(number), index))).encode())
    out.write(b"]}]}\n")


def _rule(rule: FindingRule) -> dict[str, Any]:
    described = {
        "id": rule.id,
        "shortDescription": {"text": rule.id.replace("-", " ")},
        "fullDescription": {"text": rule.reason},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"severity": rule.severity, "security-severity": SECURITY_SEVERITIES[rule.severity]},
    }
    return described | ({"help": {"text": rule.page, "markdown": rule.page}} if rule.page else {})


def _result(row: Mapping[str, Any], index: Mapping[str, int]) -> dict[str, Any]:
    text = " ".join(filter(None, (row["text"], row["documented"])))
    frame = f"conversation {row['conversation']}/frame {row['frame']}"
    told = ("conversation", "frame", "start", "transport", "client_ip", "client_port", "server_ip", "server_port",
            "data_paths", "conn_state")  # fmt: skip
    result: dict[str, Any] = {
        "ruleId": row["id"],
        "ruleIndex": index.get(row["id"], -1),
        "level": LEVELS[row["severity"]],
        "message": {"text": text.translate(_ESCAPES)},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(row["file"])}},
                "logicalLocations": [{"fullyQualifiedName": frame, "kind": "frame"}],
            }
        ],
        "partialFingerprints": {"communityId/v1": row["community_id"]},
        "properties": {name: row[name] for name in told},
    }
    if row["accepted"]:
        result["suppressions"] = [{"kind": "external", "justification": row["accepted"]}]
    return result


def _uri(file: str) -> str:
    """A file name as a relative reference, or a path of a URI; bytes that are no UTF-8 as those bytes."""
    return quote(file.encode("utf-8", "surrogateescape"), safe="/")
