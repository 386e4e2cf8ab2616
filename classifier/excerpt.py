"""The frames of chosen conversations: found by a second reading of the captures, then read out.

A result keeps no packets. This reads the captures once more through the same sources and headers and finds the
frames by address, port and first frame: a conversation owns the packets of its endpoints from its first frame on,
up to the first frame of the next one between the same endpoints. Pieces of IP datagrams come along with the datagram.
Must not know what the frames are wanted for, nor a format to write them in.
"""

from __future__ import annotations

import ipaddress
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.errors import UsageError
from classifier.fields import Numbers
from classifier.fragments import Reassembler
from classifier.headers import FRAGMENT, TCP, UDP, Encapsulations, HeaderColumns, decode
from classifier.limits import FRAGMENT_TABLE
from classifier.packets import BATCH_ROWS, Frames, PacketBatch
from classifier.sources import STDIN, CaptureSet

if TYPE_CHECKING:
    from classifier.result import Result

Words = NDArray[np.uint64]
"""One row an endpoint pair: a's address (high, low), b's address (high, low), ports and protocol."""

_WIDTH: Final = 5


class Packet(NamedTuple):
    """One captured frame. number: in its file, as Wireshark shows it; time: nanoseconds since 1970 UTC;
    wire: its length on the wire; link: LINKTYPE_ value; digits: fraction digits of its clock; interface: equal for
    packets of one interface of one capture; conversation: id."""

    file: str
    number: int
    time: int
    data: bytes
    wire: int
    link: int
    digits: int
    interface: int
    conversation: int


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Frames of chosen conversations. ordinals: int64, `packets.Frames` ordinals, sorted; conversations: int64,
    the id of each; inputs: the captures that they are in."""

    inputs: tuple[str, ...]
    ordinals: NDArray[np.int64]
    conversations: NDArray[np.int64]

    @classmethod
    def of(cls, result: Result, ids: Iterable[int]) -> Excerpt:
        """Find the frames of these conversations of a result.

        Raises UsageError when a capture can't be read again: standard input, a file that is gone or has changed.
        """
        if STDIN in result.inputs:
            raise UsageError("packets of standard input can't be read a second time; name a file")
        wanted = np.unique(np.fromiter(ids, np.int64))
        captures = CaptureSet.of(result.inputs)
        finder = _Finder(_Pairs.of(result, wanted), captures.frames)
        for batch in captures.batches():
            finder.take(batch, captures)
        found = cls(result.inputs, *finder.found())
        missing = wanted[~np.isin(wanted, found.conversations)]
        if len(missing):
            raise UsageError(f"conversation {missing[0]} is not in {', '.join(result.inputs)} any more")
        return found

    def __len__(self) -> int:
        return len(self.ordinals)

    def packets(self) -> Iterator[Packet]:
        """The frames themselves, in the order of the capture set. Raises UsageError if a file is gone."""
        captures = CaptureSet.of(self.inputs)
        for batch in captures.batches():
            frames = batch.columns.frame[: batch.count]
            places = np.searchsorted(self.ordinals, frames)
            chosen = np.flatnonzero(np.append(self.ordinals, -1)[places] == frames)
            for row, at in zip(chosen.tolist(), places[chosen].tolist(), strict=True):
                yield _packet(batch, row, captures, int(self.conversations[at]))


def _packet(batch: PacketBatch, row: int, captures: CaptureSet, conversation: int) -> Packet:
    packets, ordinal = batch.columns, int(batch.columns.frame[row])
    start, interface = int(packets.offset[row]), int(packets.interface[row])
    return Packet(
        captures.frames.file(ordinal),
        captures.frames.number(ordinal),
        int(packets.time[row]),
        batch.data[start : start + int(packets.captured[row])].tobytes(),
        int(packets.wire[row]),
        int(captures.interfaces.link_type[interface]),
        int(captures.interfaces.digits[interface]),
        interface,
        conversation,
    )


# ---- endpoints of conversations ----------------------------------------------------------------------


class _Pairs(NamedTuple):
    """The endpoint pairs of the wanted conversations.

    words: distinct pairs; digests: uint64, theirs, sorted; talks: for each pair the conversations between those
    endpoints, wanted or not, as (file and number of the first frame, id), in order; mix: the key of the digest.
    """

    words: Words
    digests: NDArray[np.uint64]
    talks: list[list[tuple[str, int, int]]]
    wanted: frozenset[int]
    mix: NDArray[np.uint64]

    @classmethod
    def of(cls, result: Result, wanted: NDArray[np.int64]) -> _Pairs:
        pairs = _endpoints(result)
        ids = _numbers(result, "id")
        chosen = np.isin(ids, wanted)
        distinct = np.unique(pairs[chosen], axis=0)
        digests, mix = _digests(distinct), _SECRET
        while len(np.unique(digests)) < len(distinct):  # a chance of one in 2^64 for each two pairs
            mix = _secret()
            digests = _digests(distinct, mix)
        order = np.argsort(digests)
        words, digests = distinct[order], digests[order]
        talks: list[list[tuple[str, int, int]]] = [[] for _ in words]
        at, hit = _matches(pairs, words, digests, mix)
        for row in np.flatnonzero(hit).tolist():
            talk = result[int(ids[row])]
            talks[at[row]].append((talk.file, talk.first_frame, int(ids[row])))
        return cls(words, digests, talks, frozenset(wanted.tolist()), mix)


def _endpoints(result: Result) -> Words:
    """Each conversation's endpoints, the smaller one first, as the headers of its packets will show them."""
    sides = []
    for side in ("client", "server"):
        coded = result.columns[f"{side}_ip"]
        values, codes = coded.values, coded.codes  # type: ignore[union-attr]
        known = np.array([_halves(text) for text in values], np.uint64).reshape(-1, 2)
        sides.append((known[codes], _numbers(result, f"{side}_port").astype(np.uint64)))
    transport = result.columns["transport"]
    protocol = np.array([TCP if value == "tcp" else UDP for value in transport.values], np.uint64)  # type: ignore[union-attr]
    (one, one_port), (other, other_port) = sides
    return _pairs(one, one_port, other, other_port, protocol[transport.codes])  # type: ignore[union-attr]


