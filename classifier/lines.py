"""Columns to lines of text, compiled: the fast half of `records`.

Owns the copying: literal text between the columns, distinct values encoded once, numbers and times
spelled out. Must not know what is safe to write or how a value is encoded; a `Dialect` brings that.

Every cell is a run of pieces out of one arena of bytes, with a number after a piece where the value
has a hole. A kernel lays the pieces of a batch of rows end to end; Python never touches a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import cache
from itertools import cycle
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.beside import Ahead
from classifier.compiled import copy, i64, inlined, kernel, u64
from classifier.fields import NO_TIME, Coded, Column, Framed, Numbers, Texts, Times
from classifier.limits import MIB, RENDER_ROWS
from classifier.result import length_of, rfc3339

NUMBER: Final = 0
TIME: Final = 1
TEXT: Final = 2
VALUE: Final = 3

STEP: Final = 32
"""Octets that are copied at a time, as wide registers do it: what is behind a piece may be copied with it, and is
written over by what follows."""

ROOM: Final = STEP + 32
"""Octets that must be left behind a piece: for its last step, or for a number (20) or time (30) that follows it."""

FULL: Final = -1
ASTRAY: Final = -2
"""What `_write_rows` returns where rows don't fit, and for an index that points nowhere."""

FIRST_SHEET: Final = 4 * MIB
"""Octets of the memory that a batch is written to, to begin with."""


class Dialect(NamedTuple):
    """How one text format writes a row.

    before: the literal in front of a column, by its name and number; end: what closes a row;
    values: the text of each of a column's distinct values, with `mark` for each `Hole` and no other control characters;
    quote: what stands around times and plain texts.
    """

    before: Callable[[str, int], str]
    end: str
    values: Callable[[list[Any]], list[str]]
    quote: str


_MARK: Final = "\1"
_MARK_DIGITS: Final = 3
_MARK_ZERO: Final = ord("0")
_MARK_BASE: Final = 64

_END: Final = "\0"
"""Behind each text of the arena."""


