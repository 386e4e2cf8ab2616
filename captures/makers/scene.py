"""A scene: hosts, one clock, the conversations between them, and the truth about each conversation.

Owns the packets (built by scapy, checksums included) and their numbering. Knows nothing of application
protocols. Everything is derived from the scene's name, so that a second run gives the same bytes.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from scapy.config import conf
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

conf.noenum.add(TCP.sport, TCP.dport, UDP.sport, UDP.dport)

EPOCH_NS = 1_289_386_800 * 10**9
"""2010-11-10 11:00:00 UTC: every scene begins on a Wednesday of the year of Exchange 2010."""

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MSS = 1460
WINDOW, SCALE = 64_240, 8


@dataclass(frozen=True)
class Host:
    """A machine. address: IPv4 or IPv6; role: words of the role vocabulary that an inventory may list."""

    name: str
    address: str
    role: tuple[str, ...] = ()
    version: str = ""

    @property
    def fqdn(self) -> str:
        return self.name if "." in self.name else f"{self.name.lower()}.example.test"

    @property
    def is_v6(self) -> bool:
        return ":" in self.address

    @property
    def mac(self) -> str:
        tail = ipaddress.ip_address(self.address).packed[-4:]
        return "02:10:" + ":".join(f"{byte:02x}" for byte in tail)

    @property
    def packed(self) -> bytes:
        return ipaddress.ip_address(self.address).packed


@dataclass(frozen=True)
class Span:
    """The frames that carried one message, numbered as Wireshark does."""

    first: int
    last: int


@dataclass
class Frame:
    """One captured packet: nanoseconds since 1970, its bytes, its length on the wire, its pcapng interface."""

    ns: int
    data: bytes
    wire: int
    interface: int = 0


@dataclass
class Truth:
    """What is true of one conversation. Empty means: nothing is claimed about it.

    data_paths: ids that must all be in the answer; also: ids that may stand beside them, because no packet
    tells them apart; any other id is wrong. certainty: (least, most). absence: acceptable reasons, when
    there must be no label. hidden: why a reader of this capture may not see it all; then an answer may stay open.
    """

    protocol: str = ""
    data_paths: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    roles: tuple[str, str] = ("", "")
    interfaces: tuple[tuple[str, bool | None], ...] = ()
    resolved: dict[str, Any] = field(default_factory=dict)
    certainty: tuple[str, str] | None = None
    absence: tuple[str, ...] = ()
    authentication: tuple[str, ...] = ()
    encryption: tuple[str, ...] = ()
    hidden: str = ""
    note: str = ""


class Scene:
    """Frames in order of time, and the conversations they belong to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.random = random.Random(name)
        self.now = EPOCH_NS + self.random.randrange(SECOND)
        self.beginning = self.now
        self.frames: list[Frame] = []
        self.conversations: list[Conversation] = []
        self.hosts: list[Host] = []
        self.wrap: Callable[[Packet], Packet] = lambda packet: packet
        self.interface = 0
        self._ports: dict[str, int] = {}
        self._ip_ids: dict[str, int] = {}

    def host(self, name: str, address: str, *role: str, version: str = "") -> Host:
        """A host that the inventory lists with its roles (without roles: a stranger, not listed)."""
        host = Host(name, address, role, version)
        self.hosts.append(host)
        return host

    def wait(self, milliseconds: float) -> None:
        """Let the clock go on."""
        self.now += int(milliseconds * MILLISECOND)

    def noise(self, size: int) -> bytes:
        """Bytes that look encrypted."""
        return self.random.randbytes(size)

    @contextmanager
    def meanwhile(self, milliseconds: float) -> Iterator[None]:
        """What is played inside begins so many milliseconds after the scene; then the clock is as before."""
        before, self.now = self.now, self.beginning + int(milliseconds * MILLISECOND)
        yield
        self.now = before

    def in_time(self) -> tuple[list[Frame], list[int]]:
        """The frames in order of time, and their numbers there by the numbers they were played with (from 1)."""
        order = sorted(range(len(self.frames)), key=lambda index: self.frames[index].ns)
        numbers = [0] * (len(order) + 1)
        for place, index in enumerate(order, 1):
            numbers[index + 1] = place
        return [self.frames[index] for index in order], numbers

    def number(self) -> int:
        """The number of the next frame."""
        return len(self.frames) + 1

    def ephemeral(self, host: Host) -> int:
        """The next client port of a host, in the range of Windows since Vista."""
        port = self._ports.get(host.address, 49_152 + self.random.randrange(600)) + 1
        self._ports[host.address] = port
        return port

    def emit(self, source: Host, target: Host, layers: Packet) -> int:
        """Put one packet on the wire a little later than the last; returns its frame number."""
        packet = self.wrap(stacked(Ether(src=source.mac, dst=target.mac), self.network(source, target), layers))
        for layer in packet.iterpayloads():
            layer.explicit = 1  # one packet and no set of them: scapy need not copy it to enumerate what it stands for
        return self.emit_raw(bytes(packet))

    def emit_raw(self, data: bytes, wire: int | None = None) -> int:
        """Put ready-made bytes on the wire."""
        self.now += 80 * MICROSECOND + self.random.randrange(400 * MICROSECOND)
        self.frames.append(Frame(self.now, data, len(data) if wire is None else wire, self.interface))
        return len(self.frames)

    def network(self, source: Host, target: Host) -> Packet:
        """The IP header from source to target."""
        if source.is_v6:
            return IPv6(src=source.address, dst=target.address, hlim=64)
        number = self._ip_ids.get(source.address, self.random.randrange(1 << 16)) + 1 & 0xFFFF
        self._ip_ids[source.address] = number
        return IP(src=source.address, dst=target.address, ttl=128, id=number, flags="DF")

    def tcp(self, client: Host, server: Host, port: int, **options: Any) -> Tcp:
        """A TCP connection, handshake included (see `Tcp`)."""
        return Tcp(self, client, server, port, **options)

    def udp(self, client: Host, server: Host, port: int, *, client_port: int = 0) -> Udp:
        """A UDP conversation."""
        return Udp(self, client, server, port, client_port=client_port)


