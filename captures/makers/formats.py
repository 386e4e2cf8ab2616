"""One conversation in every file format, link type and envelope; the labels are the same in all of them."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

from scapy.layers.inet import IP, fragment
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from captures.makers import files, rpc, talk
from captures.makers.catalogue import Encode, Story, enlist
from captures.makers.files import Interface, Section
from captures.makers.rpc_corners import PORT, STRONG, mailbox_session, pair
from captures.makers.scene import SECOND, Frame, Host, Scene


def conversation(scene: Scene, spread: int = 0) -> None:
    """The mapper, then EMSMDB on the port it names; spread: further frames that the mapper's answer takes up."""
    client, server = pair(scene)
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    answered = mapping.answered
    announced = {"kind": "ept_map", "frames": [answered.first - spread, answered.last]}
    mailbox_session(scene, client, server, resolved=announced)


def variant(
    name: str,
    about: str,
    encode: Encode | None = None,
    *,
    suffix: str = ".pcap",
    play: Callable[[Scene], None] = conversation,
) -> None:
    enlist(Story(f"format-{name}", about, play, encode, suffix))


variant(
    "pcap-big-endian", "pcap written in big-endian byte order", lambda scene: files.classic(scene.frames, order=">")
)
variant("pcap-nanoseconds", "pcap with nanoseconds", lambda scene: files.classic(scene.frames, nanoseconds=True))
variant("pcap-big-endian-nanoseconds", "pcap, big-endian, nanoseconds",
        lambda scene: files.classic(scene.frames, order=">", nanoseconds=True))  # fmt: skip
variant(
    "snaplen-400",
    "packets cut at 400 bytes by the snap length: no damage",
    lambda scene: files.classic(scene.frames, snaplen=400),
)


def blocks(scene: Scene) -> bytes:
    """Enhanced, Simple and obsolete Packet blocks among blocks that no reader knows."""
    section = Section([Interface(per_second=10**6, name="eth0")])
    section.add(files.PRIVATE, b"a block of a private type")
    section.add(files.NAMES, struct.pack("<HH", 1, 14) + b"\x0a\x0a\x01\x15mbx1.test\0" + bytes(2) + bytes(4))
    for number, frame in enumerate(scene.frames):
        if number % 5 == 3:
            section.obsolete(frame)
        else:
            section.enhanced(frame, [(1, b"a comment"), (2, struct.pack("<I", 0))] if number % 7 == 0 else ())
        if number % 11 == 0:
            section.add(files.PRIVATE, b"another")
    section.add(files.CUSTOM, struct.pack("<I", 32473) + b"vendor")
    section.add(files.STATISTICS, struct.pack("<III", 0, 0, 0))
    return section.data


def simple_blocks(scene: Scene) -> bytes:
    """Simple Packet blocks only: they have no time."""
    section = Section([Interface()])
    for frame in scene.frames:
        section.simple(frame)
    return section.data


variant(
    "pcapng-blocks",
    "pcapng with Enhanced and obsolete Packet blocks, comments, unknown blocks",
    blocks,
    suffix=".pcapng",
)
variant(
    "pcapng-simple-packets", "pcapng with Simple Packet blocks: packets without times", simple_blocks, suffix=".pcapng"
)

# ---- link types ------------------------------------------------------------------------------------

ETHERNET_HEADER = 14


def relinked(frame: Frame, link: int, interface: int) -> Frame:
    """The frame as another link type would have it."""
    packet = frame.data[ETHERNET_HEADER:]
    head = {
        files.ETHERNET: frame.data[:ETHERNET_HEADER],
        files.RAW: b"",
        files.NULL: struct.pack("<I", 2),
        files.SLL: struct.pack(">HHH", 0, 1, 6) + frame.data[6:12] + b"\0\0" + b"\x08\x00",
        files.SLL2: b"\x08\x00" + struct.pack(">HIHBB", 0, 3, 1, 0, 6) + frame.data[6:12] + b"\0\0",
    }[link]
    data = head + packet
    return Frame(frame.ns, data, len(data), interface)


LINKS = {"raw": files.RAW, "null": files.NULL, "sll": files.SLL, "sll2": files.SLL2}


def on_link(link: int) -> Encode:
    """pcap of one link type."""

    def encode(scene: Scene) -> bytes:
        data = files.classic([relinked(frame, link, 0) for frame in scene.frames])
        return data[:20] + struct.pack("<I", link) + data[24:]

    return encode


