"""Which conversations are read by the inspectors, once for each distinct dialogue.

Most conversations open like others, but for random numbers, tickets and cipher text. What is left without
those (`essence`) is digested compiled, equal ones are grouped, and one of each group is read; what was found
holds for the group, its frames are looked up per conversation.

Conversations that are over may be read while others still go on, so that their bytes need not be kept: the
frames that labels may ask for are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import inspectors
from classifier.beside import soon
from classifier.compiled import Records, copy, i64, inlined, kernel, u64
from classifier.conversations import ConversationTable
from classifier.crew import Crew
from classifier.dialogues import dialogues
from classifier.digests import STATE, Key, Words, digest_words, end_digest
from classifier.essence import clean, first_call_id, reads_stubs
from classifier.headers import TCP
from classifier.inspectors.base import Answer, Evidence, Place
from classifier.inspectors.rpc_http import ChannelEvidence
from classifier.limits import KIB, MANY_DIALOGUES
from classifier.orientation import Orientation
from classifier.streams import LIMITED, STARTED, TRUNCATED, Store, have_bytes, locate

SMALL: Final = 1024
"""Conversations not worth a thread of their own."""

TOLD: Final = STARTED | LIMITED | TRUNCATED
"""Flags of a flow that a dialogue tells."""

SCRATCH: Final = 640 * KIB
"""First bytes of one conversation that are compared by their essence; longer ones are compared as they are."""

HEAD: Final = 24
"""Octets before those bytes: what else a dialogue tells, in two words, and how much of each direction is compared."""

_OFFSET_BITS: Final = 32
"""Bits of an offset among first bytes, of which a stream keeps far less."""

IN_PIECES: Final = 1 << 62
"""The third of those words where segments are compared."""


@kernel
def _digest_flow(
    store: Store, number: int, state: Words, key: Key, scratch: NDArray[np.uint8], words: Words
) -> None:
    """Digest a flow's kept segments as they arrived: offset, length and bytes of each, and a length of 0."""
    flow = store.flows[number]
    segment = i64(flow.first_segment)
    while segment != 0:
        piece = store.segments[segment - 1]
        words[0], words[1], head = u64(piece.offset - flow.start_offset), u64(piece.length), 2
        start, end = piece.arena, piece.arena + piece.length
        while start < end:
            size = min(end - start, len(scratch) - 8 * head)
            copy(scratch, 8 * head, store.arena, start, size)
            digest_words(state, key, words, 0, _filled_up(scratch, 8 * head + size))
            start, head = start + size, 0
        segment = i64(piece.next)
    words[0], words[1] = 0, 0
    digest_words(state, key, words, 0, 2)


@kernel
def _filled_up(scratch: NDArray[np.uint8], end: int) -> int:
    """Fill the last word of scratch[:end] with zeros; returns how many words that are."""
    count = (end + 7) >> 3
    scratch[end : 8 * count] = 0
    return count


@kernel
def _copy_regular(store: Store, number: int, tcp: bool, out: NDArray[np.uint8], at: int) -> int:
    """Copy a flow's bytes to out[at:] if they lie in order, without a hole, and fit. Returns their end, or -1."""
    flow = store.flows[number]
    segment, expected = i64(flow.first_segment), i64(flow.start_offset)
    while segment != 0:
        piece = store.segments[segment - 1]
        if piece.offset != expected or at + piece.length > len(out) - 8 or not (tcp or expected == 0):
            return -1
        copy(out, at, store.arena, piece.arena, piece.length)
        at += piece.length
        expected += piece.length
        segment = i64(piece.next)
    return at


@kernel
def _digest_dialogue(
    store: Store,
    client: int,
    tcp: bool,
    ports: tuple[int, int],
    state: Words,
    key: Key,
    scratch: NDArray[np.uint8],
    words: Words,
) -> None:
    """Digest the essence of both directions; where a stream needs putting in order, all its segments.

    client: the flow that the client sends; ports: the client's and the server's; words: the same memory as scratch,
    the first two of them said by the caller.
    """
    begin = i64(HEAD)
    asked = _copy_regular(store, client, tcp, scratch, begin)
    middle = (asked + 7) & ~7
    end = _copy_regular(store, client ^ 1, tcp, scratch, middle) if asked >= 0 else -1
    if end < 0:
        words[2] = IN_PIECES
        digest_words(state, key, words, 0, HEAD >> 3)
        _digest_flow(store, client, state, key, scratch, words)
        _digest_flow(store, client ^ 1, state, key, scratch, words)
        return
    call = first_call_id(scratch, begin, asked) if asked > begin else first_call_id(scratch, middle, end)
    stubs = reads_stubs(scratch, begin, asked)
    answered = clean(scratch, middle, end, tcp, call, ports[1], stubs)
    asked = clean(scratch, begin, asked, tcp, call, ports[0], stubs)
    words[2] = (asked - begin) << 32 | (answered - middle)
    digest_words(state, key, words, 0, _filled_up(scratch, asked))
    digest_words(state, key, words, middle >> 3, _filled_up(scratch, answered))


