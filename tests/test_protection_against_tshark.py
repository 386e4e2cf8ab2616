"""Authentication and encryption of every RPC, NTLM, LDAP, SMB and TLS conversation that tshark can tell, beside ours.

tshark's fields are reduced here to the words of the contract, by conversation; what it doesn't tell isn't compared.
`pytest -s -n0 tests/test_protection_against_tshark.py -k table` prints agreements and disagreements. Each
disagreement is explained in EXPLAINED, and one that isn't there fails. Captures that share no address are joined for
tshark, since nothing that it remembers of one of them can then touch another.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import shared
from joins import counted, joined
from pyshark.packet.packet import Packet
from pyshark.tshark.output_parser.tshark_xml import packet_from_xml_packet
from test_lab_against_tshark import values

pytestmark = [
    shared.needed,
    pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed: no independent reader"),
]

PROTOCOLS = re.compile(r"(?<![a-z0-9])(dcerpc|ntlmssp|ldap|smb2?|tls|ssl)(?![a-z0-9])")
FIELDS = (
    "frame.number", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport", "dcerpc.pkt_type",
    "dcerpc.auth_type", "dcerpc.auth_level", "ntlmssp.messagetype", "ldap.authentication", "ldap.mechanism",
    "ldap.gssapi_encrypted_payload", "smb2.cmd", "smb2.flags.signature", "smb2.header.transform.msg_size",
    "tls.handshake.type", "tls.handshake.version", "tls.handshake.extensions.supported_version", "frame.protocols",
)  # fmt: skip
TLS = {
    "0x0300": "SSLv3", "0x0301": "TLSv1.0", "0x0302": "TLSv1.1", "0x0303": "TLSv1.2", "0x0304": "TLSv1.3",
}  # fmt: skip
ALWAYS_SIGNED = {"0", "1", "3", "11"}
"""NEGOTIATE, SESSION_SETUP, TREE_CONNECT and IOCTL are signed in places although the session is not
([MS-SMB2] 3.2.4.1.1, 3.2.5.5): a signature there says nothing of the rest."""
LEVELS = {"5": "rpc-integrity", "6": "rpc-privacy"}
CARRIERS = {"smb", "ncacn-http", "rpc-over-http"}
"""What has a protection of its own around RPC."""
SASL = {"GSS-SPNEGO": {"kerberos", "ntlm", "negotiate"}, "GSSAPI": {"kerberos"}, "DIGEST-MD5": {"digest"},
        "NTLM": {"ntlm"}}  # fmt: skip
"""Mechanisms that the contract has a word for; others, such as SCRAM, aren't compared."""
KINDS = {"10": {"ntlm"}, "16": {"kerberos"}, "68": {"netlogon"}, "9": {"ntlm", "kerberos", "negotiate"}}

LABORATORY = Path(__file__).resolve().parents[1] / "captures" / "lab"


@dataclass
class Told:
    """What tshark says of one conversation."""

    kinds: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    bound: bool = False
    called: bool = False
    ntlm: bool = False
    simple: bool = False
    mechanisms: set[str] = field(default_factory=set)
    sealed: bool = False
    signed: bool = False
    smb: bool = False
    transformed: bool = False
    tls: str = ""


Flow = frozenset[tuple[str, str]]


Row = dict[str, str]


TSHARK = ("tshark", "-n", "-Y", "tcp && (dcerpc || ntlmssp || ldap || smb || smb2 || tls)")
AS_FIELDS = ("-T", "fields", "-E", "occurrence=a", "-E", "aggregator=;", *(x for name in FIELDS for x in ("-e", name)))


def tshark(path: Path) -> list[Row]:
    """The frames that say something."""
    run = subprocess.run([*TSHARK, "-r", str(path), *AS_FIELDS], capture_output=True, text=True, check=False)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in run.stdout.split("\n")[:-1]]


def through_pyshark(path: Path) -> list[Row]:
    """The same of the whole dissection, as pyshark reads it, which takes many times as long."""
    run = subprocess.run([*TSHARK, "-r", str(path), "-T", "pdml"], capture_output=True, check=False)
    packets = re.findall(rb"<packet>.*?</packet>", run.stdout, re.DOTALL)
    return [row_of(packet_from_xml_packet(packet)) for packet in packets]


