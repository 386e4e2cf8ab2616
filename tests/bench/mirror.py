"""Who keeps up with a mirror port: `python -m tests.bench.mirror CAPTURE [--rounds 3]` as root on Linux.

Two network namespaces are joined by a veth pair; tcpreplay plays the capture in one as fast as it goes, and each tool
in its turn listens in the other, to the same replay. Dropped is what was sent and did not reach the tool, and beside
it what the tool itself says of that. CPU is what a tool took from when it listened to its end. Figures of a busy
machine compare tools, and say nothing else.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.bench.race import machine
from tests.wire import EXFLOW, Wire, processor_seconds, run, sent, wired

SCAPY = """
from scapy.all import conf, sniff
seen = 0
def count(packet):
    global seen
    seen += 1
sniff(iface="tap", prn=count, store=False)
print(seen, "packets seen")
"""

SETTLE = 3
"""Seconds after the replay, in which a tool may still read what waits for it."""


@dataclass(frozen=True)
class Listener:
    """One tool. received, dropped: patterns of what it says of itself; ring: the room it gives the kernel."""

    name: str
    command: Sequence[str]
    ring: str
    received: str
    dropped: str = ""


@dataclass(frozen=True)
class Turn:
    """What one replay showed. rate: packets a second; own: drops that the tool itself tells, None if it tells none."""

    sent: int
    rate: float
    received: int
    own: int | None
    cpu: float
    memory: int


def listeners(scratch: Path) -> list[Listener]:
    """Whatever of them is installed here, each with its own defaults; tcpdump with exflow's ring besides."""
    dump, said = ["tcpdump", "-i", "tap", "-n", "-w", str(scratch / "out.pcap")], r"(\d+) packets captured"
    lost = r"(\d+) packets dropped by kernel"
    every = [
        Listener(
            "exflow sniff", [*EXFLOW, "sniff", "tap", "-o", str(scratch / "out.jsonl")], "256 MiB",
            r"(\d+) packets received", r"(\d+) packets dropped by kernel",
        ),
        Listener("tcpdump -w", dump, "2 MiB", said, lost),
        Listener("tcpdump -w -B 262144", [*dump, "-B", "262144"], "256 MiB", said, lost),
        Listener("ndpiReader", ["ndpiReader", "-i", "tap"], "2 MiB", r"of (\d+) packets total"),
        Listener("scapy sniff", [sys.executable, "-c", SCAPY], "socket buffer", r"(\d+) packets seen"),
    ]  # fmt: skip
    return [each for each in every if shutil.which(each.command[0])]


def turn(wire: Wire, listener: Listener, capture: Path) -> Turn:
    """Let one tool listen to one replay."""
    with tempfile.TemporaryFile() as output:
        process = wire.start(wire.inside(*listener.command), stdout=output, stderr=output)
        while not wire.listeners():
            if process.poll() is not None:
                raise ChildProcessError(f"{listener.name} ended with {process.returncode}")
            time.sleep(0.1)
        time.sleep(1)
        before = processor_seconds(process.pid)
        played = run(*wire.player(capture, "--topspeed", "--preload-pcap"))
        time.sleep(SETTLE)
        process.send_signal(signal.SIGINT)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        output.seek(0)
        said = output.read().decode(errors="replace")
    rate = float(re.findall(r"([\d.]+) pps", played)[-1])
    own = figure(listener.dropped, said) if listener.dropped else None
    cpu = usage.ru_utime + usage.ru_stime - before
    return Turn(sent(played), rate, figure(listener.received, said), own, cpu, usage.ru_maxrss * 1024)


def figure(pattern: str, said: str) -> int:
    """A number among what a tool said. Raises ValueError with all it said if it isn't there."""
    found = re.search(pattern, said)
    if not found:
        raise ValueError(f"no {pattern!r} in: {said}")
    return int(found[1])


def results(capture: Path, turns: dict[str, list[Turn]], rings: dict[str, str]) -> Table:
    """A line for each tool: the median rate and CPU, and the most that was dropped in a round."""
    rounds = max(map(len, turns.values()))
    table = Table(title=f"{capture}: {rounds} rounds each; rate and CPU are medians, dropped is the worst round")
    for heading in ("tool", "ring", "sent", "packets/s", "received", "dropped", "says itself", "CPU s", "peak MB"):
        table.add_column(heading, justify="left" if heading in ("tool", "ring") else "right")
    for name, own in turns.items():
        worst = max(own, key=lambda each: each.sent - each.received)
        table.add_row(
            name,
            rings[name],
            f"{worst.sent:,}",
            f"{median(each.rate for each in own):,.0f}",
            f"{worst.received:,}",
            f"{worst.sent - worst.received:,}",
            "-" if worst.own is None else f"{worst.own:,}",
            f"{median(each.cpu for each in own):.1f}",
            f"{max(each.memory for each in own) / 1e6:,.0f}",
        )
    return table


def main(argv: Sequence[str]) -> None:
    """Let each tool listen, round after round, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mirror", description=__doc__)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="only tools whose name begins so")
    options = parser.parse_args(argv)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch, wired(f"mirror{os.getpid()}") as wire:
        every = listeners(Path(scratch))
        every = [each for each in every if not options.only or each.name.startswith(tuple(options.only))]
        for each in every[:1]:
            turn(wire, each, options.capture)  # exflow compiles for the machine, once
        turns: dict[str, list[Turn]] = {each.name: [] for each in every}
        for _ in range(options.rounds):
            for each in every:
                turns[each.name].append(turn(wire, each, options.capture))
    console.print(results(options.capture, turns, {each.name: each.ring for each in every}))
    console.print(machine())


if __name__ == "__main__":
    main(sys.argv[1:])
