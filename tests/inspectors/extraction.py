"""Conversations of a capture as Dialogues, by tshark and a few lines: independent of the product's own readers.

For tests only: it holds whole captures in memory and trusts tshark's stream numbers. tshark needs a third of a second
to start, so that a capture is dissected once, and all that tests compare with is remembered.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from classifier.inspectors.base import Chunk, Dialogue, Stream

_FIELDS = (
    "frame.number", "tcp.stream", "udp.stream", "ip.src", "ipv6.src", "tcp.srcport", "tcp.dstport", "udp.srcport",
    "udp.dstport", "tcp.seq", "tcp.flags.syn", "tcp.flags.ack", "tcp.payload", "udp.payload",
)  # fmt: skip
COMPARED = (
    "tls.handshake.extensions_server_name", "x509ce.dNSName", "x509af.utcTime", "http.request.method",
    "http.request.uri", "http.user_agent", "http.server", "smtp.req.parameter", "smtp.req.command", "ldap.baseObject",
    "sip.Method", "dns.qry.name", "kerberos.realm", "kerberos.crealm", "pop.request.command",
)  # fmt: skip
"""Fields whose values tests compare with ours."""

_SWITCHES = ("--disable-protocol", "c1222", "--disable-protocol", "afp", "-o", "tcp.relative_sequence_numbers:FALSE")


@dataclass
class Half:
    """One direction while it is collected: (sequence number, bytes, frame) in order of capture."""

    first: int | None = None
    segments: list[tuple[int, bytes, int]] = field(default_factory=list)


@dataclass
class Conversation:
    """A stream of tshark's: its halves by sender (address, port), in order of appearance."""

    transport: str
    halves: dict[tuple[str, int], Half] = field(default_factory=dict)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    opener: tuple[str, int] | None = None

    def dialogue(self, client: tuple[str, int] | None = None) -> Dialogue:
        """As the product would see it; client: who is known to be the client, else the opener or the first."""
        senders = list(self.halves)
        client = client if client in senders else self.opener or senders[0]
        other = next((sender for sender in senders if sender != client), None)
        to_server = _stream(self.halves.get(client, Half()), self.transport)
        to_client = _stream(self.halves[other] if other else Half(), self.transport)
        oriented = self.opener is not None
        return Dialogue(self.transport, to_server, to_client, self.ports.get(client, 0), client[1], oriented)  # type: ignore[arg-type]


def _stream(half: Half, transport: str) -> Stream:
    if transport == "udp":
        chunks, offset = [], 0
        for _, data, _ in half.segments:
            chunks.append(Chunk(offset, data))
            offset += len(data)
        return Stream(tuple(chunks))
    if not half.segments:
        return Stream(started=half.first is not None)
    base = half.first if half.first is not None else _lowest([seq for seq, _, _ in half.segments])
    pieces = sorted((((seq - base) & 0xFFFFFFFF, data) for seq, data, _ in half.segments), key=lambda piece: piece[0])
    return Stream(tuple(_joined(pieces)), started=half.first is not None)


def _lowest(numbers: list[int]) -> int:
    first = numbers[0]
    return min(numbers, key=lambda number: (number - first + 0x80000000) & 0xFFFFFFFF)


def _joined(pieces: list[tuple[int, bytes]]) -> list[Chunk]:
    chunks: list[tuple[int, bytearray]] = []
    for offset, data in pieces:
        if offset > 0x7FFFFFFF:
            continue
        if chunks and offset <= chunks[-1][0] + len(chunks[-1][1]):
            start, joined = chunks[-1]
            joined += data[max(start + len(joined) - offset, 0) :]
        else:
            chunks.append((offset, bytearray(data)))
    return [Chunk(offset, bytes(data)) for offset, data in chunks]


@dataclass
class Dissected:
    """What tshark says of a capture.

    conversations: "tcp.0", "udp.3" ... -> conversation, of every TCP and UDP conversation; words: likewise, what its
    protocol column has for the frames; values: all that each field of COMPARED has.
    """

    conversations: dict[str, Conversation] = field(default_factory=lambda: defaultdict(lambda: Conversation("tcp")))
    words: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    values: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


@cache
def dissected(path: Path) -> Dissected:
    """What tshark says of a capture; asked once."""
    names = (*_FIELDS, "_ws.col.Protocol", *COMPARED)
    command = ["tshark", "-r", str(path), *_SWITCHES, "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=\x1e"]
    for name in names:
        command += ["-e", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = Dissected()
    for line in run.stdout.split("\n")[:-1]:
        every = dict(zip(names, (cell.split("\x1e") for cell in line.split("\t")), strict=False))
        for name in COMPARED:
            found.values[name].update(filter(None, every.get(name, ())))
        row = {name: cells[-1] for name, cells in every.items()}
        transport = "tcp" if row.get("tcp.stream") else "udp" if row.get("udp.stream") else ""
        if transport:
            found.words[f"{transport}.{row[transport + '.stream']}"][row["_ws.col.Protocol"]] += 1
            _collect(found.conversations, transport, row)
    return found


def conversations(path: Path) -> dict[str, Conversation]:
    """ "tcp.0", "udp.3" ... -> conversation, of every TCP and UDP conversation."""
    return dissected(path).conversations


def _collect(found: dict[str, Conversation], transport: str, row: dict[str, str]) -> None:
    conversation = found[f"{transport}.{row[transport + '.stream']}"]
    conversation.transport = transport
    sender = (row["ip.src"] or row["ipv6.src"], int(row[transport + ".srcport"]))
    conversation.ports[sender] = int(row[transport + ".dstport"])
    half = conversation.halves.setdefault(sender, Half())
    data = bytes.fromhex(row[transport + ".payload"])
    sequence = int(row["tcp.seq"] or 0)
    if row["tcp.flags.syn"] in ("1", "True"):
        half.first = sequence + 1 & 0xFFFFFFFF
        if row["tcp.flags.ack"] in ("0", "False"):
            conversation.opener = sender
    if data:
        half.segments.append((sequence, data, int(row["frame.number"])))


def have_tshark() -> bool:
    """Whether tshark is installed."""
    return shutil.which("tshark") is not None
