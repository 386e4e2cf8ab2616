"""Link, tunnel, IP, TCP and UDP headers of a batch of packets → columns, compiled.

Walks each packet's headers one by one through every encapsulation that a mirror port produces and
leaves one row about the INNERMOST TCP segment or UDP datagram: inner and outer are never both counted.
Every length is checked before it is used; what is cut or nonsense leaves an empty row. Nothing here
knows of conversations, ports with a meaning, or Exchange.

Sources: RFC 791, 8200 (IP), 9293 (TCP), 768 (UDP), IEEE 802.1Q/802.1ad (tags), RFC 3032 (MPLS), 4385
(pseudowire control word), 2516 (PPPoE), 2784/2890 (GRE), 2637 (PPTP's GRE), draft-foschiano-erspan,
7348 (VXLAN), 8926 (GENEVE), 2003/2473/4213 (IP in IP), 3378 (EtherIP), 3GPP TS 29.281 (GTP-U);
LINKTYPE_ values: the tcpdump group's registry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import memory
from classifier.compiled import be16, be32, be64, i64, inlined, kernel, u64
from classifier.hashing import SECRET, Secret, share, spread
from classifier.limits import MAX_ENCAPSULATION_STACKS, MAX_ENCAPSULATIONS, MAX_LAYERS
from classifier.packets import Interfaces, PacketBatch

TCP: Final = 6
UDP: Final = 17
FRAGMENT: Final = 254
"""In the protocol column: a piece of an IP datagram, still to be put together."""

FIN, SYN, RST, ACK = 1, 2, 4, 16

# Kinds of encapsulation; a stack element is kind << 32 | identifier.
VLAN, MPLS, PPPOE, GRE, ERSPAN1, ERSPAN2, ERSPAN3, VXLAN, GENEVE = 1, 2, 3, 4, 5, 6, 7, 8, 9
IPIP, SIX_IN_FOUR, FOUR_IN_SIX, SIX_IN_SIX, GTP_U, ETHERIP, PBB = 10, 11, 12, 13, 14, 15, 16

ENCAPSULATION_NAMES: Final = {
    MPLS: "mpls", PPPOE: "pppoe", GRE: "gre", ERSPAN1: "erspan1", ERSPAN2: "erspan2", ERSPAN3: "erspan3",
    VXLAN: "vxlan", GENEVE: "geneve", IPIP: "ipip", SIX_IN_FOUR: "6in4", FOUR_IN_SIX: "4in6",
    SIX_IN_SIX: "6in6", GTP_U: "gtp-u", ETHERIP: "etherip", PBB: "pbb",
}  # fmt: skip
NUMBERED: Final = frozenset({MPLS, VXLAN, GENEVE, GTP_U, PBB})
"""Kinds whose identifier is part of the name that users see (`vxlan:42`)."""

# What the next header is.
_LINK, _ETHERNET, _ETHERTYPE, _PPP, _IP, _IP4, _IP6, _IP_PROTOCOL, _DONE = 0, 1, 2, 3, 4, 5, 6, 7, 8

_V4_MAPPED: Final = u64(0xFFFF_0000_0000)


class HeaderColumns(NamedTuple):
    """One row a packet, for its innermost TCP segment or UDP datagram.

    protocol: uint8, TCP, UDP, FRAGMENT or 0 (nothing to count). source/target address: two uint64 of the
    IPv6 address in network order (IPv4 as ::ffff:a.b.c.d). flags: uint8 of TCP. sequence, acknowledgement:
    uint32 of TCP. payload: int64 offset in the batch's data; payload_captured, payload_length: int32, bytes
    there and bytes on the wire. encapsulation: int32, index into `Encapsulations`.
    digest: uint64 over what a mirror's copy has in common with its original: IP identification, the TCP or UDP
    header without its checksum, lengths and the first payload bytes; not TTL, addresses of the link, or tags.
    key: uint64, `conversation_key` of addresses, ports and protocol.
    In a FRAGMENT row flags is the IP protocol, sequence the identification, acknowledgement the fragment
    offset in bytes with 1 added if more fragments follow, and payload is the piece; it has no digest and no key.
    """

    protocol: NDArray[np.uint8]
    source_high: NDArray[np.uint64]
    source_low: NDArray[np.uint64]
    target_high: NDArray[np.uint64]
    target_low: NDArray[np.uint64]
    source_port: NDArray[np.uint16]
    target_port: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    sequence: NDArray[np.uint32]
    acknowledgement: NDArray[np.uint32]
    payload: NDArray[np.int64]
    payload_captured: NDArray[np.int32]
    payload_length: NDArray[np.int32]
    encapsulation: NDArray[np.int32]
    digest: NDArray[np.uint64]
    key: NDArray[np.uint64]

    @classmethod
    def empty(cls, rows: int) -> HeaderColumns:
        """Columns for that many rows, their contents undefined."""
        dtypes = (
            np.uint8, np.uint64, np.uint64, np.uint64, np.uint64, np.uint16, np.uint16, np.uint8,
            np.uint32, np.uint32, np.int64, np.int32, np.int32, np.int32, np.uint64, np.uint64,
        )  # fmt: skip
        return cls(*(np.empty(rows, dtype) for dtype in dtypes))  # type: ignore[arg-type]


class _Stacks(NamedTuple):
    """Distinct stacks of tags and tunnels. Row 0 is the empty one."""

    elements: NDArray[np.int64]  # [stack, MAX_ENCAPSULATIONS]
    depth: NDArray[np.int8]
    slots: NDArray[np.int32]  # open addressing: row of a stack, 0 for free
    used: NDArray[np.int64]  # [0]: rows in use; [1]: packets whose stack found no row
    open: NDArray[np.int64]  # [MAX_ENCAPSULATIONS]: the stack of the packet at hand
    tag: NDArray[np.int64]  # [1]: its next element


    @classmethod
    def empty(cls) -> _Stacks:
        """Room for as many as are remembered."""
        used = memory.zeros(2, np.int64)
        used[0] = 1
        return cls(
            memory.zeros(MAX_ENCAPSULATION_STACKS * MAX_ENCAPSULATIONS, np.int64).reshape(-1, MAX_ENCAPSULATIONS),
            memory.zeros(MAX_ENCAPSULATION_STACKS, np.int8),
            memory.zeros(2 * MAX_ENCAPSULATION_STACKS, np.int32),
            used,
            np.zeros(MAX_ENCAPSULATIONS, np.int64),
            np.zeros(1, np.int64),
        )


@dataclass(slots=True)
class Encapsulations:
    """The distinct stacks of tags and tunnels seen in a run."""

    stacks: _Stacks = field(default_factory=_Stacks.empty)

    @property
    def overflow(self) -> int:
        """Packets whose stack was not remembered because the table was full."""
        return int(self.stacks.used[1])

    def _elements(self, index: int) -> list[tuple[int, int]]:
        row = self.stacks.elements[index, : self.stacks.depth[index]]
        return [(int(element) >> 32, int(element) & 0xFFFFFFFF) for element in row]

    def vlans(self, index: int) -> list[int]:
        """VLAN ids, outermost first."""
        return [identifier for kind, identifier in self._elements(index) if kind == VLAN]

    def tunnels(self, index: int) -> list[str]:
        """Tunnels, outermost first; those with an identifier carry it (`vxlan:42`)."""
        return [
            ENCAPSULATION_NAMES[kind] + (f":{identifier}" if kind in NUMBERED else "")
            for kind, identifier in self._elements(index)
            if kind != VLAN
        ]


@kernel
def _intern(stacks: _Stacks, depth: int, secret: Secret) -> int:
    """Row of the stack at hand, a new one if it was not seen before; 0 when the table is full."""
    total = share(secret, MAX_ENCAPSULATIONS, depth)
    for i in range(depth):
        total += share(secret, i, stacks.open[i])
    mask = len(stacks.slots) - 1
    slot = i64(spread(total) & u64(mask))
    while stacks.slots[slot] != 0:
        row = stacks.slots[slot]
        same = stacks.depth[row] == depth
        for i in range(depth):
            same = same and stacks.elements[row, i] == stacks.open[i]
        if same:
            return row
        slot = (slot + 1) & mask
    row = stacks.used[0]
    if row == len(stacks.depth):
        stacks.used[1] += 1
        return 0
    stacks.used[0] += 1
    stacks.slots[slot] = row
    stacks.depth[row] = depth
    for i in range(depth):
        stacks.elements[row, i] = stacks.open[i]
    return row


@kernel
def _link_layer(data: NDArray[np.uint8], p: int, end: int, link: int) -> tuple[int, int, int]:
    """Step over the capture's own link header. Returns (what comes next, its value, where)."""
    if link == 1:
        return _ETHERNET, 0, p
    if link == 101 or link == 12 or link == 14 or link == 228 or link == 229:  # raw IP
        return _IP, 0, p
    if link == 113 and p + 16 <= end:  # LINUX_SLL
        return _ETHERTYPE, be16(data, p + 14), p + 16
    if link == 276 and p + 20 <= end:  # LINUX_SLL2
        return _ETHERTYPE, be16(data, p), p + 20
    if (link == 0 or link == 108) and p + 4 <= end:  # BSD loopback: address family, in whatever byte order
        family = be32(data, p)
        if family > 0xFFFF:
            family = i64(data[p]) | (i64(data[p + 1]) << 8)
        if family == 2 or family == 24 or family == 28 or family == 30 or family == 10:
            return _IP, 0, p + 4
        return _DONE, 0, p
    if link == 9:
        return _PPP, 0, p
    if link == 50 and p + 4 <= end:  # PPP_HDLC: address, control, protocol; or Cisco HDLC's ethertype
        return (_PPP, 0, p) if data[p] == 0xFF else (_ETHERTYPE, be16(data, p + 2), p + 4)
    if link == 104 and p + 4 <= end:  # Cisco HDLC
        return _ETHERTYPE, be16(data, p + 2), p + 4
    if link == 51 and p + 6 <= end:  # PPP_ETHER: PPPoE session header
        return _PPP, 0, p + 6
    return _DONE, 0, p


