"""First bytes of each direction of every conversation, in order.

While packets arrive, segments are noted and their bytes copied once into an arena with a fixed bound;
how many are kept depends on what the stream opens with (`limits.KEEP_*`). Frames and times of every byte can be
looked up.

Knows openings of protocols only to decide how much is worth keeping; what they are is for `inspectors`. How segments
become streams in order is for `dialogues`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import limits, memory
from classifier.compiled import Record, Records, copy, i32, i64, inlined, kernel, move, on_stack, u16, u32, u64
from classifier.headers import TCP, UDP

FLOW: Final = np.dtype(
    [
        ("packets", np.int64), ("bytes", np.int64), ("missed", np.int64),
        ("next_offset", np.int64), ("start_offset", np.int64), ("acknowledged", np.int64), ("keep", np.int64),
        ("record", np.int64), ("body", np.int64),
        ("head0", np.uint64), ("head1", np.uint64),
        ("next_sequence", np.uint32), ("initial_sequence", np.uint32),
        ("first_segment", np.int32), ("last_segment", np.int32), ("hole", np.int32),
        ("flags", np.uint16), ("head_mask", np.uint16),
    ],
    align=True,
)  # fmt: skip
"""One direction of a conversation.

Offsets count stream bytes from the first one seen; start_offset is where the stream really begins (its
SYN may arrive late). record: where its next TLS record, RPC PDU or SMB message begins, -1 if that is not known. body:
where what nobody reads of the present PDU or message begins, 0 if all of it is worth keeping. head0, head1: its first
16 bytes, big-endian, as far as head_mask's bits say. first_segment, last_segment, hole: 1 + index into the store's
segments and holes, 0 for none.
"""

SEGMENT: Final = np.dtype(
    [
        ("offset", np.int64), ("arena", np.int64), ("frame", np.int64), ("time", np.int64),
        ("length", np.int32), ("next", np.int32),
    ],
    align=True,
)  # fmt: skip
"""A piece of a stream: length bytes at arena stand at offset; they came in that frame."""

BLANKS: Final = 64 * limits.KIB
"""The arena begins with zeros: bytes that nobody reads are kept as a reference to them.
Its memory is mapped and zero, and grows with what is used."""

STUB_HEAD, STUB_TAIL, STUB_WORTH_BLANKING = 40, 160, 256
"""Of a PDU's stub its beginning, and its end with the verifiers, are kept ([MS-RPCE] 2.2.2.11, 2.2.2.13)."""

MESSAGE_HEAD, MESSAGE_WORTH_BLANKING = 160, 512
"""Of a long SMB message that nobody reads its beginning is kept: the headers, the parameters of a READ or WRITE, and
the 16 octets of its data that tell whether that is RPC (SMB 2 has the longest: 132 in all)."""

HOLE: Final = np.dtype([("start", np.int64), ("end", np.int64), ("next", np.int32)], align=True)
"""Stream bytes [start, end) that have not arrived."""

# Counters of a store.
SEGMENTS, ARENA_USED, FREE_HOLE, HOLES, LOST_HOLES, LIMITED_BYTES = 0, 1, 2, 3, 4, 5

# Bits of a flow's flags.
SEEN: Final = 1  # a packet of this direction was captured
BASED: Final = 2  # next_sequence is known
STARTED: Final = 4  # the stream's first byte is known
SENT_SYN: Final = 8
SENT_SYN_ACK: Final = 16
SENT_FIN: Final = 32
SENT_RST: Final = 64
PAYLOAD: Final = 128  # at least one byte was sent
LIMITED: Final = 256  # bytes seen but not kept
TRUNCATED: Final = 512  # bytes cut off by the snap length
ENOUGH: Final = 1024  # all that can be read was kept: what follows is encrypted
READ: Final = 2048  # was read when it was over, and its bytes given back
PIPED: Final = 4096  # an SMB message had RPC in it


