"""What the readers of lines and hellos share: who speaks, whole lines, and the list of signs.

Knows streams and bounds; knows no protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from classifier import limits
from classifier.inspectors.base import Dialogue, Place, Side, Sign


def text(data: bytes) -> str:
    """Bytes of a stranger as text of at most `limits.MAX_TEXT` characters; never fails."""
    return data[: 4 * limits.MAX_TEXT].decode("utf-8", "replace")[: limits.MAX_TEXT]


def lines(data: bytes, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Whole lines from `start` on: offset, offset of the next line, content without its line end.

    Ends at the first line that is not whole or is longer than `limits.MAX_LINE`.
    """
    while (end := data.find(b"\n", start, start + limits.MAX_LINE)) >= 0:
        yield start, end + 1, data[start:end].rstrip(b"\r")
        start = end + 1


Headers = tuple[tuple[bytes, bytes], ...]
"""Header lines of HTTP and SIP: name in lower case, value."""


def headers(data: bytes, at: int) -> tuple[Headers, int, bool]:
    """Header lines from `at` on, the offset behind them, and whether the blank line that ends them is there.

    At most `limits.MAX_HEADERS`; a line that isn't whole is left out.
    """
    found: list[tuple[bytes, bytes]] = []
    for start, after, line in lines(data, at):
        at = after
        if not line:
            return tuple(found), at, True
        if len(found) >= limits.MAX_HEADERS:
            return tuple(found), start, False
        name, _, value = line.partition(b":")
        found.append((name.strip().lower(), value.strip()))
    return tuple(found), at, False


@dataclass(slots=True)
class Signs:
    """Signs in order of appearance, each (field, value) once, none empty, at most `limits.MAX_SIGNS`."""

    kept: list[Sign] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    full: bool = False

    def add(self, name: str, value: str, place: Place) -> None:
        """Keep one observation, unless it's known already or the bound is met."""
        key = (name, value[: limits.MAX_TEXT])
        if key in self.seen or not value:
            return
        if len(self.kept) >= limits.MAX_SIGNS:
            self.full = True
            return
        self.seen.add(key)
        self.kept.append(Sign(*key, place))

    def values(self, name: str) -> list[str]:
        """Values kept under one field name, in order."""
        return [sign.value for sign in self.kept if sign.field == name]


@dataclass(slots=True)
class Talk:
    """A dialogue turned the way its payload proves: what the client said, what the server said.

    client, server: bytes up to the first hole of each stream. reversed: as `Evidence.reversed`.
    """

    client: bytes
    server: bytes
    client_side: Side
    server_side: Side
    reversed: bool
    broken: bool
    limited: bool
    signs: Signs = field(default_factory=Signs)

    def by_client(self, name: str, value: str, offset: int) -> None:
        """Keep a sign that the client gave at this offset of its stream."""
        self.signs.add(name, value, Place(self.client_side, offset))

    def by_server(self, name: str, value: str, offset: int) -> None:
        """Keep a sign that the server gave at this offset of its stream."""
        self.signs.add(name, value, Place(self.server_side, offset))


def talk(dialogue: Dialogue, *, turned: bool) -> Talk:
    """The dialogue with its client first; turned: `to_server` was sent by the server."""
    ours, theirs = dialogue.to_server, dialogue.to_client
    broken, limited = ours.has_hole or theirs.has_hole, ours.limited or theirs.limited
    if turned:
        return Talk(theirs.head, ours.head, Side.TO_CLIENT, Side.TO_SERVER, True, broken, limited)
    return Talk(ours.head, theirs.head, Side.TO_SERVER, Side.TO_CLIENT, False, broken, limited)