@cache
def mark(hole: int) -> str:
    """What stands for the `Hole` of this index in the text of a value.

    Raises ValueError for a quarter million and more.
    """
    places = [hole // _MARK_BASE**place for place in reversed(range(_MARK_DIGITS))]
    if places[0] >= _MARK_BASE:
        raise ValueError("too many holes in a value")
    return _MARK + "".join(chr(_MARK_ZERO + place % _MARK_BASE) for place in places)


class Layout(NamedTuple):
    """What the kernel follows: see `_Builder`, which makes it."""

    kinds: NDArray[np.int64]
    lanes: NDArray[np.int64]
    widths: NDArray[np.int64]
    firsts: NDArray[np.int64]
    shifts: NDArray[np.int64]
    arena: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    holes: NDArray[np.int64]
    text_piece: NDArray[np.int64]
    quads: NDArray[np.uint8]


def render(columns: Mapping[str, Column], dialect: Dialect) -> Iterator[memoryview]:
    """Rows of equally long columns in that dialect, a batch of whole lines at a time, made ahead by a thread.

    A batch is gone once the next is asked for: their memory is used again.
    """
    plan = _Builder(dialect)
    for number, (name, column) in enumerate(columns.items()):
        plan.add(dialect.before(name, number), _plain(column))
    batches = _batches(plan, plan.finish(), length_of(next(iter(columns.values()))))
    with closing(Ahead(batches)) as ahead:
        yield from ahead


def _batches(plan: _Builder, layout: Layout, rows: int) -> Generator[memoryview, None, None]:
    """One is made while another waits and a third is read."""
    sheets = cycle([_Sheet(plan, layout) for _ in range(3)])
    for first in range(0, rows, RENDER_ROWS):
        yield next(sheets).batch(first, min(first + RENDER_ROWS, rows))


class _Builder:
    """Collects columns into a `Layout`.

    A row is made of cells. Text j of the arena is the literal that stands before cell j, the one behind these is the
    row's end, and then come the texts of the distinct values, which begin with their cell's literal, so that one copy
    does for both. A text has one piece more than holes. `lanes` says where in a batch a cell finds its number (of
    NUMBER and TIME), its bytes (of TEXT) or its code (of VALUE); code 0 stands for text `firsts`, hole 0 for lane
    `shifts` of the numbers. A column that has one value in all rows is literal text, and columns with the same codes
    are one cell: `joins` has the codes, and how many values, of a last one that the next may be part of. `known` has
    lists of values that were put into words, by their ids, with the words.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.literal = ""
        self.literals: list[str] = []
        self.kinds: list[int] = []
        self.lanes: list[int] = []
        self.widths: list[int] = []
        self.firsts: list[int] = []
        self.shifts: list[int] = []
        self.numbers: list[NDArray[Any]] = []
        self.known: dict[int, tuple[list[Any], list[str]]] = {}
        self.texts: list[NDArray[np.uint8]] = []
        self.codes: list[NDArray[np.int32]] = []
        self.values: list[str] = []
        self.joins: tuple[NDArray[np.int32], int] | None = None

    def add(self, before: str, column: Column) -> None:
        """Append a column, with what stands before it."""
        self.literal += before
        match column:
            case Numbers(values):
                self._place(NUMBER, len(self.numbers))
                self.numbers.append(values)
            case Times(ns, digits):
                self._place_quoted(TIME, len(self.numbers))
                self.numbers += [ns, digits]
            case Texts(texts):
                self._place_quoted(TEXT, sum(block.shape[1] for block in self.texts), texts.dtype.itemsize)
                self.texts.append(_letters(texts))
            case Coded(codes, distinct):
                self._add_coded(codes, self._texts(distinct))
            case Framed(codes, distinct, frames):
                self._place_codes(codes, self._texts(distinct))
                self.numbers += list(frames.T)

    def finish(self) -> Layout:
        """The layout of all columns added."""
        texts = [*self.literals, self.literal + self.dialect.end, *self.values]
        arena = np.frombuffer((_END.join(texts) + _END * STEP).encode(), np.uint8)
        ends = np.flatnonzero(arena[: len(arena) - STEP + 1] <= ord(_MARK))
        marked = np.flatnonzero(arena[ends])
        starts, holes = np.append(0, ends[:-1] + 1), np.full(len(ends), -1)
        starts[marked + 1] += _MARK_DIGITS
        digits = arena[ends[marked][:, None] + np.arange(1, 1 + _MARK_DIGITS)].astype(np.int64) - _MARK_ZERO
        holes[marked] = digits @ _MARK_BASE ** np.arange(_MARK_DIGITS)[::-1]
        text_piece = np.append(0, np.flatnonzero(holes < 0) + 1)[:-1]
        if len(text_piece) != len(texts) or (starts > ends).any():
            raise ValueError("a value with a control character")
        return Layout(
            np.array(self.kinds, np.int64),
            np.array(self.lanes, np.int64),
            np.array(self.widths, np.int64),
            np.array(self.firsts, np.int64) + len(self.literals) + 1,
            np.array(self.shifts, np.int64),
            arena,
            starts,
            ends,
            holes,
            text_piece,
            _quads(),
        )

    def _texts(self, distinct: list[Any]) -> list[str]:
        """Text of each value; columns may share the list of them."""
        if id(distinct) not in self.known:
            self.known[id(distinct)] = distinct, self.dialect.values(distinct)
        return self.known[id(distinct)][1]

    def _add_coded(self, codes: NDArray[np.int32], texts: list[str]) -> None:
        if self.joins and self.joins[0] is codes and self.joins[1] == len(texts):
            joined = self.values[len(self.values) - len(texts) :]
            self.values[len(self.values) - len(texts) :] = [
                text + self.literal + more for text, more in zip(joined, texts, strict=True)
            ]
            self.literal = ""
        elif len(texts) == 1 and not codes.any():
            self.literal += texts[0]
        else:
            self._place_codes(codes, texts)
            self.joins = codes, len(texts)

    def _place_codes(self, codes: NDArray[np.int32], texts: list[str]) -> None:
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(texts):
            raise ValueError("a code without a value")
        literal, self.literal = self.literal, ""
        self._place(VALUE, len(self.codes))
        self.codes.append(codes)
        self.values += [literal + text for text in texts]

    def _place_quoted(self, kind: int, lane: int, width: int = 0) -> None:
        self.literal += self.dialect.quote
        self._place(kind, lane, width)
        self.literal = self.dialect.quote

    def _place(self, kind: int, lane: int, width: int = 0) -> None:
        self.kinds.append(kind)
        self.lanes.append(lane)
        self.widths.append(width)
        self.firsts.append(len(self.values))
        self.shifts.append(len(self.numbers))
        self.literals.append(self.literal)
        self.literal, self.joins = "", None


class _Sheet:
    """Memory for one batch at a time: what the kernel reads, and the text that it writes."""

    def __init__(self, plan: _Builder, layout: Layout) -> None:
        self._plan, self._layout = plan, layout
        self._numbers = np.empty(len(plan.numbers) * RENDER_ROWS, np.int64)
        self._codes = np.empty(len(plan.codes) * RENDER_ROWS, np.int32)
        self._text = np.empty(FIRST_SHEET, np.uint8)

    def batch(self, first: int, end: int) -> memoryview:
        """The text of rows first to end; it stands until the next is made here."""
        numbers = _laid_in(self._numbers, self._plan.numbers, first, end)
        codes = _laid_in(self._codes, self._plan.codes, first, end)
        texts = np.hstack([np.zeros((end - first, 0), np.uint8), *(block[first:end] for block in self._plan.texts)])
        while (used := _write_rows(self._layout, numbers, texts, codes, self._text)) == FULL:
            self._text = np.empty(2 * len(self._text), np.uint8)
        if used < 0:
            raise ValueError("a column's codes and values do not fit together")
        return self._text[:used].data


def _laid_in(memory: NDArray[Any], columns: list[NDArray[Any]], first: int, end: int) -> NDArray[Any]:
    """Rows of columns one behind the other, as a matrix with one row a column."""
    matrix = memory[: len(columns) * (end - first)].reshape(len(columns), end - first)
    for lane, column in enumerate(columns):
        matrix[lane] = column[first:end]
    return matrix


def _quads() -> NDArray[np.uint8]:
    """The digits of 0000 to 9999 one behind the other, and room for one more."""
    numbers, quads = np.arange(10_000, dtype=np.uint16), np.zeros(40_004, np.uint8)
    for place, worth in enumerate((1000, 100, 10, 1)):
        quads[place:40_000:4] = numbers // worth % 10 + ord("0")
    return quads


def _letters(texts: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), texts.dtype.itemsize)


def _plain(column: Column) -> Column:
    """The column as the kernel can write it: texts that need care and times with nulls become values."""
    match column:
        case Texts(texts):
            if not _harmless(_letters(texts).reshape(-1), texts.dtype.itemsize):
                distinct, codes = np.unique(texts, return_inverse=True)
                return Coded(codes.astype(np.int32), [text.decode("ascii", "replace") for text in distinct.tolist()])
        case Times(ns, digits) if (ns == NO_TIME).any():
            values = [rfc3339(*time) for time in zip(ns.tolist(), digits.tolist(), strict=True)]
            return Coded(np.arange(len(ns), dtype=np.int32), values)
    return column


# ---- kernels: numba checks no bounds, so each copy checks its own --------------------------


@kernel
def _write_rows(
    layout: Layout,
    numbers: NDArray[np.int64],
    texts: NDArray[np.uint8],
    codes: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> int:
    """Lay the rows into out. Returns the bytes used, FULL or ASTRAY.

    numbers, codes: by lane and row; texts: by row.
    """
    at, known, shown = 0, NO_TIME, 0
    for row in range(len(texts)):
        for cell in range(len(layout.kinds)):
            kind = layout.kinds[cell]
            lane = layout.lanes[cell]
            if kind == VALUE:
                at = _value(layout, cell, codes[lane, row], numbers, row, out, at)
                if at < 0:
                    return at
                continue
            at = _piece(layout, cell, out, at)
            if at < 0:
                return at
            if kind == NUMBER:
                at = _integer(numbers[lane, row], layout.quads, out, at)
            elif kind == TIME:
                ns = numbers[lane, row]
                second = ns // 1_000_000_000
                if second == known:
                    copy(out, at, out, shown, 19)
                else:
                    _second(second, layout.quads, out, at)
                known, shown = second, at
                at = _fraction(ns - second * 1_000_000_000, numbers[lane + 1, row], layout.quads, out, at + 19)
            else:
                at = _text(texts[row, lane : lane + layout.widths[cell]], out, at)
            if at < 0:
                return at
        at = _piece(layout, len(layout.kinds), out, at)
        if at < 0:
            return at
    return at


@kernel
def _harmless(letters: NDArray[np.uint8], width: int) -> bool:
    """Whether texts are written as they are in every dialect: letters, digits and some marks, none of them the
    beginning of a formula, as many as there can be."""
    fine = True
    for letter in letters:
        fine &= (
            (letter >= 97) & (letter <= 122)  # a to z
            | (letter >= 65) & (letter <= 90)  # A to Z
            | (letter >= 45) & (letter <= 58)  # - . / 0 to 9 :
            | (letter == 43) | (letter == 61) | (letter == 95)  # + = _
        )  # fmt: skip
    for first in letters[::width]:
        fine &= (first != 43) & (first != 45) & (first != 61)
    return fine


@inlined
def _piece(layout: Layout, piece: int, out: NDArray[np.uint8], at: int) -> int:
    start = layout.starts[piece]
    length = int(layout.ends[piece] - start)
    if at + length + ROOM > len(out):
        return FULL
    for done in range(0, length, STEP):
        copy(out, at + done, layout.arena, start + done, STEP)
    return at + length


@inlined
def _value(
    layout: Layout, cell: int, code: int, numbers: NDArray[np.int64], row: int, out: NDArray[np.uint8], at: int
) -> int:
    text = layout.firsts[cell] + code
    if text < 0 or text >= len(layout.text_piece):
        return ASTRAY
    piece = layout.text_piece[text]
    while True:
        at = _piece(layout, piece, out, at)
        hole = layout.holes[piece]
        if at < 0 or hole < 0:
            return at
        lane = layout.shifts[cell] + hole
        if lane >= len(numbers):
            return ASTRAY
        at = _integer(numbers[lane, row], layout.quads, out, at)
        piece += 1


@inlined
def _text(text: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    if at + len(text) > len(out):
        return FULL
    copy(out, at, text, 0, len(text))
    return at + len(text)


# What follows writes behind a piece, which has made sure of the room.


@inlined
def _integer(number: int, quads: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    """Write a number in decimal, four digits at a time."""
    rest = u64(number)
    if number < 0:
        out[at] = 45
        at += 1
        rest = u64(0) - rest
    behind, fours = u64(0), 0  # the digits behind the first few, the next four in the lowest bits
    while rest >= u64(10_000):
        behind = behind << u64(16) | rest % u64(10_000)
        rest //= u64(10_000)
        fours += 1
    first = i64(rest)
    unused = (first < 1000) + (first < 100) + (first < 10)
    copy(out, at, quads, 4 * first + unused, 4)
    at += 4 - unused
    for _ in range(fours):
        copy(out, at, quads, 4 * i64(behind & u64(0xFFFF)), 4)
        behind >>= u64(16)
        at += 4
    return at


@kernel
def _second(second: int, quads: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> None:
    """Write a second as RFC 3339 has it, without its fraction and zone: 19 characters.

    The calendar is the proleptic Gregorian one, counted from 0000-03-01.
    """
    days = second // 86_400 + 719_468
    of_day = second % 86_400
    era = days // 146_097
    of_era = days - era * 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    day = of_year - (153 * shifted + 2) // 5 + 1
    copy(out, at, quads, 4 * (year + era * 400 + (1 if month <= 2 else 0)), 4)
    _pair(month, 45, quads, out, at + 4)
    _pair(day, 45, quads, out, at + 7)
    _pair(of_day // 3600, 84, quads, out, at + 10)
    _pair(of_day // 60 % 60, 58, quads, out, at + 13)
    _pair(of_day % 60, 58, quads, out, at + 16)


@inlined
def _pair(number: int, before: int, quads: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> None:
    """Write a character and two digits."""
    out[at] = before
    copy(out, at + 1, quads, 4 * number + 2, 2)


@inlined
def _fraction(ns: int, digits: int, quads: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    """Write a point, so many digits of a fraction, and the zone."""
    if digits < 0 or digits > 9:
        return ASTRAY
    if digits:
        out[at] = 46
        copy(out, at + 1, quads, 4 * (ns // 100_000), 4)
        copy(out, at + 5, quads, 4 * (ns // 10 % 10_000), 4)
        out[at + 9] = 48 + ns % 10
        at += 1 + digits
    out[at] = 90
    return at + 1
