"""Extracts: their frames, comments and names as tshark reads them, and the frames of conversations against tshark."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from shipped import result_of

import classifier
from captures.makers.hostile import SCRIPT
from classifier import blocks, cli, limits
from classifier.errors import UsageError
from classifier.excerpt import Excerpt
from classifier.extraction import write
from classifier.result import Result

CAPTURES = Path(__file__).parents[1] / "captures"
TICKET = CAPTURES / "ticket-49734.pcapng"

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="TSHARK MISSING: extracts are not read back")


def tshark(path: Path, *arguments: str) -> str:
    command = ["tshark", "-r", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def fields(path: Path, *names: str, arguments: tuple[str, ...] = ()) -> list[list[str]]:
    asked = [word for name in names for word in ("-e", name)]
    out = tshark(path, "-T", "fields", "-E", "aggregator=\t", "-E", "separator=|", *asked, *arguments)
    return [line.split("|") for line in out.splitlines()]


@pytest.fixture(scope="module")
def ticket() -> Result:
    return classifier.classify(TICKET, inventory=TICKET.with_suffix(".inventory.toml"), jobs=1)


@pytest.fixture(scope="module")
def extract(ticket: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversation 25, the ticket."""
    path = tmp_path_factory.mktemp("extract") / "out.pcapng"
    with path.open("wb") as file:
        write(ticket, [25], file)
    return path


# ---- which frames ----------------------------------------------------------------------------------


@needs_tshark
@pytest.mark.parametrize(
    "name",
    ["ticket-49734.pcapng", "rpc-port-reused.pcap", "format-qinq.pcap", "format-pcapng-everything.pcapng",
     "format-ipv4-fragments.pcap", "format-ipv4-fragments-reversed.pcap", "rpc-ipv6.pcap", "rpc-udp-mapper.pcap"],
)  # fmt: skip
def test_frames_of_a_conversation_are_those_of_tsharks_stream(name: str) -> None:
    result = classifier.classify(CAPTURES / name, jobs=1)
    ours: dict[int, list[int]] = defaultdict(list)
    for packet in Excerpt.of(result, [each.id for each in result]).packets():
        ours[packet.conversation].append(packet.number)
    theirs: dict[str, list[int]] = defaultdict(list)
    read = fields(CAPTURES / name, "frame.number", "tcp.stream", "udp.stream", "ip.reassembled_in", arguments=("-2",))
    stream_of = {frame: tcp or f"udp {udp}" for frame, tcp, udp, _ in read if tcp or udp}
    for frame, _, _, whole in read:
        stream = stream_of.get(whole or frame, "")
        if stream:
            theirs[stream].append(int(frame))
    assert sorted(map(sorted, ours.values())) == sorted(theirs.values())


def test_what_can_not_be_read_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gone.pcap"
    shutil.copy(CAPTURES / "rpc-nat.pcap", path)
    result = classifier.classify(path, jobs=1)
    shutil.copy(CAPTURES / "rpc-ipv6.pcap", path)
    with pytest.raises(UsageError, match=r"conversation 1 is not in .*gone\.pcap any more"):
        Excerpt.of(result, [1])
    path.unlink()
    with pytest.raises(UsageError, match="no such file"):
        Excerpt.of(result, [1])
    result.inputs = ("-",)
    with pytest.raises(UsageError, match="standard input"):
        Excerpt.of(result, [1])


# ---- what is written --------------------------------------------------------------------------------


@needs_tshark
def test_tshark_reads_frames_comments_and_names(ticket: Result, extract: Path) -> None:
    rows = fields(extract, "frame.time_epoch", "frame.len", "ip.src_host", "frame.comment", arguments=("-N", "n"))
    assert len(rows) == 14 + ticket[25].packets_to_server + ticket[25].packets_to_client
    original = {tuple(row) for row in fields(TICKET, "frame.time_epoch", "frame.len")}
    assert {(time, size) for time, size, *_ in rows} <= original
    assert {name for _, _, name, _ in rows} == {"cas1.example.test(client-access)", "mbx1.example.test(mailbox)"}
    said = [comment for *_, comments in rows for comment in comments.split("\t") if comment]
    assert any(text.startswith("exflow 25: cas-to-mailbox (certain)") for text in said)
    evidence = [fact for fact in ticket[25].evidence if fact["frame"]]
    assert evidence
    for fact in evidence:
        assert any(f"{fact['field']} = {fact['value']} (frame {fact['frame']} " in text for text in said)
    assert len(said) == len(set(said))


@needs_tshark
def test_the_announcement_comes_along_with_its_comment(ticket: Result, extract: Path) -> None:
    [[_, comments]] = fields(
        extract, "epm.proto.tcp_port", "frame.comment", arguments=("-Y", "epm.proto.tcp_port==49734")
    )
    assert "announcement: ept_map = emsmdb" in comments
    assert {row[0] for row in fields(extract, "tcp.dstport")} >= {"135", "49734"}


@needs_tshark
def test_capinfos_finds_no_error(ticket: Result, extract: Path, tmp_path: Path) -> None:
    everything = tmp_path / "all.pcapng"
    with everything.open("wb") as file:
        write(ticket, [each.id for each in ticket], file)
    for path in (extract, everything):
        done = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, "nanoseconds (9)" in done.stdout) == (0, True)
        assert "cut short" not in done.stderr + done.stdout
    assert classifier.classify(everything, jobs=1).damages == ()


