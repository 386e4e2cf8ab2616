"""Twins: a capture and the same one as a mirror port shows it, wrapped or doubled, say the same of each conversation;
so does one whose conversations run beside each other otherwise, and one that several cores read.

scapy writes the envelopes, so that the product's idea of them is not tested against itself.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import shared
from scapy.contrib.erspan import ERSPAN_I, ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter, RawPcapReader, checksum
from test_pipeline import run

import classifier
from classifier import inspection
from classifier.records import write_jsonl
from classifier.result import Result

SHIPPED = Path(__file__).parents[1] / "captures"

BASES = ("ticket-49734.pcapng", "rpc-ipv6.pcap", "format-ipv4-fragments.pcap", "rpc-hole.pcap",
         "foreign-windows-logon.pcap", "row-um-to-cas-play-on-phone.pcap", "mail-foreign.pcap")  # fmt: skip
"""RPC with its endpoint mapper, IPv6, fragments, gaps, UDP, media, TLS."""

REAL = "real/OISF+suricata-verify/tests/smb2-ntlmssp-negotiateflags/input.pcap"
"""A small domain for some minutes: logon, files, names, web; its first packets."""
FIRST = 400

Frame = tuple[int, bytes]
"""Microseconds and the bytes of an Ethernet frame."""


@cache
def frames(name: str) -> tuple[Frame, ...]:
    """The IP packets of a shipped capture, by its name, or of a real one, by its path."""
    found = []
    path = shared.FOLDER / name if "/" in name else next(SHIPPED.rglob(name))
    with RawPcapReader(str(path)) as reader:
        for data, about in reader:
            if hasattr(about, "sec"):
                time = about.sec * 1_000_000 + about.usec
            else:
                time = (about.tshigh << 32 | about.tslow) * 1_000_000 // int(about.tsresol)
            if data[12:14] in (b"\x08\x00", b"\x86\xdd"):
                found.append((time, data))
    return tuple(found)


def write(path: Path, packets: Iterable[Frame]) -> Path:
    with PcapWriter(str(path), linktype=1) as writer:
        writer.write_header(None)
        for time, data in packets:
            writer.write_packet(data, sec=time // 1_000_000, usec=time % 1_000_000)
    return path


BESIDES = {"file", "vlan", "tunnel", "bytes_to_server", "bytes_to_client", "duplicate_packets"}
"""What a mirror port may change."""


def told(value: Any) -> Any:
    """Everything that is said, but for those."""
    if isinstance(value, dict):
        return {name: told(each) for name, each in value.items() if name not in BESIDES}
    return [told(each) for each in value] if isinstance(value, list) else value


def records(result: Result) -> list[dict[str, Any]]:
    out = BytesIO()
    write_jsonl(result.table, out)
    assert result.damages == ()
    return list(map(json.loads, out.getvalue().splitlines()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("plain")
    return records(classifier.classify(*[write(folder / name, frames(name)) for name in BASES]))


# ---- envelopes -----------------------------------------------------------------------------------------------------

OUTER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FOUR = OUTER / IP(src="198.51.100.1", dst="198.51.100.2")
SIX = OUTER / IPv6(src="2001:db8::1", dst="2001:db8::2")


def around(head: Packet, content: bytes) -> bytes:
    """The head with this in it, as `/` does it, which would copy both."""
    made = head.copy()
    made.lastlayer().add_payload(Raw(content))
    for layer in made.iterpayloads():
        layer.explicit = 1  # one packet and no set of them: nothing to enumerate
    return bytes(made)


def whole(head: Packet) -> Callable[[bytes], bytes]:
    """Around the frame."""
    return lambda frame: around(head, frame)


def packet(four: Packet, six: Packet) -> Callable[[bytes], bytes]:
    """Around the IP packet, by its version."""
    return lambda frame: around(four if frame[12] == 8 else six, frame[14:])


def tagged(*tags: Packet) -> Callable[[bytes], bytes]:
    """Tags behind the MAC addresses."""

    def wrap(frame: bytes) -> bytes:
        head: Packet = Ether(frame[:14])
        inner, head.type = head.type, tags[0].outer
        for number, tag in enumerate(tags):
            head = head / tag.tag.copy()
            head.lastlayer().type = tags[number + 1].outer if number + 1 < len(tags) else inner
        return around(head, frame[14:])

    return wrap


class Tag:
    """A tag and the EtherType that announces it."""

    def __init__(self, outer: int, tag: Packet) -> None:
        self.outer, self.tag = outer, tag


def udp(port: int, head: Packet, outer: Packet = FOUR) -> Callable[[bytes], bytes]:
    """scapy's ports of tunnels must not guess what is in them."""
    return whole(outer / UDP(sport=50_123, dport=port) / head)


