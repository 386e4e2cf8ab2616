"""The contract, sentence by sentence: what a label says, how certain it is, and why there is none."""

from __future__ import annotations

import random
from dataclasses import replace
from types import MappingProxyType
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import rulebook
from classifier.expectations import Observed
from classifier.findings import Case, Checklist, load_findings
from classifier.model import ABSENCES, CERTAINTIES, PERSONS, PROTOCOLS, ROLES, VERSIONS, ResolutionKind
from classifier.rulecheck import facts_of_example, observed_of_example
from classifier.verdicts import Decision, Facts, decide, judge, misplaced, standing_for

BOOK = rulebook.load()
UNKNOWN = "accepts=01020304-0506-0708-090a-0b0c0d0e0f10"
EXAMPLES = sorted({text for path in BOOK.paths.values() for text in (*path.examples, *path.counterexamples)})


def decided(text: str) -> Decision:
    return decide(BOOK, facts_of_example(BOOK, text))


# ---- certainty -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        # certain: bytes of this conversation that only Exchange has
        ("? > ? 49734/tcp dcerpc accepts=emsmdb", "certain"),
        ("? > ? 49734/tcp dcerpc accepts=rfr", "certain"),
        ("? > ? 49734/tcp dcerpc accepts=exchange-drs", "certain"),
        ("? > ? 6001/tcp ncacn-http accepts=emsmdb", "certain"),
        ("? > ? 25/tcp smtp smtp.command=X-ANONYMOUSTLS", "certain"),
        ("? > ? 25/tcp smtp smtp.ehlo=X-ANONYMOUSTLS smtp.command=STARTTLS", "certain"),
        ("? > ? 25/tcp smtp 'smtp.ehlo=X-EXPS GSSAPI NTLM'", "certain"),
        ("? > ? 80/tcp http http.path=/ews/exchange.asmx", "certain"),
        ("? > ? 143/tcp imap4 'imap4.greeting=* OK The Microsoft Exchange IMAP4 service is ready.'", "certain"),
        ("? > ? 808/tcp net.tcp net.tcp.via=net.tcp://c/Microsoft.Exchange.MailboxReplicationService", "certain"),
        # ... and the roles agree
        ("unified-messaging > client-access 49734/tcp dcerpc accepts=emsmdb", "weak"),
        # strong: the port was handed out by an announcement
        ("? > ? 49734/tcp - handed-out=emsmdb condition=no-payload", "strong"),
        ("? > ? 49734/tcp dcerpc handed-out=emsmdb", "strong"),
        ("? > ? 135/tcp epm asks=emsmdb", "strong"),
        # strong: a general protocol in the payload and both roles known
        ("hub-transport > hub-transport 25/tcp smtp", "strong"),
        ("client-access > active-directory 49734/tcp dcerpc accepts=netlogon", "strong"),
        ("outlook > active-directory 49734/tcp dcerpc accepts=nspi", "strong"),
        (f"mailbox > hub-transport 49734/tcp dcerpc {UNKNOWN}", "strong"),
        # weak: one role is unknown
        ("? > hub-transport 25/tcp smtp", "weak"),
        ("? > client-access 443/tcp tls", "weak"),
        ("hub-transport > ? 389/tcp ldap", "weak"),
        ("? > mailbox 135/tcp epm asks=svcctl", "weak"),
        ("? > ? 49734/tcp dcerpc offers=emsmdb", "weak"),
        ("? > ? 443/tcp tls tls.sni=autodiscover.contoso.com", "weak"),
        # weak: a dedicated port alone
        ("? > ? 64327/tcp - condition=no-payload", "weak"),
        ("? > ? 50636/tcp tls", "weak"),
        ("? > ? 691/tcp - condition=mid-stream", "weak"),
        ("? > ? 2883/udp -", "weak"),
    ],
)
def test_certainty(text: str, certainty: str) -> None:
    assert decided(text).certainty == certainty


