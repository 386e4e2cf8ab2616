"""The whole way: what must not change the result, and what every result keeps."""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any

import pytest
import shared

import classifier
from classifier import model
from classifier.result import Result

SHIPPED = Path(__file__).parents[1] / "captures"
TICKET = SHIPPED / "ticket-49734.pcapng"
MAPPED = SHIPPED / "row-cas-to-mailbox.pcap"
PLACED = ("file", "first_frame", "last_frame", "rpc_interfaces", "resolved_by", "evidence")


def records(result: Result, *without: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.to_dict().items() if name not in without} for each in result]


def split(path: Path, folder: Path, parts: int) -> list[Path]:
    """The records of a little-endian pcap dealt out to files, in order."""
    data, at, rows = path.read_bytes(), 24, []
    while at < len(data):
        end = at + 16 + struct.unpack_from("<I", data, at + 8)[0]
        rows.append(data[at:end])
        at = end
    step = -(-len(rows) // parts)
    made = []
    for part in range(parts):
        made.append(folder / f"{'cab'[part]}.pcap")
        made[-1].write_bytes(data[:24] + b"".join(rows[part * step : (part + 1) * step]))
    return made


def test_the_number_of_threads_changes_nothing() -> None:
    assert records(classifier.classify(TICKET, jobs=1)) == records(classifier.classify(TICKET, jobs=2))


def test_splitting_into_files_in_any_order_changes_nothing_but_places(tmp_path: Path) -> None:
    whole = classifier.classify(MAPPED)
    parts = split(MAPPED, tmp_path, 3)
    for given in (parts, parts[::-1], [tmp_path]):
        assert records(classifier.classify(*given), *PLACED) == records(whole, *PLACED)


def test_a_port_learnt_in_one_file_labels_the_other(tmp_path: Path) -> None:
    whole = classifier.classify(MAPPED)
    target = next(each for each in whole if each.resolved_by)
    parts = split(MAPPED, tmp_path, 2)
    found = next(each for each in classifier.classify(*parts) if each.server_port == target.server_port)
    assert found.resolved_by["kind"] == "ept_map"
    assert found.resolved_by["file"] in {str(part) for part in parts}


def test_an_endpoint_map_of_an_earlier_run_resolves(tmp_path: Path) -> None:
    learnt = tmp_path / "map.jsonl"
    classifier.classify(TICKET, endpoint_map=learnt)
    assert learnt.read_text().count("\n") >= 2
    late = classifier.classify(SHIPPED / "foreign-silence.pcap", endpoint_map=learnt)
    assert [each for each in late if each.resolved_by] == []
    assert "endpoint-map-file" in set(
        classifier.classify(SHIPPED / "rpc-mid-stream.pcap", endpoint_map=learnt).endpoints().kind
    )


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 2, 4, 0, 0, 65535, 1)])
def test_nothing_to_read_is_a_result_with_all_columns(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pcap").write_bytes(content)
    result = classifier.classify(tmp_path / "x.pcap")
    assert len(result) == 0
    assert list(result.to_pandas().columns) == list(classifier.classify(TICKET).to_pandas().columns)
    assert len(result.damages) == (0 if content else 1)


@pytest.fixture(scope="module")
def known_paths() -> set[str] | None:
    reference = shared.FOLDER.parent / "reference"
    if not reference.is_dir():
        return None
    ids: set[str] = set()
    for name in ("exchange2010_data_paths", "exchange2003_services", "other_versions"):
        with (reference / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            ids |= {row["id"] for row in csv.DictReader(stream)}
    return ids | {name.partition("-")[2] for name in ids if name.startswith("v")}


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.pcap*")), ids=lambda path: path.name)
def test_what_every_record_keeps(path: Path, known_paths: set[str] | None) -> None:
    inventory = path.with_suffix("").with_suffix(".inventory.toml")
    result = classifier.classify(path, inventory=inventory if inventory.exists() else None)
    packets = result.counters["packets"]
    for each in result:
        assert (each.certainty is None) != (each.absence is None)
        assert each.certainty in (None, *model.CERTAINTIES)
        assert each.absence in (None, *model.ABSENCES)
        assert bool(each.data_paths) == bool(each.evidence) == (each.certainty is not None)
        assert each.data_path in (None, *each.data_paths[:1])
        assert known_paths is None or set(each.data_paths) <= known_paths
        assert {each.client_role, each.server_role} <= {None, *model.ROLES}
        assert set(each.exchange_versions) <= set(model.VERSIONS)
        assert each.protocol in (None, *model.PROTOCOLS)
        assert each.authentication in (None, *model.AUTHENTICATIONS)
        assert each.encryption in (None, *model.ENCRYPTIONS)
        assert 1 <= each.first_frame <= each.last_frame <= packets + 1
        for item in (*each.rpc_interfaces, *each.evidence, *([each.resolved_by] if each.resolved_by else [])):
            assert item.get("uuid") is None or item["uuid"] == item["uuid"].lower()
            assert item["frame"] is None or 1 <= item["frame"] <= packets + 1
