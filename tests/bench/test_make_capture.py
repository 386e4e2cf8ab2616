"""The benchmark's captures are what their maker says: deterministic, whole, and every handed-out port is used."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import classifier

ROOT = Path(__file__).resolve().parents[2]


def make(path: Path, *options: str) -> dict[str, object]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.make_capture", "-o", str(path), *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    facts: dict[str, object] = json.loads(path.with_suffix(".json").read_text())
    return facts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    path = tmp_path_factory.mktemp("bench") / "small.pcap"
    return path, make(path, "--packets", "20000", "--conversations", "1000")


def test_same_options_same_bytes(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    again = tmp_path / "again.pcap"
    make(again, "--packets", "20000", "--conversations", "1000")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(made[0].read_bytes()).digest()


def test_size_is_as_asked(made: tuple[Path, dict[str, object]]) -> None:
    path, facts = made
    assert facts["packets"] == 20_000
    assert 430 < path.stat().st_size / 20_000 - 16 < 510


def test_taps_share_the_packets(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    path, facts = made
    make(tmp_path / "tap.pcap", "--packets", "20000", "--conversations", "1000", "--taps", "3")
    captures = sorted(tmp_path.glob("tap-?.pcap"))
    assert sum(capture.stat().st_size - 24 for capture in captures) == path.stat().st_size - 24
    assert len(captures) == 3
    both = classifier.classify(*captures), classifier.classify(path)
    one, other = (sorted((talk.community_id, talk.bytes_to_server, talk.protocol) for talk in each) for each in both)
    assert len(one) == facts["conversations"]
    assert one == other


def test_everything_in_it_is_found(made: tuple[Path, dict[str, object]]) -> None:
    path, facts = made
    kinds = facts["kinds"]
    assert isinstance(kinds, dict)
    found = list(classifier.classify(path))
    assert len(found) == facts["conversations"]
    assert sum(talk.protocol == "epm" for talk in found) == kinds["epm"]
    assert sum(talk.protocol == "tls" for talk in found) == kinds["tls"]
    assert sum(talk.missed_bytes for talk in found) == 0
    calls = [talk for talk in found if talk.protocol == "dcerpc"]
    assert len(calls) == kinds["rpc"]
    assert all(talk.resolved_by["kind"] == "ept_map" for talk in calls)
