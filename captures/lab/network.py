"""The network: one namespace for each host, one bridge between them, one port that sees everything.

Every interface is made inside a namespace of this laboratory, so nothing of the machine is touched and nothing can
leave: there is no route out. The bridge forgets addresses at once (ageing time 0), so that it repeats each frame to
every port, the capture port among them, once. Hosts have single addresses and find everybody by ARP.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from captures.makers.scene import Host

PREFIX = "exlab"
SWITCH, MONITOR = "switch", "monitor"
ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60
QUIET = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")


class LabError(Exception):
    """The laboratory cannot go on: what failed, and where to read more."""


def run(*words: str) -> str:
    """Run one command to its end; its standard output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Namespaces of one scenario and the processes inside; a context manager that leaves nothing behind.

    folder: where logs and configurations go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self.processes: list[subprocess.Popen[str]] = []
        self._spaces: list[str] = []

    def __enter__(self) -> Network:
        try:
            self._space(SWITCH)
            self._space(MONITOR)
            self.ip(SWITCH, "link", "add", "br0", "type", "bridge", "ageing_time", "0", "stp_state", "0")
            self.ip(SWITCH, "link", "set", "br0", "up")
            self._cable(MONITOR, "mirror")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- namespaces ------------------------------------------------------------------------------

    def name(self, space: str) -> str:
        """The namespace's name on this machine; the process id keeps two laboratories apart."""
        return f"{PREFIX}-{os.getpid()}-{space}"

    def ip(self, space: str, *words: str) -> str:
        """`ip` on the interfaces of one namespace."""
        return run("ip", "-n", self.name(space), *words)

    def _space(self, space: str) -> None:
        run("ip", "netns", "add", self.name(space))
        self._spaces.append(space)
        self.inside(space, "sysctl", "-qw", *QUIET)
        self.ip(space, "link", "set", "lo", "up")

    def _cable(self, space: str, device: str, mac: str = "") -> None:
        """A veth between the bridge and one namespace, without offloads: frames are as they would be on a wire."""
        port = f"p{len(self._spaces)}"
        address = ["address", mac] if mac else []
        self.ip(
            SWITCH, "link", "add", port, "type", "veth", "peer", "name", device, *address, "netns", self.name(space)
        )
        self.ip(SWITCH, "link", "set", port, "master", "br0", "up")
        self.inside(space, "ethtool", "-K", device, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off")
        self.ip(space, "link", "set", device, "up")

    def add(self, host: Host) -> Host:
        """Plug a host in, at its own address."""
        if host.name in self.hosts:
            return host
        self._space(host.name)
        self._cable(host.name, "eth0", host.mac)
        self.ip(host.name, "addr", "add", f"{host.address}/32", "dev", "eth0")
        self.ip(host.name, "route", "add", "default", "dev", "eth0")
        self.hosts[host.name] = host
        return host

    # ---- processes -------------------------------------------------------------------------------

    def inside(self, space: str, *words: str) -> str:
        """Run one command inside a namespace, to its end; its standard output."""
        return run("ip", "netns", "exec", self.name(space), *words)

    def start(
        self, space: str, words: Sequence[str], log: str, *, env: dict[str, str] | None = None, pipe: bool = False
    ) -> subprocess.Popen[str]:
        """Start a process inside a namespace; both its outputs go to the file `log` in the folder."""
        with (self.folder / log).open("a") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name(space), *words],
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **(env or {})},
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def call(self, space: str, words: Sequence[str], log: str, *, env: dict[str, str] | None = None,
             seconds: float = 60, fails: bool = False) -> str:  # fmt: skip
        """Run a client inside a namespace to its end; what it printed. fails: its exit status is of no interest."""
        process = self.start(space, words, log, env=env)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{' '.join(words)}: not done after {seconds} s, see {self.folder / log}") from error
        if status and not fails:
            raise LabError(f"{' '.join(words)}: exit status {status}, see {self.folder / log}")
        return (self.folder / log).read_text(errors="replace")

    def listening(self, space: str, *ports: int) -> None:
        """Wait until something listens on all these ports of a namespace (without asking it anything)."""
        wait_for(lambda: set(ports) <= self._ports(space), f"{space} to listen on {ports}")

    def _ports(self, space: str) -> set[int]:
        lines = self.inside(space, "ss", "-Hlnt").splitlines()
        return {int(line.split()[3].rpartition(":")[2]) for line in lines}

    def close(self) -> None:
        """End every process inside, remove every namespace; its interfaces go with it."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._signal(sign):
                deadline = time.monotonic() + 3
                while self._pids() and time.monotonic() < deadline:
                    self._reap()
                    time.sleep(0.05)
        self._reap()
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        while self._spaces:
            subprocess.run(["ip", "netns", "del", self.name(self._spaces.pop())], capture_output=True, check=False)

    def _reap(self) -> None:
        for process in self.processes:
            process.poll()

    def _pids(self) -> list[int]:
        listed = [
            subprocess.run(["ip", "netns", "pids", self.name(space)], capture_output=True, text=True, check=False)
            for space in self._spaces
        ]
        return [int(word) for done in listed for word in done.stdout.split()]

    def _signal(self, sign: signal.Signals) -> bool:
        pids = self._pids()
        for pid in pids:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
        return bool(pids)


def wait_for(true: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Look until something is so, or give up."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