def row_of(packet: Packet) -> Row:
    layers = (packet.frame_info, *packet.layers)
    return {name: ";".join(each for layer in layers for each in values(layer, name)) for name in FIELDS}


def flows(rows: Iterable[Row]) -> dict[Flow, Told]:
    """What they say of each conversation."""
    found: dict[Flow, Told] = {}
    for row in rows:
        ends = [
            row[f"{ip}.{way}"].split(";")[-1] for way in ("src", "dst") for ip in ("ip", "ipv6") if row[f"{ip}.{way}"]
        ]
        ports = row["tcp.srcport"].split(";")[-1], row["tcp.dstport"].split(";")[-1]
        if len(ends) == 2:
            note(found.setdefault(frozenset(zip(ends, ports, strict=True)), Told()), row)
    return found


def strangers(names: Iterable[str]) -> list[list[str]]:
    """The captures in groups in which no two have an address in common."""
    groups: list[tuple[list[str], set[str]]] = []
    for name in names:
        ends = {end for talk in shared.classified(name) for end in (talk.client_ip, talk.server_ip)}
        group, known = next((each for each in groups if ends.isdisjoint(each[1])), ([], set()))
        if not group:
            groups.append((group, known))
        group.append(name)
        known |= ends
    return [group for group, _ in groups]


def told(names: Sequence[str]) -> Iterator[tuple[str, dict[Flow, Told]]]:
    """What tshark says of each capture."""
    counts = counted([shared.FOLDER / name for name in names])
    whole = [name for name in names if shared.FOLDER / name in counts]
    with ThreadPoolExecutor(2) as threads, tempfile.TemporaryDirectory() as folder:
        parts = [[shared.FOLDER / name for name in group] for group in strangers(whole)]
        joins = [each for found in threads.map(lambda part: joined(part, folder), parts) for each in found]
        joins += [(path, [path]) for path in map(shared.FOLDER.joinpath, names) if path not in counts]
        for (_, paths), rows in zip(joins, threads.map(tshark, [join for join, _ in joins]), strict=True):
            before = 0
            for path in paths:
                last = before + counts.get(path, sys.maxsize)
                own = [row for row in rows if before < int(row["frame.number"]) <= last]
                yield str(path.relative_to(shared.FOLDER)), flows(own)
                before = last


def words(text: str) -> list[str]:
    return [word for word in text.split(";") if word]


def note(told: Told, row: dict[str, str]) -> None:
    kinds, levels = words(row["dcerpc.auth_type"]), words(row["dcerpc.auth_level"])
    pdus = set(words(row["dcerpc.pkt_type"]))
    told.kinds |= set(kinds)
    told.bound |= "11" in pdus
    if pdus and pdus <= {"0", "2"}:
        told.called = True
        told.calls |= set(levels)
    told.ntlm |= "0x00000003" in words(row["ntlmssp.messagetype"])
    told.simple |= "0" in words(row["ldap.authentication"])
    told.mechanisms |= set(words(row["ldap.mechanism"]))
    told.sealed |= bool(row["ldap.gssapi_encrypted_payload"])
    told.smb |= "smb" in row["frame.protocols"]
    if ALWAYS_SIGNED.isdisjoint(words(row["smb2.cmd"])):
        told.signed |= any(word in ("1", "True") for word in words(row["smb2.flags.signature"]))
    told.transformed |= bool(row["smb2.header.transform.msg_size"])
    if "2" in words(row["tls.handshake.type"]) and not told.tls:
        versions = words(row["tls.handshake.extensions.supported_version"])
        versions = versions if len(versions) == 1 else words(row["tls.handshake.version"])[-1:]
        told.tls = TLS.get(versions[0], versions[0]) if versions else ""


@dataclass(frozen=True)
class Compared:
    capture: str
    what: str
    ours: str
    theirs: str
    agrees: bool


