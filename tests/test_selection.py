"""Conditions on conversations: each against what a plain walk over the records finds; ids are kept."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import samples

import classifier
from classifier.errors import UsageError
from classifier.fields import Coded
from classifier.result import Result
from classifier.selection import CONDITIONS, nanoseconds

CAPTURES = Path(__file__).parents[1] / "captures"
MBX1 = ipaddress.ip_network("10.10.1.16/28")
Record = Mapping[str, Any]


@pytest.fixture(scope="module")
def ticket() -> Result:
    return classifier.classify(
        CAPTURES / "ticket-49734.pcapng", inventory=CAPTURES / "ticket-49734.inventory.toml", jobs=1
    )


def in_network(record: Record) -> bool:
    return any(ipaddress.ip_address(record[side]) in MBX1 for side in ("client_ip", "server_ip"))


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"id": [7, 3, 25]}, lambda row: row["id"] in (3, 7, 25)),
        ({"path": "cas-to-mailbox"}, lambda row: "cas-to-mailbox" in row["data_paths"]),
        ({"role": "outlook"}, lambda row: "outlook" in (row["client_role"], row["server_role"])),
        ({"host": "10.10.1.21"}, lambda row: "10.10.1.21" in (row["client_ip"], row["server_ip"])),
        ({"host": "mbx1.example.test"}, lambda row: "10.10.1.21" in (row["client_ip"], row["server_ip"])),
        ({"host": str(MBX1)}, in_network),
        ({"port": (25, 135)}, lambda row: row["server_port"] in (25, 135)),
        ({"protocol": "dcerpc"}, lambda row: row["protocol"] == "dcerpc"),
        ({"certainty": "certain"}, lambda row: row["certainty"] == "certain"),
        ({"labelled": False}, lambda row: row["certainty"] is None),
        ({"findings": True}, lambda row: bool(row["findings"])),
        ({"findings": False}, lambda row: not row["findings"]),
        ({"since": "2010-11-10T11:00:03"}, lambda row: row["end"] >= "2010-11-10T11:00:03"),
        ({"until": "2010-11-10T11:00:03"}, lambda row: row["start"] <= "2010-11-10T11:00:03"),
        (
            {"interface": "EMSMDB", "certainty": "certain"},
            lambda row: (
                row["certainty"] == "certain"
                and "emsmdb" in [each["name"] for each in [*row["rpc_interfaces"], row["resolved_by"] or {"name": ""}]]
            ),
        ),
        ({"host": None}, lambda row: True),
        ({}, lambda row: True),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_condition_means_what_it_says(
    ticket: Result, conditions: dict[str, Any], holds: Callable[[Record], bool]
) -> None:
    expected = [each.id for each in ticket if holds(each.to_dict())]
    assert [each.id for each in ticket.select(**conditions)] == expected
    assert expected or conditions == {"findings": True}


def test_conversations_of_a_selection_keep_their_ids(ticket: Result) -> None:
    chosen = ticket.select(id=[25, 4])
    assert (len(chosen), chosen[25].to_dict(), chosen[4].id) == (2, ticket[25].to_dict(), 4)
    with pytest.raises(KeyError, match="no conversation 5: there are 2"):
        chosen[5]
    assert chosen.to_pandas()["id"].tolist() == [4, 25]
    assert chosen.select(id=4).inputs == ticket.inputs


def test_nothing_chosen_is_a_result_with_all_columns(ticket: Result) -> None:
    frame = ticket.select(port=1).to_pandas()
    pd.testing.assert_series_equal(frame.dtypes, ticket.to_pandas().dtypes)
    assert len(frame) == len(ticket.select(port=1).findings()) == 0


def test_findings_of_a_selection_name_the_ids_of_their_conversations() -> None:
    weak = {"id": "weak-authentication", "severity": "high", "text": "x", "frame": 3}
    result = samples.result(4, findings=Coded(np.array([0, 1, 0, 1], np.int32), [[], [weak]]))
    assert result.select(id=[3, 4]).findings()["conversation"].tolist() == [4]
    assert [each.id for each in result.select(findings="high")] == [2, 4]
    assert [each.id for each in result.select(findings=["weak-authentication"])] == [2, 4]
    assert len(result.select(findings="low")) == 0


@pytest.mark.parametrize(
    ("conditions", "complaint"),
    [
        ({"roel": "mailbox"}, r"no condition 'roel', there are .*; did you mean 'role'\?"),
        ({"role": "mailbx"}, r"no client_role 'mailbx'; did you mean 'mailbox'\?"),
        ({"host": "nowhere"}, "no address, no network, and no host of that name"),
        ({"since": "yesterday"}, "'yesterday' is no time"),
        ({"until": 7}, "7 is no time"),
    ],
    ids=str,
)
def test_what_can_not_be_meant_is_refused(ticket: Result, conditions: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        ticket.select(**conditions)


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-31T14:05:00", "2026-01-31T15:05:00+01:00", datetime(2026, 1, 31, 14, 5, tzinfo=UTC),
        datetime(2026, 1, 31, 14, 5), pd.Timestamp("2026-01-31T14:05"), pd.Timestamp("2026-01-31T14:05Z"),
    ],
    ids=str,
)  # fmt: skip
def test_a_time_without_a_zone_is_utc(moment: Any) -> None:
    assert nanoseconds(moment) == pd.Timestamp("2026-01-31T14:05Z").value


def test_every_condition_works_on_an_empty_result() -> None:
    values = {"since": "2026-01-31", "until": "2026-01-31", "host": "::1", "role": "mailbox", "protocol": "tls",
              "certainty": "weak", "absence": "gap"}  # fmt: skip
    for name in CONDITIONS:
        assert len(Result.empty().select(**{name: values.get(name, True)})) == 0