@kernel
def _is_frame(data: NDArray[np.uint8], p: int, end: int) -> bool:
    """Whether this looks like an Ethernet frame: a type that is walked, and the version of IP that it announces."""
    if p + 15 > end:
        return False
    kind, version = be16(data, p + 12), data[p + 14] >> 4
    if kind == 0x0800:
        return version == 4
    if kind == 0x86DD:
        return version == 6
    return kind == 0x8100 or kind == 0x88A8 or kind == 0x9100 or kind == 0x8847 or kind == 0x8864


@kernel
def _ethertype(data: NDArray[np.uint8], p: int, end: int, kind: int, tag: NDArray[np.int64]) -> tuple[int, int, int]:
    """Step over what an ethertype announces. tag[0] gets the stack element, 0 for none."""
    if kind == 0x0800:
        return _IP4, 0, p
    if kind == 0x86DD:
        return _IP6, 0, p
    if kind == 0x8100 or kind == 0x88A8 or kind == 0x9100 or kind == 0x9200:
        if p + 4 > end:
            return _DONE, 0, p
        tag[0] = (VLAN << 32) | (be16(data, p) & 0xFFF)
        return _ETHERTYPE, be16(data, p + 2), p + 4
    if kind == 0x8847 or kind == 0x8848:
        if p + 5 > end:
            return _DONE, 0, p
        label = be32(data, p)
        tag[0] = (MPLS << 32) | (label >> 12)
        if label & 0x100 == 0:  # not the bottom of the stack (RFC 3032 section 2.1)
            return _ETHERTYPE, kind, p + 4
        nibble = data[p + 4] >> 4
        if nibble == 4 or nibble == 6:
            return _IP, 0, p + 4
        word = nibble == 0 and (_is_frame(data, p + 8, end) or not _is_frame(data, p + 4, end))
        return _ETHERNET, 0, p + (8 if word else 4)  # pseudowire, with or without control word (RFC 4448, 4385)
    if kind == 0x8864:
        if p + 6 > end or data[p] != 0x11:
            return _DONE, 0, p
        tag[0] = PPPOE << 32
        return _PPP, 0, p + 6
    if kind == 0x6558:
        return _ETHERNET, 0, p
    if kind == 0x88E7 and p + 4 <= end:  # 802.1ah I-tag
        tag[0] = (PBB << 32) | (be32(data, p) & 0xFFFFFF)
        return _ETHERNET, 0, p + 4
    if kind == 0x8926 and p + 6 <= end:  # VN-tag
        return _ETHERTYPE, be16(data, p + 4), p + 6
    if kind <= 1500 and p + 8 <= end and be16(data, p) == 0xAAAA:  # 802.3 with LLC/SNAP
        return _ETHERTYPE, be16(data, p + 6), p + 8
    return _DONE, 0, p