def then(*wraps: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The first one innermost."""

    def wrap(frame: bytes) -> bytes:
        for each in wraps:
            frame = each(frame)
        return frame

    return wrap


def in_ip(frame: bytes) -> bytes:
    """IP in IP (RFC 2003), 6in4 (RFC 4213)."""
    outer = FOUR.copy()
    outer[IP].proto = 4 if frame[12] == 8 else 41
    return around(outer, frame[14:])


def in_six(frame: bytes) -> bytes:
    """The same in IPv6 (RFC 2473)."""
    outer = SIX.copy()
    outer[IPv6].nh = 4 if frame[12] == 8 else 41
    return around(outer, frame[14:])


def gtp(frame: bytes) -> bytes:
    """GTP-U (3GPP TS 29.281 section 5.1); its length counts what follows the eight octets."""
    head = GTP_U_Header(teid=5, gtp_type=255, length=len(frame) - 14)
    return around(FOUR / UDP(sport=2152, dport=2152) / head, frame[14:])


VLAN = tagged(Tag(0x8100, Dot1Q(vlan=10)))
QINQ = tagged(Tag(0x88A8, Dot1AD(vlan=200)), Tag(0x8100, Dot1Q(vlan=10)))
OLD_QINQ = tagged(Tag(0x9100, Dot1Q(vlan=200)), Tag(0x8100, Dot1Q(vlan=10)))
LABELS = MPLS(label=16, s=0) / MPLS(label=17, s=1)
VXLAN_42 = udp(4789, VXLAN(vni=42, flags=8))
GENEVE_7 = udp(6081, GENEVE(vni=7, proto=0x6558))
ERSPAN2 = whole(FOUR / GRE(proto=0x88BE, seqnum_present=1, sequence_number=7) / ERSPAN_II(session_id=5))

ENVELOPES: dict[str, tuple[Callable[[bytes], bytes], list[int], list[str]]] = {
    "802.1Q": (VLAN, [10], []),
    "QinQ": (QINQ, [200, 10], []),
    "QinQ 9100": (OLD_QINQ, [200, 10], []),
    "MPLS": (packet(OUTER / LABELS, OUTER / LABELS), [], ["mpls:16", "mpls:17"]),
    "MPLS pseudowire": (whole(OUTER / LABELS / Raw(bytes(4))), [], ["mpls:16", "mpls:17"]),
    "PPPoE": (packet(OUTER / PPPoE(sessionid=9) / PPP(proto=0x21), OUTER / PPPoE(sessionid=9) / PPP(proto=0x57)), [],
              ["pppoe"]),
    "GRE": (packet(FOUR / GRE(proto=0x800), FOUR / GRE(proto=0x86DD)), [], ["gre"]),
    "GRE with key and sum": (
        packet(FOUR / GRE(proto=0x800, key_present=1, key=3, chksum_present=1),
               SIX / GRE(proto=0x86DD, key_present=1, key=3, chksum_present=1)), [], ["gre"]),
    "TEB": (whole(FOUR / GRE(proto=0x6558)), [], ["gre"]),
    "ERSPAN I": (whole(FOUR / GRE(proto=0x88BE) / ERSPAN_I()), [], ["erspan1"]),
    "ERSPAN II": (ERSPAN2, [], ["erspan2"]),
    "ERSPAN III": (whole(FOUR / GRE(proto=0x22EB, seqnum_present=1) / ERSPAN_III(session_id=5)), [], ["erspan3"]),
    "VXLAN": (VXLAN_42, [], ["vxlan:42"]),
    "VXLAN over IPv6": (udp(4789, VXLAN(vni=42, flags=8), SIX), [], ["vxlan:42"]),
    "GENEVE": (GENEVE_7, [], ["geneve:7"]),
    "IP in IP": (in_ip, [], ["ipip"]),
    "IP in IPv6": (in_six, [], ["4in6"]),
    "GTP-U": (gtp, [], ["gtp-u:5"]),
    "QinQ in VXLAN in ERSPAN in a tag": (then(QINQ, VXLAN_42, ERSPAN2, VLAN), [10, 200, 10], ["erspan2", "vxlan:42"]),
    "pseudowire without control word": (whole(OUTER / LABELS), [], ["mpls:16", "mpls:17"]),
    "as many as are listed": (then(VLAN, VXLAN_42, QINQ, GENEVE_7, VLAN, ERSPAN2, VLAN), [10, 10, 200, 10, 10],
                              ["erspan2", "geneve:7", "vxlan:42"]),
    "five tunnels": (then(VXLAN_42, GENEVE_7, VXLAN_42, ERSPAN2, GENEVE_7), [],
                     ["geneve:7", "erspan2", "vxlan:42", "geneve:7", "vxlan:42"]),
}  # fmt: skip


OF_VERSION = {"IP in IP": [["6in4"]], "IP in IPv6": [["6in6"]]}
"""Names of the same around IPv6."""


@pytest.mark.parametrize("name", ENVELOPES)
def test_a_wrapped_twin_gives_the_same_conversations_and_labels(
    name: str, plain: list[dict[str, Any]], tmp_path: Path
) -> None:
    wrap, vlans, tunnels = ENVELOPES[name]
    wrapped = [write(tmp_path / base, ((time, wrap(frame)) for time, frame in frames(base))) for base in BASES]
    found = records(classifier.classify(*wrapped))
    assert told(found) == told(plain)
    assert {tuple(each["vlan"]) for each in found} == {tuple(vlans)}
    assert {tuple(each["tunnel"]) for each in found} <= {tuple(tunnels), *map(tuple, OF_VERSION.get(name, ()))}
    for one, two in zip(plain, found, strict=True):
        for side in ("server", "client"):
            count, before, behind = one[f"packets_to_{side}"], one[f"bytes_to_{side}"], two[f"bytes_to_{side}"]
            assert behind >= before
            assert (behind > before) == (count > 0)


@cache
def plain_real() -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        return records(classifier.classify(write(Path(folder) / "real.pcap", frames(REAL)[:FIRST]), jobs=1))


@shared.needed
@pytest.mark.parametrize("name", ENVELOPES)
def test_so_does_a_real_network(name: str, tmp_path: Path) -> None:
    wrapped = write(tmp_path / "real.pcap", ((time, ENVELOPES[name][0](frame)) for time, frame in frames(REAL)[:FIRST]))
    found = records(classifier.classify(wrapped, jobs=1))
    assert len(found) > 50
    assert told(found) == told(plain_real())


# ---- copies --------------------------------------------------------------------------------------------------------


def routed(frame: bytes) -> bytes:
    """As it leaves a router: other MAC addresses, and one hop less to go."""
    changed = bytearray(b"\x02\0\0\0\0\x0a\x02\0\0\0\0\x0b" + frame[12:])
    if frame[12] == 8:
        changed[22] = (changed[22] - 1) % 256
        changed[24:26] = bytes(2)
        changed[24:26] = checksum(bytes(changed[14 : 14 + 4 * (changed[14] & 15)])).to_bytes(2, "big")
    else:
        changed[21] = (changed[21] - 1) % 256
    return bytes(changed)


COPIES: dict[str, Callable[[bytes], list[bytes]]] = {
    "twice": lambda frame: [frame, frame],
    "three times": lambda frame: [frame] * 3,
    "before and behind a router": lambda frame: [frame, routed(frame)],
    "in two VLANs": lambda frame: [VLAN(frame), tagged(Tag(0x8100, Dot1Q(vlan=20)))(routed(frame))],
    "plain and in a tunnel": lambda frame: [frame, VXLAN_42(routed(frame))],
}


def copied(name: str, copy: Callable[[bytes], list[bytes]], gap: int) -> list[Frame]:
    """gap: microseconds to the last copy."""
    later = [
        (time + number * gap // (len(pieces) - 1), piece)
        for time, pieces in ((time, copy(frame)) for time, frame in frames(name))
        for number, piece in enumerate(pieces)
    ]
    return sorted(later, key=lambda each: each[0])


COUNTED = {"first_frame", "last_frame", "frame", "end", "start"}


def without_frames(value: Any) -> Any:
    """Copies push frame numbers, and the last copy may be the end."""
    if isinstance(value, dict):
        return {name: without_frames(each) for name, each in value.items() if name not in COUNTED}
    return list(map(without_frames, value)) if isinstance(value, list) else value


@pytest.mark.parametrize("gap", [0, 7, 900, 9000])
@pytest.mark.parametrize("name", COPIES)
def test_a_duplicated_capture_gives_the_counts_of_the_original(
    name: str, gap: int, plain: list[dict[str, Any]], tmp_path: Path
) -> None:
    copies = len(COPIES[name](frames(BASES[0])[0][1]))
    found = records(classifier.classify(*[write(tmp_path / base, copied(base, COPIES[name], gap)) for base in BASES]))
    assert without_frames(told(found)) == without_frames(told(plain))
    for one, two in zip(plain, found, strict=True):
        assert packets(two) == copies * packets(one)
        if name == "twice":
            assert [two[f"bytes_to_{side}"] for side in ("server", "client")] == [
                one[f"bytes_to_{side}"] for side in ("server", "client")
            ]


def packets(talk: dict[str, Any]) -> int:
    """All frames of a conversation, copies too."""
    return int(talk["packets_to_server"] + talk["packets_to_client"] + talk["duplicate_packets"])


# ---- order ---------------------------------------------------------------------------------------------------------

TOLD_BY_TIME = {
    "hard-loss.pcap": "which of two equal packets is the mirror's copy of the other",
    "hard-order.pcap": "the same",
    "hard-twice.pcap": "the same",
    "rpc-restart.pcap": "on which port the service was before its restart",
    "rpc-service-restart.pcap": "the same",
}
"""Captures that say something else when their packets come at other times, and what that is."""


def ends(frame: bytes) -> tuple[Any, ...]:
    """What a packet's order must be kept within: its conversation; for fragments and others, all of the two hosts."""
    ip = frame[14:]
    if frame[12] == 8:
        size, protocol, addresses = 4 * (ip[0] & 15), ip[9], (ip[12:16], ip[16:20])
        whole = not int.from_bytes(ip[6:8], "big") & 0x3FFF
    else:
        size, protocol, addresses, whole = 40, ip[6], (ip[8:24], ip[24:40]), True
    ports = (ip[size : size + 2], ip[size + 2 : size + 4]) if whole and protocol in (6, 17) else (b"", b"")
    return protocol, frozenset(zip(addresses, ports, strict=True))


def interleaved(packets: list[Frame], chance: random.Random) -> list[Frame]:
    """The packets of each conversation in their order, among those of the others at random, at the times of all."""
    talks: dict[Any, list[bytes]] = defaultdict(list)
    for _, frame in packets:
        talks[ends(frame)].append(frame)
    turns = [talk for talk, said in talks.items() for _ in said]
    chance.shuffle(turns)
    following = {talk: iter(said) for talk, said in talks.items()}
    return [(time, next(following[talk])) for (time, _), talk in zip(packets, turns, strict=True)]


PLACES = COUNTED | {"id", "conversation", "file"}


def without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_places(each) for name, each in value.items() if name not in PLACES}
    return list(map(without_places, value)) if isinstance(value, list) else value