class Kept(NamedTuple):
    """Memory for first bytes. segments: SEGMENT; arena: uint8."""

    segments: Records
    arena: NDArray[np.uint8]

    @classmethod
    def empty(cls) -> Kept:
        """Room for as much as is ever kept, taken from the system only as it is used."""
        return cls(memory.zeros(limits.MAX_SEGMENTS, SEGMENT), memory.zeros(limits.ARENA, np.uint8))

    @classmethod
    def none(cls) -> Kept:
        """No room."""
        return cls(np.zeros(0, SEGMENT), np.zeros(0, np.uint8))


class Store(NamedTuple):
    """flows: FLOW, two a conversation; segments: SEGMENT; holes: HOLE; arena: uint8; counters: int64.

    recent: uint64, marks of the last packets of all flows, for copies; four places for each value of some bits.
    """

    flows: Records
    segments: Records
    holes: Records
    arena: NDArray[np.uint8]
    counters: NDArray[np.int64]
    recent: NDArray[np.uint64]

    @classmethod
    def empty(cls, flows: int) -> Store:
        """A store for that many flows. Memory is taken from the system only as it is used."""
        counters, kept = memory.zeros(6, np.int64), Kept.empty()
        counters[ARENA_USED] = BLANKS
        return cls(
            memory.zeros(flows, FLOW),
            kept.segments,
            np.empty(limits.MAX_HOLES, HOLE),
            kept.arena,
            counters,
            np.zeros(limits.SPAN_PACKETS, np.uint64),
        )

    def resized(self, flows: int) -> Store:
        """The same with so many flows."""
        return self._replace(flows=memory.resized(self.flows, flows))

    def with_kept(self, kept: Kept) -> Store:
        """The same with its first bytes in other memory."""
        return self._replace(segments=kept.segments, arena=kept.arena)

    def without_bytes(self) -> Store:
        """The same when all bytes were read: in which frames they came can still be asked."""
        return self._replace(arena=np.zeros(0, np.uint8))


@inlined
def distance(later: int, earlier: int) -> int:
    """Signed distance between two sequence numbers, wrap included (RFC 9293 section 3.4)."""
    return i64(i32(u32(i64(later) - i64(earlier))))


@kernel
def _open_hole(flow: Record, store: Store, start: int, end: int) -> None:
    counters = store.counters
    if counters[FREE_HOLE] != 0:
        number = counters[FREE_HOLE]
        counters[FREE_HOLE] = store.holes[number - 1].next
    elif counters[HOLES] < len(store.holes):
        counters[HOLES] += 1
        number = counters[HOLES]
    else:
        counters[LOST_HOLES] += 1
        return
    hole = store.holes[number - 1]
    hole.start, hole.end, hole.next = start, end, flow.hole
    flow.hole = number


@kernel
def _fill_holes(flow: Record, store: Store, start: int, end: int) -> int:
    """Close what [start, end) covers of the flow's holes; returns how many bytes that were."""
    filled, previous, number = 0, 0, i64(flow.hole)
    for _ in range(limits.MAX_HOLES_SEARCHED):
        if number == 0:
            break
        hole = store.holes[number - 1]
        following = i64(hole.next)
        low, high = max(start, hole.start), min(end, hole.end)
        if low < high:
            filled += high - low
            if low > hole.start and high < hole.end:
                rest = hole.end
                hole.end = low
                _open_hole(flow, store, high, rest)
            elif low > hole.start:
                hole.end = low
            elif high < hole.end:
                hole.start = high
            else:
                if previous == 0:
                    flow.hole = following
                else:
                    store.holes[previous - 1].next = following
                hole.next = store.counters[FREE_HOLE]
                store.counters[FREE_HOLE] = number
                number = previous
        previous, number = number, following
    return filled


@kernel
def _starts_earlier(flow: Record, store: Store, offset: int) -> None:
    """The stream begins at offset, before what was seen of it: what lies between is a gap until it arrives. Where its
    records begin is not known any more."""
    _open_hole(flow, store, offset, flow.start_offset)
    flow.missed += flow.start_offset - offset
    flow.start_offset, flow.record = offset, -1


