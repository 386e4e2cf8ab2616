"""The endpoint mapper: which interface was asked for, and which ports were handed out.

Owns protocol towers (C706 appendix L) and the stubs of ept_map and ept_lookup (C706 appendix O) in NDR32 and
NDR64. It knows calls, not PDUs: `read` gets them joined and matched. Towers are little endian always; the NDR
around them has the byte order and the width that its association agreed on. Where that NDR does not parse,
the stub is searched for whole towers, which are recognizable by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from classifier import limits
from classifier.inspectors.association import Call, Wanted
from classifier.inspectors.base import Handout, Place, Query
from classifier.inspectors.ndr import LITTLE, NDR64, Cursor, MalformedError, uuid_text

UUID: Final = "e1af8308-5d1f-11c9-91a4-08002b14a0fa"

LOOKUP, MAP = 2, 3

WANTED: Final[Wanted] = {UUID: frozenset({LOOKUP, MAP}), "": frozenset({LOOKUP, MAP})}

NOT_REGISTERED: Final = 0x16C9A0D6
"""ept_s_not_registered (C706 appendix E)."""

BY_INTERFACE: Final = frozenset({1, 3})
"""inquiry_type of an ept_lookup that names an interface (C706 appendix O)."""

TRANSPORTS: Final[dict[int, Literal["tcp", "udp", "http"]]] = {0x07: "tcp", 0x08: "udp", 0x1F: "http"}
"""Protocol identifiers whose floor holds a port, in network byte order (C706 appendix I, MS-RPCE 2.1.2)."""

IP_ADDRESS: Final = 0x09
_UUID_FLOOR: Final = b"\x13\x00\x0d"
_TOWER_START: Final = re.compile(rb"[\x03-\x10]\x00\x13\x00\x0d", re.S)


class Tower(NamedTuple):
    """One protocol tower: an interface and where it listens. port 0: no floor with a port (a pipe, say)."""

    uuid: str
    version: str
    transport: Literal["tcp", "udp", "http"] | None
    port: int
    address: str


def read_tower(data: bytes, start: int = 0) -> tuple[Tower, int] | None:
    """The tower at an offset and where it ends; None if no whole tower stands there.

    A tower is a count of floors and per floor two counted strings, left and right (C706 appendix L).
    """
    floors = []
    position, size = start + 2, len(data)
    count = LITTLE.u16(data, start)[0] if position <= size else 0
    if not 3 <= count <= limits.MAX_FLOORS:
        return None
    for _ in range(2 * count):
        if position + 2 > size:
            return None
        length = LITTLE.u16(data, position)[0]
        position += 2 + length
        if position > size:
            return None
        floors.append(data[position - length : position])
    left, right = floors[0], floors[1]
    if len(left) != 19 or left[0] != 0x0D:
        return None
    version = f"{LITTLE.u16(left, 17)[0]}.{LITTLE.u16(right)[0] if len(right) >= 2 else 0}"
    transport, port, address = _endpoint(floors[4:])
    return Tower(uuid_text(bytes(left[1:17])), version, transport, port, address), position


def _endpoint(floors: list[bytes]) -> tuple[Literal["tcp", "udp", "http"] | None, int, str]:
    """Transport, port and address from the floors after interface and transfer syntax, whatever their number."""
    transport: Literal["tcp", "udp", "http"] | None = None
    port, address = 0, ""
    for left, right in zip(floors[::2], floors[1::2], strict=False):
        kind = left[0] if left else 0
        if kind in TRANSPORTS and len(right) == 2 and transport is None:
            transport, port = TRANSPORTS[kind], int.from_bytes(right, "big")
        elif kind == IP_ADDRESS and len(right) == 4 and not address:
            address = ".".join(map(str, right))
    return transport, port, address


def find_towers(data: bytes) -> Iterator[Tower]:
    """Every whole tower in some bytes, without any NDR around it."""
    position, left = 0, limits.MAX_TOWERS
    while left and (match := _TOWER_START.search(data, position)):
        left -= 1
        found = read_tower(data, match.start())
        position = found[1] if found else match.start() + 1
        if found:
            yield found[0]


# ---- stubs -----------------------------------------------------------------------------------


def _tower_value(cursor: Cursor) -> Tower | None:
    """A twr_t: conformance, length, octets (C706 appendix N). The padding after it is garbage in practice."""
    size = cursor.count()
    length = cursor.u32()
    if size != length or length > limits.MAX_TOWER:
        raise MalformedError
    found = read_tower(cursor.take(length))
    return found[0] if found else None


def _map_request(cursor: Cursor) -> Tower | None:
    """ept_map's [ptr] object and [ptr] map_tower; what follows them does not matter here."""
    if cursor.count():
        cursor.uuid()
    return _tower_value(cursor) if cursor.count() else None


def _lookup_request(cursor: Cursor) -> tuple[str, str] | None:
    """The interface that an ept_lookup asks for, None if it asks for something else."""
    inquiry = cursor.u32()
    if cursor.count():
        cursor.uuid()
    if not cursor.count() or inquiry not in BY_INTERFACE:
        return None
    uuid = cursor.uuid()
    return uuid, f"{cursor.u16()}.{cursor.u16()}"


class Answer(NamedTuple):
    """towers with their annotations ("" in ept_map), and the status word; None where it is missing."""

    towers: tuple[tuple[Tower, str], ...]
    status: int | None


