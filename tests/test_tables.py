"""Frames and Parquet: the same columns and dtypes whatever is in them, and the same values as the records."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples

from classifier import limits
from classifier.arrow import _offsets, schema, write_parquet
from classifier.errors import UsageError
from classifier.fields import FIELDS, NAMES, Coded, Framed, Hole
from classifier.result import Result, Table

TICKET = Path(__file__).parents[1] / "captures" / "ticket-49734.pcapng"
FRAMES = ("to_pandas", "endpoints", "hosts", "findings")


def parquet(table: Table) -> pa.Table:
    out = io.BytesIO()
    write_parquet(table, out)
    return pq.read_table(io.BytesIO(out.getvalue()))


def finding(text: str, frame: Any) -> dict[str, Any]:
    return {"id": "weak-authentication", "severity": "high", "text": text, "frame": frame}


def test_parquet_is_written_without_pandas() -> None:
    """Its import would take longer than all else."""
    code = f"""
import io, sys
import classifier
from classifier.arrow import write_parquet
result = classifier.classify({str(TICKET)!r}, jobs=1)
for table in (result.table, result.host_table, result.endpoint_table):
    write_parquet(table, io.BytesIO())
print("pyarrow" in sys.modules, "pandas" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=TICKET.parents[1], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"]


def test_text_that_parquet_has_no_room_for_is_refused() -> None:
    with pytest.raises(UsageError, match="write JSON lines"):
        _offsets(np.array([1 << 30, 1 << 30]))


@pytest.mark.parametrize("name", FRAMES)
def test_an_empty_frame_has_the_columns_and_dtypes_of_a_full_one(name: str) -> None:
    full = samples.result(20, findings=Coded(np.zeros(20, np.int32), [[finding("x", 3)]]))
    empty_frame, full_frame = getattr(Result.empty(), name)(), getattr(full, name)()
    assert len(empty_frame) == 0 < len(full_frame)
    pd.testing.assert_series_equal(empty_frame.dtypes, full_frame.dtypes)


def test_dtypes_are_those_of_the_contract() -> None:
    dtypes = Result.empty().to_pandas().dtypes
    assert tuple(dtypes.index) == NAMES
    assert dtypes["start"] == "datetime64[ns, UTC]"
    assert dtypes["client_port"] == "int64"
    assert dtypes["tls_sni"] == "str"
    assert isinstance(dtypes["certainty"], pd.CategoricalDtype)
    assert dtypes["evidence"] == dtypes["vlan"] == "object"


def test_a_frame_holds_the_values_of_the_records() -> None:
    result = samples.result(300)
    frame = result.to_pandas()
    for index, row in enumerate(frame.to_dict("records")):
        expected = result.table.row(index)
        for name, value in row.items():
            if isinstance(value, pd.Timestamp):
                assert value == pd.Timestamp(expected[name])
            elif expected[name] is None:
                assert pd.isna(value)
            else:
                assert value == expected[name]


def test_a_word_outside_the_vocabulary_is_kept() -> None:
    frame = samples.result(2, protocol=Coded(np.array([0, 1], np.int32), ["gopher", None])).to_pandas()
    assert frame["protocol"].tolist()[0] == "gopher"
    assert frame["protocol"].isna().tolist() == [False, True]


def test_one_row_for_each_finding() -> None:
    distinct = [[], [finding("a", Hole(0))], [finding("b", 5), finding("c", None)]]
    findings = Framed(np.array([1, 0, 2], np.int32), distinct, np.array([[40], [0], [0]]))
    frame = samples.result(3, findings=findings).findings()
    assert frame[["conversation", "text", "severity"]].values.tolist() == [
        [1, "a", "high"],
        [3, "b", "high"],
        [3, "c", "high"],
    ]
    assert frame["frame"].tolist()[:2] == [40, 5]
    assert frame["frame"].isna().tolist() == [False, False, True]


def test_endpoints_keep_times_and_nulls() -> None:
    row = samples.result(1).endpoints().iloc[0]
    assert row["first_seen"] == pd.Timestamp("2026-01-02T03:03:04.123456Z")
    assert pd.isna(row["last_seen"])
    assert row["port"] == 49734


# ---- Parquet ----------------------------------------------------------------------------


def test_parquet_holds_the_values_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.arrow.PARQUET_ROWS", 128)
    table = samples.result(300).table
    read = parquet(table)
    assert read.column_names == list(NAMES)
    for index, row in enumerate(read.to_pylist()):
        expected = table.row(index)
        row["start"], row["end"] = (_text(row[name], expected[name]) for name in ("start", "end"))
        assert row == expected


def _text(time: pd.Timestamp, like: str) -> str:
    return time.tz_localize(None).isoformat(timespec="nanoseconds")[: len(like) - 1] + "Z"


def test_parquet_reads_back_as_the_frame() -> None:
    result = samples.result(200)
    read, frame = parquet(result.table).to_pandas(), result.to_pandas()
    assert list(read.columns) == list(frame.columns)
    for field in FIELDS:
        if field.kind in ("int", "str", "time"):
            pd.testing.assert_series_equal(
                read[field.name], frame[field.name], check_categorical=False, check_dtype=False
            )


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_the_parquet_schema_is_always_the_same(rows: int) -> None:
    assert parquet(samples.result(rows).table).schema.equals(schema(FIELDS))


def test_an_empty_result_is_a_parquet_table_too() -> None:
    read = parquet(Result.empty().table)
    assert read.num_rows == 0
    assert read.schema.equals(schema(FIELDS))


def test_hostile_texts_are_data() -> None:
    result = samples.hostile()
    expected = [text.replace("\udcff", "\N{REPLACEMENT CHARACTER}") for text in samples.HOSTILE]
    assert parquet(result.table)["tls_sni"].to_pylist() == expected
    assert result.to_pandas()["tls_sni"].tolist() == expected
    assert [facts[0]["value"] for facts in parquet(result.table)["evidence"].to_pylist()] == expected


def test_parquet_needs_no_more_memory_for_more_rows() -> None:
    groups = io.BytesIO()
    write_parquet(samples.result(limits.PARQUET_ROWS + 1).table, groups)
    assert pq.ParquetFile(groups).num_row_groups == 2
