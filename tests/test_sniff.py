"""Listening to a real interface: two namespaces joined by a veth, tcpreplay on one end, exflow on the other.

Needs root, iproute2, tcpreplay and tmux; without them these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import classifier

ROOT = Path(__file__).parents[1]
TICKET = ROOT / "captures" / "ticket-49734.pcapng"
MISSING = [tool for tool in ("ip", "tcpreplay", "tmux") if shutil.which(tool) is None]
if os.name != "posix" or os.geteuid() != 0:
    MISSING.append("root")

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"LIVE CAPTURE NOT TESTED: {', '.join(MISSING)} missing")

EXFLOW = [sys.executable, "-c", "from classifier.cli import main; main()"]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """A namespace with a veth pair: mirrored packets are played into `out` and seen on `tap`."""
    name = f"exflow{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"LIVE CAPTURE NOT TESTED: no namespaces here: {error.stderr}")
    inside = ("ip", "netns", "exec", name)
    try:
        run(*inside, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        run(*inside, "ip", "link", "add", "out", "type", "veth", "peer", "name", "tap")
        for end in ("out", "tap"):
            run(*inside, "ip", "link", "set", end, "mtu", "9000", "up")
        yield name, "tap"
    finally:
        run("ip", "netns", "del", name)


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something is so (the first run on a machine compiles)."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def listening(name: str) -> bool:
    """Whether a packet socket is bound to all protocols (packet(7))."""
    sockets = run("ip", "netns", "exec", name, "cat", "/proc/net/packet").splitlines()[1:]
    return any(line.split()[3] == "0003" for line in sockets)


def sniff(name: str, *arguments: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", name, *EXFLOW, "sniff", "tap", *arguments]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    until(lambda: listening(name))
    return started


def play(name: str, capture: Path = TICKET) -> None:
    run("ip", "netns", "exec", name, "tcpreplay", "-q", "--topspeed", "-i", "out", str(capture))


def test_what_is_played_is_labelled_and_counted(wire: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "live.jsonl"
    capture = sniff(wire[0], "-o", str(out))
    play(wire[0])
    time.sleep(1)
    capture.send_signal(signal.SIGTERM)
    _, said = capture.communicate(timeout=120)
    assert capture.returncode == 0, said
    records = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    expected = {entry.community_id: entry.data_paths for entry in classifier.classify(TICKET)}
    assert {row["community_id"]: row["data_paths"] for row in records.values()} == expected
    assert {row["event"] for row in records.values()} == {"end"}
    assert "457 packets received" in said
    assert "0 packets dropped by kernel" in said


def test_the_kernel_filters_and_a_bad_filter_is_refused(wire: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "live.jsonl"
    capture = sniff(wire[0], "-o", str(out), "--filter", "tcp port 135")
    play(wire[0])
    time.sleep(1)
    capture.send_signal(signal.SIGINT)
    capture.communicate(timeout=120)
    assert {row["server_port"] for row in map(json.loads, out.read_text().splitlines())} == {135}
    command = ["ip", "netns", "exec", wire[0], *EXFLOW, "sniff", "tap", "--filter", "port port"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert refused.returncode == 2
    assert "--filter 'port port'" in refused.stderr


def test_only_packets_without_a_label_are_kept(wire: tuple[str, str], tmp_path: Path) -> None:
    out, kept = tmp_path / "live.jsonl", tmp_path / "kept"
    capture = sniff(wire[0], "-o", str(out), "--packets", str(kept))
    play(wire[0])
    time.sleep(1)
    capture.send_signal(signal.SIGTERM)
    _, said = capture.communicate(timeout=120)
    assert capture.returncode == 0, said
    unlabelled = {entry.community_id: entry for entry in classifier.classify(TICKET) if entry.certainty is None}
    found = {entry.community_id: entry for entry in classifier.classify(kept)}
    assert found.keys() == unlabelled.keys()
    assert found
    for key, entry in found.items():
        assert entry.bytes_to_server == unlabelled[key].bytes_to_server
        assert entry.packets_to_client == unlabelled[key].packets_to_client


def test_a_hangup_reads_the_inventory_again_and_refuses_a_broken_one(wire: tuple[str, str], tmp_path: Path) -> None:
    inventory, learnt = tmp_path / "hosts.toml", tmp_path / "map.jsonl"
    inventory.write_text("")
    capture = sniff(wire[0], "-o", str(tmp_path / "live.jsonl"), "--inventory", str(inventory),
                    "--endpoint-map", str(learnt))  # fmt: skip
    time.sleep(1.5)
    inventory.write_text('[[host]]\naddress = "10.10.1.21"\nrole = ["mailbox"]\n')
    capture.send_signal(signal.SIGHUP)
    time.sleep(1.5)
    inventory.write_text('[[host]]\naddress = "10.10.1.21"\nrole = ["mailbax"]\n')
    capture.send_signal(signal.SIGHUP)
    time.sleep(1.5)
    play(wire[0])
    time.sleep(1)
    capture.send_signal(signal.SIGTERM)
    _, said = capture.communicate(timeout=120)
    assert "signatures and inventory were read again" in said
    assert "refused, the old ones stay in use" in said
    rows = [json.loads(line) for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert {row["server_role"] for row in rows if row["server_port"] == 49734} == {"mailbox"}
    assert any(json.loads(line)["port"] == 49734 for line in learnt.read_text().splitlines())


def test_in_python_the_loop_can_be_left_and_errors_arrive_in_it(wire: tuple[str, str]) -> None:
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
    command = ["ip", "netns", "exec", wire[0], sys.executable, "-c", code]
    looping = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    until(lambda: listening(wire[0]))
    play(wire[0])
    said, _ = looping.communicate(timeout=120)
    first, second, left = said.splitlines()
    assert first == "no interface 'nosuch'; there are lo, out, tap"
    assert second.split()[0] in ("new", "end")
    assert left == "left []"


def test_an_interface_that_is_down_and_one_that_is_gone(wire: tuple[str, str], tmp_path: Path) -> None:
    inside = ("ip", "netns", "exec", wire[0])
    capture = sniff(wire[0], "-o", str(tmp_path / "live.jsonl"))
    time.sleep(1)
    run(*inside, "ip", "link", "set", "tap", "down")
    time.sleep(1)
    run(*inside, "ip", "link", "set", "tap", "up")
    time.sleep(1)
    play(wire[0])
    run(*inside, "ip", "link", "del", "tap")
    time.sleep(1)
    capture.send_signal(signal.SIGTERM)
    _, said = capture.communicate(timeout=120)
    for line in ("tap is down; waiting for it", "tap is up again", "tap was removed; waiting for it"):
        assert line in said
    assert "457 packets received" in said


def test_the_screen_shows_what_is_there(wire: tuple[str, str]) -> None:
    server = ("tmux", "-L", f"exflow{os.getpid()}")

    def screen() -> str:
        return run(*server, "capture-pane", "-p")

    command = (
        f"cd {ROOT} && env -u COLUMNS -u LINES ip netns exec {wire[0]} {EXFLOW[0]} -c '{EXFLOW[2]}' sniff tap; sleep 60"
    )
    run(*server, "new-session", "-d", "-x", "150", "-y", "40", command)
    try:
        until(lambda: listening(wire[0]))
        play(wire[0])
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