def whole_answer(result: Result) -> list[list[str]]:
    """Every word of all records, and what is said of all hosts, but for where and when it was."""
    return [sorted(json.dumps(without_places(row), sort_keys=True, default=str) for row in rows)
            for rows in (records(result), result.host_rows)]  # fmt: skip


def in_ethernet(path: Path) -> bool:
    """Whether it is a capture of whole frames without tags."""
    with RawPcapReader(str(path)) as reader:
        return getattr(reader, "linktype", 1) == 1 and path.stem not in (
            "format-cut-short", "format-pcapng-simple-packets", "format-qinq", "format-vlan", "hard-vlan",
        )  # fmt: skip


CAPTURES = sorted(path for path in SHIPPED.rglob("*.pcap*") if in_ethernet(path))


def test_there_are_many_to_read_in_another_order() -> None:
    assert len(CAPTURES) > 190
    assert {path.name for path in CAPTURES} >= TOLD_BY_TIME.keys()


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_the_order_of_packets_between_conversations_changes_nothing(path: Path, tmp_path: Path) -> None:
    packets = frames(path.name)
    plain = whole_answer(run(write(tmp_path / "plain.pcap", packets), known=path))
    mixed = [
        whole_answer(run(write(tmp_path / "mixed.pcap", interleaved(packets, random.Random(seed))), known=path))
        for seed in (1, 2)
    ]
    assert (mixed == [plain, plain]) is (path.name not in TOLD_BY_TIME)


