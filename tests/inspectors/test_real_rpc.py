"""Every RPC conversation of the real captures, against an answer key made with other tools.

Skipped where the captures or tshark, which takes the streams out of them, are not at hand.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest
from inspectors.extraction import conversations, have_tshark

from classifier import inspectors
from classifier.inspectors.base import Chunk, Dialogue, Evidence, Stream

CAPTURES = Path(__file__).parents[3] / "shared" / "captures"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CAPTURES.is_dir(), reason=f"SKIPPED: no real captures at {CAPTURES}"),
    pytest.mark.skipif(not have_tshark(), reason="SKIPPED: tshark is not installed"),
]

KEY_IS_WRONG = {
    # Frame 60 writes the number of results as one big-endian word (00 00 00 01 at octets 28 to 31), so that the octet
    # which counts them (C706 section 12.6.3.1, n_results) is 0: tshark sees no result, and the key takes that for a
    # refusal. Frame 62 is a response on the context: it was accepted.
    ("real/arkime+arkime/tests/pcap/dcerpc_synthetic.pcap", "tcp.8"): {"df1941c5-fe89-4e79-bf10-463657acf44d"},
}


def rows(name):
    if not CAPTURES.is_dir():
        return []
    with (CAPTURES / name).open(newline="") as file:
        return list(csv.DictReader(file))


RPC = [row for row in rows("truth.csv") if row["rpc_transport"]]
MAPS = defaultdict(list)
for _row in rows("epm_maps.csv"):
    MAPS[_row["file"], _row["stream"]].append(_row)


def read(row):
    conversation = conversations(CAPTURES / row["file"])[row["stream"]]
    found = inspectors.inspect(conversation.dialogue((row["client_ip"], int(row["client_port"]))))
    assert isinstance(found, Evidence)
    return found


def name(row):
    return f"{Path(row['file']).parent.name}/{Path(row['file']).name[-40:]}:{row['stream']}"


@pytest.mark.parametrize("row", RPC, ids=name)
def test_accepted_interfaces(row):
    expected = KEY_IS_WRONG.get((row["file"], row["stream"]), set(row["accepted_uuids"].split()))
    found = read(row)
    assert {item.uuid for item in found.interfaces if item.accepted} == expected
    assert found.reversed is not True
    pipe = row["rpc_transport"] == "ncacn_np"
    assert found.protocol == ("smb" if pipe else "epm" if row["service"] == "epm" else "dcerpc")
    assert all(item.via.startswith("\\PIPE") == pipe for item in found.interfaces)


@pytest.mark.parametrize("row", [row for row in RPC if "/" in row["auth_type_level"]], ids=name)
def test_authentication(row):
    """The key's words "SPNEGO(9)/privacy(6)": every pair is a sign; sealing and signing are what is reported."""
    found = read(row)
    pairs = row["auth_type_level"].replace(")/", ") ").split()
    numbers = [pair.rpartition("(")[2].rstrip(")") for pair in pairs]
    told = {(sign.field, sign.value) for sign in found.signs}
    assert {("rpc.auth-type", number) for number in numbers[::2]} <= told
    assert {("rpc.auth-level", number) for number in numbers[1::2]} <= told
    assert found.authentication in ("ntlm", "kerberos", "netlogon")


@pytest.mark.parametrize("row", [row for row in RPC if (row["file"], row["stream"]) in MAPS], ids=name)
def test_queries_and_handouts(row):
    found = read(row)
    key = MAPS[row["file"], row["stream"]]
    asked = sorted(line["uuid"] for line in key if line["direction"] == "req" and line["uuid"])
    told = {
        (line["uuid"], line["port"], line["tower_ip"]) for line in key if line["direction"] == "resp" and line["port"]
    }
    assert sorted(query.uuid for query in found.queries) == asked
    handouts = [item for item in found.handouts if item.kind.startswith("ept_")]
    assert {(item.uuid, str(item.port), item.address) for item in handouts} == told
    statuses = {int(line["status"], 16) for line in key if line["status"]}
    assert statuses <= {query.status for query in found.queries} or not asked


@pytest.mark.parametrize("level", ["none", "connect", "integrity", "privacy"])
def test_recorded_handshakes(level):
    path = CAPTURES / "handshakes" / f"ept_ndr32_impacket_{level}.pcap"
    mapper, service, refused = (inspectors.inspect(found.dialogue()) for found in conversations(path).values())
    assert [item.port for item in mapper.handouts if item.kind == "ept_map"] == [49160]
    assert [query.status for query in refused.queries] == [0x16C9A0D6]
    assert service.encryption == {"integrity": "rpc-integrity", "privacy": "rpc-privacy"}.get(level, "none")
    assert service.authentication == ("none" if level == "none" else "ntlm")


def test_snap_length_invents_nothing():
    path = CAPTURES / "wrapped" / "svcctl-snap96.pcap"
    for conversation in conversations(path).values():
        found = inspectors.inspect(conversation.dialogue())
        if isinstance(found, Evidence):
            assert found.interfaces == ()
            assert all(item.kind == "secondary-address" for item in found.handouts)


def changed(stream, dice):
    """The stream with some bytes other than they were, and in one case of two with a hole."""
    chunks = []
    for chunk in stream.chunks:
        data = bytearray(chunk.data)
        for _ in range(dice.randrange(1, 12)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cut = dice.randrange(len(data))
        chunks.append(Chunk(chunk.offset, bytes(data[:cut])))
        chunks.append(Chunk(chunk.offset + cut + dice.choice((0, 9)), bytes(data[cut + 9 :])))
    return Stream(tuple(chunk for chunk in chunks if chunk.data), started=dice.random() < 0.5)


@pytest.mark.parametrize("row", RPC, ids=name)
def test_changed_real_bytes_never_raise(row):
    dice = Random(name(row))
    whole = conversations(CAPTURES / row["file"])[row["stream"]].dialogue()
    for _ in range(20):
        sides = changed(whole.to_server, dice), changed(whole.to_client, dice)
        inspectors.inspect(Dialogue(whole.transport, *sides, oriented=False))
