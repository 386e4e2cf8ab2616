"""The captures of the laboratory: what exflow and tshark say of them, beside what the laboratory knows.

captures/lab/INDEX.toml is the answer key, written from the servers' configuration and logs. No server is needed here.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from answer_key import disagreements

import classifier

LAB = Path(__file__).resolve().parents[1] / "captures" / "lab"
INDEX: list[dict[str, Any]] = tomllib.loads((LAB / "INDEX.toml").read_text())["capture"]
LEVELS = {"2": "none", "5": "rpc-integrity", "6": "rpc-privacy"}

every_capture = pytest.mark.parametrize("entry", INDEX, ids=[entry["file"] for entry in INDEX])
with_mapper = pytest.mark.parametrize(
    "entry", [entry for entry in INDEX if any("resolved_by" in truth for truth in entry["conversation"])],
    ids=lambda entry: entry["file"],
)  # fmt: skip
with_keys = pytest.mark.parametrize(
    "entry", [entry for entry in INDEX if "keylog" in entry], ids=lambda entry: entry["file"]
)
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed: no independent reader")


def classified(entry: dict[str, Any]) -> classifier.Result:
    inventory = LAB / entry["inventory"] if "inventory" in entry else None
    return classifier.classify(LAB / entry["file"], inventory=inventory)


@every_capture
def test_labels(entry: dict[str, Any]) -> None:
    said = {(talk.transport, talk.first_frame): talk for talk in classified(entry)}
    complaints = [line for truth in entry["conversation"] for line in disagreements(truth, said)]
    unknown = set(said) - {(truth["transport"], truth["first_frame"]) for truth in entry["conversation"]}
    assert not complaints, "\n" + "\n".join(complaints)
    assert not unknown


@every_capture
def test_files_are_those_of_the_index(entry: dict[str, Any]) -> None:
    data = (LAB / entry["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    assert len(data) <= 400_000


def test_every_capture_is_in_the_index() -> None:
    assert {path.name for path in LAB.glob("*.pcap*")} == {entry["file"] for entry in INDEX}


def test_the_laboratory_knows_nothing_of_the_classifier() -> None:
    names = [
        name for path in LAB.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)
    ]
    assert names
    assert not [name for name in names if name.split(".")[0] == "classifier"]


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


# ---- tshark ----------------------------------------------------------------------------------------


def tshark(entry: dict[str, Any], display_filter: str, *fields: str) -> list[list[str]]:
    """The fields of matching frames; ports that truth says are RPC are read as RPC."""
    ports = sorted({truth["server"][1] for truth in entry["conversation"] if truth.get("rpc_interfaces")})
    words = ["tshark", "-n", "-r", str(LAB / entry["file"]), "-Y", display_filter, "-T", "fields"]
    words += [word for port in ports for word in ("-d", f"tcp.port=={port},dcerpc")]
    words += ["-o", f"tls.keylog_file:{LAB / entry['keylog']}"] if "keylog" in entry else []
    words += [word for field in fields for word in ("-e", field)]
    run = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"})
    return [line.split("\t") for line in run.stdout.splitlines()]


@needs_tshark
@every_capture
def test_tshark_sees_the_same_binds(entry: dict[str, Any]) -> None:
    fields = ("ip.src", "tcp.srcport", "tcp.dstport", "dcerpc.cn_bind_to_uuid", "dcerpc.auth_level",
              "kerberos.msg_type", "ntlmssp.messagetype")  # fmt: skip
    theirs = {
        (source, int(port), int(server), *sorted(set(uuids.split(","))),
         "kerberos" if ticket else "ntlm" if ntlm else "none", LEVELS.get(level, "none"))
        for source, port, server, uuids, level, ticket, ntlm in tshark(entry, "dcerpc.pkt_type == 11", *fields)
    }  # fmt: skip
    ours = {
        (talk.client_ip, talk.client_port, talk.server_port, *sorted({item["uuid"] for item in talk.rpc_interfaces}),
         talk.authentication, talk.encryption)
        for talk in classified(entry) if talk.rpc_interfaces
    }  # fmt: skip
    assert ours == theirs


@needs_tshark
@with_mapper
def test_tshark_sees_the_same_ports_mapped(entry: dict[str, Any]) -> None:
    answers = "epm.opnum == 3 && epm.proto.tcp_port && tcp.srcport == 135"
    rows = tshark(entry, answers, "frame.number", "epm.proto.tcp_port")
    theirs = {(int(frame), int(port)) for frame, ports in rows for port in ports.split(",")}
    ours = {
        (talk.resolved_by["frame"], talk.server_port)
        for talk in classified(entry) if talk.resolved_by and talk.resolved_by["kind"] == "ept_map"
    }  # fmt: skip
    assert ours
    assert ours <= theirs
    assert {port for _, port in ours} == {port for _, port in theirs}


@needs_tshark
@with_keys
def test_tshark_reads_the_requests_with_the_keys_that_clients_kept(entry: dict[str, Any]) -> None:
    fields = ("ip.src", "tcp.srcport", "http.request.method", "http.request.uri")
    rows = tshark(entry, "http.request", *fields)
    fields = ("ip.src", "tcp.srcport", "http2.headers.method", "http2.headers.path")
    rows += tshark(entry, "http2.headers.method", *fields)
    theirs = {(source, int(port), f"{method} {uri}") for source, port, method, uri in rows}
    assert theirs == {(*truth["client"], truth["note"]) for truth in entry["conversation"] if "note" in truth}
