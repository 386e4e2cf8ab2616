"""Listening to a real interface: two namespaces joined by a veth, tcpreplay on one end, exflow on the other.

Needs root, iproute2, tcpreplay and tmux; without them these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest

import classifier
from captures.lab.network import obstacle
from tests.bench.soak import scan
from tests.wire import EXFLOW, ROOT, Wire, run, wired

TICKET = ROOT / "captures" / "ticket-49734.pcapng"
MISSING = [tool for tool in ("ip", "tcpreplay", "tmux") if shutil.which(tool) is None]
WHY_NOT = f"{', '.join(MISSING)} missing" if MISSING else obstacle()

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"LIVE CAPTURE NOT TESTED: {WHY_NOT}")


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Mirrored packets are played at the far end and listened to at the near one."""
    with wired(f"exflow{os.getpid()}") as made:
        yield made


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until something is so (the first run on a machine compiles)."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def changed(statement: str) -> list[str]:
    """The command, with something about it changed."""
    return [*EXFLOW[:2], f"{statement}\n{EXFLOW[2]}"]


def sniff(
    wire: Wire, *arguments: str, listeners: int = 1, exflow: Sequence[str] = EXFLOW, stderr: Any = subprocess.PIPE
) -> subprocess.Popen[str]:
    """exflow on the near end, as soon as it listens."""
    command = wire.inside(*exflow, "sniff", "tap", *arguments)
    started = wire.start(command, stdout=subprocess.PIPE, stderr=stderr)
    until(lambda: wire.listeners() == listeners)
    return started


def ended(capture: subprocess.Popen[str], by: signal.Signals = signal.SIGTERM) -> str:
    """End a capture when what was played has arrived; returns what it said."""
    time.sleep(1)
    capture.send_signal(by)
    _, said = capture.communicate(timeout=300)
    return said


def test_what_is_played_is_labelled_and_counted(wire: Wire, tmp_path: Path) -> None:
    out = tmp_path / "live.jsonl"
    capture = sniff(wire, "-o", str(out))
    wire.play(TICKET)
    said = ended(capture)
    assert capture.returncode == 0, said
    records = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    expected = {entry.community_id: entry.data_paths for entry in classifier.classify(TICKET)}
    assert {row["community_id"]: row["data_paths"] for row in records.values()} == expected
    assert {row["event"] for row in records.values()} == {"end"}
    assert "457 packets received" in said
    assert "0 packets dropped by kernel" in said


def test_the_kernel_filters_and_a_bad_filter_is_refused(wire: Wire, tmp_path: Path) -> None:
    out = tmp_path / "live.jsonl"
    capture = sniff(wire, "-o", str(out), "--filter", "tcp port 135")
    wire.play(TICKET)
    ended(capture, signal.SIGINT)
    assert {row["server_port"] for row in map(json.loads, out.read_text().splitlines())} == {135}
    command = wire.inside(*EXFLOW, "sniff", "tap", "--filter", "port port")
    refused = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert refused.returncode == 2
    assert "--filter 'port port'" in refused.stderr


def test_only_packets_without_a_label_or_with_findings_are_kept(wire: Wire, tmp_path: Path) -> None:
    """Certificates of the capture have expired by now."""
    out, kept = tmp_path / "live.jsonl", tmp_path / "kept"
    capture = sniff(wire, "-o", str(out), "--packets", str(kept))
    wire.play(TICKET)
    said = ended(capture)
    assert capture.returncode == 0, said
    whole = {entry.community_id: entry for entry in classifier.classify(TICKET)}
    unlabelled = {key for key, entry in whole.items() if entry.certainty is None}
    with_findings = {row["community_id"] for row in records_of(out).values() if row["findings"]}
    found = {entry.community_id: entry for entry in classifier.classify(kept)}
    assert unlabelled
    assert found.keys() == unlabelled | with_findings != whole.keys()
    for key, entry in found.items():
        assert entry.bytes_to_server == whole[key].bytes_to_server
        assert entry.packets_to_client == whole[key].packets_to_client