def _deferred(cursor: Cursor, referents: list[int]) -> dict[int, Tower | None]:
    """The towers behind an array of full pointers, by position in it.

    Equal referent ids are aliases and the tower comes once (C706 section 14.3.12.1); some servers use one
    id for all and write every tower all the same, so an alias is read if a tower stands there.
    """
    towers: dict[int, Tower | None] = {}
    first: dict[int, int] = {}
    for index, referent in enumerate(referents):
        if not referent:
            continue
        if referent not in first:
            first[referent] = index
            towers[index] = _tower_value(cursor)
        else:
            towers[index] = _alias(cursor) or towers[first[referent]]
    return towers


def _alias(cursor: Cursor) -> Tower | None:
    before = cursor.position
    try:
        tower = _tower_value(cursor)
    except MalformedError:
        tower = None
    if tower is None:
        cursor.position = before
    return tower


def _array(cursor: Cursor) -> int:
    """Actual count of a conformant varying array (C706 section 14.3.3.4)."""
    cursor.count()
    cursor.count()
    count = cursor.count()
    if count > limits.MAX_TOWERS:
        raise MalformedError
    return count


def _map_answer(cursor: Cursor) -> Answer:
    cursor.take(20)
    cursor.u32()
    referents = [cursor.count() for _ in range(_array(cursor))]
    towers = _deferred(cursor, referents)
    return Answer(tuple((tower, "") for tower in towers.values() if tower), cursor.u32())


def _lookup_answer(cursor: Cursor) -> Answer:
    cursor.take(20)
    cursor.u32()
    referents, annotations = [], []
    for _ in range(_array(cursor)):
        cursor.align(8 if cursor.wide else 4)
        cursor.uuid()
        referents.append(cursor.count())
        annotations.append(_annotation(cursor))
    towers = _deferred(cursor, referents)
    return Answer(tuple((tower, annotations[at]) for at, tower in towers.items() if tower), cursor.u32())


def _annotation(cursor: Cursor) -> str:
    """A [string] char annotation[64]: varying, so offset, actual count and that many octets, NUL included."""
    cursor.count()
    raw = bytes(cursor.take(cursor.count()))
    return raw.split(b"\0", 1)[0].decode("latin-1")[: limits.MAX_TEXT]


def _cursor(stub: bytes | bytearray, call: Call, answer: bool) -> Cursor:
    wide = call.context is not None and call.context.syntax == NDR64
    return Cursor(bytes(stub), call.answer_order if answer else call.order, wide)


def _asked(call: Call) -> tuple[str, str] | None:
    """(uuid, version) that a request asks for."""
    cursor = _cursor(call.request, call, answer=False)
    tower: Tower | None = None
    try:
        if call.opnum == LOOKUP:
            return _lookup_request(cursor) if call.context else None
        tower = _map_request(cursor)
    except MalformedError:
        tower = next(find_towers(cursor.data), None)
    if tower is None and call.context is None:
        tower = next(find_towers(cursor.data), None)
    return (tower.uuid, tower.version) if tower else None


def _answered(call: Call) -> Answer:
    """What an answer hands out; a stub that is cut short gives the towers that are whole."""
    cursor = _cursor(call.answer or b"", call, answer=True)
    if call.context is not None:
        try:
            return (_lookup_answer if call.opnum == LOOKUP else _map_answer)(cursor)
        except MalformedError:
            pass
    towers = tuple((tower, "") for tower in find_towers(cursor.data))
    size = len(cursor.data)
    complete = call.answer_complete and (bool(towers) or call.context is not None)
    status = cursor.order.u32(cursor.data, size - 4)[0] if size >= 4 and complete else None
    return Answer(towers, status)


def is_mapping(call: Call) -> bool:
    """Whether a call belongs to the endpoint mapper: by its context, else by a tower in its stubs."""
    if call.context is not None:
        return call.context.uuid == UUID
    stubs = (call.request, call.answer or b"")
    return any(_UUID_FLOOR in stub and next(find_towers(bytes(stub)), None) for stub in stubs)


def read(calls: Iterable[Call]) -> tuple[list[Query], list[Handout]]:
    """Queries and handouts of the calls to the endpoint mapper; sealed stubs tell nothing."""
    queries: dict[Query, None] = {}
    handouts: dict[Handout, None] = {}
    for call in calls:
        if call.sealed or not is_mapping(call):
            continue
        answer = _answered(call) if call.answer is not None else Answer((), call.fault)
        if call.asked and (asked := _asked(call)):
            queries[Query(*asked, call.asked, answer.status)] = None
        kind: Literal["ept_map", "ept_lookup"] = "ept_lookup" if call.opnum == LOOKUP else "ept_map"
        for tower, annotation in answer.towers:
            if tower.transport and tower.port and call.answered:
                handouts[_handout(kind, tower, tower.transport, annotation, call.answered)] = None
    return list(queries), list(handouts)


def _handout(
    kind: Literal["ept_map", "ept_lookup"],
    tower: Tower,
    transport: Literal["tcp", "udp", "http"],
    annotation: str,
    place: Place,
) -> Handout:
    return Handout(kind, transport, tower.port, place, tower.uuid, tower.version, tower.address, "", annotation)