@kernel
def _ppp(data: NDArray[np.uint8], p: int, end: int) -> tuple[int, int, int]:
    """PPP protocol field, with or without address and control bytes, compressed or not (RFC 1661, 1662)."""
    if p + 2 <= end and data[p] == 0xFF and data[p + 1] == 0x03:
        p += 2
    if p + 2 > end:
        return _DONE, 0, p
    if data[p] & 1:
        protocol, p = i64(data[p]), p + 1
    else:
        protocol, p = be16(data, p), p + 2
    if protocol == 0x21:
        return _IP4, 0, p
    if protocol == 0x57:
        return _IP6, 0, p
    if protocol == 0x281 or protocol == 0x283:
        return _ETHERTYPE, 0x8847, p
    return _DONE, 0, p


@kernel
def _gre(data: NDArray[np.uint8], p: int, end: int, tag: NDArray[np.int64]) -> tuple[int, int, int]:
    """GRE, and the ERSPAN header that may stand behind it (draft-foschiano-erspan-03, section 4)."""
    if p + 4 > end:
        return _DONE, 0, p
    bits, kind = be16(data, p), be16(data, p + 2)
    tag[0] = GRE << 32
    p += 4
    if bits & 7 == 1:  # PPTP: key always, sequence and acknowledgement if flagged (RFC 2637 section 4.1)
        p += 4 + (4 if bits & 0x1000 else 0) + (4 if bits & 0x80 else 0)
        return (_PPP, 0, p) if kind == 0x880B else (_DONE, 0, p)
    if bits & 0x4000:  # source routing was withdrawn (RFC 2784 appendix A)
        return _DONE, 0, p
    p += (4 if bits & 0x8000 else 0) + (4 if bits & 0x2000 else 0) + (4 if bits & 0x1000 else 0)
    if kind == 0x88BE:
        if bits & 0x1000 == 0:  # type I has neither a sequence number nor a header
            tag[0] = ERSPAN1 << 32
            return _ETHERNET, 0, p
        tag[0] = ERSPAN2 << 32
        return _ETHERNET, 0, p + 8
    if kind == 0x22EB:
        tag[0] = ERSPAN3 << 32
        if p + 12 > end:
            return _DONE, 0, p
        return _ETHERNET, 0, p + 12 + (8 if data[p + 11] & 1 else 0)
    if kind == 0x880B:
        return _PPP, 0, p
    return _ETHERTYPE, kind, p


