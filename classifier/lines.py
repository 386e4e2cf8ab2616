"""Columns to lines of text, compiled: the fast half of `records`.

Owns the copying: literal text between the columns, distinct values encoded once, numbers and times
spelled out. Must not know what is safe to write or how a value is encoded; a `Dialect` brings that.

Every cell is a run of pieces out of one arena of bytes, with a number after a piece where the value
has a hole. A kernel lays the pieces of a batch of rows end to end; Python never touches a row.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import copy, kernel
from classifier.fields import NO_TIME, Coded, Column, Framed, Numbers, Texts, Times
from classifier.limits import RENDER_ROWS, RENDER_THREADS
from classifier.result import length_of, rfc3339

NUMBER: Final = 0
TIME: Final = 1
TEXT: Final = 2
VALUE: Final = 3

WIDEST_NUMBER: Final = 20
"""Digits and sign of the longest int64."""

WIDEST_TIME: Final = 30
"""2026-01-02T03:04:05.123456789Z"""


class Dialect(NamedTuple):
    """How one text format writes a row.

    before: the literal in front of a column, by its name and number; end: what closes a row;
    values: the text of each of a column's distinct values; holes: matches what stands for a `Hole` in one, its index as
    the only group; quote: what stands around times and plain texts.
    """

    before: Callable[[str, int], bytes]
    end: bytes
    values: Callable[[list[Any]], list[str]]
    holes: re.Pattern[bytes]
    quote: bytes


class Layout(NamedTuple):
    """What the kernel follows: see `_Builder`, which makes it."""

    kinds: NDArray[np.int64]
    lanes: NDArray[np.int64]
    widths: NDArray[np.int64]
    arena: NDArray[np.uint8]
    piece_at: NDArray[np.int64]
    piece_hole: NDArray[np.int64]
    value_piece: NDArray[np.int64]


def render(columns: Mapping[str, Column], dialect: Dialect) -> Iterator[memoryview]:
    """Rows of equally long columns in that dialect, a batch of whole lines at a time; two batches are made at once."""
    plan = _Builder(dialect)
    for number, (name, column) in enumerate(columns.items()):
        plan.add(dialect.before(name, number), _plain(column))
    layout, rows = plan.finish(), length_of(next(iter(columns.values())))
    with ThreadPoolExecutor(RENDER_THREADS) as pool:
        ahead: deque[Future[memoryview]] = deque()
        for first in range(0, rows, RENDER_ROWS):
            ahead.append(pool.submit(plan.batch, layout, first, min(first + RENDER_ROWS, rows)))
            if len(ahead) > RENDER_THREADS:
                yield ahead.popleft().result()
        yield from (batch.result() for batch in ahead)


class _Builder:
    """Collects columns into a `Layout` and cuts them into batches.

    Piece j is the literal between column j and the one before it, the one behind the last is the row's
    end; the pieces of the distinct values follow. A value's first piece begins with its column's literal,
    so that one copy does for both. `lanes` says where in a batch a column finds its numbers (of NUMBER and
    TIME), its bytes (of TEXT) or its value's index (of VALUE).
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.open_quote = b""
        self.literals: list[bytes] = []
        self.kinds: list[int] = []
        self.lanes: list[int] = []
        self.widths: list[int] = []
        self.numbers: list[NDArray[Any]] = []
        self.texts: list[NDArray[np.uint8]] = []
        self.codes: list[NDArray[np.int32]] = []
        self.bases: list[int] = []
        self.pieces: list[bytes] = []
        self.holes: list[int] = []
        self.value_pieces: list[int] = []
        self.sizes: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, before: bytes, column: Column) -> None:
        literal = self.open_quote + before
        self.open_quote = b""
        match column:
            case Numbers(values):
                self._place(NUMBER, len(self.numbers), literal)
                self.numbers.append(values)
            case Times(ns, digits):
                self._place_quoted(TIME, len(self.numbers), literal, WIDEST_TIME)
                self.numbers += [ns, digits]
            case Texts(texts):
                width = texts.dtype.itemsize
                self._place_quoted(TEXT, sum(block.shape[1] for block in self.texts), literal, width)
                self.texts.append(_letters(texts))
            case Coded(codes, distinct):
                self._add_codes(codes, len(distinct))
                self.value_pieces += range(len(self.pieces), len(self.pieces) + len(distinct))
                self.pieces += [literal + text.encode() for text in self.dialect.values(distinct)]
                self.holes += [-1] * len(distinct)
            case Framed(codes, distinct, frames):
                self._add_codes(codes, len(distinct))
                for text in self.dialect.values(distinct):
                    parts = self.dialect.holes.split(literal + text.encode())
                    self.value_pieces.append(len(self.pieces))
                    self.pieces += parts[::2]
                    self.holes += [*(len(self.numbers) + int(hole) for hole in parts[1::2]), -1]
                self.numbers += list(frames.T)

    def finish(self) -> Layout:
        """The layout of all columns added."""
        fixed = [*self.literals, self.open_quote + self.dialect.end]
        pieces = [*fixed, *self.pieces]
        holes = np.array([-1] * len(fixed) + self.holes, np.int64)
        piece_at = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum(list(map(len, pieces)), out=piece_at[1:])
        value_piece = np.array([*self.value_pieces, len(self.pieces)], np.int64) + len(fixed)
        reach = np.concatenate([[0], np.cumsum(np.diff(piece_at) + WIDEST_NUMBER * (holes >= 0))])
        self.sizes = reach[value_piece[1:]] - reach[value_piece[:-1]]
        return Layout(
            np.array(self.kinds, np.int64),
            np.array(self.lanes, np.int64),
            np.array(self.widths, np.int64),
            np.frombuffer(b"".join(pieces), np.uint8),
            piece_at,
            holes,
            value_piece,
        )

    def batch(self, layout: Layout, first: int, end: int) -> memoryview:
        """The text of rows first to end."""
        rows = end - first
        numbers = _side_by_side(self.numbers, first, end)
        values = _side_by_side(self.codes, first, end) + np.array(self.bases, np.int64)
        texts = np.hstack([np.zeros((rows, 0), np.uint8), *(block[first:end] for block in self.texts)])
        fixed = int(layout.piece_at[len(layout.kinds) + 1] + layout.widths.sum())
        out = np.empty(rows * fixed + int(self.sizes[values].sum()), np.uint8)
        used = _write_rows(layout, numbers, texts, values, out)
        if used < 0:
            raise ValueError("a column's codes and values do not fit together")
        return out[:used].data

    def _place(self, kind: int, lane: int, literal: bytes, width: int = WIDEST_NUMBER) -> None:
        self.kinds.append(kind)
        self.lanes.append(lane)
        self.literals.append(literal)
        self.widths.append(width)

    def _place_quoted(self, kind: int, lane: int, literal: bytes, width: int) -> None:
        self.open_quote = self.dialect.quote
        self._place(kind, lane, literal + self.dialect.quote, width)

    def _add_codes(self, codes: NDArray[np.int32], values: int) -> None:
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < values:
            raise ValueError("a code without a value")
        self._place(VALUE, len(self.codes), b"", 0)
        self.codes.append(codes)
        self.bases.append(len(self.value_pieces))


