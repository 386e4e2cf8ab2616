"""A network interface as a source of packets: a ring shared with the kernel, and libpcap where there is none.

On Linux an AF_PACKET socket with a TPACKET_V3 ring: the kernel fills blocks, a compiled walk lists their packets,
and batches point into the ring itself, which gets its blocks back when the next batch is asked for. Elsewhere
scapy's libpcap socket serves the same batches. What was received and what was lost is counted by who lost it.

Sources: packet(7); Documentation/networking/packet_mmap.rst and include/uapi/linux/if_packet.h of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import select
import socket
import struct
import time as clock
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import i64, kernel
from classifier.errors import Damage, UsageError
from classifier.limits import LIVE_BLOCK, LIVE_BLOCKS_AT_ONCE, LIVE_RING, MAX_SNAPLEN
from classifier.packets import BATCH_ROWS, Frames, Interfaces, PacketBatch, PacketColumns

SOL_PACKET: Final = 263
ADD_MEMBERSHIP, RX_RING, STATISTICS, VERSION, RESERVE, FANOUT = 1, 5, 6, 10, 12, 18
PROMISCUOUS: Final = 1
TPACKET_V3: Final = 2
FANOUT_HASH_DEFRAGMENTED: Final = 0x8000
ATTACH_FILTER: Final = 26
ETH_P_ALL: Final = 3
VLAN_SIZE: Final = 4

RETIRE_MS: Final = 50
"""A block that is not full is handed over after this time."""

WAIT_MS: Final = 100
"""How long a silent interface is waited for at a time."""

DRAIN_MS: Final = 2000
"""How long libpcap's buffer is read at the end, while more comes in."""

LINK_TYPES: Final = {1: 1, 772: 1, 65534: 101, 768: 101, 776: 101, 778: 101, 823: 101}
"""ARPHRD_ types of if_arp.h as LINKTYPE_ values: Ethernet, loopback; tunnels and devices without a link layer."""


@dataclass(slots=True)
class Losses:
    """Packets since the start: received: by exflow; kernel: the ring was full; interface: the card's own drops."""

    received: int = 0
    kernel: int = 0
    interface: int = 0

    @property
    def lost(self) -> int:
        """Packets that never reached exflow."""
        return self.kernel + self.interface


@dataclass(frozen=True, slots=True)
class Tap:
    """How an interface is listened to. ring: bytes; fanout: number of a group that shares the packets, 0 for none."""

    interface: str
    filter: str = ""
    snaplen: int = MAX_SNAPLEN
    ring: int = LIVE_RING
    fanout: int = 0
    promiscuous: bool = True


@kernel
def walk_block(ring: NDArray[np.uint8], at: int, base: int, row: int, columns: PacketColumns) -> int:
    """List the packets of the block at ring[at:], offsets counted from base. Returns the rows filled, or -1.

    Frames get their numbers with the batch.

    A VLAN tag that the card took off is put back in front of the frame's type: the ring leaves room for it
    (PACKET_RESERVE).
    """
    offset, captured, wire, time, interface, _ = columns
    words = ring[at : at + LIVE_BLOCK].view(np.uint32)
    packets, p = i64(words[3]), i64(words[4])
    if row + packets > len(offset):
        return -1
    for _ in range(packets):
        if p + 48 > LIVE_BLOCK or p & 3:
            return -1
        head = p >> 2
        size, mac = i64(words[head + 3]), i64(words[head + 6]) & 0xFFFF
        start, length, status = at + p + mac, i64(words[head + 4]), i64(words[head + 5])
        if p + mac + size > LIVE_BLOCK:
            return -1
        if status & 0x10 and size >= 12 and mac >= 48 + VLAN_SIZE:  # TP_STATUS_VLAN_VALID
            kind = i64(words[head + 9]) & 0xFFFF if status & 0x40 else 0x8100
            tag = i64(words[head + 8]) & 0xFFFF
            for i in range(12):
                ring[start - VLAN_SIZE + i] = ring[start + i]
            ring[start + 8], ring[start + 9] = kind >> 8, kind & 0xFF
            ring[start + 10], ring[start + 11] = tag >> 8, tag & 0xFF
            start, size, length = start - VLAN_SIZE, size + VLAN_SIZE, length + VLAN_SIZE
        offset[row], captured[row], wire[row], interface[row] = start - base, size, length, 0
        time[row] = i64(words[head + 1]) * 1_000_000_000 + i64(words[head + 2])
        row += 1
        following = i64(words[head])
        if following == 0:
            break
        p += following
    return row