def test_a_hangup_reads_the_inventory_again_and_refuses_a_broken_one(wire: Wire, tmp_path: Path) -> None:
    inventory, learnt, said = tmp_path / "hosts.toml", tmp_path / "map.jsonl", tmp_path / "said"
    inventory.write_text("")
    with said.open("w") as errors:
        capture = sniff(wire, "-o", str(tmp_path / "live.jsonl"), "--inventory", str(inventory),
                        "--endpoint-map", str(learnt), stderr=errors)  # fmt: skip
    until(lambda: "listening" in said.read_text())
    time.sleep(1)
    inventory.write_text('[[host]]\naddress = "10.10.1.21"\nrole = ["mailbox"]\n')
    capture.send_signal(signal.SIGHUP)
    until(lambda: "signatures and inventory were read again" in said.read_text())
    inventory.write_text('[[host]]\naddress = "10.10.1.21"\nrole = ["mailbax"]\n')
    capture.send_signal(signal.SIGHUP)
    until(lambda: "refused, the old ones stay in use" in said.read_text())
    wire.play(TICKET)
    ended(capture)
    rows = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert {row["server_role"] for row in rows if row["server_port"] == 49734} == {"mailbox"}
    assert any(json.loads(line)["port"] == 49734 for line in learnt.read_text().splitlines())


def test_in_python_the_loop_can_be_left_and_errors_arrive_in_it(wire: Wire) -> None:
    code = """
import classifier, threading
try:
    next(classifier.sniff("nosuch"))
except classifier.UsageError as error:
    print(error)
for conversation in classifier.sniff("tap", duration=60):
    print(conversation.event, conversation.data_paths)
    break
print("left", [each.name for each in threading.enumerate() if each.name.startswith("exflow")])
"""
    command = wire.inside(sys.executable, "-c", code)
    looping = wire.start(command, stdout=subprocess.PIPE)
    until(wire.listeners)
    wire.play(TICKET)
    said, _ = looping.communicate(timeout=300)
    first, second, left = said.splitlines()
    assert first == "no interface 'nosuch'; there are lo, tap"
    assert second.split()[0] in ("new", "end")
    assert left == "left []"


@pytest.mark.parametrize("options", [(), ("--fanout", "7")])
def test_an_interface_that_goes_down_and_away_and_comes_back(wire: Wire, tmp_path: Path, options: tuple[str]) -> None:
    capture = sniff(wire, "-o", str(tmp_path / "live.jsonl"), *options)
    time.sleep(1)
    wire.link("set", "tap", "down")
    time.sleep(1)
    wire.link("set", "tap", "up")
    time.sleep(1)
    wire.play(TICKET)
    time.sleep(1)
    wire.link("del", "tap")
    time.sleep(1)
    wire.join()
    time.sleep(1)
    wire.play(TICKET)
    said = ended(capture)
    lines = [line.removeprefix("exflow: ") for line in said.splitlines() if " tap " in line or " waiting " in line]
    assert [line for line in lines if line.startswith("tap ")] == [
        "tap is down; waiting for it", "tap is up again",
        "tap is down; waiting for it", "tap was removed; waiting for it", "tap is up again",
    ]  # fmt: skip
    assert "914 packets received" in said


def test_what_was_seen_is_written_though_the_interface_is_gone(wire: Wire, tmp_path: Path) -> None:
    out = tmp_path / "live.jsonl"
    capture = sniff(wire, "-o", str(out))
    wire.play(TICKET)
    time.sleep(1)
    wire.link("del", "tap")
    time.sleep(1)
    said = ended(capture)
    assert capture.returncode == 0, said
    assert "457 packets received" in said
    assert len(records_of(out)) == len(classifier.classify(TICKET))


# ---- rights ----------------------------------------------------------------------------------------

USER = 12_345


def shown_to_others(*paths: Path) -> str:
    """Commands that let every user read these paths, in a mount namespace of one's own: where a folder above one is
    for its owner alone, another stands in its place that has nothing but the path."""
    closed = [next((each for each in reversed(path.parents) if not each.stat().st_mode & 1), None) for path in paths]
    above = dict(zip(paths, closed, strict=True))
    hidden = [path for path, folder in above.items() if folder]
    lines = ["mount -t tmpfs none /run"]
    for number, path in enumerate(hidden):
        lines += [f"mkdir /run/{number}", f"mount --bind {path} /run/{number}"]
    lines += [f"mount -t tmpfs -o mode=755 none {folder}" for folder in {above[path] for path in hidden}]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p {path}", f"mount --bind /run/{number} {path}"]
    return "\n".join(lines)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's own, with the kernels that were compiled already."""
    with TemporaryDirectory(dir="/var/tmp") as name:
        compiled = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "exflow"
        if compiled.is_dir():
            shutil.copytree(compiled, Path(name, ".cache/exflow"))
        run("chown", "-R", f"{USER}:{USER}", name)
        yield Path(name)