@kernel
def start_of_stream(flow: Record, store: Store, sequence: int) -> None:
    """The stream's first byte has this sequence number: a SYN or a SYN-ACK's acknowledgement said so."""
    if flow.flags & BASED == 0:
        flow.next_sequence = sequence
    elif flow.flags & STARTED == 0:
        offset = flow.next_offset + distance(sequence, flow.next_sequence)
        if offset < flow.start_offset:
            _starts_earlier(flow, store, offset)
        elif offset > flow.start_offset:
            flow.start_offset, flow.record = offset, -1
    flow.flags |= BASED | STARTED


@kernel
def segment_arrived(flow: Record, store: Store, sequence: int, length: int) -> int:
    """Account for payload bytes at a sequence number: gaps opened and closed.

    Returns their offset in the stream, or -(2^40) if nothing of them is new or they can't belong here.
    """
    nothing = -(1 << 40)
    ahead = distance(sequence, flow.next_sequence)
    offset, end = flow.next_offset + ahead, flow.next_offset + ahead + length
    if ahead > 1 << 30:
        return nothing
    if flow.flags & STARTED == 0 and -limits.MAX_BEFORE_START <= offset < flow.start_offset:
        _starts_earlier(flow, store, offset)
    if ahead > 0:
        _open_hole(flow, store, flow.next_offset, offset)
        flow.missed += ahead
    elif ahead < 0:
        filled = _fill_holes(flow, store, offset, min(end, flow.next_offset)) if flow.hole != 0 else 0
        flow.missed -= filled
        if filled == 0 and end <= flow.next_offset:
            return nothing
    if end > flow.next_offset:
        flow.next_sequence = u32(i64(flow.next_sequence) + (end - flow.next_offset))
        flow.next_offset = end
    return offset


@inlined
def _byte(word: int, place: int) -> int:
    return i64((word >> u64(56 - 8 * place)) & u64(0xFF))


@kernel
def worth(head0: int, head1: int, known: int, kind: int) -> int:
    """How many first bytes of a stream are worth keeping, from its first bytes (known of them, up to 16)."""
    first, second = _byte(head0, 0), _byte(head0, 1)
    if kind == UDP:
        return limits.KEEP_RPC if first == 4 and second <= 19 and known == 16 else limits.KEEP_PLAIN
    if first == 5 and second <= 1 and _byte(head0, 2) <= 20 and _byte(head0, 4) & 0xEE == 0:
        return limits.KEEP_RPC  # DCE/RPC, connection-oriented (C706 section 12.6.1)
    tail = i64(head0 & u64(0xFFFFFF))
    if tail == 0x534D42 or first == 0x81:  # ".SMB" behind the NetBIOS length; a NetBIOS session request
        return limits.KEEP_PIPE
    if head0 == u64(0x6E6361636E5F6874):  # "ncacn_ht"
        return limits.KEEP_RPC
    if head0 >> u64(32) == u64(0x5250435F):  # "RPC_": RPC_IN_DATA, RPC_OUT_DATA, RPC_CONNECT
        return limits.KEEP_RPC
    if first == 0x16 and second == 3:  # TLS: until encryption begins
        return limits.KEEP_DIALOGUE
    if 0x20 <= first < 0x7F or first in (0x16, 0x30, 0x03, 0x00):  # text, LDAP, TPKT, .NET framing
        return limits.KEEP_LINES
    return limits.KEEP_PLAIN


@kernel
def _end_of_handshake(flow: Record, data: NDArray[np.uint8], position: int, offset: int, length: int) -> int:
    """Follow TLS records through a segment at that offset (RFC 8446 section 5.1).

    Returns how many of the stream's bytes are worth keeping: up to the first encrypted record, if it begins here.
    """
    if flow.head0 >> u64(48) != u64(0x1603):
        flow.record = -1
        return flow.keep
    if flow.record < offset:
        flow.record = -1
    while 0 <= flow.record < offset + length:
        at = position + flow.record - offset
        if data[at] == 20 or data[at] == 23:
            known, flow.record = flow.record + 1, -1
            flow.flags |= ENOUGH
            return known
        if flow.record + 5 > offset + length:
            flow.record = -1
        else:
            flow.record += 5 + (i64(data[at + 3]) << 8) + i64(data[at + 4])
    return flow.keep


