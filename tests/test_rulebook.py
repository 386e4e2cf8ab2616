"""Loading and checking signatures: everything wrong is told at once, each issue at its place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier import rulebook, rulecheck, rules
from classifier.errors import RulebookError
from classifier.rules import Issue, Rulebook

EMSMDB = "a4f1db00-ca47-1067-b31f-00dd010662da"
DRS_OR_FRS = "f5cc59b4-4264-101a-8c59-08002b2f8426"


@pytest.fixture(scope="module")
def book() -> Rulebook:
    return rulebook.load()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(rulebook.find_directory(), tmp_path / "signatures"))


def change(directory: Path, file: str, old: str, new: str) -> int:
    """Replace the first occurrence and return the line where it stands."""
    path = directory / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def test_the_shipped_signatures_are_clean() -> None:
    assert rulecheck.verify() == []


def test_every_path_has_examples_of_both_kinds(book: Rulebook) -> None:
    assert all(path.examples and path.counterexamples for path in book.paths.values())


def test_they_are_found_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "classifier"
    shutil.copytree(rulebook.find_directory(), package / "signatures")
    monkeypatch.setattr(rulebook, "__file__", str(package / "rulebook.py"))
    assert rulebook.find_directory() == package / "signatures"
    assert rulebook.load().paths


TRANSPORT, MAILBOX, SERVICES = "exchange2010_transport.toml", "exchange2010_mailbox.toml", "services.toml"


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (TRANSPORT, 'client = "hub-transport"', 'client = "hub-transprot"', "did you mean 'hub-transport'?"),
        (TRANSPORT, 'versions = ["2007", "2010"]', 'versions = ["2010", "2011"]', "unknown versions '2011'"),
        (TRANSPORT, 'ports = ["25/tcp"]', 'ports = ["25"]', "'25' is no endpoint"),
        (TRANSPORT, "application_protocol", "aplication_protocol", "did you mean 'application_protocol'?"),
        (TRANSPORT, 'speaks = ["smtp-edge"]', 'speaks = ["smtp-egde"]', "did you mean 'smtp-edge'?"),
        (MAILBOX, 'part_of = "cas-to-mailbox"', 'part_of = "cas-to-malbox"', "did you mean 'cas-to-mailbox'?"),
        (MAILBOX, 'in = ["2007"]', 'in = ["1997"]', "unknown in '1997'"),
        (SERVICES, 'proof = [{ "http.path" = "/oab/*" }]', 'proof = [{ "http.path" = 4 }]', "must be text, not 4"),
        (
            SERVICES,
            'proof = [{ "http.path" = "/oab/*" }]',
            'proof = [{ "http.pth" = "" }]',
            "did you mean 'http.path'?",
        ),
        (SERVICES, 'plain = ["smtp"]', 'plain = ["smtpp"]', "did you mean 'smtp'?"),
        (SERVICES, 'plain = ["tls:465"]', 'plain = ["tls:smtps"]', "'smtps' is no port"),
        (SERVICES, "opaque = true", "opaque = 1", "must be true or false"),
        ("rpc_interfaces.toml", f'uuid = "{EMSMDB}"', f'uuid = "{EMSMDB.upper()}"', "is not a UUID in lower case"),
        ("firewall2010.toml", 'opens = "dynamic-rpc"', 'opens = "dynamic"', "'dynamic' is no endpoint"),
    ],
)
def test_an_unknown_word_is_an_issue_at_its_line(copy: Path, file: str, old: str, new: str, text: str) -> None:
    line = change(copy, file, old, new)
    issues = rulecheck.verify(copy)
    assert [issue for issue in issues if issue.file == file and issue.line == line and text in issue.text], issues


def test_an_issue_in_a_differing_form_is_told_there(copy: Path) -> None:
    line = change(copy, "exchange2010_mailbox.toml", 'title = "Log shipping (CCR, SCR)"', 'server = "mailbx"')
    assert Issue(
        "exchange2010_mailbox.toml", line, "mailbox-log-shipping: unknown server 'mailbx'; did you mean 'mailbox'?"
    ) in rulecheck.verify(copy)


def test_all_issues_of_all_files_are_told(copy: Path) -> None:
    change(copy, "exchange2003.toml", 'versions = ["2003"]', 'versions = ["2033"]')
    change(copy, "exchange2007.toml", 'client = "hub-transport"', 'client = "hub"')
    (copy / "zz.toml").write_text("[half", encoding="utf-8")
    with pytest.raises(RulebookError) as raised:
        rulebook.load(copy)
    for part in ("exchange2003.toml:", "exchange2007.toml:", "zz.toml:1: not TOML"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "junk", ["", "x = 4", "[a]\nproof = 7", "a = []", "[a]\ndiffers = [{in = 3}]", "[a]\nports = [[1]]"]
)
def test_a_malformed_path_never_raises(copy: Path, junk: str) -> None:
    (copy / "junk.toml").write_text(junk, encoding="utf-8")
    assert all(issue.file == "junk.toml" for issue in rulecheck.verify(copy))


def test_a_name_used_twice_is_an_issue(copy: Path) -> None:
    shutil.copy(copy / "exchange2007.toml", copy / "again.toml")
    assert any(issue.text == "transport-edgesync: defined twice" for issue in rulecheck.verify(copy))


def test_an_example_that_does_not_come_out_is_an_issue(copy: Path) -> None:
    change(copy, "exchange2010_transport.toml", "smtp.command=X-ANONYMOUSTLS", "smtp.command=AUTH")
    issues = rulecheck.verify(copy)
    assert len(issues) == 1
    assert issues[0].text.startswith("transport-hub-to-hub: example 'hub-transport > hub-transport 25/tcp")
    lines = (copy / issues[0].file).read_text(encoding="utf-8").splitlines()
    assert lines[issues[0].line - 1].startswith("example =")


@pytest.mark.parametrize(
    "text",
    ["? > ?", "? ? ? ? ?", "? > ? 25 smtp", "boss > ? 25/tcp smtp", "? > ? 25/tcp smpt", "? > ? 25/tcp smtp colour=red",
     "? > ? 49734/tcp dcerpc accepts=emsmbd", "? > ? 25/tcp smtp 'half"],
)  # fmt: skip
def test_an_example_in_other_words_is_refused(book: Rulebook, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rulecheck.facts_of_example(book, text)


def test_signatures_are_read_again_only_when_they_changed(copy: Path) -> None:
    first = rulebook.load(copy)
    assert rulebook.load(copy) is first
    file = copy / "services.toml"
    file.write_text(file.read_text() + "\n# a word more\n")
    assert rulebook.load(copy) is not first
    file.write_text("[broken")
    with pytest.raises(RulebookError):
        rulebook.load(copy)


def told(value: object) -> object:
    """What a rulebook or a part of it says; patterns are equal only to themselves."""
    if isinstance(value, Rulebook):
        return told({each.name: getattr(value, each.name) for each in fields(value)})
    if isinstance(value, rules.Pattern):
        return value.text
    if isinstance(value, Mapping):
        return {name: told(each) for name, each in value.items()}
    return [told(each) for each in value] if isinstance(value, tuple | list) else value


def test_shipped_signatures_are_kept_for_the_next_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy.parent))
    monkeypatch.setattr(rulebook, "find_directory", lambda: copy)
    readings: list[Path] = []
    reading = rulebook._read

    def read(where: Path, contents: tuple[tuple[str, bytes | str], ...]) -> tuple[Rulebook, tuple[Issue, ...]]:
        readings.append(where)
        return reading(where, contents)

    def load() -> Rulebook:
        """As a run does that has just begun."""
        rulebook._shipped.cache_clear()
        return rulebook.load()

    monkeypatch.setattr(rulebook, "_read", read)
    made, kept = load(), load()
    assert readings == [copy]
    assert made is not kept
    assert told(made) == told(kept)
    file = copy / "services.toml"
    file.write_text(file.read_text() + "\n# a word more\n")
    assert told(load()) == told(made)
    assert readings == [copy] * 2
    file.write_text("[broken")
    for _ in range(2):
        with pytest.raises(RulebookError):
            load()


def test_no_directory_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(RulebookError, match="not a directory"):
        rulebook.load(tmp_path / "absent")
    with pytest.raises(RulebookError, match=r"no \.toml file"):
        rulebook.load(tmp_path)


# ---- looking things up ---------------------------------------------------------------------


def test_the_major_version_tells_exchange_from_file_replication(book: Rulebook) -> None:
    names = {version: found and found.name for version in ("21.0", "21.3", "1.1", "7.0")
             for found in [book.interface(DRS_OR_FRS, version)]}  # fmt: skip
    assert names == {"21.0": "exchange-drs", "21.3": "exchange-drs", "1.1": "frsrpc", "7.0": None}


def test_interfaces_by_uuid(book: Rulebook) -> None:
    emsmdb = book.interface(EMSMDB, "0.81")
    assert emsmdb is not None
    assert emsmdb.exchange_only
    assert book.interface(EMSMDB) is emsmdb
    assert book.interface(EMSMDB, "9.0") is None
    assert book.interface("01020304-0506-0708-090a-0b0c0d0e0f10", "1.0") is None
    samr = book.interface("12345778-1234-abcd-ef00-0123456789ac", "1.0")
    assert samr is not None
    assert (samr.name, samr.exchange_only) == ("samr", False)


def test_msdtc_is_not_exchange_though_its_suffix_is(book: Rulebook) -> None:
    msdtc = book.interface("906b0ce0-c70b-1067-b317-00dd010662da", "1.0")
    assert msdtc is not None
    assert not msdtc.exchange_only


def test_one_path_carries_its_versions(book: Rulebook) -> None:
    path = book.paths["mailbox-log-shipping"]
    assert path.versions == ("2007", "2010")
    assert [str(endpoint) for endpoint in path.form("2007").endpoints] == ["445/tcp"]
    assert [str(endpoint) for endpoint in path.form("2010").endpoints] == ["64327/tcp"]
    assert {str(endpoint) for endpoint in path.endpoints} == {"445/tcp", "64327/tcp"}
    assert book.paths["be-https"].versions == ("2013", "2016", "2019", "SE")
    assert len(book.paths["be-https"].forms) == 1


def runs(starts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    yield from zip(starts, (*starts[1:], 65_536), strict=True)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_ports_of_one_run_are_covered_by_the_same_endpoints(book: Rulebook, transport: str) -> None:
    starts = book.port_starts(transport)
    assert starts[0] == 0
    assert list(starts) == sorted(set(starts))
    endpoints = [each for path in book.paths.values() for each in (*path.endpoints, *path.implied_endpoints)]
    for first, after in runs(starts):
        assert all(each.covers(transport, first) == each.covers(transport, after - 1) for each in endpoints)
    assert {"tcp": 25, "udp": 389}[transport] in starts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            (text, text)
            for text in ("25/tcp", "16000-17000/tcp", "dynamic-rpc/tcp", "dynamic/udp", "local-message-block")
        ),
        *((text, None) for text in ("0/tcp", "70000/tcp", "9-8/udp", "25/sctp", "tcp", "")),
    ],
)
def test_endpoints_are_written_as_they_are_read(text: str, expected: str | None) -> None:
    endpoint = rules.parse_endpoint(text)
    assert (None if endpoint is None else str(endpoint)) == expected


def test_patterns() -> None:
    assert rules.Pattern("*POP3 server*").matches("+ok microsoft exchange pop3 SERVER version")
    assert not rules.Pattern("autodiscover.*").matches("www.autodiscover.example")
    assert rules.Pattern("a.b[c]?").matches("A.B[C]?")
    assert not rules.Pattern("a.b").matches("axb")
    assert rules.Pattern("/owa/*").matches("/owa/*")


@given(st.text("aB*.", max_size=6), st.text("Ab.*", max_size=9))
def test_patterns_match_as_regular_expressions_would(text: str, value: str) -> None:
    oracle = re.compile(".*".join(map(re.escape, text.split("*"))), re.IGNORECASE | re.DOTALL)
    assert rules.Pattern(text).matches(value) == bool(oracle.fullmatch(value))
    assert rules.Pattern(text).matches(text)


# ---- what people read ------------------------------------------------------------------------


def test_listing_and_description(book: Rulebook) -> None:
    listed = {line.id: line for line in rulebook.listing(book)}
    assert listed.keys() == book.paths.keys()
    line = listed["transport-edgesync-hub-to-edge"]
    assert (line.client_roles, line.server_roles) == (("hub-transport",), ("edge-transport",))
    assert (line.ports, line.versions) == (("50636/tcp",), ("2010",))
    described = rulebook.describe(book, "cas-pop3")
    assert [form["versions"] for form in described["forms"]] == [["2010"], ["2007"]]
    assert described["forms"][1]["default_authentication"] == "Basic, NTLM, Kerberos"
    assert described["recognised_by"][0]["service"] == "pop3"


def test_an_unknown_id_gets_a_suggestion(book: Rulebook) -> None:
    with pytest.raises(RulebookError, match="did you mean 'cas-pop3'"):
        rulebook.describe(book, "cas-popp3")
