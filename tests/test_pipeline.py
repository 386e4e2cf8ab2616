"""The whole way: what must not change the result, and what every result keeps."""

from __future__ import annotations

import csv
import random
import re
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import shared

import classifier
from classifier import pipeline
from classifier.assembly import assemble
from classifier.conclusion import Knowledge, conclude
from classifier.errors import UsageError
from classifier.fields import FIELDS, Field
from classifier.hosts import Inventory
from classifier.result import Result
from classifier.sources import CaptureSet

SHIPPED = Path(__file__).parents[1] / "captures"
TICKET = SHIPPED / "ticket-49734.pcapng"
MAPPED = SHIPPED / "row-cas-to-mailbox.pcap"
ALL = sorted(SHIPPED.glob("*.pcap*"))
LAB = sorted((SHIPPED / "lab").glob("*.pcap"))

Record = dict[str, Any]

every_capture = pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)


def run(*captures: Path, known: Path | None = None, jobs: int = 1) -> Result:
    """`classify` with signatures that are read once. known: a shipped capture whose inventory to use."""
    inventory = (known or captures[0]).with_suffix("").with_suffix(".inventory.toml")
    hosts = Inventory.load(inventory) if inventory.exists() else Inventory()
    capture_set = CaptureSet.of(captures)
    return conclude(capture_set, assemble(capture_set, jobs), Knowledge(shared.rulebook(), hosts), jobs)


@cache
def whole(path: Path) -> Result:
    return run(path)


def records(result: Result) -> list[Record]:
    return [each.to_dict() for each in result]


# ---- taking captures apart ---------------------------------------------------------------------------


def frames(path: Path) -> list[bytes]:
    """The records of a little-endian pcap; none of another format."""
    data, at, found = path.read_bytes(), 24, []
    if data[:4] not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        return []
    while at + 16 <= len(data) and at + 16 + (length := struct.unpack_from("<I", data, at + 8)[0]) <= len(data):
        found.append(data[at : at + 16 + length])
        at += 16 + length
    return found


def written(path: Path, origin: Path, kept: list[bytes]) -> Path:
    """A capture of the records, with the header of their origin."""
    path.write_bytes(origin.read_bytes()[:24] + b"".join(kept))
    return path


def in_ethernet(path: Path) -> bool:
    return path.suffix == ".pcap" and struct.unpack_from("<I", path.read_bytes(), 20)[0] == 1


def tcp(frame: bytes) -> tuple[str, int, str, int, int] | None:
    """Source, destination and flags of a record with unfragmented TCP in IPv4 in Ethernet."""
    packet = frame[30:]
    if frame[28:30] != b"\x08\x00" or packet[9] != 6 or int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return None
    header = (packet[0] & 15) * 4
    one, other = (".".join(map(str, packet[at : at + 4])) for at in (12, 16))
    one_port, other_port, flags = struct.unpack_from(">HH9xB", packet, header)
    return one, one_port, other, other_port, flags


SYN = 2
PLAIN = [path for path in ALL if in_ethernet(path) and frames(path)]


# ---- one capture set -----------------------------------------------------------------------------------


def without_places(value: Any) -> Any:
    """A record without what says in which file, and where in it."""
    if isinstance(value, dict):
        places = ("file", "frame", "first_frame", "last_frame")
        return {name: without_places(item) for name, item in value.items() if name not in places}
    return [without_places(item) for item in value] if isinstance(value, list) else value


def consecutive(rows: list[bytes], chance: random.Random) -> list[list[bytes]]:
    cuts = sorted(chance.randrange(len(rows) + 1) for _ in range(2))
    return [rows[start:end] for start, end in zip((0, *cuts), (*cuts, len(rows)), strict=True)]


def in_turns(rows: list[bytes], chance: random.Random) -> list[list[bytes]]:
    """As if three machines had captured a part each at the same time."""
    return [rows[start::3] for start in range(3)]


