"""Writes RPC bytes for tests, in either byte order and width: the mirror image of what the readers read."""

from __future__ import annotations

import struct
from uuid import UUID

from classifier.inspectors.base import Chunk, Dialogue, Stream

EPM = "e1af8308-5d1f-11c9-91a4-08002b14a0fa"
EMSMDB = "a4f1db00-ca47-1067-b31f-00dd010662da"
NSPI = "f5cc5a18-4264-101a-8c59-08002b2f8426"
RFRI = "1544f5e0-613c-11d1-93df-00c04fd7bd09"
NDR32 = "8a885d04-1ceb-11c9-9fe8-08002b104860"
NDR64 = "71710533-beba-4937-8319-b5dbef9ccc36"
FEATURES = "6cb71c2c-9812-4540-0300-000000000000"

FIRST, LAST, OBJECT = 1, 2, 0x80
WHOLE = FIRST | LAST


def uuid_bytes(uuid, big=False):
    return UUID(uuid).bytes if big else UUID(uuid).bytes_le


def syntax(uuid, version, big=False):
    major, minor = (int(part) for part in version.split("."))
    return uuid_bytes(uuid, big) + struct.pack(">I" if big else "<I", minor << 16 | major)


def pdu(ptype, body, call=1, flags=WHOLE, auth=None, big=False, minor=0):
    """auth: (type, level, token) for a security trailer, with its padding."""
    mark = ">" if big else "<"
    trailer, token = b"", b""
    if auth:
        kind, level, token = auth
        padding = -len(body) % 4
        trailer = bytes(padding) + struct.pack(mark + "BBBBI", kind, level, padding, 0, 7)
    size = 16 + len(body) + len(trailer) + len(token)
    label = b"\0\0\0\0" if big else b"\x10\0\0\0"
    header = struct.pack("BBBB", 5, minor, ptype, flags) + label + struct.pack(mark + "HHI", size, len(token), call)
    return header + body + trailer + token


def bind(contexts, call=1, ptype=11, big=False, **more):
    """contexts: (id, uuid, version, transfer syntaxes)."""
    mark = ">" if big else "<"
    body = struct.pack(mark + "HHIBBH", 5840, 5840, 0, len(contexts), 0, 0)
    for number, uuid, version, transfers in contexts:
        body += struct.pack(mark + "HBB", number, len(transfers), 0) + syntax(uuid, version, big)
        for transfer in transfers:
            body += syntax(transfer, "2.0" if transfer == NDR32 else "1.0", big)
    return pdu(ptype, body, call, big=big, **more)


def ack(results, call=1, address=b"135", group=0x1234, ptype=12, big=False, **more):
    """results: (result, transfer syntax)."""
    mark = ">" if big else "<"
    address = address + b"\0" if address else b""
    body = struct.pack(mark + "HHIH", 5840, 5840, group, len(address)) + address
    body += bytes(-(16 + len(body)) % 4)
    body += struct.pack("BBBB", len(results), 0, 0, 0)
    for result, transfer in results:
        version = "0.0" if result else "2.0" if transfer == NDR32 else "1.0"
        body += struct.pack(mark + "HH", result, 2 if result == 2 else 0) + syntax(transfer, version, big)
    return pdu(ptype, body, call, big=big, **more)


def nak(reason=4, call=1):
    return pdu(13, struct.pack("<HB", reason, 0) + b"\x01\x05\x00", call)


def request(opnum, stub=b"", call=2, context=0, flags=WHOLE, big=False, object_uuid=b"", **more):
    mark = ">" if big else "<"
    flags |= OBJECT if object_uuid else 0
    body = struct.pack(mark + "IHH", len(stub), context, opnum) + object_uuid + stub
    return pdu(0, body, call, flags, big=big, **more)


def response(stub=b"", call=2, context=0, flags=WHOLE, big=False, **more):
    return pdu(
        2, struct.pack((">" if big else "<") + "IHBB", len(stub), context, 0, 0) + stub, call, flags, big=big, **more
    )


def fault(status, call=2, context=0, big=False):
    mark = ">" if big else "<"
    return pdu(3, struct.pack(mark + "IHBBII", 0, context, 0, 0, status, 0), call, big=big)


# ---- the endpoint mapper -------------------------------------------------------------------------


def floor(left, right):
    return struct.pack("<H", len(left)) + left + struct.pack("<H", len(right)) + right