@kernel
def _udp_tunnel(data: NDArray[np.uint8], p: int, end: int, port: int, tag: NDArray[np.int64]) -> tuple[int, int, int]:
    """What a UDP payload for a tunnel's port carries, if its header is right in every fixed bit; else _DONE."""
    if (port == 4789 or port == 8472) and p + 8 + 14 <= end:
        if data[p] & 8 and data[p + 7] == 0:  # other bits: reserved, or of extensions (RFC 7348 section 5)
            tag[0] = (VXLAN << 32) | (be32(data, p + 4) >> 8)
            return _ETHERNET, 0, p + 8
    elif port == 6081 and p + 8 <= end:
        inner = p + 8 + 4 * i64(data[p] & 0x3F)
        kind = be16(data, p + 2)
        carries = kind == 0x6558 or kind == 0x0800 or kind == 0x86DD
        if carries and data[p] >> 6 == 0 and data[p + 1] & 0x3F == 0 and data[p + 7] == 0 and inner <= end:
            tag[0] = (GENEVE << 32) | (be32(data, p + 4) >> 8)
            return _ETHERTYPE, kind, inner
    elif port == 2152 and p + 8 <= end and data[p] >> 4 == 3 and data[p + 1] == 255:
        inner = p + 8
        if data[p] & 7:
            more, inner = 0, inner + 4
            if data[p] & 4 and inner <= end:
                more = data[inner - 1]
            while more != 0 and inner < end and data[inner] != 0:
                inner += 4 * i64(data[inner])
                more = data[inner - 1] if inner <= end else 0
        if inner < end and (data[inner] >> 4 == 4 or data[inner] >> 4 == 6):
            tag[0] = (GTP_U << 32) | be32(data, p + 4)
            return _IP, 0, inner
    return _DONE, 0, p


