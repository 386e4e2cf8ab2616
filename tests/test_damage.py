"""Inputs that are cut short or corrupt: what is whole is reported, and one line says where it ends."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

import classifier
from classifier.assembly import assemble
from classifier.cli import exflow
from classifier.sources import CaptureSet

pytestmark = pytest.mark.kernels

SHIPPED = Path(__file__).parents[1] / "captures"
PCAP = SHIPPED / "row-cas-to-mailbox.pcap"
PCAPNG = SHIPPED / "ticket-49734.pcapng"


def packets_whole(capture: bytes, cut: int) -> int:
    """Whole records in the first cut bytes of a little-endian pcap or pcapng."""
    whole, at = 0, 0
    if capture[:4] == b"\x0a\x0d\x0d\x0a":
        while at + 12 <= cut and at + (length := struct.unpack_from("<I", capture, at + 4)[0]) <= cut:
            whole += struct.unpack_from("<I", capture, at)[0] in (2, 3, 6)
            at += length
        return whole
    at = 24
    while at + 16 <= cut and at + 16 + (length := struct.unpack_from("<I", capture, at + 8)[0]) <= cut:
        whole, at = whole + 1, at + 16 + length
    return whole


def boundary(capture: bytes, cut: int) -> bool:
    """Whether the cut falls between two records, where nothing tells that more was to come."""
    return cut == len(capture) or packets_whole(capture, cut) > packets_whole(capture, cut - 1)


@pytest.mark.parametrize("path", [PCAP, PCAPNG], ids=lambda path: path.suffix)
def test_every_prefix_gives_what_is_whole(path: Path, tmp_path: Path) -> None:
    capture, cutter = path.read_bytes(), random.Random(1)
    for cut in sorted(cutter.randrange(len(capture)) for _ in range(100)):
        part = tmp_path / "part"
        part.write_bytes(capture[:cut])
        captures = CaptureSet.of([part])
        assert assemble(captures, jobs=1).packets == packets_whole(capture, cut), cut
        assert len(captures.damages) == (0 if cut >= 28 and boundary(capture, cut) else 1), cut
        for damage in captures.damages:
            assert damage.file == str(part)
            assert 0 <= damage.byte <= cut


def test_the_command_says_where_and_exits_with_one(tmp_path: Path) -> None:
    part = tmp_path / "part.pcap"
    part.write_bytes(PCAP.read_bytes()[:-5])
    done = CliRunner().invoke(exflow, ["classify", str(part)], standalone_mode=False)
    assert done.return_value == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "byte" in done.stderr
    assert "10.10.1.21" in done.stdout


def test_a_lying_length_does_not_hide_what_came_before(tmp_path: Path) -> None:
    capture = bytearray(PCAP.read_bytes())
    at = 24
    for _ in range(5):
        at += 16 + struct.unpack_from("<I", capture, at + 8)[0]
    struct.pack_into("<I", capture, at + 8, 0x7FFFFFFF)
    broken = tmp_path / "broken.pcap"
    broken.write_bytes(capture)
    result = classifier.classify(broken)
    assert result.counters["packets"] == 5
    assert [damage.byte for damage in result.damages] == [at]


def test_pcapng_goes_on_behind_a_block_with_wrong_lengths(tmp_path: Path) -> None:
    capture = bytearray(PCAPNG.read_bytes())
    at, blocks = 0, 0
    while blocks < 20:
        at += struct.unpack_from("<I", capture, at + 4)[0]
        blocks += 1
    struct.pack_into("<I", capture, at + 4, 13)
    broken = tmp_path / "broken.pcapng"
    broken.write_bytes(capture)
    whole, result = classifier.classify(PCAPNG), classifier.classify(broken)
    assert result.counters["packets"] == whole.counters["packets"] - 1
    assert [damage.byte for damage in result.damages] == [at]


def test_the_same_from_a_pipe_and_from_a_file() -> None:
    from_pipe = CliRunner().invoke(exflow, ["classify", "-", "--format", "jsonl"], input=PCAP.read_bytes())
    from_file = CliRunner().invoke(exflow, ["classify", str(PCAP), "--format", "jsonl"])
    assert from_pipe.stdout == from_file.stdout.replace(str(PCAP), "-")
