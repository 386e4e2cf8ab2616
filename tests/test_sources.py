"""Captures in every format are read as written, whatever the buffers, pipes and neighbours in the capture set."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from formats import (
    Frame,
    block,
    enhanced,
    frame,
    interface,
    old_packet,
    pcap,
    read,
    section,
    simple,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.errors import UsageError
from classifier.limits import MAX_BLOCK, MAX_DAMAGES, MAX_PACKET, MAX_PACKET_BLOCK, READ_BLOCK
from classifier.pipeline import Settings, run
from classifier.sources import CaptureSet

pytestmark = pytest.mark.kernels

SECOND = 10**9
SHIPPED = Path(__file__).parents[1] / "captures"

FRAMES = [
    frame(1_700_000_000 * SECOND + 123_456_000, b"first"),
    frame(1_700_000_000 * SECOND + 123_457_000, b"second, cut", more=1000),
    frame(1_699_999_999 * SECOND, b""),
    frame(1_700_000_001 * SECOND, bytes(range(256)) * 8),
]

ORDERS = ("<", ">")


# ---- pcap ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("digits", "kuznetzov"), [(6, False), (9, False), (6, True)])
def test_pcap_of_every_magic(order: str, digits: int, kuznetzov: bool) -> None:
    assert read(pcap(FRAMES, order, digits, kuznetzov=kuznetzov)) == (FRAMES, [])


def test_nanoseconds_are_kept() -> None:
    exact = [frame(SECOND + 123_456_789, b"x")]
    assert read(pcap(exact, digits=9))[0] == exact


def test_pcap_link_type_without_its_flags() -> None:
    with_fcs = 1 | 0x4 << 28 | 0x0400_0000
    assert read(pcap(FRAMES, link=with_fcs))[0] == FRAMES


def test_a_wire_length_below_the_captured_one_is_not_believed() -> None:
    assert read(pcap([Frame(0, b"abc", 1)]))[0] == [Frame(0, b"abc", 3)]


def test_a_pcap_record_larger_than_any_packet_ends_the_reading() -> None:
    good, bad = frame(SECOND, b"good"), struct.pack("<IIII", 1, 0, MAX_PACKET + 1, MAX_PACKET + 1)
    found, (damage,) = read(pcap([good]) + bad + bytes(100))
    assert (found, damage.byte) == ([good], 24 + 16 + 4)
    assert "frame 2" in damage.reason


# ---- pcapng ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_pcapng_blocks_of_every_kind(order: str) -> None:
    data = section(order) + interface(order) + block(5, b"statistics", order) + interface(order, link=101)
    data += enhanced(5_000_000, b"enhanced", 0, 7, order) + block(0x0ABC, b"unknown to all", order)
    data += old_packet(6_000_000, b"old", 1, 3, order) + simple(b"simple", 0, order) + block(4, b"", order)
    assert read(data) == (
        [frame(5 * SECOND, b"enhanced", 7), frame(6 * SECOND, b"old", 3, 101), frame(6 * SECOND, b"simple")],
        [],
    )


def test_sections_have_their_own_byte_order_and_interfaces() -> None:
    one = section(">") + interface(">", link=101) + enhanced(1, b"big", order=">")
    two = section("<") + interface("<", link=113) + enhanced(2, b"little", order="<")
    assert read(one + two + one) == (
        [frame(1000, b"big", link=101), frame(2000, b"little", link=113), frame(1000, b"big", link=101)],
        [],
    )


@pytest.mark.parametrize("kind", [9, 0xBAD, 0x40000BAD, 0x204, 0x216, 0x221])
def test_what_wireshark_numbers_as_a_frame_has_a_number(kind: int) -> None:
    data = section() + interface() + enhanced(5, b"1") + block(kind, bytes(40)) + enhanced(6, b"3")
    assert read(data) == ([frame(5000, b"1"), frame(5000, b""), frame(6000, b"3")], [])


@given(
    resolution=st.sampled_from([0, 3, 6, 7, 9, 12, 18, 0x80, 0x8A, 0x94, 0xA0, 0xA2, 0xB0, 0xBC]),
    instant=st.fractions(0, 2_000_000_000),
    offset=st.sampled_from([None, 0, 1, -3600, 1_000_000_000]),
)
@settings(max_examples=150, deadline=None)
def test_time_stamps_of_every_resolution(resolution: int, instant: Fraction, offset: int | None) -> None:
    unit = Fraction(1, 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution)
    units = min(int(instant / unit), 2**64 - 1)
    expected = int(units * unit * SECOND) + (offset or 0) * SECOND
    data = section() + interface(resolution=resolution, offset=offset) + enhanced(units, b"x")
    (found,), damages = read(data)
    assert not damages
    assert abs(found.time - expected) <= (resolution > 0xA2)  # beyond 2^-34 s, 64 bits leave one nanosecond open


def test_simple_packets_are_cut_at_the_snap_length_of_the_first_interface() -> None:
    data = section() + interface(snaplen=8) + interface(snaplen=2)
    data += block(3, struct.pack("<I", 20) + b"12345678")
    assert read(data) == ([frame(0, b"12345678", 12)], [])


def test_options_of_a_packet_are_no_part_of_it() -> None:
    data = section() + interface() + enhanced(1, b"abc", options=struct.pack("<HHI", 2, 4, 1) + bytes(4))
    assert read(data) == ([frame(1000, b"abc")], [])


@pytest.mark.parametrize("capacity", [64, 2**21])
def test_a_long_block_without_packets_is_stepped_over(capacity: int) -> None:
    long = block(10, bytes(MAX_PACKET_BLOCK + 1000))
    data = section() + interface() + enhanced(1, b"before") + long + enhanced(2, b"behind")
    assert read(data, capacity) == ([frame(1000, b"before"), frame(2000, b"behind")], [])


def test_what_was_handed_out_stays_while_much_is_stepped_over(tmp_path: Path) -> None:
    data = section() + interface() + enhanced(1, b"before") + block(10, bytes(MAX_BLOCK - 12)) + enhanced(2, b"behind")
    (tmp_path / "long").write_bytes(data)
    batches = CaptureSet.of([tmp_path / "long"]).batches()
    before, _ = next(batches), next(batches)
    start = int(before.columns.offset[0])
    assert before.data[start : start + 6].tobytes() == b"before"


def test_the_largest_packet_is_read_with_the_smallest_buffer() -> None:
    large = bytes(MAX_PACKET)
    assert read(section() + interface() + enhanced(1, large), 64) == ([frame(1000, large)], [])
    assert read(pcap([frame(0, large)]), 64) == ([frame(0, large)], [])


def _length(data: bytes, value: int, at: int = 4) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


NONSENSE = {
    "length zero": _length(enhanced(2, b"lost"), 0),
    "length below twelve": _length(enhanced(2, b"lost"), 8),
    "length beyond belief": _length(enhanced(2, b"lost"), 0x7FFFFFFF),
    "a packet beyond belief": _length(enhanced(2, b"lost"), MAX_PACKET_BLOCK + 4),
    "second length differs": enhanced(2, b"lost")[:-4] + struct.pack("<I", 44),
    "captured length beyond the block": _length(enhanced(2, b"lost"), 400, 20),
    "an interface never described": enhanced(2, b"lost", number=9),
    "a packet block without room for its header": block(6, bytes(12)),
    "a simple packet block without its length": block(3, b""),
    "a section header without its byte order": block(0x0A0D0D0A, bytes(16)),
    "an interface description too short": block(1, b"\1\0\0\0"),
}


@pytest.mark.parametrize("what", NONSENSE)
@pytest.mark.parametrize("capacity", [64, 2**21])
def test_reading_goes_on_behind_nonsense(what: str, capacity: int) -> None:
    data = section() + interface() + enhanced(1, b"before")
    place, data = len(data), data + NONSENSE[what] + enhanced(3, b"behind")
    found, damages = read(data, capacity)
    assert found == [frame(1000, b"before"), frame(3000, b"behind")]
    assert [damage.byte for damage in damages] == [place]


def test_reading_goes_on_in_a_section_of_the_other_byte_order() -> None:
    data = section() + interface() + _length(enhanced(1, b"lost"), 0)
    found, damages = read(data + section(">") + interface(">") + enhanced(2, b"behind", order=">"))
    assert (found, len(damages)) == ([frame(2000, b"behind")], 1)


def test_damage_is_listed_up_to_a_bound() -> None:
    data = section() + interface() + enhanced(1, b"lost", number=9) * 5000 + enhanced(2, b"behind")
    found, damages = read(data)
    assert (found, len(damages)) == ([frame(2000, b"behind")], MAX_DAMAGES)
    assert "not listed" in damages[-1].reason


def test_many_small_sections_cost_no_more_than_their_bytes() -> None:
    data = (section() + interface() + enhanced(1, b"x")) * 20_000
    before = time.process_time()
    found, damages = read(data, 2**21)
    assert (len(found), damages) == (20_000, [])
    assert time.process_time() - before < 5


# ---- whatever the buffers ----------------------------------------------------------------

contents = st.binary(max_size=90)
times = st.integers(0, 2**32 - 1).map(lambda seconds: seconds * SECOND)
some_frames = st.lists(st.builds(frame, times, contents, st.integers(0, 2000)), max_size=25)
pieces = st.lists(st.integers(1, 70), min_size=1, max_size=8)


@given(frames=some_frames, order=st.sampled_from(ORDERS), capacity=st.integers(24, 400), sizes=pieces)
@settings(max_examples=150, deadline=None)
def test_pcap_in_any_pieces(frames: list[Frame], order: str, capacity: int, sizes: list[int]) -> None:
    assert read(pcap(frames, order), capacity, sizes) == (frames, [])


@st.composite
def pcapng_files(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """A pcapng file of several sections and the frames in it."""
    data, frames = b"", []
    for _ in range(draw(st.integers(1, 3))):
        order, links = draw(st.sampled_from(ORDERS)), draw(st.lists(st.sampled_from([1, 101, 113]), min_size=1))
        data += section(order) + b"".join(interface(order, link) for link in links)
        for content in draw(st.lists(contents, max_size=10)):
            number, more = draw(st.integers(0, len(links) - 1)), draw(st.integers(0, 99))
            units = draw(st.integers(0, 2**50))
            write = draw(st.sampled_from([enhanced, old_packet]))
            data += write(units, content, number, more, order)
            frames.append(frame(units * 1000, content, more, links[number]))
            data += draw(st.sampled_from([b"", block(0x5555, content, order), block(4, b"", order)]))
    return data, frames


@given(file=pcapng_files(), capacity=st.integers(24, 400), sizes=pieces)
@settings(max_examples=150, deadline=None)
def test_pcapng_in_any_pieces(file: tuple[bytes, list[Frame]], capacity: int, sizes: list[int]) -> None:
    assert read(file[0], capacity, sizes) == (file[1], [])


@given(data=st.binary(max_size=600), capacity=st.integers(24, 400), magic=st.sampled_from(["pcap", "section"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_in_any_buffers_are_read_alike(data: bytes, capacity: int, magic: str) -> None:
    data = (pcap([]) if magic == "pcap" else section() + interface()) + data
    assert read(data, capacity) == read(data, 2**20)


# ---- capture sets --------------------------------------------------------------------------


def bytes_in_order(inputs: list[Path]) -> list[tuple[str, int, bytes]]:
    """(file, frame number, contents) of a capture set in the order it is read."""
    captures, found = CaptureSet.of(inputs), []
    for batch in captures.batches():
        for row in range(batch.count):
            offset, captured = int(batch.columns.offset[row]), int(batch.columns.captured[row])
            ordinal = int(batch.columns.frame[row])
            name, number = captures.frames.file(ordinal), captures.frames.number(ordinal)
            found.append((Path(name).name, number, batch.data[offset : offset + captured].tobytes()))
    return found


def write(path: Path, *seconds: float) -> Path:
    path.write_bytes(pcap([frame(int(second * SECOND), f"{second}".encode()) for second in seconds]))
    return path


def test_files_follow_one_another_in_time_whatever_their_names_and_order(tmp_path: Path) -> None:
    late, early = write(tmp_path / "a", 30, 31), write(tmp_path / "b", 10, 11)
    expected = [("b", 1, b"10"), ("b", 2, b"11"), ("a", 1, b"30"), ("a", 2, b"31")]
    assert bytes_in_order([late, early]) == bytes_in_order([early, late]) == bytes_in_order([tmp_path]) == expected


def test_files_that_overlap_are_merged_by_time(tmp_path: Path) -> None:
    one, two, three = write(tmp_path / "1", 1, 4, 5, 9), write(tmp_path / "2", 2, 3, 6, 20), write(tmp_path / "3", 5.5)
    merged = [contents.decode() for *_, contents in bytes_in_order([one, two, three])]
    assert merged == ["1", "2", "3", "4", "5", "5.5", "6", "9", "20"]


def test_a_clock_that_runs_back_leaves_the_order_of_its_file_alone(tmp_path: Path) -> None:
    odd, even = write(tmp_path / "1", 1, 7, 3, 9), write(tmp_path / "2", 2, 8)
    found = bytes_in_order([odd, even])
    assert [contents for name, _, contents in found if name == "1"] == [b"1", b"7", b"3", b"9"]
    assert [number for name, number, _ in found if name == "1"] == [1, 2, 3, 4]


def test_a_first_packet_longer_than_a_peek_is_no_reason_to_come_late(tmp_path: Path) -> None:
    large = section() + interface() + enhanced(1_000_000, bytes(MAX_PACKET)) + enhanced(9_000_000, b"end")
    (tmp_path / "large").write_bytes(large)
    write(tmp_path / "small", 5)
    assert [name for name, *_ in bytes_in_order([tmp_path])] == ["large", "small", "large"]


def test_a_set_names_each_file_once_and_empty_ones_too(tmp_path: Path) -> None:
    one, none = write(tmp_path / "1", 1), write(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no capture")
    assert CaptureSet.of([one, one, tmp_path]).names == [str(one), str(none)]
    assert bytes_in_order([tmp_path]) == [("1", 1, b"1")]


def test_what_can_not_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "empty folder").mkdir()
    one = write(tmp_path / "1", 1)
    for wrong in ([], [tmp_path / "empty folder"], [tmp_path / "missing"], ["-", one]):
        with pytest.raises(UsageError):
            CaptureSet.of(wrong)


def test_what_is_no_capture_is_damage(tmp_path: Path) -> None:
    for name, contents in (("empty", b""), ("short", b"\xa1\xb2"), ("text", b"hello, world")):
        (tmp_path / name).write_bytes(contents)
        captures = CaptureSet.of([tmp_path / name])
        assert list(captures.batches()) == []
        assert [(Path(damage.file).name, damage.byte) for damage in captures.damages] == [(name, 0)]


def test_progress_ends_where_the_bytes_end(tmp_path: Path) -> None:
    files, seen = [write(tmp_path / "1", 1, 3), write(tmp_path / "2", 2)], []
    captures = CaptureSet.of(files)
    for _ in captures.batches(lambda done, total: seen.append((done, total))):
        pass
    total = sum(file.stat().st_size for file in files)
    assert captures.bytes_read == captures.bytes_total == total
    assert seen[-1][1] == total
    assert sorted(seen) == seen


@pytest.mark.parametrize(
    "capture",
    [pcap([]) + bytes(16 * 400_000), section() + interface() + simple(b"") * 400_000],
    ids=["pcap", "pcapng"],
)
def test_packets_smaller_than_any_real_one_take_no_more_memory(capture: bytes, tmp_path: Path) -> None:
    """A buffer holds more of them than a batch: the rest waits, and is not carried into a larger buffer."""
    count, largest = 0, 0
    (tmp_path / "small").write_bytes(capture)
    for batch in CaptureSet.of([tmp_path / "small"]).batches():
        count += batch.count
        largest = max(largest, len(batch.data))
    assert (count, largest) == (400_000, READ_BLOCK)


# ---- the whole way ---------------------------------------------------------------------------


COMMAND = [sys.executable, "-c", "from classifier.cli import main; main()", "classify", "--format", "jsonl"]


def test_standard_input_by_a_few_bytes_at_a_time() -> None:
    capture = SHIPPED / "ticket-49734.pcapng"
    whole = subprocess.run([*COMMAND, str(capture)], capture_output=True, check=True).stdout
    with subprocess.Popen([*COMMAND, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        data, size = capture.read_bytes(), 1
        while data:
            os.write(process.stdin.fileno(), data[:size])
            data, size = data[size:], size * 7 % 4099
        out, _ = process.communicate()
    assert process.returncode == 0
    assert whole.count(str(capture).encode()) > 1
    assert out.replace(b"'-", b"-") == whole.replace(str(capture).encode(), b"-")


@pytest.mark.parametrize("names", [["ticket-49734.pcapng"], ["row-e2003-is.pcap", "format-ipv4-fragments.pcap"]])
def test_jobs_change_nothing(names: list[str]) -> None:
    inputs = [SHIPPED / name for name in names]
    one, two = (run(inputs, Settings(jobs=jobs)) for jobs in (1, 2))
    assert len(one)
    assert [talk.to_dict() for talk in one] == [talk.to_dict() for talk in two]
