"""Real captures: what the inspectors read, against tshark's own fields; and what tshark's protocol column says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from inspectors import confusion, extraction

from classifier.inspectors import inspect
from classifier.inspectors.base import Evidence

pytestmark = [
    pytest.mark.skipif(not confusion.REAL.is_dir(), reason="NO REAL CAPTURES: ../shared/captures/real is absent"),
    pytest.mark.skipif(not extraction.have_tshark(), reason="NO TSHARK to compare with"),
]


def _fields(capture: Path, *names: str) -> set[str]:
    """All values that tshark has for these fields."""
    command = ["tshark", "-r", str(capture), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=\x1e"]
    for name in names:
        command += ["-e", name]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {value for value in lines.replace("\t", "\x1e").replace("\n", "\x1e").split("\x1e") if value}


def _signs(capture: Path, *names: str) -> set[str]:
    found = [inspect(talk.dialogue()) for talk in extraction.conversations(capture).values()]
    every = [sign for evidence in found if isinstance(evidence, Evidence) for sign in evidence.signs]
    return {sign.value for sign in every if sign.field in names}


def _same(text: str) -> str:
    return text


def _path(text: str) -> str:
    return text.partition("?")[0]


CASES: list[tuple[str, str, tuple[str, ...], tuple[str, ...], Callable[[str], str]]] = [
    ("TLS names", "cisco+mercury/unit_tests/pcaps", ("tls.sni",), ("tls.handshake.extensions_server_name",), str.lower),
    ("HTTP methods", "zeek+zeek/testing/btest/Traces/http", ("http.method",), ("http.request.method",), _same),
    ("HTTP paths", "zeek+zeek/testing/btest/Traces/http", ("http.path",), ("http.request.uri",), _path),
    ("HTTP agents", "zeek+zeek/testing/btest/Traces/http", ("http.user-agent",), ("http.user_agent",), _same),
    ("SMTP names", "OISF+suricata-verify/tests", ("smtp.helo",), ("smtp.req.parameter",), _same),
    ("LDAP bases", "OISF+suricata-verify/tests", ("ldap.base-dn",), ("ldap.baseObject",), _same),
    ("SIP methods", "zeek+zeek/testing/btest/Traces/sip", ("sip.method",), ("sip.Method",), _same),
    ("DNS names", "the-tcpdump-group+tcpdump/tests", ("dns.query",), ("dns.qry.name",), str.lower),
    ("Kerberos realms", "zeek+zeek/testing/btest/Traces/krb", ("kerberos.realm",), ("kerberos.realm", "kerberos.crealm"), _same),
    ("POP3", "OISF+suricata-verify/tests", ("pop3.command",), ("pop.request.command",), str.upper),
]
"""What is compared, in which folder, our sign, tshark's fields, how its values are brought to our form."""

_LOOKS_LIKE = {
    "TLS names": "*tls*", "SMTP names": "*smtp*", "LDAP bases": "*ldap*", "DNS names": "dns*", "POP3": "*pop3*",
}  # fmt: skip


@pytest.mark.parametrize(("what", "folder", "names", "fields", "form"), CASES, ids=[case[0] for case in CASES])
def test_signs_are_tsharks(
    what: str, folder: str, names: tuple[str, ...], fields: tuple[str, ...], form: Callable[[str], str]
) -> None:
    """Everything read is known to tshark too, and nearly everything that it knows was read."""
    root = confusion.REAL / folder
    captures = [path for path in sorted(root.rglob("*")) if path.suffix in (".pcap", ".pcapng", ".trace", ".cap")]
    pattern = _LOOKS_LIKE.get(what, "*")
    chosen = [path for path in captures if path.match(pattern) or path.parent.match(pattern)][:12]
    assert chosen, f"no capture for {what}"
    ours: set[str] = set()
    theirs: set[str] = set()
    for capture in chosen:
        ours |= {value.rpartition(" ")[0] if what == "DNS names" else value for value in _signs(capture, *names)}
        theirs |= {form(value) for value in _fields(capture, *fields)}
    print(what, len(ours), len(theirs), "only ours", sorted(ours - theirs)[:8], "only tshark's", sorted(theirs - ours)[:8])
    assert ours
    assert len(ours - theirs) <= len(ours) * 0.1


CERTAIN = {
    "SMTP": "smtp", "POP": "pop3", "IMAP": "imap4", "KRB5": "kerberos", "LDAP": "ldap", "CLDAP": "ldap", "SIP": "sip",
    "MDNS": "mdns", "LLMNR": "llmnr", "NBNS": "netbios-ns", "TLSv1": "tls", "TLSv1.3": "tls", "SSHv2": "ssh",
    "HTTP": "http", "SSDP": "ssdp", "QUIC": "quic", "DHCP": "dhcp", "STUN": "stun", "TELNET": "telnet",
}  # fmt: skip
"""Words of tshark's column that mean one protocol of ours; a line protocol may have turned into TLS."""

FOLDERS = ("DanieleDeSensi+peafowl", "cisco+mercury", "zeek+zeek/testing/btest/Traces/tls", "arkime+arkime")


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_taken_for_something_else(folder: str) -> None:
    """Where both have an opinion it's the same; tshark's words without a counterpart here stay unrecognised."""
    wrong = []
    for capture in confusion.captures([confusion.REAL / folder]):
        for stream, _, theirs, ours in confusion.survey(capture):
            expected = CERTAIN.get(theirs)
            if ours in ("wait", "not this") or expected is None or ours == expected:
                continue
            if not (theirs.startswith("TLS") and ours in ("smtp", "pop3", "imap4", "ldap")):
                wrong.append((capture.name, stream, theirs, ours))
    assert wrong == []