@pytest.fixture(params=["--user", "CAP_NET_RAW"])
def unprivileged(request: pytest.FixtureRequest, wire: Wire, home: Path) -> subprocess.Popen[str]:
    """exflow that listens as a user: as root who becomes that user, or with that one right from the start."""
    known = Path("/etc/passwd").read_text() + f"exflow-test:x:{USER}:{USER}::{home}:/bin/false\n"
    (home / "passwd").write_text(known)
    prepared = f"set -e\n{shown_to_others(Path(sys.base_prefix), Path(sys.prefix), ROOT)}\n"
    prepared += f"mount --bind {home / 'passwd'} /etc/passwd\nexport HOME={home}\nunset XDG_CACHE_HOME\nexec \"$@\"\n"
    sets = [f"--{name}=-all,+net_raw" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    one_right = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--no-new-privs", *sets]
    exflow = [*EXFLOW, "sniff", "tap", "-o", str(home / "live.jsonl")]
    command = [*exflow, "--user", "exflow-test"] if request.param == "--user" else [*one_right, *exflow]
    started = wire.start(
        wire.inside("sh", "-c", prepared, "sh", *command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: started.poll() is not None or wire.listeners() == 1)
    return started


def test_it_runs_as_a_user_without_rights(wire: Wire, home: Path, unprivileged: subprocess.Popen[str]) -> None:
    time.sleep(1)
    status = Path(f"/proc/{unprivileged.pid}/status").read_text() if unprivileged.poll() is None else ""
    wire.play(TICKET)
    said = ended(unprivileged)
    assert unprivileged.returncode == 0, said
    rights = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert rights["Uid"].split() == rights["Gid"].split() == [str(USER)] * 4
    assert not rights["Groups"].strip()
    assert int(rights["CapEff"], 16) & ~(1 << 13) == 0  # CAP_NET_RAW (capabilities(7))
    records = {row["community_id"]: row["data_paths"] for row in records_of(home / "live.jsonl").values()}
    assert records == {entry.community_id: entry.data_paths for entry in classifier.classify(TICKET)}
    assert (home / "live.jsonl").stat().st_uid == USER


def test_with_rights_given_up_a_new_interface_ends_it_and_loses_nothing(
    wire: Wire, home: Path, unprivileged: subprocess.Popen[str]
) -> None:
    """Who still may listen goes on."""
    wire.play(TICKET)
    time.sleep(1)
    wire.link("del", "tap")
    time.sleep(1)
    wire.join()
    time.sleep(2)
    goes_on = unprivileged.poll() is None
    said = ended(unprivileged) if goes_on else unprivileged.communicate()[1]
    rows = records_of(home / "live.jsonl")
    assert {row["community_id"] for row in rows.values()} == {each.community_id for each in classifier.classify(TICKET)}
    assert "457 packets received" in said
    gave_up = "--user" in unprivileged.args  # type: ignore[operator]
    assert goes_on is not gave_up
    assert ("tap is back, but the right to listen was given up" in said) is gave_up
    assert unprivileged.returncode == (2 if gave_up else 0)


# ---- the service -------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="UNIT NOT TESTED: systemd-analyze missing")
def test_systemd_takes_every_line_of_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    """Its own program knows each directive, says nothing, and rates what the service may still do (0 to 10)."""
    unit = tmp_path / "exflow@.service"
    program = Path(sys.executable).with_name("exflow")
    unit.write_text(run(str(program), "sniff", "--print-systemd-unit"))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    unit.with_name("other@.service").write_text(unit.read_text().replace("ProtectClock", "ProtectClok"))
    other = subprocess.run(["systemd-analyze", "verify", unit.with_name("other@.service")], capture_output=True,
                           text=True, check=False)  # fmt: skip
    assert "Unknown key" in other.stderr
    rated = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))
    [exposure] = re.findall(r"Overall exposure level for .*: ([\d.]+)", rated)
    assert float(exposure) < 2.5