def _halves(address: str) -> tuple[int, int]:
    """An address as two words; IPv4 as ::ffff:a.b.c.d (`headers.HeaderColumns`)."""
    parsed = ipaddress.ip_address(address)
    value = int(parsed) if parsed.version == 6 else 0xFFFF << 32 | int(parsed)
    return value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF


def _numbers(result: Result, name: str) -> NDArray[np.int64]:
    column = result.columns[name]
    assert isinstance(column, Numbers)
    return column.values


def _pairs(one: Words, one_port: Words, other: Words, other_port: Words, protocol: Words) -> Words:
    """Endpoint pairs whichever way round the packets go."""
    turned = (one[:, 0] > other[:, 0]) | (
        (one[:, 0] == other[:, 0])
        & ((one[:, 1] > other[:, 1]) | ((one[:, 1] == other[:, 1]) & (one_port > other_port)))
    )
    words = np.empty((len(one), _WIDTH), np.uint64)
    words[:, 0:2] = np.where(turned[:, None], other, one)
    words[:, 2:4] = np.where(turned[:, None], one, other)
    low, high = np.where(turned, other_port, one_port), np.where(turned, one_port, other_port)
    words[:, 4] = low << np.uint64(24) | high << np.uint64(8) | protocol
    return words


def _secret() -> NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * _WIDTH), np.uint64) | np.uint64(1)


_SECRET: Final = _secret()
"""Nobody who writes packets can make two pairs look alike."""


def _digests(words: Words, mix: NDArray[np.uint64] = _SECRET) -> NDArray[np.uint64]:
    value = np.zeros(len(words), np.uint64)
    for column in range(_WIDTH):
        value = (value ^ words[:, column]) * mix[column]
        value ^= value >> np.uint64(29)
    return value


def _matches(words: Words, known: Words, digests: NDArray[np.uint64], mix: NDArray[np.uint64]) -> tuple[
    NDArray[np.intp], NDArray[np.bool_]
]:
    """For each row of words the known pair with its digest, and whether it is that pair."""
    if not len(known):
        return np.zeros(len(words), np.intp), np.zeros(len(words), np.bool_)
    at = np.minimum(np.searchsorted(digests, _digests(words, mix)), len(known) - 1)
    return at, (known[at] == words).all(axis=1)