@dataclass(slots=True)
class LiveSource:
    """What both ways of listening share, in the shape of a capture set of one endless file.

    say: called with a line for the user when the interface goes or comes back. beyond_limit: nothing here swells.
    """

    tap: Tap
    say: Callable[[str], None] = print
    interfaces: Interfaces = field(default_factory=Interfaces)
    frames: Frames = field(default_factory=Frames)
    damages: list[Damage] = field(default_factory=list)
    beyond_limit: int = 0
    losses: Losses = field(default_factory=Losses)
    stopped: bool = False
    _next_frame: int = 0
    _dropped_before: int = 0

    def __post_init__(self) -> None:
        self._next_frame = self.frames.open(self.tap.interface)

    @property
    def names(self) -> list[str]:
        """The interface, as a result names its inputs."""
        return [self.tap.interface]

    def batches(self) -> Iterator[PacketBatch | None]:
        """Packets as they come; None after a moment without any. Each is valid until the next is asked for."""
        return iter(())

    def count_losses(self) -> Losses:
        """Ask who lost how many packets since the start."""
        return self.losses

    def close(self) -> None:
        """Stop listening."""

    def _batch(self, data: NDArray[np.uint8], columns: PacketColumns, rows: int) -> PacketBatch:
        """The first rows of columns, numbered."""
        columns.frame[:rows] = np.arange(self._next_frame, self._next_frame + rows)
        self._next_frame += rows
        self.losses.received += rows
        return PacketBatch(data, columns, rows)

    def _count_interface_drops(self) -> None:
        now = _interface_drops(self.tap.interface)
        self.losses.interface += max(now - self._dropped_before, 0)
        self._dropped_before = now


