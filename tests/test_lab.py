"""The captures of the laboratory: what exflow and tshark say of them, beside what the laboratory knows.

captures/lab/INDEX.toml is the answer key, written from the servers' configuration and logs. No server is needed here.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyshark
import pytest
from answer_key import disagreements

import classifier
from captures.lab import packages
from captures.lab.network import wait_for

LAB = Path(__file__).resolve().parents[1] / "captures" / "lab"
INDEX: list[dict[str, Any]] = tomllib.loads((LAB / "INDEX.toml").read_text())["capture"]
LEVELS = {"1": "none", "2": "none", "5": "rpc-integrity", "6": "rpc-privacy"}
SESSIONS = ("smb-sign", "smb3")
PACKAGES = {"0": "none", "10": "ntlm", "16": "kerberos"}
"""Security packages by number; 9 is SPNEGO, whose token says which of both."""

NOT_DISSECTED = {"hard-one-way.pcap": "the mapper's bind is on the other way: tshark leaves the answer alone"}
"""Where only the laboratory's truth can judge the ports mapped, and why tshark can't."""

every_capture = pytest.mark.parametrize("entry", INDEX, ids=[entry["file"] for entry in INDEX])
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


# ---- the command -----------------------------------------------------------------------------------


def namespaces(owner: int) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name.startswith(f"exlab-{owner}-")]


def inside(folder: Path) -> list[int]:
    """Processes that run in a folder or below."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cwd") if str(folder) in os.path.realpath(path)]


def machine() -> list[str]:
    """Interfaces, routes and mounts outside of any laboratory; names of namespaces are shared with whoever has some."""
    commands = (["ip", "-br", "address"], ["ip", "route"], ["mount"])
    told = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in commands]
    return [line for text in told for line in text.splitlines() if " /run/netns" not in line]


@contextmanager
def laboratory(folder: Path, scenario: str) -> Iterator[subprocess.Popen[str]]:
    """A laboratory that writes below a folder."""
    words = [sys.executable, "-m", "captures.lab", scenario, "--out", str(folder / "out")]
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=LAB.parents[1], env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        yield process


