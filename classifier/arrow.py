"""Columns to Arrow and Parquet, without pandas in between. The only module that imports pyarrow.

Owns the mapping of `fields` to Arrow types, which is the same for an empty table. Distinct values
become Arrow values once; rows are made of them by index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from classifier.fields import NO_TIME, Coded, Column, Field, Framed, Hole, Numbers, Texts, Times
from classifier.limits import PARQUET_ROWS
from classifier.records import unicode
from classifier.result import Table

HOLE: Final = -(2**62)
"""Stands, with the hole's index added, for a frame number until it is filled in; no real number is near it."""


def schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Arrow types of a table: closed vocabularies are dictionaries, times are timestamps in ns, UTC."""
    return pa.schema(map(_field, fields))


def write_parquet(table: Table, out: IO[bytes]) -> None:
    """Write the table as Parquet, one row group per `PARQUET_ROWS`. Raises OSError as `out` does."""
    write_tables([table], out)


def write_tables(tables: Sequence[Table], out: IO[bytes]) -> None:
    """The same for several tables of equal fields, one behind the other; at least one."""
    wanted = schema(tables[0].fields)
    with pq.ParquetWriter(out, wanted, compression="zstd", compression_level=1) as writer:
        for table in tables:
            makers = [_Maker(field, table.columns[field.name]) for field in table.fields]
            for start in range(0, len(table), PARQUET_ROWS):
                rows = slice(start, start + PARQUET_ROWS)
                writer.write_table(pa.Table.from_arrays([maker.rows(rows) for maker in makers], schema=wanted))


def _field(field: Field) -> pa.Field:
    return pa.field(field.name, _type(field, coded=True), field.nullable, metadata={"description": field.doc})


def _member(field: Field) -> pa.Field:
    """A member can always be null: it is, beneath an object that is null itself."""
    return pa.field(field.name, _type(field))


def _type(field: Field, *, coded: bool = False) -> pa.DataType:
    """coded: give a closed vocabulary a dictionary (members of objects go without)."""
    match field.kind:
        case "int":
            return pa.int64()
        case "bool":
            return pa.bool_()
        case "str":
            return pa.dictionary(pa.int32(), pa.string()) if coded and field.words else pa.string()
        case "time":
            return pa.timestamp("ns", "UTC")
        case "list[str]":
            return pa.list_(pa.string())
        case "list[int]":
            return pa.list_(pa.int64())
        case "object":
            return pa.struct(map(_member, field.members))
        case "list[object]":
            return pa.list_(pa.struct(map(_member, field.members)))


class _Maker:
    """Makes Arrow arrays of one column, rows at a time."""

    def __init__(self, field: Field, column: Column) -> None:
        self.field = field
        self.column = column
        if isinstance(column, Coded | Framed):
            self.distinct = _distinct(field, column.values)

    def rows(self, rows: slice) -> pa.Array:
        """The column's values in these rows."""
        array = self._plain(rows)
        coded = pa.types.is_dictionary(_type(self.field, coded=True))
        return array.dictionary_encode() if coded and not pa.types.is_dictionary(array.type) else array

    def _plain(self, rows: slice) -> pa.Array:
        match self.column:
            case Numbers(values):
                return pa.array(values[rows])
            case Times(ns):
                return pa.array(ns[rows], mask=ns[rows] == NO_TIME).cast(pa.timestamp("ns", "UTC"))
            case Texts(texts):
                return pa.array(texts[rows].astype(str), pa.string())
            case Coded(codes):
                return self.distinct.take(pa.array(codes[rows]))
            case Framed(codes, _, frames):
                return _fill(self.distinct.take(pa.array(codes[rows])), frames[rows].astype(np.int64))


def _distinct(field: Field, values: list[Any]) -> pa.Array:
    try:
        return pa.array([_without_holes(value) for value in values], _type(field))
    except UnicodeEncodeError:
        return pa.array([unicode(_without_holes(value)) for value in values], _type(field))


def _without_holes(value: Any) -> Any:
    match value:
        case Hole(index):
            return HOLE + index
        case list():
            return [_without_holes(item) for item in value]
        case dict():
            return {name: _without_holes(item) for name, item in value.items()}
    return value


def _fill(array: pa.Array, frames: NDArray[np.int64]) -> pa.Array:
    """Put the rows' own numbers where their values have holes."""
    if pa.types.is_struct(array.type):
        return _fill_struct(array, np.arange(len(array)), frames)
    if pa.types.is_list(array.type) and pa.types.is_struct(array.type.value_type):
        filled = _fill_struct(pc.list_flatten(array), pc.list_parent_indices(array).to_numpy(), frames)
        return pa.ListArray.from_arrays(array.offsets, filled, type=array.type)
    return array


def _fill_struct(structs: pa.StructArray, row: NDArray[np.int64], frames: NDArray[np.int64]) -> pa.StructArray:
    members = [
        _fill_numbers(values, row, frames) if pa.types.is_int64(values.type) else values for values in structs.flatten()
    ]
    return pa.StructArray.from_arrays(members, fields=list(structs.type), mask=pc.is_null(structs))


def _fill_numbers(numbers: pa.Array, row: NDArray[np.int64], frames: NDArray[np.int64]) -> pa.Array:
    values = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False).copy()
    holes = np.flatnonzero(values < HOLE + frames.shape[1])
    values[holes] = frames[row[holes], values[holes] - HOLE]
    return pa.array(values, mask=pc.is_null(numbers).to_numpy(zero_copy_only=False))
