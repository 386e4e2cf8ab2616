"""The table of conversations: who talked to whom, how much, how it began and ended.

One row a conversation, two flows (directions) a row, first bytes of each flow in `streams`. The table is
filled by one compiled pass over batches; everything that users see of it is derived afterwards on arrays.
Knows ports only as numbers, except for one thing: conversations with the endpoint mapper are kept whole.

Sources: RFC 9293 (TCP); Zeek's connection states (Zeek manual, conn.log); Community ID v1
(github.com/corelight/community-id-spec).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import memory
from classifier.compiled import Record, Records, i64, inlined, kernel, prefetch, u32, u64
from classifier.fragments import Completed
from classifier.hashing import SECRET, Secret
from classifier.headers import ACK, FIN, RST, SYN, TCP, UDP, HeaderColumns, conversation_key
from classifier.limits import MAX_CONVERSATIONS, SPAN_WINDOW_NS, UDP_TIMEOUT_NS
from classifier.packets import Frames, Interfaces, PacketBatch
from classifier.streams import (
    BASED,
    PAYLOAD,
    SEEN,
    SENT_FIN,
    SENT_RST,
    SENT_SYN,
    SENT_SYN_ACK,
    STARTED,
    TRUNCATED,
    Store,
    distance,
    keep_payload,
    segment_arrived,
    start_of_stream,
)  # fmt: skip

CONVERSATION: Final = np.dtype(
    [
        ("a_high", np.uint64), ("a_low", np.uint64), ("b_high", np.uint64), ("b_low", np.uint64),
        ("first_frame", np.int64), ("last_frame", np.int64), ("start", np.int64), ("end", np.int64),
        ("duplicates", np.int64), ("number", np.int64),
        ("encapsulation", np.int32), ("interface", np.int32), ("last_interface", np.int32),
        ("a_port", np.uint16), ("b_port", np.uint16), ("protocol", np.uint8), ("first_flow", np.uint8),
    ],
    align=True,
)  # fmt: skip
"""a is the endpoint with the smaller (address, port): flow 2i goes from a to b, flow 2i + 1 from b to a.
number: how many conversations of the run began before this one; it stays when rows move to another table."""

_BLOCK: Final = Frames.BLOCK

# Counters of a table.
USED, IGNORED, DROPPED, NUMBERED = 0, 1, 2, 3

AHEAD: Final = 8
"""Packets ahead of the one at hand whose conversation is brought into the cache; twice as far, where it is listed."""

FIRST_ROWS: Final = 1 << 17
"""Rows of a new table. The system gives zeros as they are used, so that many cost nothing, and few captures outgrow
them."""

MAX_ROWS: Final = 1 << 23
"""Rows that a table has in its first memory: FIRST_ROWS doubled until MAX_CONVERSATIONS have room."""

FAR: Final = 1 << 30
"""A sequence number further ahead than this is no gap but nonsense (a window has at most 2^30: RFC 7323)."""


@kernel
def rehash(rows: Records, count: int, slots: NDArray[np.int32], secret: Secret) -> None:
    """Enter the newest conversation of each key into empty slots."""
    mask = len(slots) - 1
    for index in range(count):
        row = rows[index]
        key = conversation_key(
            row.a_high, row.a_low, i64(row.a_port), row.b_high, row.b_low, i64(row.b_port), i64(row.protocol), secret
        )
        slot = i64(key & u64(mask))
        while slots[slot] != 0 and not _same_key(rows[slots[slot] - 1], row):
            slot = (slot + 1) & mask
        slots[slot] = index + 1


@kernel
def _same_key(one: Record, other: Record) -> bool:
    return (
        one.a_low == other.a_low
        and one.b_low == other.b_low
        and one.a_port == other.a_port
        and one.b_port == other.b_port
        and one.protocol == other.protocol
        and one.a_high == other.a_high
        and one.b_high == other.b_high
    )


@kernel
def _begins_anew(flow: Record, peer: Record, flags: int, sequence: int, acknowledgement: int) -> bool:
    """Whether a SYN or SYN-ACK opens a new conversation on the same ports."""
    following = u32(sequence + 1)
    if flags & ACK:
        if flow.flags & SENT_SYN_ACK and flow.initial_sequence == u32(sequence):
            return False
        if peer.flags & SENT_SYN and u32(peer.initial_sequence + 1) == u32(acknowledgement):
            return False
        return flow.flags & (SENT_SYN_ACK | PAYLOAD | SENT_FIN) != 0
    if flow.flags & SENT_SYN:
        return flow.initial_sequence != u32(sequence)
    if flow.flags & SEEN:  # came before its own SYN: reordered by the capture, or another connection's rest
        first = u32(i64(flow.next_sequence) - flow.next_offset)
        return not (0 <= distance(first, following) < 65_536 and flow.packets < 16)
    if peer.flags & SENT_SYN_ACK:
        return flow.next_sequence != following
    return peer.flags & SENT_SYN == 0


@inlined
def _mark(digest: int, key: int) -> int:
    """A packet's digest and its conversation's key in one number (the multiplier is that of Fibonacci hashing)."""
    value = (u64(digest) ^ u64(key)) * u64(0x9E37_79B9_7F4A_7C15)
    return value ^ (value >> u64(32))


@inlined
def _place(recent: NDArray[np.uint64], mark: int) -> int:
    """Where the four are among which a mark may stand."""
    return 4 * i64(u64(mark) & u64(len(recent) // 4 - 1))


@kernel
def _is_copy(recent: NDArray[np.uint64], mark: int, side: int, time: int) -> bool:
    """Whether a mirror delivered this very packet a moment ago; remembers it. See limits.SPAN_WINDOW_NS.

    The low bits of the mark choose the place; what stands there is its high ones, the side and the time.
    """
    tick = i64(u64(time) >> u64(20)) & 0xFFFF
    span = (SPAN_WINDOW_NS >> 20) + 1
    place = _place(recent, mark)
    mark = (u64(mark) ^ (u64(side) << u64(63))) & u64(0xFFFF_FFFF_FFFF_0000)
    for each in range(place, place + 4):
        if recent[each] & u64(0xFFFF_FFFF_FFFF_0000) == mark:
            passed = (tick - i64(recent[each] & u64(0xFFFF))) & 0xFFFF
            if passed <= span or passed >= 0x10000 - span:
                return True
    for each in range(place + 3, place, -1):
        recent[each] = recent[each - 1]
    recent[place] = mark | u64(tick)
    return False


@kernel
def _tcp(flow: Record, peer: Record, store: Store, flags: int, sequence: int, acknowledgement: int) -> int:
    """Follow the sequence numbers of one segment; returns the sequence number of its first payload byte."""
    following = i64(u32(sequence + 1)) if flags & SYN else i64(sequence)
    if flags & SYN:
        flow.flags |= SENT_SYN_ACK if flags & ACK else SENT_SYN
        flow.initial_sequence = sequence
        start_of_stream(flow, store, following)
    elif flow.flags & BASED == 0:
        flow.next_sequence = following
        flow.flags |= BASED
    if flags & ACK and not flags & RST:
        if flags & SYN:
            start_of_stream(peer, store, acknowledgement)
        elif peer.flags & BASED == 0:
            peer.next_sequence = acknowledgement
            peer.flags |= BASED
        ahead = distance(acknowledgement, peer.next_sequence)
        if ahead < FAR:
            peer.acknowledged = max(peer.acknowledged, peer.next_offset + ahead)
    if flags & RST and not (flow.flags & peer.flags & SENT_FIN):
        flow.flags |= SENT_RST
    if flags & FIN:
        flow.flags |= SENT_FIN
    return following


@kernel
def fill(
    data: NDArray[np.uint8],
    time: NDArray[np.int64],
    wire: NDArray[np.int32],
    interface: NDArray[np.int32],
    frame: NDArray[np.int64],
    start: int,
    count: int,
    headers: HeaderColumns,
    rows: Records,
    slots: NDArray[np.int32],
    counters: NDArray[np.int64],
    store: Store,
    of_row: NDArray[np.int32],
) -> int:
    """Enter the packets from row start on. Returns the row it stopped at because the table is full, or count.

    of_row[row] gets the conversation's index, -1 if the packet counts for none.
    """
    (protocol, source_high, source_low, target_high, target_low, source_port, target_port, flags_of,
     sequence_of, acknowledgement_of, payload, payload_captured, payload_length, encapsulation, digest, key_of,
     ) = headers  # fmt: skip
    mask = len(slots) - 1
    for row in range(start, count):
        if row + 2 * AHEAD < count:
            prefetch(slots, i64(key_of[row + 2 * AHEAD] & u64(mask)))
            near = i64(slots[i64(key_of[row + AHEAD] & u64(mask))]) - 1
            if near >= 0:
                prefetch(rows, near)
                prefetch(store.flows, 2 * near)
                prefetch(store.flows, 2 * near + 1)
            prefetch(store.recent, _place(store.recent, _mark(digest[row + AHEAD], key_of[row + AHEAD])))
        kind = i64(protocol[row])
        of_row[row] = -1
        if kind != TCP and kind != UDP:
            counters[IGNORED] += 1
            continue
        a_high, a_low, a_port = source_high[row], source_low[row], i64(source_port[row])
        b_high, b_low, b_port = target_high[row], target_low[row], i64(target_port[row])
        side = 0
        if a_high > b_high or (a_high == b_high and (a_low > b_low or (a_low == b_low and a_port > b_port))):
            a_high, a_low, a_port, b_high, b_low, b_port = b_high, b_low, b_port, a_high, a_low, a_port
            side = 1
        slot, index = i64(key_of[row] & u64(mask)), -1
        while slots[slot] != 0:
            seen = rows[slots[slot] - 1]
            if (
                seen.a_low == a_low and seen.b_low == b_low and seen.a_port == a_port and seen.b_port == b_port
                and seen.protocol == kind and seen.a_high == a_high and seen.b_high == b_high
            ):  # fmt: skip
                index = slots[slot] - 1
                break
            slot = (slot + 1) & mask
        flags, sequence, acknowledgement = (
            i64(flags_of[row]), i64(sequence_of[row]), i64(acknowledgement_of[row])
        )  # fmt: skip
        if index >= 0:
            if kind == TCP:
                if flags & SYN and _begins_anew(
                    store.flows[2 * index + side], store.flows[2 * index + 1 - side], flags, sequence, acknowledgement
                ):
                    index = -1
            elif abs(time[row] - rows[index].end) > UDP_TIMEOUT_NS:
                index = -1
        if index < 0:
            index = counters[USED]
            if index == len(rows):
                if index < MAX_CONVERSATIONS:
                    return row
                counters[DROPPED] += 1
                continue
            counters[USED] += 1
            slots[slot] = index + 1
            fresh = rows[index]
            fresh.number = counters[NUMBERED]
            counters[NUMBERED] += 1
            fresh.a_high, fresh.a_low, fresh.a_port = a_high, a_low, a_port
            fresh.b_high, fresh.b_low, fresh.b_port = b_high, b_low, b_port
            fresh.protocol, fresh.first_flow = kind, side
            fresh.first_frame, fresh.start = frame[row], time[row]
            fresh.encapsulation, fresh.interface = encapsulation[row], interface[row]
        of_row[row] = index
        conversation = rows[index]
        flow, peer = store.flows[2 * index + side], store.flows[2 * index + 1 - side]
        conversation.last_frame, conversation.end = frame[row], time[row]
        conversation.last_interface = interface[row]
        if _is_copy(store.recent, _mark(digest[row], key_of[row]), side, time[row]):
            conversation.duplicates += 1
            continue
        flow.packets += 1
        flow.bytes += wire[row]
        flow.flags |= SEEN
        length = i64(payload_length[row])
        if kind == TCP:
            sequence = _tcp(flow, peer, store, flags, sequence, acknowledgement)
            if length == 0:
                continue
            offset = segment_arrived(flow, store, sequence, length)
            if offset < -FAR:
                continue
        else:
            flow.flags |= STARTED
            offset = flow.next_offset
            flow.next_offset += length
        flow.flags |= PAYLOAD
        captured = min(i64(payload_captured[row]), length)
        if captured < length:
            flow.flags |= TRUNCATED
            flow.missed += length - captured
        if captured > 0:
            keep_payload(
                data, payload[row], captured, offset, i64(frame[row]), time[row], kind, a_port, b_port,
                store, 2 * index + side,
            )  # fmt: skip
    return count


@dataclass(slots=True)
class ConversationTable:
    """All conversations of a run.

    rows: CONVERSATION records, `count` of them in use; store: the flows' records and first bytes.
    """

    rows: Records = field(default_factory=lambda: memory.zeros(MAX_ROWS, CONVERSATION)[:FIRST_ROWS])
    store: Store = field(default_factory=lambda: Store.empty(2 * MAX_ROWS).resized(2 * FIRST_ROWS))
    _slots: NDArray[np.int32] = field(default_factory=lambda: np.zeros(4 * FIRST_ROWS, np.int32))
    _counters: NDArray[np.int64] = field(default_factory=lambda: memory.zeros(4, np.int64))
    _of_row: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    @classmethod
    def of(cls, rows: Records, count: int, store: Store, counters: NDArray[np.int64]) -> ConversationTable:
        """A table of conversations that began in another one, whose counters go on here."""
        counters = counters.copy()
        counters[USED] = count
        slots = np.zeros(4 * len(rows), np.int32)
        rehash(rows, count, slots, SECRET)
        return cls(rows, store, slots, counters)

    @property
    def counters(self) -> NDArray[np.int64]:
        """int64 at USED, IGNORED, DROPPED and NUMBERED."""
        return self._counters

    def numbers(self, packets: int) -> NDArray[np.int64]:
        """int64: the number of the conversation that each packet of the last batch counts for, -1 for none."""
        of_row = self._of_row[:packets]
        return np.where(of_row >= 0, self.rows["number"][of_row], -1)

    @property
    def count(self) -> int:
        """Conversations so far."""
        return int(self._counters[USED])

    @property
    def ignored_packets(self) -> int:
        """Packets that are no TCP or UDP (or cut before their ports)."""
        return int(self._counters[IGNORED])

    @property
    def dropped_packets(self) -> int:
        """Packets of conversations beyond limits.MAX_CONVERSATIONS."""
        return int(self._counters[DROPPED])

    def add(
        self, batch: PacketBatch, headers: HeaderColumns, data: NDArray[np.uint8], completed: list[Completed]
    ) -> None:
        """Enter a batch. data: the batch's bytes, with reassembled datagrams behind them; completed: their rows."""
        if len(self._of_row) < batch.count:
            self._of_row = np.empty(batch.count, np.int32)
        packets, row = batch.columns, 0
        while True:
            row = int(
                fill(
                    data,
                    packets.time,
                    packets.wire,
                    packets.interface,
                    packets.frame,
                    row,
                    batch.count,
                    headers,
                    self.rows,
                    self._slots,
                    self._counters,
                    self.store,
                    self._of_row,
                )
            )
            if row >= batch.count:
                break
            self._grow()
        for datagram in completed:
            self._count_fragments(datagram, headers)

    def _count_fragments(self, datagram: Completed, headers: HeaderColumns) -> None:
        """Give the earlier fragments of a datagram to the conversation that its last one was entered in."""
        index = int(self._of_row[datagram.row])
        if index < 0:
            return
        row = self.rows[index]
        source = (
            headers.source_high[datagram.row],
            headers.source_low[datagram.row],
            headers.source_port[datagram.row],
        )
        side = 0 if source == (row["a_high"], row["a_low"], row["a_port"]) else 1
        self.store.flows["packets"][2 * index + side] += datagram.frames_before
        self.store.flows["bytes"][2 * index + side] += datagram.wire_before
        row["duplicates"] += datagram.copies_before
        row["first_frame"] = min(row["first_frame"], datagram.first_frame)

    def reach(self, rows: int) -> None:
        """Have that many rows, and their flows."""
        self.rows = memory.resized(self.rows, rows)
        self.store = self.store.resized(2 * rows)

    def _grow(self) -> None:
        """Twice the rows, flows and slots."""
        self.reach(2 * len(self.rows))
        self._slots = np.zeros(2 * len(self._slots), np.int32)
        rehash(self.rows, self.count, self._slots, SECRET)


