"""Captures in formats of others: written by editcap, read by exflow as the original; and what is no capture."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import classifier
from classifier import cli, tools
from classifier.errors import MissingToolError, UsageError
from classifier.excerpt import Excerpt
from classifier.sources import converted

CAPTURES = Path(__file__).parents[1] / "captures"
TICKET = CAPTURES / "ticket-49734.pcapng"
FORMATS = ("netmon1", "netmon2", "snoop", "ngsniffer", "5views", "visual")
pytestmark = pytest.mark.skipif(
    not (shutil.which("editcap") and shutil.which("captype")), reason="EDITCAP MISSING: nothing is converted"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ticket as one classic pcap of microseconds, which every format can hold."""
    path = tmp_path_factory.mktemp("plain") / "plain.pcap"
    subprocess.run(["editcap", "-F", "pcap", "-T", "ether", str(TICKET), str(path)], check=True)
    return path


def written(form: str, source: Path, folder: Path) -> Path:
    path = folder / f"capture.{form}"
    subprocess.run(["editcap", "-F", form, str(source), str(path)], check=True)
    told = subprocess.run(["captype", str(path)], capture_output=True, text=True, check=True).stdout
    assert told.endswith(f": {form}\n")
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_it_is_read_as_the_original(form: str, plain: Path, tmp_path: Path) -> None:
    ours, original = (
        classifier.classify(path, inventory=TICKET.with_suffix(".inventory.toml"), jobs=1)
        for path in (written(form, plain, tmp_path), plain)
    )
    assert ours.damages == ()
    assert len(ours) == 25
    columns = ["first_frame", "last_frame", "community_id", "data_paths", "certainty", "packets_to_server"]
    assert ours.to_pandas()[columns].equals(original.to_pandas()[columns])
    away = (ours.to_pandas().start - original.to_pandas().start).abs().dt.total_seconds()
    assert away.max() < 0.001


def test_erf_has_no_magic_and_is_read(plain: Path, tmp_path: Path) -> None:
    """ERF records by hand (Endace's format): time as 32.32 fixed point, type 2 (Ethernet), two bytes of padding."""
    path = tmp_path / "capture.erf"
    result = classifier.classify(plain, jobs=1)
    records = []
    for packet in Excerpt.of(result, [each.id for each in result]).packets():
        seconds, rest = divmod(packet.time, 10**9)
        size = 18 + len(packet.data)
        stamp = (seconds << 32) | (rest << 32) // 10**9
        padded = packet.data + bytes(-size % 8)
        records.append(struct.pack("<Q", stamp) + struct.pack(">BBHHH", 2, 4, size + -size % 8, 0, packet.wire)
                       + bytes(2) + padded)  # fmt: skip
    path.write_bytes(b"".join(records))
    again = classifier.classify(path, jobs=1)
    assert again.damages == ()
    assert again.to_pandas().data_paths.tolist() == result.to_pandas().data_paths.tolist()


def test_in_folders_and_for_extracts_too(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    written("netmon2", plain, folder)
    (folder / "notes.txt").write_text("no capture")
    result = classifier.classify(folder, jobs=1)
    assert len(result) == 25
    assert result.damages == ()
    assert len(result[25].packets()) == result[25].packets_to_server + result[25].packets_to_client


def test_what_is_no_capture_is_not_converted(tmp_path: Path) -> None:
    """Wireshark takes JSON, and many a text, for a capture."""
    readme = b"# exflow\n\nSomeone hands you a packet capture"
    for name, content in (("a.json", b'{"a": 1}'), ("readme.md", readme), ("x", bytes(range(256)))):
        path = tmp_path / name
        path.write_bytes(content)
        result = classifier.classify(path, jobs=1)
        assert [damage.reason.partition(":")[0] for damage in result.damages] == ["not a capture"]


def test_one_that_is_cut_short_is_told(plain: Path, tmp_path: Path) -> None:
    path = written("snoop", plain, tmp_path)
    path.write_bytes(path.read_bytes()[:20_000])
    result = classifier.classify(path, jobs=1)
    assert 0 < len(result) < 25
    assert "converted from snoop in part" in result.damages[0].reason


def test_without_the_tools_it_says_which(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("netmon2", plain, tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = CliRunner().invoke(cli.exflow, ["classify", str(path), "--jobs", "1"], standalone_mode=False)
    assert done.return_value == 1
    assert "captype is not installed; packages that have it are called wireshark-common" in done.stderr


def test_a_tool_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "TOOL_SECONDS", 0.3)
    monkeypatch.setattr(tools, "find", lambda tool: shutil.which("sleep"))
    with pytest.raises(UsageError, match="took more than"):
        tools.run("tshark", "30")


def test_a_tool_that_fails_is_quoted() -> None:
    with pytest.raises(UsageError, match="tshark refused"):
        tools.run("tshark", "-r", "/nowhere")
    with pytest.raises(UsageError, match="nowhere"), converted.as_pcapng("/nowhere", "snoop") as stream:
        stream.read()


def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match="editcap is not installed"):
        tools.find("editcap")
