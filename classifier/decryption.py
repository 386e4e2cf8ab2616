"""TLS read with its session keys: tshark decrypts, the inspectors read what is inside as if it had been sent in clear.

Owns the way from keys to decrypted dialogues, and what a conversation then says: the protocol inside, the facts of the
handshake beside it, and the sign `tls.decrypted` as a mark. Keys are those that TLS libraries log (NSS key log format,
the one of SSLKEYLOGFILE), in a file or in Decryption Secrets Blocks (pcapng 4.7). Only conversations whose ClientHello
has a random in the keys are followed, in a capture that holds nothing but conversations with TLS.
Must not know what labels are made of this.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import blocks, inspectors, tools
from classifier.errors import UsageError
from classifier.excerpt import Excerpt
from classifier.fields import Coded, Numbers
from classifier.inspection import OUTSIDE, Inspection, Origins
from classifier.inspectors import http2
from classifier.inspectors.base import Chunk, Dialogue, Evidence, Place, Side, Sign, Stream
from classifier.limits import DECRYPTED_AT_ONCE, DECRYPTED_CONVERSATIONS, KEEP_RPC, MAX_KEYLOG
from classifier.result import Result

_KEY: Final = re.compile(rb"^[A-Z][A-Z0-9_]+ ([0-9a-fA-F]{64}) [0-9a-fA-F]+\s*$", re.M)
"""A line of a key log: label, random of the ClientHello, secret (draft-ietf-tls-keylogfile section 2)."""

_WITH_TLS: Final = ("tls-implicit", "tls-upgrade")

Sender = tuple[str, int]
"""Address and port."""


@dataclass(slots=True)
class Inside:
    """What both sides of one conversation said inside TLS, by sender; each piece with the frame that completed it.

    client: who asks, as the result has it. frames, times: ordinals of the run, nanoseconds since 1970.
    """

    client: Sender
    server: Sender
    said: dict[Sender, bytearray] = field(default_factory=dict)
    starts: dict[Sender, list[int]] = field(default_factory=dict)
    frames: dict[Sender, list[int]] = field(default_factory=dict)
    times: dict[Sender, list[int]] = field(default_factory=dict)
    limited: bool = False

    def add(self, sender: Sender, data: bytes, frame: int, time: int) -> None:
        """Take the next piece of a side, as far as that much is kept of one (`limits.KEEP_RPC`)."""
        kept = self.said.setdefault(sender, bytearray())
        self.limited |= len(kept) + len(data) > KEEP_RPC
        if data := data[: KEEP_RPC - len(kept)]:
            self.starts.setdefault(sender, []).append(len(kept))
            self.frames.setdefault(sender, []).append(frame)
            self.times.setdefault(sender, []).append(time)
            kept += data

    def as_http1(self) -> Inside:
        """The same with HTTP/2 told as HTTP/1, header blocks only; itself if it speaks something else."""
        if not any(bytes(said).startswith(http2.PREFACE) for said in self.said.values()):
            return self
        told = Inside(self.client, self.server, limited=self.limited)
        for sender, said in self.said.items():
            for end, head in http2.as_http1(bytes(said)):
                piece = bisect_left(self.starts[sender], end) - 1
                told.add(sender, head, self.frames[sender][piece], self.times[sender][piece])
        return told

    def dialogue(self, asks: Sender, serves: Sender) -> Dialogue:
        """As the inspectors read it, with the two sides in the roles that the run gives them."""
        to_server, to_client = (
            Stream((Chunk(0, bytes(self.said[side])),) if self.said.get(side) else (), limited=self.limited)
            for side in (asks, serves)
        )
        return Dialogue("tcp", to_server, to_client, serves[1], asks[1])

    def origins(self, sender: Sender) -> Origins:
        """Where the bytes of a side are from."""
        listed = (self.starts.get(sender, []), self.frames.get(sender, []), self.times.get(sender, []))
        return Origins(*(np.array(each, np.int64) for each in listed))


@dataclass(slots=True)
class Insides:
    """Decrypted conversations by their number in the run. beyond_limit: how many more had keys."""

    by_number: dict[int, Inside] = field(default_factory=dict)
    beyond_limit: int = 0


# ---- from keys to bytes ------------------------------------------------------------------------------


def keylog(path: Path) -> bytes:
    """A key log file. Raises UsageError when it can't be read, is too large, or has no key in it."""
    try:
        with path.open("rb") as file:
            keys = file.read(MAX_KEYLOG + 1)
    except OSError as error:
        raise UsageError(f"can't open {path}: {error.strerror}") from error
    if len(keys) > MAX_KEYLOG:
        raise UsageError(f"{path}: more than {MAX_KEYLOG} bytes of keys")
    if not _KEY.search(keys):
        raise UsageError(f"{path}: no key of a TLS session in it, such as CLIENT_RANDOM and two numbers in hexadecimal")
    return keys


