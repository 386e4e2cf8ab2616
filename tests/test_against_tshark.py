"""Frames and headers of all real captures, side by side with tshark's.

tshark needs a quarter of a second to start, so that nearly all captures are joined for it into one (mergecap keeps
times and lengths); those that it can't join (damaged ones, mixed byte orders) are read one by one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import shared

from classifier.addresses import text
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
    "udp.dstport", "udp.length",
)  # fmt: skip
STATELESS = (
    "ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.relative_sequence_numbers:FALSE",
    "tcp.analyze_sequence_numbers:FALSE", "tcp.desegment_tcp_streams:FALSE",
)  # fmt: skip

Row = dict[str, str]


def tshark(path: Path) -> list[Row]:
    command = ["tshark", "-n", "-Q", "-r", str(path), "-T", "fields", "-E", "occurrence=l"]
    command += [word for name in FIELDS for word in ("-e", name)] + [w for o in STATELESS for w in ("-o", o)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in run.stdout.split("\n")[:-1]]


def readable(path: Path) -> int | None:
    """How many frames capinfos counts; None if the capture is damaged, or none, or has frames without a packet."""
    run = subprocess.run(["capinfos", "-Tmrc", str(path)], capture_output=True, text=True, check=False)
    if path.suffix == ".pcapng" and b"\x0b\xad" in path.read_bytes()[:200] + path.read_bytes()[:200][::-1]:
        return None
    return int(run.stdout.rsplit(",", 1)[1].strip().strip('"')) if run.returncode == 0 and run.stdout else None


def merged(paths: Sequence[Path], folder: str) -> list[list[Path]]:
    """The paths in groups that mergecap can join, each with its join's name in `folder` (its first path's number)."""
    if not paths:
        return []
    command = ["mergecap", "-a", "-F", "pcapng", "-w", f"{folder}/{_number(paths[0])}", *map(str, paths)]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return [list(paths)]
    half = len(paths) // 2
    return merged(paths[:half], folder) + merged(paths[half:], folder) if half else []


def _number(path: Path) -> int:
    return names().index(str(path.relative_to(shared.FOLDER)))


@cache
def names() -> list[str]:
    return shared.captures("real") + shared.captures("wrapped") + shared.captures("handshakes")


@cache
def rows_of_all() -> dict[str, list[Row]]:
    """What tshark says of each frame of each capture."""
    paths = [shared.FOLDER / name for name in names()]
    with ThreadPoolExecutor(2) as threads, tempfile.TemporaryDirectory() as folder:
        counts = dict(zip(paths, threads.map(readable, paths), strict=True))
        whole = [path for path in paths if counts[path]]
        parts = [whole[start : start + 64] for start in range(0, len(whole), 64)]
        groups = [group for found in threads.map(lambda part: merged(part, folder), parts) for group in found]
        found: dict[Path, list[Row]] = {}
        joins = threads.map(tshark, [Path(folder) / str(_number(group[0])) for group in groups])
        for group, rows in zip(groups, joins, strict=True):
            assert len(rows) == sum(counts[path] or 0 for path in group)
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
    for name, how in wrong.items():
        print(name, how)
    assert wrong == {}


# ---- headers ---------------------------------------------------------------------------


def _innermost(row: Row) -> Packet | None:
    """What tshark says of the innermost segment or datagram; None if there is none that counts."""
    layers = row["frame.protocols"].split(":")
    if "icmp" in layers or "icmpv6" in layers:
        return None
    transport = next((layer for layer in reversed(layers) if layer in ("tcp", "udp")), None)
    if transport is None:
        return None
    network = next(layer for layer in reversed(layers) if layer in ("ip", "ipv6"))
    ends = (row[network + ".src"], row[network + ".dst"])
    ports = int(row[transport + ".srcport"]), int(row[transport + ".dstport"])
    if transport == "udp":
        return Packet(0, 0, 0, UDP, (*ends, *ports), length=int(row["udp.length"]) - 8)
    flags = int(row["tcp.flags"], 16) & 0xFF
    numbers = int(row["tcp.seq"]), int(row["tcp.ack"] or 0), flags, int(row["tcp.len"] or 0)
    return Packet(0, 0, 0, TCP, (*ends, *ports), *numbers)


def test_headers() -> None:
    equal, differences, examples = 0, Counter(), {}
    for name, rows in rows_of_all().items():
        for number, (packet, row) in enumerate(zip(packets_of(name), rows, strict=False), 1):
            theirs = _innermost(row)
            ours = packet._replace(time=0, wire=0, captured=0) if packet.protocol in (TCP, UDP) else None
            if ours == theirs:
                equal += ours is not None
                continue
            kind = (
                "fragment"
                if packet.protocol == FRAGMENT
                else "ours only"
                if theirs is None
                else "theirs only"
                if ours is None
                else "other"
            )
            stack = row["frame.protocols"]
            differences[kind, stack] += 1
            examples.setdefault((kind, stack), (name, number, ours, theirs))
    print(f"{equal} equal")
    for key, count in differences.most_common(200):
        print(count, *key, *examples[key])
    assert not differences
