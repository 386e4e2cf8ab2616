"""The endpoint map: what was handed out holds for a server, a transport, a port and a time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import shared
from hypothesis import given
from hypothesis import strategies as st

import classifier
from captures.makers import files, rpc, talk
from captures.makers.rpc import Syntax
from captures.makers.scene import Scene
from classifier import endpoints as module
from classifier.endpoints import NEVER, Announcement, Claim, EndpointMap, reachable
from classifier.errors import UsageError
from classifier.model import RESOLUTION_KINDS
from classifier.result import Result

CAPTURES = Path(__file__).parents[1] / "captures"

EMSMDB = "a4f1db00-ca47-1067-b31f-00dd010662da"
NSPI = "f5cc5a18-4264-101a-8c59-08002b2f8426"
RFRI = "1544f5e0-613c-11d1-93df-00c04fd7bd09"
SERVER = "10.10.1.21"
NOBODY = -2
"""Number of no conversation."""


def told(
    time: int, port: int = 6117, kind: str = "ept_map", uuid: str = EMSMDB, server: str = SERVER, **more: object
) -> Announcement:
    """An announcement of a conversation that nobody asks as."""
    conversation = more.pop("conversation", 1000 + time)
    claim = Claim(server, "tcp", port, uuid, "0.81", kind, **more)  # type: ignore[arg-type]
    return Announcement(claim, time, frame=time, conversation=conversation)  # type: ignore[arg-type]


def settled(*announcements: Announcement) -> EndpointMap:
    learnt = EndpointMap()
    learnt.add(announcements)
    learnt.settle()
    return learnt


def held(
    learnt: EndpointMap, server: str, transport: str, port: int, time: int, *, asking: int = NOBODY
) -> list[Announcement]:
    """What holds on the port, best first."""
    key = server, transport, port
    asked = [np.array([each]) for each in (learnt.endpoints.index(key), time, asking)] if knows(learnt, *key) else []
    return [learnt.announcements[place] for place in learnt.at(*asked)[1].tolist()] if asked else []


def knows(learnt: EndpointMap, *endpoint: object) -> bool:
    """Whether anything was said of a port."""
    return endpoint in learnt.endpoints


def times(learnt: EndpointMap, time: int, port: int = 6117, server: str = SERVER) -> list[int]:
    """When that was told which holds on the port, best first."""
    return [said.time for said in held(learnt, server, "tcp", port, time)]


# ---- server, transport, port, time ------------------------------------------------------------------


def test_an_answer_holds_before_and_after() -> None:
    learnt = settled(told(50))
    assert times(learnt, 10) == times(learnt, 50) == times(learnt, 10**18) == [50]


def test_of_what_was_told_several_times_the_last_before_counts() -> None:
    learnt = settled(told(50), told(60), told(70))
    assert [times(learnt, time) for time in (40, 50, 65, 99)] == [[50], [50], [60], [70]]


def test_another_server_transport_or_port_is_another_matter() -> None:
    learnt = settled(told(50))
    assert not times(learnt, 60, port=6118)
    assert not times(learnt, 60, server="10.10.1.22")
    assert not held(learnt, SERVER, "udp", 6117, 60)
    assert knows(learnt, SERVER, "tcp", 6117)
    assert not knows(learnt, SERVER, "udp", 6117)


def test_a_restart_ends_an_entry() -> None:
    learnt = settled(told(10), told(20), told(50, port=6320), told(60, port=6320))
    assert [times(learnt, time) for time in (0, 15, 49, 50, 90)] == [[10], [10], [20], [], []]
    assert [times(learnt, time, port=6320) for time in (0, 19, 20, 55, 90)] == [[], [], [50], [50], [60]]


def test_a_port_that_comes_back_is_known_in_both_its_times() -> None:
    learnt = settled(told(10), told(50, port=6320), told(90))
    assert [times(learnt, time) for time in (20, 60, 95)] == [[10], [90], [90]]


def test_other_servers_and_interfaces_end_nothing() -> None:
    learnt = settled(told(10), told(50, port=6320, uuid=NSPI), told(50, port=6320, server="10.10.1.22"))
    assert times(learnt, 90) == [10]


def test_a_bind_elsewhere_ends_nothing() -> None:
    """Two processes may serve one interface (every DCOM server binds IRemUnknown); a bind doesn't name the others."""
    learnt = settled(told(10), told(50, port=6320, kind="bind"), told(60, port=6321, kind="bind"))
    assert times(learnt, 90) == [10]
    assert times(learnt, 90, port=6320) == [50]


