"""The command: what goes to stdout and to stderr, its statuses, and that no traceback reaches anybody."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import samples
from click.testing import CliRunner, Result

from classifier import cli
from classifier.cli import common
from classifier.errors import Damage, UsageError
from classifier.fields import NAMES

EXFLOW = [sys.executable, "-c", "import sys; sys.argv[0] = 'exflow'; from classifier.cli import main; main()"]


def record(frame: bytes, second: int = 0) -> bytes:
    return struct.pack("<IIII", second, 0, len(frame), len(frame)) + frame


def datagram(port: int) -> bytes:
    """An Ethernet frame with an empty UDP datagram over IPv4."""
    udp = struct.pack(">HHHH", 40_000, port, 8, 0)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    return bytes(12) + b"\x08\x00" + ip + udp


def capture(conversations: int) -> bytes:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    return header + b"".join(record(datagram(1000 + number), number) for number in range(conversations))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.pcap"
    path.write_bytes(capture(3))
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in this process over a result made by hand."""
    monkeypatch.setattr(common, "read", lambda captures, settings: samples.result(5))
    return lambda *arguments: CliRunner().invoke(cli.exflow, list(arguments), standalone_mode=False)


def exflow(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*EXFLOW, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


# ---- what is written, and where ---------------------------------------------------------


def test_results_go_to_stdout_and_complaints_to_stderr(run: Callable[..., Result], trace: Path) -> None:
    done = run("classify", str(trace), "--format", "jsonl")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2, 3, 4, 5]
    assert done.stderr == "exflow: trace.pcapng: byte 4711: record cut short: 40 bytes of 60\n"
    assert done.return_value == 1


@pytest.mark.parametrize(
    ("suffix", "read"),
    [
        (".jsonl", lambda data: list(json.loads(data.splitlines()[0]))),
        (".json", lambda data: list(json.loads(data.splitlines()[0]))),
        (".csv", lambda data: next(csv.reader(io.StringIO(data.decode())))),
        (".parquet", lambda data: pq.read_schema(io.BytesIO(data)).names),
        (".txt", lambda data: list(NAMES) if data.startswith(b"ID ") else []),
    ],
)
def test_the_suffix_decides_the_format(
    run: Callable[..., Result], trace: Path, tmp_path: Path, suffix: str, read: Callable[[bytes], list[str]]
) -> None:
    out = tmp_path / f"out{suffix}"
    done = run("classify", str(trace), "-o", str(out))
    assert done.stdout == ""
    assert read(out.read_bytes()) == list(NAMES)