class Conversation:
    """Two hosts, two ports, and the truth about what they say."""

    transport = ""

    def __init__(self, scene: Scene, client: Host, server: Host, port: int, client_port: int) -> None:
        self.scene, self.client, self.server, self.port = scene, client, server, port
        self.client_port = client_port or scene.ephemeral(client)
        self.first_frame = scene.number()
        self.truth = Truth()
        scene.conversations.append(self)

    def is_(self, protocol: str = "", **facts: Any) -> None:
        """Say what is true of this conversation (fields of `Truth`)."""
        self.truth = Truth(protocol, **facts)


class Tcp(Conversation):
    """One TCP connection; each message is cut at the MSS and acknowledged by its receiver.

    handshake False: the capture begins later. isn: first sequence numbers of client and server.
    """

    transport = "tcp"

    def __init__(
        self,
        scene: Scene,
        client: Host,
        server: Host,
        port: int,
        *,
        client_port: int = 0,
        handshake: bool = True,
        isn: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(scene, client, server, port, client_port)
        first = isn or (scene.random.randrange(1 << 32), scene.random.randrange(1 << 32))
        self._next = {client.address: first[0], server.address: first[1]}
        if handshake:
            self._handshake()

    def _handshake(self) -> None:
        options = [("MSS", MSS), ("NOP", None), ("WScale", SCALE), ("SAckOK", b"")]
        self.segment(self.client, flags="S", options=options)
        self.segment(self.server, flags="SA", options=options)
        self.segment(self.client, flags="A")

    def other(self, sender: Host) -> Host:
        return self.server if sender is self.client else self.client

    def segment(
        self, sender: Host, data: bytes = b"", *, flags: str = "A", at: int | None = None, options: Sequence[Any] = ()
    ) -> int:
        """One segment, at the sender's next sequence number (or `at` that many bytes from it, leaving it alone)."""
        receiver = self.other(sender)
        ports = (self.client_port, self.port) if sender is self.client else (self.port, self.client_port)
        sequence = self._next[sender.address] + (at or 0) & 0xFFFFFFFF
        header = TCP(
            sport=ports[0], dport=ports[1], flags=flags, seq=sequence, options=list(options),
            window=WINDOW if "S" in flags else WINDOW >> SCALE,
            ack=0 if flags == "S" else self._next[receiver.address],
        )  # fmt: skip
        if at is None:
            self._next[sender.address] = sequence + len(data) + ("S" in flags) + ("F" in flags) & 0xFFFFFFFF
        return self.scene.emit(sender, receiver, stacked(header, Raw(data)) if data else header)

    def skip(self, sender: Host, size: int) -> None:
        """Bytes that were sent but are not in the capture."""
        self._next[sender.address] = self._next[sender.address] + size & 0xFFFFFFFF

    def say(self, sender: Host, data: bytes, *, sizes: Iterable[int] = (), acknowledged: bool = True) -> Span:
        """Send one message; sizes: the first segments' lengths, the rest goes in segments of MSS."""
        pieces = cut(data, sizes)
        numbers = [
            self.segment(sender, piece, flags="PA" if last else "A")
            for last, piece in ((index == len(pieces) - 1, piece) for index, piece in enumerate(pieces))
        ]
        if acknowledged:
            self.segment(self.other(sender))
        return Span(numbers[0], numbers[-1])

    def ask(self, data: bytes, **how: Any) -> Span:
        """The client says."""
        return self.say(self.client, data, **how)

    def answer(self, data: bytes, **how: Any) -> Span:
        """The server says."""
        return self.say(self.server, data, **how)

    def close(self) -> None:
        """Both sides finish, the client first."""
        self.segment(self.client, flags="FA")
        self.segment(self.server, flags="FA")
        self.segment(self.client)


class Udp(Conversation):
    """Datagrams between two ports."""

    transport = "udp"

    def say(self, sender: Host, data: bytes) -> Span:
        ports = (self.client_port, self.port) if sender is self.client else (self.port, self.client_port)
        receiver = self.server if sender is self.client else self.client
        number = self.scene.emit(sender, receiver, stacked(UDP(sport=ports[0], dport=ports[1]), Raw(data)))
        return Span(number, number)

    def ask(self, data: bytes) -> Span:
        return self.say(self.client, data)

    def answer(self, data: bytes) -> Span:
        return self.say(self.server, data)


def stacked(*layers: Packet) -> Packet:
    """Each layer around the next, as `/` does, which copies them all first: most of what it costs to make a capture."""
    for outer, inner in pairwise(layers):
        outer.add_payload(inner)
    return layers[0]


def cut(data: bytes, sizes: Iterable[int] = ()) -> list[bytes]:
    """Pieces of the given sizes, then of at most MSS bytes."""
    pieces = []
    for size in sizes:
        if data:
            pieces.append(data[:size])
            data = data[size:]
    pieces.extend(data[start : start + MSS] for start in range(0, len(data), MSS))
    return pieces