@kernel
def _digest(
    store: Store,
    rows: Records,
    chosen: NDArray[np.int64],
    client: NDArray[np.int8],
    proven: NDArray[np.bool_],
    classes: NDArray[np.uint8],
    key: Key,
    state: Words,
    scratch: NDArray[np.uint8],
    words: Words,
    digests: NDArray[np.uint64],
) -> None:
    """Digest the essence of the chosen conversations, and what else a dialogue tells: digests[i] gets two words.

    client, proven: orientation of all conversations; classes: `PORT_CLASS`; words: the same memory as scratch.
    """
    for i in range(len(chosen)):
        index = chosen[i]
        row, flow = rows[index], 2 * index + client[index]
        ports = i64(row.a_port), i64(row.b_port)
        if client[index]:
            ports = ports[1], ports[0]
        ahead, back = i64(store.flows[flow].flags) & TOLD, i64(store.flows[flow ^ 1].flags) & TOLD
        words[0] = ((i64(row.protocol) << 1 | i64(proven[index])) << 16 | ahead) << 16 | back
        words[1] = i64(classes[ports[1]]) << 8 | i64(classes[ports[0]])
        _digest_dialogue(store, flow, row.protocol == TCP, ports, state, key, scratch, words)
        end_digest(state, key, digests, i)


@kernel
def _locate_else(
    early: NDArray[np.int64], rows: Records, numbers: NDArray[np.int64], offsets: NDArray[np.int64],
    frames: NDArray[np.int64], times: NDArray[np.int64],
) -> None:  # fmt: skip
    """Where no frame is known (-1) of an offset in a flow's stream: as remembered, else the conversation's first frame.

    early: as of `EarlyPlaces.sorted`. Flows are mostly asked for in their order: what is sought is near what was sought
    last.
    """
    at = i64(0)
    for i in range(len(numbers)):
        if frames[i] >= 0:
            continue
        wanted = numbers[i] << _OFFSET_BITS | offsets[i]
        at = _sought(early, wanted, at)
        if at < early.shape[1] and early[0, at] == wanted and early[1, at] >= 0:
            frames[i], times[i] = early[1, at], early[2, at]
        else:
            row = rows[numbers[i] >> 1]
            frames[i], times[i] = row.first_frame, row.start


