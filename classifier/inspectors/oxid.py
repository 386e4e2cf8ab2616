"""DCOM: ports handed out by object exporters and activators (MS-DCOM 2.2.19, 3.1.2.5).

Owns the string bindings in the answers of IObjectExporter and of the activation interfaces. The bindings are
looked for by themselves: "host[port]" in UTF-16 behind its tower id is a mark that needs no NDR around it,
and an activation's answer buries it in several layers of serialized properties.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Final, Literal

from classifier.inspectors.association import Call, Wanted
from classifier.inspectors.base import Handout, Place

WANTED: Final[Wanted] = {
    "99fcfec4-5260-101b-bbcb-00aa0021347a": frozenset({0, 4, 5}),  # IObjectExporter: ResolveOxid, -2, ServerAlive2
    "000001a0-0000-0000-c000-000000000046": frozenset({3, 4}),  # IRemoteSCMActivator
    "4d9f4ab8-7d1c-11cf-861e-0020af6e7c57": frozenset({0}),  # IActivation: RemoteActivation
}

_BINDING = re.compile(rb"([\x07\x08\x1f])\x00((?:[!-~]\x00){1,255}?)\[\x00((?:[0-9]\x00){1,5})\]\x00\x00\x00")
"""STRINGBINDING, little endian: tower id, network address with the port in brackets, NUL (MS-DCOM 2.2.19.3)."""

_BINDING_BIG = re.compile(rb"\x00([\x07\x08\x1f])((?:\x00[!-~]){1,255}?)\x00\[((?:\x00[0-9]){1,5})\x00\]\x00\x00")

_TRANSPORTS: Final[dict[int, Literal["tcp", "udp", "http"]]] = {0x07: "tcp", 0x08: "udp", 0x1F: "http"}


def read(calls: Iterable[Call]) -> list[Handout]:
    """Handouts in the answers that are in clear."""
    handouts: dict[Handout, None] = {}
    for call in calls:
        if call.context is None or call.context.uuid not in WANTED or call.sealed:
            continue
        if not call.answer or not call.answered:
            continue
        pattern = _BINDING_BIG if call.answer_order.big else _BINDING
        for handout in _bindings(pattern, bytes(call.answer), call.answered):
            handouts[handout] = None
    return list(handouts)


def _bindings(pattern: re.Pattern[bytes], stub: bytes, place: Place) -> Iterator[Handout]:
    for kind, name, digits in pattern.findall(stub):
        port = int(digits.replace(b"\0", b""))
        host = name.replace(b"\0", b"").decode("ascii")
        if not 0 < port < 65536:
            continue
        address, host = (host, "") if _is_address(host) else ("", host)
        yield Handout("oxid", _TRANSPORTS[kind[0]], port, place, address=address, host=host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