for _name, _link in LINKS.items():
    variant(f"link-{_name}", f"pcap of link type {_link} ({_name})", on_link(_link))


def everything(scene: Scene) -> bytes:
    """Two sections of different byte order, five interfaces of five link types, clocks and offsets in each."""
    started = scene.beginning // SECOND
    interfaces = [
        Interface(files.ETHERNET, 10**6, name="eth0"),
        Interface(files.RAW, 10**9, name="tun0"),
        Interface(files.SLL, 1 << 20, name="any"),
        Interface(files.SLL2, 10**3 * 10**4, offset=started - 100, name="any2"),
        Interface(files.NULL, 10**9, offset=-3600, name="lo0"),
    ]
    half = len(scene.frames) // 2
    data = b""
    for order, frames in (("<", scene.frames[:half]), (">", scene.frames[half:])):
        section = Section(interfaces, order)
        for number, frame in enumerate(frames):
            which = number % len(interfaces)
            section.enhanced(relinked(frame, interfaces[which].link, which))
        data += section.data
    return data


variant(
    "pcapng-everything",
    "two sections of both byte orders, five interfaces with their own link type, clock and offset",
    everything,
    suffix=".pcapng",
)

# ---- envelopes ---------------------------------------------------------------------------------------


def wrapped(wrap: Callable[[Packet], Packet]) -> Callable[[Scene], None]:
    """The conversation with each packet put into an envelope."""

    def play(scene: Scene) -> None:
        scene.wrap = wrap
        conversation(scene)

    return play


def tagged(packet: Packet) -> Packet:
    return Ether(src=packet.src, dst=packet.dst) / Dot1Q(vlan=110) / packet.payload


def twice_tagged(packet: Packet) -> Packet:
    return Ether(src=packet.src, dst=packet.dst, type=0x88A8) / Dot1AD(vlan=20) / Dot1Q(vlan=110) / packet.payload


variant("vlan", "802.1Q tag 110", play=wrapped(tagged))
variant("qinq", "802.1ad tag 20 around 802.1Q tag 110", play=wrapped(twice_tagged))


def fragmented(*, backwards: bool) -> Callable[[Scene], None]:
    """Every IPv4 packet of more than 120 bytes comes in fragments of 80."""

    def play(scene: Scene) -> None:
        whole = scene.emit

        def emit(source: Host, target: Host, layers: Packet) -> int:
            if len(layers) <= 120:
                return whole(source, target, layers)
            packet = scene.network(source, target) / layers
            packet[IP].flags = 0
            pieces = fragment(IP(bytes(packet)), fragsize=80)
            ether = Ether(src=source.mac, dst=target.mac)
            numbers = [scene.emit_raw(bytes(ether / piece)) for piece in (reversed(pieces) if backwards else pieces)]
            return numbers[-1]

        scene.emit = emit  # type: ignore[method-assign]
        conversation(scene, spread=2)

    return play


variant("ipv4-fragments", "IPv4 fragments in order", play=fragmented(backwards=False))
variant("ipv4-fragments-reversed", "IPv4 fragments, the last one first", play=fragmented(backwards=True))


def over_ipv6(scene: Scene) -> None:
    """IPv6 with hop-by-hop options, a routing header, an atomic fragment and destination options."""
    client = scene.host("CAS1", "2001:db8:10::31", "client-access", version="2010")
    server = scene.host("MBX1", "2001:db8:10::21", "mailbox", version="2010")
    plain = scene.network

    def network(source: Host, target: Host) -> Packet:
        number = int(ipaddress.ip_address(source.address)) & 0xFFFF
        headers = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(type=0, segleft=0)
        return plain(source, target) / headers / IPv6ExtHdrFragment(id=number) / IPv6ExtHdrDestOpt()

    scene.network = network  # type: ignore[method-assign]
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    mailbox_session(scene, client, server, resolved=mapping.announced)


variant(
    "ipv6-extension-headers", "IPv6 with hop-by-hop, routing, atomic fragment and destination options", play=over_ipv6
)


def cut_short(scene: Scene) -> bytes:
    """The last record lacks its last 37 bytes."""
    return files.classic(scene.frames)[:-37]


enlist(
    Story(
        "format-cut-short",
        "the file ends inside its last record: what is whole is read, exit status 1",
        conversation,
        cut_short,
        status=1,
    )
)