@pytest.mark.parametrize(
    "port", [25, 53, 80, 88, 135, 389, 443, 444, 445, 808, 5060, 5061, 5065, 5068, 5985, 6001, 6004]
)
@pytest.mark.parametrize("protocol", ["-", "tls", "http", "smtp", "dcerpc", "ldap", "sip", "smb", "dns"])
def test_a_port_that_others_use_is_never_exchange_by_itself(port: int, protocol: str) -> None:
    condition = " condition=no-payload" if protocol == "-" else ""
    decision = decided(f"? > ? {port}/tcp {protocol}{condition}")
    assert decision.absence == ("no-payload" if condition else "not-exchange")


@pytest.mark.parametrize(
    "text",
    [
        "? > ? 25/tcp smtp 'smtp.banner=220 mx ESMTP Postfix' 'smtp.ehlo=AUTH PLAIN LOGIN'",
        "? > ? 110/tcp pop3 'pop3.greeting=+OK Dovecot ready.'",
        "? > ? 143/tcp imap4 'imap4.greeting=* OK Dovecot ready.'",
        "? > ? 80/tcp http http.path=/index.html http.server=nginx",
        "? > ? 443/tcp rpc-over-http http.method=RPC_IN_DATA http.path=/rpc/rpcproxy.dll?gw:3388",
        "? > ? 389/tcp ldap ldap.base-dn=dc=contoso,dc=com",
        "? > active-directory 88/tcp kerberos",
        "? > active-directory 49155/tcp dcerpc accepts=netlogon",
        "? > active-directory 49155/tcp dcerpc accepts=nspi",
        "? > ? 135/tcp epm asks=svcctl",
        "? > ? 135/tcp dcerpc accepts=object-exporter",
        "? > ? 49155/tcp dcerpc accepts=spoolss",
        "? > ? 49155/tcp dcerpc accepts=906b0ce0-c70b-1067-b317-00dd010662da",
        "? > ? 49155/tcp dcerpc accepts=frsrpc",
        "? > ? 5061/tcp tls",
        "? > ? 102/tcp x400",
        "? > ? 6001/tcp x11",
        "? > ? 3343/udp cluster-heartbeat",
        "? > ? 445/tcp smb smb.pipe=winreg",
        "? > mailbox 49155/tcp dcerpc accepts=svcctl",
    ],
)
def test_foreign_traffic_has_no_label(text: str) -> None:
    assert decided(text).absence == "not-exchange"


def test_no_interface_of_windows_makes_a_label() -> None:
    for interface in BOOK.interfaces:
        facts = Facts("tcp", 49_734, protocol="dcerpc", interfaces=frozenset({(interface.uuid, interface.version)}))
        decision = decide(BOOK, facts)
        assert (decision.certainty == "certain") is interface.exchange_only, interface
        assert interface.exchange_only or decision.certainty is None
        announced = facts._replace(interfaces=frozenset(), resolved=facts.interfaces, resolved_kind="ept_map")
        assert (decide(BOOK, announced).certainty == "strong") is interface.exchange_only


def test_who_only_names_exchange_paths_to_another_server_gets_no_proof() -> None:
    assert decided("? > ? 80/tcp http http.path=/owa/auth/logon.aspx http.server=nginx/1.25").certainty == "weak"


# ---- absence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "absence"),
    [
        ("? > mailbox 12345/tcp -", "unmatched"),
        ("? > hub-transport 25/tcp http http.path=/", "unmatched"),
        (f"? > active-directory 49734/tcp dcerpc {UNKNOWN}", "not-exchange"),
        ("? > mailbox 22/tcp ssh", "not-exchange"),
        ("? > ? 12345/tcp -", "not-exchange"),
        *((f"? > mailbox 12345/tcp - condition={absence}", absence) for absence in ABSENCES),
    ],
)
def test_absence(text: str, absence: str) -> None:
    assert decided(text).absence == absence