@pytest.mark.parametrize("deal", [consecutive, in_turns])
def test_splitting_into_files_changes_nothing_but_places(
    deal: Callable[[list[bytes], random.Random], list[list[bytes]]], tmp_path: Path
) -> None:
    """Given in any order, read by two threads: the records of the whole, ids and all, and what is said of hosts."""
    chance, wrong = random.Random(2), []
    for path in filter(frames, [*ALL, *LAB]):
        names = ["c.pcap", "a.pcap", "b.pcap"]
        parts = [
            written(tmp_path / name, path, part) for name, part in zip(names, deal(frames(path), chance), strict=True)
        ]
        chance.shuffle(parts)
        both = run(*parts, known=path, jobs=2), whole(path)
        one, other = (without_places([*records(result), *result.host_rows]) for result in both)
        if one != other:
            wrong.append(path.name)
    assert wrong == []


def test_a_folder_stands_for_its_captures(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name, part in zip(("z.pcap", "deeper/a"), consecutive(frames(MAPPED), random.Random(5)), strict=False):
        written(tmp_path / name, MAPPED, part)
    (tmp_path / "notes.txt").write_text("no capture")
    folder, files = run(tmp_path), run(tmp_path / "z.pcap", tmp_path / "deeper" / "a")
    assert records(folder) == records(files)
    assert folder.damages == ()


def test_a_port_learnt_in_one_file_labels_another(tmp_path: Path) -> None:
    """Also one that comes before it: the mapper's conversation is in the file given first, and last in time."""
    path = SHIPPED / "rpc-epm-afterwards.pcap"
    rows = [(tcp(frame), frame) for frame in frames(path)]
    mapper = [frame for ends, frame in rows if ends and 135 in ends]
    others = [frame for ends, frame in rows if not (ends and 135 in ends)]
    one, other = written(tmp_path / "a.pcap", path, mapper), written(tmp_path / "b.pcap", path, others)
    (talk,) = (each for each in run(one, other, known=path) if each.server_port == 6117)
    assert (talk.file, talk.certainty) == (str(other), "strong")
    assert (talk.resolved_by["kind"], talk.resolved_by["file"]) == ("ept_map", str(one))
    assert run(one, other, known=path)[talk.resolved_by["conversation"]].file == str(one)
    (alone,) = run(other, known=path)
    assert (alone.resolved_by, alone.certainty) != (talk.resolved_by, "strong")


@pytest.mark.parametrize("path", [TICKET, MAPPED, SHIPPED / "um-phone-call.pcap"], ids=lambda path: path.name)
def test_the_number_of_threads_changes_nothing(path: Path) -> None:
    assert records(run(path, jobs=2)) == records(run(path, jobs=5)) == records(whole(path))


@pytest.mark.parametrize(
    ("old", "new", "encryption"),
    [
        (b"", b"", "srtp"), (b"RTP/SAVP", b"RTP/AVP ", None), (b"RTP/SAVP", b"XYZ/ABCD", None),
        (b"m=audio", b"n=audio", None),
    ],
)  # fmt: skip
def test_the_session_description_tells_whether_media_are_sealed(
    old: bytes, new: bytes, encryption: str | None, tmp_path: Path
) -> None:
    """RTP/AVP with keys leaves it open; without keys it is clear, as in the capture of the plain call."""
    path = SHIPPED / "um-phone-call-srtp.pcap"
    changed = tmp_path / "call.pcap"
    changed.write_bytes(path.read_bytes().replace(old, new) if old else path.read_bytes())
    assert [talk.encryption for talk in run(changed, known=path) if talk.protocol == "rtp"] == [encryption]
    plain = whole(SHIPPED / "um-phone-call.pcap")
    assert [talk.encryption for talk in plain if talk.protocol == "rtp"] == ["none"]


def test_names_that_are_nothing() -> None:
    for names in ([], ["-", str(TICKET)], [str(SHIPPED / "none.pcap")], [str(SHIPPED / "makers")]):
        with pytest.raises(UsageError):
            classifier.classify(*names)


def test_an_endpoint_map_of_an_earlier_run_resolves(tmp_path: Path) -> None:
    learnt = tmp_path / "map.jsonl"
    classifier.classify(TICKET, endpoint_map=learnt)
    assert learnt.read_text().count("\n") >= 2
    late = classifier.classify(SHIPPED / "foreign-silence.pcap", endpoint_map=learnt)
    assert [each for each in late if each.resolved_by] == []
    assert "endpoint-map-file" in set(
        classifier.classify(SHIPPED / "rpc-mid-stream.pcap", endpoint_map=learnt).endpoints().kind
    )


def test_what_is_done_ahead_is_done_before_all_is_known() -> None:
    def enough() -> None:
        raise UsageError("enough")

    with pytest.raises(UsageError, match="enough"):
        pipeline.run([TICKET], ahead=enough)


# ---- little or nothing to read -----------------------------------------------------------------------------

EMPTY = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
ARP = struct.pack("<IIII", 1, 0, 42, 42) + b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + bytes(28)


@pytest.mark.parametrize("content", [b"", EMPTY, EMPTY + ARP], ids=["no bytes", "no packets", "no TCP or UDP"])
def test_nothing_to_read_is_a_result_with_all_columns(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pcap").write_bytes(content)
    result, full = run(tmp_path / "x.pcap"), whole(TICKET)
    assert (len(result), result.endpoint_rows, result.host_rows) == (0, [], [])
    assert result.to_pandas().dtypes.to_dict() == full.to_pandas().dtypes.to_dict()
    assert result.endpoints().dtypes.to_dict() == full.endpoints().dtypes.to_dict()
    assert len(result.damages) == (0 if content else 1)
    assert result.counters["packets_without_tcp_or_udp"] == result.counters["packets"] == (content[24:] == ARP)


# ---- when the beginning is missing ---------------------------------------------------------------------------

Ends = tuple[str, int, str, int]


def ends(talk: classifier.Conversation) -> Ends:
    return talk.client_ip, talk.client_port, talk.server_ip, talk.server_port


def test_without_handshakes_the_labels_are_the_same(tmp_path: Path) -> None:
    changed = set()
    for path in PLAIN:
        kept = [frame for frame in frames(path) if not ((found := tcp(frame)) and found[-1] & SYN)]
        talks = {ends(talk): talk for talk in whole(path)}
        for talk in run(written(tmp_path / "x.pcap", path, kept), known=path):
            told = talks[ends(talk)]
            same = (talk.protocol, talk.data_paths, talk.certainty) == (told.protocol, told.data_paths, told.certainty)
            if not same and talk.transport == "tcp":
                changed.add(path.name)
    assert changed == set()


def test_a_first_packet_from_the_server_turns_nothing_round(tmp_path: Path) -> None:
    """Every TCP conversation begins with something its server sent: payload, announcement or port tell who it is."""
    told: dict[str, int] = {}
    for path in PLAIN:
        right = {ends(talk) for talk in whole(path)}
        for talk in run(written(tmp_path / "x.pcap", path, list(from_server(frames(path), right))), known=path):
            nothing_tells = talk.orientation == "first-seen"
            assert nothing_tells or ends(talk) in right, (path.name, ends(talk), talk.orientation)
            told[talk.orientation] = told.get(talk.orientation, 0) + 1
    assert {"payload", "endpoint-map", "known-port"} <= set(told)
    assert told["first-seen"] <= 4


def from_server(rows: list[bytes], right: set[Ends]) -> Iterator[bytes]:
    begun = set()
    for frame in rows:
        found = tcp(frame)
        if found is None:
            yield frame
        elif not found[-1] & SYN:
            *source, address, port, _ = found
            if (address, port, *source) in right:
                begun.add((address, port, *source))
                yield frame
            elif (*source, address, port) in begun:
                yield frame


def test_halves_of_rpc_over_http_tell_what_only_both_know(tmp_path: Path) -> None:
    """The OUT channel has the answer to the bind that the IN channel carries."""
    path = SHIPPED / "row-rpc-over-http-v2.pcap"
    together = [item for talk in whole(path) for item in talk.rpc_interfaces]
    assert together
    assert all(item["accepted"] for item in together)
    alone = []
    for talk in whole(path):
        kept = [frame for frame in frames(path) if talk.client_port in (tcp(frame) or ())]
        (half,) = run(written(tmp_path / "x.pcap", path, kept), known=path)
        alone += half.rpc_interfaces
    assert not any(item["accepted"] for item in alone)


# ---- what every result keeps -----------------------------------------------------------------------------------


@cache
def known_paths() -> frozenset[str]:
    """Ids of the documents' tables; none where they are missing."""
    reference = shared.FOLDER.parent / "reference"
    ids: set[str] = set()
    for table in reference.glob("*.csv"):
        if table.stem in ("exchange2010_data_paths", "exchange2003_services", "other_versions"):
            with table.open(encoding="utf-8", newline="") as stream:
                ids |= {row["id"] for row in csv.DictReader(stream)}
    return frozenset(ids | {name.partition("-")[2] for name in ids if name.startswith("v")})


def outside(field: Field, value: Any) -> Iterator[str]:
    """What of a value its field doesn't allow: null, words, members."""
    if value is None:
        yield from () if field.nullable else [f"{field.name} is null"]
        return
    for item in value if isinstance(value, list) else [value]:
        if field.words and item not in field.words:
            yield f"{field.name}: {item!r}"
        if field.members and list(item) != [member.name for member in field.members]:
            yield f"{field.name}: members {list(item)}"
        for member in field.members:
            yield from outside(member, item[member.name])


def broken_promises(talk: Record, frame_count: int) -> Iterator[str]:
    """One line for each promise of the contract that a record breaks."""
    for field in FIELDS:
        yield from outside(field, talk[field.name])
    labelled = talk["certainty"] is not None
    origin = [talk["resolved_by"]] if talk["resolved_by"] else []
    pointers = [talk["first_frame"], talk["last_frame"]]
    pointers += [item["frame"] for item in (*talk["rpc_interfaces"], *talk["evidence"], *talk["findings"], *origin)]
    uuids = [item["uuid"] for item in (*talk["rpc_interfaces"], *origin) if item["uuid"] is not None]
    promises = {
        "certainty or absence": labelled != (talk["absence"] is not None),
        "paths and evidence of what is labelled": bool(talk["data_paths"]) == bool(talk["evidence"]) == labelled,
        "the one path is the first": talk["data_path"] in (None, *talk["data_paths"][:1]),
        "paths once": len(set(talk["data_paths"])) == len(talk["data_paths"]),
        "paths of the documents": not known_paths() or set(talk["data_paths"]) <= known_paths(),
        "rules of Setup": set(talk["firewall_rules"]) <= {rule.name for rule in shared.rulebook().firewall_rules},
        "frames of the file": all(frame is None or 1 <= frame <= frame_count for frame in pointers),
        "uuid in lower case": all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid) for uuid in uuids),
        "community id": talk["community_id"].startswith("1:"),
        "ports": all(0 <= talk[name] < 65_536 for name in ("client_port", "server_port")),
        "states of TCP": (talk["conn_state"] is None) == (talk["transport"] == "udp"),
        "no label above weak on a port alone": not only_the_port(talk) or talk["certainty"] == "weak",
    }
    yield from (name for name, kept in promises.items() if not kept)


def only_the_port(talk: Record) -> bool:
    return bool(talk["evidence"]) and {item["kind"] for item in talk["evidence"]} <= {"port", "inventory"}


@every_capture
def test_what_every_record_keeps(path: Path) -> None:
    for result in (whole(path), run(path, known=SHIPPED / "nobody.pcap")):
        broken = {talk["id"]: list(broken_promises(talk, result.counters["packets"])) for talk in records(result)}
        assert list(broken) == list(range(1, len(result) + 1))
        assert not any(broken.values()), broken


@shared.needed
def test_what_every_record_of_real_captures_keeps() -> None:
    broken = {}
    for name in shared.captures(""):
        if name.startswith(("real/", "wrapped/", "handshakes/")) and not name.endswith(".md"):
            result = shared.classified(name)
            lines = [line for talk in records(result) for line in broken_promises(talk, result.counters["packets"])]
            broken.update({name: lines} if lines else {})
    assert broken == {}


def test_documents_are_there() -> None:
    if not known_paths():
        pytest.skip("REFERENCE TABLES MISSING: ids of data paths were NOT compared with the documents")
    assert {"cas-to-mailbox", "e2003-smtp", "be-https"} <= known_paths()