def compare(name: str, talk: object, told: Told) -> list[Compared]:
    made: list[Compared] = []

    def add(what: str, ours: object, theirs: set[str]) -> None:
        made.append(Compared(name, what, str(ours), "|".join(sorted(theirs)), str(ours) in theirs))

    authentication, encryption = (getattr(talk, each) for each in ("authentication", "encryption"))
    protocol = getattr(talk, "protocol")  # noqa: B009
    if protocol in ("dcerpc", "epm") and (told.bound or told.called):
        known = {word for kind in told.kinds for word in KINDS.get(kind, {"?"})} if told.kinds else set()
        if known or told.bound:
            add("RPC authentication", authentication, known or {"none"})
        protecting = {LEVELS[level] for level in told.calls & LEVELS.keys()}
        if told.called and told.bound:
            add("RPC protection of calls", encryption, {max(protecting)} if protecting else {"none"})
    elif told.bound and protocol not in CARRIERS:
        add("RPC authentication", f"of {protocol}", {"something of RPC"})
    elif told.ntlm:
        add("NTLM", authentication, {"ntlm"})
    if protocol == "ldap":
        if told.mechanisms & SASL.keys():
            add("LDAP SASL", authentication, {word for name in told.mechanisms for word in SASL.get(name, ())})
        elif told.simple and not told.mechanisms:
            add("LDAP simple bind", authentication, {"basic", "anonymous"})
        if told.sealed:
            add("LDAP sealing", encryption, {"sasl-seal"})
    elif told.mechanisms or told.simple:
        add("LDAP SASL", f"of {protocol}", {"something of LDAP"})
    if told.smb and (told.signed or told.transformed) and protocol != "smb":
        add("SMB protection", f"of {protocol}", {"something of SMB"})
    if protocol == "smb" and told.smb:
        strongest = "smb3" if told.transformed else "smb-sign" if told.signed else ""
        if strongest:
            add("SMB protection", encryption, {strongest})
    if told.tls:
        add("TLS version", getattr(talk, "tls_version"), {told.tls})  # noqa: B009
    return made


@cache
def compared() -> list[Compared]:
    with (shared.FOLDER / "catalogue.csv").open(newline="") as stream:
        names = [row["file"] for row in csv.DictReader(stream) if PROTOCOLS.search(row["protocol_stacks"])]
    names += [name for name in shared.captures("handshakes") if name.endswith(".pcap")]
    names += [os.path.relpath(path, shared.FOLDER) for path in sorted(LABORATORY.glob("*.pcap"))]
    made = []
    for name, theirs in told(names):
        for talk in shared.classified(name) if theirs else ():
            ends = ((talk.client_ip, str(talk.client_port)), (talk.server_ip, str(talk.server_port)))
            if talk.transport == "tcp" and frozenset(ends) in theirs:
                made += compare(name, talk, theirs[frozenset(ends)])
    return made


CUT = "the trailer with the package and the level is cut off by the snap length: we say nothing, tshark shows none"
EXPLAINED = {
    ("lab/hard-cut.pcap", "RPC authentication"): CUT,
    ("lab/hard-cut.pcap", "RPC protection of calls"): CUT,
    ("lab/domain-join.pcap", "SMB protection"): "sealed RPC inside a signed session: we name the stronger of both",
    ("PcapExamples/pcapng-example.pcapng", "TLS version"): "TLS inside MySQL, a protocol that exflow doesn't read",
    ("Traces/smb/smb2_fscontrol.pcap", "SMB protection"): "a single message: nothing shows that the session signs",
}
"""(end of the capture's name, what) → why tshark and we differ."""


def explanation(each: Compared) -> str:
    return next(
        (why for (name, what), why in EXPLAINED.items() if each.capture.endswith(name) and each.what == what), ""
    )


@pytest.mark.parametrize("name", ["directory", "edge-sync", "mail-transport", "secure-channel"])
def test_pyshark_says_the_same(name: str) -> None:
    path = LABORATORY / f"{name}.pcap"
    assert flows(through_pyshark(path)) == flows(tshark(path)) != {}


def test_table() -> None:
    counts = Counter((each.what, each.agrees) for each in compared())
    print(f"\n{'WHAT':28}{'AGREE':>8}{'DISAGREE':>10}")
    for what in dict.fromkeys(each.what for each in compared()):
        print(f"{what:28}{counts[what, True]:8}{counts[what, False]:10}")
    for each, number in Counter(each for each in compared() if not each.agrees).items():
        print(f"{number} x {each.what}: ours {each.ours}, tshark {each.theirs} in {each.capture}: {explanation(each)}")
    assert sum(counts.values()) > 250


def test_every_disagreement_is_explained() -> None:
    assert [each for each in compared() if not each.agrees and not explanation(each)] == []
