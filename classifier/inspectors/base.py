"""The contract between the streams of a conversation and the inspectors that read them.

An inspector is a pure function: bytes in, evidence out. It does no I/O, keeps no state
between calls and knows neither frames nor addresses; it names the place of everything
it found by side and stream offset (`Place`), which the pipeline turns into frame numbers.

It has three answers:

* an `Evidence`: the payload is this protocol, and this is what it says;
* `WAIT`: what is there fits, but is too short to be sure (at the end of a capture: not enough);
* `NOT_THIS`: the payload is another protocol.

Beside `inspect` each module says with which first octets one of the first two is possible (`FirstOctets`). It isn't
asked about others, which is sooner done.

The same bytes in any segmentation, order or duplication give the same answer, because the
streams are put in order before an inspector sees them. A hole in a stream is told (two
chunks that do not touch); an inspector resynchronises behind it or stops there, and says
so (`Evidence.gap`). No bytes whatever may raise an exception or cost unbounded work:
each length is checked against what is there, each count against `limits`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, Literal, NamedTuple


class Side(IntEnum):
    """Which stream of the dialogue, in the dialogue's own (tentative) orientation."""

    TO_SERVER = 0
    TO_CLIENT = 1


class Place(NamedTuple):
    """Where in the dialogue something was seen: stream and offset of its first byte there.

    For UDP the offset counts the bytes of all datagrams of that direction before it.
    """

    side: Side
    offset: int


FIRST_BYTE: Final = Place(Side.TO_SERVER, 0)
"""Where a dialogue begins."""


class Chunk(NamedTuple):
    """A run of contiguous stream bytes (TCP), or one datagram's payload (UDP)."""

    offset: int
    data: bytes


class Stream(NamedTuple):
    """One direction. chunks are in order; TCP chunks never touch: between two there is a hole.

    started: offset 0 is known to be the direction's first byte (its SYN was captured, or it is UDP).
    limited: further bytes were seen but not kept, because a bound of `limits` was met.
    truncated: bytes are missing because the capture's snap length cut packets.
    """

    chunks: tuple[Chunk, ...] = ()
    started: bool = True
    limited: bool = False
    truncated: bool = False

    @property
    def head(self) -> bytes:
        """The bytes from the beginning up to the first hole (UDP: the first datagram); b"" if there are none."""
        return self.chunks[0].data if self.chunks and self.chunks[0].offset == 0 else b""

    @property
    def has_hole(self) -> bool:
        """Whether bytes before the last kept one are missing (never for UDP datagrams)."""
        end = 0
        for chunk in self.chunks:
            if chunk.offset != end:
                return True
            end = chunk.offset + len(chunk.data)
        return False


class Dialogue(NamedTuple):
    """Both directions of one conversation.

    oriented: a SYN (or SYN-ACK) told client from server. When false, to_server and to_client may be
    the wrong way round, and an inspector that can tell says so in `Evidence.reversed`.
    server_port: a hint for inspectors whose protocol has no bytes of its own; never proof.
    """

    transport: Literal["tcp", "udp"]
    to_server: Stream
    to_client: Stream
    server_port: int = 0
    client_port: int = 0
    oriented: bool = True

    def stream(self, side: Side) -> Stream:
        """The stream of one side."""
        return self.to_server if side is Side.TO_SERVER else self.to_client


class Interface(NamedTuple):
    """One presentation context of an RPC association (or one interface named in a connectionless PDU).

    uuid: lower case, with hyphens. version: "major.minor", the minor 0 written too ("0.81", "56.0").
    accepted: the server's result for it; None when the answer was not seen.
    transfer_syntax: uuid of the accepted one (or the first offered). via: "" on the transport itself,
    else what carries it: a pipe ("\\\\PIPE\\\\winreg"), "http".
    """

    uuid: str
    version: str
    accepted: bool | None
    place: Place
    transfer_syntax: str = ""
    via: str = ""


class Handout(NamedTuple):
    """A port handed out: by an endpoint-mapper answer, an OXID answer, a bind_ack's secondary address,
    a SIP redirect, SDP, an RPC proxy path.

    kind: as `model.ResolutionKind`. address: the address written in the announcement (a tower's floor 5,
    an OXID binding, an SDP c= line), "" if none; the TCP peer outweighs it. uuid, version: "" where no
    interface is involved. annotation: the server's own words for the interface (ept_lookup), or for the media (SDP).
    host: a name instead of an address (RPC proxy path, OXID binding), "" if none.
    """

    kind: Literal["ept_map", "ept_lookup", "oxid", "sdp", "sip-redirect", "rpc-proxy", "secondary-address"]
    transport: Literal["tcp", "udp", "http"]
    port: int
    place: Place
    uuid: str = ""
    version: str = ""
    address: str = ""
    host: str = ""
    annotation: str = ""


class Query(NamedTuple):
    """An interface asked for at the endpoint mapper (ept_map, or ept_lookup by interface).

    status: the mapper's status word (0 found, 0x16c9a0d6 not registered), a fault's status, or None
    when no answer was seen.
    """

    uuid: str
    version: str
    place: Place
    status: int | None = None


class Sign(NamedTuple):
    """One observation that a label may stand on: field names its kind in dotted words, value its text.

    Examples: ("smtp.ehlo", "X-ANONYMOUSTLS"), ("http.path", "/ews/exchange.asmx"), ("ntlm.workstation", "OUTLOOK1").
    Values come from strangers: at most limits.MAX_TEXT characters, made safe where they are shown.
    """

    field: str
    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one inspector read in one conversation.

    reversed: True when the payload proves that to_server was sent by the server; False when it proves
    the dialogue's orientation; None when the payload can't tell.
    gap: a hole in a stream kept the inspector from reading on. limited: a bound of `limits` did.
    """

    protocol: str
    place: Place = FIRST_BYTE
    reversed: bool | None = None
    interfaces: tuple[Interface, ...] = ()
    queries: tuple[Query, ...] = ()
    handouts: tuple[Handout, ...] = ()
    authentication: str | None = None
    encryption: str | None = None
    tls_version: str | None = None
    tls_sni: str | None = None
    ja4: str | None = None
    signs: tuple[Sign, ...] = field(default=())
    gap: bool = False
    limited: bool = False


class Answer(Enum):
    """The two answers that are not a value."""

    WAIT = "wait"
    NOT_THIS = "not this"


WAIT: Final = Answer.WAIT
NOT_THIS: Final = Answer.NOT_THIS

Inspect = Callable[[Dialogue], "Evidence | Answer"]
"""What each module in this package offers under the name `inspect`."""


class FirstOctets(NamedTuple):
    """What each module says beside its `inspect` under the name `FIRST_OCTETS`: when it need not be asked.

    octets: where both sides begin with others, the answer is `NOT_THIS`. A side begins with the octet at offset 0 of
    its stream, or with that of its first datagram; one that says nothing begins with none. Too many cost a bit of
    time, too few lose conversations.
    resumes: it can have another answer where the beginning of a stream is missing, and behind a hole.
    """

    octets: bytes
    resumes: bool = False


ANY_OCTET: Final = FirstOctets(bytes(range(256)), resumes=True)
"""For protocols that may begin with anything, such as a random number or a length."""


class Inspector(NamedTuple):
    """One row of the lists of inspectors; name: as people call it, which is often the protocol's word."""

    name: str
    inspect: Inspect
    first: FirstOctets
