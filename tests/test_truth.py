"""Every real capture, the whole way, against an answer key that other tools made (tshark, impacket, a tower decoder).

What the key says must come out exactly; where it is wrong, that is written down here with the bytes. The captures
are not part of the project (`../shared/captures`): without them nothing here runs, loudly. `-s` prints the counts.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import shared

import classifier
from classifier.assembly import assemble
from classifier.conclusion import Knowledge, conclude
from classifier.result import Result
from classifier.sources import CaptureSet

CAPTURES = shared.FOLDER

pytestmark = [pytest.mark.slow, shared.needed]

Row = dict[str, str]
Talk = dict[str, Any]

EMSMDB = "a4f1db00-ca47-1067-b31f-00dd010662da"
BASE = "real/OISF+suricata-verify/tests/bug-5133/input.pcap"
SMB2_07 = "real/OISF+suricata-verify/tests/smb2-07/20171220_smb_psexec_add_user.pcap"
NEGOTIATE_FLAGS = "real/OISF+suricata-verify/tests/smb2-ntlmssp-negotiateflags/input.pcap"

EXCHANGE = {
    "real/zeek+zeek/testing/btest/Traces/smtp-multi-addr.pcap": "smtp",
    "real/OISF+suricata-verify/tests/smtp-file-data-01/input.pcap": "smtp",
    "real/cisco-system-traffic-generator+trex-core/scripts/avl/_tun_exchange_0_fixed.pcap": "dcerpc",
    "real/cisco-system-traffic-generator+trex-core/scripts/avl/delay_10_exchange_0.pcap": "dcerpc",
    "real/cisco-system-traffic-generator+trex-core/scripts/avl/exchange.pcap": "dcerpc",
    "real/cisco-system-traffic-generator+trex-core/scripts/cap2/exchange.pcap": "dcerpc",
}
"""The captures that hold Exchange, and the protocol of the one conversation in each that is it."""

KEY_IS_WRONG_ABOUT_INTERFACES = {
    # Frame 60 writes the number of results as one big-endian word (00 00 00 01 at octets 28 to 31), so that the octet
    # which counts them (C706 section 12.6.3.1, n_results) is 0: tshark sees no result, and the key takes that for a
    # refusal. Frame 62 is a response on the context: it was accepted.
    ("real/arkime+arkime/tests/pcap/dcerpc_synthetic.pcap", "tcp.8"): {"df1941c5-fe89-4e79-bf10-463657acf44d"},
}

KEY_IS_WRONG_ABOUT_CLIENTS = {
    # DHCPv6, told by "lower port is server": clients listen on 546, servers and relays on 547 (RFC 8415 section 7.2).
    *((SMB2_07, stream) for stream in ("udp.0", "udp.1", "udp.6")),
    *((NEGOTIATE_FLAGS, stream) for stream in ("udp.1", "udp.4", "udp.82")),
    # NetBIOS names, told by "first sender": the only datagram has the response bit set (RFC 1002 section 4.2.1.1).
    (NEGOTIATE_FLAGS, "udp.32"),
}


# ---- reading everything once -----------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came out of one capture."""

    talks: list[Talk]
    endpoints: list[dict[str, Any]]
    damages: int

    def talk(self, row: Row) -> Talk:
        """The conversation of a row of the key."""
        transport, first_frame = row["stream"].partition(".")[0], int(row["first_frame"])
        ends = {(row[f"{side}_ip"], int(row[f"{side}_port"])) for side in ("client", "server")}
        found = [talk for talk in self.talks if (talk["transport"], talk["first_frame"]) == (transport, first_frame)]
        return next(talk for talk in found if set(sides(talk)) == ends)


def sides(talk: Talk) -> tuple[tuple[str, int], tuple[str, int]]:
    return (talk["client_ip"], talk["client_port"]), (talk["server_ip"], talk["server_port"])


class Answers(dict[str, Answer]):
    """Answers by capture, each made when it is first asked for."""

    def __missing__(self, name: str) -> Answer:
        answer = self[name] = answer_of(shared.classified(name))
        return answer


def answer_of(result: Result) -> Answer:
    return Answer([talk.to_dict() for talk in result], result.endpoint_rows, len(result.damages))


