"""Conversations that are over, kept for what is learnt later: a role, a name, a port that was handed out.

They were read when they ended; their bytes are gone, and what was found is kept once for all that say the same. So
some hundred thousand of them take little room, and labelling them anew reads nothing. Belongs to one thread; must not
know how labels are made or where they are reported.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifier import limits
from classifier.conversations import ConversationTable
from classifier.inspection import Gist
from classifier.inspectors.base import Answer, Evidence
from classifier.retirement import joined, size_of

BLOCK: Final = 4096
"""Conversations that are kept, read again and forgotten together."""

Found = Evidence | Answer | None


@dataclass(slots=True, eq=False)
class Ended:
    """Conversations that ended together. traces: TRACE records; silent: without payload, nothing was ever read."""

    table: ConversationTable
    traces: Any
    silent: bool

    @property
    def size(self) -> int:
        """Bytes of it."""
        return size_of(self.table) + int(self.traces.nbytes)


@dataclass(slots=True, eq=False)
class Kept:
    """A block of conversations that ended. gist: its codes are those of the library; due: to be labelled anew."""

    ended: Ended
    gist: Gist
    due: bool = False

    @property
    def count(self) -> int:
        """How many they are."""
        return self.ended.table.count

    @property
    def size(self) -> int:
        """Bytes, without what the library has."""
        return self.ended.size + sum(part.nbytes for part in self.gist)


class Library:
    """What inspectors found, once each, as long as a conversation has it. size: bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._found: list[Found] = [None]
        self._codes: dict[Found, int] = {None: 0}
        self._uses = np.ones(1, np.int64)
        self._free: list[int] = []

    def enter(self, codes: NDArray[np.int32], found: Sequence[Found]) -> NDArray[np.int32]:
        """Take over what conversations have, one element each; returns the codes here."""
        used, group_of, uses = np.unique(codes, return_inverse=True, return_counts=True)
        mine = np.array([self._code(found[code]) for code in used.tolist()], np.int32)
        np.add.at(self._uses, mine, uses)
        return mine[group_of]

    def leave(self, codes: NDArray[np.int32]) -> None:
        """Those conversations are forgotten."""
        used, uses = np.unique(codes, return_counts=True)
        self._uses[used] -= uses
        for code in used[self._uses[used] == 0].tolist():
            found = self._found[code]
            self.size -= _size(found)
            del self._codes[found]
            self._found[code] = None
            self._free.append(code)

    def pick(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[Found]]:
        """The same with codes of their own into a list that has nothing else; entry 0 is None."""
        used, group_of = np.unique(np.append(codes, np.int32(0)), return_inverse=True)
        return group_of[:-1].astype(np.int32), [self._found[code] for code in used.tolist()]

    def _code(self, found: Found) -> int:
        code = self._codes.get(found)
        if code is None:
            code = self._free.pop() if self._free else len(self._found)
            if code == len(self._found):
                self._found.append(found)
            self._found[code] = found
            self._codes[found] = code
            self.size += _size(found)
            if code >= len(self._uses):
                self._uses = np.concatenate([self._uses, np.zeros(len(self._uses), np.int64)])
        return code


def _size(found: Any) -> int:
    """Bytes of evidence: of its tuples and texts, as if none of them were shared."""
    parts: Sequence[Any] = ()
    if isinstance(found, Evidence):
        parts = [getattr(found, name) for name in Evidence.__slots__]
    elif isinstance(found, tuple):
        parts = found
    return sys.getsizeof(found) + sum(map(_size, parts))


@dataclass(slots=True)
class Archive:
    """Those that were reported, oldest first, apart from each other by whether they were silent.

    forgotten: conversations, of both sorts, that nothing revises any more.
    """

    library: Library = field(default_factory=Library)
    forgotten: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    _blocks: dict[bool, deque[Kept]] = field(default_factory=lambda: {False: deque(), True: deque()})

    def review(self) -> None:
        """All are to be labelled anew."""
        for block in self._all():
            block.due = True

    @property
    def waits(self) -> bool:
        """Whether any is still to be labelled anew."""
        return any(block.due for block in self._all())

    def __bool__(self) -> bool:
        """Whether any is kept."""
        return bool(self._all())

    def due(self, room: int) -> list[Kept]:
        """Those to be labelled anew, the newest first, as many as fit among so many conversations."""
        chosen = []
        for block in reversed(self._all()):
            if block.due and block.count <= room:
                block.due = False
                room -= block.count
                chosen.append(block)
        return chosen

    def add(self, ended: Ended, gist: Gist, found: Sequence[Found]) -> None:
        """Keep what was just read and reported. found: what the codes of the gist mean."""
        self._append(Kept(ended, gist._replace(codes=self.library.enter(gist.codes, found))))
        for silent, most in ((False, limits.LIVE_ENDED), (True, limits.LIVE_ENDED_SILENT)):
            blocks = self._blocks[silent]
            size = sum(block.size for block in blocks)
            while blocks and size + (0 if silent else self.library.size) > most:
                oldest = blocks.popleft()
                size -= oldest.size
                self.library.leave(oldest.gist.codes)
                self.forgotten[silent] += oldest.count

    def _all(self) -> list[Kept]:
        return [*self._blocks[True], *self._blocks[False]]

    def _append(self, block: Kept) -> None:
        """Put it with the newest block, while that is small."""
        blocks = self._blocks[block.ended.silent]
        if blocks and blocks[-1].count + block.count <= BLOCK:
            last = blocks.pop()
            table = joined([(each.ended.table, np.arange(each.count)) for each in (last, block)])
            traces = np.concatenate([last.ended.traces, block.ended.traces])
            block = Kept(Ended(table, traces, block.ended.silent), Gist.joined([last.gist, block.gist]), last.due)
        blocks.append(block)