# ---- sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pair", "path"),
    [
        # ambiguity.md section 4, pair by pair
        (
            "unified-messaging > hub-transport 25/tcp smtp version=2010",
            {"transport-um-to-hub", "um-to-hub"},
            "transport-um-to-hub",
        ),
        (
            "client-access > mailbox 49734/tcp dcerpc accepts=emsmdb",
            {"cas-to-mailbox", "mailbox-availability", "note-cas-to-mailbox-many-ports"},
            "cas-to-mailbox",
        ),
        (
            "mailbox > active-directory 389/tcp ldap version=2010",
            {
                "mailbox-active-directory",
                "mailbox-system-attendant-active-directory",
                "mailbox-rus-active-directory",
            },
            None,
        ),
        (
            f"mailbox > mailbox 49734/tcp dcerpc {UNKNOWN} version=2010",
            {"mailbox-assistants", "mailbox-system-attendant-listen", "mailbox-rus-rpc", "mailbox-content-indexing"},
            None,
        ),
        (
            "mailbox > mailbox 49734/tcp dcerpc accepts=emsmdb version=2010",
            {"mailbox-assistants", "mailbox-system-attendant-mapi-client", "mailbox-content-indexing"},
            None,
        ),
        (
            "client-access > client-access 443/tcp tls version=2010",
            {"cas-to-cas-owa", "cas-to-cas-activesync", "cas-to-cas-ews"},
            None,
        ),
        (
            "? > client-access 443/tcp tls version=2010",
            {"cas-autodiscover", "cas-availability", "cas-owa", "cas-outlook-anywhere", "cas-activesync"},
            None,
        ),
        (
            "mailbox > mailbox 64327/tcp nego-stream version=2010",
            {"mailbox-log-shipping", "mailbox-seeding", "note-log-shipping-port"},
            None,
        ),
        (
            "hub-transport > edge-transport 50636/tcp tls version=2010",
            {"transport-edgesync-hub-to-edge", "note-edgesync-50636"},
            "transport-edgesync-hub-to-edge",
        ),
    ],
)
def test_what_no_packet_separates_stays_together(text: str, pair: set[str], path: str | None) -> None:
    decision = decided(text)
    assert pair <= set(decision.data_paths)
    assert decision.data_path == path
    assert path is None or decision.data_paths[0] == path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("client-access > mailbox 49734/tcp dcerpc accepts=emsmdb", "cas-to-mailbox"),
        ("hub-transport > mailbox 49734/tcp dcerpc accepts=emsmdb", "transport-hub-to-mailbox-mapi"),
        ("unified-messaging > mailbox 49734/tcp dcerpc accepts=emsmdb", "um-to-mailbox"),
        ("outlook > client-access 49734/tcp dcerpc accepts=emsmdb", "note-mapi-clients-use-cas"),
        ("outlook > mailbox 49734/tcp dcerpc accepts=emsmdb", "mailbox-mapi-access"),
        ("mailbox > hub-transport 49734/tcp dcerpc " + UNKNOWN, "transport-mailbox-to-hub-mail-submission"),
        ("hub-transport > hub-transport 25/tcp smtp", "transport-hub-to-hub"),
        ("hub-transport > edge-transport 25/tcp smtp", "transport-hub-to-edge"),
        ("edge-transport > hub-transport 25/tcp smtp", "transport-edge-to-hub"),
        ("client-access > unified-messaging 5060/tcp sip", "cas-to-um"),
        ("ip-gateway > unified-messaging 5060/tcp sip version=2010", "um-phone-interaction"),
        ("unified-messaging > client-access 5075/tcp tls", "um-to-cas"),
        ("ocs-lync > client-access 5075/tcp tls", "doc-ocs-to-cas-owa-im"),
        ("front-end > back-end 143/tcp imap4 version=2003", "e2003-imap4-fe-be"),
        ("hub-transport > active-directory 389/tcp ldap", "transport-active-directory"),
        ("mailbox > mailbox 444/tcp tls", "be-https"),
    ],
)
def test_roles_separate_what_shares_a_port(text: str, path: str) -> None:
    assert decided(text).data_path == path


def test_without_roles_a_proof_is_a_set() -> None:
    decision = decided("? > ? 49734/tcp dcerpc accepts=emsmdb")
    assert {"cas-to-mailbox", "mailbox-mapi-access", "note-mapi-clients-use-cas", "um-to-mailbox"} <= set(
        decision.data_paths
    )
    assert (decision.data_path, decision.client_role, decision.server_role) == (None, None, "exchange-server")
    assert decision.basis == ("interface",)


