"""Real captures: what the inspectors read, against tshark's own fields; and what tshark's protocol column says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from inspectors import confusion, extraction

from classifier.inspectors import inspect
from classifier.inspectors.base import Chunk, Evidence, Stream

pytestmark = [
    pytest.mark.skipif(not confusion.REAL.is_dir(), reason="NO REAL CAPTURES: ../shared/captures/real is absent"),
    pytest.mark.skipif(not extraction.have_tshark(), reason="NO TSHARK to compare with"),
]


def _signs(capture: Path, *names: str) -> set[str]:
    found = [inspect(talk.dialogue()) for talk in extraction.conversations(capture).values()]
    every = [sign for evidence in found if isinstance(evidence, Evidence) for sign in evidence.signs]
    return {sign.value for sign in every if sign.field in names}


def _same(text: str) -> str:
    return text


def _bare(case: Case, value: str) -> str:
    """A DNS question without its type, an SMTP verb without its argument; other values as they are."""
    return value.split(" ")[0] if case.sign in ("dns.query", "smtp.command") else value


_SNI = "tls.handshake.extensions_server_name"
_REALMS = ("kerberos.realm", "kerberos.crealm")
_SUFFIXES = (".pcap", ".pcapng", ".trace", ".cap")
_COMPARED = 60


def _path(text: str) -> str:
    return text.partition("?")[0]


def _time(text: str) -> str:
    """tshark's "2010-11-01 00:00:00 (UTC)" as RFC 3339; its older form has two digits of the year."""
    return f"{'20' * (text[2:3] == '-')}{text[:-6]}Z".replace(" ", "T")


@dataclass(frozen=True)
class Case:
    """What is compared: captures (folder, pattern), our sign, tshark's fields, how its values become like ours."""

    what: str
    folder: str
    pattern: str
    sign: str
    fields: tuple[str, ...]
    form: Callable[[str], str] = _same


CASES = (
    Case("TLS names of mercury", "cisco+mercury", "*", "tls.sni", (_SNI,), str.lower),
    Case("certificates", "arkime+arkime", "*", "tls.certificate-san", ("x509ce.dNSName",)),
    Case("ends of certificates", "arkime+arkime", "*", "tls.certificate-not-after", ("x509af.utcTime",), _time),
    Case("HTTP methods", "zeek+zeek/testing/btest/Traces/http", "*", "http.method", ("http.request.method",)),
    Case("HTTP paths", "arkime+arkime", "*http*", "http.path", ("http.request.uri",), _path),
    Case("HTTP agents", "arkime+arkime", "*", "http.user-agent", ("http.user_agent",)),
    Case("HTTP servers", "arkime+arkime", "*http*", "http.server", ("http.server",)),
    Case("SMTP names", "OISF+suricata-verify", "*smtp*", "smtp.helo", ("smtp.req.parameter",)),
    Case(
        "SMTP senders' verbs",
        "zeek+zeek/testing/btest/Traces",
        "smtp*",
        "smtp.command",
        ("smtp.req.command",),
        str.upper,
    ),
    Case("LDAP bases", "OISF+suricata-verify", "*ldap*", "ldap.base-dn", ("ldap.baseObject",)),
    Case("SIP methods", "zeek+zeek/testing/btest/Traces/sip", "*", "sip.method", ("sip.Method",)),
    Case("DNS names", "the-tcpdump-group+tcpdump", "dns*", "dns.query", ("dns.qry.name",), str.lower),
    Case("Kerberos realms", "zeek+zeek/testing/btest/Traces/krb", "*", "kerberos.realm", _REALMS),
    Case("POP3", "OISF+suricata-verify", "*pop3*", "pop3.command", ("pop.request.command",), str.upper),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_signs_are_tsharks(case: Case) -> None:
    """Nearly everything read is known to tshark too (it has no streams with holes, we have no mail contents)."""
    captures = [path for path in confusion.captures([confusion.REAL / case.folder]) if path.suffix in _SUFFIXES]
    chosen = [path for path in captures if path.match(case.pattern) or path.parent.match(case.pattern)][:20]
    ours: set[str] = set()
    theirs: set[str] = set()
    for capture in chosen:
        ours |= {_bare(case, value)[:_COMPARED] for value in _signs(capture, case.sign)}
        values = extraction.dissected(capture).values
        theirs |= {case.form(value)[:_COMPARED] for name in case.fields for value in values[name]}
    ours.discard("rootDSE")  # our word for the empty base
    print(f"{case.what}: {len(ours)} of ours, {len(theirs)} of tshark's, only ours {sorted(ours - theirs)[:9]}")
    assert ours, f"nothing read from {len(chosen)} captures"
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


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["cisco+mercury", "arkime+arkime"])
def test_mutated_real_payloads_never_raise(folder: str) -> None:
    """Octets changed, put in and cut off at random, always the same way (the seed is the folder's name)."""
    chance = random.Random(folder)
    for capture in confusion.captures([confusion.REAL / folder]):
        for talk in extraction.conversations(capture).values():
            dialogue = talk.dialogue()
            for _ in range(20):
                sides = [_mutated(stream, chance) for stream in (dialogue.to_server, dialogue.to_client)]
                inspect(dialogue._replace(to_server=sides[0], to_client=sides[1]))


def _mutated(stream: Stream, chance: random.Random) -> Stream:
    chunks, at = [], 0
    for chunk in stream.chunks[:40]:
        data = bytearray(chunk.data[:4096])
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.choice((len(data), chance.randrange(len(data)) + 1)) :]
        at += chance.choice((0, 0, 3))
        chunks.append(Chunk(at, bytes(data)))
        at += len(data)
    return Stream(tuple(chunks), stream.started)