def _side_by_side(columns: list[NDArray[Any]], first: int, end: int) -> NDArray[np.int64]:
    """Columns as a matrix with one row per row of the batch, so that a row's numbers share cache lines."""
    matrix = np.empty((end - first, len(columns)), np.int64)
    for lane, column in enumerate(columns):
        matrix[:, lane] = column[first:end]
    return matrix


_HARMLESS: Final = b"\x00ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:/+=_-"
_HARMLESS_FIRST: Final = _HARMLESS.translate(None, b"+=-")


def _letters(texts: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), texts.dtype.itemsize)


def _other_than(letters: bytes, texts: NDArray[np.uint8]) -> bytes:
    return texts.tobytes().translate(None, letters)


def _plain(column: Column) -> Column:
    """The column as the kernel can write it: texts that need care and times with nulls become values."""
    match column:
        case Texts(texts):
            letters = _letters(texts)
            if _other_than(_HARMLESS, letters) or _other_than(_HARMLESS_FIRST, letters[:, :1]):
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
    values: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> int:
    """Lay the rows into out. Returns the bytes used, -1 if they don't fit or an index points nowhere."""
    at = 0
    for row in range(len(values)):
        for column in range(len(layout.kinds)):
            kind = layout.kinds[column]
            lane = layout.lanes[column]
            if kind == VALUE:
                at = _value(layout, values[row, lane], numbers[row], out, at)  # its first piece has the literal
                continue
            at = _piece(layout, column, out, at)
            if kind == NUMBER:
                at = _integer(numbers[row, lane], out, at)
            elif kind == TIME:
                at = _time(numbers[row, lane], numbers[row, lane + 1], out, at)
            else:
                at = _text(texts[row, lane : lane + layout.widths[column]], out, at)
        at = _piece(layout, len(layout.kinds), out, at)
    return at


