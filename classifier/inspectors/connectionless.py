"""DCE/RPC over datagrams (ncadg_ip_udp): C706 section 12.5.

Owns the 80-byte connectionless header. There is no bind: every PDU names its interface. Calls are matched to
replies by activity and sequence number.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from classifier import limits
from classifier.inspectors import epm
from classifier.inspectors.association import Call, Context
from classifier.inspectors.base import NOT_THIS, Answer, Chunk, Dialogue, Evidence, Interface, Place, Side, Sign
from classifier.inspectors.ndr import BIG, LITTLE, NDR32, Order, uuid_text

REQUEST, PING, RESPONSE, FAULT, WORKING, NOCALL, REJECT, ACK, CANCEL, FACK, CANCEL_ACK = range(11)

_FROM_CLIENT: Final = frozenset({REQUEST, PING, ACK, CANCEL})
_FROM_SERVER: Final = frozenset({RESPONSE, FAULT, WORKING, NOCALL, REJECT, CANCEL_ACK})
"""Who sends which PDU (C706 section 12.5.3); fack goes both ways."""

_SERVES: Final = frozenset({RESPONSE, WORKING, FACK})
"""PDUs by which a server shows that it knows the interface."""

_LAST_FRAGMENT, _FRAGMENT = 0x02, 0x04

_CONVERSATION_MANAGER: Final = "333a2276-0000-0000-0d00-00809c000000"
"""conv_who_are_you, by which a server calls its client back (C706 appendix P): nobody's service."""

_LAYOUT: Final = "BBBB3sB16s16s16sIIIHHHHHBB"
_HEADERS: Final = {LITTLE: Struct("<" + _LAYOUT), BIG: Struct(">" + _LAYOUT)}
_SIZE: Final = 80

_AUTHENTICATIONS: Final = {0: "none", 9: "negotiate", 10: "ntlm", 16: "kerberos", 68: "netlogon"}


class Datagram(NamedTuple):
    """One connectionless PDU."""

    ptype: int
    flags: int
    order: Order
    uuid: str
    version: str
    call: tuple[bytes, int]
    opnum: int
    fragment: int
    auth: int
    body: bytes
    place: Place


