"""Every column of a conversation record: name, type, meaning, in the order users see them.

This is the one list of columns. `records` writes them, `tables` gives them dtypes, `columns`
fills them; `tests/conformance` holds all three to it. A value is kept in one of five column
shapes, because conversations are many and distinct values are few:

* `Numbers`: one int64 per conversation;
* `Times`: nanoseconds since 1970 UTC and how many fraction digits the capture wrote;
* `Texts`: ASCII text of one fixed width, as a numpy bytes array;
* `Coded`: one int32 code per conversation into a list of distinct values (null, text, list, object);
* `Framed`: the same for lists and objects that differ only in their frame numbers, which are kept apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier import model

Kind = Literal["int", "bool", "str", "time", "list[str]", "list[int]", "object", "list[object]"]


class Field(NamedTuple):
    """One column, or one member of an object in a column.

    kind: JSON type of its values; nullable: whether null can stand there; words: the closed vocabulary
    of a text, () when it is open; members: what the objects of an "object" or "list[object]" have.
    """

    name: str
    kind: Kind
    nullable: bool
    doc: str
    words: tuple[str, ...] = ()
    members: tuple[Field, ...] = ()


class Numbers(NamedTuple):
    """values: int64, one per conversation."""

    values: NDArray[np.int64]


class Times(NamedTuple):
    """ns: int64 nanoseconds since the epoch, `NO_TIME` for null; digits: int8 fraction digits to write, 0 to 9."""

    ns: NDArray[np.int64]
    digits: NDArray[np.int8]


class Texts(NamedTuple):
    """values: dtype 'S', one ASCII text per conversation, never null."""

    values: NDArray[np.bytes_]


class Coded(NamedTuple):
    """codes: int32, one per conversation, index into values; values: distinct, JSON-ready, None for null."""

    codes: NDArray[np.int32]
    values: list[Any]


@dataclass(frozen=True, slots=True)
class Hole:
    """Stands in a value of `Framed` for a number of the conversation's own: column `index` of its frames."""

    index: int


class Framed(NamedTuple):
    """A `Coded` column whose values may hold a `Hole` wherever an object has an int member.

    codes: int32, one per conversation; values: distinct, JSON-ready but for the holes; frames: integers,
    one row per conversation, one column per hole.
    """

    codes: NDArray[np.int32]
    values: list[Any]
    frames: NDArray[np.integer[Any]]

    @classmethod
    def of(
        cls, codes: NDArray[np.int32], values: list[Any], rows: NDArray[np.int64], numbers: Sequence[NDArray[np.int64]]
    ) -> Framed:
        """Numbers of these rows only, for each hole, not negative; a hole's lie together, as narrow as they can be."""
        widest = max((int(column.max(initial=0)) for column in numbers), default=0)
        frames = np.zeros((len(numbers), len(codes)), np.min_scalar_type(widest))
        for hole, column in enumerate(numbers):
            frames[hole, rows] = column
        return cls(codes, values, frames.T)


Column = Numbers | Times | Texts | Coded | Framed

NO_TIME: Final = -(2**63)
"""The `Times.ns` of a null; numpy and pandas call it NaT."""

CONN_STATES: Final = (
    "S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH",
)  # fmt: skip
"""Zeek's words for how a connection went (base/protocols/conn/main.zeek)."""


def _f(
    name: str,
    kind: Kind,
    doc: str,
    *,
    nullable: bool = False,
    words: tuple[str, ...] = (),
    members: tuple[Field, ...] = (),
) -> Field:
    return Field(name, kind, nullable, doc, words, members)


_FRAME: Final = _f("frame", "int", "number of the frame that shows it", nullable=True)
_FILE: Final = _f("file", "str", "capture that holds the frame", nullable=True)