class Ring(LiveSource):
    """A TPACKET_V3 ring. Raises UsageError where the interface can't be listened to."""

    __slots__ = (
        "_blocks", "_columns", "_data", "_gone", "_index", "_next", "_poll", "_socket", "_status", "_up",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.interfaces.add(_link_type(self.tap.interface), 9)
        self._dropped_before = _interface_drops(self.tap.interface)
        self._blocks = max(self.tap.ring // LIVE_BLOCK, 2)
        self._columns = PacketColumns.empty(BATCH_ROWS)
        self._up, self._gone = True, False
        try:
            self._open()
        except PermissionError as error:
            raise UsageError("listening needs the right CAP_NET_RAW: run as root, or give it with setcap") from error
        except OSError as error:
            raise UsageError(f"can't listen to {self.tap.interface}: {error.strerror}") from error

    def _open(self) -> None:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._map_ring(listening)
            self._bind(listening)
        except OSError:
            listening.close()
            raise
        self._socket, self._next = listening, 0
        self._poll = select.poll()
        self._poll.register(listening, select.POLLIN | select.POLLERR)

    def _map_ring(self, listening: socket.socket) -> None:
        """Filter first and bound last, so that no packet passes unfiltered."""
        _attach_filter(listening, self.tap)
        listening.setsockopt(SOL_PACKET, VERSION, TPACKET_V3)
        listening.setsockopt(SOL_PACKET, RESERVE, VLAN_SIZE)
        request = (LIVE_BLOCK, self._blocks, LIVE_BLOCK, self._blocks, RETIRE_MS, 0, 0)
        listening.setsockopt(SOL_PACKET, RX_RING, struct.pack("7I", *request))
        ring = mmap.mmap(listening.fileno(), LIVE_BLOCK * self._blocks)
        self._data: NDArray[np.uint8] = np.frombuffer(ring, np.uint8)
        self._status = self._data.view(np.uint32)[2 :: LIVE_BLOCK // 4]

    def _bind(self, listening: socket.socket) -> None:
        self._index = socket.if_nametoindex(self.tap.interface)
        listening.bind((self.tap.interface, ETH_P_ALL))
        if self.tap.promiscuous:
            membership = struct.pack("iHH8s", self._index, PROMISCUOUS, 0, b"")
            listening.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, membership)
        if self.tap.fanout:
            group = struct.pack("I", self.tap.fanout | FANOUT_HASH_DEFRAGMENTED << 16)
            listening.setsockopt(SOL_PACKET, FANOUT, group)

    def batches(self) -> Iterator[PacketBatch | None]:
        """See LiveSource."""
        ending = False
        while True:
            if self.stopped and not ending:
                ending = True
                if not self._gone:
                    _attach(self._socket, _returning(0))  # nothing more comes in; what is there is read to its end
                    clock.sleep(2 * RETIRE_MS / 1000)
            first, rows = self._next, 0
            base = first * LIVE_BLOCK
            while self._next < min(self._blocks, first + LIVE_BLOCKS_AT_ONCE) and self._status[self._next] & 1:
                filled = int(walk_block(self._data, self._next * LIVE_BLOCK, base, rows, self._columns))
                if filled < 0:
                    break
                rows, self._next = filled, self._next + 1
            if self._next > first:
                yield self._batch(self._data[base : self._next * LIVE_BLOCK], self._columns, rows)
                self._status[first : self._next] = 0  # TP_STATUS_KERNEL
                self._next %= self._blocks
                continue
            if ending:
                return
            if self._gone:
                clock.sleep(WAIT_MS / 1000)
                self._try_again()
            elif any(events & (select.POLLERR | select.POLLHUP) for _, events in self._poll.poll(WAIT_MS)):
                self._trouble()
            elif not self._up:
                self._try_again()
            yield None

    def _trouble(self) -> None:
        """The interface went down, or away (netdevice(7)); what came before is handed over once more."""
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number and self._up:
            self._up = False
            self.say(f"{self.tap.interface} is down; waiting for it")
            clock.sleep(2 * RETIRE_MS / 1000)

    def _try_again(self) -> None:
        """See whether the interface is back: the same, which the kernel listens to again by itself, or another one.

        Raises UsageError where that would need a right that was given up.
        """
        if not self._gone and not _is_number(self.tap.interface, self._index):
            self.say(f"{self.tap.interface} was removed; waiting for it")
            self.count_losses()
            self._socket.close()
            self._data, self._status = np.zeros(0, np.uint8), np.zeros(self._blocks, np.uint32)  # unmaps the ring
            self._gone = True
        if not _is_up(self.tap.interface):
            return
        try:
            if self._gone:
                self._open()
        except PermissionError as error:
            raise UsageError(f"{self.tap.interface} is back, but the right to listen was given up") from error
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENETDOWN, errno.ENXIO, errno.EINVAL):
                raise  # EINVAL: others of the fanout group still hold the interface that was removed
            return
        self._up, self._gone = True, False
        self._dropped_before = _interface_drops(self.tap.interface)
        self.say(f"{self.tap.interface} is up again")

    def count_losses(self) -> Losses:
        """See LiveSource. The kernel's counter starts anew with each question."""
        if not self._gone:
            _, dropped, _ = struct.unpack("3I", self._socket.getsockopt(SOL_PACKET, STATISTICS, 12))
            self.losses.kernel += dropped
            self._count_interface_drops()
        return self.losses

    def close(self) -> None:
        """See LiveSource."""
        self.stopped = True
        self._socket.close()


class LibpcapTap(LiveSource):
    """scapy's libpcap socket, a packet at a time, for systems without AF_PACKET. Microseconds, as libpcap has them."""

    __slots__ = ("_library", "_socket", "_up")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self._open()
        except Exception as error:  # scapy raises whatever it likes
            raise UsageError(f"can't listen to {self.tap.interface}: {error}") from error
        self.interfaces.add(int(self._socket.pcap_fd.datalink()), 6)

    def _open(self) -> None:
        from scapy.config import conf

        conf.use_pcap = True
        import scapy.layers.l2  # noqa: F401  (else it warns that it does not know Ethernet)
        from scapy.arch.libpcap import L2pcapListenSocket
        from scapy.libs import winpcapy

        self._library: Any = winpcapy
        self._socket: Any = L2pcapListenSocket(
            iface=self.tap.interface, promisc=self.tap.promiscuous, filter=self.tap.filter or None
        )
        errors = ctypes.create_string_buffer(winpcapy.PCAP_ERRBUF_SIZE)
        winpcapy.pcap_setnonblock(self._socket.pcap_fd.pcap, 1, errors)  # on Linux it would wait for ever
        self._up, self._dropped_before = True, 0

    def batches(self) -> Iterator[PacketBatch | None]:
        """See LiveSource."""
        last = float("inf")  # what waits at the end is read too, for a while
        while clock.monotonic() < last:
            if self.stopped and last == float("inf"):
                last = clock.monotonic() + DRAIN_MS / 1000
            packets: list[tuple[int, int, bytes]] = []
            until = clock.monotonic() + WAIT_MS / 1000
            while self._up and len(packets) < BATCH_ROWS and clock.monotonic() < until:
                packet = self._next()
                if packet is None:
                    break
                packets.append(packet)
            yield self._of(packets) if packets else None
            if not packets:
                if self.stopped:
                    return
                clock.sleep(WAIT_MS / 1000)
                if not self._up:
                    self._try_again()

    def _next(self) -> tuple[int, int, bytes] | None:
        """Time in nanoseconds, length on the wire and bytes of the next packet (pcap_next_ex(3PCAP))."""
        opened = self._socket.pcap_fd
        code = self._library.pcap_next_ex(opened.pcap, ctypes.byref(opened.header), ctypes.byref(opened.pkt_data))
        if code < 0:
            self._up = False
            self.say(f"{self.tap.interface} is down or gone; waiting for it")
        if code != 1:
            return None
        head = opened.header.contents
        time = int(head.ts.tv_sec) * 1_000_000_000 + int(head.ts.tv_usec) * 1000
        return time, int(head.len), ctypes.string_at(opened.pkt_data, min(int(head.caplen), self.tap.snaplen))

    def _try_again(self) -> None:
        """Open the interface anew; what was lost before stays counted."""
        self.count_losses()
        opened = self._socket
        try:
            self._open()
        except Exception:  # scapy raises whatever it likes; it is tried again
            return
        opened.close()
        self.say(f"{self.tap.interface} is up again")

    def _of(self, packets: list[tuple[int, int, bytes]]) -> PacketBatch:
        sizes = np.array([len(data) for _, _, data in packets], np.int32)
        ends = np.cumsum(sizes, dtype=np.int64)
        times = np.array([time for time, _, _ in packets], np.int64)
        wire = np.array([length for _, length, _ in packets], np.int32)
        interface, frames = np.zeros(len(sizes), np.int32), np.empty(len(sizes), np.int64)
        columns = PacketColumns(ends - sizes, sizes, wire, times, interface, frames)
        return self._batch(np.frombuffer(b"".join(data for _, _, data in packets), np.uint8), columns, len(packets))

    def count_losses(self) -> Losses:
        """See LiveSource. libpcap counts from the opening (pcap_stats(3PCAP))."""
        told = self._library.pcap_stat()
        if self._library.pcap_stats(self._socket.pcap_fd.pcap, ctypes.byref(told)) == 0:
            self.losses.kernel += max(int(told.ps_drop) + int(told.ps_ifdrop) - self._dropped_before, 0)
            self._dropped_before = int(told.ps_drop) + int(told.ps_ifdrop)
        return self.losses

    def close(self) -> None:
        """See LiveSource."""
        self.stopped = True
        self._socket.close()


def listen(tap: Tap, say: Callable[[str], None]) -> LiveSource:
    """Open the interface. Raises UsageError where it does not exist, or the right to listen is missing."""
    if hasattr(socket, "AF_PACKET"):
        return Ring(tap, say)
    return LibpcapTap(tap, say)


def _link_type(interface: str) -> int:
    path = Path(f"/sys/class/net/{interface}/type")
    if "/" in interface or not path.exists():
        known = ", ".join(sorted(name for _, name in socket.if_nameindex()))
        raise UsageError(f"no interface {interface!r}; there are {known}")
    kind = int(path.read_text())
    if kind not in LINK_TYPES:
        raise UsageError(f"{interface}: exflow can't read what such an interface carries (ARPHRD type {kind})")
    return LINK_TYPES[kind]


def _is_number(interface: str, index: int) -> bool:
    """Whether the interface of that name is the one with that number."""
    try:
        return socket.if_nametoindex(interface) == index
    except OSError:
        return False


def _is_up(interface: str) -> bool:
    try:
        return bool(int(Path(f"/sys/class/net/{interface}/flags").read_text(), 16) & 1)  # IFF_UP
    except OSError:
        return False


def _interface_drops(interface: str) -> int:
    """What the card and its driver dropped (Documentation/ABI/testing/sysfs-class-net-statistics)."""
    total = 0
    for name in ("rx_dropped", "rx_missed_errors", "rx_fifo_errors"):
        try:
            total += int(Path(f"/sys/class/net/{interface}/statistics/{name}").read_text())
        except OSError:
            return 0
    return total


# ---- the kernel's filter -----------------------------------------------------------------------


def _attach_filter(listening: socket.socket, tap: Tap) -> None:
    """Attach the user's filter; without one, a program that only cuts packets to the snap length."""
    _attach(listening, _compiled(tap) if tap.filter else _returning(tap.snaplen))


def _returning(size: int) -> bytes:
    """A program that takes so many bytes of every packet (BPF_RET | BPF_K)."""
    return struct.pack("HBBI", 0x06, 0, 0, size)


def _attach(listening: socket.socket, program: bytes) -> None:
    text = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("HL", len(program) // 8, ctypes.addressof(text))
    listening.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, filter_program)


def _compiled(tap: Tap) -> bytes:
    """A filter expression (pcap-filter(7)) as a program for the kernel, by libpcap.

    Compiled for the open interface, so that libpcap knows that VLAN tags are kept outside of the frame.
    """
    try:
        from scapy.libs import winpcapy
        from scapy.libs.structures import bpf_program
    except (ImportError, OSError) as error:
        raise UsageError(f"--filter needs libpcap: {error}") from error
    errors = ctypes.create_string_buffer(winpcapy.PCAP_ERRBUF_SIZE)
    handle = winpcapy.pcap_open_live(tap.interface.encode(), tap.snaplen, 0, 0, errors)
    if not handle:
        raise UsageError(f"can't compile a filter for {tap.interface}: {errors.value.decode(errors='replace')}")
    program = bpf_program()
    try:
        if winpcapy.pcap_compile(handle, ctypes.byref(program), tap.filter.encode(), 1, 0xFFFFFFFF) < 0:
            said = winpcapy.pcap_geterr(handle) or b""
            raise UsageError(f"--filter {tap.filter!r}: {said.decode(errors='replace')}")
        return ctypes.string_at(program.bf_insns, 8 * program.bf_len)
    finally:
        winpcapy.pcap_close(handle)