@inlined
def _mix(value: int, word: int) -> int:
    value = (value ^ word) * u64(0x9E3779B97F4A7C15)
    return value ^ (value >> u64(32))


@inlined
def _endpoint_key(high: int, low: int, port: int, secret: Secret) -> int:
    return spread(share(secret, 0, low) + share(secret, 1, high) + share(secret, 2, port))


@inlined
def conversation_key(
    high: int, low: int, port: int, other_high: int, other_low: int, other_port: int, protocol: int, secret: Secret
) -> int:
    """A hash of both endpoints, whichever of them comes first, and the protocol."""
    both = _endpoint_key(high, low, port, secret) + _endpoint_key(other_high, other_low, other_port, secret)
    return spread(both + share(secret, 3, protocol))


@inlined
def _digest(
    data: NDArray[np.uint8], start: int, payload: int, end: int, protocol: int, identification: int, length: int
) -> int:
    """See HeaderColumns.digest."""
    value = (u64(identification) << u64(32)) ^ u64(length)
    p, end = start, min(payload + 16, end)
    if protocol == TCP:
        value = _mix(_mix(value, be64(data, p)), be64(data, p + 8))
        value, p = _mix(value, u64(be16(data, p + 18))), p + 20
    else:
        value, p = _mix(value, be64(data, p) >> u64(16)), p + 8
    while p + 8 <= end:
        value, p = _mix(value, be64(data, p)), p + 8
    while p < end:
        value, p = _mix(value, u64(data[p])), p + 1
    return value