def test_the_port_over_http_stands_beside_the_one_over_tcp(tmp_path: Path) -> None:
    """Each is asked for alone ([MS-RPCE] 2.1.1.8, ncacn_http), and neither answer says that the other port is gone."""
    learnt = settled(told(10, port=6001, over_http=True), told(20), told(40, port=6001, over_http=True), told(50))
    learnt.save(tmp_path / "map.jsonl")
    again = EndpointMap.load(tmp_path / "map.jsonl")
    again.settle()
    for each, last in ((learnt, 50), (again, 50)):
        assert times(each, 90) == [last]
        assert times(each, 90, port=6001) == [40]
    moved = settled(told(10, port=6001, over_http=True), told(20), told(30, port=6002, over_http=True))
    assert (times(moved, 90, port=6001), times(moved, 90)) == ([], [20])


def test_what_is_told_of_a_port_is_in_the_order_of_time_over_http_or_not() -> None:
    learnt = settled(told(10), told(20, over_http=True), told(30), told(40, over_http=True))
    assert [times(learnt, time) for time in (5, 15, 25, 35, 45)] == [[10], [10], [20], [30], [40]]


def test_several_towers_of_one_answer() -> None:
    learnt = settled(told(50), told(50, port=6118), told(50, port=6119))
    assert [times(learnt, 90, port=port) for port in (6117, 6118, 6119)] == [[50]] * 3


def test_a_lookup_over_several_calls_does_not_contradict_itself() -> None:
    calls = [told(50 + i, port=6117 + i, kind="ept_lookup", conversation=3) for i in range(4)]
    learnt = settled(*calls)
    assert [times(learnt, 90, port=6117 + i) for i in range(4)] == [[50], [51], [52], [53]]
    restarted = settled(*calls, told(70, port=7000, kind="ept_lookup", conversation=9))
    assert not any(times(restarted, 90, port=6117 + i) for i in range(4))


def test_several_interfaces_on_a_port() -> None:
    learnt = settled(told(50, uuid=NSPI), told(60, uuid=RFRI), told(70, uuid=NSPI))
    assert [said.claim.uuid for said in held(learnt, SERVER, "tcp", 6117, 80)] == [NSPI, RFRI]


def test_kinds_are_preferred_in_the_order_of_the_contract() -> None:
    kinds = [kind for kind in RESOLUTION_KINDS if kind != "endpoint-map-file"]
    said = [told(50 + place, kind=kind) for place, kind in enumerate(kinds)]
    random.Random(3).shuffle(said)
    assert [each.claim.kind for each in held(settled(*said), SERVER, "tcp", 6117, 90)] == kinds


def test_who_asks_is_not_told_what_it_said_itself() -> None:
    learnt = settled(told(50, kind="bind", conversation=7), told(60, kind="bind", conversation=8))
    asked = [held(learnt, SERVER, "tcp", 6117, 90, asking=index) for index in (7, 8, 9)]
    assert [[said.conversation for said in each] for each in asked] == [[8], [7], [8]]
    assert not held(settled(told(50, kind="bind", conversation=7)), SERVER, "tcp", 6117, 90, asking=7)


# ---- addresses in towers --------------------------------------------------------------------------------


def test_the_peer_outweighs_the_tower() -> None:
    """The tower's address is asked only where no peer said anything of that port (NAT, cluster names)."""
    behind = told(50, server="198.51.100.21", address=SERVER)
    assert times(settled(behind), 60) == [50]
    assert times(settled(behind, told(70, uuid=NSPI)), 80) == [70]
    assert times(settled(behind), 60, server="198.51.100.21") == [50]


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::", "::1", "", "mbx1.example.test", "10.0.0.999"])
def test_towers_that_name_nobody(address: str) -> None:
    learnt = settled(told(50, address=address))
    assert set(learnt.endpoints) == {(SERVER, "tcp", 6117)}
    assert reachable(address) == ""


def test_an_announced_address_is_spelt_as_in_the_table_of_addresses() -> None:
    assert reachable("2001:DB8:0:0::0021") == "2001:db8::21"
    assert knows(settled(told(50, address="2001:DB8:0:0::0021")), "2001:db8::21", "tcp", 6117)


# ---- order, and how much ---------------------------------------------------------------------------------