# ---- cores ---------------------------------------------------------------------------------------------------------


def everything(jobs: int) -> list[str]:
    """All that is said of all shipped captures, as one capture set."""
    result = classifier.classify(SHIPPED, SHIPPED / "lab", jobs=jobs)
    out = BytesIO()
    write_jsonl(result.table, out)
    rows = [*result.host_rows, *result.endpoint_rows, *map(result.finding_table.row, range(len(result.finding_table)))]
    return [*out.getvalue().decode().splitlines(), *(json.dumps(row, default=str) for row in rows)]


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they really share the work: processes are called at once, and few conversations are worth a thread."""
    alone = everything(1)
    assert len(alone) > 1500
    monkeypatch.setattr(inspection, "MANY_DIALOGUES", 1)
    monkeypatch.setattr(inspection, "SMALL", 16)
    for jobs in (1, 2, 4):
        assert everything(jobs) == alone


@pytest.mark.parametrize("command", ["classify", "audit"])
def test_jobs_change_no_byte_of_the_output(command: str) -> None:
    call = [sys.executable, "-c", "from classifier.cli import main; main()", command, str(SHIPPED), "--format", "jsonl"]
    runs = [subprocess.run([*call, "--jobs", jobs], capture_output=True, check=False) for jobs in "124"]
    assert len(runs[0].stdout) > 100_000
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    assert runs[0].stderr == runs[1].stderr == runs[2].stderr
