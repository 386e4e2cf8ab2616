"""A profile as tshark takes it with -C: names, columns, colours, decode-as; and no stranger writes into it."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from shipped import result_of

from classifier import cli
from classifier.dissectors import LISTED_AS
from classifier.profile import files
from classifier.result import Result

CAPTURES = Path(__file__).parents[1] / "captures"
TICKET = CAPTURES / "ticket-49734.pcapng"

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="TSHARK MISSING: profiles are not read back")


def profile(folder: Path, *arguments: str) -> Path:
    """Write a profile through the command; returns Wireshark's personal folder that has it."""
    target = str(folder / "profiles" / "exflow")
    done = CliRunner().invoke(cli.exflow, ["wireshark", *arguments, "-o", target], standalone_mode=False)
    assert done.return_value == 0, done
    return folder


def tshark(home: Path, path: Path, *arguments: str) -> list[str]:
    command = ["tshark", "-C", "exflow", "-r", str(path), *arguments]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    told = [line for line in done.stderr.splitlines() if "could be dangerous" not in line]
    assert told == []
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inventory = TICKET.with_suffix(".inventory.toml")
    return profile(tmp_path_factory.mktemp("wireshark"), str(TICKET), "--inventory", str(inventory))


def test_names_and_columns(home: Path) -> None:
    [line] = tshark(home, TICKET, "-Y", "frame.number == 405", "-N", "n")
    assert "cas1.example.test(client-access)" in line
    assert "mbx1.example.test(mailbox)" in line
    assert " 49734 " in line


def test_colours_by_path_and_what_they_colour(home: Path) -> None:
    fields = ("-T", "fields", "-e", "frame.coloring_rule.name", "-e", "frame.number", "--color")
    coloured = dict(reversed(line.split("\t")) for line in tshark(home, TICKET, *fields))
    assert coloured["405"] == "path cas-to-mailbox"
    assert len(set(coloured.values())) > 5


def test_every_filter_is_one(home: Path) -> None:
    folder = home / "profiles" / "exflow"
    filters = [line.split("@")[2] for line in (folder / "colorfilters").read_text().splitlines()]
    filters += [row[2] for row in csv.reader((folder / "dfilter_buttons").read_text().splitlines())]
    assert len(filters) > 10
    whole = " || ".join(f"({each})" for each in filters)
    assert tshark(home, TICKET, "-Y", whole, "-c", "1")


def test_decode_as_works_on_what_tshark_does_not_know_by_itself(tmp_path: Path) -> None:
    path = CAPTURES / "net-tcp-mrs-808.pcap"
    assert tshark(tmp_path_without_profile(tmp_path), path, "-Y", "mc-nmf") == []
    assert tshark(profile(tmp_path / "home", str(path)), path, "-Y", "mc-nmf")


def tmp_path_without_profile(folder: Path) -> Path:
    (folder / "plain" / "profiles" / "exflow").mkdir(parents=True)
    (folder / "home").mkdir()
    return folder / "plain"


def test_a_handed_out_port_is_decoded(home: Path) -> None:
    entries = (home / "profiles" / "exflow" / "decode_as_entries").read_text().splitlines()
    assert "decode_as_entry: tcp.port,49734,(none),DCERPC" in entries


def test_tshark_lists_every_dissector_by_that_name() -> None:
    told = subprocess.run(["tshark", "-G", "protocols"], capture_output=True, text=True, check=True).stdout
    known = {tuple(line.split("\t")[1:3]) for line in told.splitlines()}
    assert {(short, name) for name, short in LISTED_AS.items()} <= known


def test_no_stranger_writes_into_it() -> None:
    written = files(result_of("hostile-strings"))
    assert re.fullmatch(r"([0-9.]+ [\w.(),:-]+\n)+", written["hosts"])
    assert all(text.isprintable() and text.isascii() for each in written.values() for text in each.splitlines())
    assert "<" not in written["colorfilters"] + written["dfilter_buttons"] + written["hosts"]


def test_nothing_at_all_is_a_profile_too() -> None:
    assert files(Result.empty())["hosts"] == ""


def test_a_folder_that_can_not_be_made_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = str(tmp_path / "file" / "profile")
    done = CliRunner().invoke(cli.exflow, ["wireshark", str(TICKET), "-o", target], standalone_mode=False)
    assert str(done.exception) == f"{target}: {tmp_path / 'file'} is no folder"


def test_what_is_not_read_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "inventory.toml").write_text("host =")
    arguments = ["wireshark", str(TICKET), "--inventory", str(tmp_path / "inventory.toml")]
    done = CliRunner().invoke(cli.exflow, [*arguments, "-o", str(tmp_path / "above" / "profile")])
    assert done.exception
    assert not (tmp_path / "above").exists()