@inlined
def _walk(
    data: NDArray[np.uint8],
    start: int,
    captured_end: int,
    wire_end: int,
    step: int,
    value: int,
    row: int,
    columns: HeaderColumns,
    stacks: _Stacks,
    secret: Secret,
) -> None:
    """Walk the headers in data[start:captured_end] and fill one row.

    wire_end: where the packet would end had nothing been cut. step, value: what the first header is.
    """
    (protocol, source_high, source_low, target_high, target_low, source_port, target_port, flags,
     sequence, acknowledgement, payload, payload_captured, payload_length, encapsulation, digest, key,
     ) = columns  # fmt: skip
    protocol[row] = 0
    encapsulation[row] = 0
    p, end, version, depth, identification, transport = start, captured_end, 0, 0, 0, 0
    tag = stacks.tag
    for _ in range(MAX_LAYERS):
        tag[0] = 0
        if step == _LINK:
            step, value, p = _link_layer(data, p, end, value)
        elif step == _ETHERNET:
            if p + 14 > end:
                break
            value, p = be16(data, p + 12), p + 14
            step = _IP4 if value == 0x0800 else _ETHERTYPE
        elif step == _ETHERTYPE:
            step, value, p = _ethertype(data, p, end, value, tag)
        elif step == _PPP:
            step, value, p = _ppp(data, p, end)
        elif step == _IP:
            if p >= end:
                break
            step = _IP4 if data[p] >> 4 == 4 else _IP6
        elif step == _IP4:
            if p + 20 > end or data[p] >> 4 != 4:
                break
            length, header = be16(data, p + 2), 4 * i64(data[p] & 15)
            if header < 20 or p + header > end or (length != 0 and length < header):
                break
            if length != 0:  # 0: the sender's card was to cut it up (TSO)
                wire_end = min(wire_end, p + length)
                end = min(end, p + length)
            if version:
                tag[0] = (IPIP if version == 4 else FOUR_IN_SIX) << 32
            version = 4
            source_high[row], target_high[row] = u64(0), u64(0)
            source_low[row] = _V4_MAPPED | u64(be32(data, p + 12))
            target_low[row] = _V4_MAPPED | u64(be32(data, p + 16))
            fragment, value = be16(data, p + 6) & 0x3FFF, i64(data[p + 9])
            identification = be16(data, p + 4)
            p += header
            if fragment:
                protocol[row] = FRAGMENT
                flags[row] = value
                sequence[row] = identification
                acknowledgement[row] = 8 * (fragment & 0x1FFF) + (1 if fragment & 0x2000 else 0)
                step = _DONE
            else:
                step = _IP_PROTOCOL
        elif step == _IP6:
            if p + 40 > end or data[p] >> 4 != 6:
                break
            length = be16(data, p + 4)
            if length != 0:
                wire_end = min(wire_end, p + 40 + length)
                end = min(end, p + 40 + length)
            if version:
                tag[0] = (SIX_IN_FOUR if version == 4 else SIX_IN_SIX) << 32
            version, identification = 6, 0
            source_high[row], source_low[row] = be64(data, p + 8), be64(data, p + 16)
            target_high[row], target_low[row] = be64(data, p + 24), be64(data, p + 32)
            step, value, p = _IP_PROTOCOL, i64(data[p + 6]), p + 40
        elif step == _IP_PROTOCOL:
            if value == TCP:
                if p + 20 > end:
                    break
                header = 4 * i64(data[p + 12] >> 4)
                if header < 20 or p + header > wire_end:
                    break
                protocol[row] = TCP
                transport = p
                source_port[row], target_port[row] = be16(data, p), be16(data, p + 2)
                sequence[row], acknowledgement[row] = be32(data, p + 4), be32(data, p + 8)
                flags[row] = data[p + 13]
                p += header
                step = _DONE
            elif value == UDP:
                if p + 8 > end:
                    break
                length, port, inner, step = be16(data, p + 4), be16(data, p + 2), p, _DONE
                if port == 4789 or port == 8472 or port == 6081 or port == 2152:
                    step, value, inner = _udp_tunnel(data, p + 8, end, port, tag)
                if step == _DONE:
                    protocol[row] = UDP
                    transport = p
                    source_port[row], target_port[row] = be16(data, p), be16(data, p + 2)
                    flags[row] = 0
                    if length >= 8:
                        wire_end = min(wire_end, p + length)
                        end = min(end, p + length)
                    p += 8
                else:
                    p = inner
                    version = 0
            elif value == 47:
                step, value, p = _gre(data, p, end, tag)
                version = 0
            elif value == 4 or value == 41:
                step = _IP4 if value == 4 else _IP6
            elif value == 137:
                step, value, version = _ETHERTYPE, 0x8847, 0
            elif value == 97 and p + 2 <= end:
                tag[0] = ETHERIP << 32
                step, p, version = _ETHERNET, p + 2, 0
            elif value == 44 and p + 8 <= end:  # IPv6 fragment header (RFC 8200 section 4.5)
                bits = be16(data, p + 2)
                if bits & 0xFFF9 == 0:  # "atomic fragment" (RFC 6946): the whole datagram
                    value, p = i64(data[p]), p + 8
                else:
                    protocol[row] = FRAGMENT
                    flags[row] = data[p]
                    sequence[row] = be32(data, p + 4)
                    acknowledgement[row] = (bits & 0xFFF8) + (bits & 1)
                    p += 8
                    step = _DONE
            elif (value == 0 or value == 43 or value == 60 or value == 135) and p + 8 <= end:
                value, p = i64(data[p]), p + 8 + 8 * i64(data[p + 1])
            elif value == 51 and p + 8 <= end:  # authentication header: readable behind it (RFC 4302 section 2)
                value, p = i64(data[p]), p + 8 + 4 * i64(data[p + 1])
            else:
                break
        if tag[0] != 0 and depth < MAX_ENCAPSULATIONS:
            stacks.open[depth] = tag[0]
            depth += 1
        if step == _DONE:
            break
    if protocol[row] == 0:
        return
    if step != _DONE:
        protocol[row] = 0
        return
    payload[row] = min(p, end)
    payload_captured[row] = max(end - p, 0)
    payload_length[row] = max(wire_end - p, 0)
    if depth:
        encapsulation[row] = _intern(stacks, depth, secret)
    if protocol[row] == FRAGMENT:
        return
    digest[row] = _digest(data, transport, min(p, end), end, protocol[row], identification, wire_end - p)
    key[row] = conversation_key(
        source_high[row], source_low[row], i64(source_port[row]),
        target_high[row], target_low[row], i64(target_port[row]), i64(protocol[row]), secret,
    )  # fmt: skip


