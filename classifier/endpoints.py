"""EndpointMap: which RPC interface (or call, or proxy) was handed out on which server port, when, by whom.

Keyed by server, transport, port AND time, because services restart and take other ports. Whatever hands
out a port is entered here, from any conversation of the capture set; conversations before and after are
answered from it. The server is the TCP peer that answered, not the address written in a tower (NAT,
0.0.0.0, cluster names): the written one is only an alias to fall back on.

An entry holds as long as nothing contradicts it: an answer for the same interface on the same server that
no longer names the port ends it (a restart), and one before it that named another port is where it may
have begun. reference: [C706] appendix O (endpoint mapper), [MS-RPCE] 2.2.1.2, [MS-DCOM] 3.1.2.5.1.
"""

from __future__ import annotations

import ipaddress
import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from classifier.errors import UsageError
from classifier.limits import MAX_ANNOUNCEMENTS
from classifier.model import RESOLUTION_KINDS

PREFERENCE: Final = {kind: rank for rank, kind in enumerate(RESOLUTION_KINDS)}
NEVER: Final = 2**63 - 1

Endpoint = tuple[str, str, int]
"""(server address, transport, port)."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One port handed out, or found bound.

    server: address of the peer that said so; kind: `model.ResolutionKind`; time: nanoseconds since 1970 UTC;
    uuid, version: "" where no interface is involved; address: what the announcement itself names, "" if
    nothing; frame: ordinal in the run, 0 for one from a file; conversation: its index in the run, -1 for
    one from a file.
    """

    server: str
    transport: str
    port: int
    uuid: str
    version: str
    kind: str
    time: int
    frame: int = 0
    conversation: int = -1
    address: str = ""
    annotation: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """What it is filed under."""
        return self.server, self.transport, self.port


@dataclass(frozen=True, slots=True)
class Entry:
    """An announcement and the time in which nothing contradicts it, [since, until) in nanoseconds."""

    announcement: Announcement
    since: int
    until: int


@dataclass(slots=True)
class EndpointMap:
    """Learn with `add`, then `settle` once, then ask.

    refused: announcements beyond limits.MAX_ANNOUNCEMENTS.
    """

    announcements: list[Announcement] = field(default_factory=list)
    refused: int = 0
    _at: dict[Endpoint, list[Entry]] = field(default_factory=dict)
    _aliases: dict[Endpoint, list[Entry]] = field(default_factory=dict)

    def add(self, announcements: Iterable[Announcement]) -> None:
        """Take in what was handed out. Entries are ready after `settle`."""
        for announcement in announcements:
            if len(self.announcements) < MAX_ANNOUNCEMENTS:
                self.announcements.append(announcement)
            else:
                self.refused += 1

    def settle(self) -> None:
        """Work out how long each announcement holds. The order in which they came does not matter."""
        self._at, self._aliases = defaultdict(list), defaultdict(list)
        by_interface: dict[tuple[str, str, str], list[Announcement]] = defaultdict(list)
        for announcement in sorted(set(self.announcements), key=_order):
            by_interface[announcement.server, announcement.transport, announcement.uuid].append(announcement)
        for group in by_interface.values():
            for entry in _held(group):
                self._at[entry.announcement.endpoint].append(entry)
                alias = entry.announcement.address
                if alias and alias != entry.announcement.server and not _unspecified(alias):
                    self._aliases[alias, entry.announcement.transport, entry.announcement.port].append(entry)

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """Every (server, transport, port) that something was said about, by the peer or under an alias."""
        return self._at.keys() | self._aliases.keys()

    def knows(self, server: str, transport: str, port: int) -> bool:
        """Whether anything was said about this port, at any time, by the peer or under an alias."""
        key = (server, transport, port)
        return key in self._at or key in self._aliases

    def at(self, server: str, transport: str, port: int, time: int, *, asking: int = -1) -> list[Entry]:
        """What held on this port at that time, best first.

        asking: index of the conversation that wants to know; what it said itself is left out.
        Order: kind (`model.RESOLUTION_KINDS`), then the last one before that time, then the first one after.
        """
        key = (server, transport, port)
        entries = self._at.get(key) or self._aliases.get(key) or []
        fitting = [
            entry
            for entry in entries
            if entry.since <= time < entry.until and entry.announcement.conversation != asking
        ]
        return sorted(fitting, key=lambda entry: _nearness(entry.announcement, time))

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by server, port and time."""
        for _, entries in sorted(self._at.items(), key=lambda item: item[0]):
            yield from entries

    @classmethod
    def load(cls, path: Path) -> EndpointMap:
        """Read a map that an earlier run wrote (JSON lines); an absent file is an empty map.

        Raises UsageError with the line that can't be read.
        """
        learnt = cls()
        if not path.exists():
            return learnt
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                learnt.add([_from_record(json.loads(line))])
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{path}:{number}: not an entry of an endpoint map: {error}") from error
        return learnt

    def save(self, path: Path) -> None:
        """Write what is known as JSON lines, the newest of each (server, transport, port, interface)."""
        newest: dict[tuple[str, str, int, str], Announcement] = {}
        for announcement in sorted(self.announcements, key=_order):
            newest[*announcement.endpoint, announcement.uuid] = announcement
        lines = [json.dumps(_to_record(announcement)) for announcement in newest.values()]
        partial = path.with_name(path.name + ".part")
        partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        partial.replace(path)


def _order(announcement: Announcement) -> tuple[Any, ...]:
    return (
        announcement.time,
        PREFERENCE[announcement.kind],
        announcement.endpoint,
        announcement.uuid,
        announcement.frame,
    )


def _held(group: list[Announcement]) -> Iterator[Entry]:
    """Entries of one interface on one server: how long each holds. group: by time."""
    answers: dict[int, set[int]] = defaultdict(set)
    for announcement in group:
        if announcement.kind in ("ept_map", "ept_lookup", "endpoint-map-file"):
            answers[announcement.time].add(announcement.port)
    times = sorted(answers)
    for announcement in group:
        place = bisect_left(times, announcement.time)
        earlier = (t for t in reversed(times[:place]) if announcement.port not in answers[t])
        later = (t for t in times[place:] if t > announcement.time and announcement.port not in answers[t])
        yield Entry(announcement, next(earlier, -NEVER), next(later, NEVER))


def _nearness(announcement: Announcement, time: int) -> tuple[int, bool, int, str]:
    after = announcement.time > time
    return PREFERENCE[announcement.kind], after, abs(announcement.time - time), announcement.uuid


def _unspecified(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return parsed.is_unspecified or parsed.is_loopback


def _to_record(announcement: Announcement) -> dict[str, Any]:
    record = asdict(announcement)
    del record["frame"], record["conversation"]
    return record


def _from_record(record: dict[str, Any]) -> Announcement:
    """Checks what a file says; its kind becomes `endpoint-map-file`, whatever it was when it was learnt."""
    port, time, transport = int(record["port"]), int(record["time"]), str(record["transport"])
    if not 0 < port < 65_536 or transport not in ("tcp", "udp"):
        raise ValueError(f"port {port}/{transport}")
    server = str(ipaddress.ip_address(record["server"]))
    uuid, version, address, annotation = (
        str(record.get(name, "")) for name in ("uuid", "version", "address", "annotation")
    )
    return Announcement(
        server, transport, port, uuid, version, "endpoint-map-file", time, address=address, annotation=annotation
    )
