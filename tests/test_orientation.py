"""Who asked and who serves, before any payload was read: handshakes first, then ports, then who spoke first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

from classifier.assembly import assemble
from classifier.model import ORIENTATIONS
from classifier.orientation import Orientation, first_look
from classifier.sources import CaptureSet

LOW, HIGH = "192.0.2.1", "198.51.100.1"
NAMED = 50_636  # a port that only signatures know
BOTH_WAYS = pytest.mark.parametrize(("client", "server"), [(LOW, HIGH), (HIGH, LOW)])


def segment(source: str, target: str, sport: int, dport: int, flags: str = "PA") -> Packet:
    return IP(src=source, dst=target) / TCP(sport=sport, dport=dport, seq=8, ack=9, flags=flags) / Raw(b"data")


def look(path: Path, packets: list[Packet]) -> tuple[str, int, str]:
    """(client address, client port, method) of the only conversation."""
    with PcapWriter(str(path), linktype=101) as writer:
        for index, packet in enumerate(packets):
            packet.time = 1_000_000 + index
            writer.write(packet)
    table = assemble(CaptureSet.of([path]), jobs=1).table
    named = np.zeros(65_536, np.bool_)
    named[NAMED] = True
    orientation = first_look(table, named)
    assert table.count == 1
    row, client = table.rows[0], int(orientation.client[0])
    assert orientation.proven.tolist() == [orientation.method[0] <= ORIENTATIONS.index("syn-ack")]
    address = int(row["b_low"] if client else row["a_low"]) & 0xFFFFFFFF
    port = int(row["b_port"] if client else row["a_port"])
    return ".".join(map(str, address.to_bytes(4, "big"))), port, ORIENTATIONS[orientation.method[0]]


@BOTH_WAYS
def test_the_sender_of_the_syn_asks_whatever_the_ports_and_the_order(tmp_path: Path, client: str, server: str) -> None:
    packets = [segment(server, client, 40_000, 25, "SA"), segment(client, server, 25, 40_000, "S")]
    assert look(tmp_path / "x.pcap", packets) == (client, 25, "syn")


@BOTH_WAYS
def test_the_receiver_of_a_syn_ack_asks(tmp_path: Path, client: str, server: str) -> None:
    assert look(tmp_path / "x.pcap", [segment(server, client, 40_000, 25, "SA")]) == (client, 25, "syn-ack")


@BOTH_WAYS
def test_of_two_syns_the_first_counts(tmp_path: Path, client: str, server: str) -> None:
    packets = [segment(client, server, 50_001, 50_002, "S"), segment(server, client, 50_002, 50_001, "S")]
    assert look(tmp_path / "x.pcap", packets)[0] == client


@BOTH_WAYS
@pytest.mark.parametrize("port", [25, NAMED, 3389, 8443])
def test_a_known_port_serves_even_if_it_speaks_first(tmp_path: Path, client: str, server: str, port: int) -> None:
    packets = [segment(server, client, port, 50_001)]
    assert look(tmp_path / "x.pcap", packets) == (client, 50_001, "known-port")


@BOTH_WAYS
def test_a_port_that_signatures_name_outweighs_a_low_one(tmp_path: Path, client: str, server: str) -> None:
    packets = [segment(server, client, NAMED, 1000)]
    assert look(tmp_path / "x.pcap", packets) == (client, 1000, "known-port")


@BOTH_WAYS
@pytest.mark.parametrize(("one", "other"), [(50_001, 50_002), (25, 110)])
def test_between_equal_ports_the_first_seen_asks(
    tmp_path: Path, client: str, server: str, one: int, other: int
) -> None:
    assert look(tmp_path / "x.pcap", [segment(client, server, one, other)]) == (client, one, "first-seen")


@BOTH_WAYS
def test_datagrams(tmp_path: Path, client: str, server: str) -> None:
    def datagram(source: str, target: str, sport: int, dport: int) -> Packet:
        return IP(src=source, dst=target) / UDP(sport=sport, dport=dport) / Raw(b"x")

    assert look(tmp_path / "1", [datagram(client, server, 50_001, 50_002)]) == (client, 50_001, "first-seen")
    assert look(tmp_path / "2", [datagram(server, client, 53, 50_002)]) == (client, 50_002, "known-port")


def test_a_decision_is_kept() -> None:
    orientation = Orientation(np.zeros(2, np.int8), np.full(2, ORIENTATIONS.index("first-seen"), np.int8))
    orientation.decide(1, 1, "payload")
    assert orientation.client.tolist() == [0, 1]
    assert [ORIENTATIONS[code] for code in orientation.method] == ["first-seen", "payload"]
    assert orientation.proven.tolist() == [False, False]
