"""DCE/RPC and endpoint-mapper messages as bytes, in either byte order and either transfer syntax.

Sources: [C706] chapter 12 and appendices L and O; [MS-RPCE] 2.2.2; [MS-RPCH] 2.2.3. Referent ids of full
pointers are all distinct, so that no reader takes two towers for one.
"""

from __future__ import annotations

import ipaddress
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

REQUEST, RESPONSE, FAULT = 0, 2, 3
BIND, BIND_ACK, BIND_NAK, ALTER, ALTER_ACK, AUTH3, RTS = 11, 12, 13, 14, 15, 16, 20
FIRST, LAST, WHOLE, OBJECT = 0x01, 0x02, 0x03, 0x80
LITTLE, BIG = "<", ">"
MAX_FRAGMENT = 5840
EPT_LOOKUP, EPT_MAP = 2, 3
NOT_REGISTERED = 0x16C9A0D6


@dataclass(frozen=True)
class Syntax:
    """An interface or transfer syntax."""

    uuid: str
    major: int = 1
    minor: int = 0
    name: str = ""

    def packed(self, order: str = LITTLE) -> bytes:
        """uuid and version as a presentation syntax identifier (20 bytes)."""
        return uuid_bytes(self.uuid, order) + struct.pack(order + "I", self.minor << 16 | self.major)


NDR32 = Syntax("8a885d04-1ceb-11c9-9fe8-08002b104860", 2)
NDR64 = Syntax("71710533-beba-4937-8319-b5dbef9ccc36", 1)
BTFN = Syntax("6cb71c2c-9812-4540-0300-000000000000", 1)
EPM = Syntax("e1af8308-5d1f-11c9-91a4-08002b14a0fa", 3, name="epmapper")
EMSMDB = Syntax("a4f1db00-ca47-1067-b31f-00dd010662da", 0, 81, "EMSMDB")
ASYNC_EMSMDB = Syntax("5261574a-4572-206e-b268-6b199213b4e4", 0, 1, "AsyncEMSMDB")
NSPI = Syntax("f5cc5a18-4264-101a-8c59-08002b2f8426", 56, name="NSPI")
RFRI = Syntax("1544f5e0-613c-11d1-93df-00c04fd7bd09", 1, name="RFRI")
NETLOGON = Syntax("12345678-1234-abcd-ef00-01234567cffb", 1, name="netlogon")
LSARPC = Syntax("12345778-1234-abcd-ef00-0123456789ab", 0, name="lsarpc")
SAMR = Syntax("12345778-1234-abcd-ef00-0123456789ac", 1, name="samr")
DRSUAPI = Syntax("e3514235-4b06-11d1-ab04-00c04fc2dcd2", 4, name="drsuapi")
WINREG = Syntax("338cd001-2244-31f1-aaaa-900038001003", 1, name="winreg")
CLUSAPI = Syntax("b97db8b2-4c63-11cf-bff6-08002be23f2f", 3, name="clusapi")
SPOOLSS = Syntax("12345678-1234-abcd-ef00-0123456789ab", 1, name="spoolss")
MSDTC = Syntax("906b0ce0-c70b-1067-b317-00dd010662da", 1, name="IXnRemote")
OXID = Syntax("99fcfec4-5260-101b-bbcb-00aa0021347a", 0, name="IObjectExporter")
ACTIVATOR = Syntax("000001a0-0000-0000-c000-000000000046", 0, name="IRemoteSCMActivator")
WBEM_LOGIN = Syntax("f309ad18-d86a-11d0-a075-00c04fb68820", 0, name="IWbemLevel1Login")
WBEM_SERVICES = Syntax("9556dc99-828c-11cf-a37e-00aa003240c7", 0, name="IWbemServices")
MTA = Syntax("9e8ee830-4459-11ce-979b-00aa005ffebe", 2, name="MTA")
MTA_QADMIN = Syntax("38a94e72-a9bc-11d2-8faf-00c04fa378ff", 1, name="MTA QAdmin")
DRS55 = Syntax("f5cc59b4-4264-101a-8c59-08002b2f8426", 21, name="Exchange 5.5 directory DRS")
STORE_ADMIN = Syntax("99e64010-b032-11d0-97a4-00c04fd6551d", 3, name="store admin")
ATTENDANT_PRIVATE = Syntax("83d72bf0-0d89-11ce-b13f-00aa003bac6c", 6, name="System Attendant private")
ATTENDANT_PUBLIC = Syntax("469d6ec0-0d87-11ce-b13f-00aa003bac6c", 16, name="System Attendant public")
STORE_PRIVATE = Syntax("0e4a0156-dd5d-11d2-8c2f-00c04fb6bcde", 1, name="Microsoft Information Store")