@kernel
def _piece(layout: Layout, piece: int, out: NDArray[np.uint8], at: int) -> int:
    start = layout.piece_at[piece]
    length = int(layout.piece_at[piece + 1] - start)
    if at < 0 or at + length > len(out):
        return -1
    copy(out, at, layout.arena, start, length)
    return at + length


@kernel
def _value(layout: Layout, value: int, numbers: NDArray[np.int64], out: NDArray[np.uint8], at: int) -> int:
    if value < 0 or value + 1 >= len(layout.value_piece):
        return -1
    for piece in range(layout.value_piece[value], layout.value_piece[value + 1]):
        at = _piece(layout, piece, out, at)
        hole = layout.piece_hole[piece]
        if hole >= len(numbers):
            return -1
        if hole >= 0:
            at = _integer(numbers[hole], out, at)
    return at


@kernel
def _text(text: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    """Copy a fixed-width text up to its padding."""
    if at < 0 or at + len(text) > len(out):
        return -1
    for i in range(len(text)):
        if text[i] == 0:
            return at + i
        out[at + i] = text[i]
    return at + len(text)


@kernel
def _integer(number: int, out: NDArray[np.uint8], at: int) -> int:
    """Write a number in decimal."""
    if at < 0 or at + 20 > len(out):
        return -1
    rest = np.uint64(number)
    if number < 0:
        out[at] = 45
        at += 1
        rest = np.uint64(0) - rest
    digits = 1
    bound = np.uint64(10)
    while digits < 19 and rest >= bound:
        digits += 1
        bound *= np.uint64(10)
    for i in range(digits - 1, -1, -1):
        out[at + i] = 48 + rest % np.uint64(10)
        rest //= np.uint64(10)
    return at + digits


@kernel
def _time(ns: int, digits: int, out: NDArray[np.uint8], at: int) -> int:
    """Write RFC 3339 in UTC. The calendar is the proleptic Gregorian one, counted from 0000-03-01."""
    if at < 0 or at + 30 > len(out) or digits < 0 or digits > 9:
        return -1
    seconds = ns // 1_000_000_000
    fraction = ns - seconds * 1_000_000_000
    days = seconds // 86_400 + 719_468
    of_day = seconds % 86_400
    era = days // 146_097
    of_era = days - era * 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    day = of_year - (153 * shifted + 2) // 5 + 1
    at = _digits(year + era * 400 + (1 if month <= 2 else 0), 4, 45, out, at)
    at = _digits(month, 2, 45, out, at)
    at = _digits(day, 2, 84, out, at)
    at = _digits(of_day // 3600, 2, 58, out, at)
    at = _digits(of_day // 60 % 60, 2, 58, out, at)
    at = _digits(of_day % 60, 2, 46 if digits else 90, out, at)
    if digits:
        at = _digits(fraction // 10 ** (9 - digits), digits, 90, out, at)
    return at


@kernel
def _digits(number: int, digits: int, after: int, out: NDArray[np.uint8], at: int) -> int:
    """Write exactly so many digits and one character; the caller has made sure of the room."""
    for i in range(digits - 1, -1, -1):
        out[at + i] = 48 + number % 10
        number //= 10
    out[at + digits] = after
    return at + digits + 1