@kernel
def _decode(
    data: NDArray[np.uint8],
    offset: NDArray[np.int64],
    captured: NDArray[np.int32],
    wire: NDArray[np.int32],
    interface: NDArray[np.int32],
    count: int,
    link_type: NDArray[np.int32],
    columns: HeaderColumns,
    stacks: _Stacks,
    secret: Secret,
) -> int:
    """Fill count rows; returns how many of them are fragments."""
    fragments = 0
    for row in range(count):
        start = offset[row]
        link = i64(link_type[interface[row]])
        _walk(data, start, start + captured[row], start + wire[row], _ETHERNET if link == 1 else _LINK, link,
              row, columns, stacks, secret)  # fmt: skip
        if columns.protocol[row] == FRAGMENT:
            fragments += 1
    return fragments


def decode(batch: PacketBatch, interfaces: Interfaces, columns: HeaderColumns, known: Encapsulations) -> int:
    """Fill the first batch.count rows of columns. Returns how many rows are fragments of IP datagrams."""
    packets = batch.columns
    return int(
        _decode(
            batch.data,
            packets.offset,
            packets.captured,
            packets.wire,
            packets.interface,
            batch.count,
            interfaces.link_type,
            columns,
            known.stacks,
            SECRET,
        )
    )


@kernel
def _walk_payload(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    protocol: int,
    row: int,
    columns: HeaderColumns,
    stacks: _Stacks,
    secret: Secret,
) -> None:
    """`_walk` from what an IP header of that protocol carries."""
    _walk(data, start, end, end, _IP_PROTOCOL, protocol, row, columns, stacks, secret)


def decode_datagram(
    data: NDArray[np.uint8],
    start: int,
    size: int,
    protocol: int,
    row: int,
    columns: HeaderColumns,
    known: Encapsulations,
) -> None:
    """Fill one row from a reassembled IP payload of that protocol at data[start:start + size].

    Addresses are taken over from the row (its last fragment); the tags around the fragments are kept only
    where the payload is no further tunnel.
    """
    outer = int(columns.encapsulation[row])
    _walk_payload(data, start, start + size, protocol, row, columns, known.stacks, SECRET)
    if columns.protocol[row] and columns.encapsulation[row] == 0:
        columns.encapsulation[row] = outer
