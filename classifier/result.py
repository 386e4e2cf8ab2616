"""What a run gives back: the table of conversations, and what was learnt beside it.

Owns `Table` (equal-length columns and their meaning), `Result` and `Conversation`. Must not know how
a table is filled (`columns`), nor how it is written or framed: `records` and `tables` are asked for
that when a user calls for it, and not loaded before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from classifier.errors import Damage, UsageError
from classifier.fields import (
    ENDPOINT_FIELDS,
    FIELDS,
    FINDING_FIELDS,
    HOST_FIELDS,
    NAMES,
    NO_TIME,
    Coded,
    Column,
    Field,
    Framed,
    Hole,
    Numbers,
    Texts,
    Times,
)

if TYPE_CHECKING:
    import pandas as pd
    from scapy.plist import PacketList

    from classifier.acceptance import Acceptance
    from classifier.findings import FindingRule
    from classifier.reasoning import Reasoning
    from classifier.rules import ListedSignature

ALWAYS_COUNTED: Final = frozenset({"packets", "packets_without_tcp_or_udp"})
"""Counters that say how much there was, and not that something was left out."""

Row = Mapping[str, Any]
"""A row of a small table before it is one: times are nanoseconds since the epoch; a missing key is null."""


@dataclass(frozen=True, slots=True)
class Table:
    """Equal-length columns, one for each of `fields`, in their order. Raises ValueError when they don't fit."""

    fields: tuple[Field, ...]
    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if list(self.columns) != names:
            raise ValueError(f"columns {sorted(set(names) ^ set(self.columns)) or 'in another order'}")
        lengths = {name: length_of(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return length_of(next(iter(self.columns.values())))

    def row(self, index: int) -> dict[str, Any]:
        """One row as JSON-ready values, times as RFC 3339 text."""
        return {name: value_at(column, index) for name, column in self.columns.items()}

    @classmethod
    def of_rows(cls, fields: tuple[Field, ...], rows: Sequence[Row]) -> Table:
        """Turn rows into columns, for tables that are small (endpoints, hosts, findings)."""
        return cls(fields, {field.name: _column(field, [row.get(field.name) for row in rows]) for field in fields})


class Result:
    """All conversations of a capture set. `len` counts them, `result[7]` is the one with id 7, iteration is by id.

    A selection of it is a result too, and its conversations keep their ids.

    columns: one `Column` for each name of `fields.NAMES`. damages: where inputs were cut short or corrupt.
    failures: what was asked for beside the result and could not be done (an endpoint map that can't be written).
    counters: what was counted on the way; all but `ALWAYS_COUNTED` are shortfalls. inputs: the captures, as named.
    verdicts: how many conversations conform to the documents, deviate, or can't be decided ("encryption deviates").
    rules: the findings that were looked for. acceptances: those of their findings that the user lives with.
    reasoner: goes once more through the decision of the conversation in a row.
    documented: makes the data paths of the signatures; endpoint_rows, host_rows: rows of `fields.ENDPOINT_FIELDS` and
    `fields.HOST_FIELDS`, when they are asked for.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        *,
        damages: Iterable[Damage] = (),
        counters: Mapping[str, int] | None = None,
        inputs: Iterable[str] = (),
        verdicts: Mapping[str, int] | None = None,
        rules: Iterable[FindingRule] = (),
        documented: Callable[[], Iterable[ListedSignature]] = tuple,
        endpoint_rows: Callable[[], Iterable[Row]] = tuple,
        host_rows: Callable[[], Iterable[Row]] = tuple,
        reasoner: Callable[[int], Reasoning | None] | None = None,
    ) -> None:
        self.table = Table(FIELDS, {name: columns[name] for name in NAMES})
        self.damages = tuple(damages)
        self.counters = dict(counters or {})
        self.failures: list[str] = []
        self.inputs = tuple(inputs)
        self.verdicts = dict(verdicts or {})
        self.rules = tuple(rules)
        self.acceptances: tuple[Acceptance, ...] = ()
        self._documented, self._endpoint_rows, self._host_rows = documented, endpoint_rows, host_rows
        self._reasoner = reasoner

    @classmethod
    def empty(cls) -> Result:
        """A result without conversations; it has all columns and types."""
        return cls(Table.of_rows(FIELDS, []).columns)

    @property
    def columns(self) -> Mapping[str, Column]:
        """Every column by its name in `fields.NAMES`."""
        return self.table.columns

    @property
    def shortfalls(self) -> dict[str, int]:
        """What could not be used, mostly because a bound of `limits` was met: words for it, and how many."""
        lost = {name: count for name, count in self.counters.items() if count and name not in ALWAYS_COUNTED}
        return {name.replace("_", " "): count for name, count in lost.items()}

    @cached_property
    def documented(self) -> tuple[ListedSignature, ...]:
        """The data paths of the signatures."""
        return tuple(self._documented())

    @cached_property
    def endpoint_rows(self) -> list[Row]:
        """The endpoint map, a row for each interface on a port."""
        return list(self._endpoint_rows())

    @cached_property
    def host_rows(self) -> list[Row]:
        """Every host that something is known of."""
        return list(self._host_rows())

    @property
    def endpoint_table(self) -> Table:
        """The endpoint map as columns."""
        return Table.of_rows(ENDPOINT_FIELDS, self.endpoint_rows)

    @property
    def host_table(self) -> Table:
        """The hosts as columns."""
        return Table.of_rows(HOST_FIELDS, self.host_rows)

    @property
    def finding_table(self) -> Table:
        """Every finding of every conversation, by id."""
        return Table.of_rows(FINDING_FIELDS, list(self._finding_rows()))

    @property
    def _ids(self) -> NDArray[np.int64]:
        column = self.columns["id"]
        assert isinstance(column, Numbers)
        return column.values

    def select(self, **conditions: Any) -> Result:
        """The conversations for which every condition holds, with their ids; `selection.CONDITIONS` says which.

        id, path, role, host, port, protocol, interface, certainty, absence: a value, or several of which one
        must hold. labelled: bool. findings: bool, or ids and severities. since, until: ISO 8601 text or a datetime,
        UTC where it has no zone. The endpoint map, hosts, damages and counters stay those of the whole run; how
        many conversations conform (`verdicts`) is not known of a part. Raises UsageError for an unknown
        condition or a value that can't be meant.
        """
        from classifier.selection import chosen

        rows = np.flatnonzero(chosen(self, conditions))
        selected = Result(
            {name: taken(column, rows) for name, column in self.columns.items()},
            damages=self.damages,
            counters=self.counters,
            inputs=self.inputs,
            rules=self.rules,
            documented=lambda: self.documented,
            endpoint_rows=lambda: self.endpoint_rows,
            host_rows=lambda: self.host_rows,
            reasoner=lambda index: self.reasoning(int(rows[index])),
        )
        selected.acceptances = self.acceptances
        return selected

    def reasoning(self, index: int) -> Reasoning | None:
        """Which paths were weighed for the conversation in that row, and what would settle it."""
        return self._reasoner(index) if self._reasoner else None

    def to_pandas(self) -> pd.DataFrame:
        """The conversations as a frame: the columns of the contract, with the same dtypes when there are none."""
        return _frame(self.table)

    def endpoints(self) -> pd.DataFrame:
        """Which RPC interface was handed out on which server port, since when, and who said so."""
        return _frame(self.endpoint_table)

    def hosts(self) -> pd.DataFrame:
        """The role of every host, and why."""
        return _frame(self.host_table)

    def findings(self) -> pd.DataFrame:
        """One row for each finding of a conversation."""
        return _frame(self.finding_table)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Conversation]:
        return (Conversation(self, index) for index in range(len(self)))

    def __getitem__(self, conversation_id: int) -> Conversation:
        ids = self._ids
        index = int(np.searchsorted(ids, conversation_id))
        if index == len(ids) or ids[index] != conversation_id:
            raise KeyError(f"no conversation {conversation_id}: there are {len(self)}")
        return Conversation(self, index)

    def __repr__(self) -> str:
        return f"<Result: {len(self)} conversations of {len(self.inputs)} inputs, {len(self.damages)} damages>"

    def _repr_html_(self) -> str:
        from classifier.overview import show

        return show(self)

    def _finding_rows(self) -> Iterator[Row]:
        column, today = self.columns["findings"], datetime.now(UTC).date()
        holding = [each for each in self.acceptances if each.holds(today)]
        reasons = {rule.id: rule.reason for rule in self.rules}
        at_hand = [field.name for field in FINDING_FIELDS if field.name in self.columns]
        for index in _rows_with_values(column):
            talk = {name: self._raw(name, index) for name in at_hand}
            talk["conversation"] = int(self._ids[index])
            for finding in value_at(column, index):
                row = {**talk, **finding, "reason": reasons.get(finding["id"], "")}
                accepted = next((each.reason for each in holding if each.covers(row)), None)
                yield {**row, "accepted": accepted}

    def _raw(self, name: str, index: int) -> Any:
        """One value as rows of small tables have it: times in nanoseconds."""
        column = self.columns[name]
        return int(column.ns[index]) if isinstance(column, Times) else value_at(column, index)


class Holder(Protocol):
    """What has a table of conversations: a result, or a report of a live capture."""

    @property
    def table(self) -> Table:
        """All columns with what they mean."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """Every column by its name."""

    def reasoning(self, index: int) -> Reasoning | None:
        """What was weighed for the conversation in that row, if that is still known."""


class Conversation:
    """One conversation of a result: an attribute for each field, read from its column when asked for."""

    __slots__ = ("_index", "_result")

    def __init__(self, result: Holder, index: int) -> None:
        self._result = result
        self._index = index

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._result.columns:
            raise AttributeError(f"a conversation has no field {name!r}")
        return value_at(self._result.columns[name], self._index)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._result.columns]

    def to_dict(self) -> dict[str, Any]:
        """All fields, in the order of the contract."""
        return self._result.table.row(self._index)

    def explain(self) -> str:
        """Why it got its label, or none: each step of the argument with its frames. Safe to print."""
        from classifier.explanation import explain

        return explain(self.to_dict(), self._result.reasoning(self._index))

    def packets(self) -> PacketList:
        """Its frames as scapy packets. Raises UsageError when the captures can't be read a second time."""
        from classifier.deep import packets

        return packets(self._whole(), self.id)

    def dissect(self, display_filter: str | None = None) -> list[Any]:
        """Its frames as pyshark packets, the server port decoded as what it was found to be.

        display_filter: keeps the frames that it holds for, such as "dcerpc.pkt_type == 11". Raises MissingToolError
        without tshark, UsageError for a broken filter and as `packets` does.
        """
        from classifier.deep import dissect

        return dissect(self._whole(), self.id, display_filter)

    def follow(self, view: Literal["text", "hex"] = "text") -> str:
        """What both sides said, in order. Safe to print. Raises as `dissect` does."""
        from classifier.deep import follow

        return follow(self._whole(), self.id, view)

    def _whole(self) -> Result:
        if not isinstance(self._result, Result):
            raise UsageError("packets of a live capture are not kept; record it and classify the file")
        return self._result

    def __repr__(self) -> str:
        return f"<{self.explain().partition(chr(10))[0]}>"


def length_of(column: Column) -> int:
    """How many rows a column has."""
    match column:
        case Numbers(values):
            return len(values)
        case Times(ns):
            return len(ns)
        case Texts(texts):
            return len(texts)
        case Coded(codes) | Framed(codes):
            return len(codes)


def taken(column: Column, rows: NDArray[np.int64]) -> Column:
    """The column with only these rows, in this order."""
    match column:
        case Numbers(values):
            return Numbers(values[rows])
        case Times(ns, digits):
            return Times(ns[rows], digits[rows])
        case Texts(texts):
            return Texts(texts[rows])
        case Coded(codes, distinct):
            return Coded(codes[rows], distinct)
        case Framed(codes, distinct, frames):
            return Framed(codes[rows], distinct, frames[rows])


def value_at(column: Column, index: int) -> Any:
    """One value, JSON-ready and the caller's own; a time as RFC 3339 text."""
    match column:
        case Numbers(values):
            return int(values[index])
        case Times(ns, digits):
            return rfc3339(int(ns[index]), int(digits[index]))
        case Texts(texts):
            return bytes(texts[index]).decode("ascii")
        case Coded(codes, distinct):
            return fill(distinct[codes[index]], ())
        case Framed(codes, distinct, frames):
            return fill(distinct[codes[index]], frames[index].tolist())


def fill(value: Any, frames: Sequence[int]) -> Any:
    """A copy of a distinct value, with its holes filled from one row of frames."""
    match value:
        case Hole(index):
            return frames[index]
        case list():
            return [fill(item, frames) for item in value]
        case dict():
            return {name: fill(item, frames) for name, item in value.items()}
    return value


def rfc3339(ns: int, digits: int) -> str | None:
    """Nanoseconds since the epoch as UTC text with that many fraction digits; None for `NO_TIME`."""
    if ns == NO_TIME:
        return None
    seconds, fraction = divmod(ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09d}"[: len(text) + digits + (digits > 0)] + "Z"


def _column(field: Field, values: list[Any]) -> Column:
    if field.kind == "time":
        ns = np.array([NO_TIME if value is None else value for value in values], np.int64)
        return Times(ns, np.where(ns % 1000 == 0, 6, 9).astype(np.int8))
    if field.kind == "int" and not field.nullable:
        return Numbers(np.array(values, np.int64))
    return Coded(np.arange(len(values), dtype=np.int32), values)


def _rows_with_values(column: Column) -> list[int]:
    """Rows of a list column that are not empty, found on the distinct values."""
    if not isinstance(column, Coded | Framed) or not len(column.codes):
        return []
    filled = np.array([bool(value) for value in column.values])
    found: list[int] = np.flatnonzero(filled[column.codes]).tolist()
    return found


def _frame(table: Table) -> pd.DataFrame:
    from classifier.tables import frame

    return frame(table)
