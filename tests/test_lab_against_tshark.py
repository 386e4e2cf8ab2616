"""RPC in the laboratory's captures: what tshark (through pyshark) and exflow say, beside each other.

Compared are the interfaces that are bound, the ports that endpoint mappers hand out, type and level of authentication.
tshark is told which ports are RPC by the laboratory's truth, nothing else. Each disagreement is explained in EXPLAINED,
and one that isn't there fails; so does a capture in which something is true and neither of both was compared.
`pytest -s -n0 tests/test_lab_against_tshark.py -k table` prints agreements and disagreements.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyshark
import pytest
from test_lab import INDEX, LAB, classified, every_capture

import classifier

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed: no independent reader")

KINDS = ("interface", "port mapped", "authentication", "level")
PACKAGES = {"0": "none", "10": "ntlm", "16": "kerberos", "68": "netlogon"}
"""Security packages by number; 9 is SPNEGO, whose token says which of both."""
PROTECTIONS = {"": "none", "1": "none", "2": "none", "5": "rpc-integrity", "6": "rpc-privacy"}
SESSIONS = {"smb-sign", "smb3"}
Ends = tuple[str, int, str, int]


@dataclass(frozen=True)
class Compared:
    """where: the two ends of a conversation, or who mapped what."""

    capture: str
    what: str
    where: tuple[Any, ...]
    ours: str
    theirs: str

    @property
    def agrees(self) -> bool:
        return self.ours == self.theirs


EXPLAINED = {
    ("hard-one-way.pcap", "port mapped"): "the mapper's bind is on the other way: tshark leaves the answer alone",
}
"""(capture, what) → why tshark and we differ."""

NOT_COMPARED = {
    "hard-middle.pcap": "the binds were before the capture (test_protection_against_tshark compares the calls)",
    "hard-cut.pcap": "the snap length cuts off the interface, the answers of the mapper, and the trailers",
}
"""Captures with RPC in them, of which tshark and we tell nothing that is compared here."""


# ---- tshark ----------------------------------------------------------------------------------------


@functools.cache
def dissected(file: str) -> list[Any]:
    """Binds, mappers' answers and SMB logins of a capture, as pyshark packets."""
    entry = next(entry for entry in INDEX if entry["file"] == file)
    ports = {truth["server"][1] for truth in entry["conversation"] if truth["protocol"] in ("dcerpc", "epm")}
    loop = asyncio.new_event_loop()
    capture = pyshark.FileCapture(
        str(LAB / file), eventloop=loop, decode_as={f"tcp.port=={port}": "dcerpc" for port in ports},
        display_filter="dcerpc.pkt_type in {11, 14} || (epm && tcp.srcport == 135) || "
        "(smb2.cmd == 1 && smb2.flags.response == 0)",
    )  # fmt: skip
    try:
        capture.load_packets()
        return list(capture)
    finally:
        capture.close()
        loop.close()


def values(layer: Any, field: str) -> list[str]:
    """All values of a field of a layer, those of protocols inside it too."""
    found = layer._all_fields.get(field)
    return [str(item.show) for item in found.all_fields] if found is not None else []


def first(layer: Any, field: str) -> str:
    return (values(layer, field) or [""])[0]


def ends(packet: Any) -> Ends:
    """Sender and receiver, of the innermost headers: address and port."""
    network = next(layer for layer in reversed(packet.layers) if layer.layer_name in ("ip", "ipv6"))
    segment = next(layer for layer in reversed(packet.layers) if layer.layer_name == "tcp")
    return str(network.src), int(segment.srcport), str(network.dst), int(segment.dstport)


def layers(entry: dict[str, Any], name: str) -> Iterator[tuple[Ends, Any]]:
    """Layers of this name, with the ends of their packets."""
    for packet in dissected(entry["file"]):
        yield from ((ends(packet), layer) for layer in packet.layers if layer.layer_name == name)


def mechanism(layer: Any) -> str:
    """Whose tokens are inside."""
    inside = [word for word in ("kerberos", "ntlmssp") if any(key.startswith(word) for key in layer._all_fields)]
    return "".join(inside).removesuffix("ssp")


@dataclass
class Told:
    """What tshark says of one conversation; level: the highest that a bind asks for; kind: its security package."""

    interfaces: set[str]
    authentication: str = "none"
    kind: str = ""
    level: str = ""