STATES: Final[tuple[str | None, ...]] = (
    "S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH", None,
)  # fmt: skip
"""Zeek's connection states, as the Zeek manual lists them for conn.log; None for UDP."""

_S0, _S1, _SF, _REJ, _S2, _S3, _RSTO, _RSTR, _RSTOS0, _RSTRH, _SH, _SHR, _OTH, _NONE = range(len(STATES))

# States of one endpoint, after Zeek's TCP analyzer.
_INACTIVE, _PARTIAL, _SYN_SENT, _SYN_ACK_SENT, _ESTABLISHED, _CLOSED, _RESET = range(7)


@inlined
def _endpoint_state(flags: int, peer: int) -> int:
    """State that an endpoint was last in, from what it and its peer sent."""
    if flags & SENT_RST:
        return _RESET
    if flags & SENT_FIN:
        return _CLOSED
    if (flags & SENT_SYN and peer & SENT_SYN_ACK) or (flags & SENT_SYN_ACK and peer & SENT_SYN):
        return _ESTABLISHED
    if flags & SENT_SYN_ACK:
        return _SYN_ACK_SENT
    if flags & SENT_SYN:
        return _SYN_SENT
    return _PARTIAL if flags & SEEN else _INACTIVE


@inlined
def _connection_state(asked: int, answered: int) -> int:
    """Index into STATES, from the flags of the client's flow and the server's."""
    asker, answerer = _endpoint_state(asked, answered), _endpoint_state(answered, asked)
    if answerer == _RESET:
        if _SYN_SENT <= asker <= _SYN_ACK_SENT or (asker == _RESET and (asked | answered) & PAYLOAD == 0):
            return _REJ
        return _RSTRH if asker <= _PARTIAL else _RSTR
    if asker == _RESET:
        return _RSTOS0 if answerer <= _PARTIAL else _RSTO
    if asker == _CLOSED:
        return _SF if answerer == _CLOSED else _SH if answerer <= _PARTIAL else _S2
    if answerer == _CLOSED:
        return _SHR if asker <= _PARTIAL else _S3
    if asker == _SYN_SENT and answerer == _INACTIVE:
        return _S0
    return _S1 if asker == _ESTABLISHED and answerer == _ESTABLISHED else _OTH