def decrypt(result: Result, keys: bytes) -> Insides:
    """Read what TLS conversations of a result say inside, as far as the keys go.

    Raises MissingToolError without tshark, UsageError when it fails or the captures can't be read again.
    """
    rows = _with_tls(result)
    if not len(rows):
        return Insides()
    tools.find("tshark")
    with tools.scratch("tls.pcapng") as capture, tools.scratch("keys.txt") as file:
        file.write_bytes(keys)
        copied = _Copied.write(result, rows, capture)
        asked = ["-n", "-r", str(capture), "-o", f"tls.keylog_file:{file}"]
        for port in copied.ports:
            asked += ["-d", f"tcp.port=={port},tls"]
        known = {random.lower() for random in _KEY.findall(keys)}
        streams = _streams(asked, copied, known)
        insides = Insides(beyond_limit=max(len(streams) - DECRYPTED_CONVERSATIONS, 0))
        del streams[DECRYPTED_CONVERSATIONS:]
        for start in range(0, len(streams), DECRYPTED_AT_ONCE):
            _follow(asked, copied, streams[start : start + DECRYPTED_AT_ONCE], insides.by_number)
    return insides


def _with_tls(result: Result) -> NDArray[np.int64]:
    column = result.columns["encryption"]
    assert isinstance(column, Coded)
    wanted = [value in _WITH_TLS for value in column.values]
    return np.flatnonzero(np.array(wanted, np.bool_)[column.codes]) if wanted else np.empty(0, np.int64)


@dataclass(slots=True)
class _Copied:
    """A capture of some conversations. numbers, frames, times: of each packet's conversation, its ordinal and time;
    parties: client and server of each conversation; ports: server ports that speak TLS from the first byte."""

    numbers: list[int]
    frames: list[int]
    times: list[int]
    parties: dict[int, tuple[Sender, Sender]]
    ports: list[int]

    @classmethod
    def write(cls, result: Result, rows: NDArray[np.int64], path: Path) -> _Copied:
        """Write the capture."""
        ids = result.columns["id"]
        assert isinstance(ids, Numbers)
        talks = [result[int(number)] for number in ids.values[rows]]
        parties = {
            talk.id: ((_plain(talk.client_ip), talk.client_port), (_plain(talk.server_ip), talk.server_port))
            for talk in talks
        }
        excerpt = Excerpt.of(result, list(parties))
        numbers, times, described = [], [], dict[int, int]()
        with path.open("wb") as out:
            out.write(blocks.section())
            for packet in excerpt.packets():
                if packet.interface not in described:
                    described[packet.interface] = len(described)
                    out.write(blocks.interface(packet.link, 9))
                out.write(blocks.packet(described[packet.interface], packet.time, packet.data, packet.wire))
                numbers.append(packet.conversation)
                times.append(packet.time)
        implicit = sorted({talk.server_port for talk in talks if talk.encryption == "tls-implicit"})
        return cls(numbers, excerpt.ordinals.tolist(), times, parties, implicit)


