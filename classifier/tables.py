"""Columns to pandas frames. The only module that imports pandas.

Owns the mapping of `fields` to dtypes, which is the same for an empty table: int64 (Int64 where null
is possible), `str`, a categorical over the whole closed vocabulary where there is one, datetime64[ns, UTC],
and object for lists and objects. Equal lists and objects are shared between rows: do not change them in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classifier.fields import Coded, Column, Field, Framed, Numbers, Texts, Times
from classifier.records import unicode
from classifier.result import Table, fill


def frame(table: Table) -> pd.DataFrame:
    """The table as a frame: same names, same order."""
    return pd.DataFrame({field.name: _series(field, table.columns[field.name]) for field in table.fields})


def _series(field: Field, column: Column) -> pd.Series[Any]:
    match column:
        case Numbers(values):
            return pd.Series(values)
        case Times(ns):
            return pd.Series(ns.view("M8[ns]")).dt.tz_localize("UTC")
        case Texts(texts):
            return _of_values(field, texts.astype(str).tolist(), np.arange(len(texts), dtype=np.int32))
        case Coded(codes, distinct):
            return _of_values(field, distinct, codes)
        case Framed(codes, distinct, frames):
            pairs = zip(codes.tolist(), frames.tolist(), strict=True)
            return pd.Series(_objects([fill(distinct[code], row) for code, row in pairs]))


def _of_values(field: Field, distinct: list[Any], codes: NDArray[np.int32]) -> pd.Series[Any]:
    match field.kind:
        case "str" if field.words:
            return pd.Series(_categorical(field.words, distinct, codes))
        case "str":
            return pd.Series(_objects(unicode(distinct))[codes], dtype="str")
        case "int":
            return pd.Series(_objects(distinct)[codes], dtype="Int64")
        case _:
            return pd.Series(_objects(unicode(distinct))[codes], dtype=object)


def _categorical(
    words: tuple[str, ...], distinct: list[Any], codes: NDArray[np.int32]
) -> pd.Categorical:
    """Codes into the vocabulary; a word outside it is a defect elsewhere, and kept all the same."""
    known = {word: code for code, word in enumerate(dict.fromkeys([*words, *filter(None, distinct)]))}
    places = np.array([-1 if value is None else known[value] for value in distinct], np.int64)
    return pd.Categorical.from_codes(places[codes], categories=pd.Index(list(known)))


def _objects(values: list[Any]) -> NDArray[np.object_]:
    """An object array of exactly these values; numpy would make lists of equal length a matrix."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