@kernel
def _connection_states(rows: Records, flows: Records, client: NDArray[np.int8], states: NDArray[np.int32]) -> None:
    for index in range(len(states)):
        flow = 2 * index + client[index]
        states[index] = _NONE
        if rows[index].protocol == TCP:
            states[index] = _connection_state(i64(flows[flow].flags), i64(flows[flow ^ 1].flags))


def connection_states(table: ConversationTable, client: NDArray[np.int8]) -> NDArray[np.int32]:
    """Zeek's conn_state of each conversation as index into STATES.

    client: int8, 0 or 1: which flow of each conversation the client sends (0: from a to b).
    """
    states = np.empty(table.count, np.int32)
    _connection_states(table.rows, table.store.flows, client, states)
    return states


@inlined
def _missed_of(flow: Record) -> int:
    """Gaps, and what the peer acknowledged beyond the last byte seen (a FIN counts as one in its numbers)."""
    beyond = flow.acknowledged - flow.next_offset - (1 if flow.flags & SENT_FIN else 0)
    return i64(flow.missed + (beyond if beyond > 0 else 0))


@kernel
def _silent_servers(flows: Records, client: NDArray[np.int8], silent: NDArray[np.int64]) -> None:
    for index in range(len(silent)):
        flow = flows[2 * index + 1 - client[index]]
        silent[index] = flow.flags & PAYLOAD == 0 and _missed_of(flow) == 0