def tower(uuid=EMSMDB, version="0.81", port=49160, address="10.20.0.21", endpoint=0x07):
    """endpoint: 7 TCP, 8 UDP, 0x1f HTTP; 0x0f a pipe (port is then its name)."""
    major, minor = (int(part) for part in version.split("."))
    right = port if isinstance(port, bytes) else struct.pack(">H", port)
    floors = [
        floor(b"\x0d" + uuid_bytes(uuid) + struct.pack("<H", major), struct.pack("<H", minor)),
        floor(b"\x0d" + uuid_bytes(NDR32) + b"\2\0", b"\0\0"),
        floor(b"\x0a" if endpoint == 8 else b"\x0b", b"\0\0"),
        floor(bytes([endpoint]), right),
        floor(b"\x09", bytes(int(part) for part in address.split("."))),
    ]
    return struct.pack("<H", len(floors)) + b"".join(floors)


class Ndr:
    """A stub under construction."""

    def __init__(self, big=False, wide=False):
        self.mark, self.wide, self.data = (">" if big else "<"), wide, b""

    def align(self, width):
        self.data += b"\xab" * (-len(self.data) % width)

    def u32(self, value):
        self.align(4)
        self.data += struct.pack(self.mark + "I", value)

    def count(self, value):
        if self.wide:
            self.align(8)
            self.data += struct.pack(self.mark + "Q", value)
        else:
            self.u32(value)

    def raw(self, data):
        self.data += data

    def tower(self, data):
        self.count(len(data))
        self.u32(len(data))
        self.raw(data)


def map_request(asked=None, object_uuid=b"", **kind):
    stub = Ndr(**kind)
    stub.count(1)
    stub.raw(object_uuid or bytes(16))
    stub.count(2)
    stub.tower(asked or tower(port=135, address="0.0.0.0"))
    stub.align(4)
    stub.raw(bytes(20))
    stub.u32(4)
    return stub.data


def map_answer(towers, status=0, referents=None, bodies=None, **kind):
    """referents: ids of the pointers; bodies: towers that really follow (aliases have none)."""
    stub = Ndr(**kind)
    stub.raw(bytes(20))
    stub.u32(len(towers))
    for value in (4, 0, len(towers)):
        stub.count(value)
    for referent in referents or range(1, len(towers) + 1):
        stub.count(referent)
    for body in towers if bodies is None else bodies:
        stub.tower(body)
    stub.u32(status)
    return stub.data


def lookup_request(uuid, version, **kind):
    stub = Ndr(**kind)
    stub.u32(1)
    stub.count(0)
    stub.count(1)
    major, minor = (int(part) for part in version.split("."))
    stub.align(4)
    stub.raw(uuid_bytes(uuid, kind.get("big", False)) + struct.pack(stub.mark + "HH", major, minor))
    stub.u32(1)
    stub.raw(bytes(20))
    stub.u32(500)
    return stub.data


def lookup_answer(entries, status=0, **kind):
    """entries: (tower, annotation)."""
    stub = Ndr(**kind)
    stub.raw(bytes(20))
    stub.u32(len(entries))
    for value in (500, 0, len(entries)):
        stub.count(value)
    for number, (_, annotation) in enumerate(entries):
        stub.align(8 if stub.wide else 4)
        stub.raw(bytes(16))
        stub.count(number + 1)
        stub.count(0)
        stub.count(len(annotation) + 1)
        stub.raw(annotation + b"\0")
    for body, _ in entries:
        stub.tower(body)
    stub.u32(status)
    return stub.data


# ---- dialogues -----------------------------------------------------------------------------------


def stream(*parts, **more):
    data = b"".join(parts)
    return Stream((Chunk(0, data),) if data else (), **more)


def dialogue(to_server, to_client, **more):
    return Dialogue("tcp", stream(*to_server), stream(*to_client), **more)


def with_hole(whole, start, end):
    """A stream whose bytes from start to end are missing."""
    data = b"".join(chunk.data for chunk in whole.chunks)
    chunks = (Chunk(0, data[:start]), Chunk(end, data[end:]))
    return Stream(tuple(chunk for chunk in chunks if chunk.data))


def datagrams(*payloads):
    chunks, offset = [], 0
    for payload in payloads:
        chunks.append(Chunk(offset, payload))
        offset += len(payload)
    return Stream(tuple(chunks))
