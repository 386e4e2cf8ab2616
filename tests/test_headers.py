"""Whatever a mirror port wraps around it, the innermost segment is found; bytes of strangers harm nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import GRE, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from classifier.addresses import text
from classifier.headers import FRAGMENT, Encapsulations, HeaderColumns, decode, decode_datagram
from classifier.packets import Interfaces, PacketBatch, PacketColumns

pytestmark = pytest.mark.kernels

PAYLOAD = b"innermost payload"
MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


class Found(NamedTuple):
    """What the product says of one packet."""

    protocol: int
    flow: tuple[str, int, str, int]
    tcp: tuple[int, int, int]
    payload: bytes
    length: int
    vlans: list[int]
    tunnels: list[str]


def batch_of(packets: list[bytes], wire: list[int] | None = None) -> PacketBatch:
    """Packets one behind the other, nothing between them."""
    columns, data = PacketColumns.empty(len(packets)), b"".join(packets)
    lengths = np.array([len(packet) for packet in packets])
    columns.offset[:], columns.captured[:] = np.cumsum(lengths) - lengths, lengths
    columns.wire[:], columns.time[:], columns.interface[:] = wire or lengths, 0, 0
    columns.frame[:] = np.arange(1, len(packets) + 1)
    return PacketBatch(np.frombuffer(data, np.uint8), columns, len(packets))


def decoded(packet: bytes, link: int, wire: int | None = None) -> tuple[PacketBatch, HeaderColumns, Encapsulations]:
    interfaces, columns, known = Interfaces(), HeaderColumns.empty(1), Encapsulations()
    interfaces.add(link, 6)
    batch = batch_of([packet], [wire] if wire else None)
    decode(batch, interfaces, columns, known)
    return batch, columns, known


def found(packet: bytes, link: int = 1, wire: int | None = None) -> Found | None:
    batch, columns, known = decoded(packet, link, wire)
    if columns.protocol[0] not in (6, 17):
        return None
    source = text(int(columns.source_high[0]), int(columns.source_low[0]))
    target = text(int(columns.target_high[0]), int(columns.target_low[0]))
    start, stack = int(columns.payload[0]), int(columns.encapsulation[0])
    tcp = int(columns.sequence[0]), int(columns.acknowledgement[0]), int(columns.flags[0])
    return Found(
        int(columns.protocol[0]),
        (source, int(columns.source_port[0]), target, int(columns.target_port[0])),
        tcp if columns.protocol[0] == 6 else (0, 0, 0),
        batch.data[start : start + int(columns.payload_captured[0])].tobytes(),
        int(columns.payload_length[0]),
        known.vlans(stack),
        known.tunnels(stack),
    )


def inner(version: int = 4) -> Packet:
    ip = IP(src="192.0.2.1", dst="192.0.2.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    return ip / TCP(sport=50_001, dport=135, seq=0xFFFFFFF0, ack=0x80000001, flags="PA") / Raw(PAYLOAD)


def outer(protocol: type[Packet] = IP) -> Packet:
    return Ether(**MAC) / (IP(src="10.0.0.1", dst="10.0.0.2") if protocol is IP else IPv6(src="::1", dst="::2"))


def frame(version: int = 4) -> Packet:
    return Ether(**MAC) / inner(version)


def udp_to(port: int) -> Packet:
    return outer() / UDP(sport=49_152, dport=port)


WRAPPED: dict[str, tuple[Packet, list[int], list[str]]] = {
    "ethernet": (frame(), [], []),
    "ethernet, IPv6": (frame(6), [], []),
    "802.1Q": (Ether(**MAC) / Dot1Q(vlan=10) / inner(), [10], []),
    "802.1ad": (Ether(**MAC) / Dot1AD(vlan=200) / Dot1Q(vlan=10) / inner(6), [200, 10], []),
    "priority tag": (Ether(**MAC) / Dot1Q(vlan=0, prio=5) / inner(), [0], []),
    "LLC and SNAP": (
        Ether(**MAC, type=8 + len(inner())) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x800) / inner(), [], [],
    ),
    "MPLS": (Ether(**MAC) / MPLS(label=16, s=0) / MPLS(label=17, s=1) / inner(), [], ["mpls:16", "mpls:17"]),
    "MPLS, IPv6": (Ether(**MAC) / MPLS(label=17, s=1) / inner(6), [], ["mpls:17"]),
    "pseudowire": (Ether(**MAC) / MPLS(label=9, s=1) / Raw(bytes(4)) / frame(), [], ["mpls:9"]),
    "PPPoE": (Ether(**MAC, type=0x8864) / PPPoE(sessionid=7) / PPP(proto=0x21) / inner(), [], ["pppoe"]),
    "PPPoE, IPv6": (Ether(**MAC, type=0x8864) / PPPoE(sessionid=7) / PPP(proto=0x57) / inner(6), [], ["pppoe"]),
    "GRE": (outer() / GRE() / inner(), [], ["gre"]),
    "GRE, all options": (
        outer() / GRE(chksum_present=1, key_present=1, key=5, seqnum_present=1, sequence_number=1) / inner(6),
        [], ["gre"],
    ),
    "GRE over IPv6": (outer(IPv6) / GRE() / inner(), [], ["gre"]),
    "transparent bridging": (outer() / GRE(proto=0x6558) / frame(), [], ["gre"]),
    "ERSPAN I": (outer() / GRE(proto=0x88BE) / Raw(bytes(frame())), [], ["erspan1"]),
    "ERSPAN II": (
        outer() / GRE(proto=0x88BE, seqnum_present=1, sequence_number=9) / ERSPAN_II(vlan=3) / frame(),
        [], ["erspan2"],
    ),
    "ERSPAN III": (
        outer() / GRE(proto=0x22EB, seqnum_present=1, sequence_number=9) / ERSPAN_III(vlan=3) / frame(),
        [], ["erspan3"],
    ),
    "VXLAN": (udp_to(4789) / VXLAN(vni=42, flags="Instance") / frame(), [], ["vxlan:42"]),
    "VXLAN in ERSPAN, tagged": (
        outer() / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II() / Ether(**MAC) / Dot1Q(vlan=10)
        / IP() / UDP(dport=4789) / VXLAN(vni=42, flags="Instance") / Ether(**MAC) / Dot1Q(vlan=200) / inner(),
        [10, 200], ["erspan2", "vxlan:42"],
    ),
    "GENEVE": (udp_to(6081) / GENEVE(vni=77) / frame(), [], ["geneve:77"]),
    "GENEVE, IP": (udp_to(6081) / GENEVE(vni=77, proto=0x800) / inner(), [], ["geneve:77"]),
    "GENEVE, options": (
        udp_to(6081) / GENEVE(vni=77, optionlen=2, proto=0x86DD) / Raw(b"\0\1\2\1abcd") / inner(6), [], ["geneve:77"],
    ),
    "GTP-U": (udp_to(2152) / GTP_U_Header(teid=6) / inner(), [], ["gtp-u:6"]),
    "IP in IP": (outer() / inner(), [], ["ipip"]),
    "6in4": (outer() / inner(6), [], ["6in4"]),
    "4in6": (outer(IPv6) / inner(), [], ["4in6"]),
    "6in6": (outer(IPv6) / inner(6), [], ["6in6"]),
    "EtherIP": (Ether(**MAC) / IP(proto=97) / Raw(b"\x30\0") / frame(), [], ["etherip"]),
    "IPv4 options": (Ether(**MAC) / IP(src="192.0.2.1", dst="192.0.2.2", options=b"\1" * 12) / inner()[TCP], [], []),
    "IPv6 extension headers": (
        Ether(**MAC) / IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting()
        / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=5) / inner()[TCP],
        [], [],
    ),
}  # fmt: skip


def check(packet: bytes, link: int, vlans: list[int], tunnels: list[str]) -> None:
    said = found(packet, link)
    assert said is not None
    ends = ("192.0.2.1", "192.0.2.2") if "." in said.flow[0] else ("2001:db8::1", "2001:db8::2")
    assert said == Found(
        6,
        (ends[0], 50_001, ends[1], 135),
        (0xFFFFFFF0, 0x80000001, 0x18),
        PAYLOAD,
        len(PAYLOAD),
        vlans,
        tunnels,
    )


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_innermost_segment(kind: str) -> None:
    packet, vlans, tunnels = WRAPPED[kind]
    check(bytes(packet), 1, vlans, tunnels)


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_trailer_of_the_link_is_no_payload(kind: str) -> None:
    packet, vlans, tunnels = WRAPPED[kind]
    check(bytes(packet) + b"trailer", 1, vlans, tunnels)


LINKS: dict[str, tuple[int, bytes]] = {
    "raw IP": (101, b""),
    "BSD raw IP": (12, b""),
    "IPv4": (228, b""),
    "null, little-endian": (0, bytes(Loopback(type=2))[::-1]),
    "null, big-endian": (108, b"\0\0\0\2"),
    "cooked": (113, bytes(CookedLinux(proto=0x800))),
    "cooked v2": (276, bytes(CookedLinuxV2(proto=0x800))),
    "PPP": (9, b"\0\x21"),
    "PPP in HDLC": (50, b"\xff\x03\0\x21"),
    "Cisco HDLC": (104, b"\x0f\0\x08\0"),
    "PPPoE session": (51, bytes(PPPoE(sessionid=7, len=2 + len(inner()))) + b"\0\x21"),
}


@pytest.mark.parametrize("link", LINKS)
def test_link_types(link: str) -> None:
    number, head = LINKS[link]
    check(head + bytes(inner()), number, [], [])


def test_datagrams() -> None:
    packet = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=53, dport=4789) / Raw(b"not VXLAN, whatever the port")
    said = found(bytes(packet), 101)
    assert said is not None
    assert (said.protocol, said.flow) == (17, ("192.0.2.1", 53, "192.0.2.2", 4789))
    assert (said.payload, said.tunnels) == (b"not VXLAN, whatever the port", [])


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_packet_cut_anywhere_has_its_ports_or_nothing(kind: str) -> None:
    whole = bytes(WRAPPED[kind][0])
    for size in range(len(whole)):
        said = found(whole[:size], wire=len(whole))
        if said is not None and said.protocol == 6:
            assert (said.flow[1], said.flow[3], said.length) == (50_001, 135, len(PAYLOAD))
            assert PAYLOAD.startswith(said.payload)
    assert found(whole[:-1], wire=len(whole)) is not None


def test_a_length_of_zero_is_a_segment_that_the_card_cuts_up() -> None:
    packet = bytearray(bytes(inner()))
    packet[2:4] = b"\0\0"
    said = found(bytes(packet), 101)
    assert said is not None
    assert said.payload == PAYLOAD


def test_pieces_of_datagrams_wait_for_their_siblings() -> None:
    piece = IP(src="192.0.2.1", dst="192.0.2.2", id=7, flags="MF", frag=3, proto=17) / Raw(b"x" * 16)
    _, columns, _ = decoded(bytes(piece), 101)
    said = [int(columns[name][0]) for name in (0, 7, 8, 9)]
    assert said == [FRAGMENT, 17, 7, 3 * 8 + 1]


# ---- strangers' bytes ----------------------------------------------------------------------------------


def torture() -> None:
    """Random, mutated and cut packets of every link type, each at the very end of its memory; run bounds-checked."""
    chance, known = np.random.default_rng(5), Encapsulations()
    seeds = [bytes(packet) for packet, *_ in WRAPPED.values()]
    for link in (0, 1, 9, 12, 50, 51, 101, 104, 113, 276, 147):
        interfaces = Interfaces()
        interfaces.add(link, 6)
        packets = [chance.bytes(int(size)) for size in chance.integers(0, 90, 300)]
        for seed in seeds * 20:
            changed = np.frombuffer(seed, np.uint8).copy()
            changed[chance.integers(0, len(changed), 3)] = chance.integers(0, 256, 3)
            packets.append(changed[: chance.integers(0, len(changed) + 1)].tobytes())
        columns = HeaderColumns.empty(1)
        for packet in packets:
            batch = batch_of([packet])
            decode(batch, interfaces, columns, known)
            for protocol in (6, 17, 47, 41):
                decode_datagram(batch.data, 0, len(packet), protocol, 0, columns, known)
            start, size = int(columns.payload[0]), int(columns.payload_captured[0])
            assert columns.protocol[0] not in (6, 17) or 0 <= start <= start + size <= len(packet)
    print("no byte out of bounds")


def test_no_bytes_make_a_kernel_read_out_of_bounds() -> None:
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    run = subprocess.run(
        [sys.executable, "-c", "import test_headers; test_headers.torture()"],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "no byte out of bounds\n", run.stderr
