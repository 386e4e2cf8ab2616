"""What a firewall has to let in: rows against the conversations, scripts against nft and the rules of quoting."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from shipped import CAPTURES, result_of

from classifier.cli import exflow
from classifier.firewall import firewall_table, nftables, powershell
from classifier.result import Result, Table
from classifier.rulebook import load

NAMES = ("ticket-49734", "row-static-ports", "audit-no-answer", "rpc-ipv6", "dag-replication", "um-secured")


def table_of(name: str) -> Table:
    return firewall_table(result_of(name), load())


def rows(name: str) -> list[dict[str, Any]]:
    table = table_of(name)
    return [table.row(index) for index in range(len(table))]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_labelled_conversations_by_server_and_port(name: str) -> None:
    labelled = [talk for talk in result_of(name) if talk.certainty]
    found = {(row["server_ip"], row["transport"], row["port"]): row for row in rows(name)}
    assert found.keys() == {(talk.server_ip, talk.transport, talk.server_port) for talk in labelled}
    for key, row in found.items():
        mine = [talk for talk in labelled if (talk.server_ip, talk.transport, talk.server_port) == key]
        assert row["conversations"] == len(mine)
        assert set(row["clients"]) == {talk.client_ip for talk in mine}
        assert set(row["data_paths"]) == {path for talk in mine for path in talk.data_paths}
        assert set(row["setup_rules"]) == {rule for talk in mine for rule in talk.firewall_rules}
        assert row["unanswered"] == sum(talk.conn_state in ("S0", "REJ") for talk in mine)
        bound = {item["uuid"] for talk in mine for item in talk.rpc_interfaces if item["accepted"]}
        assert {text.split()[0] for text in row["interfaces"]} >= bound


def test_the_ticket_has_its_port_and_interface() -> None:
    (row,) = (row for row in rows("ticket-49734") if row["port"] == 49734)
    assert (row["kind"], row["interfaces"]) == ("dynamic-rpc", ["a4f1db00-ca47-1067-b31f-00dd010662da emsmdb"])
    assert "MSExchangeRPC - RPC (TCP-In)" in row["setup_rules"]


def test_the_usual_fixed_ports_are_static() -> None:
    assert {(row["port"], row["kind"]) for row in rows("row-static-ports")} == {
        (port, "static-rpc") for port in (59531, 59532, 59533)
    }


def test_a_port_outside_of_what_windows_hands_out_is_static() -> None:
    """6006 is within the range of 2010; 5000 would not be: nothing there says so but the range."""
    kinds = {row["port"]: row["kind"] for row in rows("ticket-49734")}
    assert (kinds[6005], kinds[135], kinds[25]) == ("dynamic-rpc", "mapper", "fixed")
    moved = result_of("ticket-49734").select(port=6005)
    moved.columns["server_port"].values[:] = 5000  # type: ignore[union-attr]
    table = firewall_table(moved, load())
    assert table.row(0)["kind"] == "static-rpc"


@pytest.mark.skipif(not shutil.which("nft"), reason="nft is not installed: nobody reads its rules")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="not root: nft checks nothing")
@pytest.mark.parametrize("name", NAMES)
def test_nft_takes_the_rules(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.nft"
    path.write_text("\n".join(nftables(table_of(name))) + "\n")
    done = subprocess.run(["nft", "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert path.read_text().count(" accept ") == len(rows(name))


RULE = re.compile(
    r"New-NetFirewallRule -DisplayName '[^']+' -Description '[^']+' -Direction Inbound -Action Allow "
    r"-Protocol (TCP|UDP) -LocalPort (RPC|RPCEPMap|\d+) -RemoteAddress '([0-9a-f.:]+)'(?:, '([0-9a-f.:]+)')*"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_a_rule_for_each_row_and_nothing_else(name: str) -> None:
    lines = [line for text in powershell(table_of(name)) for line in text.split("\n")]
    rules = [line for line in lines if line and not line.startswith("#")]
    assert len(rules) == len(rows(name)) > 0
    for line, row in zip(rules, rows(name), strict=True):
        matched = RULE.fullmatch(line)
        assert matched, line
        assert matched[1] == row["transport"].upper()
        assert matched[2] in (str(row["port"]), "RPC", "RPCEPMap")
        for address in re.findall(r"'([0-9a-f.:]+)'", line.partition("-RemoteAddress")[2]):
            assert str(ipaddress.ip_address(address)) in row["clients"]


def test_scripts_hold_no_strings_of_strangers() -> None:
    """Host names and users stand in the capture; none of them in a script."""
    table = table_of("ticket-49734")
    for text in ("\n".join(nftables(table)), "\n".join(powershell(table))):
        assert "example.test" not in text


@pytest.mark.parametrize("form", ["table", "jsonl", "csv", "nftables", "powershell"])
def test_the_command_writes_it(form: str, tmp_path: Path) -> None:
    words = ["firewall", str(CAPTURES / "tls-443.pcap"), "--inventory", str(CAPTURES / "tls-443.inventory.toml")]
    shown = CliRunner().invoke(exflow, [*words, "--format", form])
    written = CliRunner().invoke(exflow, [*words, "--format", form, "-o", str(tmp_path / "out")])
    assert shown.exit_code == written.exit_code == 0, shown.output
    assert "443" in shown.stdout
    assert (tmp_path / "out").read_text() == shown.stdout


def test_nothing_is_no_rows() -> None:
    table = firewall_table(Result.empty(), load())
    assert len(table) == 0
    assert [line for line in powershell(table) if not line.startswith("#")] == []
