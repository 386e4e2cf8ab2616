"""What is written out: equal to an independent rendering, and safe whatever strangers wrote."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from classifier import lines, records
from classifier.fields import ENDPOINT_FIELDS, NAMES, NO_TIME, Coded, Field, Framed, Hole, Numbers, Texts, Times
from classifier.limits import RENDER_ROWS
from classifier.result import Result, Table, rfc3339, value_at

MANY = RENDER_ROWS * 3 + 17


def jsonl(table: Table) -> str:
    out = io.BytesIO()
    records.write_jsonl(table, out)
    return out.getvalue().decode()


def as_csv(table: Table) -> list[list[str]]:
    out = io.BytesIO()
    records.write_csv(table, out)
    return list(csv.reader(io.StringIO(out.getvalue().decode(), newline="")))


def terminal(table: Table, view: records.View = records.CONVERSATIONS, width: int | None = None) -> str:
    out = io.BytesIO()
    records.write_table(table, view, out, width)
    return out.getvalue().decode()


def plain_rows(table: Table) -> list[dict[str, Any]]:
    return [table.row(index) for index in range(len(table))]


def hazards(text: str) -> set[str]:
    """Characters that steer a terminal, reorder text or cannot be seen, by Unicode's own categories."""
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char != "\n"}


# ---- JSON lines -------------------------------------------------------------------------


def test_json_lines_equal_an_independent_rendering() -> None:
    table = samples.result(MANY).table
    expected = [json.dumps(row, separators=(",", ":")) for row in plain_rows(table)]
    assert jsonl(table).splitlines() == expected


def test_fields_come_in_the_contracts_order() -> None:
    assert tuple(json.loads(jsonl(samples.result(1).table))) == NAMES


def test_an_empty_result_is_no_line() -> None:
    assert jsonl(Result.empty().table) == ""


def test_hostile_texts_survive_json_and_cannot_act() -> None:
    table = samples.hostile().table
    text = jsonl(table)
    assert not hazards(text)
    for row, sent in zip(map(json.loads, text.splitlines()), samples.HOSTILE, strict=True):
        assert row["tls_sni"] == row["file"] == row["evidence"][0]["value"] == records.unicode(sent)


def test_holes_are_filled_with_the_rows_own_numbers() -> None:
    column = Framed(
        np.array([1, 0, 1], np.int32),
        [None, {"kind": "x", "frame": Hole(1), "conversation": Hole(0)}],
        np.array([[1, -2], [3, 4], [2**62, -(2**63)]]),
    )
    written = jsonl(Table((Field("a", "object", True, ""),), {"a": column}))
    assert list(map(json.loads, written.splitlines())) == [
        {"a": {"kind": "x", "frame": -2, "conversation": 1}},
        {"a": None},
        {"a": {"kind": "x", "frame": -(2**63), "conversation": 2**62}},
    ]


def test_items_may_be_shared_by_lists() -> None:
    item, other = {"kind": "x\u202e", "frame": Hole(0)}, {"kind": "y", "frame": None}
    column = Framed(np.array([0, 1, 2, 3], np.int32), [[item], [other, item, item], [], item], np.arange(4)[:, None])
    written = jsonl(Table((Field("a", "list[object]", False, ""),), {"a": column}))
    assert [json.loads(line)["a"] for line in written.splitlines()] == [
        [{"kind": "x\u202e", "frame": 0}],
        [other, {"kind": "x\u202e", "frame": 1}, {"kind": "x\u202e", "frame": 1}],
        [],
        {"kind": "x\u202e", "frame": 3},
    ]
    assert not hazards(written)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_any_number(numbers: list[int]) -> None:
    table = Table((Field("n", "int", False, ""),), {"n": Numbers(np.array(numbers, np.int64))})
    assert [json.loads(line)["n"] for line in jsonl(table).splitlines()] == numbers


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 9)), min_size=1))
def test_any_time(times: list[tuple[int, int]]) -> None:
    ns, digits = map(np.array, zip(*times, strict=True))
    table = Table((Field("t", "time", True, ""),), {"t": Times(ns.astype(np.int64), digits.astype(np.int8))})
    assert [json.loads(line)["t"] for line in jsonl(table).splitlines()] == [rfc3339(*each) for each in times]