ANNOUNCEMENTS = st.builds(
    told,
    st.integers(0, 6),
    port=st.integers(6117, 6119),
    kind=st.sampled_from(["ept_map", "ept_lookup", "bind", "secondary-address"]),
    uuid=st.sampled_from([EMSMDB, NSPI]),
    server=st.sampled_from([SERVER, "198.51.100.21"]),
    address=st.sampled_from(["", "0.0.0.0", SERVER, "10.10.1.99"]),
    conversation=st.integers(0, 2),
)


def everything(learnt: EndpointMap) -> tuple[object, ...]:
    """All that can be read and asked."""
    asked = [
        held(learnt, server, "tcp", port, time, asking=asking)
        for server in (SERVER, "198.51.100.21", "10.10.1.99")
        for port in range(6117, 6120)
        for time in range(8)
        for asking in (NOBODY, 0)
    ]
    return list(learnt), asked, set(learnt.endpoints)


@given(st.lists(ANNOUNCEMENTS, max_size=12), st.randoms())
def test_the_order_of_adding_does_not_matter(announcements: list[Announcement], chance: random.Random) -> None:
    shuffled = announcements + announcements[:2]
    chance.shuffle(shuffled)
    assert everything(settled(*announcements)) == everything(settled(*shuffled))


@given(st.lists(ANNOUNCEMENTS, max_size=12))
def test_entries_hold_as_their_definition_says(announcements: list[Announcement]) -> None:
    """Checked against the definition spelt out: from the last answer before it that leaves the port out to the next."""
    said = [
        each._replace(claim=each.claim._replace(kind="ept_map")) if each.claim.kind == "ept_lookup" else each
        for each in announcements
    ]
    for entry in settled(*said):
        own = entry.announcement
        answers: dict[int, set[int]] = {}
        for other in said:
            claim = other.claim
            if (claim.kind, claim.server, claim.uuid) == ("ept_map", own.claim.server, own.claim.uuid):
                answers.setdefault(other.time, set()).add(claim.port)
        without = [time for time, ports in answers.items() if own.claim.port not in ports]
        assert entry.since == max((time for time in without if time < own.time), default=-NEVER)
        assert entry.until == min((time for time in without if time > own.time), default=NEVER)


@given(st.lists(ANNOUNCEMENTS, max_size=12), st.integers(0, 7))
def test_what_is_asked_holds_and_is_the_nearest(announcements: list[Announcement], time: int) -> None:
    learnt = settled(*announcements)
    holding = [entry for entry in learnt if entry.announcement.claim.endpoint == (SERVER, "tcp", 6117)]
    holding = [entry for entry in holding if entry.since <= time < entry.until]
    answer = held(learnt, SERVER, "tcp", 6117, time)
    if any(said.claim.server == SERVER for said in answer):
        assert {said.claim.told for said in answer} == {entry.announcement.claim.told for entry in holding}
        for own in answer:
            rivals = [other.announcement.time for other in holding if other.announcement.claim.told == own.claim.told]
            earlier = [when for when in rivals if when <= time]
            assert own.time == (max(earlier) if earlier else min(rivals))
    else:
        assert not holding