def told(entry: dict[str, Any]) -> dict[Ends, Told]:
    """Interfaces, authentication and level by conversation; on a pipe the session may be what protects."""
    found: dict[Ends, Told] = {}
    for key, layer in layers(entry, "dcerpc"):
        if first(layer, "dcerpc.pkt_type") not in ("11", "14") or not values(layer, "dcerpc.cn_bind_to_uuid"):
            continue
        talk = found.setdefault(key, Told(set()))
        talk.interfaces |= set(values(layer, "dcerpc.cn_bind_to_uuid"))
        level = first(layer, "dcerpc.auth_level")
        if level >= talk.level:
            talk.level, talk.kind = level, first(layer, "dcerpc.auth_type")
            talk.authentication = PACKAGES.get(talk.kind or "0") or mechanism(layer)
    return found


def logins(entry: dict[str, Any]) -> dict[Ends, str]:
    """Authentication of SMB sessions."""
    return {key: mechanism(layer) for key, layer in layers(entry, "smb2") if first(layer, "smb2.cmd") == "1"}


def mapped(entry: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Server, interface and port of each answer to ept_map; ports alone of what ept_lookup lists."""
    found = set()
    for (server, *_), layer in layers(entry, "epm"):
        ports = values(layer, "epm.proto.tcp_port")
        if first(layer, "epm.opnum") == "3":
            found |= {(server, first(layer, "epm.uuid"), port) for port in ports}
        else:
            found |= {(server, "listed", port) for port in (*ports, *values(layer, "epm.proto.http_port"))}
    return found


# ---- beside ours -----------------------------------------------------------------------------------


def number(talk: classifier.Conversation, field: str, theirs: str) -> str:
    """The number that the evidence of a label names; where there is no label, only the word for it is compared."""
    said = next((fact["value"] for fact in talk.evidence if fact["field"] == field), "")
    return said if talk.certainty else theirs


def handed_out(answers: classifier.Result) -> set[tuple[str, str, str]]:
    """What exflow learned from endpoint mappers, as `mapped` has it."""
    rows = answers.endpoints().to_dict("records")
    return {
        (row["server_ip"], row["uuid"] if row["kind"] == "ept_map" else "listed", str(row["port"]))
        for row in rows if row["kind"] in ("ept_map", "ept_lookup") and row["transport"] == "tcp"
    }  # fmt: skip


def beside(entry: dict[str, Any], answers: classifier.Result) -> Iterator[Compared]:
    """Everything that one of both says, beside what the other says."""
    file, theirs, sessions = entry["file"], told(entry), logins(entry)
    ours = {(talk.client_ip, talk.client_port, talk.server_ip, talk.server_port): talk for talk in answers}
    for key in sorted({*theirs, *(key for key, talk in ours.items() if talk.rpc_interfaces)}):
        seen, talk = theirs.get(key, Told(set(), "")), ours[key]
        uuids = {item["uuid"] for item in talk.rpc_interfaces}
        for uuid in sorted(seen.interfaces | uuids):
            yield Compared(file, "interface", key, uuid * (uuid in uuids), uuid * (uuid in seen.interfaces))
        level, word = number(talk, "rpc.auth-level", seen.level), PROTECTIONS[seen.level]
        if key in sessions and word == "none" and talk.encryption in SESSIONS:
            word = talk.encryption  # the session's, which test_protection_against_tshark compares
        yield Compared(file, "level", key, f"{level} {talk.encryption}", f"{seen.level} {word}")
        kind, word = number(talk, "rpc.auth-type", seen.kind), sessions.get(key, seen.authentication)
        yield Compared(file, "authentication", key, f"{kind} {talk.authentication}", f"{seen.kind} {word}")
    for key in sorted(set(sessions) - set(theirs)):
        yield Compared(file, "authentication", key, str(ours[key].authentication), sessions[key])
    learned, answered = handed_out(answers), mapped(entry)
    for item in sorted(learned | answered):
        yield Compared(file, "port mapped", item, item[2] * (item in learned), item[2] * (item in answered))


@functools.cache
def compared(file: str) -> tuple[Compared, ...]:
    entry = next(entry for entry in INDEX if entry["file"] == file)
    return tuple(beside(entry, classified(entry)))


def explanation(each: Compared) -> str:
    return EXPLAINED.get((each.capture, each.what), "")


@every_capture
def test_every_disagreement_is_explained(entry: dict[str, Any]) -> None:
    assert [each for each in compared(entry["file"]) if not each.agrees and not explanation(each)] == []


@every_capture
def test_all_that_is_true_was_compared(entry: dict[str, Any]) -> None:
    """Each conversation in which an interface was bound, and each port that was announced and used."""
    if entry["file"] in NOT_COMPARED:
        assert not compared(entry["file"]), "tshark or exflow read it now"
        return
    seen = {(each.what, each.where) for each in compared(entry["file"])}
    for truth in entry["conversation"]:
        if truth["protocol"] not in ("dcerpc", "epm") or "hidden" in truth:
            continue
        key = (*truth["client"], *truth["server"])
        assert {kind for kind in KINDS if (kind, key) in seen} == {"interface", "authentication", "level"}
        if truth.get("resolved_by", {}).get("kind") == "ept_map":
            [uuid] = (item["uuid"] for item in truth["rpc_interfaces"] if item["accepted"])
            assert ("port mapped", (truth["server"][0], uuid, str(truth["server"][1]))) in seen


class Other:
    """A conversation of which one thing is said otherwise."""

    def __init__(self, talk: classifier.Conversation, **changed: object) -> None:
        self.talk = talk
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> object:
        return getattr(self.talk, name)


class Answers(list[Any]):
    """A result of which one conversation, or the endpoint map, is said otherwise."""

    def __init__(self, result: classifier.Result, number: int, endpoints: bool, **changed: object) -> None:
        super().__init__(Other(talk, **changed) if place == number else talk for place, talk in enumerate(result))
        self.frame = result.endpoints()
        if endpoints:
            self.frame["port"] += 1

    def endpoints(self) -> object:
        return self.frame


CHANGES: dict[str, dict[str, Any]] = {
    "interface": {"rpc_interfaces": []},
    "port mapped": {"endpoints": True},
    "authentication": {"authentication": "kerberos"},
    "level": {"encryption": "rpc-integrity"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_of_each_kind_is_seen(kind: str) -> None:
    entry = next(entry for entry in INDEX if entry["file"] == "rpc-restart.pcap")
    answers = classified(entry)
    number = next(place for place, talk in enumerate(answers) if talk.encryption == "rpc-privacy")
    other = Answers(answers, number, **{"endpoints": False, **CHANGES[kind]})
    assert {each.what for each in beside(entry, other) if not each.agrees} == {kind}


def test_table() -> None:
    found = [each for entry in INDEX for each in compared(entry["file"])]
    counts = Counter((each.what, each.agrees) for each in found)
    print(f"\n{'WHAT':16}{'AGREE':>7}{'DISAGREE':>10}{'CAPTURES':>10}")
    for kind in KINDS:
        captures = len({each.capture for each in found if each.what == kind})
        print(f"{kind:16}{counts[kind, True]:7}{counts[kind, False]:10}{captures:10}")
    for each in found:
        if not each.agrees:
            print(f"{each.capture}, {each.what}, {each.where}: ours {each.ours!r}, tshark {each.theirs!r}: "
                  f"{explanation(each)}")  # fmt: skip
    for capture, why in NOT_COMPARED.items():
        print(f"{capture}: nothing is compared: {why}")
    assert all(counts[kind, True] > 50 for kind in KINDS)


# ---- requests inside TLS ---------------------------------------------------------------------------


def requests(entry: dict[str, Any], verb: str, target: str) -> list[tuple[str, int, str]]:
    """Client's address and port and the request, of frames that have these two fields."""
    words = ["tshark", "-n", "-r", str(LAB / entry["file"]), "-Y", verb, "-T", "fields"]
    words += ["-o", f"tls.keylog_file:{LAB / entry['keylog']}"]
    words += [word for field in ("ip.src", "tcp.srcport", verb, target) for word in ("-e", field)]
    run = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"})
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    return [(source, int(port), f"{method} {uri}") for source, port, method, uri in rows]


with_keys = pytest.mark.parametrize(
    "entry", [entry for entry in INDEX if "keylog" in entry], ids=lambda entry: entry["file"]
)


@with_keys
def test_tshark_reads_the_requests_with_the_keys_that_clients_kept(entry: dict[str, Any]) -> None:
    theirs = requests(entry, "http.request.method", "http.request.uri")
    theirs += requests(entry, "http2.headers.method", "http2.headers.path")
    assert set(theirs) == {(*truth["client"], truth["note"]) for truth in entry["conversation"] if "note" in truth}
