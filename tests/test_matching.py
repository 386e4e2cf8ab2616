"""What bytes and ports allow, before roles, versions and certainty are thought of."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import rulebook
from classifier.matching import Level, matches, telling_signs
from classifier.rulecheck import facts_of_example
from classifier.rules import Rulebook
from classifier.verdicts import decide

BOOK = rulebook.load()
EXAMPLES = sorted({text for path in BOOK.paths.values() for text in (*path.examples, *path.counterexamples)})
UNKNOWN = "accepts=01020304-0506-0708-090a-0b0c0d0e0f10"


def found(text: str, book: Rulebook = BOOK) -> dict[str, Level]:
    """Path id → best level of evidence."""
    best: dict[str, Level] = {}
    for match in matches(book, facts_of_example(book, text)):
        path = match.candidate.path.id
        best[path] = max(match.speech.level, best.get(path, Level.PORT))
    return best


@pytest.mark.parametrize(
    ("text", "path", "level"),
    [
        ("? > ? 49734/tcp dcerpc accepts=emsmdb", "cas-to-mailbox", Level.PROOF),
        ("? > ? 49734/tcp - handed-out=emsmdb condition=no-payload", "cas-to-mailbox", Level.HANDOUT),
        ("? > ? 49734/tcp dcerpc offers=emsmdb", "cas-to-mailbox", Level.SIGN),
        ("? > ? 49734/tcp dcerpc offers=emsmdb handed-out=emsmdb", "cas-to-mailbox", Level.HANDOUT),
        ("? > ? 49734/tcp dcerpc accepts=nspi", "note-mapi-clients-use-cas", Level.SIGN),
        (f"? > ? 49734/tcp dcerpc {UNKNOWN}", "transport-mailbox-to-hub-mail-submission", Level.SIGN),
        (f"? > ? 49734/tcp dcerpc {UNKNOWN}", "doc-dynamic-port-range", Level.PROTOCOL),
        ("? > ? 49734/tcp dcerpc condition=mid-stream", "cas-to-mailbox", Level.PORT),
        ("? > ? 25/tcp smtp smtp.command=X-ANONYMOUSTLS", "transport-hub-to-hub", Level.PROOF),
        ("? > ? 2626/tcp smtp smtp.command=X-ANONYMOUSTLS", "transport-hub-to-hub", Level.PROOF),
        ("? > ? 25/tcp smtp", "transport-hub-to-hub", Level.PROTOCOL),
        ("? > ? 25/tcp - condition=no-payload", "transport-hub-to-hub", Level.PORT),
        ("? > ? 443/tcp tls tls.sni=autodiscover.contoso.com", "cas-autodiscover", Level.SIGN),
        ("? > ? 80/tcp http http.path=/owa/ http.server=nginx/1.25", "cas-owa", Level.SIGN),
        ("? > ? 2883/udp -", "e2003-eas-autd", Level.PORT),
        ("? > ? 49170/udp rtp resolved-kind=sdp", "um-phone-interaction", Level.SIGN),
    ],
)
def test_kinds_of_evidence(text: str, path: str, level: Level) -> None:
    assert found(text)[path] is level


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("? > ? 25/tcp http http.path=/", "transport-hub-to-hub"),
        ("? > ? 25/tcp tls", "transport-hub-to-hub"),
        ("? > ? 25/tcp -", "transport-hub-to-hub"),
        ("? > ? 2626/tcp smtp", "transport-hub-to-hub"),
        ("? > ? 135/tcp tls", "note-rpc-epm-135"),
        (f"? > ? 135/tcp dcerpc {UNKNOWN}", "cas-to-mailbox"),
        ("? > ? 6001/tcp x11", "doc-rpchttp-backend-emsmdb"),
        ("? > ? 110/tcp tls", "cas-pop3"),
        ("? > ? 995/tcp http http.path=/", "cas-pop3"),
        ("? > ? 465/tcp smtp smtp.command=X-ANONYMOUSTLS", "smtps"),
        ("? > ? 465/tcp tls", "mail-client-proxy"),
        ("? > ? 49734/tcp http handed-out=emsmdb", "cas-to-mailbox"),
        ("? > ? 49734/tcp - handed-out=emsmdb", "cas-to-mailbox"),
        ("? > ? 49734/tcp dcerpc accepts=svcctl handed-out=emsmdb", "cas-to-mailbox"),
        ("? > ? 49734/tcp dcerpc accepts=frsrpc", "intrasite-directory"),
        ("? > ? 6001/tcp ncacn-http accepts=svcctl", "doc-rpchttp-backend-emsmdb"),
        ("? > ? 6001/tcp ncacn-http accepts=nspi", "doc-rpchttp-backend-emsmdb"),
        ("? > ? 25/tcp smtp smtp.ehlo=X-ANONYMOUSTLS smtp.command=AUTH", "transport-hub-to-hub"),
        ("? > ? 25/tcp smtp smtp.command=X-ANONYMOUSTLS", "transport-smtp-client-to-hub"),
        ("? > ? 443/tcp rpc-over-http http.path=/rpc/rpcproxy.dll?gw:3388", "cas-outlook-anywhere"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, path: str) -> None:
    assert path not in found(text)


def test_a_neutral_interface_says_nothing_against_the_announcement() -> None:
    text = "? > ? 49734/tcp dcerpc accepts=mgmt handed-out=emsmdb"
    assert found(text)["cas-to-mailbox"] is Level.HANDOUT


def test_asked_but_not_found_is_no_more_than_a_sign() -> None:
    facts = facts_of_example(BOOK, "? > ? 135/tcp epm asks=emsmdb")
    levels = {match.speech.level for match in matches(BOOK, facts._replace(answered=frozenset()))}
    assert max(levels) is Level.SIGN
    assert max(match.speech.level for match in matches(BOOK, facts._replace(answered=facts.asked))) is Level.HANDOUT


def test_signs_that_no_signature_tests_are_left_out() -> None:
    signs = {("smtp.ehlo", "X-EXPS GSSAPI NTLM"), ("smtp.ehlo", "PIPELINING"), ("tls.cipher", "1301")}
    assert telling_signs(BOOK, signs) == {("smtp.ehlo", "X-EXPS*"), ("smtp.ehlo", "X-*")}


@pytest.mark.parametrize("text", EXAMPLES)
def test_shortened_facts_give_the_same_decision(text: str) -> None:
    """Signs as patterns and ports as runs lose nothing that a decision needs."""
    facts = facts_of_example(BOOK, text)
    starts = BOOK.port_starts(facts.transport)
    shorter = facts._replace(
        signs=telling_signs(BOOK, facts.signs),
        server_port=starts[bisect_right(starts, facts.server_port) - 1],
    )
    assert telling_signs(BOOK, shorter.signs) == shorter.signs
    assert decide(BOOK, shorter) == decide(BOOK, facts)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([text for text in EXAMPLES if "/tcp dcerpc" in text]),
    st.integers(1024, 65_535),
    st.integers(1024, 65_535),
)
def test_ports_of_one_run_are_interchangeable(text: str, one: int, other: int) -> None:
    starts = BOOK.port_starts("tcp")
    facts = facts_of_example(BOOK, text)
    if bisect_right(starts, one) == bisect_right(starts, other):
        assert decide(BOOK, facts._replace(server_port=one)) == decide(BOOK, facts._replace(server_port=other))
