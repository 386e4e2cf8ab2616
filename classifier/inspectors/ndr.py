"""Network Data Representation: the little that readers of RPC stubs and headers need.

Owns byte order, alignment and pointers of NDR (C706 chapter 14) and NDR64 (MS-RPCE 2.2.5), and UUIDs
as text. It knows no interface and no PDU.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final
from uuid import UUID


class MalformedError(Exception):
    """The stub ends early or contradicts itself. Never leaves this package's readers."""


class Order:
    """The structs of one byte order, compiled once; each attribute is an `unpack_from`."""

    __slots__ = ("big", "pair", "triple", "u16", "u32", "u64")

    def __init__(self, mark: str) -> None:
        self.big: Final = mark == ">"
        self.u16: Final = Struct(mark + "H").unpack_from
        self.u32: Final = Struct(mark + "I").unpack_from
        self.u64: Final = Struct(mark + "Q").unpack_from
        self.pair: Final = Struct(mark + "HH").unpack_from
        self.triple: Final = Struct(mark + "HHI").unpack_from


LITTLE: Final = Order("<")
BIG: Final = Order(">")

NDR32: Final = "8a885d04-1ceb-11c9-9fe8-08002b104860"
NDR64: Final = "71710533-beba-4937-8319-b5dbef9ccc36"


@lru_cache(maxsize=4096)
def uuid_text(raw: bytes, big: bool = False) -> str:
    """The UUID in lower case with hyphens, from its 16 bytes in either byte order (C706 appendix A)."""
    return str(UUID(bytes=raw) if big else UUID(bytes_le=raw))


@lru_cache(maxsize=4096)
def syntax_text(raw: bytes, big: bool = False) -> tuple[str, str]:
    """UUID and "major.minor" of a p_syntax_id_t: 20 bytes, the major version in the LOW half of its u32.

    Two u16 in a row would be right in little endian only (C706 12.6.3.1).
    """
    version: int = (BIG if big else LITTLE).u32(raw, 16)[0]
    return uuid_text(raw[:16], big), f"{version & 0xFFFF}.{version >> 16}"


class Cursor:
    """A reading position in a stub. Every read checks that the bytes are there and raises `MalformedError` if not.

    wide: NDR64, where counts and pointers have 8 bytes and align to 8 (MS-RPCE 2.2.5.3).
    """

    __slots__ = ("data", "order", "position", "wide")

    def __init__(self, data: bytes, order: Order, wide: bool = False, position: int = 0) -> None:
        self.data = data
        self.order = order
        self.wide = wide
        self.position = position

    def align(self, width: int) -> None:
        """Move to the next multiple of width, counted from the start of the stub."""
        self.position += -self.position % width

    def take(self, length: int) -> bytes:
        """The next length bytes."""
        start = self.position
        if length < 0 or start + length > len(self.data):
            raise MalformedError
        self.position = start + length
        return self.data[start : start + length]

    def u16(self) -> int:
        """An aligned unsigned short."""
        self.align(2)
        value: int = self.order.u16(self.take(2))[0]
        return value

    def u32(self) -> int:
        """An aligned unsigned long."""
        self.align(4)
        value: int = self.order.u32(self.take(4))[0]
        return value

    def count(self) -> int:
        """A conformance, an offset, an actual count or a referent id: u32, in NDR64 u64."""
        if not self.wide:
            return self.u32()
        self.align(8)
        value: int = self.order.u64(self.take(8))[0]
        return value

    def uuid(self) -> str:
        """An aligned UUID."""
        self.align(4)
        return uuid_text(bytes(self.take(16)), self.order.big)