# ---- the screen --------------------------------------------------------------------------------------


def test_the_screen_shows_what_is_there(wire: Wire) -> None:
    server = ("tmux", "-L", f"exflow{os.getpid()}")

    def screen() -> str:
        return run(*server, "capture-pane", "-p")

    command = shlex.join(["env", "-u", "COLUMNS", "-u", "LINES", *wire.inside(*EXFLOW, "sniff", "tap")])
    run(*server, "new-session", "-d", "-x", "150", "-y", "40", "-c", str(ROOT), f"{command}; sleep 60")
    try:
        until(wire.listeners)
        wire.play(TICKET)
        until(lambda: "10.10.1.21:49734/tcp" in screen())
        assert "cas-to-mailbox" in screen()
        assert "q quit" in screen()
        run(*server, "send-keys", "/smtp\n")
        until(lambda: "10.10.1.21:49734/tcp" not in screen() and "smtp" in screen())
        run(*server, "send-keys", "v")
        until(lambda: "HOST" in screen())
        run(*server, "send-keys", "q")
        until(lambda: "457 packets received" in screen())
    finally:
        run(*server, "kill-server")


# ---- how packets arrive ----------------------------------------------------------------------------


def records_of(out: Path) -> dict[int, dict[str, Any]]:
    """The last record of each conversation."""
    return {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}


@pytest.mark.parametrize("name", ["format-vlan.pcap", "format-qinq.pcap"])
def test_a_tag_that_was_taken_off_is_put_back(wire: Wire, tmp_path: Path, name: str) -> None:
    """The kernel takes the outer tag off every packet, as cards do, and the ring's header has it (packet(7))."""
    out, capture = tmp_path / "live.jsonl", ROOT / "captures" / name
    listener = sniff(wire, "-o", str(out))
    wire.play(capture)
    ended(listener)
    columns = ("community_id", "vlan", "data_paths", "packets_to_server", "bytes_to_server", "bytes_to_client")
    expected = [[entry.to_dict()[column] for column in columns] for entry in classifier.classify(capture)]
    assert all(vlans for _, vlans, *_ in expected)
    assert sorted([row[column] for column in columns] for row in records_of(out).values()) == sorted(expected)


def test_where_there_are_no_packet_sockets_libpcap_listens(wire: Wire, tmp_path: Path) -> None:
    out = tmp_path / "live.jsonl"
    exflow = changed("import socket; del socket.AF_PACKET")
    listener = sniff(wire, "--snaplen", "400", "-o", str(out), exflow=exflow)
    time.sleep(0.5)
    wire.play(TICKET, "--pps", "2000")
    time.sleep(1)
    wire.link("del", "tap")
    time.sleep(1)
    wire.join()
    time.sleep(2)
    wire.play(TICKET, "--pps", "2000")
    said = ended(listener)
    assert listener.returncode == 0, said
    assert "tap is down or gone; waiting for it\n" in said
    assert "tap is up again\n" in said
    assert "914 packets received" in said
    assert "0 packets dropped by kernel" in said
    whole = {entry.community_id: entry for entry in classifier.classify(TICKET)}
    rows = list(records_of(out).values())
    assert {row["community_id"] for row in rows} == whole.keys()
    assert sum(row["bytes_to_client"] for row in rows) == 2 * sum(each.bytes_to_client for each in whole.values())


def test_several_processes_share_the_packets_by_conversation(wire: Wire, tmp_path: Path) -> None:
    outs = [tmp_path / f"{number}.jsonl" for number in range(2)]
    captures = [sniff(wire, "-o", str(out), "--fanout", "7", listeners=n) for n, out in enumerate(outs, 1)]
    wire.play(TICKET)
    received = [int(re.search(r"(\d+) packets received", ended(each))[1]) for each in captures]  # type: ignore[index]
    assert sum(received) == 457
    assert min(received) > 0
    whole = {entry.community_id: entry for entry in classifier.classify(TICKET)}
    found = [row for out in outs for row in records_of(out).values()]
    assert sorted(row["community_id"] for row in found) == sorted(whole)
    for row in found:
        assert row["bytes_to_client"] == whole[row["community_id"]].bytes_to_client
        assert row["bytes_to_server"] == whole[row["community_id"]].bytes_to_server


# ---- what goes wrong -------------------------------------------------------------------------------


