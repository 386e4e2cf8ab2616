"""Compressed captures are read as what is in them: every format, cut, joined, corrupt, and swollen without end.

What compresses is the library or the tool of each format, not the product.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import lz4.frame
import pytest
from backports import zstd
from click.testing import CliRunner
from formats import Dribble, enhanced, frame, interface, pcap, section
from hypothesis import given, settings
from hypothesis import strategies as st

import classifier
from classifier.cli import exflow
from classifier.errors import UsageError
from classifier.sources import CaptureSet, compressed
from classifier.sources.compressed import Decompressed, content_of
from classifier.sources.reading import Input

SHIPPED = Path(__file__).parents[1] / "captures"
TICKET = SHIPPED / "ticket-49734.pcapng"

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "lz4": lz4.frame.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
SKIPPED = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"a key"
"""A frame without output (RFC 8878 section 3.1.2), as pzstd writes them."""

formats = pytest.mark.parametrize("name", COMPRESS)


def content(data: bytes, sizes: Sequence[int] = (1 << 30,), room: Sequence[int] = (2**16,)) -> tuple[bytes, Input]:
    """What is in these bytes, asked for in pieces of those sizes."""
    opened, found, turn = content_of(Input(Dribble(data, sizes))), bytearray(), 0
    while True:
        piece = memoryview(bytearray(room[turn % len(room)]))
        got = opened.readinto(piece)
        if not got:
            return bytes(found), opened
        found += piece[:got]
        turn += 1


def packets(*names: Path) -> tuple[list[bytes], CaptureSet]:
    captures, found = CaptureSet.of(names), []
    for batch in captures.batches():
        offsets, sizes = (column[: batch.count].tolist() for column in batch.columns[:2])
        found += [batch.data[at : at + size].tobytes() for at, size in zip(offsets, sizes, strict=True)]
    return found, captures


def some_capture(count: int = 2000, tags: str = "pcap") -> bytes:
    """A capture that no format can do much about."""
    chance = random.Random(1)
    contents = [chance.randbytes(chance.randrange(20, 300)) for _ in range(count)]
    if tags == "pcap":
        return pcap([frame(number * 10**9, each) for number, each in enumerate(contents)])
    return section() + interface() + b"".join(enhanced(number, each) for number, each in enumerate(contents))


# ---- whole ones ------------------------------------------------------------------------------


@formats
@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.binary(max_size=300).map(lambda data: data * 50), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    room=st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
)
def test_members_in_any_pieces_are_one_content(
    name: str, members: list[bytes], sizes: list[int], room: list[int]
) -> None:
    found, opened = content(b"".join(map(COMPRESS[name], members)), sizes, room)
    assert isinstance(opened, Decompressed)
    assert (found, opened.failure) == (b"".join(members), "")


@formats
def test_what_is_not_compressed_is_left_alone(name: str) -> None:
    data = b"x" + COMPRESS[name](b"abc")
    found, opened = content(data, (1, 2))
    assert (found, type(opened)) == (data, Input)


@formats
@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_packets_and_progress_are_those_of_the_plain_capture(name: str, kind: str, tmp_path: Path) -> None:
    plain = some_capture(tags=kind)
    (tmp_path / "plain").write_bytes(plain)
    (tmp_path / "trace.log").write_bytes(COMPRESS[name](plain))
    found, captures = packets(tmp_path / "trace.log")
    assert found == packets(tmp_path / "plain")[0]
    assert captures.damages == []
    assert captures.bytes_read == captures.bytes_total == (tmp_path / "trace.log").stat().st_size


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_zeros_may_follow(name: str) -> None:
    one, two = COMPRESS[name](b"one"), COMPRESS[name](b"two")
    found, opened = content(one + bytes(8) + two + bytes(512), (7,))
    assert (found, opened.failure) == (b"onetwo", "")


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_frames_of_user_data_are_no_content(name: str) -> None:
    found, opened = content(COMPRESS[name](b"one") + SKIPPED + COMPRESS[name](b"two") + SKIPPED, (7,))
    assert (found, opened.failure) == (b"onetwo", "")


def test_zstd_may_begin_with_user_data() -> None:
    assert content(SKIPPED + zstd.compress(b"one"))[0] == b"one"


@pytest.mark.parametrize("tool", ["gzip", "zstd", "lz4", "xz", "bzip2", "pzstd"])
def test_what_the_tools_write(tool: str, tmp_path: Path) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    plain = some_capture()
    for option in ("-1", "-9"):
        written = subprocess.run([tool, option, "-c"], input=plain, capture_output=True, check=True).stdout
        assert content(written)[0] == plain


@formats
def test_a_compressed_capture_gives_the_labels_of_the_plain_one(name: str, tmp_path: Path) -> None:
    packed = tmp_path / "ticket"
    packed.write_bytes(COMPRESS[name](TICKET.read_bytes()))
    table = classifier.classify(packed).to_pandas().drop(columns=["file", "evidence", "resolved_by"])
    assert table.equals(classifier.classify(TICKET).to_pandas().drop(columns=["file", "evidence", "resolved_by"]))


def test_a_folder_stands_for_what_holds_captures(tmp_path: Path) -> None:
    for name, compress in COMPRESS.items():
        (tmp_path / f"trace.{name}").write_bytes(compress(pcap([frame(10**9, name.encode())])))
        (tmp_path / f"log.{name}").write_bytes(compress(b"some text, of no capture"))
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"")[:5])
    found, captures = packets(tmp_path)
    assert sorted(found) == sorted(name.encode() for name in COMPRESS)
    assert captures.damages == []
    for name in COMPRESS:
        (tmp_path / f"trace.{name}").unlink()
    with pytest.raises(UsageError, match="no capture in folder"):
        CaptureSet.of([tmp_path])


def test_compressed_and_plain_files_are_merged_by_time(tmp_path: Path) -> None:
    odd = pcap([frame(second * 10**9, b"%d" % second) for second in (1, 3, 5)])
    even = pcap([frame(second * 10**9, b"%d" % second) for second in (2, 4, 6)])
    (tmp_path / "a").write_bytes(zstd.compress(even))
    (tmp_path / "b").write_bytes(odd)
    found, captures = packets(tmp_path)
    assert found == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert captures.bytes_read == captures.bytes_total


def test_standard_input() -> None:
    command = [sys.executable, "-c", "from classifier.cli import main; main()", "endpoints", "-"]
    done = subprocess.run(command, input=gzip.compress(TICKET.read_bytes()), capture_output=True, check=True)
    assert b"49734" in done.stdout


# ---- damaged ones ------------------------------------------------------------------------------


@formats
@settings(max_examples=80, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True), sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=3))
def test_a_cut_gives_a_beginning_and_says_so(name: str, cut: float, sizes: list[int]) -> None:
    plain = some_capture(300)
    packed = COMPRESS[name](plain)
    part = packed[: max(int(cut * len(packed)), compressed.MAGIC_BYTES)]
    found, opened = content(part, sizes)
    assert plain.startswith(found)
    assert opened.failure == f"{name} data cut short"


@formats
def test_of_a_cut_capture_what_is_whole_is_read_and_one_line_says_where(name: str, tmp_path: Path) -> None:
    plain = some_capture(20_000)
    packed = tmp_path / "cut"
    packed.write_bytes(COMPRESS[name](plain)[: len(plain) // 2])
    (tmp_path / "plain").write_bytes(plain)
    whole, (found, captures) = packets(tmp_path / "plain")[0], packets(packed)
    assert 0.1 * len(whole) < len(found) < len(whole)
    assert found == whole[: len(found)]
    (damage,) = captures.damages
    assert damage.reason.startswith(f"{name} data cut short")
    assert sum(map(len, found)) < damage.byte < len(plain)
    done = CliRunner().invoke(exflow, ["classify", str(packed), "--format", "csv"], standalone_mode=False)
    assert (done.return_value, done.stderr) == (1, f"exflow: {damage}\n")


@formats
@settings(max_examples=80, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_raises(name: str, place: float, bit: int) -> None:
    packed = bytearray(COMPRESS[name](some_capture(100)))
    packed[int(place * len(packed))] ^= 1 << bit
    found, opened = content(bytes(packed))
    assert len(found) < 10 * len(packed)
    assert "\n" not in opened.failure


@formats
def test_what_comes_before_corrupt_bytes_is_kept(name: str) -> None:
    whole = some_capture(100)
    found, opened = content(COMPRESS[name](whole) + COMPRESS[name](whole)[:20] + bytes(4000))
    assert found.startswith(whole)
    assert opened.failure


@formats
def test_what_follows_and_is_none_of_it_is_told(name: str) -> None:
    for tail in (b"x", b"something else", pcap([])):
        found, opened = content(COMPRESS[name](b"one") + tail)
        assert (found, opened.failure) == (b"one", f"{name} data followed by something else")


@formats
def test_what_holds_no_capture_is_told_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    for inside, reason in ((b"hello", "not a capture: begins with 68 65 6c 6c"), (b"", "empty"),
                           (gzip.compress(b"x"), "not a capture: begins with 1f 8b 08 00")):  # fmt: skip
        path.write_bytes(COMPRESS[name](inside))
        found, captures = packets(path)
        assert (found, [damage.reason for damage in captures.damages]) == ([], [reason])
    path.write_bytes(COMPRESS[name](some_capture(10))[:8])
    assert [damage.reason for damage in packets(path)[1].damages] == [f"{name} data cut short"]


# ---- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zstd", "xz", "bzip2", "gzip"])
def test_a_bomb_is_given_up_counted_and_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_UNASKED_EXPANSION", 10**6)
    monkeypatch.setattr(compressed, "MAX_EXPANSION", 200)
    path, plain = tmp_path / "bomb", pcap([frame(10**9, b"first")]) + bytes(20_000_000)
    path.write_bytes(COMPRESS[name](plain))
    result = classifier.classify(path)
    (damage,) = result.damages
    assert f"{name} data swells more than 200 times, given up" in damage.reason
    assert result.counters["decompressions_beyond_limit"] == 1
    assert 10**6 <= result.counters["packets"] * 16 + 45 <= 201 * max(path.stat().st_size, 5000)
    done = CliRunner().invoke(exflow, ["classify", str(path), "--format", "csv"], standalone_mode=False)
    assert done.return_value == 1


def test_what_swells_and_ends_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """zeros up to the bound are none, nor is much content of much input."""
    monkeypatch.setattr(compressed, "MAX_UNASKED_EXPANSION", 10**6)
    assert content(zstd.compress(bytes(10**6)))[1].failure == ""
    monkeypatch.setattr(compressed, "MAX_UNASKED_EXPANSION", 0)
    assert content(zstd.compress(some_capture(100)))[1].failure == ""


def test_a_decompressor_takes_bounded_memory() -> None:
    window = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.enable_long_distance_matching: 1}
    stream = zstd.ZstdCompressor(options=window)
    found, opened = content(stream.compress(some_capture(100)) + stream.flush())
    assert (found, opened.failure.startswith("zstd data corrupt")) == (b"", True)
    assert "memory" in opened.failure or "window" in opened.failure.lower()
    large = lzma.compress(b"abc", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}])
    assert "xz data corrupt (Memory usage limit" in content(large)[1].failure