@kernel
def _note_head(flow: Record, data: NDArray[np.uint8], position: int, offset: int, length: int) -> int:
    """Enter bytes into the flow's head. Returns how many of its first bytes are known, 0 if nothing changed."""
    if offset >= 16 or offset + length <= 0 or flow.head_mask == 0xFFFF:
        return 0
    changed = False
    for place in range(max(offset, 0), min(offset + length, 16)):
        bit = u16(1 << place)
        if flow.head_mask & bit:
            continue
        byte = u64(data[position + place - offset])
        if place < 8:
            flow.head0 |= byte << u64(56 - 8 * place)
        else:
            flow.head1 |= byte << u64(120 - 8 * place)
        flow.head_mask |= bit
        changed = True
    if not changed:
        return 0
    known = 0
    while known < 16 and flow.head_mask & u16(1 << known):
        known += 1
    return known


@kernel
def _encrypted_now(flow: Record, data: NDArray[np.uint8], position: int, length: int) -> bool:
    """Whether a dialogue in lines has become encrypted TLS records (RFC 8446 section 5.1) with this segment."""
    return (
        flow.keep == limits.KEEP_LINES
        and length >= 5
        and data[position] == 23
        and data[position + 1] == 3
        and data[position + 2] <= 4
    )


@kernel
def _note(
    flow: Record, store: Store, data: NDArray[np.uint8], position: int, offset: int, length: int, frame: int, time: int
) -> None:
    """Append a segment to the flow. position: where its bytes are in data, -1 for bytes that nobody reads; they make a
    segment before them that is of that kind longer."""
    counters = store.counters
    if length <= 0:
        return
    if position < 0 and flow.last_segment:
        last = store.segments[flow.last_segment - 1]
        if last.arena == 0 and last.offset + last.length == offset and last.length + length <= BLANKS:
            last.length += length
            return
    if counters[SEGMENTS] == len(store.segments):
        return
    arena = i64(0)
    if position >= 0:
        arena = counters[ARENA_USED]
        copy(store.arena, arena, data, position, length)
        counters[ARENA_USED] += length
    segment = store.segments[counters[SEGMENTS]]
    counters[SEGMENTS] += 1
    segment.offset, segment.arena, segment.length, segment.next = offset, arena, length, 0
    segment.frame, segment.time = frame, time
    if flow.last_segment:
        store.segments[flow.last_segment - 1].next = counters[SEGMENTS]
    else:
        flow.first_segment = counters[SEGMENTS]
    flow.last_segment = counters[SEGMENTS]


@kernel
def _keep_pdus(
    flow: Record, store: Store, data: NDArray[np.uint8], position: int, offset: int, length: int, frame: int, time: int
) -> None:
    """Keep a segment of connection-oriented RPC without the middle of long stubs (C706 section 12.6.4.9, .10).

    Only for associations whose stubs nobody reads; those with the endpoint mapper and on its port are kept whole.
    """
    start = flow.start_offset
    at, end, shift = offset - start, offset - start + length, position - (offset - start)
    while at < end:
        if flow.record < at:
            flow.record = -1
            break
        stop = min(end, flow.record)
        first, last = max(at, flow.body), min(stop, flow.record - STUB_TAIL)
        if flow.body and STUB_WORTH_BLANKING <= last - first <= BLANKS:
            _note(flow, store, data, at + shift, at + start, first - at, frame, time)
            _note(flow, store, data, -1, first + start, last - first, frame, time)
            at = last
        _note(flow, store, data, at + shift, at + start, stop - at, frame, time)
        at = stop
        if at == end:
            return
        p = at + shift
        if at + 16 > end or data[p] != 5:
            flow.record = -1
            break
        little = data[p + 4] & 0xF0 != 0
        low, high = i64(data[p + (8 if little else 9)]), i64(data[p + (9 if little else 8)])
        size, stub = low | (high << 8), data[p + 2] == 0 or data[p + 2] == 2
        if size < 16:
            flow.record = -1
            break
        flow.body = at + STUB_HEAD if stub and size > STUB_HEAD + STUB_TAIL + STUB_WORTH_BLANKING else 0
        flow.record = at + size
        first, at = at, min(end, at + STUB_HEAD if flow.body else at + size)
        _note(flow, store, data, first + shift, first + start, at - first, frame, time)
    _note(flow, store, data, at + shift, at + start, end - at, frame, time)