def read_datagram(chunk: Chunk, side: Side) -> Datagram | None:
    """The PDU in one datagram, None if it is none: version 4, known type and label, body within the datagram."""
    data = chunk.data
    if len(data) < _SIZE or data[0] != 4 or data[1] > CANCEL_ACK or data[4] & 0xEE or data[5] > 3 or data[6]:
        return None
    order = LITTLE if data[4] & 0x10 else BIG
    (_, ptype, flags, _, _, _, _, uuid, activity, _, version, sequence, opnum, _, _, length, fragment, auth, _) = (
        _HEADERS[order].unpack_from(data)
    )
    if _SIZE + length > len(data):
        return None
    return Datagram(
        ptype, flags, order, uuid_text(uuid, order.big), f"{version & 0xFFFF}.{version >> 16}", (activity, sequence),
        opnum, fragment, auth, data[_SIZE : _SIZE + length], Place(side, chunk.offset),
    )  # fmt: skip


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read an RPC conversation over UDP."""
    heads = [(stream.chunks[0], side) for side in Side if (stream := dialogue.stream(side)).chunks]
    first = [read_datagram(chunk, side) for chunk, side in heads]
    if not first or None in first:
        return NOT_THIS
    swapped = _swapped([found for found in first if found])
    client = Side.TO_CLIENT if swapped else Side.TO_SERVER
    return _Exchange(client).read(dialogue, swapped)


def _swapped(first: list[Datagram]) -> bool | None:
    for found in first:
        if found.ptype in _FROM_CLIENT:
            return found.place.side is Side.TO_CLIENT
        if found.ptype in _FROM_SERVER:
            return found.place.side is Side.TO_SERVER
    return None


def _datagrams(dialogue: Dialogue, side: Side) -> Iterator[Datagram]:
    for chunk in dialogue.stream(side).chunks[: limits.MAX_PDUS]:
        found = read_datagram(chunk, side)
        if found and found.uuid != _CONVERSATION_MANAGER:
            yield found


class _Exchange:
    """What the datagrams of both directions tell."""

    def __init__(self, client: Side) -> None:
        self.client = client
        self.server = Side(1 - client)
        self.contexts: dict[tuple[str, str], Context] = {}
        self.activities: dict[bytes, Context] = {}
        self.calls: dict[tuple[bytes, int], Call] = {}
        self.fragments: dict[int, dict[int, bytes]] = {}
        self.marks: dict[tuple[str, str], Place] = {}
        self.auth = 0

    def read(self, dialogue: Dialogue, swapped: bool | None) -> Evidence:
        # By type and not by stream: some senders put both sides of an exchange on one port pair.
        found = [datagram for side in (self.client, self.server) for datagram in _datagrams(dialogue, side)]
        for datagram in found:
            if datagram.ptype in _FROM_CLIENT or (datagram.ptype == FACK and datagram.place.side is self.client):
                self._from_client(datagram)
        for datagram in found:
            if datagram.ptype in _FROM_SERVER or (datagram.ptype == FACK and datagram.place.side is self.server):
                self._from_server(datagram)
        self._join()
        queries, handouts = epm.read(self.calls.values())
        mapping = any(uuid == epm.UUID for uuid, _ in self.contexts)
        return Evidence(
            "epm" if mapping else "dcerpc",
            reversed=swapped,
            interfaces=tuple(map(_interface, self.contexts.values())),
            queries=tuple(queries),
            handouts=tuple(handouts),
            authentication=_AUTHENTICATIONS.get(self.auth),
            encryption=None if self.auth else "none",
            signs=tuple(Sign(name, value, place) for (name, value), place in self.marks.items()),
        )

    def _context(self, found: Datagram) -> Context | None:
        key = found.uuid, found.version
        if key not in self.contexts and len(self.contexts) < limits.MAX_CONTEXTS:
            place = found.place
            self.contexts[key] = Context(found.uuid, found.version, [NDR32], place.side, place.offset)
        return self.contexts.get(key)

    def _mark(self, name: str, value: str, place: Place) -> None:
        if len(self.marks) < limits.MAX_SIGNS:
            self.marks.setdefault((name, value), place)

    def _from_client(self, found: Datagram) -> None:
        self.auth = max(self.auth, found.auth)
        context = self._context(found)
        if context is not None and len(self.activities) < limits.MAX_CALLS:
            self.activities[found.call[0]] = context
        if found.ptype != REQUEST or context is None:
            return
        self._mark("rpc.opnum", f"{found.uuid}:{found.opnum}", found.place)
        if found.opnum not in epm.WANTED.get(found.uuid, ()) or len(self.calls) >= limits.MAX_CALLS:
            return
        call = self.calls.setdefault(found.call, Call(context, found.opnum, found.order, found.place))
        call.sealed = bool(found.auth)  # the level is in the verifier, whose layout the mechanism decides
        self.fragments.setdefault(2 * id(call), {})[found.fragment] = found.body

    def _from_server(self, found: Datagram) -> None:
        context = self.activities.get(found.call[0]) or self._context(found)
        if context is not None and found.ptype in _SERVES:
            context.accepted = True
        call = self.calls.get(found.call)
        if found.ptype in (FAULT, REJECT):
            self._refuse(found, context, call)
        elif found.ptype == RESPONSE and call is not None:
            if call.answer is None:
                call.answer, call.answer_order, call.answered = bytearray(), found.order, found.place
            self.fragments.setdefault(2 * id(call) + 1, {})[found.fragment] = found.body

    def _refuse(self, found: Datagram, context: Context | None, call: Call | None) -> None:
        """fault or reject: a status word instead of an answer (C706 sections 12.5.3.7 and 12.5.3.12)."""
        if len(found.body) >= 4:
            status: int = found.order.u32(found.body, 0)[0]
            self._mark("rpc.fault", f"0x{status:08x}", found.place)
            if call is not None:
                call.fault = status
        if found.ptype == REJECT and context is not None and context.accepted is None:
            context.accepted = False

    def _join(self) -> None:
        """Put the fragments of each kept call in order of their numbers; a retransmission replaces its twin."""
        for call in self.calls.values():
            for parity, stub in enumerate((call.request, call.answer)):
                bodies = self.fragments.get(2 * id(call) + parity, {})
                if stub is not None:
                    for number in sorted(bodies):
                        stub += bodies[number]
            call.answer_complete = True


def _interface(context: Context) -> Interface:
    return Interface(
        context.uuid, context.version, context.accepted, Place(context.side, context.offset), context.syntax
    )