def test_words_of_a_server_prove_the_server_and_leave_the_client_open() -> None:
    """Whoever goes on with STARTTLS may be anybody; once the host is known, no path to another server is left."""
    said = "25/tcp smtp smtp.ehlo=STARTTLS smtp.ehlo=X-ANONYMOUSTLS smtp.command=STARTTLS"
    first, second = decided(f"? > ? {said}"), decided(f"? > exchange-server {said}")
    assert set(first.data_paths) - set(second.data_paths) == {"mail-outbound-internet", "mail-edge-to-internet"}
    assert (second.certainty, second.data_path, second.client_role, second.server_role) == (
        "certain", None, None, "exchange-server",
    )  # fmt: skip
    answered = decided("hub-transport > exchange-server 25/tcp smtp smtp.ehlo=X-ANONYMOUSTLS smtp.command=STARTTLS")
    assert set(answered.data_paths) == {"transport-hub-to-hub", "transport-hub-to-edge"}


def test_tables_come_before_notes_before_other_documents() -> None:
    for text in EXAMPLES:
        decision = decided(text)
        ranks = [("table", "note", "doc").index(BOOK.paths[path].rank) for path in decision.data_paths]
        if text.startswith("? >"):
            assert ranks == sorted(ranks), text


def test_the_endpoint_mapper_speaks_for_the_interfaces_asked_for() -> None:
    assert decided("client-access > mailbox 135/tcp epm asks=emsmdb").data_path == "cas-to-mailbox"
    assert decided("? > mailbox 135/tcp epm").data_paths == ("note-rpc-epm-135",)
    assert decided("mailbox > active-directory 135/tcp epm asks=nspi version=2010").data_path == (
        "mailbox-oab-generation-active-directory"
    )
    unanswered = facts_of_example(BOOK, "? > ? 135/tcp epm asks=emsmdb")._replace(answered=frozenset())
    assert decide(BOOK, unanswered).certainty == "weak"


# ---- roles and versions ----------------------------------------------------------------------


def test_roles_of_a_host_that_has_several() -> None:
    decision = decided("mailbox+client-access+hub-transport > mailbox 49734/tcp dcerpc accepts=emsmdb")
    assert {"cas-to-mailbox", "transport-hub-to-mailbox-mapi", "mailbox-system-attendant-mapi-client"} <= set(
        decision.data_paths
    )
    assert (decision.client_role, decision.server_role) == ("exchange-server", "mailbox")


def test_an_exchange_server_of_unknown_role_fits_every_role() -> None:
    decision = decided("exchange-server > exchange-server 49734/tcp dcerpc accepts=emsmdb")
    assert decision.certainty == "certain"
    assert "cas-to-mailbox" in decision.data_paths


def test_one_persons_machine_plays_many_roles() -> None:
    decision = decided("pop3-client > client-access 80/tcp http http.path=/owa/")
    assert (decision.certainty, decision.client_role) == ("certain", "browser")


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("? > ? 49734/tcp dcerpc accepts=async-emsmdb", ("2007", "2010")),
        ("? > ? 49734/tcp dcerpc accepts=mta", ("5.5", "2000", "2003")),
        ("client-access > mailbox 49734/tcp dcerpc accepts=emsmdb version=2010", ("2010",)),
        ("mailbox > mailbox 444/tcp tls", ("2013", "2016", "2019", "SE")),
        ("client-access > mailbox 444/tcp tls", ("2013", "2016", "2019", "SE")),
        ("client-access > back-end 80/tcp http http.path=/exchange/ version=2003 client-version=2010", ("2010",)),
    ],
)
def test_versions(text: str, versions: tuple[str, ...]) -> None:
    assert decided(text).exchange_versions == versions


# ---- firewall rules --------------------------------------------------------------------------