@kernel
def _message_head(
    flow: Record, store: Store, data: NDArray[np.uint8], shift: int, at: int, end: int, head: NDArray[np.int64]
) -> int:
    """Copy the beginning of the message at flow.record to head, zeros behind it.

    data[at + shift:end + shift] are the stream's bytes [at, end). If the message begins before them, the segment noted
    last has to reach from there to here. Returns how many octets there are, -1 if it doesn't.
    """
    begin, before = i64(flow.record), i64(0)
    head[:] = 0
    if begin < at:
        if flow.last_segment == 0:
            return -1
        last = store.segments[flow.last_segment - 1]
        first = last.offset - flow.start_offset
        if first > begin or first + last.length < at:
            return -1
        before = last.arena - first
    known = min(end - begin, MESSAGE_HEAD)
    for i in range(known):
        place = begin + i
        head[i] = store.arena[place + before] if place < at else data[place + shift]
    return known


@inlined
def _begins_pdu(head: NDArray[np.int64], at: int) -> bool:
    """Whether an RPC PDU may begin at that octet of a message (C706 section 12.6.3.1), or lies too far to be seen."""
    return at + 3 > MESSAGE_HEAD or (head[at] == 5 and head[at + 1] <= 1 and head[at + 2] <= 20)


# What is in an SMB message: nothing that is read, something, data that may be RPC's, RPC.
UNREAD, TOLD, DATA, RPC = 0, 1, 2, 3


@kernel
def _in_smb2(head: NDArray[np.int64]) -> int:
    """What is in an SMB 2 message behind its NetBIOS header ([MS-SMB2] 2.2.1, 2.2.20, 2.2.21, 2.2.31)."""
    command, reply = head[16], head[20] & 1
    if head[24] | head[25] | head[26] | head[27]:  # NextCommand: others follow
        return TOLD
    if command == (8 if reply else 9):  # READ, WRITE
        return RPC if _begins_pdu(head, 4 + head[70] + (head[71] << 8)) else DATA
    if command == 11 and head[72] == 0x17 and head[73] == 0xC0 and head[74] == 0x11:  # IOCTL: FSCTL_PIPE_TRANSCEIVE
        return RPC
    return TOLD if command in (0, 1, 3, 5, 11) else UNREAD  # those that `inspectors.smb2` reads


@kernel
def _in_smb1(head: NDArray[np.int64]) -> int:
    """What is in an SMB 1 message behind its NetBIOS header ([MS-CIFS] 2.2.3.1, 2.2.4.33, 2.2.4.42, 2.2.4.43)."""
    command, reply = head[8], head[13] & 0x80
    if command == (0x2E if reply else 0x2F):  # READ_ANDX, WRITE_ANDX
        if head[37] != 0xFF:  # AndXCommand: others follow
            return TOLD
        field = 49 if reply else 59
        length = 2 if not reply and head[51] & 0x0C == 0x0C else 0  # in raw mode a message's length precedes it
        return RPC if _begins_pdu(head, 4 + head[field] + (head[field + 1] << 8) + length) else DATA
    if command == 0x25:  # TRANSACTION
        return RPC
    return TOLD if command in (0x2D, 0x72, 0x73, 0x75, 0xA2) else UNREAD  # those that `inspectors.smb1` reads


@kernel
def _worth_of_message(flow: Record, head: NDArray[np.int64], size: int) -> int:
    """How many octets of a NetBIOS session message are worth keeping, from its head; 0 if it is none with SMB in it.

    size: of the message with its header (RFC 1002 section 4.3.1, [MS-SMB2] 2.1). Data of a flow that had RPC before may
    be the rest of a PDU.
    """
    if head[0] != 0:
        return size if 0x81 <= head[0] <= 0x85 else 0
    version = head[4]
    if version < 0xFC or head[5] != 0x53 or head[6] != 0x4D or head[7] != 0x42:  # "SMB"
        return 0
    holds = UNREAD  # encrypted or compressed
    if version >= 0xFE:
        holds = _in_smb2(head) if version == 0xFE else _in_smb1(head)
    if holds == RPC:
        flow.flags |= PIPED
    elif holds == DATA and flow.flags & PIPED and size <= limits.PIPE_MESSAGE:
        holds = TOLD
    whole = holds in (RPC, TOLD) or size < MESSAGE_HEAD + MESSAGE_WORTH_BLANKING
    return size if whole else MESSAGE_HEAD


