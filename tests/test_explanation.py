"""Explanations: in order, with frames that hold, what spoke against the other paths, what would settle it."""

from __future__ import annotations

import re
import textwrap
import tomllib

import pytest
from test_captures import CAPTURES

import classifier
from classifier.explanation import _WORDS, WIDTH
from classifier.reasoning import reason
from classifier.records import CONVERSATIONS
from classifier.rulebook import load
from classifier.rulecheck import facts_of_example
from classifier.verdicts import decide

RULEBOOK = load()


def reasoned(example: str):
    facts = facts_of_example(RULEBOOK, example)
    decision = decide(RULEBOOK, facts)
    return decision, reason(RULEBOOK, facts, decision)


def test_the_objection_to_a_path_is_the_role_that_it_wants() -> None:
    decision, told = reasoned("client-access > mailbox 49734/tcp dcerpc accepts=emsmdb version=2010")
    refused = dict(told.refused)
    assert decision.data_path == "cas-to-mailbox"
    assert refused["transport-hub-to-mailbox-mapi"] == "its client is hub-transport, this one is client-access"
    assert not refused.keys() & set(decision.data_paths)
    assert not told.settling


def test_what_would_settle_it_does() -> None:
    """Each supposition, made true, gives the answer that was promised."""
    facts = facts_of_example(RULEBOOK, "? > exchange-server 49734/tcp dcerpc accepts=emsmdb")
    decision = decide(RULEBOOK, facts)
    told = reason(RULEBOOK, facts, decision)
    assert decision.data_path is None
    assert told.settling
    for each in told.settling:
        known = {f"{each.what}_roles": frozenset({each.value})}
        answer = decide(RULEBOOK, facts._replace(**known))
        assert each.paths == ((answer.data_path,) if answer.data_path else answer.data_paths)
        assert each.certainty == answer.certainty


def test_paths_that_no_packet_separates_have_nothing_that_settles_them() -> None:
    decision, told = reasoned("mailbox > mailbox 64327/tcp nego-stream version=2010 client-version=2010")
    assert {"mailbox-log-shipping", "mailbox-seeding"} <= set(decision.data_paths)
    assert not told.settling


def test_foreign_traffic_says_what_is_missing() -> None:
    decision, told = reasoned("? > ? 443/tcp tls")
    assert decision.absence == "not-exchange"
    assert {why for _, why in told.refused} == {
        "other software uses the same port and protocol, and the server is not known as an Exchange server"
    }
    assert {each.value for each in told.settling if each.what == "server"} >= {"client-access"}


def test_roles_that_the_inventory_gives_are_told_where_no_label_stands_on_them() -> None:
    path = CAPTURES / "audit-other-protocols.pcap"
    result = classifier.classify(path, inventory=path.with_suffix(".inventory.toml"))
    unmatched = next(talk for talk in result if talk.absence == "unmatched")
    assert "The server 10.10.1.11 is known as hub-transport; no label stands on it." in unmatched.explain()


@pytest.mark.parametrize("name", ["ticket-49734.pcapng", "shown-2010-mail.pcapng", "foreign-wmi.pcap"])
def test_every_explanation_tells_all_evidence_in_order(name: str) -> None:
    for talk in classifier.classify(CAPTURES / name):
        text = talk.explain()
        assert all(len(line) <= WIDTH or " " not in line.strip() for line in text.splitlines())
        assert ("data path: " in text) is (talk.certainty is not None)
        numbers = [int(number) for number in re.findall(r"^(\d)\. ", text, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
        told = " ".join(text.split())
        for fact in talk.evidence:
            assert f"(frame {fact['frame']}" in told, fact
            assert fact["kind"] in ("announcement", "interface", "port", "payload") or fact["value"] in told, fact


def test_everything_that_a_payload_shows_has_a_name() -> None:
    """All that labels stand on in the captures; and nothing else has one but what signatures may test."""
    paths = (path for path in sorted(CAPTURES.rglob("*.pcap*")))
    talks = (talk for path in paths for talk in classifier.classify(path, jobs=1))
    seen = {fact["field"] for talk in talks for fact in talk.evidence if fact["kind"] in ("sign", "query")}
    assert len(seen) > 30
    vocabulary = tomllib.loads((RULEBOOK.directory / "vocabulary.toml").read_text())["signs"]
    assert seen <= _WORDS.keys() <= seen | vocabulary.keys()


def test_what_a_payload_shows_is_told_in_the_order_of_the_wire() -> None:
    text = classifier.classify(CAPTURES / "shown-later-web.pcapng")[18].explain()
    step = text[text.index("2. Payload") : text.index("3. The client")]
    frames = [int(frame) for frame in re.findall(r"\(frame (\d+)\)", step)]
    assert frames == sorted(frames)
    assert len(frames) == 7


def test_the_steps_of_a_conversation_are_in_its_own_frames() -> None:
    for talk in classifier.classify(CAPTURES / "ticket-49734.pcapng"):
        own, *_ = re.split(r"^3\. ", talk.explain(), flags=re.MULTILINE)
        frames = [int(frame) for frame in re.findall(r"\(frame (\d+)\)", own)]
        assert frames
        assert all(talk.first_frame <= frame <= talk.last_frame for frame in frames)


def test_a_selection_explains_as_the_whole_does() -> None:
    whole = classifier.classify(CAPTURES / "ticket-49734.pcapng")
    assert whole.select(protocol="dcerpc")[25].explain() == whole[25].explain()


def test_the_explanations_in_the_documents_are_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CAPTURES.parent)
    parts = re.split(r"^    \$ exflow explain (.*)\n", (CAPTURES / "README.md").read_text(), flags=re.MULTILINE)
    for command, rest in zip(parts[1::2], parts[2::2], strict=True):
        capture, number, *options = command.split()
        result = classifier.classify(capture, inventory=options[-1] if options else None)
        block = re.match(r"(?:    .*\n|\n)*", rest)
        assert block
        assert textwrap.dedent(block[0]).strip() == result[int(number)].explain()
    assert len(parts) == 11


def cell(paths: list[str], **more: object) -> str:
    row = {"data_paths": paths, "data_path": None, "absence": None, "certainty": "strong", "rpc_interfaces": [],
           "protocol": "smtp", "transport": "tcp", **more}  # fmt: skip
    return CONVERSATIONS.cells["DATA PATH"](row)


def test_long_sets_are_told_in_short() -> None:
    assert cell(["a-b", "c-d"]) == "a-b or c-d (strong)"
    assert cell(["cas-active-directory", "um-active-directory", "mailbox-active-directory"]) == (
        "active-directory: one of 3 (strong)"
    )
    assert cell(["transport-hub-to-hub", "mail-x", "e2003-y"]) == "smtp: one of 3 (strong)"
    bound = [{"name": None, "accepted": True}, {"name": "emsmdb", "accepted": True}]
    assert cell(["a", "b", "c"], rpc_interfaces=bound) == "emsmdb: one of 3 (strong)"
