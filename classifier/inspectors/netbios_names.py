"""NetBIOS name and datagram services: the names hosts register, ask for and speak in.

Sources: RFC 1001 section 14.1 (half-octet names), RFC 1002 sections 4.2 (name service) and 4.4 (datagrams).
"""

from __future__ import annotations

from typing import Final

from classifier.inspectors.base import ANY_OCTET, NOT_THIS, Answer, Dialogue, Evidence, Place, Side
from classifier.inspectors.reading import Signs

_QUESTION_TYPES: Final = (b"\0\x20", b"\0\x21")
"""NB and NBSTAT, which no DNS question has together with a half-octet name."""

_DATAGRAMS: Final = range(0x10, 0x17)
_HALF_OCTETS: Final = frozenset(b"ABCDEFGHIJKLMNOP")
_MAX_MESSAGES: Final = 32


def opens(client: bytes, server: bytes) -> bool:
    """Whether either side's first datagram holds a half-octet name where one of the two services has it."""
    return any(_name_at(data) is not None for data in (client, server))


def _name_at(data: bytes) -> int | None:
    """Offset of the first half-octet name: 12 in the name service, 14 in a datagram."""
    if len(data) >= 45 and data[12] == 0x20 and _HALF_OCTETS.issuperset(data[13:45]):
        return 12
    datagram = len(data) >= 47 and data[0] in _DATAGRAMS and data[14] == 0x20
    return 14 if datagram and _HALF_OCTETS.issuperset(data[15:47]) else None


FIRST_OCTETS: Final = ANY_OCTET
"""Names are asked for under a random number."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Keep the names of all datagrams."""
    if dialogue.transport != "udp" or not opens(dialogue.to_server.head, dialogue.to_client.head):
        return NOT_THIS
    signs = Signs()
    kinds: set[str] = set()
    answering: bool | None = None
    for side in Side:
        for chunk in dialogue.stream(side).chunks[:_MAX_MESSAGES]:
            at = _name_at(chunk.data)
            if at is None:
                continue
            kinds.add("netbios-ns" if at == 12 else "netbios-dgm")
            signs.add("netbios.name", _name(chunk.data, at), Place(side, chunk.offset))
            if at == 12 and answering is None:
                answering = (chunk.data[2] & 0x80 != 0) == (side is Side.TO_SERVER)
    kind = "netbios-ns" if "netbios-ns" in kinds else "netbios-dgm"
    return Evidence(kind, signs.kept[0].place, answering, signs=tuple(signs.kept))


def _name(data: bytes, at: int) -> str:
    """ "HOST<20>": fifteen characters and the number of the service, each octet written as two letters."""
    letters = data[at + 1 : at + 33]
    raw = bytes((letters[i] - 0x41) << 4 | (letters[i + 1] - 0x41) for i in range(0, 32, 2))
    return f"{raw[:15].rstrip(bytes((0, 0x20))).decode('cp437', 'replace') or '*'}<{raw[15]:02x}>"