def test_rules_that_admit_a_conversation() -> None:
    assert decided("mailbox > mailbox 64327/tcp nego-stream").firewall_rules == (
        "MSExchangerepl - Log Copier (TCP-In)",
    )
    assert decided("hub-transport > hub-transport 25/tcp smtp").firewall_rules == (
        "MSExchangeTransportWorker (GFW) (TCP-In)", "MSExchangeTransportWorker (TCP-In)",
    )  # fmt: skip
    mapi = decided("client-access > mailbox 49734/tcp dcerpc accepts=emsmdb").firewall_rules
    assert {"MSExchangeIS - RPC (TCP-In)", "MSExchangeRPC (GFW) (TCP-In)"} <= set(mapi)
    assert not [name for name in mapi if "EPMap" in name or "AB-RPC" in name]
    mapper = decided("outlook > client-access 135/tcp epm asks=emsmdb version=2010").firewall_rules
    assert "MSExchangeRPCEPMap (GFW) (TCP-In)" in mapper
    assert "SESWorker (TCP-In)" in decided("ip-gateway > unified-messaging 5060/tcp sip").firewall_rules


@pytest.mark.parametrize(
    "text",
    ["hub-transport > active-directory 389/tcp ldap", "mailbox > mailbox 444/tcp tls", "? > ? 12345/tcp -",
     "ip-gateway > unified-messaging 49170/udp rtp", "front-end > back-end 110/tcp pop3"],
)  # fmt: skip
def test_no_rule_admits_what_is_not_for_a_server_of_2010(text: str) -> None:
    assert decided(text).firewall_rules == ()


# ---- whatever the facts ------------------------------------------------------------------------


def pairs() -> st.SearchStrategy[frozenset[tuple[str, str]]]:
    known = st.sampled_from([(each.uuid, each.version) for each in BOOK.interfaces])
    return st.frozensets(known | st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=3)


PATTERNS = [
    (name, pattern.text)
    for service in BOOK.services.values()
    for condition in (*service.proof, *service.hint, *service.mark, *service.unless)
    for name, patterns in condition.items()
    for pattern in patterns
]
ANY_FACTS = st.builds(
    Facts,
    transport=st.sampled_from(["tcp", "udp"]),
    server_port=st.sampled_from([0, 25, 80, 110, 135, 389, 443, 444, 445, 593, 691, 6001, 64_327])
    | st.integers(0, 65_535),
    protocol=st.none() | st.sampled_from(PROTOCOLS),
    interfaces=pairs(),
    offered=pairs(),
    asked=pairs(),
    resolved=pairs(),
    resolved_kind=st.none() | st.sampled_from(get_args(ResolutionKind)),
    signs=st.frozensets(st.sampled_from(PATTERNS) | st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=4),
    client_roles=st.frozensets(st.sampled_from(ROLES), max_size=3),
    server_roles=st.frozensets(st.sampled_from(ROLES), max_size=3),
    client_versions=st.frozensets(st.sampled_from(VERSIONS), max_size=2),
    server_versions=st.frozensets(st.sampled_from(VERSIONS), max_size=2),
    condition=st.none() | st.sampled_from(ABSENCES),
)


@settings(max_examples=600, deadline=None)
@given(ANY_FACTS)
def test_every_conversation_is_labelled_or_it_is_said_why_not(facts: Facts) -> None:
    decision = decide(BOOK, facts)
    assert (decision.certainty is None) != (decision.absence is None)
    assert bool(decision.data_paths) is (decision.certainty is not None)
    assert decision.certainty in (None, *CERTAINTIES)
    assert decision.absence in (None, *ABSENCES)
    assert decision.data_path in (None, *decision.data_paths)
    assert bool(decision.exchange_versions) is (decision.certainty is not None)
    assert decision.client_role in (None, *ROLES)
    assert decision.server_role in (None, *ROLES)
    assert all(path in BOOK.paths for path in decision.data_paths)
    assert decision == decide(BOOK, facts)