@pytest.mark.parametrize(
    ("ns", "digits", "text"),
    [
        (0, 0, "1970-01-01T00:00:00Z"),
        (1_767_323_045_123_456_789, 6, "2026-01-02T03:04:05.123456Z"),
        (1_767_323_045_123_456_789, 9, "2026-01-02T03:04:05.123456789Z"),
        (951_782_400_000_000_000, 3, "2000-02-29T00:00:00.000Z"),
        (-1, 9, "1969-12-31T23:59:59.999999999Z"),
        (NO_TIME, 6, None),
    ],
)
def test_times_are_rfc_3339_in_utc_with_the_captures_digits(ns: int, digits: int, text: str | None) -> None:
    column = Times(np.array([ns]), np.array([digits], np.int8))
    assert value_at(column, 0) == text
    assert json.loads(jsonl(Table((Field("t", "time", True, ""),), {"t": column}))) == {"t": text}


def test_times_agree_with_the_calendar() -> None:
    days = np.arange(-80_000, 80_000, dtype=np.int64)
    column = Times(days * 86_400 * 10**9 + 1, np.zeros(len(days), np.int8))
    written = jsonl(Table((Field("t", "time", True, ""),), {"t": column})).splitlines()
    epoch = datetime(1970, 1, 1, tzinfo=UTC).toordinal()
    assert [line[6:16] for line in written] == [
        datetime.fromordinal(epoch + int(day)).date().isoformat() for day in days
    ]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1), min_size=1))
def test_any_ascii_text_column(texts: list[str]) -> None:
    table = Table((Field("s", "str", False, ""),), {"s": Texts(np.array([text.encode() for text in texts]))})
    assert [json.loads(line)["s"] for line in jsonl(table).splitlines()] == texts
    assert not hazards(jsonl(table))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(JSON, min_size=1, max_size=5), st.data())
def test_any_value(values: list[Any], data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20))
    fields = (Field("a", "object", True, ""), Field("b", "object", True, ""))
    table = Table(
        fields,
        {
            "a": Coded(np.array(codes, np.int32), values),
            "b": Framed(np.array(codes, np.int32), values, np.zeros((len(codes), 0), np.int64)),
        },
    )
    expected = [{"a": values[code], "b": values[code]} for code in codes]
    assert [json.loads(line) for line in jsonl(table).splitlines()] == expected
    assert not hazards(jsonl(table))
    assert len(as_csv(table)) == len(codes) + 1


def test_a_code_without_value_is_refused() -> None:
    table = Table((Field("a", "str", True, ""),), {"a": Coded(np.array([0, 2], np.int32), ["x", "y"])})
    with pytest.raises(ValueError, match="code without a value"):
        jsonl(table)


def test_texts_of_unequal_length_or_with_zeros_are_no_plain_column() -> None:
    texts = [b"abc", b"a", b"a\0c", b"=bc"]
    table = Table((Field("s", "str", False, ""),), {"s": Texts(np.array(texts))})
    assert [json.loads(line)["s"] for line in jsonl(table).splitlines()] == [text.decode() for text in texts]
    assert [row for [row] in as_csv(table)] == ["s", "abc", "a", "a\\x00c", "'=bc"]


def test_columns_with_the_same_codes_and_those_of_one_value_are_written_with_their_neighbours() -> None:
    codes, ones = np.array([1, 0, 1], np.int32), np.zeros(3, np.int32)
    columns = {
        "a": Coded(ones, ["only"]),
        "b": Coded(codes, ["x", None]),
        "c": Coded(ones, [["always"]]),
        "d": Coded(codes, [[1, 2], {"e": "y"}]),
        "e": Framed(codes, [[], [{"frame": Hole(0)}]], np.array([[7], [8], [9]])),
        "f": Coded(codes, ["p", "q"]),
        "g": Texts(np.array([b"u", b"v", b"w"])),
        "h": Coded(codes, ["r", "s"]),
        "i": Coded(codes, ["t", "u", "no row's"]),
        "j": Coded(ones, [None]),
    }
    table = Table(tuple(Field(name, "object", True, "") for name in columns), columns)
    assert list(map(json.loads, jsonl(table).splitlines())) == plain_rows(table)


