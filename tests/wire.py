"""A wire to listen to: two network namespaces joined by a veth pair. Packets are played in one, and seen in the other.

Needs root, iproute2 and tcpreplay.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXFLOW = [sys.executable, "-c", "from classifier.cli import main; main()"]


def run(*command: str) -> str:
    """What a command prints. Raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Wire:
    """far: the namespace that sends, by its interface `out`; near: the one that listens, to `tap`."""

    far: str
    near: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: list[str], **streams: Any) -> subprocess.Popen[str]:
        """Start a command that ends with the wire at the latest."""
        self.started.append(subprocess.Popen(command, text=True, cwd=ROOT, **streams))
        return self.started[-1]

    def join(self) -> None:
        """Make the interfaces; frames may have 9000 bytes."""
        run("ip", "-n", self.far, "link", "add", "out", "type", "veth", "peer", "name", "tap", "netns", self.near)
        run("ip", "-n", self.far, "link", "set", "out", "mtu", "9000", "up")
        run("ip", "-n", self.near, "link", "set", "tap", "mtu", "9000", "up")

    def inside(self, *command: str) -> list[str]:
        """A command for the listening side."""
        return ["ip", "netns", "exec", self.near, *command]

    def player(self, capture: Path, *pace: str) -> list[str]:
        """A command that plays a capture; pace: options of tcpreplay."""
        return ["ip", "netns", "exec", self.far, "tcpreplay", *pace, "-i", "out", str(capture)]

    def play(self, capture: Path, *pace: str) -> int:
        """Play a capture, as fast as it goes unless pace says otherwise. Returns packets sent."""
        return sent(run(*self.player(capture, *(pace or ("--topspeed",)))))

    def link(self, *words: str) -> None:
        """`ip link ...` on the listening side."""
        run(*self.inside("ip", "link", *words))

    def listeners(self) -> int:
        """How many packet sockets are bound to all protocols (packet(7))."""
        sockets = run(*self.inside("cat", "/proc/net/packet")).splitlines()[1:]
        return sum(line.split()[3] == "0003" for line in sockets)


def sent(said: str) -> int:
    """How many packets tcpreplay says it sent."""
    found = re.search(r"Actual: (\d+) packets", said)
    return int(found[1]) if found else 0


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def wired(name: str) -> Iterator[Wire]:
    """A wire between namespaces of that name. Raises CalledProcessError where none can be made."""
    wire = Wire(f"{name}far", f"{name}near")
    quiet = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    try:
        for space in (wire.far, wire.near):
            run("ip", "netns", "add", space)
            run("ip", "netns", "exec", space, "sysctl", "-qw", *quiet)
        wire.join()
        yield wire
    finally:
        for each in wire.started:
            with each:
                each.kill()
        for space in (wire.far, wire.near):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
