"""The network: one namespace for each host, one bridge between them, one port that sees everything.

Every interface is made inside a namespace of this laboratory, so nothing of the machine is touched and nothing can
leave: there is no route out. The bridge forgets addresses at once (ageing time 0), so that it repeats each frame to
every port, the capture port among them, once. Hosts have single addresses and find everybody by ARP.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

from captures.makers.scene import Host

PREFIX = "exlab"
NAMES = Path("/run/netns")
SWITCH, MONITOR = "switch", "monitor"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 180
"""How long a server may take to begin and a client to end, on a busy machine."""
WIRE = "captures.lab.programs.wire"
LOSSY_MIRROR = """table bridge lossy {
  chain forward { type filter hook forward priority 0; oifname "port" numgen inc mod 23 == 11 drop; }
}
"""
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
QUIET = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")


class LabError(Exception):
    """The laboratory cannot go on: what failed, and where to read more."""


def run(*words: str) -> str:
    """Run one command to its end; its standard output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@cache
def obstacle() -> str:
    """Why no namespaces can be made and entered here; "" if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux"
    name = f"{PREFIX}-{os.getpid()}-probe"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "exec", name, "true")
    except (LabError, FileNotFoundError) as error:
        return f"no namespaces here: {error}"
    finally:
        with suppress(LabError, FileNotFoundError):
            run("ip", "netns", "delete", name)
    return ""


class Network:
    """Namespaces of one scenario and the processes inside; a context manager that leaves nothing behind.

    folder: where logs and configurations go; owner: the laboratory's process.
    """

    def __init__(self, folder: Path, owner: int = 0) -> None:
        self.folder, self.owner = folder, owner or os.getpid()
        self.hosts: dict[str, Host] = {}
        self.processes: list[subprocess.Popen[str]] = []
        self._spaces: list[str] = []
        self._ports_of: dict[str, str] = {}
        mounts = {"neighbours": "/etc/hosts", "no-resolver": "/etc/resolv.conf"}
        mount = "".join(f"mount --bind {shlex.quote(str(folder / name))} {path} && " for name, path in mounts.items())
        self._becomes = f'hostname "$0" && {mount}exec "$@"'
        """What a shell does before it becomes a program of a host; `ip netns exec` keeps mounts apart."""

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
        return f"{PREFIX}-{self.owner}-{space}"

    def ip(self, space: str, *words: str) -> str:
        """`ip` on the interfaces of one namespace."""
        return run("ip", "-n", self.name(space), *words)

    def _space(self, space: str) -> None:
        self._spaces.append(space)
        run("ip", "netns", "add", self.name(space))
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
        self._ports_of[space] = port
        self._plain(space, device)

    def _plain(self, space: str, device: str) -> None:
        """Switch an interface on, and its offloads off."""
        self.inside(space, "ethtool", "-K", device, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off")
        self.ip(space, "link", "set", device, "up")

    def add(self, host: Host) -> Host:
        """Plug a host in, at its own address."""
        if host.name in self.hosts:
            return host
        self._space(host.name)
        self._cable(host.name, "eth0", host.mac)
        self._address(host, "eth0")
        self._introduce(host)
        return host

    def _introduce(self, host: Host) -> None:
        """Make a host known by its name to all."""
        self.hosts[host.name] = host
        lines = "".join(f"{each.address} {each.fqdn} {each.name}\n" for each in self.hosts.values())
        (self.folder / "neighbours").write_text(f"127.0.0.1 localhost\n{lines}")
        (self.folder / "no-resolver").touch()

    def _address(self, host: Host, device: str) -> None:
        """The address of a host, and everybody else behind this interface."""
        if host.is_v6:
            self.inside(host.name, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0")
            self.ip(host.name, "-6", "addr", "add", f"{host.address}/128", "dev", device, "nodad")
            self.ip(host.name, "-6", "route", "add", "default", "dev", device)
            return
        self.ip(host.name, "addr", "add", f"{host.address}/32", "dev", device)
        self.ip(host.name, "route", "add", "default", "dev", device)

    # ---- conditions ------------------------------------------------------------------------------

    def pair(self, space: str, one: str, other: str, mtu: int = 9000) -> None:
        """A veth inside one namespace, both ends up."""
        self.ip(space, "link", "add", one, "mtu", str(mtu), "type", "veth", "peer", "name", other, "mtu", str(mtu))
        for device in (one, other):
            self.ip(space, "link", "set", device, "up")

    def filter(self, space: str, rules: str) -> None:
        """Rules of nftables in a namespace."""
        path = self.folder / f"{space}.nft"
        path.write_text(rules)
        self.inside(space, "nft", "-f", str(path))

    def behind(self, host: Host, router: Host, rules: str) -> Host:
        """Plug a router in, and a host behind it; rules: of nftables, on the router."""
        self.add(router)
        self._space(host.name)
        self.ip(
            router.name, "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "address", host.mac,
            "netns", self.name(host.name),
        )  # fmt: skip
        for space, device in ((router.name, "inside"), (host.name, "eth0")):
            self._plain(space, device)
        self.inside(
            router.name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.inside.proxy_arp=1",
            "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.inside.rp_filter=0",
        )  # fmt: skip
        self._address(host, "eth0")
        self.ip(router.name, "route", "add", f"{host.address}/32", "dev", "inside")
        self.filter(router.name, rules)
        self._introduce(host)
        return host

    def restless(self, host: Host) -> None:
        """Put the wire that reorders and repeats (programs/wire.py) between a host and the bridge."""
        port = self._ports_of[host.name]
        self.pair(SWITCH, f"{port}a", f"{port}b", 1500)
        self.ip(SWITCH, "link", "set", port, "nomaster")
        self.ip(SWITCH, "link", "set", f"{port}b", "master", "br0")
        words = (sys.executable, "-m", WIRE, "restless", port, f"{port}a")
        self.start(SWITCH, words, f"wire-{host.name}.log")

    def mirrors(self, kinds: Sequence[str]) -> None:
        """More capture ports, named after what a mirror does to frames; `vxlan` and `lossy` are the kernel's own.

        The capture port is bridged to a VXLAN device and to a port before which nftables drops every 23rd frame.
        """
        self.ip(MONITOR, "link", "add", "br1", "mtu", "1500", "type", "bridge", "ageing_time", "0", "stp_state", "0")
        self.ip(MONITOR, "link", "set", "mirror", "master", "br1")
        self.ip(MONITOR, "link", "set", "br1", "up")
        self.pair(MONITOR, "underlay", "vxlan")
        self.ip(MONITOR, "addr", "add", "10.99.0.1/24", "dev", "underlay")
        self.ip(MONITOR, "neigh", "add", "10.99.0.2", "lladdr", "02:20:00:00:00:02", "dev", "underlay")
        self.ip(
            MONITOR, "link", "add", "tunnel", "mtu", "8000", "type", "vxlan", "id", "42", "remote", "10.99.0.2",
            "local", "10.99.0.1", "dstport", "4789", "dev", "underlay",
        )  # fmt: skip
        self.pair(MONITOR, "port", "lossy")
        for device in ("tunnel", "port"):
            self.ip(MONITOR, "link", "set", device, "master", "br1", "up")
        self.filter(MONITOR, LOSSY_MIRROR)
        for kind in kinds:
            self.pair(MONITOR, f"{kind}-port", kind)
        words = (sys.executable, "-m", WIRE, "mirror", "mirror", *(f"{kind}={kind}-port" for kind in kinds))
        self.start(MONITOR, words, "mirrors.log")

    # ---- processes -------------------------------------------------------------------------------

    def inside(self, space: str, *words: str) -> str:
        """Run one command inside a namespace, to its end; its standard output."""
        return run("ip", "netns", "exec", self.name(space), *words)

    def start(
        self, space: str, words: Sequence[str], log: str, *, env: dict[str, str] | None = None, pipe: bool = False
    ) -> subprocess.Popen[str]:
        """Start a process inside a namespace; both its outputs go to the file `log` in the folder.

        On a host it knows that host's name and its neighbours', and nothing of the machine's: programs tell such names,
        and wait long for resolvers that nobody reaches.
        """
        named = ("unshare", "--uts", "sh", "-c", self._becomes, space) if space in self.hosts else ()
        with (self.folder / log).open("a") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name(space), *named, *words],
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **(env or {})},
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def call(self, space: str, words: Sequence[str], log: str, *, env: dict[str, str] | None = None,
             seconds: float = PATIENCE_SECONDS, fails: bool = False) -> str:  # fmt: skip
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
        """End every process inside, remove every namespace; its interfaces go with it. Interruptions wait for it."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
        try:
            self._close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _close(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._signal(sign):
                deadline = time.monotonic() + 3
                while self._pids() and time.monotonic() < deadline:
                    time.sleep(0.05)
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)
            if process.stdin is not None:
                process.stdin.close()
        while self._spaces:
            subprocess.run(["ip", "netns", "del", self.name(self._spaces.pop())], capture_output=True, check=False)

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


def owner_of(name: str) -> int:
    """The process that made this namespace or folder, if it is a laboratory's and that process is no more; else 0."""
    prefix, _, rest = name.partition("-")
    owner = rest.partition("-")[0]
    return int(owner) if prefix == PREFIX and owner.isdecimal() and not Path("/proc", owner).exists() else 0


def folder_of(owner: int | str) -> Path:
    """A new folder for what a laboratory writes, which all accounts of its servers may enter.

    owner: its process; any other word for a folder that is to stay.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{owner}-"))
    folder.chmod(0o755)
    return folder


def sweep() -> None:
    """Remove what killed laboratories left behind, and the folder that `ip netns` mounts for names, if it has none."""
    left: dict[int, list[str]] = {}
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if owner := owner_of(name):
            left.setdefault(owner, []).append(name.split("-", 2)[2])
    for number, spaces in left.items():
        network = Network(Path(), number)
        network._spaces = spaces
        network.close()
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        if owner_of(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    if NAMES.is_dir() and not any(NAMES.iterdir()):
        subprocess.run(["umount", str(NAMES)], capture_output=True, check=False)
        with suppress(OSError):  # somebody else has begun to use it
            NAMES.rmdir()


def wait_for(true: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look until something is so, or give up."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
