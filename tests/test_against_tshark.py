"""Frames and headers of all real captures, side by side with tshark's.

Nearly all captures are joined for tshark; those that can't be (damaged ones, mixed byte orders) are read one by one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import shared
from joins import counted, joined

from classifier.addresses import text
from classifier.assembly import assemble
from classifier.community_id import community_ids
from classifier.headers import FRAGMENT, TCP, UDP, Encapsulations, HeaderColumns, decode
from classifier.packets import BATCH_ROWS
from classifier.sources import CaptureSet

pytestmark = [
    shared.needed,
    pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed: no independent reader"),
    pytest.mark.skipif(not shutil.which("mergecap"), reason="mergecap is not installed: no independent reader"),
]

FIELDS = (
    "frame.number", "frame.time_epoch", "frame.len", "frame.cap_len", "frame.protocols", "ip.src", "ip.dst", "ipv6.src",
    "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.seq", "tcp.ack", "tcp.flags", "tcp.len", "udp.srcport",
    "udp.dstport", "udp.length", "communityid",
)  # fmt: skip
STATELESS = (
    "ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.relative_sequence_numbers:FALSE",
    "tcp.analyze_sequence_numbers:FALSE", "tcp.desegment_tcp_streams:FALSE",
)  # fmt: skip

Row = dict[str, str]


def tshark(path: Path) -> list[Row]:
    command = ["tshark", "-n", "-Q", "-r", str(path), "-T", "fields", "-E", "occurrence=l"]
    command += [word for name in FIELDS for word in ("-e", name)] + [w for o in STATELESS for w in ("-o", o)]
    command += ["--enable-protocol", "communityid"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in run.stdout.split("\n")[:-1]]


@cache
def names() -> list[str]:
    return shared.captures("real") + shared.captures("wrapped") + shared.captures("handshakes")


@cache
def rows_of_all() -> dict[str, list[Row]]:
    """What tshark says of each frame of each capture."""
    paths = [shared.FOLDER / name for name in names()]
    with ThreadPoolExecutor(2) as threads, tempfile.TemporaryDirectory() as folder:
        counts = counted(paths)
        whole = [path for path in paths if counts.get(path) and "svcctl-ng-" not in path.name]  # see OTHER_FRAMES
        parts = [whole[start : start + 64] for start in range(0, len(whole), 64)]
        groups = [group for found in threads.map(lambda part: joined(part, folder), parts) for group in found]
        found: dict[Path, list[Row]] = {}
        for (_, group), rows in zip(groups, threads.map(tshark, [join for join, _ in groups]), strict=True):
            assert len(rows) == sum(counts[path] for path in group)
            for path in group:
                found[path], rows = rows[: counts[path]], rows[counts[path] :]
        alone = [path for path in paths if path not in found]
        found |= dict(zip(alone, threads.map(tshark, alone), strict=True))
    print(f"\n{len(groups)} joins of {len(paths) - len(alone)} captures, {len(alone)} captures alone")
    return {name: found[path] for name, path in zip(names(), paths, strict=True)}


# ---- frames ----------------------------------------------------------------------------


class Packet(NamedTuple):
    """One packet by the product."""

    time: int
    wire: int
    captured: int
    protocol: int
    flow: tuple[str, str, int, int] = ("", "", 0, 0)
    sequence: int = 0
    acknowledgement: int = 0
    flags: int = 0
    length: int = 0


@cache
def packets_of(name: str) -> list[Packet]:
    captures, known, headers = CaptureSet.of([shared.FOLDER / name]), Encapsulations(), HeaderColumns.empty(BATCH_ROWS)
    found: list[Packet] = []
    for batch in captures.batches():
        decode(batch, captures.interfaces, headers, known)
        columns = batch.columns.time, batch.columns.wire, batch.columns.captured
        frames = zip(*(column[: batch.count].tolist() for column in columns), strict=True)
        found += [Packet(*frame, *_headers(headers, row)) for row, frame in enumerate(frames)]
    return found


def _headers(headers: HeaderColumns, row: int) -> tuple[object, ...]:
    protocol = int(headers.protocol[row])
    if protocol not in (TCP, UDP):
        return (protocol,)
    source = text(int(headers.source_high[row]), int(headers.source_low[row]))
    target = text(int(headers.target_high[row]), int(headers.target_low[row]))
    flow = source, target, int(headers.source_port[row]), int(headers.target_port[row])
    length = int(headers.payload_length[row])
    if protocol == UDP:
        return protocol, flow, 0, 0, 0, length
    numbers = headers.sequence[row], headers.acknowledgement[row], headers.flags[row]
    return protocol, flow, *map(int, numbers), length


OTHER_FRAMES = {
    "test017.pcapng": "tshark gives a custom block a length",
    "svcctl-ng-": "tshark gives a custom block a length",
    "pcapng-example.pcapng": "times before 1970, which tshark takes for times after 2500",
    "FuzzTarget-6604968558198784": "version 2.2 of the format, of around 1990, has its lengths the other way round",
    "pcapng-invalid-vers-1.pcapng": "tshark refuses the version",
    "aoe-oobr-1.pcap": "less on the wire than was captured",
    "icmp-icmp_print-oobr-2.pcap": "less on the wire than was captured",
    "atm-oam-": "tshark takes ATM's pseudo header off the lengths; microseconds beyond a second",
    "rx_serviceid_oobr.pcap": "microseconds beyond a second",
    "FuzzTarget-": "microseconds beyond a second, or a link type that tshark refuses",
    "brcm-tag-": "a link type that tshark refuses",
    "dsa-high-vid.pcap": "a link type that tshark refuses",
    "frf16_magic_ie-oobr.pcap": "a link type that tshark refuses",
    "juniper": "a link type that tshark refuses",
    "kday6.pcap": "a link type that tshark refuses",
    "vtp_asan-3.pcap": "a link type that tshark refuses",
}
"""Where frames differ, and why."""


def test_every_frame_has_its_number_time_and_lengths() -> None:
    wrong, frames = {}, 0
    for name, rows in rows_of_all().items():
        ours = [packet[:3] for packet in packets_of(name)]
        theirs = [
            (int(Fraction(row["frame.time_epoch"] or 0) * 10**9), int(row["frame.len"]), int(row["frame.cap_len"]))
            for row in rows
        ]
        frames += len(rows)
        if ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            wrong[name] = (len(ours), len(theirs), next((pair for pair in pairs if pair[0] != pair[1]), None))
    print(f"{frames} frames of {len(names())} captures, {len(wrong)} captures with other frames than tshark's")
    unexplained = {name: how for name, how in wrong.items() if not any(part in name for part in OTHER_FRAMES)}
    assert unexplained == {}
    assert all(any(part in name for name in wrong) for part in OTHER_FRAMES)


# ---- headers ---------------------------------------------------------------------------


def _innermost(row: Row) -> Packet | None:
    """What tshark says of the innermost segment or datagram; None if there is none that counts."""
    layers = row["frame.protocols"].split(":")
    if "icmp" in layers or "icmpv6" in layers:
        return None
    transport = next((layer for layer in reversed(layers) if layer in ("tcp", "udp")), None)
    if transport is None or not row[transport + ".srcport"]:
        return None
    network = next(layer for layer in reversed(layers) if layer in ("ip", "ipv6"))
    ends = (row[network + ".src"], row[network + ".dst"])
    ports = int(row[transport + ".srcport"]), int(row[transport + ".dstport"])
    if transport == "udp":
        return Packet(0, 0, 0, UDP, (*ends, *ports), length=int(row["udp.length"] or 8) - 8)
    flags = int(row["tcp.flags"] or "0", 16) & 0xFF
    numbers = int(row["tcp.seq"] or 0), int(row["tcp.ack"] or 0), flags, int(row["tcp.len"] or 0)
    return Packet(0, 0, 0, TCP, (*ends, *ports), *numbers)


NOT_READ_BY_US = {
    "fddi:": "link type FDDI",
    "arcnet:": "link type ARCNET",
    "ipoib:": "link type IP over InfiniBand",
    "radiotap:": "link type 802.11",
    "ppi:": "link type 802.11",
    "pktap:": "link type of macOS's own",
    "juniper:": "link type of Juniper's own",
    "null:": "an address family that names none",
    "macsec:": "authenticated only; seldom, and seldom told from encrypted",
    "ieee8021ah:ethertype:ieee8021ah:": "24 tags and more",
    ":pim:": "routers' registration of multicast, which hosts exchange as well without it",
    ":udp:gre:": "GRE in UDP",
    ":udp:nsh:": "service chains",
    ":udp:teredo:": "Teredo: the outer datagram is counted",
    ":udp:sflow:": "a sample inside sFlow: the outer datagram is counted",
    ":udp:mpls:": "MPLS in UDP",
}
"""Stacks that tshark follows further."""

OTHER_HEADERS = {
    "bigtcp-": "more than 64 KiB in one packet: tshark stops at a length of zero",
    "pppoe-over-qinq.pcap": "an IP length beyond PPPoE's own",
    "gre-erspan-vxlan.pcap": "VXLAN from port 4789 to 4790",
    "decode-too-small": "cut in the header",
    "drop-protocol-change": "a TCP header of eight octets",
    "ipv6-mobility-dst-opts.pcap": "an option that tshark finds malformed",
    "LINKTYPE_IPV6_invalid.pcap": "tshark refuses the packet",
    "oobr": "made to contradict itself",
    "babel_update": "made to contradict itself",
    "wb-oobr.pcap": "made to contradict itself",
    "lwres_with_extra.pcap": "made to contradict itself",
    "snmp-": "made to contradict itself",
    "udp-length-heapoverflow.pcap": "made to contradict itself",
    "rtp-seg-fault-1.pcapng": "made to contradict itself",
    "FuzzTarget": "made to contradict itself",
}
"""Captures whose headers are read differently, and why."""


def _kind(name: str, packet: Packet, theirs: Packet | None, stack: str) -> str:
    """Why ours differs from tshark's; "" if there is no reason."""
    if packet.protocol == FRAGMENT:
        return "a fragment, which waits for the others"
    known = [why for part, why in NOT_READ_BY_US.items() if part in f"{stack}:"]
    known += [why for part, why in OTHER_HEADERS.items() if part in name]
    ours = packet.protocol in (TCP, UDP)
    if not known and not ours and ":".join(stack.split(":")[-2:]) not in ("ip:tcp", "ip:udp"):
        return "a tunnel that holds no TCP or UDP: nothing is counted" if _is_tunnel(stack) else ""
    return known[0] if known else ""