def test_the_order_of_signatures_changes_no_set() -> None:
    items = list(BOOK.paths.items())
    random.Random(7).shuffle(items)
    services = list(BOOK.services.items())
    random.Random(7).shuffle(services)
    shuffled = replace(BOOK, paths=MappingProxyType(dict(items)), services=MappingProxyType(dict(services)))
    for text in EXAMPLES:
        facts = facts_of_example(BOOK, text)
        one, other = decide(BOOK, facts), decide(shuffled, facts)
        assert set(one.data_paths) == set(other.data_paths)
        assert one._replace(data_paths=()) == other._replace(data_paths=())


def test_versions_of_somebody_elses_host_say_nothing_of_ours() -> None:
    """An Edge server of 2010 that mails an organisation with 2016 does so on the paths of 2010."""
    facts = facts_of_example(BOOK, "edge-transport > internet-mta 25/tcp smtp smtp.command=STARTTLS version=2016")
    ours = facts._replace(client_versions=frozenset({"2010"}))
    assert "mail-edge-to-internet" not in decide(BOOK, ours).data_paths
    assert "mail-edge-to-internet" in decide(BOOK, facts._replace(client_versions=frozenset({"2016"}))).data_paths
    assert decide(BOOK, ours).exchange_versions == ("2010",)


# ---- roles that make no difference ---------------------------------------------------------

PERSONS_ROLES = st.frozensets(st.sampled_from(sorted(PERSONS)), max_size=5)
KNOWN = st.builds(frozenset.union, PERSONS_ROLES, st.frozensets(st.sampled_from(ROLES), max_size=2))


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(EXAMPLES), KNOWN, KNOWN, PERSONS_ROLES, PERSONS_ROLES)
def test_hosts_that_stand_for_each_other_get_the_same_decision(
    text: str, client: frozenset[str], server: frozenset[str], more: frozenset[str], others: frozenset[str]
) -> None:
    facts = facts_of_example(BOOK, text)._replace(client_roles=client, server_roles=server)
    judged = judge(BOOK, facts)
    for asked in ((frozenset(), frozenset()), judged.asked()):
        sides = zip((client, server), (more, others), asked, strict=True)
        theirs = [(known - (PERSONS - counting)) | (idle - counting) for known, idle, counting in sides]
        other = facts._replace(client_roles=theirs[0], server_roles=theirs[1])
        pairs = zip((client, server), theirs, asked, strict=True)
        if any(standing_for(mine, counting) != standing_for(known, counting) for known, mine, counting in pairs):
            return
        assert set(judge(BOOK, other).fitting) == set(judged.fitting)
        assert judge(BOOK, other)[1:] == judged[1:]
        assert misplaced(BOOK, other) == misplaced(BOOK, facts)
    assert decide(BOOK, other) == decide(BOOK, facts)


def test_most_roles_of_a_workstation_make_no_difference() -> None:
    clients, _ = judge(BOOK, facts_of_example(BOOK, "? > exchange-server 25/tcp smtp")).asked()
    assert "smtp-client" in clients
    assert "eas-device" not in clients
    assert standing_for(frozenset({"eas-device", "browser"}), clients) == standing_for(
        frozenset({"browser", "nntp-client", "eas-device"}), clients
    )


RULES = load_findings(BOOK)
CHECKLIST = Checklist(BOOK, RULES)
OBSERVED = [
    observed_of_example(BOOK, text, rule) for rule in RULES for text in (*rule.examples, *rule.counterexamples)
]


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(OBSERVED), KNOWN, PERSONS_ROLES, PERSONS_ROLES)
def test_findings_that_ask_for_no_persons_role_are_the_same_for_all_of_them(
    seen: Observed, client: frozenset[str], one: frozenset[str], other: frozenset[str]
) -> None:
    found = []
    for idle in (one, other):
        facts = seen.facts._replace(client_roles=client | idle)
        counting, _ = judge(BOOK, facts).asked()
        if not idle - counting or len(client | (idle - counting)) < 2:
            return
        facts = facts._replace(client_roles=client | (idle - counting))
        case = Case.of(BOOK, seen._replace(facts=facts, decision=decide(BOOK, facts)))
        if CHECKLIST.persons_asked(case)[0]:
            return
        found.append(CHECKLIST.check(case))
    assert found[0] == found[1]