def begun(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until servers run in a laboratory."""
    wait_for(lambda: bool(inside(folder / "tmp")) or process.poll() is not None, "its servers")
    assert namespaces(process.pid), "it has ended"


needs_servers = pytest.mark.skipif(
    os.geteuid() != 0 or bool(packages.missing()), reason="not root, or not all servers are installed"
)


@needs_servers
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_laboratory_leaves_nothing(tmp_path: Path, sign: signal.Signals) -> None:
    before = machine()
    with laboratory(tmp_path, "hard-mirrors") as process:
        begun(tmp_path, process)
        process.send_signal(sign)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert not namespaces(process.pid)
    assert not inside(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "out").iterdir())
    assert machine() == before


@needs_servers
def test_the_next_laboratory_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    before = machine()
    with laboratory(tmp_path, "hard-mirrors") as killed:
        begun(tmp_path, killed)
        killed.kill()
    assert namespaces(killed.pid)
    assert inside(tmp_path)
    with laboratory(tmp_path, "voice-foreign") as process:
        told, said = process.communicate()
    assert process.returncode == 0, said
    assert told.splitlines()[0].split() == ["SCENARIO", "CONVERSATIONS", "RIGHT", "WRONG", "MISSING"]
    assert not namespaces(killed.pid)
    assert not inside(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())
    assert machine() == before


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


@functools.cache
def dissected(file: str) -> list[Any]:
    """Binds, mappers' answers and SMB logins of a capture, as pyshark packets; the truth tells which ports are RPC."""
    entry = next(entry for entry in INDEX if entry["file"] == file)
    ports = {truth["server"][1] for truth in entry["conversation"] if truth["protocol"] in ("dcerpc", "epm")}
    loop = asyncio.new_event_loop()
    capture = pyshark.FileCapture(
        str(LAB / file), eventloop=loop, decode_as={f"tcp.port=={port}": "dcerpc" for port in ports},
        display_filter="dcerpc.pkt_type == 11 || dcerpc.pkt_type == 14 || "
        "(epm.opnum == 3 && tcp.srcport == 135) || (smb2.cmd == 1 && smb2.flags.response == 0)",
    )  # fmt: skip
    try:
        capture.load_packets()
        return list(capture)
    finally:
        capture.close()
        loop.close()


def values(layer: Any, field: str) -> list[str]:
    """All values of a field of a layer, those of protocols inside it too."""
    found = layer._all_fields.get(field)
    return [str(item.show) for item in found.all_fields] if found is not None else []


def ends(packet: Any) -> tuple[str, int, str, int]:
    """Sender and receiver, of the innermost headers: address and port."""
    network = next(layer for layer in reversed(packet.layers) if layer.layer_name in ("ip", "ipv6"))
    segment = next(layer for layer in reversed(packet.layers) if layer.layer_name == "tcp")
    return str(network.src), int(segment.srcport), str(network.dst), int(segment.dstport)


def of_rpc(entry: dict[str, Any], name: str) -> Iterator[tuple[Any, Any]]:
    """Packets with their layers of this name."""
    for packet in dissected(entry["file"]):
        yield from ((packet, layer) for layer in packet.layers if layer.layer_name == name)


def ends_of(talk: classifier.Conversation) -> tuple[str, int, str, int]:
    return talk.client_ip, talk.client_port, talk.server_ip, talk.server_port


def mechanism(layer: Any) -> str:
    """Whose tokens are inside."""
    inside = [word for word in ("kerberos", "ntlmssp") if any(key.startswith(word) for key in layer._all_fields)]
    return "".join(inside).removesuffix("ssp")


def protection(layer: Any) -> tuple[str, str]:
    """Authentication and encryption of a bind, in exflow's words."""
    kind = PACKAGES.get((values(layer, "dcerpc.auth_type") or ["0"])[0])
    return kind or mechanism(layer), LEVELS[(values(layer, "dcerpc.auth_level") or ["1"])[0]]


@needs_tshark
@every_capture
def test_tshark_sees_the_same(entry: dict[str, Any]) -> None:
    answers = classified(entry)
    logins = [(packet, layer) for packet, layer in of_rpc(entry, "smb2") if values(layer, "smb2.cmd") == ["1"]]
    sessions = {ends(packet): mechanism(layer) for packet, layer in logins}
    assert sessions == {ends_of(talk): talk.authentication for talk in answers if talk.protocol == "smb"}
    same_binds(entry, answers, sessions)
    same_ports_mapped(entry, answers)


def same_binds(entry: dict[str, Any], answers: classifier.Result, sessions: dict[Any, str]) -> None:
    """Interfaces, authentication and protection; where a bind on a pipe protects nothing, the session does."""
    uuids: dict[tuple[str, int, str, int], set[str]] = {}
    protections: dict[tuple[str, int, str, int], set[tuple[str, str]]] = {}
    for packet, layer in of_rpc(entry, "dcerpc"):
        if values(layer, "dcerpc.pkt_type") in (["11"], ["14"]) and values(layer, "dcerpc.cn_bind_to_uuid"):
            uuids.setdefault(ends(packet), set()).update(values(layer, "dcerpc.cn_bind_to_uuid"))
            protections.setdefault(ends(packet), set()).add(protection(layer))
    for key in set(sessions) & set(uuids):
        levels = {level for _, level in protections[key]} - {"none"}
        protections[key] = {(sessions[key], level) for level in levels or SESSIONS}
    ours = {ends_of(talk): talk for talk in answers if talk.rpc_interfaces}
    assert uuids == {key: {item["uuid"] for item in talk.rpc_interfaces} for key, talk in ours.items()}
    for key, talk in ours.items():
        assert (talk.authentication, talk.encryption) in protections[key], key


def same_ports_mapped(entry: dict[str, Any], answers: classifier.Result) -> None:
    """The answers of endpoint mappers, by frame, and the ports that exflow learned from them."""
    theirs = {
        (int(packet.number), int(port))
        for packet, layer in of_rpc(entry, "epm") for port in values(layer, "epm.proto.tcp_port")
        if ends(packet)[1] == 135
    }  # fmt: skip
    ours = {
        (talk.resolved_by["frame"], talk.server_port)
        for talk in answers if talk.resolved_by and talk.resolved_by["kind"] == "ept_map"
    }  # fmt: skip
    if entry["file"] in NOT_DISSECTED:
        assert ours
        assert not theirs, "tshark reads it now; compare"
        return
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
