"""Hosts from traffic: reasons and frames, versions, names, contradictions, tenants of an address."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_captures import CAPTURES

import classifier
from classifier import roles
from classifier.model import EXCHANGE_ROLES
from classifier.records import json_text
from classifier.rulebook import load
from classifier.verdicts import agrees

RULEBOOK = load()
UNLISTED = sorted([*CAPTURES.glob("who-is-who-*"), *CAPTURES.glob("shown-*")])
"""Captures whose hosts only the traffic shows."""
MAIL, MAPI = CAPTURES / "shown-2010-mail.pcapng", CAPTURES / "shown-2010-rpc.pcapng"


def host(result: classifier.Result, address: str) -> dict[str, Any]:
    return next(dict(row) for row in result.host_rows if row["address"] == address)


# ---- what is said of hosts ---------------------------------------------------------------------------


def test_each_role_has_conversations_and_frames_that_show_it() -> None:
    result = classifier.classify(MAIL)
    edge = host(result, "192.0.2.25")
    assert (edge["roles"], edge["versions"], edge["source"]) == (["edge-transport"], ["2010"], "traffic")
    assert edge["name"] == "edge1.example.test"
    for reason in edge["evidence"]:
        talk = result[reason["conversation"]]
        assert "192.0.2.25" in (talk.client_ip, talk.server_ip)
        assert talk.first_frame <= reason["frame"] <= talk.last_frame
        assert reason["file"].endswith("shown-2010-mail.pcapng")
    assert {reason["field"] for reason in edge["evidence"]} == {"edge-transport"}


def test_the_label_names_the_reasons_for_both_roles() -> None:
    result = classifier.classify(MAPI)
    talk = next(talk for talk in result if talk.data_path == "um-to-mailbox" and talk.protocol == "dcerpc")
    told = {fact["field"]: fact for fact in talk.evidence if fact["kind"] == "role"}
    assert told["client_role"]["value"] == "unified-messaging: answers SIP as Unified Messaging"
    assert told["server_role"]["value"].startswith("mailbox: ")
    assert all(fact["frame"] for fact in told.values())


def test_frames_of_reasons_are_those_that_tshark_shows() -> None:
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed: no independent reader")
    result = classifier.classify(MAIL)
    um = host(result, "10.10.1.41")
    frame = next(reason["frame"] for reason in um["evidence"] if reason["value"].startswith("answers SIP"))
    command = ["tshark", "-r", str(MAIL), "-Y", f"frame.number == {frame}", "-T", "fields", "-e", "sip.Server"]
    seen = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "MSExchangeUM" in seen.stdout


def inventory(tmp_path: Path, *hosts: str) -> Path:
    path = tmp_path / "inventory.toml"
    path.write_text("\n".join(f"[[host]]\n{each}" for each in hosts))
    return path


def test_the_inventory_outweighs_and_the_contradiction_is_kept(tmp_path: Path) -> None:
    listed = inventory(tmp_path, 'address = "10.10.1.41"\nrole = ["mailbox"]\nversion = "2007"\nname = "old"')
    um = host(classifier.classify(MAIL, inventory=listed), "10.10.1.41")
    assert (um["roles"], um["versions"], um["name"], um["source"]) == (["mailbox"], ["2007"], "old", "inventory")
    said = {(each["field"], each["value"]) for each in um["contradictions"]}
    assert ("unified-messaging", "answers SIP as Unified Messaging") in said
    assert ("2010", "names MSExchangeUM 14, which is Exchange 2010") in said
    assert all(each["frame"] and each["conversation"] for each in um["contradictions"])


def test_an_inventory_that_is_right_contradicts_nothing() -> None:
    for name in ("smtp-hub-and-edge", "row-cas-to-mailbox", "um-phone-call", "e2003-pop3-imap4", "pop3-imap4"):
        result = classifier.classify(CAPTURES / f"{name}.pcap", inventory=CAPTURES / f"{name}.inventory.toml")
        assert not [row for row in result.host_rows if row["contradictions"]], name


@pytest.mark.parametrize(
    ("role", "known", "fits"),
    [
        ("mailbox", {"mailbox", "hub-transport"}, True),
        ("exchange-server", {"mailbox"}, True),
        ("mailbox", {"exchange-server"}, True),
        ("mailbox", {"client-access"}, False),
        ("outlook", {"browser"}, True),
        ("dns-server", {"active-directory"}, True),
        ("edge-transport", {"internet-mta"}, True),
        ("exchange-server", {"outlook"}, False),
    ],
)
def test_what_contradicts(role: str, known: set[str], fits: bool) -> None:
    assert agrees(role, frozenset(known)) is fits


# ---- rules -------------------------------------------------------------------------------------------

acts = st.frozensets(st.sampled_from(sorted(RULEBOOK.acts)), max_size=8)


@given(acts, st.frozensets(st.sampled_from(("2003", "2007", "2010", "2016"))))
def test_roles_rest_on_acts_of_the_host(done: frozenset[str], versions: frozenset[str]) -> None:
    cast = roles.cast(RULEBOOK, done, versions, frozenset(), 2)
    assert all(reasons and set(reasons) <= done for reasons in cast.values())
    assert "exchange-server" not in cast or len(cast.keys() & roles.EXCHANGE_ROLES) == 1


@given(acts)
def test_a_later_step_keeps_what_an_earlier_one_found(done: frozenset[str]) -> None:
    found = [set(roles.cast(RULEBOOK, done, frozenset(), frozenset(), step)) for step in range(3)]
    assert found[0] - {"exchange-server"} <= found[1] <= found[2] | {"exchange-server"}


def test_versions_that_exclude_each_other_say_nothing() -> None:
    assert roles.versions_of(RULEBOOK, frozenset({"serves-web-of-2010", "serves-mail"})) == {"2010"}
    assert roles.versions_of(RULEBOOK, frozenset({"serves-web-of-2010", "serves-web-of-2016"})) == frozenset()
    assert roles.versions_of(RULEBOOK, frozenset({"issues-tickets"})) == frozenset()


@pytest.mark.parametrize("path", UNLISTED, ids=lambda path: path.name)
def test_only_exchange_servers_have_a_version_of_exchange(path: Path) -> None:
    """Outlook that opens a mailbox of 2007 or 2010 is of neither."""
    rows = classifier.classify(path, jobs=1).host_rows
    assert any(row["versions"] for row in rows)
    others = [row for row in rows if row["roles"] and EXCHANGE_ROLES.isdisjoint(row["roles"])]
    assert [row["address"] for row in others if row["versions"]] == []


# ---- nothing depends on how the capture came ----------------------------------------------------------


def answers(result: classifier.Result, *, frames: bool = True) -> list[str]:
    """All records; without frames and file names where the capture was cut."""
    rows = [talk.to_dict() for talk in result] + [dict(row) for row in result.host_rows]
    return [json_text(row if frames else without_frames(row)) for row in rows]


def without_frames(value: Any) -> Any:
    if isinstance(value, dict):
        gone = {"file", "frame", "first_frame", "last_frame", "conversation", "id"}
        return {name: without_frames(each) for name, each in value.items() if name not in gone}
    return [without_frames(each) for each in value] if isinstance(value, list) else value


def test_jobs_change_nothing() -> None:
    assert answers(classifier.classify(MAIL, jobs=1)) == answers(classifier.classify(MAIL, jobs=4))


def test_cutting_the_capture_changes_nothing(tmp_path: Path) -> None:
    frames = frames_of(MAIL)
    for number, (first, end) in enumerate(((0, 400), (400, 700), (700, len(frames)))):
        write(tmp_path / f"part{number}.pcap", frames[first:end], first=first)
    whole = tmp_path / "whole.pcap"
    write(whole, frames)
    parts = classifier.classify(*[tmp_path / f"part{number}.pcap" for number in range(3)])
    assert answers(parts, frames=False) == answers(classifier.classify(whole), frames=False)


def test_the_order_of_conversations_changes_nothing(tmp_path: Path) -> None:
    """Conversations one behind the other in reverse: every label and every host stay as they were."""
    frames = frames_of(MAPI)
    talks: dict[Any, list[bytes]] = {}
    for frame in frames:
        talks.setdefault(frozenset(((frame[26:30], frame[34:36]), (frame[30:34], frame[36:38]))), []).append(frame)
    for name, order in (("there", list(talks.values())), ("back", list(talks.values())[::-1])):
        write(tmp_path / f"{name}.pcap", [frame for talk in order for frame in talk])
    there, back = (classifier.classify(tmp_path / f"{name}.pcap") for name in ("there", "back"))
    assert sorted(map(verdict, there)) == sorted(map(verdict, back))
    told = [{row["address"]: (row["roles"], row["versions"], row["name"]) for row in each.host_rows}
            for each in (there, back)]  # fmt: skip
    assert told[0] == told[1]


def verdict(talk: classifier.Conversation) -> str:
    """What a conversation is called; ports that were handed out hold from when they were, so those may differ."""
    names = ("client_ip", "client_port", "server_ip", "server_port", "data_paths", "data_path", "client_role",
             "server_role", "certainty", "absence", "exchange_versions")  # fmt: skip
    return json.dumps([getattr(talk, name) for name in names])


def frames_of(path: Path) -> list[bytes]:
    from scapy.utils import PcapNgReader

    with PcapNgReader(str(path)) as reader:
        return [bytes(packet) for packet in reader]


def write(path: Path, frames: list[bytes], start: int = 1_289_386_800, first: int = 0) -> None:
    """A classic capture, one frame a millisecond, beginning so many milliseconds after the start."""
    from scapy.utils import RawPcapWriter

    with RawPcapWriter(str(path), linktype=1) as writer:
        writer.write_header(None)
        for number, frame in enumerate(frames):
            seconds, milliseconds = divmod(number + first, 1000)
            writer.write_packet(frame, sec=start + seconds, usec=1000 * milliseconds)


# ---- an address may change hands ---------------------------------------------------------------------


def test_an_address_that_was_silent_for_a_month_may_be_another_host(tmp_path: Path) -> None:
    later = frames_of(CAPTURES / "shown-2010-voice.pcapng")
    write(tmp_path / "a.pcap", frames_of(MAIL))
    write(tmp_path / "b.pcap", later, 1_289_386_800 + 40 * 86_400)
    twice = classifier.classify(tmp_path / "a.pcap", tmp_path / "b.pcap")
    assert [row["roles"] for row in twice.host_rows if row["address"] == "10.10.1.41"] == [["unified-messaging"]] * 2
    write(tmp_path / "b.pcap", later, 1_289_386_800 + 9 * 86_400)
    once = classifier.classify(tmp_path / "a.pcap", tmp_path / "b.pcap")
    assert [row["roles"] for row in once.host_rows if row["address"] == "10.10.1.41"] == [["unified-messaging"]]