def uuid_bytes(text: str, order: str = LITTLE) -> bytes:
    value = uuid.UUID(text)
    return value.bytes_le if order == LITTLE else value.bytes


@dataclass(frozen=True)
class Verifier:
    """A security trailer: kind 9 SPNEGO, 10 NTLM, 16 Kerberos, 68 Netlogon; level 2 connect, 5 integrity, 6 privacy."""

    kind: int
    level: int
    token: bytes
    context: int = 0


def pdu(
    ptype: int, body: bytes, *, call: int = 1, flags: int = WHOLE, verifier: Verifier | None = None, order: str = LITTLE
) -> bytes:
    """One connection-oriented PDU ([C706] 12.6.3), its verifier aligned to 4 bytes ([MS-RPCE] 2.2.2.11)."""
    token = b""
    if verifier:
        padding = -len(body) % 4
        trailer = struct.pack(order + "BBBBI", verifier.kind, verifier.level, padding, 0, verifier.context)
        body += bytes(padding) + trailer
        token = verifier.token
    drep = b"\x10\x00\x00\x00" if order == LITTLE else bytes(4)
    head = struct.pack("4B", 5, 0, ptype, flags) + drep
    return head + struct.pack(order + "HHI", 16 + len(body) + len(token), len(token), call) + body + token


Offer = tuple[Syntax, Sequence[Syntax]]


def windows_offer(interface: Syntax) -> list[Offer]:
    """The three contexts of a 64-bit Windows client ([MS-RPCE] 3.3.1.5.3)."""
    return [(interface, [NDR32]), (interface, [NDR64]), (interface, [BTFN])]


def bind(
    offers: Sequence[Offer], *, ptype: int = BIND, call: int = 1, first: int = 0, group: int = 0,
    verifier: Verifier | None = None, order: str = LITTLE,
) -> bytes:  # fmt: skip
    """bind or alter_context. offers: (interface, transfer syntaxes) with context ids from `first` up."""
    body = struct.pack(order + "HHIB3x", MAX_FRAGMENT, MAX_FRAGMENT, group, len(offers))
    for number, (interface, syntaxes) in enumerate(offers, first):
        body += struct.pack(order + "HBx", number, len(syntaxes)) + interface.packed(order)
        body += b"".join(syntax.packed(order) for syntax in syntaxes)
    return pdu(ptype, body, call=call, verifier=verifier, order=order)


@dataclass(frozen=True)
class Result:
    """The server's answer to one context: 0 accepted, 2 provider rejection, 3 negotiate ack; reason; syntax."""

    result: int = 0
    reason: int = 0
    syntax: Syntax = NDR32


ACCEPTED = Result()
NULL_SYNTAX = Syntax("00000000-0000-0000-0000-000000000000", 0)
REFUSED = Result(2, 1, NULL_SYNTAX)
REFUSED_SYNTAX = Result(2, 2, NULL_SYNTAX)
NDR64_ANSWERS = (REFUSED_SYNTAX, Result(0, 0, NDR64), Result(3, 3, NULL_SYNTAX))
"""What 64-bit Windows answers to `windows_offer`."""


