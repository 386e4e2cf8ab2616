"""Mixed load for long: `python -m tests.bench.soak --minutes 30 [--flows 5000000]` as root on Linux.

A made capture is played at its own speed into a wire that exflow listens to. Meanwhile a scan opens millions of flows,
in bursts; every fifth is answered by a reset. What is checked: memory, every half second, against the bound that exflow
states; that received and dropped packets are those that were sent; and that the conversations of the made capture
have the labels and counts that a reading of its file gives. Those that say themselves that packets were lost meanwhile
(`capture_loss`) are counted apart, and what bounds kept out is told. Ends with status 1 if one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import classifier
from tests.wire import EXFLOW, ROOT, Wire, processor_seconds, sent, wired

BURSTS = 10
RATE = 40_000
"""Packets of the scan a second, in a burst."""

COMPARED = ("protocol", "data_paths", "certainty", "absence", "client_role", "server_role", "packets_to_server",
            "packets_to_client", "bytes_to_server", "bytes_to_client", "conn_state")  # fmt: skip


RECORD = 70
"""Bytes of a packet in a capture of the scan: 16 of its record, 54 of the frame."""


def scan(path: Path, first: int, flows: int) -> None:
    """Write a capture of `scanning`."""
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    path.write_bytes(header + scanning(first, flows).tobytes())


def scanning(first: int, flows: int) -> NDArray[np.uint8]:
    """Records of SYNs from one host to many ports of many hosts (172.16/12), every fifth answered by a RST."""
    number = first + np.arange(flows, dtype=np.int64)
    host, port = 0xAC10_0000 + number // 50_000, 1 + number % 50_000
    answered = number % 5 == 0
    order = np.argsort(np.concatenate([2 * number, 2 * number[answered] + 1]), kind="stable")
    back = np.concatenate([np.zeros(flows, np.bool_), np.ones(int(answered.sum()), np.bool_)])[order]
    host, port = (np.concatenate([each, each[answered]])[order] for each in (host, port))
    scanner, from_port = 0xC000_0263, np.full(len(host), 40_000)
    head = np.frombuffer(struct.pack("<IIII", 0, 0, 54, 54) + bytes(12) + b"\x08\0\x45\0\0\x28", np.uint8)
    packets = np.zeros((len(host), RECORD), np.uint8)
    packets[:, : len(head)] = head
    packets[:, 38], packets[:, 39] = 64, 6
    words = [
        (42, 4, np.where(back, host, scanner)),
        (46, 4, np.where(back, scanner, host)),
        (50, 2, np.where(back, port, from_port)),
        (52, 2, np.where(back, from_port, port)),
        (54, 4, np.where(back, 0, 1000)),
        (58, 4, np.where(back, 1001, 0)),
        (64, 2, np.full(len(host), 1024)),
    ]
    for at, size, values in words:
        packets[:, at : at + size] = values.astype(f">u{size}").view(np.uint8).reshape(-1, size)
    packets[:, 62], packets[:, 63] = 0x50, np.where(back, 0x14, 0x02)
    return packets


def made(folder: Path, minutes: float) -> Path:
    """The ordinary traffic, over all but the last half minute."""
    path, seconds = folder / "ordinary.pcap", max(60 * minutes - 30, 20)
    size = ["--packets", str(int(450 * seconds)), "--conversations", str(int(22 * seconds))]
    maker = [sys.executable, "-m", "tests.bench.make_capture", "-o", str(path), *size]
    subprocess.run([*maker, "--duration", str(seconds - 10)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return path


def resident(pid: int) -> int:
    """Bytes in memory, those of the ring among them (proc(5))."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