_INTERFACE: Final = (
    _f("uuid", "str", "interface UUID, lower case"),
    _f("version", "str", "major.minor"),
    _f("name", "str", "its short name", nullable=True),
    _f("accepted", "bool", "the server's answer; null when it was not seen", nullable=True),
    _FRAME,
)
_RESOLUTION: Final = (
    _f("kind", "str", "what handed the port out", words=model.RESOLUTION_KINDS),
    _f("uuid", "str", "interface; null where none is involved", nullable=True),
    _f("name", "str", "its short name", nullable=True),
    _FRAME,
    _FILE,
    _f("conversation", "int", "id of the conversation that told it", nullable=True),
)
_FINDING: Final = (
    _f("id", "str", "which check"),
    _f("severity", "str", "how bad", words=model.SEVERITIES),
    _f("text", "str", "what is unexpected or weak, for a person"),
    _f("documented", "str", "what the documents expect there; null where they are silent", nullable=True),
    _FRAME,
)
_EVIDENCE: Final = (
    _f("kind", "str", "what sort of fact"),
    _f("field", "str", "which fact"),
    _f("value", "str", "what was seen", nullable=True),
    _FRAME,
    _FILE,
)


FIELDS: Final[tuple[Field, ...]] = (
    _f("id", "int", "1, 2, 3 in order of the first frame"),
    _f("community_id", "str", "Community ID v1 flow hash"),
    _f("file", "str", "capture that holds the first frame"),
    _f("first_frame", "int", "number of the first frame in its file, as Wireshark shows it"),
    _f("last_frame", "int", "number of the last frame in its file"),
    _f("start", "time", "time of the first frame, UTC"),
    _f("end", "time", "time of the last frame, UTC"),
    _f("transport", "str", "tcp or udp", words=model.TRANSPORTS),
    _f("client_ip", "str", "address of the side that asked"),
    _f("client_port", "int", "its port"),
    _f("server_ip", "str", "address of the side that serves"),
    _f("server_port", "int", "its port"),
    _f("orientation", "str", "how client and server were told apart", words=model.ORIENTATIONS),
    _f("packets_to_server", "int", "frames from client to server"),
    _f("packets_to_client", "int", "frames from server to client"),
    _f("bytes_to_server", "int", "bytes on the wire from client to server, whole frames"),
    _f("bytes_to_client", "int", "bytes on the wire from server to client, whole frames"),
    _f("conn_state", "str", "how the connection went, in Zeek's codes; null for UDP", nullable=True, words=CONN_STATES),
    _f("duplicate_packets", "int", "SPAN copies left out of the counts"),
    _f("missed_bytes", "int", "stream bytes that the capture does not hold"),
    _f("vlan", "list[int]", "VLAN ids, outermost first"),
    _f("tunnel", "list[str]", "encapsulations, outermost first"),
    _f("protocol", "str", "application protocol seen in the payload", nullable=True, words=model.PROTOCOLS),
    _f("rpc_interfaces", "list[object]", "RPC interfaces bound, in order", members=_INTERFACE),
    _f("resolved_by", "object", "who handed out the server port", nullable=True, members=_RESOLUTION),
    _f("data_paths", "list[str]", "documented data paths that the evidence allows, best first"),
    _f("data_path", "str", "the first of them, when evidence puts it ahead of the others", nullable=True),
    _f("client_role", "str", "role of the client", nullable=True, words=model.ROLES),
    _f("server_role", "str", "role of the server", nullable=True, words=model.ROLES),
    _f("exchange_versions", "list[str]", "Exchange versions that fit", words=model.VERSIONS),
    _f("certainty", "str", "how sure the label is; null when there is none", nullable=True, words=model.CERTAINTIES),
    _f("absence", "str", "why there is no label; null when there is one", nullable=True, words=model.ABSENCES),
    _f("authentication", "str", "authentication observed", nullable=True, words=model.AUTHENTICATIONS),
    _f("encryption", "str", "encryption observed", nullable=True, words=model.ENCRYPTIONS),
    _f("tls_version", "str", "version that the TLS handshake agreed on", nullable=True),
    _f("tls_sni", "str", "server name that the TLS client asked for", nullable=True),
    _f("ja4", "str", "JA4 fingerprint of the TLS client", nullable=True),
    _f("findings", "list[object]", "what is unexpected or weak", members=_FINDING),
    _f("firewall_rules", "list[str]", "rules of Exchange Setup that admit this conversation at its server"),
    _f("evidence", "list[object]", "what the label stands on", members=_EVIDENCE),
)

NAMES: Final[tuple[str, ...]] = tuple(field.name for field in FIELDS)

LIVE_FIELDS: Final[tuple[Field, ...]] = (
    _f("event", "str", "new, update or end: a later record of the same id replaces an earlier one",
       words=("new", "update", "end")),
    _f("capture_loss", "int", "packets that the capture lost, of anybody, while the conversation was open"),
)  # fmt: skip
"""What records of a live capture have besides."""