def bind_ack(
    results: Sequence[Result], address: str = "", *, ptype: int = BIND_ACK, call: int = 1, group: int = 0x5F31,
    verifier: Verifier | None = None, order: str = LITTLE,
) -> bytes:  # fmt: skip
    """bind_ack or alter_context_resp. address: the secondary address, the server's own endpoint."""
    text = address.encode() + b"\0" if address else b""
    body = struct.pack(order + "HHIH", MAX_FRAGMENT, MAX_FRAGMENT, group, len(text)) + text
    body += bytes(-(16 + len(body)) % 4) + struct.pack("B3x", len(results))
    for item in results:
        body += struct.pack(order + "HH", item.result, item.reason) + item.syntax.packed(order)
    return pdu(ptype, body, call=call, verifier=verifier, order=order)


def bind_nak(reason: int, *, call: int = 1) -> bytes:
    return pdu(BIND_NAK, struct.pack("<HBBB3x", reason, 1, 5, 0), call=call)


def request(
    opnum: int, stub: bytes, *, context: int = 0, call: int = 1, flags: int = WHOLE, verifier: Verifier | None = None,
    order: str = LITTLE,
) -> bytes:  # fmt: skip
    body = struct.pack(order + "IHH", len(stub), context, opnum) + stub
    return pdu(REQUEST, body, call=call, flags=flags, verifier=verifier, order=order)


def response(
    stub: bytes, *, context: int = 0, call: int = 1, flags: int = WHOLE, verifier: Verifier | None = None,
    order: str = LITTLE,
) -> bytes:  # fmt: skip
    body = struct.pack(order + "IHBB", len(stub), context, 0, 0) + stub
    return pdu(RESPONSE, body, call=call, flags=flags, verifier=verifier, order=order)


def fault(status: int, *, context: int = 0, call: int = 1, order: str = LITTLE) -> bytes:
    body = struct.pack(order + "IHBBI4x", 0, context, 0, 0, status)
    return pdu(FAULT, body, call=call, flags=WHOLE | 0x20, order=order)


def fragments(stub: bytes, size: int, *, context: int = 0, call: int = 1, order: str = LITTLE) -> list[bytes]:
    """A response in several PDUs of `size` stub bytes each."""
    pieces = [stub[start : start + size] for start in range(0, len(stub), size)]
    flags = [FIRST, *[0] * (len(pieces) - 2), LAST] if len(pieces) > 1 else [WHOLE]
    return [
        response(piece, context=context, call=call, flags=flag, order=order)
        for piece, flag in zip(pieces, flags, strict=True)
    ]


# ---- protocol towers and the endpoint mapper -------------------------------------------------


FLOORS = {"tcp": (b"\x0b", b"\x07"), "udp": (b"\x0a", b"\x08"), "http": (b"\x0b", b"\x1f")}
"""RPC protocol and endpoint identifiers ([C706] appendix I, [MS-RPCE] 2.2.1.2)."""


def tower(interface: Syntax, port: int, address: str = "0.0.0.0", *, transport: str = "tcp", pipe: str = "") -> bytes:
    """A protocol tower ([C706] appendix L), little endian whatever the call's byte order."""
    floors = [_syntax_floor(interface), _syntax_floor(NDR32)]
    if pipe:
        floors += [(b"\x0b", bytes(2)), (b"\x0f", pipe.encode() + b"\0"), (b"\x11", b"\\\\EX2010\0")]
    else:
        protocol, endpoint = FLOORS[transport]
        host = ipaddress.IPv4Address(address).packed
        floors += [(protocol, bytes(2)), (endpoint, struct.pack(">H", port)), (b"\x09", host)]
    body = b"".join(struct.pack("<H", len(half)) + half for floor in floors for half in floor)
    return struct.pack("<H", len(floors)) + body


def _syntax_floor(syntax: Syntax) -> tuple[bytes, bytes]:
    return b"\x0d" + uuid_bytes(syntax.uuid) + struct.pack("<H", syntax.major), struct.pack("<H", syntax.minor)