def test_a_busy_mapper_takes_no_time() -> None:
    """100,000 answers for one port and as many conversations with it: a day of a large site."""
    number = 100_000
    learnt = settled(*(told(10 * i, port=6117 + (i > number // 2), conversation=i) for i in range(number)))
    asking = np.arange(0, number, 10)
    ports = np.full(len(asking), learnt.endpoints.index((SERVER, "tcp", 6117)))
    answered, _ = learnt.at(ports, 10 * asking + 1, asking)
    assert len(answered) == number // 20 + 1


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANNOUNCEMENTS", 30)
    monkeypatch.setattr(module, "MAX_TOLD_OF_PORT", 5)
    learnt = settled(*(told(i, uuid=f"{i:08x}-0000-0000-0000-000000000000") for i in range(40)))
    assert len(learnt.announcements) == 30
    assert times(learnt, 99) == [4, 3, 2, 1, 0]
    assert learnt.refused == 10 + 25


# ---- the file -------------------------------------------------------------------------------------------------


@given(announcements=st.lists(ANNOUNCEMENTS, max_size=12))
def test_what_was_saved_is_loaded(announcements: list[Announcement], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The newest of each, in the same times as before; saving what was loaded writes the same file."""
    path = tmp_path_factory.mktemp("map") / "map.jsonl"
    settled(*announcements).save(path)
    first = path.read_text()
    loaded = EndpointMap.load(path)
    loaded.settle()
    assert {entry.announcement.claim.kind for entry in loaded} <= {"endpoint-map-file"}
    assert {entry.announcement.claim.endpoint for entry in loaded} == {said.claim.endpoint for said in announcements}
    loaded.save(path)
    assert path.read_text() == first
    assert list(path.parent.iterdir()) == [path]


def test_a_restart_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "map.jsonl"
    settled(told(10), told(15, kind="bind"), told(50, port=6320), told(55, port=6320, kind="bind")).save(path)
    loaded = EndpointMap.load(path)
    loaded.add([told(60, port=6320)])
    loaded.settle()
    assert not times(loaded, 70)
    assert [said.claim.kind for said in held(loaded, SERVER, "tcp", 6320, 70)] == ["ept_map", "endpoint-map-file"]


def test_binds_on_several_ports_do_not_contradict_each_other_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map.jsonl"
    settled(told(10, kind="bind"), told(50, port=6320, kind="bind")).save(path)
    loaded = EndpointMap.load(path)
    loaded.settle()
    assert times(loaded, 90) == [10]
    assert times(loaded, 90, port=6320) == [50]


GOOD = {
    "server": SERVER, "transport": "tcp", "port": 6117, "uuid": EMSMDB, "version": "0.81", "kind": "ept_map", "time": 5,
}  # fmt: skip


def test_a_file_written_by_hand(tmp_path: Path) -> None:
    """Upper case, a blank line and left-out members are fine."""
    path = tmp_path / "map.jsonl"
    short = {"server": "2001:DB8::0021", "transport": "udp", "port": 1, "time": 0}
    path.write_text(json.dumps(GOOD | {"uuid": EMSMDB.upper()}) + "\n\n" + json.dumps(short))
    loaded = EndpointMap.load(path)
    assert [(claim.server, claim.uuid) for claim in loaded.claims] == [(SERVER, EMSMDB), ("2001:db8::21", "")]


def test_no_file_is_an_empty_map(tmp_path: Path) -> None:
    assert EndpointMap.load(tmp_path / "none.jsonl").announcements == []


BROKEN = {
    "no JSON": b"{",
    "no object": b"[1, 2]",
    "deep": b"[" * 100_000,
    "port 0": {"port": 0},
    "port of floats": {"port": 6117.0},
    "port too large": {"port": 65_536},
    "port infinite": b'{"server": "10.0.0.1", "transport": "tcp", "time": 5, "port": Infinity}',
    "port true": {"port": True},
    "port missing": {"port": None},
    "time beyond": {"time": 2**70},
    "transport": {"transport": "sctp"},
    "kind": {"kind": "ept_mapp"},
    "uuid": {"uuid": "EMSMDB"},
    "server name": {"server": "mbx1"},
    "server number": {"server": 5},
    "annotation": {"annotation": ["x"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(name: str, tmp_path: Path) -> None:
    path, broken = tmp_path / "map.jsonl", BROKEN[name]
    line = broken if isinstance(broken, bytes) else json.dumps(GOOD | broken).encode()
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(UsageError) as caught:
        EndpointMap.load(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_what_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "map.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path):
        with pytest.raises(UsageError, match="can't read endpoint map"):
            EndpointMap.load(path)


def test_a_map_that_cannot_come_to_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its folder does not exist"):
        EndpointMap.load(tmp_path / "none" / "map.jsonl")


def test_a_map_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    """Nor the map that was there before."""
    path = tmp_path / "map.jsonl"
    path.write_text(before := json.dumps(GOOD) + "\n")
    (tmp_path / "map.jsonl.part").mkdir()
    result = classifier.classify(CAPTURES / "ticket-49734.pcapng", endpoint_map=path)
    assert len(result) > 0
    assert result.failures == [f"endpoint map {path} was not written: Is a directory"]
    assert path.read_text() == before


# ---- from one run to the next ----------------------------------------------------------------------------------


def test_a_capture_without_the_mapper_is_labelled_by_an_earlier_run(tmp_path: Path) -> None:
    """It holds the sealed middle of a session and nothing else."""
    learnt, capture = tmp_path / "map.jsonl", CAPTURES / "rpc-mid-stream.pcap"
    inventory = CAPTURES / "rpc-mid-stream.inventory.toml"
    before = classifier.classify(capture, inventory=inventory)[1]
    assert before.resolved_by is None
    assert before.certainty in (None, "weak")
    classifier.classify(CAPTURES / "ticket-49734.pcapng", endpoint_map=learnt)
    record = GOOD | {"server": before.server_ip, "port": before.server_port}
    with learnt.open("a") as file:
        file.write(json.dumps(record) + "\n")
    after = classifier.classify(capture, inventory=inventory, endpoint_map=learnt)[1]
    origin = {"kind": "endpoint-map-file", "uuid": EMSMDB, "frame": None, "file": None, "conversation": None}
    assert {name: after.resolved_by[name] for name in origin} == origin
    assert after.certainty == "strong"
    assert "cas-to-mailbox" in after.data_paths
    assert any(item["kind"] == "announcement" and item["frame"] is None for item in after.evidence)


@shared.needed
def test_real_capture_without_the_mapper(tmp_path: Path) -> None:
    """The same traffic with and without its frames of port 135."""
    learnt, without = tmp_path / "map.jsonl", shared.FOLDER / "wrapped" / "svcctl-no-epm.pcap"
    whole = classifier.classify(shared.FOLDER / "wrapped" / "svcctl-vlan.pcap", endpoint_map=learnt)
    saved = [json.loads(line) for line in learnt.read_text().splitlines()]
    assert {"ept_map", "bind"} <= {entry["kind"] for entry in saved}
    (mapped,) = (talk for talk in whole if talk.server_port == 49683)
    (resolved,) = (talk for talk in classifier.classify(without, endpoint_map=learnt) if talk.server_port == 49683)
    assert (mapped.resolved_by["kind"], resolved.resolved_by["kind"]) == ("ept_map", "endpoint-map-file")
    assert resolved.resolved_by["uuid"] == mapped.resolved_by["uuid"]


def test_the_map_grows_and_is_shown(tmp_path: Path) -> None:
    learnt = tmp_path / "map.jsonl"
    classifier.classify(CAPTURES / "rpc-nat.pcap", endpoint_map=learnt)
    first = learnt.read_text().splitlines()
    result = classifier.classify(CAPTURES / "rpc-ipv6.pcap", endpoint_map=learnt)
    assert set(first) < set(learnt.read_text().splitlines())
    assert {"ept_map", "bind", "endpoint-map-file"} <= {row["kind"] for row in result.endpoint_rows}


# ---- when a bind says something else -----------------------------------------------------------------------------


def played(path: Path, *bound: Syntax) -> Result:
    """The mapper hands out 6117 for EMSMDB; then these are bound there; then something sealed goes on there."""
    scene = Scene("disagreement")
    client, server = scene.host("c", "10.10.1.31"), scene.host("m", SERVER)
    talk.map_port(scene, client, server, rpc.EMSMDB, 6117)
    for interface in bound:
        talk.session(scene, client, server, 6117, interface, None, (0, 1))
    going_on = scene.tcp(client, server, 6117, handshake=False)
    going_on.ask(scene.noise(200))
    path.write_bytes(files.classic(scene.in_time()[0]))
    return classifier.classify(path, jobs=1)


def test_a_bind_of_another_interface_is_told_beside_the_announcement(tmp_path: Path) -> None:
    """Neither wins: the announcement stays, what was bound is entered too, and the table says so."""
    result = played(tmp_path / "x.pcap", rpc.NSPI)
    said = {(row["uuid"], row["kind"]): row["disagreement"] for row in result.endpoint_rows}
    assert said == {(EMSMDB, "ept_map"): "bound on this port: nspi", (NSPI, "bind"): None}
    assert (result[2].rpc_interfaces[0]["uuid"], result[2].resolved_by["uuid"]) == (NSPI, EMSMDB)
    assert result[3].resolved_by["uuid"] == EMSMDB


def test_a_process_that_serves_what_was_announced_and_more_contradicts_nothing(tmp_path: Path) -> None:
    result = played(tmp_path / "x.pcap", rpc.NSPI, rpc.EMSMDB)
    assert {(row["uuid"], row["kind"]) for row in result.endpoint_rows} == {
        (EMSMDB, "ept_map"), (EMSMDB, "bind"), (NSPI, "bind"),
    }  # fmt: skip
    assert [row["disagreement"] for row in result.endpoint_rows] == [None] * 3
