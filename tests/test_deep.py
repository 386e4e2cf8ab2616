"""The deep look: scapy's packets, tshark's dissection and both sides' words, against the capture itself."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import samples
from shipped import result_of

import classifier
from classifier import deep
from classifier.dissectors import decode_as
from classifier.errors import MissingToolError, UsageError
from classifier.result import Result

CAPTURES = Path(__file__).parents[1] / "captures"
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="TSHARK MISSING: nothing is dissected")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning",
                                        "ignore::pytest.PytestUnraisableExceptionWarning")  # fmt: skip


@pytest.fixture(scope="module")
def ticket() -> Result:
    return classifier.classify(CAPTURES / "ticket-49734.pcapng", jobs=1)


def test_packets_are_those_of_the_capture(ticket: Result) -> None:
    from scapy.utils import rdpcap

    original = rdpcap(str(CAPTURES / "ticket-49734.pcapng"))
    ours = ticket[25].packets()
    numbers = [index for index, packet in enumerate(original) if packet.haslayer("TCP") and 49369 in
               (packet["TCP"].sport, packet["TCP"].dport)]  # fmt: skip
    assert [bytes(each) for each in ours] == [bytes(original[index]) for index in numbers]
    assert all(abs(ours[at].time - original[index].time) < 1e-6 for at, index in enumerate(numbers))
    assert {packet["TCP"].dport for packet in ours} == {49734, 49369}


@needs_tshark
def test_a_dissection_tells_the_interface(ticket: Result, caplog: pytest.LogCaptureFixture) -> None:
    binds = ticket[25].dissect("dcerpc.pkt_type == 11")
    assert [packet.dcerpc.cn_bind_to_uuid for packet in binds] == [ticket[25].rpc_interfaces[0]["uuid"]]
    assert len(ticket[25].dissect()) == len(ticket[25].packets())
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@needs_tshark
def test_a_dissection_decodes_what_tshark_does_not_by_itself() -> None:
    """tshark 4.0 gives no port to mc-nmf, its dissector of .NET message framing."""
    path = CAPTURES / "net-tcp-mrs-808.pcap"
    talk = next(each for each in classifier.classify(path, jobs=1) if each.protocol == "net.tcp")
    alone = subprocess.run(["tshark", "-r", str(path), "-Y", "mc-nmf"], capture_output=True, check=True)
    assert alone.stdout == b""
    assert talk.dissect("mc-nmf")


def test_a_port_that_was_handed_out_is_decoded_without_any_payload_too(ticket: Result) -> None:
    record = ticket[25].to_dict()
    expected = {"tcp.port==49734": "dcerpc"}
    assert decode_as(record) == decode_as(record | {"protocol": None}) == expected
    assert decode_as(record | {"protocol": None, "resolved_by": None}) == {}


@needs_tshark
def test_a_dissection_works_inside_a_running_loop(ticket: Result) -> None:
    async def cell() -> int:
        return len(ticket[25].dissect("dcerpc"))

    assert asyncio.run(cell()) > 0


@needs_tshark
def test_a_broken_filter_is_told(ticket: Result) -> None:
    with pytest.raises(UsageError, match="tshark refused"):
        ticket[25].dissect("no such field")


@needs_tshark
def test_follow_shows_both_sides_in_order() -> None:
    result = classifier.classify(CAPTURES / "smtp-hub-to-hub-tls-off.pcap", jobs=1)
    mail = next(each for each in result if each.protocol == "smtp")
    lines = mail.follow().splitlines()
    assert lines[0].startswith("server, ")
    assert lines[1].startswith("  220 ")
    assert any(line.startswith("  EHLO ") for line in lines)
    said = b"".join(bytes(packet["TCP"].payload) for packet in mail.packets() if packet["TCP"].sport == 25)
    hexed = [line[10:57].strip() for line in mail.follow("hex").splitlines() if line.startswith("  ")]
    assert bytes.fromhex("".join(hexed)).startswith(said[:16])


@needs_tshark
def test_follow_obeys_no_stranger() -> None:
    mail = [each for each in result_of("hostile-strings") if each.server_port == 25]
    shown = [each.follow() for each in mail[:3]]
    assert all(line.isprintable() for text in shown for line in text.splitlines())
    assert any("\\x1b]0;owned" in text for text in shown)


@needs_tshark
def test_follow_ends_at_its_bound_and_says_so(monkeypatch: pytest.MonkeyPatch, ticket: Result) -> None:
    monkeypatch.setattr(deep, "FOLLOW_BYTES", 100)
    assert ticket[25].follow("hex").endswith("(ends here, at 100 bytes)")


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, ticket: Result) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match="tshark is not installed"):
        ticket[25].follow()
    with pytest.raises(UsageError, match="no view 'html'"):
        ticket[25].follow("html")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no such file"):
        samples.result(3)[2].packets()


def test_packets_have_their_layers_in_a_fresh_process() -> None:
    """scapy knows link types only once somebody loaded its layers; here nobody did before."""
    capture = str(CAPTURES / "rpc-nat.pcap")
    code = f"import classifier; print(classifier.classify({capture!r}, jobs=1)[1].packets()[0].summary())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Ether / IP / TCP")