ENDPOINT_FIELDS: Final[tuple[Field, ...]] = (
    _f("server_ip", "str", "the host that serves the port: the TCP peer, whatever the announcement says"),
    _f("transport", "str", "tcp or udp"),
    _f("port", "int", "the port that was handed out", nullable=True),
    _f("uuid", "str", "interface UUID; null where none is involved", nullable=True),
    _f("version", "str", "its version", nullable=True),
    _f("name", "str", "its short name", nullable=True),
    _f("kind", "str", "what handed the port out", words=model.RESOLUTION_KINDS),
    _f("first_seen", "time", "when it was first told", nullable=True),
    _f("last_seen", "time", "when it was last told", nullable=True),
    _FRAME,
    _FILE,
    _f("conversation", "int", "id of the conversation that told it", nullable=True),
    _f("address", "str", "the address that the announcement itself names, where it does", nullable=True),
    _f("annotation", "str", "the server's own words about the service", nullable=True),
    _f("disagreement", "str", "what else was said about this port at that time", nullable=True),
)
"""Columns of the endpoint map, as `exflow endpoints` and `Result.endpoints()` show it."""

_REASON: Final = (
    *_EVIDENCE[:3],
    _f("conversation", "int", "id of the conversation that shows it"),
    *_EVIDENCE[3:],
)

HOST_FIELDS: Final[tuple[Field, ...]] = (
    _f("address", "str", "the host"),
    _f("name", "str", "its name, where the inventory or the traffic gives one", nullable=True),
    _f("roles", "list[str]", "what it is", words=model.ROLES),
    _f("versions", "list[str]", "Exchange versions that fit", words=model.VERSIONS),
    _f("source", "str", "inventory or traffic"),
    _f("evidence", "list[object]", "the role that each act of the host speaks for", members=_REASON),
    _f("contradictions", "list[object]", "what the traffic shows and the inventory excludes", members=_REASON),
)
"""Columns of the hosts, as `exflow hosts` and `Result.hosts()` show them."""

_OF_FINDINGS: Final = (
    "start", "transport", "client_ip", "client_port", "server_ip", "server_port", "data_paths", "conn_state",
    "community_id",
)  # fmt: skip
"""What a finding tells of its conversation."""

FINDING_FIELDS: Final[tuple[Field, ...]] = (
    _f("conversation", "int", "id of the conversation"),
    _f("file", "str", "capture that holds its first frame"),
    *_FINDING,
    *(field for field in FIELDS if field.name in _OF_FINDINGS),
    _f("reason", "str", "why it is that severe"),
    _f("accepted", "str", "why the user accepts it; null if nobody does", nullable=True),
)
"""Columns of `Result.findings()`: one row a finding."""

FIREWALL_FIELDS: Final[tuple[Field, ...]] = (
    _f("server_ip", "str", "the host that serves the port"),
    _f("roles", "list[str]", "its roles, of the labels", words=model.ROLES),
    _f("transport", "str", "tcp or udp", words=model.TRANSPORTS),
    _f("port", "int", "the port that was in use"),
    _f("kind", "str", "how it came to be this port", words=("fixed", "mapper", "dynamic-rpc", "static-rpc")),
    _f("interfaces", "list[str]", "RPC interfaces seen or announced there: UUID, and name where one is known"),
    _f("clients", "list[str]", "addresses that asked"),
    _f("data_paths", "list[str]", "documented data paths that the evidence allows"),
    _f("setup_rules", "list[str]", "rules of Exchange Setup that admit it"),
    _f("conversations", "int", "how many were seen"),
    _f("unanswered", "int", "how many of them got no answer, or were refused"),
)
"""What a firewall has to let in, as `exflow firewall` shows it: one row for each port of a server that is labelled."""

SIGNATURE_FIELDS: Final[tuple[Field, ...]] = (
    _f("id", "str", "id of the data path"),
    _f("title", "str", "its name in the documents"),
    _f("client_roles", "list[str]", "who asks"),
    _f("server_roles", "list[str]", "who serves"),
    _f("ports", "list[str]", "where"),
    _f("versions", "list[str]", "Exchange versions that have it", words=model.VERSIONS),
)
"""Columns of `exflow signatures list`."""