def test_the_format_option_outweighs_the_suffix(run: Callable[..., Result], trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    run("classify", str(trace), "-o", str(out), "--format", "jsonl")
    assert len(out.read_text().splitlines()) == 5


def test_endpoints_hosts_and_explanations(run: Callable[..., Result], trace: Path) -> None:
    assert "10.0.0.9 tcp/49734" in run("endpoints", str(trace)).stdout
    assert "inventory" in run("hosts", str(trace)).stdout
    assert run("explain", str(trace), "3").stdout.startswith("conversation 3: ")


def test_what_a_bound_left_out_is_told(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    result = samples.result(1)
    result.counters |= {"announcements_beyond_limit": 12, "gaps_beyond_limit": 0}
    monkeypatch.setattr(common, "read", lambda captures, settings: result)
    done = CliRunner().invoke(cli.exflow, ["classify", str(trace)], standalone_mode=False)
    assert done.stderr.splitlines()[1:] == ["exflow: 12 announcements beyond limit"]


def test_what_could_not_be_done_beside_the_result_is_status_2(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    result = samples.result(2)
    result.failures.append("endpoint map m.jsonl was not written: No space left on device")
    monkeypatch.setattr(common, "read", lambda captures, settings: result)
    done = CliRunner().invoke(cli.exflow, ["classify", str(trace), "--format", "jsonl"], standalone_mode=False)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.splitlines()[-1] == "exflow: endpoint map m.jsonl was not written: No space left on device"
    assert done.return_value == 2


def test_hostile_file_names_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    result = samples.result(1)
    result.damages = (Damage("\x1b[31m.pcap", 1, "bad"),)
    monkeypatch.setattr(common, "read", lambda captures, settings: result)
    done = CliRunner().invoke(cli.exflow, ["classify", str(trace)], standalone_mode=False)
    assert done.stderr == "exflow: \\x1b[31m.pcap: byte 1: bad\n"


# ---- statuses of the real command -------------------------------------------------------


def test_a_whole_capture_is_status_0(trace: Path) -> None:
    done = exflow("classify", trace, "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["server_port"] for line in done.stdout.splitlines()] == [1000, 1001, 1002]


def test_a_damaged_capture_is_status_1_with_one_line_that_says_where(trace: Path) -> None:
    trace.write_bytes(capture(3)[:-5])
    done = exflow("classify", trace, "--format", "jsonl")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"exflow: {trace}: byte ")


def test_standard_input_is_a_capture(trace: Path) -> None:
    done = subprocess.run(
        [*EXFLOW, "classify", "-", "--format", "csv"], input=trace.read_bytes(), capture_output=True, check=True
    )
    assert len(done.stdout.splitlines()) == 4


def test_parquet_goes_through_a_pipe(trace: Path) -> None:
    done = subprocess.run([*EXFLOW, "classify", trace, "--format", "parquet"], capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 3


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["classfy"], "Did you mean 'classify'?"),
        (["classify"], "Missing argument"),
        (["classify", "{trace}", "--fromat", "csv"], "Did you mean '--format'?"),
        (["classify", "{trace}", "--format", "xml"], "'xml' is not one of"),
        (["classify", "{trace}x"], "no such file or folder; did you mean"),
        (["classify", "{trace}", "-o", "{folder}/out.foo"], "what format is that?"),
        (["classify", "{trace}", "-o", "{folder}/none/out.csv"], "its folder does not exist"),
        (["classify", "{trace}", "-o", "{folder}", "--format", "csv"], "is a folder"),
        (["classify", "{trace}", "-o", "{trace}", "--format", "csv"], "would be overwritten"),
        (["classify", "{trace}", "--jobs", "0"], "0 is not in the range"),
        (["classify", "{empty}"], "{empty}"),
        (["explain", "{trace}", "4"], "no conversation 4: there are 3"),
        (["explain", "{trace}", "x"], "'x' is not a valid integer"),
        (["signatures", "show", "transport-hub-to-hu"], "did you mean 'transport-hub-to-hub'?"),
        (["signatures", "list", "--signatures", "{empty}"], "{empty}"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_helps(trace: Path, arguments: list[str], hint: str) -> None:
    empty = trace.parent / "empty"
    empty.mkdir()
    places = {"trace": trace, "folder": trace.parent, "empty": empty}
    done = exflow(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert hint.format(**places) in done.stderr
    assert trace.read_bytes() == capture(3)


def test_without_arguments_there_is_help() -> None:
    done = exflow()
    assert done.returncode == 2
    assert "Usage: exflow" in done.stderr


def test_an_unreadable_capture_is_status_1(trace: Path) -> None:
    letter = trace.parent / "letter.pcap"
    letter.write_text("Dear administrator, this is no capture.")
    done = exflow("classify", trace, letter, "--format", "jsonl")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.startswith(f"exflow: {letter}: byte 0: ")


def test_a_broken_pipe_is_silent(trace: Path) -> None:
    trace.write_bytes(capture(20_000))
    with subprocess.Popen(
        [*EXFLOW, "classify", trace, "--format", "jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == cli.READER_GONE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", common.FORMATS)
def test_a_full_disk_is_told(trace: Path, form: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*EXFLOW, "classify", trace, "--format", form], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (2, b"exflow: No space left on device\n")
    done = exflow("classify", trace, "--format", form, "-o", "/dev/full")
    assert (done.returncode, done.stderr) == (2, "exflow: /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), cli.INTERRUPTED, "exflow: interrupted\n"),
        (UsageError("first\nsecond"), 2, "exflow: first\nexflow: second\n"),
        (PermissionError(13, "Permission denied", "hosts.toml"), 2, "exflow: hosts.toml: Permission denied\n"),
    ],
)
def test_whatever_happens_on_the_way_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trace: Path,
    error: BaseException,
    status: int,
    text: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(common, "read", fail)
    monkeypatch.setattr(cli, "_give_up_stdout", lambda: None)
    monkeypatch.setattr(cli, "_leave", sys.exit)
    monkeypatch.setattr(sys, "argv", ["exflow", "classify", str(trace)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == status
    assert capsys.readouterr().err.strip("\n") == text.strip("\n")


# ---- signatures -------------------------------------------------------------------------


def test_signatures_are_listed_shown_and_verified() -> None:
    listed = exflow("signatures", "list", "--format", "jsonl")
    assert "transport-hub-to-hub" in {json.loads(line)["id"] for line in listed.stdout.splitlines()}
    assert "client roles: hub-transport" in exflow("signatures", "show", "transport-hub-to-hub").stdout
    assert exflow("signatures", "verify").returncode == 0


def test_broken_signatures_are_told_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text('[path.x]\nnonsense = "1"\n')
    done = exflow("signatures", "verify", tmp_path)
    assert done.returncode == 1
    assert "broken.toml:" in done.stdout


# ---- start-up ---------------------------------------------------------------------------


def cpu_seconds(*command: str) -> float:
    """What a command takes of the processor, which other programs change little; the least of some runs."""
    taken = []
    for _ in range(5):
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime)
    return min(taken)


def test_help_answers_at_once() -> None:
    assert cpu_seconds(*EXFLOW, "--help") < 8 * cpu_seconds(sys.executable, "-c", "")


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    words = [sys.executable, "-X", "importtime", *EXFLOW[1:], *command, "--help"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines()}
    assert "click" in loaded
    assert loaded.isdisjoint({"numpy", "numba", "matplotlib", "pandas", "pyarrow", "scapy", "pyshark", "rich"})


def test_the_version_is_that_of_the_distribution() -> None:
    assert exflow("--version").stdout.split() == ["exflow", "0.1.0"]


def test_progress_is_for_terminals_only(trace: Path) -> None:
    leader, follower = os.openpty()
    command = [*EXFLOW, "classify", trace, "-o", trace.parent / "out.csv"]
    done = subprocess.run(command, stderr=follower, check=True, env={**os.environ, "TERM": "xterm-256color"})
    os.close(follower)
    assert done.returncode == 0
    assert b"bytes" in os.read(leader, 65_536)
    os.close(leader)
