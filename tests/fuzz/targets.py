"""What is fuzzed: any bytes as a capture, any packets of any link type, and each inspector with any dialogue.

A target turns bytes into what the product reads, runs it, checks what must always hold, and tells which features
the outcome had: lines of inspectors that ran (Python can be watched), kinds of outcome (compiled kernels can't).
"""

from __future__ import annotations

import json
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from classifier import inspectors
from classifier.assembly import Assembling, Assembly, Patience, assemble, decode_batch
from classifier.conclusion import Knowledge, conclude, named_ports, read
from classifier.crew import Crew
from classifier.dialogues import dialogues as dialogues_of
from classifier.dialogues import read_stream
from classifier.headers import HeaderColumns
from classifier.inspectors.base import NOT_THIS, Chunk, Dialogue, Evidence, Inspect, Stream
from classifier.orientation import first_look
from classifier.packets import Interfaces, PacketBatch, PacketColumns
from classifier.records import write_jsonl
from classifier.rulebook import Rulebook, load
from classifier.sources import CaptureSet
from tests.fuzz.engine import LARGEST, Features, Target
from tests.inspectors.playbook import check

SHIPPED = Path(__file__).parents[2] / "captures"
LINKS = (1, 101, 113, 276, 0, 9, 12, 14, 50, 51, 104, 108, 228, 229, 147)
PORTS = (0, 25, 53, 80, 88, 110, 119, 135, 143, 389, 443, 445, 593, 691, 808, 3268, 3343, 5060, 5353, 5355, 40000,
         50000)  # fmt: skip

HEADERS = tuple(map(bytes.fromhex, (
    "0800", "86dd", "8100", "88a8", "9100", "8847", "8848", "8864", "6558", "88be", "22eb", "880b", "88e7", "8926",
    "45000028000100004006", "450000281234200040", "6000000000140640", "60000000001c2c40", "0600000112345678",
    "0000000112b512b5", "08000000", "00002a00", "17c117c1", "00006558", "08680868", "34ff", "30ff", "1000", "2000",
    "0011", "0021", "0057", "ff03", "0a0d0d0a", "4d3c2b1a", "1a2b3c4d", "d4c3b2a1", "a1b2c3d4", "4d3cb2a1", "34cdb2a1",
    "06000000", "03000000", "02000000", "01000000", "05000b03", "05000c03", "16030100", "fe534d42", "ff534d42",
)))  # fmt: skip
"""Ethertypes, heads of headers, magic numbers and block types."""


def captures(folders: Sequence[Path]) -> Iterator[Path]:
    """The shipped captures, then those of the folders, small ones first."""
    for folder in (SHIPPED, *folders):
        yield from sorted(
            (path for path in folder.rglob("*") if path.suffix in (".pcap", ".pcapng", ".cap")),
            key=lambda path: path.stat().st_size,
        )


@cache
def rulebook() -> Rulebook:
    return load(None)


# ---- a capture ---------------------------------------------------------------------------