def test_sigterm_under_load_writes_every_conversation_seen(wire: Wire, tmp_path: Path) -> None:
    out, load = tmp_path / "live.jsonl", tmp_path / "scan.pcap"
    scan(load, 0, 100_000)
    capture = sniff(wire, "-o", str(out))
    wire.play(TICKET)
    player = wire.start(wire.player(load, "--pps", "10000"), stdout=subprocess.PIPE)
    time.sleep(1)
    said = ended(capture)
    assert player.poll() is None, "the load had ended"
    [number] = re.findall(r"(\d+) conversations\n", said)
    rows = records_of(out)
    assert int(number) > 1000
    assert sorted(rows) == list(range(1, int(number) + 1))
    assert {row["event"] for row in rows.values()} == {"end"}


def test_what_the_kernel_dropped_is_counted_and_marks_conversations(wire: Wire, tmp_path: Path) -> None:
    """While exflow is stopped its small ring overflows; what it holds, and what comes later, is received."""
    out, load = tmp_path / "live.jsonl", tmp_path / "scan.pcap"
    scan(load, 0, 40_000)
    capture = sniff(wire, "-o", str(out), "--ring", "2")
    total = wire.play(TICKET)
    time.sleep(2)
    capture.send_signal(signal.SIGSTOP)
    total += wire.play(load)
    capture.send_signal(signal.SIGCONT)
    time.sleep(2)
    total += wire.play(TICKET, "--pps", "1000")
    said = ended(capture)
    received, dropped = (int(number) for number in re.findall(r"(\d+) packets (?:received|dropped by kernel)", said))
    assert received + dropped == total
    assert dropped > 10_000
    first = min(row["id"] for row in records_of(out).values() if row["server_port"] == 49734)
    assert records_of(out)[first]["capture_loss"] == dropped


def test_a_reader_that_goes_away_ends_it_with_its_own_status(wire: Wire) -> None:
    """As in `exflow sniff tap | head -1`; what could not be written is counted."""
    capture = sniff(wire, "--format", "jsonl")
    assert capture.stdout is not None
    wire.play(TICKET)
    first = json.loads(capture.stdout.readline())
    capture.stdout.close()
    until(lambda: wire.play(TICKET, "--pps", "2000") and capture.poll() is not None)
    assert first["event"] in ("new", "end")
    assert capture.stderr is not None
    said = capture.stderr.read()
    assert capture.returncode == 141, said
    assert "Broken pipe; records are lost until that ends, and counted" in said
    assert re.search(r"[1-9]\d* records not written", said)


def test_a_full_disk_is_told_counted_and_survived(wire: Wire, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small))
    try:
        capture = sniff(wire, "-o", str(small / "live.jsonl"))
        for _ in range(4):
            wire.play(TICKET)
            time.sleep(1)
        (small / "live.jsonl").unlink()
        said = ended(capture)
    finally:
        run("umount", "-l", str(small))
    assert "live.jsonl: No space left on device; records are lost until that ends, and counted" in said
    assert "1828 packets received" in said
    assert re.search(r"[1-9]\d* records not written", said)
    assert capture.returncode == 1


def test_what_a_killed_run_had_rotated_is_whole(wire: Wire, tmp_path: Path) -> None:
    lines, folder, load = tmp_path / "live.jsonl", tmp_path / "hours", tmp_path / "scan.pcap"
    scan(load, 0, 100_000)
    often = changed("from classifier import sinks; sinks.PARQUET_SECONDS = 1")
    captures = [
        sniff(wire, "-o", str(lines), "--rotate", "1", listeners=1),
        sniff(wire, "-o", f"{folder}/", "--format", "parquet", listeners=2, exflow=often),
    ]
    wire.play(TICKET)
    wire.start(wire.player(load, "--pps", "2000"), stdout=subprocess.DEVNULL)
    until(lambda: len(list(tmp_path.glob("live-*.jsonl"))) > 1 and len(list(folder.rglob("*.parquet"))) > 1)
    for each in captures:
        each.kill()
        each.communicate()
    for path in tmp_path.glob("live-*.jsonl"):
        assert all(json.loads(line)["id"] for line in path.read_text().splitlines())
    for path in folder.rglob("*.parquet"):
        assert pq.ParquetFile(path).read().num_rows > 0
