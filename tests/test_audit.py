"""Findings: each appears where it must and not beside it; nothing above info where traffic conforms; `exflow audit`."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.utils import rdpcap, wrpcap
from shipped import CAPTURES, result_of
from test_rows import reference

import classifier
from classifier.findings import load_findings, read_findings
from classifier.result import Result
from classifier.rulebook import load
from classifier.rulecheck import verify

WHERE = {
    "password-in-clear": ("audit-passwords", 1, 2, "STLS before the login"),
    "weaker-than-documented": ("audit-directory-logins", 3, 2, "what follows the bind is sealed"),
    "undocumented-authentication": ("audit-directory-logins", 1, 2, "Kerberos in the bind"),
    "ntlm-instead-of-kerberos": ("audit-rpc-logins", 2, 3, "Kerberos in the bind"),
    "kerberos-weak-cipher": ("audit-weak-ciphers", 1, 2, "the ticket has AES"),
    "tls-broken-version": ("audit-weak-ciphers", 3, 4, "TLS 1.0 in the ServerHello"),
    "tls-old-version": ("audit-weak-ciphers", 4, 5, "TLS 1.2 in the ServerHello"),
    "tls-weak-cipher": ("audit-weak-suites", 3, 2, "AES in the ServerHello"),
    "self-signed-certificate": ("audit-weak-suites", 1, 3, "another issuer in the certificate"),
    "certificate-not-valid": ("audit-certificates", 1, 2, "other dates in the certificate"),
    "no-answer": ("audit-no-answer", 1, 2, "a reset answers"),
    "refused": ("audit-no-answer", 2, 3, "the SYN is accepted"),
    "reset-at-once": ("audit-reset", 1, 2, "the client resets"),
    "probe-unanswered": ("audit-proxy-probes", 2, 3, "a proxy answers"),
    "announced-port-silent": ("audit-announced-port", 2, 3, "a reset answers"),
    "announced-port-refused": ("audit-announced-port", 3, 4, "the SYN is accepted"),
    "tls-failed": ("audit-tls-fails", 1, 3, "a ServerHello instead of the alert"),
    "tls-unanswered": ("audit-tls-fails", 2, 1, "an alert instead of the reset"),
    "starttls-refused": ("audit-starttls-refused", 1, 2, "220 to STARTTLS"),
    "exchange-authentication-refused": ("audit-refused-exchange-authentication", 1, 3, "235 to X-EXPS"),
    "keywords-overwritten": ("audit-overwritten-keywords", 1, 2, "STARTTLS for XXXXXXXA"),
    "rpc-bind-refused": ("audit-rpc-refusals", 2, 4, "bind_ack"),
    "rpc-access-denied": ("audit-rpc-refusals", 3, 4, "another status in the fault"),
    "contradicts-inventory": ("audit-inventory", 2, 1, "the role that is listed for the server"),
    "unlisted-exchange-host": ("audit-inventory", 3, 1, "the server is listed"),
    "client-on-back-end": ("audit-wrong-ends", 1, 2, "the client is a front end"),
    "edge-to-directory": ("audit-wrong-ends", 3, 4, "the client is a Hub"),
    "wrong-role": ("audit-wrong-ends", 6, 8, "the client is a Client Access server"),
    "undocumented-peer": ("audit-wrong-ends", 11, 12, "the client is a browser"),
    "direct-to-mailbox": ("audit-wrong-ends", 13, 8, "the client is a Client Access server"),
    "other-protocol": ("audit-other-protocols", 1, 2, "on port 22"),
    "foreign-service": ("audit-other-protocols", 2, 3, "the server is a stranger"),
    "unexplained": ("audit-other-protocols", 4, 6, "the server is a stranger"),
    "unannounced-rpc-port": ("audit-unannounced-port", 2, 3, "the mapper had handed out the port"),
}
"""Finding to capture, the conversation where it must appear, its nearest neighbour where it must not, and what differs
there."""

BY_VERSION = sorted(path.stem for path in CAPTURES.glob("conforming-*.pcapng"))
"""Captures of what the documents name, protected as they have it."""

CONFORMING = (
    *BY_VERSION, "ticket-49734", "smtp-hub-to-hub", "smtp-hub-and-edge", "tls-443", "um-secured", "row-cas-to-mailbox",
)  # fmt: skip
"""Captures with TLS on, privacy level and Kerberos throughout."""

LAB = [
    entry for entry in tomllib.loads((CAPTURES / "lab" / "INDEX.toml").read_text())["capture"]
    if not entry["file"].startswith("hard-")
]  # fmt: skip
PROTECTED = {"tls-implicit", "tls-upgrade", "rpc-privacy", "sasl-seal", "nego-stream", "smb3", "srtp"}

CLEAR_BY_DESIGN = {
    "e2003-pop3", "e2003-imap4", "e2003-www-http", "e2003-pop3-fe-be", "e2003-imap4-fe-be", "e2003-www-fe-be",
    "e2003-nntp", "e2003-nntp-feed", "e2003-srs-ldap", "e2003-adc-379", "e2003-adc-389",
}  # fmt: skip
"""Services of 2003 that carry passwords or news in clear: conforming to the documents, but to no idea of protection."""


def ids(name: str, number: int) -> set[str]:
    return {finding["id"] for finding in result_of(name)[number].findings}


def test_every_finding_is_in_the_table() -> None:
    assert {rule.id for rule in load_findings(load())} == set(WHERE)


@pytest.mark.parametrize("finding", WHERE)
def test_a_finding_appears_where_it_must_and_only_there(finding: str) -> None:
    capture, there, beside, _ = WHERE[finding]
    assert finding in ids(capture, there)
    assert finding not in ids(capture, beside)


def test_table() -> None:
    """`pytest -s -n0 tests/test_audit.py -k test_table` prints where each finding appears, and where it must not."""
    rules = {rule.id: rule for rule in load_findings(load())}
    print(f"\n{'FINDING':33}{'SEVERITY':10}{'CAPTURE':39}{'THERE':>7}{'NOT':>7}  BUT THERE")
    wrong = 0
    for name, (capture, there, beside, differs) in WHERE.items():
        seen = name in ids(capture, there), name in ids(capture, beside)
        wrong += seen != (True, False)
        marks = (f"{number}{'' if right else ' !'}"
                 for number, right in zip((there, beside), (seen[0], not seen[1]), strict=True))  # fmt: skip
        print("{:33}{:10}{:39}{:>7}{:>7}  {}".format(name, rules[name].severity, capture, *marks, differs))
    print(f"{len(WHERE)} findings, {wrong} wrong")
    assert wrong == 0


@pytest.mark.parametrize("name", CONFORMING)
def test_nothing_above_info_where_traffic_conforms(name: str) -> None:
    found = result_of(name).finding_table
    above = [row for row in map(found.row, range(len(found))) if row["severity"] != "info"]
    assert above == []


def conforming_paths() -> dict[str, str]:
    """Each path that a conversation without a finding above `info` has among its labels, and how that was protected."""
    found: dict[str, str] = {}
    for talk in (talk for capture in BY_VERSION for talk in result_of(capture)):
        shown = f"{talk.first_frame:5} {talk.protocol!s:18} {talk.authentication!s:18} {talk.encryption}"
        if talk.protocol != "epm" and {finding["severity"] for finding in talk.findings} <= {"info"}:
            found.update({path: shown for path in talk.data_paths if path not in found})
    return found


def missing_of(wanted: list[str]) -> set[str]:
    """Print where each of these paths conforms, and by what; returns those that are nowhere."""
    found = conforming_paths()
    print()
    for path in wanted:
        print(f"{path:42} {found.get(path, 'MISSING')}")
    return set(wanted) - found.keys()


def test_conforming_table_of_2010() -> None:
    """`pytest -s -n0 tests/test_audit.py -k conforming_table` prints the tables."""
    rows = reference("exchange2010_data_paths.csv")
    assert missing_of([row["id"] for row in rows if row["row_kind"] == "table-row"]) == set()


def test_conforming_table_of_2003() -> None:
    rows = reference("exchange2003_services.csv")
    assert missing_of([row["id"] for row in rows if row["ports"] and not row["id"].endswith("-epm")]) == CLEAR_BY_DESIGN


def test_conforming_table_of_later_versions() -> None:
    rows = [row["id"] for row in reference("other_versions.csv")]
    later = {each.partition("-")[2] for each in rows if each.startswith(("v2013", "v2016", "v2019", "vSE"))}
    shown = sorted(later & conforming_paths().keys())
    assert missing_of(shown) == set()
    assert len(shown) >= 30


@pytest.mark.parametrize("entry", LAB, ids=[entry["file"] for entry in LAB])
def test_nothing_above_info_where_real_servers_protected(entry: dict[str, Any]) -> None:
    """In the laboratory, by its own key; of what is a documented path at all (Postfix on an Edge server is none)."""
    result = result_of(f"lab/{Path(entry['file']).stem}")
    said = {(talk.transport, talk.first_frame): talk for talk in result}
    for truth in entry["conversation"]:
        kinds = set(truth.get("encryption", [])), set(truth.get("authentication", []))
        proven = kinds[1].isdisjoint({"ntlm", "basic", "none", "anonymous"})
        if truth.get("data_paths") and kinds[0] and kinds[0] <= PROTECTED and proven:
            talk = said[truth["transport"], truth["first_frame"]]
            assert [each for each in talk.findings if each["severity"] != "info"] == []


BLOCKED = {
    "no-answer", "refused", "reset-at-once", "announced-port-silent", "announced-port-refused", "tls-failed",
    "tls-unanswered", "starttls-refused", "exchange-authentication-refused", "keywords-overwritten", "rpc-bind-refused",
    "rpc-access-denied",
}  # fmt: skip


@pytest.mark.parametrize("finding", sorted(BLOCKED))
def test_what_is_blocked_says_what_breaks_and_what_it_needs(finding: str) -> None:
    capture, there, _, _ = WHERE[finding]
    talk = result_of(capture)[there]
    (said,) = (each["documented"] for each in talk.findings if each["id"] == finding)
    assert talk.data_paths[0] in said
    assert re.search(r"needs (?:\d+/tcp|dynamic-rpc/tcp)", said)
    rules = said.partition("; rules of Exchange Setup: ")[2]
    assert rules == f"{', '.join(talk.firewall_rules) or 'none'}."


def test_the_frame_is_the_one_that_shows_it() -> None:
    (finding,) = result_of("audit-overwritten-keywords")[1].findings
    packets = result_of("audit-overwritten-keywords").table.row(0)
    assert packets["first_frame"] < finding["frame"] <= packets["last_frame"]


def test_a_server_whose_bytes_were_lost_is_not_called_silent(tmp_path: Path) -> None:
    frames = rdpcap(str(CAPTURES / "audit-tls-fails.pcap"))
    kept = [frame for frame in frames if frame[TCP].sport != 50636 or not frame[TCP].payload]
    wrpcap(str(tmp_path / "lost.pcap"), kept)
    result = classifier.classify(tmp_path / "lost.pcap", inventory=CAPTURES / "audit-tls-fails.inventory.toml")
    silent = {talk.id: {finding["id"] for finding in talk.findings} & {"tls-unanswered"} for talk in result}
    assert [bool(silent[number]) for number in (1, 2, 3)] == [False, True, False]
    assert result[1].missed_bytes > 0
    assert result[3].missed_bytes > 0


def test_what_cannot_be_decided_is_never_counted_as_conforming() -> None:
    verdicts = result_of("tls-443").verdicts
    assert verdicts.get("authentication conforms", 0) == 0
    assert verdicts["authentication undecided"] > 0
    assert verdicts["encryption conforms"] > 0


def test_every_conversation_gets_one_answer_of_each_kind() -> None:
    result = result_of("ticket-49734")
    for what in ("authentication", "encryption"):
        assert sum(count for name, count in result.verdicts.items() if name.startswith(what)) == len(result)


def test_the_frame_of_findings_is_filled_and_typed_when_empty() -> None:
    filled, empty = result_of("audit-no-answer").findings(), Result.empty().findings()
    assert list(filled.id) == ["no-answer", "refused"]
    assert list(filled.columns) == list(empty.columns)


def exflow_audit(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from classifier.cli import main; main()", "audit", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "options", "status"),
    [
        ("audit-overwritten-keywords", (), 3),
        ("audit-overwritten-keywords", ("--fail-on", "critical"), 0),
        ("ticket-49734", ("--fail-on", "low"), 0),
    ],
)
def test_the_exit_status_tells_the_severity(name: str, options: tuple[str, ...], status: int) -> None:
    capture = next(path for path in CAPTURES.glob(f"{name}.pcap*"))
    run = exflow_audit(str(capture), "--inventory", str(CAPTURES / f"{name}.inventory.toml"), *options)
    assert run.returncode == status, run.stderr
    assert "exflow: authentication " in run.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('severity = "low"', 'severity = "lwo"', "unknown severity 'lwo'; did you mean 'low'?"),
        ('conn-state = "S0"', 'con-state = "S0"', "unknown fact 'con-state'; did you mean 'conn-state'?"),
        ("{tls-version}", "{tls-versoin}", "unknown fact 'tls-versoin' in text"),
        ("smtp.ehlo=X-ANONYMOUSTLS", "smtp.ehlo=XXXXXXXB", "gives the finding"),
        ("rpc.bind-nak=8", "rpc.fault=8", "gives no finding"),
        ("[tls-old-version]", "[tls-old-version", "not TOML"),
    ],
)
def test_verify_names_what_is_wrong(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    for path in load().directory.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    findings = tmp_path / "findings.toml"
    text = findings.read_text()
    assert old in text
    findings.write_text(text.replace(old, new))
    assert any(complaint in str(issue) for issue in verify(tmp_path))


def test_a_folder_without_findings_has_none(tmp_path: Path) -> None:
    for path in load().directory.glob("*.toml"):
        if path.name != "findings.toml":
            (tmp_path / path.name).write_text(path.read_text())
    assert read_findings(load(tmp_path)) == ((), [])
