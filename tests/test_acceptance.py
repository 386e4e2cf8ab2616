"""Findings that the user lives with, and findings of the user's own."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import classifier
from classifier.acceptance import load_acceptances
from classifier.cli import exflow
from classifier.errors import RulebookError, UsageError
from classifier.findings import load_policy
from classifier.rulebook import load
from classifier.rulecheck import verify_policy

CAPTURES = Path(__file__).resolve().parents[1] / "captures"
NAME = "audit-overwritten-keywords"
CAPTURE, INVENTORY = CAPTURES / f"{NAME}.pcap", CAPTURES / f"{NAME}.inventory.toml"
TODAY = date.today()


def accepting(folder: Path, **changed: object) -> Path:
    values = {"finding": '"keywords-overwritten"', "reason": '"known"', "expires": TODAY, **changed}
    path = folder / "accept.toml"
    path.write_text("[[accept]]\n" + "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in values.items()))
    return path


def audit(*words: str | Path) -> Result:
    command = ["audit", str(CAPTURE), "--inventory", str(INVENTORY), *map(str, words)]
    return CliRunner().invoke(exflow, command, standalone_mode=False)


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({}, True),
        ({"server": '"10.10.1.12"', "client": '"10.10.1.0/24"', "port": 25}, True),
        ({"data_path": '"transport-hub-to-hub"'}, True),
        ({"expires": TODAY - timedelta(days=1)}, False),
        ({"finding": '"refused"'}, False),
        ({"server": '"10.10.1.13"'}, False),
        ({"client": '"10.10.9.0/24"'}, False),
        ({"port": 587}, False),
        ({"data_path": '"transport-hub-to-edge"'}, False),
    ],
)
def test_what_is_accepted_no_longer_counts(tmp_path: Path, changed: dict[str, object], accepted: bool) -> None:
    done = audit("--accept", accepting(tmp_path, **changed))
    assert done.return_value == (0 if accepted else 3), done.output
    assert ("accepted (high)" in done.stdout) is accepted
    assert ("accepted until" in done.stderr) is ("expires" in changed)


def test_the_frame_tells_the_reason(tmp_path: Path) -> None:
    result = classifier.classify(CAPTURE, inventory=INVENTORY, accept=accepting(tmp_path))
    assert list(result.findings().accepted) == ["known"]
    assert list(result.select(id=1).findings().accepted) == ["known"]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"finding": '"refusd"'}, "unknown finding 'refusd'; did you mean 'refused'"),
        ({"reason": '" "'}, "reason is missing"),
        ({"expires": '"never"'}, "write a date such as"),
        ({"expires": "2027-01-01T00:00:00Z"}, "write a date such as"),
        ({"clinet": '"10.0.0.1"'}, "unknown key 'clinet'; did you mean 'client'"),
        ({"server": '"10.0.0.300"'}, "server: "),
        ({"server": "7"}, "7 is no text"),
        ({"port": 70000}, "70000 is no port"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, changed: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        load_acceptances(accepting(tmp_path, **changed), frozenset({"keywords-overwritten", "refused"}))


def test_a_file_that_is_no_list_is_an_error(tmp_path: Path) -> None:
    for text in ("accept = 3", "[accepted]", "[[accept]"):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(UsageError):
            load_acceptances(tmp_path / "a.toml", frozenset())


POLICY = """
[outlook-from-elsewhere]
severity = "critical"
reason = "Outlook has no business outside the office network."
text = "Outlook came from another network."
when = { client-role = "outlook" }
unless = { client-address = "10.1.0.0/16" }
example = ["outlook > client-access 49734/tcp dcerpc accepts=emsmdb client-address=10.10.9.101"]
counterexample = ["outlook > client-access 49734/tcp dcerpc accepts=emsmdb client-address=10.1.9.101"]

[ntlm-between-servers]
severity = "medium"
reason = "Our servers use Kerberos among themselves."
text = "NTLM between {known-client} and {known-server}."
when = { authentication = "ntlm", known-client = "client-access", known-server = "mailbox" }
"""


def policy(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in POLICY
    path = folder / "policy.toml"
    path.write_text(POLICY.replace(old, new) if old else POLICY)
    return path


@pytest.mark.parametrize(("network", "expected"), [("10.1.0.0/16", True), ("10.10.0.0/16", False), ("-", False)])
def test_a_policy_looks_at_networks(tmp_path: Path, network: str, expected: bool) -> None:
    capture, inventory = CAPTURES / "ticket-49734.pcapng", CAPTURES / "ticket-49734.inventory.toml"
    result = classifier.classify(capture, inventory=inventory, policy=policy(tmp_path, "10.1.0.0/16", network))
    outlooks = {talk.id for talk in result if talk.client_role == "outlook"}
    found = result.findings().query("id == 'outlook-from-elsewhere'")
    assert set(found.conversation) == (outlooks if expected else set())
    assert outlooks


def test_a_policy_finds_ntlm_between_servers(tmp_path: Path) -> None:
    capture, inventory = CAPTURES / "rpc-nat.pcap", CAPTURES / "rpc-nat.inventory.toml"
    found = classifier.classify(capture, inventory=inventory, policy=policy(tmp_path)).findings()
    assert "NTLM between client-access and mailbox." in set(found.text)


def test_a_policy_is_verified(tmp_path: Path) -> None:
    assert verify_policy(policy(tmp_path)) == []
    done = CliRunner().invoke(
        exflow, ["signatures", "verify", "--policy", str(policy(tmp_path))], standalone_mode=False
    )
    assert done.return_value == 0


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("client-role", "client-rule", "unknown fact 'client-rule'; did you mean 'client-role'?"),
        ('unless = { client-address = "10.1.0.0/16"', 'unless = { client-address = "10.1.0.0/36"', "client-address: "),
        ("client-address=10.1.9.101", "client-address=10.2.9.101", "gives the finding"),
        ("client-address=10.10.9.101", "client-address=10.10.9", "cannot be read"),
        ('severity = "medium"', "", "severity is missing"),
    ],
)
def test_verify_names_what_is_wrong_with_a_policy(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    issues = verify_policy(policy(tmp_path, old, new))
    assert any(complaint in str(issue) and issue.file == "policy.toml" for issue in issues), issues


def test_a_policy_renames_no_finding(tmp_path: Path) -> None:
    with pytest.raises(RulebookError, match="refused: this finding exists already"):
        load_policy(load(), policy(tmp_path, "[ntlm-between-servers]", "[refused]"))


def test_a_broken_policy_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(exflow, ["audit", str(CAPTURE), "--policy", str(policy(tmp_path, "severity", "svrt"))])
    assert isinstance(done.exception, RulebookError)