@inlined
def _sought(early: NDArray[np.int64], wanted: int, near: int) -> int:
    """The first column whose key is not below what is wanted, by steps that grow away from a column near it."""
    low, high, step = i64(0), i64(early.shape[1]), i64(1)
    if near < high and early[0, near] < wanted:
        low = near + 1
        while low + step < high and early[0, low + step] < wanted:
            low += step + 1
            step *= 2
        high = min(high, low + step)
    elif near < high:
        high = near
    while low < high:
        middle = (low + high) >> 1
        if early[0, middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _number(
    digests: NDArray[np.uint64], slots: NDArray[np.int32], group_of: NDArray[np.int32], first: NDArray[np.int64]
) -> int:
    """Number equal digests. group_of: gets each one's group; first: the first of each group. Returns how many.

    slots: zeros; a power of two of them, more than there are digests.
    """
    mask, groups = len(slots) - 1, 0
    for i in range(len(digests)):
        slot = i64(digests[i, 0] & u64(mask))
        while slots[slot] != 0:
            other = first[slots[slot] - 1]
            if digests[other, 0] == digests[i, 0] and digests[other, 1] == digests[i, 1]:
                break
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            first[groups] = i
            groups += 1
            slots[slot] = groups
        group_of[i] = slots[slot] - 1
    return groups


class Located(NamedTuple):
    """In which frames (ordinals of the run) and when (nanoseconds) bytes were seen: int64, one for each place."""

    frames: NDArray[np.int64]
    times: NDArray[np.int64]


OUTSIDE: Final = 1 << 40
"""Added to the offset of a place in the streams as captured, where a conversation was read decrypted."""


class Origins(NamedTuple):
    """Where decrypted bytes of one direction are from: int64, sorted offsets of pieces, and the ordinal and the time
    (nanoseconds) of the frame that completed each."""

    starts: NDArray[np.int64]
    frames: NDArray[np.int64]
    times: NDArray[np.int64]


@dataclass(slots=True)
class Inspection:
    """What the inspectors found.

    codes: int32, one per conversation, index into found. found: distinct answers; entry 0 is None, for
    conversations without payload. client: int8, the orientation in which the dialogues were read.
    early: where the bytes of those that were read early came.
    inside: of conversations that were read decrypted, for each `Side` where the bytes are from; their evidence names
    places inside, and those of the handshake behind `OUTSIDE`.
    """

    table: ConversationTable
    client: NDArray[np.int8]
    codes: NDArray[np.int32]
    found: list[Evidence | Answer | None]
    early: EarlyPlaces = field(default_factory=lambda: EarlyPlaces())
    inside: dict[int, tuple[Origins, Origins]] = field(default_factory=dict)

    def evidence(self, index: int) -> Evidence | None:
        """The evidence of one conversation, if there is any."""
        found = self.found[self.codes[index]]
        return found if isinstance(found, Evidence) else None

    def locate(self, indexes: Sequence[int], places: Sequence[Place]) -> Located:
        """The frames that brought the bytes at these places, each of the conversation at the same index."""
        return self.locate_all(np.array(indexes, np.int64), *side_and_offset(places))

    def locate_all(self, index: NDArray[np.int64], side: NDArray[np.int64], offset: NDArray[np.int64]) -> Located:
        """As `locate`, with the places as columns (`Side` and offset of each)."""
        numbers = 2 * index + (self.client[index] ^ side)
        outside = offset & (OUTSIDE - 1)
        frames, times = locate(self.table.store, numbers, outside)
        _locate_else(self.early.sorted(), self.table.rows, numbers, outside, frames, times)
        if self.inside:
            self._locate_inside(index, side, offset, Located(frames, times))
        return Located(frames, times)

    def locate_lists(
        self, index: NDArray[np.int64], lists: Sequence[Sequence[Place]], list_of: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """The frames of the first, the second, ... place listed for each conversation, 0 where it has fewer: rows.

        list_of: each one's index into lists.
        """
        sizes = np.array([len(each) for each in lists], np.int64)
        side, offset = side_and_offset(chain.from_iterable(lists))
        place = members(sizes, list_of)
        of = np.repeat(np.arange(len(index)), sizes[list_of])
        frames = np.zeros((int(sizes.max(initial=0)), len(index)), np.int64)
        number = place - (np.cumsum(sizes) - sizes)[list_of[of]]
        frames[number, of] = self.locate_all(index[of], side[place], offset[place]).frames
        return frames

    def _locate_inside(
        self, index: NDArray[np.int64], side: NDArray[np.int64], offset: NDArray[np.int64], located: Located
    ) -> None:
        """Put right what was looked up for places inside TLS."""
        within = np.isin(index, np.fromiter(self.inside, np.int64)) & (offset < OUTSIDE)
        for row in np.flatnonzero(within).tolist():
            origins = self.inside[int(index[row])][int(side[row])]
            piece = int(np.searchsorted(origins.starts, offset[row], side="right")) - 1
            if piece >= 0:
                located.frames[row], located.times[row] = origins.frames[piece], origins.times[piece]


@dataclass(slots=True)
class EarlyPlaces:
    """In which frames, and when, bytes were seen that are no longer kept.

    _known, _fresh: flow and offset, frame, time as rows; the first sorted, the others as they came.
    """

    _known: NDArray[np.int64] = field(default_factory=lambda: np.empty((3, 0), np.int64))
    _fresh: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, numbers: NDArray[np.int64], offsets: NDArray[np.int64], located: Located) -> None:
        """Remember places of flows that were not added before."""
        self._fresh.append(np.stack([(numbers << _OFFSET_BITS) | offsets, *located]))

    def sorted(self) -> NDArray[np.int64]:
        """All that is remembered as rows: flow and offset (`_OFFSET_BITS`), by which they are sorted; frame; time."""
        if self._fresh:
            joined = np.concatenate([self._known, *self._fresh], axis=1)
            self._known, self._fresh = np.take(joined, np.argsort(joined[0], kind="stable"), axis=1), []
        return self._known

    def of(self, first: int, count: int) -> NDArray[np.int64]:
        """The rows of the flows first, first + 1, ..., so many, counted from the first of them."""
        known = self.sorted()
        begin, end = np.searchsorted(known[0], np.array([first, first + count]) << _OFFSET_BITS)
        return moved(known[:, begin:end], -first)

    def enter(self, rows: NDArray[np.int64]) -> None:
        """Take over rows of `of`, moved to where their flows are now."""
        self._fresh.append(rows)


def moved(rows: NDArray[np.int64], flows: int) -> NDArray[np.int64]:
    """Rows of places when their flows have moved up by so many."""
    return rows + np.array([[flows << _OFFSET_BITS], [0], [0]])


class Gist(NamedTuple):
    """What stays of conversations that were read early, one element each.

    codes: int32, what was found, 0 for nothing; client: int8, as of `Inspection`; done: bool, whether their bytes were
    given back; places: int64[3, n], of their flows, counted from the first (`EarlyPlaces.of`).
    """

    codes: NDArray[np.int32]
    client: NDArray[np.int8]
    done: NDArray[np.bool_]
    places: NDArray[np.int64]

    @classmethod
    def joined(cls, gists: Sequence[Gist]) -> Gist:
        """Those of all, one behind the other."""
        firsts = np.cumsum([0, *(len(gist.codes) for gist in gists)]).tolist()
        places = [moved(gist.places, 2 * first) for gist, first in zip(gists, firsts, strict=False)]
        return cls(
            np.concatenate([np.zeros(0, np.int32), *(gist.codes for gist in gists)]),
            np.concatenate([np.zeros(0, np.int8), *(gist.client for gist in gists)]),
            np.concatenate([np.zeros(0, np.bool_), *(gist.done for gist in gists)]),
            np.concatenate([np.zeros((3, 0), np.int64), *places], axis=1),
        )


class Reading:
    """Reads the dialogues of one table, every distinct one once, in as many goes as it takes.

    jobs: threads that may digest at a time what was not read early. crew: who inspects.
    """

    def __init__(self, jobs: int = 2, crew: Crew | None = None) -> None:
        self._jobs, self._crew = jobs, crew or Crew()
        self._key = Key.drawn()
        self._known = np.empty((0, 2), np.uint64)
        self._found: list[Evidence | Answer | None] = [None]
        self._resumed = 1
        self._codes, self._client = np.zeros(0, np.int32), np.zeros(0, np.int8)
        self._early, self._done = EarlyPlaces(), np.zeros(0, np.bool_)

    def resume(self, gist: Gist, found: Sequence[Evidence | Answer | None]) -> None:
        """Before all else: the first conversations of the table were read before. found: what their codes mean,
        entry 0 is None."""
        self._codes, self._client, self._done = gist.codes, gist.client, gist.done
        self._found, self._resumed = list(found), len(found)
        self._early.enter(gist.places)

    def gist(self, first: int, count: int) -> Gist:
        """What stays of so many conversations that were read early."""
        part = slice(first, first + count)
        done = self._done[part].copy()
        codes = np.where(done, self._codes[part], 0).astype(np.int32)
        return Gist(codes, self._client[part].copy(), done, self._early.of(2 * first, 2 * count))

    @property
    def found(self) -> Sequence[Evidence | Answer | None]:
        """What codes mean."""
        return self._found

    def early(
        self, table: ConversationTable, orientation: Orientation, chosen: NDArray[np.int64], home: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Read conversations that are over, and remember what labels will ask of their bytes; in one thread, since
        others are at work on packets.

        chosen: their indexes in the table; home: int64, their indexes in the table that `rest` will be asked for.
        Returns those of the chosen whose bytes are still needed: an RPC virtual connection over HTTP is read with the
        rest, when its other half is known.
        """
        self._reach(int(home.max(initial=-1)) + 1)
        unread = ~self._done[home] & have_bytes(table.store, chosen)
        chosen, home = chosen[unread], home[unread]
        codes = self._read(table, orientation, chosen, jobs=1)
        whole = ~are_channels(self._found)[codes]
        halves, chosen, home = chosen[~whole], chosen[whole], home[whole]
        self._codes[home], self._client[home], self._done[home] = codes[whole], orientation.client[chosen], True
        self._remember(table.store, chosen, home)
        return halves

    def rest(self, table: ConversationTable, orientation: Orientation) -> Inspection:
        """Read whatever was not read early; the whole result."""
        self._reach(table.count)
        index = np.flatnonzero(~self._done)
        self._client[index] = orientation.client[index]
        index = index[have_bytes(table.store, index)]
        self._codes[index] = self._read(table, orientation, index, self._jobs)
        return Inspection(table, self._client, self._codes, self._found, self._early)

    def _reach(self, count: int) -> None:
        """Have room for so many conversations."""
        more = max(count - len(self._codes), 0)
        self._codes = np.concatenate([self._codes, np.zeros(more, np.int32)])
        self._client = np.concatenate([self._client, np.zeros(more, np.int8)])
        self._done = np.concatenate([self._done, np.zeros(more, np.bool_)])

    def _read(
        self, table: ConversationTable, orientation: Orientation, chosen: NDArray[np.int64], jobs: int
    ) -> NDArray[np.int32]:
        """What the chosen conversations of a table say: codes. jobs: threads that digest at a time."""
        digests = np.concatenate([self._known, np.empty((len(chosen), 2), np.uint64)])
        fresh = digests[len(self._known) :]

        def digest(part: slice) -> None:
            words = np.empty(SCRATCH // 8, np.uint64)
            scratch = words.view(np.uint8)
            _digest(
                table.store, table.rows, chosen[part], orientation.client, orientation.proven, PORT_CLASS, self._key,
                np.zeros(STATE, np.uint64), scratch, words, fresh[part],
            )  # fmt: skip

        _in_parts(digest, len(chosen), jobs)
        group_of, first = np.zeros(len(digests), np.int32), np.zeros(len(digests), np.int64)
        slots = np.zeros(1 << (2 * len(digests) + 15).bit_length(), np.int32)
        groups, before = int(_number(digests, slots, group_of, first)), len(self._known)
        self._known = digests[first[:groups]]
        firsts = chosen[first[before:groups] - before]
        if len(firsts) >= MANY_DIALOGUES:
            self._crew.call()
        self._found.extend(self._crew.inspect(dialogues(table, orientation, firsts)))
        return group_of[before:] + np.int32(self._resumed)

    def _remember(self, store: Store, chosen: NDArray[np.int64], home: NDArray[np.int64]) -> None:
        """Where the bytes came that evidence of the chosen conversations names."""
        used, group_of = np.unique(self._codes[home], return_inverse=True)
        places = [_places(self._found[code]) for code in used.tolist()]
        sizes = np.array([len(each) for each in places], np.int64)
        side, offset = side_and_offset(chain.from_iterable(places))
        each, place = sizes[group_of], members(sizes, group_of)
        sides, offsets = np.repeat(self._client[home], each) ^ side[place], offset[place]
        located = Located(*locate(store, 2 * np.repeat(chosen, each) + sides, offsets))
        self._early.add(2 * np.repeat(home, each) + sides, offsets, located)


def side_and_offset(places: Iterable[Place]) -> NDArray[np.int64]:
    """Places as two columns."""
    return np.fromiter(chain.from_iterable(places), np.int64).reshape(-1, 2).T.copy()


def members(sizes: NDArray[np.int64], list_of: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Where the members of each one's list are, of lists with these sizes that lie one behind the other."""
    own, starts = sizes[list_of], np.cumsum(sizes) - sizes
    return np.arange(int(own.sum())) + np.repeat(starts[list_of] - (np.cumsum(own) - own), own)


def are_channels(found: Sequence[Evidence | Answer | None]) -> NDArray[np.bool_]:
    """Which answers are of one half of an RPC virtual connection over HTTP."""
    return np.array([isinstance(entry, ChannelEvidence) for entry in found], np.bool_)


def _places(found: Evidence | Answer | None) -> list[Place]:
    """Every place that evidence names, once."""
    if not isinstance(found, Evidence):
        return []
    parts = (found.interfaces, found.queries, found.handouts, found.signs)
    return list(dict.fromkeys([found.place, *(part.place for each in parts for part in each)]))


def _in_parts(work: Callable[[slice], None], number: int, jobs: int) -> None:
    """Do the work on as many parts of range(number) as there are jobs, at a time."""
    step = max(-(-number // max(jobs, 1)), SMALL)
    parts = [slice(start, start + step) for start in range(0, number, step)]
    for done in [soon(partial(work, part), len(parts)) for part in parts]:
        done()


PORT_CLASS: Final = (np.arange(65_536) >= inspectors.FIRST_DYNAMIC).astype(np.uint8)
"""uint8[65536]: equal for ports that no inspector tells apart."""
PORT_CLASS[list(inspectors.PORTS)] = np.arange(2, 2 + len(inspectors.PORTS))
