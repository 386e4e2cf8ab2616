"""Counts of conversations are tshark's, and what is not kept of RPC and SMB tells inspectors nothing."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shared
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter
from test_essence import dialogues, told

from classifier import inspectors
from classifier.addresses import Addresses
from classifier.assembly import assemble
from classifier.conversations import ConversationTable, silent_servers, spans, tallies
from classifier.dialogues import read_stream
from classifier.headers import TCP as TCP_NUMBER
from classifier.headers import Encapsulations, HeaderColumns, decode
from classifier.inspectors.base import Chunk, Dialogue, Stream
from classifier.packets import BATCH_ROWS, Frames
from classifier.sources import CaptureSet
from classifier.streams import PAYLOAD

pytestmark = pytest.mark.kernels

SHIPPED = Path(__file__).parents[1] / "captures"
CLIENT, SERVER, PORT = "192.0.2.1", "198.51.100.1", 49_152

# ---- counts ------------------------------------------------------------------------------------------

Ends = tuple[str, int, str, int]
Counts = tuple[int, int]
"""Packets and bytes that one end sent the other."""


def by_tshark(path: Path) -> Counter[tuple[Ends, Counts]]:
    """Both directions of every TCP conversation, from frames and not from tshark's own statistics, which round."""
    names = ("tcp.stream", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport", "frame.len")
    command = ["tshark", "-n", "-r", str(path), "-Y", "tcp", "-T", "fields", "-E", "occurrence=l"]
    command += ["-o", "ip.defragment:FALSE"] + [word for name in names for word in ("-e", name)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    packets: Counter[tuple[str, Ends]] = Counter()
    sizes: Counter[tuple[str, Ends]] = Counter()
    for line in run.stdout.splitlines():
        stream, source4, source6, sport, target4, target6, dport, size = line.split("\t")
        key = stream, (source4 or source6, int(sport), target4 or target6, int(dport))
        packets[key] += 1
        sizes[key] += int(size)
    return Counter((key[1], (count, sizes[key])) for key, count in packets.items())


def by_us(path: Path) -> tuple[Counter[tuple[Ends, Counts]], int]:
    """The same by the product, and how many copies of a mirror it left out."""
    table = assemble(CaptureSet.of([path]), jobs=1).table
    addresses, counts = Addresses.of(table.rows, table.count), Counter()
    for index, row in enumerate(table.rows[: table.count]):
        a = addresses.texts[addresses.a[index]], int(row["a_port"])
        b = addresses.texts[addresses.b[index]], int(row["b_port"])
        for number, ends in ((2 * index, (*a, *b)), (2 * index + 1, (*b, *a))):
            flow = table.store.flows[number]
            if row["protocol"] == TCP_NUMBER and flow["packets"]:
                counts[ends, (int(flow["packets"]), int(flow["bytes"]))] += 1
    return counts, int(table.rows["duplicates"].sum())


PLAIN = ("ticket-49734.pcapng", "pop3-imap4.pcap", "rpc-ipv6.pcap", "format-qinq.pcap", "rpc-port-reused.pcap")


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed: no independent reader")
@pytest.mark.parametrize("name", PLAIN)
def test_packets_and_bytes_are_those_of_tshark(name: str) -> None:
    ours, copies = by_us(SHIPPED / name)
    assert copies == 0
    assert ours == by_tshark(SHIPPED / name)


@pytest.mark.parametrize("name", PLAIN)
def test_what_kernels_take_out_of_rows_is_in_them(name: str) -> None:
    captures = CaptureSet.of([SHIPPED / name] * 2)
    table = assemble(captures, jobs=1).table
    rows, flows, client = table.rows[: table.count], table.store.flows, np.arange(table.count, dtype=np.int8) % 2
    made, block, digits = spans(table, captures.interfaces), Frames.BLOCK, captures.interfaces.digits
    frames = rows["first_frame"] % block, rows["last_frame"] % block
    assert made.numbers.tolist() == [column.tolist() for column in (rows["number"] + 1, *frames)]
    assert made.times.tolist() == [rows["start"].tolist(), rows["end"].tolist()]
    assert made.digits.tolist() == [digits[rows[end]].tolist() for end in ("interface", "last_interface")]
    assert made.files.tolist() == (rows["first_frame"] // block).tolist()
    assert made.udp.tolist() == (rows["protocol"] != TCP_NUMBER).tolist()
    assert made.stacks.tolist() == rows["encapsulation"].tolist()
    said = flows["flags"][2 * np.arange(table.count) + 1 - client] & PAYLOAD != 0
    silent, lost = silent_servers(table, client) == 1, tallies(table, client)[5]
    assert not (silent & said).any()
    assert (silent | said)[lost == 0].all()


# ---- stubs -------------------------------------------------------------------------------------------


def pdu(kind: int, body: bytes, order: str = "<", call: int = 1) -> bytes:
    """A connection-oriented PDU without a security trailer (C706 section 12.6.3.1)."""
    label = b"\x10\0\0\0" if order == "<" else bytes(4)
    return struct.pack(order + "BBBB4sHHI", 5, 0, kind, 3, label, 16 + len(body), 0, call) + body


def request(size: int, order: str, call: int) -> bytes:
    stub = bytes(1 + (at * 7 + call) % 255 for at in range(size))
    return pdu(0, struct.pack(order + "IHH", size, 0, 5) + stub, order, call)


def bind(order: str) -> bytes:
    syntax = struct.pack(order + "IHH", 0xA4F1DB00, 0xCA47, 0x1067) + bytes.fromhex("b31f00dd010662da")
    context = struct.pack(order + "HBB", 0, 1, 0) + syntax + struct.pack(order + "I", 81 << 16) + bytes(20)
    return pdu(11, struct.pack(order + "HHIB3x", 5840, 5840, 0, 1) + context, order)


def table_of(path: Path, stream: bytes, chance: random.Random, sizes: tuple[int, int]) -> ConversationTable:
    def segment(sequence: int, flags: str, data: bytes) -> Packet:
        ip = IP(src=CLIENT, dst=SERVER, id=sequence % 65_536)
        return ip / TCP(sport=40_000, dport=PORT, seq=sequence, flags=flags) / Raw(data)

    packets, at = [segment(0, "S", b"")], 0
    while at < len(stream):
        data = stream[at : at + chance.randint(*sizes)]
        packets.append(segment(1 + at, "A", data))
        at += len(data)
    with PcapWriter(str(path), linktype=101) as writer:
        for second, packet in enumerate(packets):
            packet.time = second
            writer.write(packet)
    return assemble(CaptureSet.of([path]), jobs=1).table


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("seed", range(5))
def test_only_the_middle_of_long_stubs_is_not_kept(tmp_path: Path, order: str, seed: int) -> None:
    chance = random.Random(seed)
    stub_sizes = [chance.choice((0, 1, 100, 400, 455, 456, 457, 2000, 5000)) for _ in range(20)]
    parts = [bind(order)] + [request(size, order, call) for call, size in enumerate(stub_sizes, 2)]
    whole = b"".join(parts)
    store = table_of(tmp_path / "x.pcap", whole, chance, [(1460, 1460), (30, 1460), (16, 4000)][seed % 3]).store
    kept = read_stream(store, 0, TCP_NUMBER).head
    assert len(kept) == len(whole)
    differ = np.flatnonzero(np.frombuffer(kept, np.uint8) != np.frombuffer(whole, np.uint8))
    assert seed % 3 or len(differ)
    begins = np.cumsum([0] + [len(part) for part in parts])
    for at in differ.tolist():
        which = int(np.searchsorted(begins, at, side="right")) - 1
        assert begins[which] + 40 <= at < begins[which + 1] - 160
        assert kept[at] == 0
    said = [inspectors.inspect(Dialogue("tcp", Stream((Chunk(0, data),)), Stream(), PORT)) for data in (kept, whole)]
    assert said[0] == said[1]


def sent(path: Path) -> dict[tuple[int, int], bytes]:
    """What each pair of ports sent from its only SYN on, put together without the product's streams.

    Bytes behind the first hole are left out, and ports that were used twice.
    """
    captures, headers, known = CaptureSet.of([path]), HeaderColumns.empty(BATCH_ROWS), Encapsulations()
    starts: dict[tuple[int, int], set[int]] = {}
    pieces: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
    for batch in captures.batches():
        decode(batch, captures.interfaces, headers, known)
        for row in np.flatnonzero(headers.protocol[: batch.count] == TCP_NUMBER).tolist():
            ports = int(headers.source_port[row]), int(headers.target_port[row])
            if headers.flags[row] & 2:
                starts.setdefault(ports, set()).add(int(headers.sequence[row]))
            start, size = int(headers.payload[row]), int(headers.payload_captured[row])
            data = batch.data[start : start + size].tobytes()
            pieces.setdefault(ports, []).append((int(headers.sequence[row]), data))
    return {ports: joined(min(first), pieces[ports]) for ports, first in starts.items() if len(first) == 1}


def joined(first: int, pieces: list[tuple[int, bytes]]) -> bytes:
    stream = b""
    for offset, data in sorted(((number - first - 1) % 2**32, data) for number, data in pieces):
        if offset > len(stream):
            break
        stream += data[len(stream) - offset :]
    return stream


def kept_in_part(stream: Stream) -> bool:
    """Whether it opens with a protocol of which not all first bytes are kept: RPC, or SMB behind a NetBIOS length."""
    return stream.head[:1] == b"\x05" or stream.head[5:8] == b"SMB" or stream.head[:1] in (b"\x81", b"\x82")


def rpc_and_smb(path: Path) -> Iterator[tuple[Dialogue, Dialogue]]:
    """Each association and SMB session as the product keeps it, and with all its bytes."""
    streams: dict[tuple[int, int], bytes] = {}
    for dialogue in dialogues(path):
        both = dialogue.to_server, dialogue.to_client
        if dialogue.transport != "tcp" or not any(map(kept_in_part, both)):
            continue
        streams = streams or sent(path)
        ports = dialogue.client_port, dialogue.server_port
        whole = [streams.get(ports, b""), streams.get(ports[::-1], b"")]
        regular = all(len(stream.chunks) <= 1 and not stream.truncated for stream in both)
        if regular and all(len(data) >= len(stream.head) for stream, data in zip(both, whole, strict=True)):
            to_server, to_client = (
                stream._replace(chunks=(Chunk(0, data[: len(stream.head)]),) if stream.head else ())
                for stream, data in zip(both, whole, strict=True)
            )
            yield dialogue, dialogue._replace(to_server=to_server, to_client=to_client)


@shared.needed
def test_what_is_kept_of_real_associations_and_sessions_tells_what_all_of_it_tells() -> None:
    compared, blanked, wrong = Counter[str](), Counter[str](), []
    for name in shared.captures("real"):
        for kept, whole in rpc_and_smb(shared.FOLDER / name):
            carrier = "rpc" if b"\x05" in (kept.to_server.head[:1], kept.to_client.head[:1]) else "smb"
            compared[carrier] += 1
            blanked[carrier] += kept != whole
            if told(inspectors.inspect(kept)) != told(inspectors.inspect(whole)):
                wrong.append((name, kept.client_port, kept.server_port))
    print(f"of real captures {dict(compared)}; not kept whole: {dict(blanked)}")
    assert blanked["rpc"]
    assert blanked["smb"]
    assert wrong == []