@kernel
def _keep_messages(
    flow: Record, store: Store, data: NDArray[np.uint8], position: int, offset: int, length: int, frame: int, time: int
) -> None:
    """Keep a segment of SMB without the inside of long messages that nobody reads: files, listings, cipher text.

    Behind a hole that takes the beginning of a message away all is kept.
    """
    head = on_stack(MESSAGE_HEAD)
    start = flow.start_offset
    at, end, shift = offset - start, offset - start + length, position - (offset - start)
    noted = at
    while at < end:
        if at <= flow.record:
            stop = min(end, flow.record)
            first = max(at, flow.body)
            if flow.body and first < stop:
                _note(flow, store, data, noted + shift, noted + start, first - noted, frame, time)
                _note(flow, store, data, -1, first + start, stop - first, frame, time)
                noted = stop
            at = stop
            if at == end:
                break
        known = _message_head(flow, store, data, shift, at, end, head)
        size = 4 + (head[1] << 16 | head[2] << 8 | head[3])
        if 0 <= known < min(size, MESSAGE_HEAD):  # it goes on in the next segment
            break
        worth_keeping = _worth_of_message(flow, head, size) if known > 0 else i64(0)
        if worth_keeping == 0:
            flow.record = -1
            break
        flow.body = flow.record + worth_keeping if worth_keeping < size else 0
        flow.record += size
    _note(flow, store, data, noted + shift, noted + start, end - noted, frame, time)


@kernel
def keep_payload(
    data: NDArray[np.uint8],
    position: int,
    length: int,
    offset: int,
    frame: int,
    time: int,
    kind: int,
    a_port: int,
    b_port: int,
    store: Store,
    number: int,
) -> None:
    """Keep the bytes data[position:position + length], which stand at offset in flow number's stream."""
    flow = store.flows[number]
    counters = store.counters
    if flow.flags & READ:
        flow.flags |= LIMITED
        counters[LIMITED_BYTES] += length
        return
    if a_port == 135 or b_port == 135 or a_port == 593 or b_port == 593:
        flow.keep = limits.KEEP_EPM
    elif flow.keep == 0:
        flow.keep = limits.KEEP_PLAIN
    start = flow.start_offset
    known = _note_head(flow, data, position, offset - start, length)
    if known >= 8 or (kind == UDP and known):
        keep = worth(flow.head0, flow.head1, known, kind)
        flow.keep = max(flow.keep, keep)
        if keep >= limits.KEEP_RPC:
            sibling = store.flows[number ^ 1]
            sibling.keep = max(sibling.keep, keep)
    if kind == TCP and flow.record >= 0 and flow.keep == limits.KEEP_DIALOGUE:
        flow.keep = _end_of_handshake(flow, data, position, offset - start, length)
    elif _encrypted_now(flow, data, position, length):
        flow.keep = min(flow.keep, offset - start + 1)
        flow.flags |= ENOUGH
    keep = flow.keep
    if counters[ARENA_USED] > limits.ARENA_DEEP and keep < limits.KEEP_RPC:
        keep = min(keep, limits.KEEP_PLAIN)
    wanted = min(offset - start + length, keep) - (offset - start)
    room = len(store.arena) - counters[ARENA_USED]
    full = wanted > room or counters[SEGMENTS] == len(store.segments)
    if full:
        wanted = min(wanted, 0)
    if wanted < length:
        if flow.flags & ENOUGH == 0:
            flow.flags |= LIMITED
        if keep < flow.keep or full:
            counters[LIMITED_BYTES] += length - max(wanted, 0)
        if wanted <= 0:
            return
    if kind == TCP and flow.record >= 0 and keep == limits.KEEP_RPC:
        _keep_pdus(flow, store, data, position, offset, wanted, frame, time)
    elif kind == TCP and flow.record >= 0 and keep == limits.KEEP_PIPE:
        _keep_messages(flow, store, data, position, offset, wanted, frame, time)
    else:
        _note(flow, store, data, position, offset, wanted, frame, time)