def silent_servers(table: ConversationTable, client: NDArray[np.int8]) -> NDArray[np.int64]:
    """int64, 1 for each conversation whose server sent no payload: the capture has none, and lacks none. client: as of
    `connection_states`."""
    silent = np.empty(table.count, np.int64)
    _silent_servers(table.store.flows, client, silent)
    return silent


@kernel
def _tallies(rows: Records, flows: Records, client: NDArray[np.int8], counts: NDArray[np.int64]) -> None:
    for index in range(counts.shape[1]):
        asked = flows[2 * index + client[index]]
        answered = flows[2 * index + 1 - client[index]]
        counts[0, index] = asked.packets
        counts[1, index] = answered.packets
        counts[2, index] = asked.bytes
        counts[3, index] = answered.bytes
        counts[4, index] = rows[index].duplicates
        counts[5, index] = _missed_of(asked) + _missed_of(answered)


def tallies(table: ConversationTable, client: NDArray[np.int8]) -> NDArray[np.int64]:
    """int64[6, conversations]: packets to the server and to the client, bytes likewise, copies left out, and bytes that
    the capture lacks of both flows. client: as of `connection_states`."""
    counts = np.empty((6, table.count), np.int64)
    _tallies(table.rows, table.store.flows, client, counts)
    return counts