def _is_tunnel(stack: str) -> bool:
    return any(f":{name}:" in stack for name in ("vxlan", "geneve", "gtp", "gre"))


def test_headers() -> None:
    equal, explained, unexplained = 0, Counter(), []
    for name, rows in rows_of_all().items():
        if any(part in name for part in ("-ex.erf", "solaris.snoop")):
            continue
        for number, (packet, row) in enumerate(zip(packets_of(name), rows, strict=False), 1):
            theirs = _innermost(row)
            ours = packet._replace(time=0, wire=0, captured=0) if packet.protocol in (TCP, UDP) else None
            if ours == theirs:
                equal += ours is not None
            elif why := _kind(name, packet, theirs, row["frame.protocols"]):
                explained[why] += 1
            else:
                unexplained.append((name, number, row["frame.protocols"], ours, theirs))
    print(f"{equal} segments and datagrams with equal headers; others:")
    for why, count in explained.most_common():
        print(f"{count:6} {why}")
    assert unexplained == []
    assert equal > 40_000


def test_community_ids() -> None:
    equal, wrong = 0, []
    for name, rows in rows_of_all().items():
        table = assemble(CaptureSet.of([shared.FOLDER / name]), jobs=1).table
        ours = community_ids(table.rows, table.count).tolist()
        for conversation, said in zip(table.rows[: table.count], ours, strict=True):
            row = rows[int(conversation["first_frame"]) - 1] if rows else None
            if row is None or (theirs := _innermost(row)) is None:
                continue
            ends = {(conversation["a_port"], conversation["b_port"]), (conversation["b_port"], conversation["a_port"])}
            if theirs.flow[2:] in ends:  # else a tunnel that only one of both follows
                equal += said.decode() == row["communityid"]
                if said.decode() != row["communityid"]:
                    wrong.append((name, int(conversation["first_frame"]), said.decode(), row["communityid"]))
    print(f"{equal} conversations with tshark's Community ID")
    assert wrong == []
    assert equal > 2000
