"""RTS, the layer of RPC over HTTP that ties two HTTP connections into one (MS-RPCH 2.2.3 and 2.2.4).

Owns the body of an RTS PDU (ptype 20): its commands, the message they make and the cookies in it.
It knows neither HTTP nor the PDU header.
"""

from __future__ import annotations

from typing import Final

from classifier import limits
from classifier.inspectors.ndr import Order, uuid_text

_COOKIE, _PADDING, _CLIENT_ADDRESS = 0x3, 0x8, 0xB

_SIZES: Final = {
    0x0: 4, 0x1: 24, 0x2: 4, 0x3: 16, 0x4: 4, 0x5: 4, 0x6: 4, 0x7: 0, 0x9: 0, 0xA: 0, 0xC: 16, 0xD: 4, 0xE: 4,
}  # fmt: skip
"""Bytes after each command's type (MS-RPCH 2.2.3.5); padding and client address have a length of their own."""

_MESSAGES: Final = {
    (0x6, 0x3, 0x3, 0x0): "CONN/A1",
    (0x6, 0x3, 0x3, 0x4, 0x0): "CONN/A2",
    (0x2,): "CONN/A3",
    (0x6, 0x3, 0x3, 0x4, 0x5, 0xC): "CONN/B1",
    (0x6, 0x3, 0x3, 0x0, 0x2, 0xC, 0xB): "CONN/B2",
    (0x0, 0x6): "CONN/B3",
    (0x6, 0x0, 0x2): "CONN/C2",  # C1 on its way from the server to the proxy has the same bytes
}
"""Messages of connection set-up, by their commands (MS-RPCH 2.2.4.2 to 2.2.4.9)."""


def read(body: bytes, order: Order) -> list[tuple[str, str]]:
    """(field, value) signs of one RTS PDU, from behind its 16-byte header; [] for keep-alives and flow control."""
    if len(body) < 4:
        return []
    commands, cookies = _commands(body, order)
    message = _MESSAGES.get(tuple(commands))
    if message is None:
        return []
    signs = [("rpc.rts", message)]
    if cookies and 0x6 in commands:  # the virtual connection's cookie is the first, the channel's the second
        signs.append(("rpc.virtual-connection", cookies[0]))
    return signs


def _commands(body: bytes, order: Order) -> tuple[list[int], list[str]]:
    """Types of the commands, and the cookies among them, as far as they are whole."""
    commands: list[int] = []
    cookies: list[str] = []
    position, size = 4, len(body)
    for _ in range(min(order.u16(body, 2)[0], limits.MAX_RTS_COMMANDS)):
        if position + 4 > size:
            break
        kind: int = order.u32(body, position)[0]
        length = _size(body, position + 4, kind, order)
        if length < 0 or position + 4 + length > size:
            break
        if kind == _COOKIE:
            cookies.append(uuid_text(body[position + 4 : position + 20], order.big))
        commands.append(kind)
        position += 4 + length
    return commands, cookies


def _size(body: bytes, at: int, kind: int, order: Order) -> int:
    if kind not in (_PADDING, _CLIENT_ADDRESS):
        return _SIZES.get(kind, -1)
    if at + 4 > len(body):
        return -1
    value: int = order.u32(body, at)[0]
    if kind == _PADDING:
        return 4 + value
    return 4 + (16 if value else 4) + 12  # address type 0 is IPv4; 12 bytes of padding (MS-RPCH 2.2.3.5.12)
