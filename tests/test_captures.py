"""The whole way over each capture in captures/: what comes out is what its maker knows to be true.

INDEX.toml is the answer key; the makers wrote it, never this package. The makers are held to it too: they must
make the same bytes again, and tshark must see the endpoint mapper and the binds as they mean them.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from answer_key import disagreements

import classifier

ROOT = Path(__file__).resolve().parents[1]
CAPTURES = ROOT / "captures"
REFERENCE = ROOT.parent / "shared" / "reference"
INDEX: list[dict[str, Any]] = tomllib.loads((CAPTURES / "INDEX.toml").read_text())["capture"]

every_capture = pytest.mark.parametrize("entry", INDEX, ids=[entry["file"] for entry in INDEX])
REFERENCE_TABLES = ("exchange2010_data_paths.csv", "exchange2003_services.csv", "other_versions.csv")

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed: no independent reader")


# ---- the answer key against the classifier ------------------------------------------------------------


@every_capture
def test_labels(entry: dict[str, Any]) -> None:
    inventory = CAPTURES / entry["inventory"] if "inventory" in entry else None
    result = classifier.classify(CAPTURES / entry["file"], inventory=inventory)
    assert bool(result.damages) == bool(entry.get("status"))
    said = {(talk.transport, talk.first_frame): talk for talk in result}
    inferred = entry.get("roles") == "inferred"
    complaints = [line for truth in entry["conversation"] for line in disagreements(truth, said, inferred=inferred)]
    unknown = set(said) - {(truth["transport"], truth["first_frame"]) for truth in entry["conversation"]}
    complaints += [f"frame {frame}: a {transport} conversation that was never held" for transport, frame in unknown]
    assert not complaints, "\n" + "\n".join(complaints)


# ---- the answer key itself -----------------------------------------------------------------------------


@every_capture
def test_files_are_those_of_the_index(entry: dict[str, Any]) -> None:
    data = (CAPTURES / entry["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    assert len(data) <= 260_000


def test_makers_make_the_same_again() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "captures.makers", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_capture_is_in_the_index() -> None:
    there = {path.name for path in CAPTURES.iterdir() if ".pcap" in path.suffix}
    assert there == {entry["file"] for entry in INDEX}


def test_ids_are_those_of_the_reference() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not there: ids were NOT compared with the documents")
    known = {
        row["id"] for name in REFERENCE_TABLES for row in csv.DictReader((REFERENCE / name).read_text().splitlines())
    }
    known |= {path.partition("-")[2] for path in known if path.startswith("v")}
    used = {path for _, truth in truths() for key in ("data_paths", "also") for path in truth.get(key, [])}
    assert not used - known


def test_addresses_are_for_documentation() -> None:
    open_to_all = ("10.", "192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:")
    used = {truth[side][0] for _, truth in truths() for side in ("client", "server")}
    assert not {address for address in used if not address.startswith(open_to_all)}


def truths() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((entry, truth) for entry in INDEX for truth in entry["conversation"])


# ---- the makers against tshark ----------------------------------------------------------------------------

PLAIN_TO_TSHARK = (
    "ticket-49734.pcapng",
    "row-cas-to-mailbox.pcap",
    "row-note-mapi-clients-use-cas.pcap",
    "row-transport-mailbox-to-hub-mail-submission.pcap",
    "row-mailbox-oab-generation-active-directory.pcap",
    "rpc-big-endian.pcap",
    "rpc-ndr64-three-contexts.pcap",
    "rpc-sequence-wrap.pcap",
    "rpc-ipv6.pcap",
    "format-pcapng-everything.pcapng",
    "format-ipv4-fragments.pcap",
)
"""What tshark 4.0 reads right; it misses first segments shorter than a PDU header, and reordered ones."""

plain_capture = pytest.mark.parametrize("name", PLAIN_TO_TSHARK)


FIELDS = (
    "frame.number", "epm.proto.tcp_port", "epm.uuid", "dcerpc.pkt_type", "tcp.dstport", "dcerpc.cn_bind_to_uuid",
)  # fmt: skip


@cache
def tshark(name: str) -> list[dict[str, str]]:
    """The frames with RPC; X11's ports are taken from it, servers put RPC there."""
    command = ["tshark", "-r", str(CAPTURES / name), "-d", "tcp.port==6000-6063,dcerpc", "-Y", "dcerpc", "-T", "fields"]
    command += [word for field in FIELDS for word in ("-e", field)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in run.stdout.splitlines()]


@needs_tshark
def test_ticket_was_announced_in_frame_400() -> None:
    (row,) = (row for row in tshark("ticket-49734.pcapng") if row["frame.number"] == "400")
    assert row["epm.proto.tcp_port"] == "49734"
    assert row["epm.uuid"].startswith("a4f1db00-ca47-1067-b31f-00dd010662da")


@needs_tshark
@plain_capture
def test_tshark_sees_the_announcements(name: str) -> None:
    entry = next(entry for entry in INDEX if entry["file"] == name)
    ports = {int(row["frame.number"]): row["epm.proto.tcp_port"].split(",") for row in tshark(name)}
    for truth in entry["conversation"]:
        first, last = truth.get("resolved_by", {"frames": (0, 0)})["frames"]
        announced = [port for frame in range(first, last + 1) for port in ports.get(frame, ())]
        assert not first or str(truth["server"][1]) in announced


@needs_tshark
@plain_capture
def test_tshark_sees_the_binds(name: str) -> None:
    entry = next(entry for entry in INDEX if entry["file"] == name)
    bound = {
        (int(row["tcp.dstport"]), uuid)
        for row in tshark(name)
        if "11" in row["dcerpc.pkt_type"].split(",")
        for uuid in row["dcerpc.cn_bind_to_uuid"].split(",")
    }
    meant = {
        (truth["server"][1], item["uuid"])
        for truth in entry["conversation"]
        for item in truth.get("rpc_interfaces", [])
    }
    assert meant <= bound