class Watch(threading.Thread):
    """Memory of a process, every half second, until it ends; and the processor time that it took."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.seen, self.seconds = pid, list[int](), 0.0

    def run(self) -> None:
        """Look until the process is gone."""
        while True:
            try:
                self.seen.append(resident(self.pid))
                self.seconds = processor_seconds(self.pid)
            except OSError:
                return
            time.sleep(0.5)


def load(wire: Wire, ordinary: Path, folder: Path, flows: int, minutes: float) -> int:
    """Send everything. Returns how many packets that were."""
    slow = subprocess.Popen(wire.player(ordinary), stdout=subprocess.PIPE, text=True)
    began, total, each = time.monotonic(), 0, flows // BURSTS
    for burst in range(BURSTS):
        scan(folder / "scan.pcap", burst * each, each)
        time.sleep(max(0.0, began + (burst + 0.5) * 60 * (minutes - 1) / BURSTS - time.monotonic()))
        total += wire.play(folder / "scan.pcap", "--pps", str(RATE))
        print(f"{time.monotonic() - began:5.0f} s: {(burst + 1) * each:,} flows of the scan", flush=True)
    said, _ = slow.communicate()
    return total + sent(said)


Ordinary = dict[str, Counter[str]]
"""What is compared of conversations, by community id."""


def ordinary_ones(table: Any) -> Ordinary:
    """The conversations of a result, without those of the scan."""
    found: Ordinary = {}
    for row in table:
        if not row["client_ip"].startswith(("172.16.", "192.0.2.")):
            wording = json.dumps([row[name] for name in COMPARED])
            found.setdefault(row["community_id"], Counter())[wording] += 1
    return found


def last_records(folder: Path) -> list[dict[str, Any]]:
    """The last record of each conversation."""
    names = ["id", "event", "client_ip", "community_id", "capture_loss", *COMPARED]
    last: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.parquet"), key=lambda each: each.stat().st_mtime_ns):
        table = pq.ParquetFile(path).read(columns=names)
        last.update((row["id"], row) for row in table.to_pylist() if not row["client_ip"].startswith("192.0.2."))
    return list(last.values())


def figure(said: str, name: str) -> int:
    found = re.search(rf"([\d,]+) {name}", said)
    return int(found[1].replace(",", "")) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--flows", type=int, default=5_000_000)
    parser.add_argument("--sniff", nargs="*", default=[], help="more options for exflow sniff, each as one word")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, wired(f"soak{os.getpid()}") as wire:
        folder = Path(name)
        ordinary, out = made(folder, options.minutes), folder / "out"
        expected = ordinary_ones(entry.to_dict() for entry in classifier.classify(ordinary))  # compiles, too
        command = wire.inside(*EXFLOW, "sniff", "tap", "--format", "parquet", "-o", str(out), *options.sniff)
        capture = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        while not wire.listeners():
            time.sleep(0.1)
        watch = Watch(capture.pid)
        watch.start()
        total = load(wire, ordinary, folder, options.flows, options.minutes)
        time.sleep(3)
        capture.send_signal(signal.SIGTERM)
        _, said = capture.communicate()
        print(said)
        return judge(said, total, watch, last_records(out), expected)


def judge(said: str, total: int, watch: Watch, records: list[dict[str, Any]], expected: Ordinary) -> int:
    """Print what was found. Returns 1 if a promise was broken."""
    bound = figure(said, "MiB") * 2**20
    kernel, interface = figure(said, "packets dropped by kernel"), figure(said, "packets dropped by interface")
    met = figure(said, "packets received") + kernel + interface
    print(f"sent {total:,}; received and dropped {met:,}, {kernel:,} of them by the kernel")
    quarters = [int(max(part)) >> 20 for part in np.array_split(watch.seen[10:], 4)]
    print(f"memory: at most {quarters} MiB in each quarter of the time; bound {bound >> 20} MiB")
    print(f"CPU: {watch.seconds:.0f} s")
    live, marked = ordinary_ones(records), {row["community_id"] for row in records if row["capture_loss"]}
    different = [key for key in expected.keys() | live.keys() if expected.get(key) != live.get(key)]
    lossy, different = len(marked.intersection(different)), [key for key in different if key not in marked]
    count = sum(map(Counter.total, expected.values()))
    print(f"ordinary conversations: {count:,}; other than in the file: {len(different)}, and {lossy} marked by loss")
    for bound_met in ("evicted", "unreported", "beyond revision", "without payload beyond revision"):
        print(f"conversations {bound_met}: {figure(said, f'conversations {bound_met}'):,}")
    for key in different[:8]:
        print("  file", dict(expected.get(key, {})), "live", dict(live.get(key, {})))
    return int(met != total or not bound or max(watch.seen) > bound or bool(different))


if __name__ == "__main__":
    raise SystemExit(main())