def test_no_row_has_the_codes_of_no_value() -> None:
    none = Coded(np.zeros(0, np.int32), [])
    fields = (Field("a", "str", True, ""), Field("b", "str", True, ""), Field("c", "str", True, ""))
    assert jsonl(Table(fields, {"a": Coded(none.codes, ["x", "y"]), "b": none, "c": none})) == ""


def test_a_control_character_in_a_dialects_text_is_refused() -> None:
    column, table = Coded(np.array([0, 1], np.int32), ["a", "b"]), records.json_dialect()
    for text in ("\0", "\1", "\1\1", "\1/00"):
        plan = lines._Builder(table._replace(values=lambda values, text=text: [text] * len(values)))
        plan.add("", column)
        with pytest.raises(ValueError, match="control character"):
            plan.finish()


def test_more_holes_than_a_mark_has_digits_are_refused() -> None:
    assert len({lines.mark(hole) for hole in (0, 63, 64, 4095, 4096, 64**3 - 1)}) == 6
    with pytest.raises(ValueError, match="holes"):
        lines.mark(64**3)


def test_many_holes() -> None:
    holes = list(range(0, 5000, 7))
    value = [{"frame": Hole(hole)} for hole in holes]
    column = Framed(np.zeros(2, np.int32), [value], np.arange(10_000).reshape(2, -1))
    written = jsonl(Table((Field("a", "list[object]", False, ""),), {"a": column})).splitlines()
    assert [[each["frame"] for each in json.loads(line)["a"]] for line in written] == [
        holes,
        [5000 + hole for hole in holes],
    ]


@pytest.mark.parametrize("first", [1, 100, 4095])
def test_a_batch_that_does_not_fit_is_written_to_more_memory(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    monkeypatch.setattr(lines, "FIRST_SHEET", first)
    test_json_lines_equal_an_independent_rendering()


def test_the_kernel_writes_nothing_beyond_its_memory() -> None:
    plan = lines._Builder(records.json_dialect())
    for name, column in samples.result(3).columns.items():
        plan.add(f",{name}:", column)
    layout = plan.finish()
    sheet = lines._Sheet(plan, layout)
    whole = bytes(sheet.batch(0, 3))
    for length in (*range(1, 200), *range(len(whole) - 50, len(whole) + lines.ROOM)):
        room = np.full(len(whole) + 2 * lines.ROOM, 7, np.uint8)
        sheet._text = room[:length]
        assert bytes(sheet.batch(0, 3)) == whole
        assert (room[length:] == 7).all()


# ---- CSV --------------------------------------------------------------------------------


COMPACT = json.JSONEncoder(separators=(",", ":")).encode


def cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else COMPACT(value)


def test_csv_cells_are_the_values() -> None:
    table = samples.result(MANY).table
    header, *rows = as_csv(table)
    assert header == list(NAMES)
    for cells, row in zip(rows, plain_rows(table), strict=True):
        assert cells == [*map(cell, row.values())]


def test_an_empty_csv_keeps_its_names() -> None:
    assert as_csv(Result.empty().table) == [list(NAMES)]


def test_no_hostile_text_is_a_formula_or_breaks_a_row() -> None:
    rows = as_csv(samples.hostile().table)
    assert {len(row) for row in rows} == {len(NAMES)}
    for cell in (cell for row in rows for cell in row):
        assert not hazards(cell)
        assert "\n" not in cell
        assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}"))