# ---- the second reading -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Finder:
    """Takes batches in the order of the capture set and notes the frames of the wanted conversations."""

    pairs: _Pairs
    frames: Frames
    _headers: HeaderColumns = field(default_factory=lambda: HeaderColumns.empty(BATCH_ROWS))
    _known: Encapsulations = field(default_factory=Encapsulations)
    _reassembler: Reassembler = field(default_factory=Reassembler)
    _waiting: OrderedDict[tuple[int, ...], list[int]] = field(default_factory=OrderedDict)
    _turn: dict[int, int] = field(default_factory=dict)
    _ordinals: list[NDArray[np.int64]] = field(default_factory=list)
    _ids: list[NDArray[np.int64]] = field(default_factory=list)

    def take(self, batch: PacketBatch, captures: CaptureSet) -> None:
        """Note the frames of one batch."""
        headers = self._headers
        pieces: dict[int, list[int]] = {}
        if decode(batch, captures.interfaces, headers, self._known):
            pieces = self._whole(batch)
        words = _pairs(
            np.stack((headers.source_high[: batch.count], headers.source_low[: batch.count]), 1),
            headers.source_port[: batch.count].astype(np.uint64),
            np.stack((headers.target_high[: batch.count], headers.target_low[: batch.count]), 1),
            headers.target_port[: batch.count].astype(np.uint64),
            headers.protocol[: batch.count].astype(np.uint64),
        )
        at, hit = _matches(words, self.pairs.words, self.pairs.digests, self.pairs.mix)
        rows = np.flatnonzero(hit)
        frames = batch.columns.frame[rows]
        ids = np.fromiter(
            (self._talk(pair, frame) for pair, frame in zip(at[rows].tolist(), frames.tolist(), strict=True)),
            np.int64, len(rows),
        )  # fmt: skip
        kept = ids > 0
        self._note(frames[kept], ids[kept])
        for row, earlier in pieces.items():
            [here] = np.flatnonzero(rows == row) if hit[row] else [-1]
            if here >= 0 and ids[here] > 0:
                self._note(np.array(earlier, np.int64), np.full(len(earlier), ids[here], np.int64))

    def _note(self, ordinals: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        self._ordinals.append(ordinals)
        self._ids.append(ids)

    def _talk(self, pair: int, ordinal: int) -> int:
        """The wanted conversation of that pair that this frame belongs to; 0 if it is another one, or none yet."""
        talks, turn = self.pairs.talks[pair], self._turn.get(pair, -1)
        if turn + 1 < len(talks):
            file, number, _ = talks[turn + 1]
            if self.frames.number(ordinal) >= number and self.frames.file(ordinal) == file:
                turn = self._turn[pair] = turn + 1
        identifier = talks[turn][2] if turn >= 0 else 0
        return identifier if identifier in self.pairs.wanted else 0

    def _whole(self, batch: PacketBatch) -> dict[int, list[int]]:
        """Put IP fragments together. Row of a datagram's last piece → ordinals of the pieces before it."""
        headers = self._headers
        rows = np.flatnonzero(headers.protocol[: batch.count] == FRAGMENT).tolist()
        keys = {row: tuple(int(column[row]) for column in _datagram_columns(headers)) for row in rows}
        _, completed = self._reassembler.complete(batch, headers, self._known)
        done = {each.row for each in completed}
        pieces: dict[int, list[int]] = {}
        for row, key in keys.items():
            if row in done:
                pieces[row] = self._waiting.pop(key, [])
                continue
            self._waiting.setdefault(key, []).append(int(batch.columns.frame[row]))
            self._waiting.move_to_end(key)
            if len(self._waiting) > FRAGMENT_TABLE:
                self._waiting.popitem(last=False)
        return pieces

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ordinals in order, and the conversation of each."""
        if not self._ordinals:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ordinals, ids = np.concatenate(self._ordinals), np.concatenate(self._ids)
        order = np.argsort(ordinals, kind="stable")
        return ordinals[order], ids[order]


def _datagram_columns(headers: HeaderColumns) -> Sequence[NDArray[np.integer]]:
    """What pieces of one datagram have in common (`fragments.DatagramKey`)."""
    return (
        headers.source_high, headers.source_low, headers.target_high, headers.target_low, headers.flags,
        headers.sequence,
    )  # fmt: skip
