"""EndpointMap: which RPC interface (or call, or proxy) was handed out on which server port, when, by whom.

Keyed by server, transport, port AND time, because services restart and take other ports. Whatever hands
out a port is entered here, from any conversation of the capture set; conversations before and after are
answered from it. The server is the TCP peer that answered, not the address written in a tower (NAT,
0.0.0.0, cluster names): the written one is only an alias to fall back on.

An entry holds as long as nothing contradicts it: an answer of the endpoint mapper for the same interface and protocol
sequence on the same server that no longer names the port ends it (a restart), and one before it that named another port
is where it may have begun. Nothing else ends one: a RST answers for a full backlog or a firewall as well as for a
port that nobody serves, and one process serves many interfaces on its port, so that a bind of another one does not
contradict. Both are shown, the latter as a disagreement. reference: [C706] appendix O (endpoint mapper), [MS-RPCE]
2.2.1.2, [MS-DCOM] 3.1.2.5.1.
"""

from __future__ import annotations

import ipaddress
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from classifier.errors import UsageError
from classifier.limits import MAX_ANNOUNCEMENTS, MAX_TOLD_OF_PORT
from classifier.model import RESOLUTION_KINDS

PREFERENCE: Final = {kind: rank for rank, kind in enumerate(RESOLUTION_KINDS)}
NEVER: Final = 2**63 - 1

MAPPER_ANSWERS: Final = frozenset({"ept_map", "ept_lookup"})
"""Kinds that name every port of an interface that the server has at that time: what they leave out is gone."""

Endpoint = tuple[str, str, int]
"""(server address, transport, port)."""

Told = tuple[str, str, str, str]
"""(who said it, kind, uuid, version): announcements of a port that differ only in when they were made."""


