"""The laboratory as scenarios use it: hosts, servers, clients, recordings, and what is true of them."""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captures.lab.network import MONITOR, Network, run, wait_for
from captures.lab.truth import Announced, Expected, conversations
from captures.makers.catalogue import inventory, table
from captures.makers.organisation import PLACES
from captures.makers.scene import Host, Truth

SETTLE_SECONDS = 0.4
Play = Callable[["Laboratory"], None]


@dataclass(frozen=True)
class Scenario:
    """Who talks to whom. packages: the Debian packages whose versions are worth recording."""

    name: str
    about: str
    play: Play
    packages: tuple[str, ...] = ()


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, about: str, *packages: str) -> Callable[[Play], Play]:
    """Enter a function into the list of scenarios."""

    def enter(play: Play) -> Play:
        SCENARIOS[name] = Scenario(name, about, play, packages)
        return play

    return enter


@dataclass
class Recording:
    """One capture: its name, what it shows, what is true in it; keylog: the session keys that clients kept.

    damage: what the way of recording takes away, as the excuse for what a reader can't see.
    """

    name: str
    about: str
    damage: str = ""
    expected: list[Expected] = field(default_factory=list)
    keylog: str = ""

    @property
    def file(self) -> str:
        return f"{self.name}.pcap"


class Laboratory:
    """One scenario being played. out: where captures go; folder: where logs, configurations and keys go."""

    def __init__(self, item: Scenario, network: Network, out: Path) -> None:
        self.item, self.network, self.out = item, network, out
        self.recordings: list[Recording] = []
        self.known: list[Host] = []

    @property
    def folder(self) -> Path:
        return self.network.folder

    # ---- hosts -----------------------------------------------------------------------------------

    def host(self, key: str) -> Host:
        """A host of the organisation (captures/makers/organisation.py), plugged in and in the inventory."""
        name, address, role, version = PLACES[key]
        return self.plug(Host(name, address, (role,), version))

    def plug(self, host: Host) -> Host:
        if host.name not in self.network.hosts:
            self.network.add(host)
            self.known.append(host)
        return self.network.hosts[host.name]

    # ---- processes -------------------------------------------------------------------------------

    def start(self, host: Host, *words: str, log: str = "", **options: Any) -> Any:
        """Start a server on a host."""
        return self.network.start(host.name, words, log or f"{host.name}-{Path(words[0]).name}.log", **options)

    def call(self, host: Host, *words: str, log: str = "", **options: Any) -> str:
        """Run a client on a host to its end; what it printed."""
        return self.network.call(host.name, words, log or f"{host.name}-{Path(words[0]).name}.log", **options)

    def listening(self, host: Host, *ports: int) -> None:
        """Wait until a host's servers listen on these ports."""
        self.network.listening(host.name, *ports)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A configuration file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    # ---- recording -------------------------------------------------------------------------------

    @contextmanager
    def record(
        self, name: str, about: str, *, port: str = "mirror", only: str = "tcp", snap: int = 0, damage: str = ""
    ) -> Iterator[Recording]:
        """Record what crosses the bridge while the body runs.

        port: which capture port (`Network.mirrors` makes more); only: tcpdump's filter; snap: bytes of each frame.
        """
        recording = Recording(name, about, damage)
        path, log = self.folder / recording.file, f"tcpdump-{name}.log"
        words = (
            "tcpdump", "-n", "-i", port, "-s", str(snap), "-Z", "root", "--immediate-mode", "-U", "-w", str(path),
            *only.split(),
        )  # fmt: skip
        process = self.network.start(MONITOR, words, log)
        wait_for(lambda: "listening on" in (self.folder / log).read_text(), "tcpdump")
        try:
            yield recording
            time.sleep(SETTLE_SECONDS)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(10)
        self.recordings.append(recording)

    def expect(
        self, recording: Recording, server: Host, port: int, truth: Truth, *, client: Host | None = None,
        client_port: int = 0, announced: Announced | None = None, transport: str = "tcp",
    ) -> None:  # fmt: skip
        """Say what is true of conversations with a port of a server (of one client, from one port)."""
        address = client.address if client else ""
        recording.expected.append(Expected(server.address, port, truth, address, client_port, announced, transport))

    # ---- writing down ----------------------------------------------------------------------------

    def entry(self, recording: Recording) -> str:
        """Put a capture and its inventory where they are to stay, and make its entry of the index."""
        path = self.folder / recording.file
        facts, frames = conversations(path, recording.expected, recording.damage)
        present = {end[0] for fact in facts for end in (fact["client"], fact["server"])}
        known = [host for host in self.known if host.role and host.address in present]
        head: dict[str, Any] = {
            "file": recording.file,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "made_by": f"python -m captures.lab {self.item.name}",
            "about": recording.about,
            "servers": versions(self.item.packages),
            "frames": frames,
        }
        shutil.copyfile(path, self.out / path.name)
        if known:
            head["inventory"] = f"{recording.name}.inventory.toml"
            (self.out / head["inventory"]).write_text(inventory(known))
        if recording.keylog:
            head["keylog"] = f"{recording.name}.keylog"
            (self.out / head["keylog"]).write_text(recording.keylog)
        return "\n".join([table("[[capture]]", head), *(table("[[capture.conversation]]", fact) for fact in facts)])


def versions(packages: Sequence[str]) -> list[str]:
    """Debian packages with their versions; names with a == are given as they are."""
    fixed = [name for name in packages if "==" in name]
    debian = [name for name in packages if "==" not in name]
    listed = run("dpkg-query", "-W", "-f", "${Package}=${Version}\n", *debian).split() if debian else []
    return [*listed, *fixed]