def test_an_extract_of_all_is_labelled_as_the_capture(ticket: Result, tmp_path: Path) -> None:
    path = tmp_path / "all.pcapng"
    with path.open("wb") as file:
        write(ticket, [each.id for each in ticket], file)
    again = classifier.classify(path, inventory=TICKET.with_suffix(".inventory.toml"), jobs=1)
    for name in ("id", "start", "end", "data_paths", "certainty", "server_port", "packets_to_server"):
        assert again.to_pandas()[name].tolist() == ticket.to_pandas()[name].tolist()


@needs_tshark
def test_every_capture_and_interface_has_its_own(tmp_path: Path) -> None:
    names = ["format-link-sll.pcap", "format-pcapng-everything.pcapng", "format-pcap-nanoseconds.pcap"]
    result = classifier.classify(*(CAPTURES / name for name in names), jobs=1)
    path = tmp_path / "set.pcapng"
    with path.open("wb") as file:
        frames = write(result, [each.id for each in result], file)
    described = {row[0] for row in fields(path, "frame.interface_description")}
    assert {Path(each).name for each in described} == set(names)
    original = [row for name in names for row in fields(CAPTURES / name, "frame.time_epoch", "frame.len", "tcp.port")]
    copied = fields(path, "frame.time_epoch", "frame.len", "tcp.port")
    assert frames == len(copied)
    assert {tuple(row) for row in copied} <= {tuple(row) for row in original}


@needs_tshark
def test_hostile_strings_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    result = result_of("hostile-strings")
    out = tmp_path / "out.pcapng"
    with out.open("wb") as file:
        write(result, [each.id for each in result], file)
    packets = json.loads(tshark(out, "-T", "json", "-e", "frame.comment", "-e", "ip.src_host", "-N", "n"))
    comments = [text for each in packets for text in each["_source"]["layers"].get("frame.comment", [])]
    names = {each["_source"]["layers"]["ip.src_host"][0] for each in packets}
    assert any(SCRIPT in text for text in comments)
    assert all(text.isprintable() for text in [*comments, *names])
    assert all(len(text.encode()) <= limits.COMMENT_LENGTH for text in comments)
    assert any(name.startswith("=cmd()\\x1b[31m") for name in names)
    assert subprocess.run(["capinfos", str(out)], capture_output=True, check=False).returncode == 0


@needs_tshark
def test_names_of_both_families_and_no_comment_at_all(tmp_path: Path) -> None:
    path = tmp_path / "few.pcapng"
    known = [("10.0.0.1", "one"), ("2001:db8::1", "caf\u00e9")]
    frame = bytes(12) + b"\x08\x00" + bytes(33)
    parts = [
        blocks.section(),
        blocks.names(known),
        blocks.interface(1, 6),
        blocks.packet(0, 1_700_000_000_000_001, frame, 60),
    ]
    path.write_bytes(b"".join(parts))
    assert fields(path, "frame.time_epoch", "frame.len", "frame.cap_len") == [["1700000000.000001000", "60", "47"]]
    told = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout
    assert "resolved IPv4 addresses in file: 1" in told
    assert "resolved IPv6 addresses in file: 1" in told


# ---- the command -------------------------------------------------------------------------------------


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.exflow, ["extract", *map(str, arguments)], standalone_mode=False)


def known(*arguments: Any) -> Any:
    return run(TICKET, "--inventory", TICKET.with_suffix(".inventory.toml"), *arguments)


@pytest.mark.parametrize(
    ("choice", "conversations"),
    [
        (["--conversation", "25"], 1),
        (["--conversation", "25", "--conversation", "4"], 2),
        (["--data-path", "cas-to-mailbox", "--certainty", "certain"], None),
        (["--role", "outlook", "--host", "10.10.1.31", "--port", "6005"], None),
        (["--interface", "emsmdb", "--since", "2010-11-10T11:00", "--until", "2010-11-10T12:00"], None),
        ([], 25),
    ],
    ids=str,
)
def test_the_command_writes_what_was_chosen(
    ticket: Result, tmp_path: Path, choice: list[str], conversations: int
) -> None:
    out = tmp_path / "out.pcapng"
    done = known("-o", out, *choice)
    assert done.return_value == 0, done
    assert done.stdout == ""
    again = classifier.classify(out, jobs=1)
    assert len(again) >= (conversations or 1)
    assert f"{sum(again.to_pandas()[['packets_to_server', 'packets_to_client']].sum())} frames" in done.stderr


def test_stdout_takes_an_extract_too() -> None:
    done = known("-o", "-", "--conversation", "25")
    assert done.stdout_bytes[:4] == b"\x0a\x0d\x0d\x0a"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--conversation", "99"], "none of 25 conversations is meant"),
        (["--host", "nowhere"], "no host of that name"),
        (["--since", "yesterday"], "is no time"),
        (["-o", TICKET], "would be overwritten"),
        (["-o", "/nowhere/out.pcapng"], "its folder does not exist"),
    ],
    ids=str,
)
def test_wrong_usage_writes_nothing(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    out = tmp_path / "out.pcapng"
    done = known("-o", out, *arguments)
    assert complaint in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_refused_before_it_is_read(tmp_path: Path) -> None:
    assert "second time" in str(run("-", "-o", tmp_path / "out.pcapng").exception)