class Announcement(NamedTuple):
    """One port handed out, or found bound.

    server: address of the peer that said so; kind: `model.ResolutionKind`; time: nanoseconds since 1970 UTC;
    uuid, version: "" where no interface is involved; address: what the announcement itself names, "" if
    nothing; frame: ordinal in the run, 0 for one from a file; conversation: its number in the run, -1 for
    one from a file; learnt_as: the kind under which an earlier run learnt it, "" for one of this run; over_http:
    told for the protocol sequence ncacn_http, whose port stands beside the one of ncacn_ip_tcp.
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
    learnt_as: str = ""
    over_http: bool = False

    @property
    def endpoint(self) -> Endpoint:
        """What it is filed under."""
        return self.server, self.transport, self.port

    @property
    def told(self) -> Told:
        """What it shares with those that repeat it."""
        return self.server, self.kind, self.uuid, self.version

    @property
    def first_kind(self) -> str:
        """What handed it out, in whichever run that was."""
        return self.learnt_as or self.kind


class Entry(NamedTuple):
    """An announcement and the time in which nothing contradicts it, [since, until) in nanoseconds."""

    announcement: Announcement
    since: int
    until: int


@dataclass(slots=True)
class EndpointMap:
    """Learn with `add`, then `settle` once, then ask.

    refused: announcements beyond limits.MAX_ANNOUNCEMENTS, and of a port beyond limits.MAX_TOLD_OF_PORT.
    """

    announcements: list[Announcement] = field(default_factory=list)
    refused: int = 0
    _at: _Filed = field(default_factory=dict)
    _aliases: _Filed = field(default_factory=dict)

    def add(self, announcements: Iterable[Announcement]) -> None:
        """Take in what was handed out. Entries are ready after `settle`."""
        for announcement in announcements:
            if len(self.announcements) < MAX_ANNOUNCEMENTS:
                self.announcements.append(announcement)
            else:
                self.refused += 1

    def settle(self) -> None:
        """Work out how long each announcement holds. The order in which they came does not matter."""
        self._at, self._aliases = {}, {}
        by_interface: dict[tuple[str, str, bool, str], list[Announcement]] = defaultdict(list)
        for said in sorted(set(self.announcements), key=_order):
            by_interface[said.server, said.transport, said.over_http, said.uuid].append(said)
        for entry in chain.from_iterable(map(_held, by_interface.values())):
            said = entry.announcement
            self.refused += not _file(self._at, said.endpoint, entry)
            alias = reachable(said.address) if said.address != said.server else ""
            if alias not in ("", said.server):
                _file(self._aliases, (alias, said.transport, said.port), entry)

    def condense(self, most: int) -> None:
        """Forget repetitions: what was entered twice, and beyond `most` all but the newest of each thing told."""
        self.announcements = list(dict.fromkeys(self.announcements))
        if len(self.announcements) > most:
            self.announcements = list(self._newest().values())

    def _newest(self) -> dict[tuple[Any, ...], Announcement]:
        """The newest announcement of each (server, transport, port, interface, kind)."""
        newest: dict[tuple[Any, ...], Announcement] = {}
        for said in sorted(self.announcements, key=_order):
            newest[*said.endpoint, said.uuid, said.version, said.first_kind] = said
        return newest

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """Every (server, transport, port) that something was said about, by the peer or under an alias."""
        return self._at.keys() | self._aliases.keys()

    def knows(self, server: str, transport: str, port: int) -> bool:
        """Whether anything was said about this port, at any time, by the peer or under an alias."""
        key = (server, transport, port)
        return key in self._at or key in self._aliases

    def at(self, server: str, transport: str, port: int, time: int, *, asking: int | None = None) -> list[Entry]:
        """What held on this port at that time, best first; of what was told several times, the nearest.

        asking: number of the conversation that wants to know; what it said itself is left out.
        Order: kind (`model.RESOLUTION_KINDS`), then the last one before that time, then the first one after.
        """
        key = (server, transport, port)
        filed = self._at.get(key) or self._aliases.get(key) or {}
        nearest = (_nearest(entries, time, asking) for entries in filed.values())
        return sorted(
            (entry for entry in nearest if entry is not None), key=lambda entry: _nearness(entry.announcement, time)
        )

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by server, port and time."""
        for endpoint in sorted(self._at):
            yield from sorted(chain(*self._at[endpoint].values()), key=lambda entry: _order(entry.announcement))

    @classmethod
    def load(cls, path: Path) -> EndpointMap:
        """Read a map that an earlier run wrote (JSON lines); an absent file is an empty map.

        Raises UsageError with the line that can't be read, and for a file that can't come to be (no such folder).
        """
        learnt = cls()
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise UsageError(f"endpoint map {path}: its folder does not exist") from None
            return learnt
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"can't read endpoint map {path}: {reason}") from error
        for number, line in enumerate(lines, 1):
            try:
                learnt.add([_from_record(json.loads(line))] if line.strip() else [])
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}:{number}: not an entry of an endpoint map: {error}") from error
        return learnt

    def save(self, path: Path) -> None:
        """Write what is known as JSON lines, the newest of each (server, transport, port, interface, kind).

        Raises OSError; what was there before is then still there.
        """
        newest = self._newest()
        lines = [json.dumps(_to_record(newest[key])) for key in sorted(newest)]
        partial = path.with_name(path.name + ".part")
        try:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise


_Filed = dict[Endpoint, dict[Told, list[Entry]]]
"""Entries of each port by what they tell, each list by time."""


def _order(announcement: Announcement) -> tuple[Any, ...]:
    """By time; total, so that the order in which announcements came is forgotten."""
    return announcement.time, PREFERENCE[announcement.kind], announcement.frame, announcement


def _file(filed: _Filed, endpoint: Endpoint, entry: Entry) -> bool:
    """Put an entry with those of its port; False if too much was told of it already."""
    at_port = filed.setdefault(endpoint, {})
    told = entry.announcement.told
    if told not in at_port and len(at_port) >= MAX_TOLD_OF_PORT:
        return False
    at_port.setdefault(told, []).append(entry)
    return True