class Stub:
    """An NDR stub under construction; wide: NDR64, where pointers and counts have 8 bytes."""

    def __init__(self, order: str = LITTLE, *, wide: bool = False) -> None:
        self.data, self.order, self.wide = b"", order, wide
        self._referent = 0x20000

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def u32(self, *values: int) -> None:
        self.align(4)
        self.data += struct.pack(f"{self.order}{len(values)}I", *values)

    def count(self, *values: int) -> None:
        """Counts, offsets and pointers: 4 bytes in NDR, 8 in NDR64."""
        size = 8 if self.wide else 4
        self.align(size)
        self.data += struct.pack(f"{self.order}{len(values)}{'Q' if self.wide else 'I'}", *values)

    def pointer(self) -> None:
        """A full pointer with a referent id of its own."""
        self._referent += 4
        self.count(self._referent)

    def twr(self, octets: bytes) -> None:
        """A twr_t: conformance, length, octets."""
        self.count(len(octets))
        self.u32(len(octets))
        self.data += octets


HANDLE = bytes(20)


def map_request(octets: bytes, *, towers: int = 4, order: str = LITTLE, wide: bool = False) -> bytes:
    """Stub of ept_map: null object, one tower, no entry handle."""
    stub = Stub(order, wide=wide)
    stub.count(1)
    stub.data += bytes(16)
    stub.count(2)
    stub.twr(octets)
    stub.align(4)
    stub.data += HANDLE
    stub.u32(towers)
    return stub.data


def map_response(
    towers: Sequence[bytes], *, room: int = 4, status: int = 0, order: str = LITTLE, wide: bool = False
) -> bytes:
    """Stub of the answer to ept_map."""
    stub = Stub(order, wide=wide)
    stub.data += HANDLE
    stub.u32(len(towers))
    stub.count(room, 0, len(towers))
    for _ in towers:
        stub.pointer()
    for octets in towers:
        stub.twr(octets)
    stub.u32(status)
    return stub.data


def lookup_request(*, room: int = 500, order: str = LITTLE) -> bytes:
    """Stub of ept_lookup: all elements, any version."""
    stub = Stub(order)
    stub.u32(0, 0, 0, 1)
    stub.data += HANDLE
    stub.u32(room)
    return stub.data


def lookup_response(entries: Sequence[tuple[bytes, str]], *, status: int = 0, order: str = LITTLE) -> bytes:
    """Stub of the answer to ept_lookup. entries: (tower, annotation)."""
    stub = Stub(order)
    stub.data += HANDLE
    stub.u32(len(entries))
    stub.u32(500, 0, len(entries))
    for _, annotation in entries:
        text = annotation.encode() + b"\0"
        stub.data += bytes(16)
        stub.pointer()
        stub.u32(0, len(text))
        stub.data += text
        stub.align(4)
    for octets, _ in entries:
        stub.align(4)
        stub.twr(octets)
    stub.u32(status)
    return stub.data


# ---- connectionless PDUs ----------------------------------------------------------------------


def datagram(ptype: int, interface: Syntax, opnum: int, stub: bytes, *, activity: str, number: int = 0) -> bytes:
    """One connectionless PDU ([C706] 12.5.3): 80 bytes of header with the interface in each."""
    head = struct.pack("<8B", 4, ptype, 0x08 | 0x20, 0, 0x10, 0, 0, 0) + bytes(16)
    head += uuid_bytes(interface.uuid) + uuid_bytes(activity)
    version = interface.minor << 16 | interface.major
    head += struct.pack("<IIIHHHHHBB", 0x4CDA7C00, version, number, opnum, 0xFFFF, 0xFFFF, len(stub), 0, 0, 0)
    return head + stub


# ---- RPC over HTTP ----------------------------------------------------------------------------


def rts(flags: int, *commands: bytes) -> bytes:
    """An RTS PDU ([MS-RPCH] 2.2.3.6)."""
    return pdu(RTS, struct.pack("<HH", flags, len(commands)) + b"".join(commands), call=0)


def rts_command(kind: int, value: bytes | int) -> bytes:
    return struct.pack("<I", kind) + (struct.pack("<I", value) if isinstance(value, int) else value)