class Spans(NamedTuple):
    """From when to when conversations went on, and what names them: one each.

    numbers: int64[3, conversations], id in the run, number of the first frame in its file, and of the last in its;
    times: int64[2, conversations], start and end in nanoseconds; digits: int8[2, conversations], fraction digits of
    each; files: int32, index of the file of the first frame; udp: int32, 1 for UDP, 0 for TCP; stacks: int64, number
    of the encapsulation.
    """

    numbers: NDArray[np.int64]
    times: NDArray[np.int64]
    digits: NDArray[np.int8]
    files: NDArray[np.int32]
    udp: NDArray[np.int32]
    stacks: NDArray[np.int64]


@kernel
def _spans(rows: Records, digits: NDArray[np.int8], spans: Spans) -> None:
    for index in range(len(spans.files)):
        row = rows[index]
        spans.numbers[0, index] = row.number + 1
        spans.numbers[1, index] = row.first_frame % _BLOCK
        spans.numbers[2, index] = row.last_frame % _BLOCK
        spans.times[0, index], spans.times[1, index] = row.start, row.end
        spans.digits[0, index], spans.digits[1, index] = digits[row.interface], digits[row.last_interface]
        spans.files[index] = row.first_frame // _BLOCK
        spans.udp[index], spans.stacks[index] = row.protocol != TCP, row.encapsulation


def spans(table: ConversationTable, interfaces: Interfaces) -> Spans:
    """Those of all conversations of a table."""
    count = table.count
    made = Spans(
        np.empty((3, count), np.int64), np.empty((2, count), np.int64), np.empty((2, count), np.int8),
        np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int64),
    )  # fmt: skip
    _spans(table.rows, interfaces.digits, made)
    return made