@lru_cache(maxsize=4096)
def reachable(address: str) -> str:
    """An announced address as the table of addresses spells it; "" if a peer can't have it (0.0.0.0, loopback)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return "" if parsed.is_unspecified or parsed.is_loopback else str(parsed)


# ---- how long an announcement holds ----------------------------------------------------------


def _held(group: Sequence[Announcement]) -> Iterator[Entry]:
    """Entries of one interface on one server: how long each holds. group: by time."""
    answers = _answers(group)
    times = sorted(answers)
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, time in enumerate(times):
        for port in answers[time]:
            adjacent = runs[port] and runs[port][-1][1] == index - 1
            runs[port].append((runs[port].pop()[0] if adjacent else index, index))
    for announcement in group:
        own = runs[announcement.port]
        before, _ = _run_around(own, bisect_left(times, announcement.time) - 1)
        _, after = _run_around(own, bisect_right(times, announcement.time))
        since = times[before - 1] if before > 0 else -NEVER
        yield Entry(announcement, since, times[after + 1] if after + 1 < len(times) else NEVER)


def _answers(group: Iterable[Announcement]) -> dict[int, set[int]]:
    """Ports that the endpoint mapper named, by the time of its answer.

    A lookup lists an interface's ports over several calls, which do not contradict each other: all that
    one conversation looked up is taken for one answer, at the time of the last.
    """
    answers: dict[int, set[int]] = defaultdict(set)
    looked_up: dict[int, list[Announcement]] = defaultdict(list)
    for announcement in group:
        if announcement.first_kind == "ept_lookup":
            looked_up[announcement.conversation].append(announcement)
        elif announcement.first_kind in MAPPER_ANSWERS:
            answers[announcement.time].add(announcement.port)
    for listed in looked_up.values():
        answers[listed[-1].time].update(announcement.port for announcement in listed)
    return answers


def _run_around(runs: Sequence[tuple[int, int]], index: int) -> tuple[int, int]:
    """First and last of the run that an index lies in; where it is in none, the empty one that begins behind it
    and ends before it."""
    place = bisect_right(runs, (index, NEVER)) - 1
    return runs[place] if place >= 0 and runs[place][1] >= index else (index + 1, index - 1)


def _nearest(entries: Sequence[Entry], time: int, asking: int | None) -> Entry | None:
    """The last one told before that time, else the first after it, of those that held then and are not the asker's.

    Entries of one list begin and end in the order of their times, so no others can hold where these two don't.
    """
    place = bisect_right(entries, time, key=lambda entry: entry.announcement.time)
    for indexes in (range(place - 1, -1, -1), range(place, len(entries))):
        others = (entries[index] for index in indexes if entries[index].announcement.conversation != asking)
        entry = next(others, None)
        if entry is not None and entry.since <= time < entry.until:
            return entry
    return None


def _nearness(announcement: Announcement, time: int) -> tuple[int, bool, int, Told]:
    after = announcement.time > time
    return PREFERENCE[announcement.kind], after, abs(announcement.time - time), announcement.told


# ---- the file ----------------------------------------------------------------------------------


def _to_record(announcement: Announcement) -> dict[str, Any]:
    record = announcement._asdict() | {"kind": announcement.first_kind}
    for name in ("frame", "conversation", "learnt_as", *([] if announcement.over_http else ["over_http"])):
        del record[name]
    return record


def _from_record(record: object) -> Announcement:
    """Checks what a file says; its kind becomes `endpoint-map-file`, what it was when it was learnt is kept beside."""
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    transport = _text(record, "transport")
    if transport not in ("tcp", "udp"):
        raise ValueError(f"transport {transport!r}")
    kind, uuid = _text(record, "kind") or "endpoint-map-file", _text(record, "uuid")
    if kind not in PREFERENCE:
        raise ValueError(f"kind {kind!r}")
    return Announcement(
        server=str(ipaddress.ip_address(_text(record, "server"))),
        transport=transport,
        port=_whole(record, "port", 1, 65_535),
        uuid=str(UUID(uuid)) if uuid else "",
        version=_text(record, "version"),
        kind="endpoint-map-file",
        time=_whole(record, "time", -NEVER, NEVER),
        address=_text(record, "address"),
        annotation=_text(record, "annotation"),
        learnt_as=kind,
        over_http=record.get("over_http") is True,
    )


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} {value!r} is no text")
    return value


def _whole(record: dict[str, Any], name: str, least: int, most: int) -> int:
    value = record.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} {value!r}")
    return value