def _plain(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _streams(asked: Sequence[str], copied: _Copied, known: set[bytes]) -> list[tuple[int, int]]:
    """Streams as tshark counts them, and the conversation of each, of hellos with a known random."""
    fields = ("-Y", "tls.handshake.type == 1", "-T", "fields", "-E", "occurrence=f")
    shown = ("-e", "frame.number", "-e", "tcp.stream", "-e", "tls.handshake.random")
    found: dict[int, int] = {}
    for line in tools.lines("tshark", *asked, *fields, *shown):
        frame, stream, random = [*line.rstrip("\n").split("\t"), "", ""][:3]
        if random.replace(":", "").lower().encode() in known and frame.isdecimal() and stream.isdecimal():
            found.setdefault(int(stream), copied.numbers[int(frame) - 1])
    return sorted(found.items())


_FIELD: Final = re.compile(r"(?:  - |    )(peer|host|port|packet|data): ?(.*)")


def _follow(
    asked: Sequence[str], copied: _Copied, streams: Sequence[tuple[int, int]], found: dict[int, Inside]
) -> None:
    """Let tshark tell what was said in these streams, piece by piece (`-z follow,tls,yaml`)."""
    wanted = [word for stream, _ in streams for word in ("-z", f"follow,tls,yaml,{stream}")]
    for piece in _pieces(tools.lines("tshark", *asked, "-q", *wanted)):
        try:
            data = binascii.a2b_base64("".join(piece.text))
        except binascii.Error:
            continue
        number, at = copied.numbers[piece.frame - 1], piece.frame - 1
        inside = found.get(number)
        if inside is None:
            inside = found[number] = Inside(*copied.parties[number])
        one, other = inside.client, inside.server
        if piece.first_peer == other:
            one, other = other, one
        if piece.first_peer == one:
            inside.add(other if piece.by_other else one, data, copied.frames[at], copied.times[at])


class _Piece(NamedTuple):
    """Bytes that tshark decrypted, as base64. first_peer: the side that it lists first; by_other: the other said it."""

    frame: int
    first_peer: Sender
    by_other: bool
    text: list[str]


def _pieces(lines: Iterator[str]) -> Iterator[_Piece]:
    """The pieces of such outputs, one behind another: YAML of one fixed shape.

    Of the second peer tshark 4.0 gives no address.
    """
    host, frame, by_other = "", 0, False
    first_peer, text = ("", 0), list[str]()
    for line in lines:
        if line.startswith("      "):
            text.append(line.strip())
            continue
        if text:
            yield _Piece(frame, first_peer, by_other, text)
            text = []
        at = _FIELD.match(line)
        if at is None:
            continue
        name, value = at.groups()
        if name == "packet":
            frame = int(value)
        elif name == "peer":
            by_other = value != "0"
        elif name == "host":
            host = value
        elif name == "port" and not by_other:
            first_peer = (_plain(host), int(value)) if host else ("", 0)
    if text:
        yield _Piece(frame, first_peer, by_other, text)


# ---- from bytes to evidence --------------------------------------------------------------------------


@contextmanager
def reading(inspection: Inspection, insides: Insides) -> Iterator[None]:
    """Around what joins evidence of several conversations: before it, the inspectors read what is inside; behind it,
    what each handshake told is put beside that."""
    outer = {}
    for index, spoken in _by_row(inspection, insides):
        inside = spoken.as_http1()
        sides = inside.client, inside.server
        if inside.client[1] != _client_port(inspection, index):
            sides = inside.server, inside.client
        known, found = inspection.evidence(index), inspectors.inspect(inside.dialogue(*sides))
        if known is not None and isinstance(found, Evidence) and known.protocol in ("tls", found.protocol):
            outer[index] = known
            inspection.inside[index] = (inside.origins(sides[0]), inside.origins(sides[1]))
            _replace(inspection, index, found)
    yield
    for index, known in outer.items():
        joined = inspection.evidence(index)
        assert joined is not None
        _replace(inspection, index, _together(known, joined))


def _by_row(inspection: Inspection, insides: Insides) -> Iterator[tuple[int, Inside]]:
    numbers = inspection.table.rows["number"][: inspection.table.count]
    rows = np.flatnonzero(np.isin(numbers, np.array(list(insides.by_number), np.int64) - 1))
    for row in rows.tolist():
        yield row, insides.by_number[int(numbers[row]) + 1]


def _client_port(inspection: Inspection, index: int) -> int:
    row = inspection.table.rows[index]
    return int(row["b_port"] if inspection.client[index] else row["a_port"])


def _replace(inspection: Inspection, index: int, found: Evidence) -> None:
    inspection.codes[index] = len(inspection.found)
    inspection.found.append(found)


def _together(outer: Evidence, inner: Evidence) -> Evidence:
    """What the handshake told, the mark, and what was said inside."""
    shown = inner.authentication not in (None, "none", "anonymous") or outer.authentication in (None, *_TOLD_LITTLE)
    own = outer.protocol != "tls"
    return replace(
        inner,
        place=_outside(outer.place) if own else inner.place,
        reversed=inner.reversed if outer.reversed is None else outer.reversed,
        authentication=(inner.authentication or outer.authentication) if shown else outer.authentication,
        encryption=outer.encryption,
        tls_version=outer.tls_version,
        tls_sni=outer.tls_sni,
        ja4=outer.ja4,
        signs=(
            *(sign._replace(place=_outside(sign.place)) for sign in outer.signs),
            Sign("tls.decrypted", inner.protocol, Place(Side.TO_SERVER, 0)),
            *inner.signs,
        ),
    )


_TOLD_LITTLE: Final = ("none", "anonymous", "unknown-encrypted")
"""What a handshake says of authentication where it shows none of its own."""


def _outside(place: Place) -> Place:
    return Place(place.side, OUTSIDE + place.offset)
