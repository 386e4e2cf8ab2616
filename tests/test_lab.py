"""The captures of the laboratory: what exflow says of them, beside what the laboratory knows.

captures/lab/INDEX.toml is the answer key, written from the servers' configuration and logs. No server is needed here.
"""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from answer_key import disagreements

import classifier
from captures.lab import packages
from captures.lab.network import obstacle, wait_for

LAB = Path(__file__).resolve().parents[1] / "captures" / "lab"
INDEX: list[dict[str, Any]] = tomllib.loads((LAB / "INDEX.toml").read_text())["capture"]

every_capture = pytest.mark.parametrize("entry", INDEX, ids=[entry["file"] for entry in INDEX])


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


def test_addresses_are_those_of_an_organisation_or_kept_for_documentation() -> None:
    known = [ip_network(text) for text in (
        "10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32",
    )]  # fmt: skip
    seen = {truth[side][0] for entry in INDEX for truth in entry["conversation"] for side in ("client", "server")}
    assert [text for text in seen if not any(ip_address(text) in network for network in known)] == []


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


def test_services_stay_off_while_packages_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a laboratory that was killed; a policy of the machine's own stays."""
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", policy)
    for found, left in (("", ""), (packages.NO, ""), ("#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 0\n")):
        if found:
            policy.write_text(found)
        with packages.no_services():
            assert policy.read_text() == (left or packages.NO)
        assert (policy.read_text() if policy.exists() else "") == left


# ---- the command -----------------------------------------------------------------------------------


def namespaces(owner: int) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name.startswith(f"exlab-{owner}-")]


def inside(folder: Path) -> list[int]:
    """Processes that run in a folder or below."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # others end while they are looked at
            if str(folder) in os.readlink(path):
                found.append(int(path.parent.name))
    return found


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
    bool(obstacle() or packages.missing()), reason=obstacle() or "not all servers are installed"
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