@pytest.fixture(scope="session")
def answers() -> Answers:
    return Answers()


def key(name: str) -> list[Row]:
    if not CAPTURES.is_dir():
        return []
    with (CAPTURES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


CATALOGUE, TRUTH = key("catalogue.csv"), key("truth.csv")
RPC = [row for row in TRUTH if row["rpc_transport"]]


def agree(title: str, checked: int, complaints: list[str]) -> None:
    """Print the counts, and fail with every complaint."""
    print(f"\n{title}: {checked - len(complaints)} of {checked} agree")
    assert checked
    assert not complaints, "\n" + "\n".join(complaints)


def where(row: Row) -> str:
    return f"{row['file']} {row['stream']}"


# ---- all files ---------------------------------------------------------------------------------------


@pytest.mark.kernels
def test_every_real_capture_is_read(answers: Answers) -> None:
    """No capture, whatever is in it, ends in an exception; nothing is read that is not in the catalogue."""
    on_disk = {str(path.relative_to(CAPTURES)) for path in (CAPTURES / "real").rglob("*") if path.is_file()}
    assert on_disk == {row["file"] for row in CATALOGUE}
    talks = Counter(talk["absence"] or talk["certainty"] for name in sorted(on_disk) for talk in answers[name].talks)
    damaged = sum(answers[name].damages > 0 for name in on_disk)
    print(f"\n{len(on_disk)} captures, {damaged} of them damaged, {talks.total()} conversations {dict(talks)}")


def test_nothing_else_is_exchange(answers: Answers) -> None:
    """What the catalogue doesn't call Exchange is never certain or strong; what it does is certain."""
    called = {row["file"] for row in CATALOGUE if calls_it_exchange(row)}
    assert called == set(EXCHANGE)
    complaints, checked = [], 0
    for row in CATALOGUE:
        talks = answers[row["file"]].talks
        labelled = [talk for talk in talks if talk["certainty"] in ("certain", "strong")]
        proven = [talk["protocol"] for talk in labelled if talk["certainty"] == "certain"]
        wanted = [EXCHANGE[row["file"]]] if row["file"] in EXCHANGE else []
        if len(labelled) != len(wanted) or proven != wanted:
            complaints.append(f"{row['file']}: {[(talk['id'], talk['data_paths']) for talk in labelled]}")
        checked += len(talks)
    agree("conversations of real captures that are Exchange, or are not", checked, complaints)


def test_all_captures_as_one_set() -> None:
    """Twenty years of strangers' networks at once: no exception, and nothing becomes Exchange by the company it keeps.

    Conversations of captures that hold the same packets become one, so only what is labelled can be counted.
    """
    captures = CaptureSet.of([CAPTURES / "real"])
    result = conclude(captures, assemble(captures), Knowledge(shared.rulebook()))
    labelled = {talk.file.partition("captures/")[2] for talk in result if talk.certainty in ("certain", "strong")}
    assert labelled == set(EXCHANGE)
    mapped = Counter(talk.resolved_by["kind"] for talk in result if talk.resolved_by)
    assert mapped["ept_map"] == sum(row["epm_mapped"] == "yes" for row in TRUTH)
    print(f"\n{len(captures.names)} captures as one set: {len(result)} conversations, resolved {dict(mapped)}")


def test_prefixes_of_a_capture(tmp_path: Path) -> None:
    """Cut anywhere, it gives what its whole records give, and one damage if it was cut inside of one."""
    capture, cutter = (CAPTURES / BASE).read_bytes(), random.Random(4)
    ends = [24]
    while ends[-1] < len(capture):
        ends.append(ends[-1] + 16 + int.from_bytes(capture[ends[-1] + 8 : ends[-1] + 12], "little"))
    part = tmp_path / "part.pcap"
    told = {}
    for end in ends:
        part.write_bytes(capture[:end])
        told[end] = answer_of(classifier.classify(part, jobs=1))
        assert told[end].damages == 0
    for cut in (cutter.randrange(25, len(capture)) for _ in range(200)):
        part.write_bytes(capture[:cut])
        answer, whole = answer_of(classifier.classify(part, jobs=1)), told[max(end for end in ends if end <= cut)]
        assert (answer.talks, answer.endpoints) == (whole.talks, whole.endpoints)
        assert answer.damages == (cut not in ends)


def calls_it_exchange(row: Row) -> bool:
    said = (row["why"] + row["what_it_holds"] + row["right_labels"]).lower()
    return "exchange" in said or "emsmdb" in said


# ---- RPC ----------------------------------------------------------------------------------------------


def test_conversations_of_the_key(answers: Answers) -> None:
    """Each is found with its first frame, and with the client that the key knows."""
    complaints = [
        where(row)
        for row in TRUTH
        if (sides(answers[row["file"]].talk(row))[0] != (row["client_ip"], int(row["client_port"])))
        is not ((row["file"], row["stream"]) in KEY_IS_WRONG_ABOUT_CLIENTS)
    ]
    agree("clients and servers (the key is wrong about 7)", len(TRUTH), complaints)


def test_accepted_interfaces(answers: Answers) -> None:
    complaints = []
    for row in RPC:
        seen = {item["uuid"] for item in answers[row["file"]].talk(row)["rpc_interfaces"] if item["accepted"]}
        wanted = KEY_IS_WRONG_ABOUT_INTERFACES.get((row["file"], row["stream"]), set(row["accepted_uuids"].split()))
        if seen != wanted:
            complaints.append(f"{where(row)}: {seen}, should be {wanted}")
    agree("accepted interfaces of RPC conversations (the key is wrong about 1)", len(RPC), complaints)


def test_mapped_conversations(answers: Answers) -> None:
    """The announcement is the last one before the conversation began, for the interface that was bound."""
    mapped = [row for row in TRUTH if row["epm_mapped"] == "yes"]
    complaints = []
    for row in mapped:
        talk = answers[row["file"]].talk(row)
        frames = [int(frame) for frame in row["epm_map_frames"].split()]
        wanted = max((frame for frame in frames if frame < int(row["first_frame"])), default=min(frames))
        origin = talk["resolved_by"] or {}
        uuids = set(row["accepted_uuids"].split())
        if (origin.get("kind"), origin.get("frame")) != ("ept_map", wanted) or (uuids and origin["uuid"] not in uuids):
            complaints.append(f"{where(row)}: {origin}, should be frame {wanted}")
    agree("mapped conversations", len(mapped), complaints)


def test_unmapped_conversations(answers: Answers) -> None:
    """None claims an endpoint-mapper answer; what resolved some is OXID resolution, which the key doesn't follow."""
    unmapped = [row for row in TRUTH if row["epm_mapped"] != "yes"]
    origins = {where(row): answers[row["file"]].talk(row)["resolved_by"] for row in unmapped}
    complaints = [f"{name}: {said}" for name, said in origins.items() if said and said["kind"] != "oxid"]
    assert sum(said is not None for said in origins.values()) == 2
    agree("conversations that no endpoint mapper handed a port out for (2 by OXID)", len(unmapped), complaints)


def test_authentication(answers: Answers) -> None:
    """The key's words: "SPNEGO(9)/pkt(4) SPNEGO(9)/privacy(6)". What a pipe's transport adds is not in it."""
    complaints = []
    for row in RPC:
        talk = answers[row["file"]].talk(row)
        on_pipe = row["rpc_transport"] == "ncacn_np"
        said, wanted = (talk["authentication"], talk["encryption"]), list(expected_security(row["auth_type_level"]))
        if on_pipe:
            decidable = row["auth_type_level"] != "none seen"
            right = not decidable or said[0] in wanted[0]
        else:
            right = said[0] in wanted[0] and said[1] in wanted[1]
        if not right:
            complaints.append(f"{where(row)}: {said}, should be {row['auth_type_level']}")
    agree("authentication and protection of RPC conversations", len(RPC), complaints)


def expected_security(told: str) -> Iterator[set[str | None]]:
    """Possible words of `authentication` and of `encryption` ([MS-RPCE] 2.2.1.1.7 and 2.2.1.1.8)."""
    if told == "none seen":
        yield from ({"none", None}, {"none", None})
        return
    methods = {"SPNEGO(9)": {"ntlm", "kerberos", "negotiate"}, "NTLMSSP(10)": {"ntlm"}, "NETLOGON(68)": {"netlogon"}}
    pairs = [pair.split("/") for pair in told.split()]
    yield set().union(*(methods[method] for method, _ in pairs))
    level = max(int(level[-2]) for _, level in pairs)
    yield {{5: "rpc-integrity", 6: "rpc-privacy"}.get(level, "none")}


def test_every_answer_of_the_endpoint_mapper(answers: Answers) -> None:
    """Each is an entry under the TCP peer, whatever address the tower holds, first seen in its first frame."""
    told: dict[tuple[str, str, int, str], int] = {}
    for row in key("epm_maps.csv"):
        if row["direction"] == "resp" and row["port"]:
            server = row["epm_server"].rpartition(":")[0]
            told.setdefault((row["file"], server, int(row["port"]), row["uuid"]), int(row["frame"]))
    complaints = []
    for (file, server, port, uuid), frame in told.items():
        rows = [
            entry
            for entry in answers[file].endpoints
            if (entry["server_ip"], entry["transport"], entry["port"], entry["uuid"]) == (server, "tcp", port, uuid)
        ]
        if [entry["frame"] for entry in rows if entry["kind"] == "ept_map"] != [frame]:
            complaints.append(f"{file}: {uuid} on {server}:{port} in frame {frame}")
    agree("endpoint-mapper answers", len(told), complaints)


# ---- handshakes recorded live ------------------------------------------------------------------------

HANDSHAKES = {
    "ept_ndr32_impacket_none": ("none", "none"),
    "ept_ndr32_impacket_connect": ("ntlm", "none"),
    "ept_ndr32_impacket_integrity": ("ntlm", "rpc-integrity"),
    "ept_ndr32_impacket_privacy": ("ntlm", "rpc-privacy"),
    "ept_ndr64_scapy_none": ("none", "none"),
    "ept_ndr64_scapy_privacy": ("ntlm", "rpc-privacy"),
}
TCP_49160_IN_A_TOWER = b"\x01\x00\x07\x02\x00" + (49160).to_bytes(2, "big")
"""Floor 4: one octet, protocol 7 (TCP), two octets, the port in network order (C706 appendix L)."""


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshakes(answers: Answers, name: str) -> None:
    from scapy.utils import RawPcapReader

    mapper, mapi, *again = answers[f"handshakes/{name}.pcap"].talks
    assert [talk["protocol"] for talk in (mapper, mapi, *again)] == ["epm", "dcerpc", *["epm"] * len(again)]
    assert (mapi["server_ip"], mapi["server_port"]) == ("10.20.0.21", 49160)
    assert {item["uuid"] for item in mapi["rpc_interfaces"] if item["accepted"]} == {EMSMDB}
    assert mapi["certainty"] == "certain"
    assert (mapi["authentication"], mapi["encryption"]) == HANDSHAKES[name]
    origin = mapi["resolved_by"]
    assert (origin["kind"], origin["uuid"], origin["conversation"]) == ("ept_map", EMSMDB, mapper["id"])
    with RawPcapReader(str(CAPTURES / "handshakes" / f"{name}.pcap")) as packets:
        announcing = [frame for frame, (data, _) in enumerate(packets, 1) if TCP_49160_IN_A_TOWER in data]
    assert origin["frame"] in announcing


def test_handshake_in_a_pipe(answers: Answers) -> None:
    (talk,) = answers["handshakes/smb2_pipe_srvsvc.pcap"].talks
    assert (talk["protocol"], talk["server_port"], talk["absence"]) == ("smb", 445, "not-exchange")
    assert [(item["name"], item["accepted"]) for item in talk["rpc_interfaces"]] == [("srvsvc", True)]


# ---- one capture in many envelopes ---------------------------------------------------------------------

SEEN = ("transport", "client_port", "server_port", "protocol", "data_paths", "certainty", "absence", "authentication")


def picture(talk: Talk) -> dict[str, Any]:
    """What an envelope must not change: everything but frames, counts and the envelope itself."""
    seen = {name: talk[name] for name in (*SEEN, "encryption", "client_ip", "server_ip")}
    origin = talk["resolved_by"] or {}
    interfaces = [(item["uuid"], item["version"], item["accepted"]) for item in talk["rpc_interfaces"]]
    return seen | {"origin": (origin.get("kind"), origin.get("uuid")), "interfaces": interfaces}


def in_ipv6(seen: dict[str, Any]) -> dict[str, Any]:
    """a.b.c.d as 2001:db8::a.b.c.d (RFC 5952 writes it in hexadecimal)."""
    return seen | {"client_ip": "2001:db8::ac10:4201", "server_ip": "2001:db8::ac10:4224"}


def without_announcement(seen: dict[str, Any]) -> dict[str, Any]:
    return seen | {"origin": (None, None)}


CHANGED = {
    "ipv6": in_ipv6,
    "ipv6-hbh": in_ipv6,
    "epm-answer-lost": without_announcement,
    "no-epm": without_announcement,
}
"""Variants that change the picture, and how."""

HALVES = {"snap68", "snap96", "oneway-from-low-port", "oneway-to-low-port"}
"""Variants that take evidence away; each has a test of its own."""

WRAPPED = {row["variant"]: row for row in key("wrapped.csv")}


def test_base_of_the_envelopes(answers: Answers) -> None:
    talks = answers[BASE].talks
    assert {row["base"] for row in WRAPPED.values()} == {BASE}
    assert [(talk["server_port"], talk["protocol"]) for talk in talks] == [
        (135, "epm"),
        (49683, "dcerpc"),
        (445, "smb"),
    ]
    assert (talks[1]["resolved_by"]["kind"], talks[1]["resolved_by"]["frame"]) == ("ept_map", 4)


@pytest.mark.parametrize("variant", sorted(set(WRAPPED) - HALVES))
def test_envelopes(answers: Answers, variant: str) -> None:
    answer, base = answers[WRAPPED[variant]["file"]], answers[BASE]
    held = [talk for talk in base.talks if variant != "no-epm" or talk["server_port"] != 135]
    change = CHANGED.get(variant, dict)
    assert by_port(map(picture, answer.talks)) == by_port(change(picture(talk)) for talk in held)
    assert answer.damages == (variant == "cut-tail")


def by_port(pictures: Any) -> list[dict[str, Any]]:
    return sorted(pictures, key=lambda seen: seen["server_port"])


@pytest.mark.parametrize("variant", ["snap68", "snap96"])
def test_short_snap_lengths(answers: Answers, variant: str) -> None:
    """UUIDs and ports are not among the captured bytes: nothing may be said of them, and it's said why."""
    answer = answers[WRAPPED[variant]["file"]]
    assert [talk["server_port"] for talk in answer.talks] == [135, 49683, 445]
    assert not answer.endpoints
    assert not any(talk["rpc_interfaces"] or talk["resolved_by"] or talk["certainty"] for talk in answer.talks)
    assert [talk["absence"] for talk in answer.talks[:2]] == ["truncated", "truncated"]
    assert answer.damages == 0


def test_only_what_servers_said(answers: Answers) -> None:
    """The mapper's answer is there, so the port is known; the accepted interface has no name without its bind."""
    talks = {talk["server_port"]: talk for talk in answers[WRAPPED["oneway-from-low-port"]["file"]].talks}
    assert set(talks) == {135, 49683, 445}
    assert talks[49683]["resolved_by"]["kind"] == "ept_map"
    assert not any(item["accepted"] for talk in talks.values() for item in talk["rpc_interfaces"])
    assert not any(talk["certainty"] for talk in talks.values())


def test_only_what_clients_said(answers: Answers) -> None:
    """What was bound is known, not whether it was accepted; no answer of the mapper, so nothing is resolved."""
    answer = answers[WRAPPED["oneway-to-low-port"]["file"]]
    talks = {talk["server_port"]: talk for talk in answer.talks}
    assert [item["accepted"] for item in talks[49683]["rpc_interfaces"]] == [None]
    assert not answer.endpoints
    assert not any(talk["certainty"] or talk["resolved_by"] for talk in talks.values())


def test_envelopes_are_all_tested() -> None:
    print(f"\nenvelopes: {len(WRAPPED)}, of which {len(set(CHANGED) | HALVES)} with a picture of their own")
    assert len(WRAPPED) == 45
    assert set(CHANGED) | HALVES <= set(WRAPPED)