def run_capture(data: bytes) -> Features:
    """Any bytes as a file, through the whole way to JSON lines."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        found = CaptureSet.of([file.name])
        with Assembling(found, 1, patience=Patience(0, 0)) as assembling:
            reading = read(assembling, rulebook(), Crew())
        result = conclude(found, assembling.assembly, Knowledge(rulebook()), 1, reading)
    out = BytesIO()
    write_jsonl(result.table, out)
    for damage in result.damages:
        yield "damage", re.sub(r"\d+", "", damage.reason)
    for name, count in result.counters.items():
        yield name, count.bit_length()
    for line in out.getvalue().splitlines():
        yield from _told(json.loads(line))


def _told(row: dict[str, Any]) -> Iterator[Hashable]:
    assert (row["certainty"] is None) != (row["absence"] is None)
    yield row["protocol"], row["conn_state"]
    yield row["protocol"], row["certainty"], row["absence"], row["orientation"]
    yield "path", row["data_path"], row["certainty"]
    yield "stack", len(row["vlan"]), *(tunnel.partition(":")[0] for tunnel in row["tunnel"])
    yield "shape", row["missed_bytes"] > 0, row["duplicate_packets"].bit_length(), len(row["rpc_interfaces"])
    yield "session", row["protocol"], row["authentication"], row["encryption"]


def capture_seeds(folders: Sequence[Path]) -> Iterator[bytes]:
    """Whole captures, and the beginnings of large ones."""
    for path in captures(folders):
        with path.open("rb") as file:
            yield file.read(LARGEST)


# ---- packets -------------------------------------------------------------------------------


def run_packets(data: bytes) -> Features:
    """Packets of any link type: an octet for that, then (length, bytes cut off, time step) before each."""
    batch, interfaces = _batch(data)
    assembly, headers = Assembly(), HeaderColumns.empty(max(batch.count, 1))
    decoded = decode_batch(batch, interfaces, headers, assembly)
    assembly.table.add(decoded.batch, decoded.headers, decoded.data, decoded.completed)
    table = assembly.table
    assert int(table.store.flows["packets"][: 2 * table.count].sum()) <= batch.count
    for row in range(batch.count):
        stack = int(headers.encapsulation[row])
        yield "stack", int(headers.protocol[row]), *(kind for kind, _ in assembly.encapsulations._elements(stack))
        yield "payload", int(headers.payload_captured[row]).bit_length(), int(headers.payload_length[row]).bit_length()
    for number in range(2 * table.count):
        flow = table.store.flows[number]
        stream = read_stream(table.store, number, int(table.rows["protocol"][number // 2]))
        assert sum(len(chunk.data) for chunk in stream.chunks) <= len(decoded.data)
        yield "flow", int(flow["flags"]), len(stream.chunks), stream.limited, int(flow["missed"]).bit_length()
    yield "fragments", len(decoded.completed), assembly.reassembler.overlaps, assembly.reassembler.unfinished


def _batch(data: bytes) -> tuple[PacketBatch, Interfaces]:
    interfaces, position, time = Interfaces(), 1, 0
    interfaces.add(LINKS[data[0] % len(LINKS)] if data else 1, 6)
    found: list[tuple[int, int, int, int]] = []
    while position + 4 <= len(data) and len(found) < 1000:
        size, cut, step = struct.unpack_from(">HBB", data, position)
        size = min(size, len(data) - position - 4)
        time += step * 1_000_000
        found.append((position + 4, size, size + cut, time))
        position += 4 + size
    columns = PacketColumns.empty(max(len(found), 1))
    for column, values in zip(columns, zip(*found, strict=True), strict=False):
        column[: len(found)] = values
    columns.interface[:], columns.frame[:] = 0, np.arange(1, len(columns.frame) + 1)
    return PacketBatch(np.frombuffer(data or b"\0", np.uint8), columns, len(found)), interfaces


def packet_seeds(folders: Sequence[Path]) -> Iterator[bytes]:
    """Packets of the captures, twenty at a time, by the link type of the first."""
    for path in captures(folders):
        read = CaptureSet.of([path])
        for batch in read.batches():
            for start in range(0, batch.count, 20):
                rows = range(start, min(start + 20, batch.count))
                link = int(read.interfaces.link_type[batch.columns.interface[start]])
                yield bytes([LINKS.index(link) if link in LINKS else 0]) + b"".join(_packet(batch, row) for row in rows)


def _packet(batch: PacketBatch, row: int) -> bytes:
    begin, size = int(batch.columns.offset[row]), min(int(batch.columns.captured[row]), 4000)
    return struct.pack(">HBB", size, 0, 1) + batch.data[begin : begin + size].tobytes()


# ---- inspectors ----------------------------------------------------------------------------


def run_inspector(ask: Inspect, data: bytes) -> Features:
    """One inspector and any dialogue."""
    dialogue = read_dialogue(data)
    lines: set[Hashable] = set()
    before = sys.gettrace()
    sys.settrace(partial(_lines, lines))
    try:
        found = ask(dialogue)
    finally:
        sys.settrace(before)
    check(found, dialogue)
    return lines


def _lines(seen: set[Hashable], frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
    """Trace function: which line of the inspectors follows which."""
    code: CodeType = frame.f_code
    if "/inspectors/" not in code.co_filename:
        return None
    last = 0

    def line(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        nonlocal last
        seen.add((code, last, frame.f_lineno))
        last = frame.f_lineno
        return line

    return line


def read_dialogue(data: bytes) -> Dialogue:
    """A dialogue from any bytes: flags, two ports, then pieces of (side and gap, length, bytes)."""
    flags, server, client = (data + bytes(3))[:3]
    kind, position = "udp" if flags & 1 else "tcp", 3
    pieces: tuple[list[Chunk], list[Chunk]] = ([], [])
    ends = [0, 0]
    while position + 3 <= len(data):
        step, size = struct.unpack_from(">BH", data, position)
        content, side, gap = data[position + 3 : position + 3 + size], step >> 7, 0 if flags & 1 else step & 0x7F
        position += 3 + size
        if not content:
            continue
        if pieces[side] and gap == 0 and kind == "tcp":  # what touches is one piece
            offset, before = pieces[side].pop()
            pieces[side].append(Chunk(offset, before + content))
        else:
            pieces[side].append(Chunk(ends[side] + gap, content))
        ends[side] += gap + len(content)
    streams = [
        Stream(tuple(pieces[side]), kind == "udp" or bool(flags & (4 << side)), bool(flags & 16), bool(flags & 32))
        for side in (0, 1)
    ]
    return Dialogue(
        kind, streams[0], streams[1], PORTS[server % len(PORTS)], PORTS[client % len(PORTS)], bool(flags & 2)
    )


def write_dialogue(dialogue: Dialogue) -> bytes:
    """The bytes that `read_dialogue` reads as it, but for large gaps and other ports."""
    flags = (dialogue.transport == "udp") | dialogue.oriented << 1 | dialogue.to_server.started << 2
    flags |= dialogue.to_client.started << 3
    ports = [PORTS.index(port) if port in PORTS else len(PORTS) - 2 for port in (dialogue.server_port, 0)]
    written, pieces = bytes([flags, *ports]), []
    for side, stream in enumerate((dialogue.to_server, dialogue.to_client)):
        end = 0
        for chunk in stream.chunks:
            gap = min(chunk.offset - end, 0x7F)
            end = chunk.offset + len(chunk.data)
            for start in range(0, len(chunk.data), 0xFFFF):
                piece = chunk.data[start : start + 0xFFFF]
                pieces.append(struct.pack(">BH", side << 7 | (0 if start else gap), len(piece)) + piece)
    return written + b"".join(pieces)


@cache
def dialogues(folders: tuple[Path, ...]) -> tuple[Dialogue, ...]:
    """What the captures hold, as inspectors see it."""
    found = []
    for path in captures(folders):
        table = assemble(CaptureSet.of([path]), jobs=1).table
        found += dialogues_of(table, first_look(table, named_ports(rulebook())), np.arange(table.count))
    return tuple(found)


def dialogue_seeds(ask: Inspect, folders: Sequence[Path]) -> Iterable[bytes]:
    """The dialogues that this inspector says something about, once each, and a few others."""
    known = {
        write_dialogue(each): isinstance(ask(each), Evidence) or ask(each) is not NOT_THIS
        for each in dialogues(tuple(folders))
    }
    own = sorted((data for data, meant in known.items() if meant and len(data) <= LARGEST), key=len)
    return [*own, *sorted((data for data, meant in known.items() if not meant), key=len)[:50]]


TARGETS = {
    target.name: target
    for target in (
        Target("capture", run_capture, capture_seeds, HEADERS),
        Target("packets", run_packets, packet_seeds, HEADERS),
        *(
            Target(name, partial(run_inspector, ask), partial(dialogue_seeds, ask))
            for name, ask in inspectors.INSPECTORS.items()
        ),
    )
}
