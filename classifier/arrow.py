"""Columns to Arrow and Parquet, without pandas in between. The only module that imports pyarrow.

Owns the mapping of `fields` to Arrow types, which is the same for an empty table. Distinct values
become Arrow values once; rows are made of them by index. Arrays are made of their buffers, as the Arrow Columnar
Format lays them out: `pyarrow.array` would import pandas, which takes longer than all else here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from classifier.errors import UsageError
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
            self.distinct = _array(_type(field), column.values)

    def rows(self, rows: slice) -> pa.Array:
        """The column's values in these rows."""
        array = self._plain(rows)
        coded = pa.types.is_dictionary(_type(self.field, coded=True))
        return array.dictionary_encode() if coded and not pa.types.is_dictionary(array.type) else array

    def _plain(self, rows: slice) -> pa.Array:
        match self.column:
            case Numbers(values):
                return _numbers(values[rows], pa.int64())
            case Times(ns):
                return _numbers(ns[rows], pa.timestamp("ns", "UTC"), ns[rows] != NO_TIME)
            case Texts(texts):
                letters = np.ascontiguousarray(texts[rows]).view(np.uint8).reshape(-1, texts.dtype.itemsize)
                return _strings(letters[letters != 0].tobytes(), np.count_nonzero(letters, axis=1))
            case Coded(codes):
                return self.distinct.take(_numbers(codes[rows], pa.int32()))
            case Framed(codes, _, frames):
                return _fill(self.distinct.take(_numbers(codes[rows], pa.int32())), frames[rows].astype(np.int64))


# ---- arrays ------------------------------------------------------------------------------------


def _array(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """JSON-ready values, but for holes, which become numbers of their own. Raises UsageError for too many of them."""
    valid = np.fromiter((value is not None for value in values), np.bool_, len(values))
    if pa.types.is_struct(kind):
        members = [
            _array(member.type, [None if value is None else value[member.name] for value in values]) for member in kind
        ]
        return pa.Array.from_buffers(kind, len(values), [_bits(valid)], children=members)
    if pa.types.is_list(kind):
        offsets = _offsets(np.fromiter((len(value or ()) for value in values), np.int64, len(values)))
        items = _array(kind.value_type, list(chain.from_iterable(value or () for value in values)))
        return pa.Array.from_buffers(kind, len(values), [_bits(valid), offsets], children=[items])
    if pa.types.is_string(kind):
        octets = [_octets(value or "") for value in values]
        return _strings(b"".join(octets), np.fromiter(map(len, octets), np.int64, len(octets)), valid)
    if pa.types.is_boolean(kind):
        true = np.packbits(np.fromiter(map(bool, values), np.bool_, len(values)), bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [_bits(valid), pa.py_buffer(true)])
    numbers = (HOLE + value.index if isinstance(value, Hole) else value or 0 for value in values)
    return _numbers(np.fromiter(numbers, np.int64, len(values)), kind, valid)


def _numbers(values: NDArray[Any], kind: pa.DataType, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    buffers = [None if valid is None else _bits(valid), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _strings(octets: bytes, lengths: NDArray[np.int64], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    buffers = [None if valid is None else _bits(valid), _offsets(lengths), pa.py_buffer(octets)]
    return pa.Array.from_buffers(pa.string(), len(lengths), buffers)


def _bits(valid: NDArray[np.bool_]) -> pa.Buffer | None:
    """Which values there are; None: all."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _offsets(lengths: NDArray[np.int64]) -> pa.Buffer:
    ends = np.append(0, np.cumsum(lengths))
    if ends[-1] >= 1 << 31:
        raise UsageError("more than Parquet's columns take here: write JSON lines")
    return pa.py_buffer(ends.astype(np.int32))


def _octets(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return str(unicode(text)).encode()


def _fill(array: pa.Array, frames: NDArray[np.int64]) -> pa.Array:
    """Put the rows' own numbers where their values have holes."""
    if pa.types.is_struct(array.type):
        return _fill_struct(array, np.arange(len(array)), frames)
    if pa.types.is_list(array.type) and pa.types.is_struct(array.type.value_type):
        filled = _fill_struct(pc.list_flatten(array), _int64(pc.list_parent_indices(array)), frames)
        return pa.ListArray.from_arrays(array.offsets, filled, type=array.type)
    return array


def _fill_struct(structs: pa.StructArray, row: NDArray[np.int64], frames: NDArray[np.int64]) -> pa.StructArray:
    members = [
        _fill_numbers(values, row, frames) if pa.types.is_int64(values.type) else values for values in structs.flatten()
    ]
    return pa.StructArray.from_arrays(members, fields=list(structs.type), mask=pc.is_null(structs))


def _fill_numbers(numbers: pa.Array, row: NDArray[np.int64], frames: NDArray[np.int64]) -> pa.Array:
    valid = _valid(numbers)
    values = np.where(valid, _int64(numbers), 0)
    holes = np.flatnonzero(values < HOLE + frames.shape[1])
    values[holes] = frames[row[holes], values[holes] - HOLE]
    return _numbers(values, pa.int64(), valid)


def _int64(array: pa.Array) -> NDArray[np.int64]:
    """The numbers of an array, anything for nulls."""
    octets = array.buffers()[1]
    if octets is None:
        return np.zeros(len(array), np.int64)
    return np.frombuffer(octets, np.int64, len(array), 8 * array.offset)


def _valid(array: pa.Array) -> NDArray[np.bool_]:
    """Which values of an array are no nulls."""
    bits = array.buffers()[0]
    if bits is None:
        return np.ones(len(array), np.bool_)
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), count=array.offset + len(array), bitorder="little")
    return flags[array.offset :].astype(np.bool_)
