"""One RPC association over a connection: PDUs in, contexts, calls and security out.

Owns what the connection-oriented PDUs of DCE/RPC say (C706 chapter 12, MS-RPCE 2.2.2), whatever carries them:
TCP, a named pipe, RPC over HTTP. It knows no interface: which calls are worth keeping is told from outside.

The two directions are read one after the other, client first: replies are matched to calls and binds by call
id, in order where an id is used again, so the interleaving of the directions does not matter. Holes: see `pdus`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from classifier import limits
from classifier.inspectors import gssapi, rts
from classifier.inspectors.base import Chunk, Place, Side
from classifier.inspectors.ndr import LITTLE, Order, syntax_text
from classifier.inspectors.pdus import (
    ALTER,
    ALTER_RESPONSE,
    AUTH3,
    BIND,
    BIND_ACK,
    BIND_NAK,
    FAULT,
    FIRST_FRAGMENT,
    FROM_CLIENT,
    FROM_SERVER,
    HEADER_SIZE,
    LAST_FRAGMENT,
    OBJECT_UUID,
    REQUEST,
    RESPONSE,
    RTS,
    Pdu,
    pdus,
)
from classifier.inspectors.reading import Signs

VERIFICATION_MAGIC: Final = bytes.fromhex("8ae3137102f43671")
"""rpc_sec_verification_trailer signature (MS-RPCE 2.2.2.13.1)."""

_PCONTEXT: Final = 2

FEATURE_NEGOTIATION: Final = "6cb71c2c-9812-4540-"
"""Beginning of the transfer syntax that stands for bind time feature negotiation (MS-RPCE 3.3.1.5.3)."""

ACCEPTANCE: Final = 0

INTEGRITY, PRIVACY = 5, 6
"""Authentication levels (MS-RPCE 2.2.1.1.8) that protect stubs: signed, sealed."""


class Context:
    """A presentation context: an interface and the transfer syntaxes offered for it.

    accepted: None until the server's result is seen. syntax: the accepted transfer syntax, or the first offered.
    offset: of the PDU that brought it, in the client's stream.
    """

    __slots__ = ("accepted", "offset", "side", "syntax", "transfer", "uuid", "version")

    def __init__(self, uuid: str, version: str, transfer: list[str], side: Side, offset: int) -> None:
        self.uuid = uuid
        self.version = version
        self.transfer = transfer
        self.syntax = transfer[0] if transfer else ""
        self.accepted: bool | None = None
        self.side = side
        self.offset = offset

    @property
    def negotiates_only(self) -> bool:
        """Whether it stands for bind time feature negotiation and not for an interface."""
        return bool(self.transfer) and all(uuid.startswith(FEATURE_NEGOTIATION) for uuid in self.transfer)


class Call:
    """A call whose stubs are kept: request and answer, fragments joined.

    context: None where the bind was not seen. opnum: -1 where the request was not seen. answer: None without one.
    asked, answered: where the PDUs that began them are, None where none was seen.
    """

    __slots__ = (
        "answer", "answer_complete", "answer_order", "answered", "asked", "context", "fault", "opnum", "order",
        "request", "sealed",
    )  # fmt: skip

    def __init__(self, context: Context | None, opnum: int, order: Order, asked: Place | None) -> None:
        self.context = context
        self.opnum = opnum
        self.order = order
        self.asked = asked
        self.request = bytearray()
        self.sealed = False
        self.answer: bytearray | None = None
        self.answer_order = order
        self.answered: Place | None = None
        self.answer_complete = False
        self.fault: int | None = None


Wanted = Mapping[str, frozenset[int]]
"""Interface uuid -> operations whose stubs are kept; "" stands for contexts whose bind was not seen."""


class Association:
    """What both directions of one association tell. Feed `read_client`, then `read_server`.

    client: the side of the dialogue that the client's PDUs came from.
    """

    def __init__(self, wanted: Wanted, client: Side = Side.TO_SERVER) -> None:
        self.wanted = wanted
        self.client = client
        self.server = Side(1 - client)
        self.contexts: dict[int, Context] = {}
        self.bound: list[Context] = []
        self.calls: list[Call] = []
        self.secondary: tuple[str, int, list[Context]] | None = None
        self.levels: dict[tuple[int, int], Place] = {}
        self.protected: set[tuple[int, int]] = set()
        self.unprotected = False
        self.authenticated = False
        self.tokens: list[gssapi.Token] = []
        self.signature: bytes = b""
        self.signs = Signs()
        self.bind_seen = False
        self.limited = False
        self._binds: dict[int, deque[list[Context]]] = {}
        self._of_call: dict[int, Context | None] = {}
        self._met: dict[int, bool] = {}
        self._open: dict[int, Call] = {}
        self._waiting: dict[int, deque[Call]] = {}

    # ---- the client's PDUs ---------------------------------------------------------------

    def read_client(self, chunks: Sequence[Chunk]) -> int:
        """Read the client's stream; returns how many PDUs of a client it held."""
        count = 0
        for pdu in pdus(chunks):
            ptype = pdu.ptype
            if ptype == REQUEST:
                self._request(pdu)
            elif ptype in (BIND, ALTER):
                self._bind(pdu)
            elif ptype == AUTH3:
                self._authenticate(pdu, self.client)
            elif ptype == RTS:
                self._rts(pdu, self.client)
            count += ptype in FROM_CLIENT
        self.limited |= count >= limits.MAX_PDUS
        self._open.clear()
        return count

    def _request(self, pdu: Pdu) -> None:
        if pdu.end - pdu.start < 24:
            return
        if pdu.auth_length:
            self._protect(pdu, self.client)
        else:
            self.unprotected = True
        if not pdu.flags & FIRST_FRAGMENT:
            call = self._open.get(pdu.call_id)
            if call is not None:
                self._append_request(call, pdu)
            return
        context_id, opnum = pdu.order.pair(pdu.data, pdu.start + 20)
        context = self.contexts.get(context_id) or self._witness(pdu, context_id)
        key = context_id << 16 | opnum
        wanted = self._met.get(key)
        if wanted is None:
            wanted = self._met[key] = self._meet(context, opnum, pdu.offset)
        self._of_call[pdu.call_id] = context
        if wanted:
            self._keep(pdu, context, opnum)

    def _meet(self, context: Context | None, opnum: int, offset: int) -> bool:
        """Note an operation seen for the first time; says whether its calls are kept."""
        if context is None:
            return opnum in self.wanted.get("", ())
        self._mark("rpc.opnum", f"{context.uuid}:{opnum}", self.client, offset)
        return opnum in self.wanted.get(context.uuid, ())

    def _keep(self, pdu: Pdu, context: Context | None, opnum: int) -> None:
        if len(self.calls) >= limits.MAX_CALLS:
            self.limited = True
            return
        call = Call(context, opnum, pdu.order, Place(self.client, pdu.offset))
        self.calls.append(call)
        self._open[pdu.call_id] = call
        self._waiting.setdefault(pdu.call_id, deque()).append(call)
        self._append_request(call, pdu)

    def _append_request(self, call: Call, pdu: Pdu) -> None:
        security = pdu.security()
        call.sealed |= security is not None and security[1] == PRIVACY
        if len(call.request) <= limits.MAX_STUB:
            call.request += pdu.stub(40 if pdu.flags & OBJECT_UUID else 24)
        else:
            self.limited = True
        if pdu.flags & LAST_FRAGMENT:
            self._open.pop(pdu.call_id, None)

    def _witness(self, pdu: Pdu, context_id: int) -> Context | None:
        """The interface that a verification trailer repeats (MS-RPCE 2.2.2.13), where the bind was not seen."""
        at = pdu.data.find(VERIFICATION_MAGIC, pdu.start + 24, pdu.end)
        if at < 0 or not at + 8 < pdu.end:
            return None
        position, size = at + 8, pdu.end
        while position + 4 <= size:
            command, length = LITTLE.pair(pdu.data, position)
            position += 4
            if command & 0x3FFF == _PCONTEXT and length >= 40 and position + 40 <= size:
                uuid, version = syntax_text(pdu.data[position : position + 20], pdu.order.big)
                transfer, _ = syntax_text(pdu.data[position + 20 : position + 40], pdu.order.big)
                return self._learn(context_id, Context(uuid, version, [transfer], self.client, pdu.offset))
            if command & 0x4000:
                break
            position += length
        return None

    def _learn(self, context_id: int, context: Context) -> Context:
        self.contexts[context_id] = context
        self.bound.append(context)
        self._met.clear()
        return context

    def _bind(self, pdu: Pdu) -> None:
        """bind and alter_context: p_context_elem, an array of contexts (C706 sections 12.6.4.1 and 12.6.4.3)."""
        # A trailer that is cut off leaves open what was offered; none at all is told by the header.
        self.bind_seen |= pdu.ptype == BIND and (pdu.whole or not pdu.auth_length)
        self._authenticate(pdu, self.client)
        data, start, size, big = pdu.data, pdu.start, pdu.end, pdu.order.big
        offered: list[Context] = []
        position = start + 28
        for _ in range(data[start + 24] if start + 28 <= size else 0):
            if position + 24 > size:
                break
            context_id: int = pdu.order.u16(data, position)[0]
            uuid, version = syntax_text(data[position + 4 : position + 24], big)
            after = position + 24 + 20 * data[position + 2]
            syntaxes = range(position + 24, min(after, size) - 19, 20)
            transfer = [syntax_text(data[at : at + 20], big)[0] for at in syntaxes]
            context = Context(uuid, version, transfer, self.client, pdu.offset)
            self.contexts[context_id] = context
            offered.append(context)
            position = after
        self._met.clear()
        self._binds.setdefault(pdu.call_id, deque()).append(offered)
        if len(self.bound) + len(offered) > limits.MAX_CONTEXTS:
            self.limited = True
        else:
            self.bound += offered

    # ---- the server's PDUs ---------------------------------------------------------------

    def read_server(self, chunks: Sequence[Chunk]) -> int:
        """Read the server's stream; returns how many PDUs of a server it held."""
        count = 0
        for pdu in pdus(chunks):
            ptype = pdu.ptype
            if ptype == RESPONSE:
                self._response(pdu)
            elif ptype == FAULT:
                self._fault(pdu)
            elif ptype in (BIND_ACK, ALTER_RESPONSE):
                self._bind_ack(pdu)
            elif ptype == BIND_NAK:
                self._bind_nak(pdu)
            elif ptype == RTS:
                self._rts(pdu, self.server)
            count += ptype in FROM_SERVER
        self.limited |= count >= limits.MAX_PDUS
        return count

    def _response(self, pdu: Pdu) -> None:
        if pdu.auth_length:
            self._protect(pdu, self.server)
        call_id = pdu.call_id
        if not pdu.flags & FIRST_FRAGMENT:
            call = self._open.get(call_id)
            if call is not None:
                self._append_answer(call, pdu)
            return
        context = self._of_call.get(call_id)
        if context is not None and context.accepted is None:
            context.accepted = True
        waiting = self._waiting.get(call_id)
        if waiting:
            self._open[call_id] = call = waiting.popleft()
        elif call_id not in self._of_call and "" in self.wanted and len(self.calls) < limits.MAX_CALLS:
            self._open[call_id] = call = Call(None, -1, pdu.order, None)
            self.calls.append(call)
        else:
            return
        call.answer, call.answer_order, call.answered = bytearray(), pdu.order, Place(self.server, pdu.offset)
        self._append_answer(call, pdu)

    def _append_answer(self, call: Call, pdu: Pdu) -> None:
        security = pdu.security()
        call.sealed |= security is not None and security[1] == PRIVACY
        if call.answer is not None and len(call.answer) <= limits.MAX_STUB:
            call.answer += pdu.stub(24)
        else:
            self.limited = True
        if pdu.flags & LAST_FRAGMENT:
            call.answer_complete = pdu.whole
            self._open.pop(pdu.call_id, None)

    def _fault(self, pdu: Pdu) -> None:
        """fault: a status instead of an answer (C706 section 12.6.4.7); to an alter_context, a refusal."""
        if pdu.end - pdu.start < 28:
            return
        status: int = pdu.order.u32(pdu.data, pdu.start + 24)[0]
        self._mark("rpc.fault", f"0x{status:08x}", self.server, pdu.offset)
        waiting = self._waiting.get(pdu.call_id)
        if waiting:
            call = waiting.popleft()
            call.fault, call.answered = status, Place(self.server, pdu.offset)
        elif pdu.call_id not in self._of_call and self._binds.get(pdu.call_id):
            self._refuse(pdu.call_id)

    def _bind_ack(self, pdu: Pdu) -> None:
        """bind_ack and alter_context_resp: results by position (C706 sections 12.6.4.4 and 12.6.4.2)."""
        self._authenticate(pdu, self.server)
        data, start, size, order = pdu.data, pdu.start, pdu.end, pdu.order
        if start + 26 > size:
            return
        binds = self._binds.get(pdu.call_id)
        offered = binds.popleft() if binds else []
        length: int = order.u16(data, start + 24)[0]
        position = start + 26 + length
        if length > 1 and position <= size:
            address = data[start + 26 : position].split(b"\0", 1)[0]
            self.secondary = self.secondary or (address.decode("ascii", "replace"), pdu.offset, offered)
        position += -(position - start) % 4
        if position + 4 > size:
            return
        count = data[position]
        for index, context in zip(range(count), offered, strict=False):
            at = position + 4 + 24 * index
            if at + 24 > size:
                break
            self._result(context, order.u16(data, at)[0], uuid=data[at + 4 : at + 24], big=order.big)

    @staticmethod
    def _result(context: Context, result: int, uuid: bytes, big: bool) -> None:
        # negotiate_ack (3) answers a feature negotiation; for an interface it would be a refusal.
        context.accepted = result == ACCEPTANCE
        syntax = syntax_text(uuid, big)[0]
        if context.accepted and syntax in context.transfer:
            context.syntax = syntax

    def _bind_nak(self, pdu: Pdu) -> None:
        if pdu.end - pdu.start >= 18:
            reason: int = pdu.order.u16(pdu.data, pdu.start + 16)[0]
            self._mark("rpc.bind-nak", str(reason), self.server, pdu.offset)
        self._refuse(pdu.call_id)

    def _refuse(self, call_id: int) -> None:
        binds = self._binds.get(call_id)
        for context in binds.popleft() if binds else ():
            context.accepted = False

    # ---- security ------------------------------------------------------------------------

    def _authenticate(self, pdu: Pdu, side: Side) -> None:
        """The security trailer of a bind, its answers and auth3: what is offered, and a token."""
        security = pdu.security()
        if security is None:
            return
        self.authenticated = True
        self.levels.setdefault(security, Place(side, pdu.offset))
        if len(self.tokens) < limits.MAX_CONTEXTS:
            token = gssapi.read_token(pdu.token())
            self.tokens.append(token)
            for name, value in token.signs:
                self._mark(name, value, side, pdu.offset)

    def _protect(self, pdu: Pdu, side: Side) -> None:
        """The security trailer of a request or response: what is really done."""
        security = pdu.security()
        if security is not None and security not in self.protected:
            self.protected.add(security)
            self.levels.setdefault(security, Place(side, pdu.offset))
            self.signature = self.signature or pdu.token()

    def _rts(self, pdu: Pdu, side: Side) -> None:
        """Messages of RPC over HTTP's own layer, which name the virtual connection."""
        for name, value in rts.read(pdu.data[pdu.start + HEADER_SIZE : pdu.end], pdu.order):
            self._mark(name, value, side, pdu.offset)

    def _mark(self, name: str, value: str, side: Side, offset: int) -> None:
        self.signs.add(name, value, Place(side, offset))