@given(st.text())
def test_any_text_is_one_harmless_cell(text: str) -> None:
    [[cell]] = csv.reader(io.StringIO(f"{records.csv_cell(text)}\n", newline="")) if text else [[""]]
    assert not hazards(cell)
    assert not cell.startswith(("=", "+", "-", "@"))
    assert cell.removeprefix("'") == records.safe(text).removeprefix("'")


@pytest.mark.parametrize("first", "=+-@")
def test_text_columns_are_guarded_too(first: str) -> None:
    table = Table((Field("s", "str", False, ""),), {"s": Texts(np.array([f"{first}1".encode(), b"a"]))})
    assert as_csv(table) == [["s"], [f"'{first}1"], ["a"]]


# ---- the terminal -----------------------------------------------------------------------


@pytest.mark.parametrize("width", [None, 100, 80])
def test_no_hostile_text_reaches_the_terminal(width: int | None) -> None:
    text = terminal(samples.hostile().table, width=width)
    assert not hazards(text)
    assert r"\x1b" in text.replace("\n", "")


def test_markup_is_shown_as_it_is() -> None:
    assert "[bold red]markup[/]" in terminal(samples.hostile().table)


@pytest.mark.parametrize("width", [100, 80, 40])
def test_lines_fit_the_terminal(width: int) -> None:
    text = terminal(samples.result(300).table, width=width)
    assert max(map(len, text.splitlines())) <= width


def test_folding_loses_nothing() -> None:
    table = samples.result(1).table
    folded = terminal(table, width=80)
    assert sorted(re.sub(r"\s", "", folded)) == sorted(re.sub(r"\s", "", terminal(table)))


def test_without_a_width_a_row_is_a_line_without_tabs() -> None:
    text = terminal(samples.result(MANY).table)
    assert len(text.splitlines()) == MANY + 1
    assert "\t" not in text


def test_an_empty_table_has_its_headings() -> None:
    assert terminal(Result.empty().table).split() == ["ID", "CLIENT", "SERVER", "PROTOCOL", "DATA", "PATH", "SECURITY"]


def test_the_endpoint_table_tells_who_said_so() -> None:
    text = terminal(samples.result(1).endpoint_table, records.ENDPOINTS)
    assert "10.0.0.9 tcp/49734" in text
    assert "ept_map in frame 400 of trace.pcapng" in text
    assert "announced as 0.0.0.0" in text
    assert not hazards(text)


def test_hosts_are_shown() -> None:
    shown = terminal(samples.result(1).host_table, records.HOSTS)
    assert "10.0.0.9  mailbox  2010      inventory" in shown
    assert "2013: answers as the transport of Exchange 2013 (frame 81, conversation 4)" in " ".join(shown.split())


@given(st.text(min_size=1), st.integers(1, 30))
def test_any_text_folds_within_the_width(text: str, width: int) -> None:
    shown = records.safe(text)
    folded = records._fold(shown, max(width, 2))
    assert all(records.cell_len(line) <= max(width, 2) for line in folded)
    assert re.sub(r"\s", "", "".join(folded)) == re.sub(r"\s", "", shown)


# ---- explanations and notebooks ---------------------------------------------------------


def test_an_explanation_names_the_frames() -> None:
    result = samples.result(50)
    told = next(each for each in result if each.evidence and each.resolved_by)
    text = told.explain()
    assert f"frames {told.first_frame} to {told.last_frame} of {told.file}" in text
    joined = " ".join(text.split())
    assert "the endpoint mapper handed it out (ept_map) for EMSMDB a4f1db00-ca47-1067-b31f-00dd010662da" in joined
    assert f"(frame {told.resolved_by['frame']}" in joined


def test_explanations_of_hostile_conversations_are_safe() -> None:
    assert not any(hazards(conversation.explain()) for conversation in samples.hostile())


def test_a_notebook_runs_no_markup() -> None:
    html = samples.hostile()._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_rows_of_small_tables_may_lack_keys() -> None:
    row = json.loads(jsonl(Table.of_rows(ENDPOINT_FIELDS, [{"server_ip": "::1", "transport": "tcp", "kind": "oxid"}])))
    assert row["first_seen"] is None
    assert row["port"] is None