@kernel
def _locate(
    store: Store,
    numbers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    frames: NDArray[np.int64],
    times: NDArray[np.int64],
) -> None:
    for i in range(len(numbers)):
        flow = store.flows[numbers[i]]
        wanted, nearest = offsets[i] + flow.start_offset, i64(1) << 62
        segment = i64(flow.first_segment)
        frames[i] = -1
        while segment != 0:
            piece = store.segments[segment - 1]
            away = max(piece.offset - wanted, 0)
            if piece.offset + piece.length > wanted and away < nearest:
                frames[i], times[i], nearest = piece.frame, piece.time, away
                if away == 0:
                    break
            segment = i64(piece.next)


def locate(
    store: Store, numbers: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(frame ordinals, times) of the packets that first brought these stream bytes; of the next byte in a hole.

    numbers, offsets: int64, flow and offset in its stream. A frame of -1: nothing there or behind.
    """
    frames, times = np.empty(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
    _locate(store, numbers, offsets, frames, times)
    return frames, times


# ---- giving bytes back -----------------------------------------------------------------------


@kernel
def keep_no_more(flow: Record, store: Store) -> None:
    """Keep no byte that still comes, and take the gaps so far out of use: what fills them later is not told from a
    repetition."""
    if flow.flags & READ:
        return
    flow.flags |= READ
    while flow.hole != 0:
        hole = store.holes[flow.hole - 1]
        following = hole.next
        hole.next = store.counters[FREE_HOLE]
        store.counters[FREE_HOLE] = flow.hole
        flow.hole = following


@kernel
def _drop(store: Store, chosen: NDArray[np.int64]) -> None:
    """Take the segments of conversations out of use."""
    for index in chosen:
        for number in (2 * index, 2 * index + 1):
            flow = store.flows[number]
            flow.first_segment = flow.last_segment = 0
            keep_no_more(flow, store)


@kernel
def _pack(store: Store, flows: int, moved: NDArray[np.int32]) -> None:
    """Move what is in use to the beginning of the segments and of the arena.

    moved: zeros, one for each segment; gets 1 + where those in use went. Segments and their bytes lie in the order
    in which they came, so that each moves to what was read before.
    """
    counters = store.counters
    for number in range(flows):
        segment = i64(store.flows[number].first_segment)
        while segment != 0:
            moved[segment - 1] = 1
            segment = i64(store.segments[segment - 1].next)
    kept, used = i64(0), i64(BLANKS)
    for old in range(counters[SEGMENTS]):
        if moved[old] == 0:
            continue
        source, target = store.segments[old], store.segments[kept]
        start, length = i64(source.arena), i64(source.length)
        target.offset, target.frame, target.time = source.offset, source.frame, source.time
        target.length, target.next, target.arena = source.length, source.next, start
        if start >= BLANKS:
            target.arena = used
            move(store.arena, used, start, length)
            used += length
        kept += 1
        moved[old] = kept
    for number in range(flows):
        flow = store.flows[number]
        if flow.first_segment != 0:
            flow.first_segment, flow.last_segment = moved[flow.first_segment - 1], moved[flow.last_segment - 1]
    for segment in range(kept):
        following = i64(store.segments[segment].next)
        if following != 0:
            store.segments[segment].next = moved[following - 1]
    counters[SEGMENTS], counters[ARENA_USED] = kept, used


def have_bytes(store: Store, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the chosen conversations (indexes) have first bytes in use."""
    first = store.flows["first_segment"]
    return (first[2 * chosen] != 0) | (first[2 * chosen + 1] != 0)


def forget(store: Store, chosen: NDArray[np.int64], conversations: int) -> None:
    """Give back the first bytes of conversations; chosen: int64, their indexes, of so many conversations in all.

    Their streams are empty afterwards, and stay so: what still comes is counted as not kept.
    """
    _drop(store, chosen)
    _pack(store, 2 * conversations, np.zeros(int(store.counters[SEGMENTS]), np.int32))
