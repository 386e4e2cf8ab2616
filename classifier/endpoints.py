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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from classifier.errors import UsageError
from classifier.inspection import members
from classifier.limits import MAX_ANNOUNCEMENTS, MAX_TOLD_OF_PORT
from classifier.model import RESOLUTION_KINDS

PREFERENCE: Final = {kind: rank for rank, kind in enumerate(RESOLUTION_KINDS)}
NEVER: Final = 2**63 - 1

MAPPER_ANSWERS: Final = frozenset({"ept_map", "ept_lookup"})
"""Kinds that name every port of an interface that the server has at that time: what they leave out is gone."""

ASKED_AT_ONCE: Final = 4096
"""Questions that are answered at a time; what is looked at for each is up to limits.MAX_TOLD_OF_PORT rows."""

Endpoint = tuple[str, str, int]
"""(server address, transport, port)."""

Told = tuple[str, str, str, str]
"""(who said it, kind, uuid, version): claims about a port that differ in nothing that a label names."""


class Claim(NamedTuple):
    """What is said of one port that is handed out, or found bound, however often.

    server: address of the peer that says so; kind: `model.ResolutionKind`; uuid, version: "" where no interface is
    involved; address: what the claim itself names, "" if nothing; learnt_as: the kind under which an earlier run
    learnt it, "" for one of this run; over_http: told for the protocol sequence ncacn_http, whose port stands beside
    the one of ncacn_ip_tcp.
    """

    server: str
    transport: str
    port: int
    uuid: str
    version: str
    kind: str
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
        """What handed the port out, in whichever run that was."""
        return self.learnt_as or self.kind


class Announcement(NamedTuple):
    """A claim as it was made once.

    time: nanoseconds since 1970 UTC; frame: ordinal in the run, 0 for one from a file; conversation: its number in the
    run, -1 for one from a file.
    """

    claim: Claim
    time: int
    frame: int = 0
    conversation: int = -1


class Entry(NamedTuple):
    """An announcement and the time in which nothing contradicts it, [since, until) in nanoseconds."""

    announcement: Announcement
    since: int
    until: int


@dataclass(slots=True)
class EndpointMap:
    """Learn with `add` or `enter`, then `settle` once, then ask.

    claims: each once. said: int64[4, n], of each announcement the number of its claim, time, frame and conversation;
    `settle` puts both in order. refused: announcements beyond limits.MAX_ANNOUNCEMENTS, and of a port beyond
    limits.MAX_TOLD_OF_PORT.
    """

    claims: list[Claim] = field(default_factory=list)
    said: NDArray[np.int64] = field(default_factory=lambda: np.zeros((4, 0), np.int64))
    refused: int = 0
    _held: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    _filed: _Filed = field(default_factory=lambda: _Filed.of([], np.zeros((4, 0), np.int64)))

    @property
    def announcements(self) -> list[Announcement]:
        """All that was said."""
        return [Announcement(self.claims[claim], *when) for claim, *when in self.said.T.tolist()]

    def add(self, announcements: Iterable[Announcement]) -> None:
        """Take in what was handed out. It can be asked for after `settle`."""
        said = list(announcements)
        when = np.array([each[1:] for each in said], np.int64).reshape(-1, 3).T
        self.enter([each.claim for each in said], np.arange(len(said)), when)

    def enter(self, claims: Iterable[Claim], claim_of: NDArray[np.int64], when: NDArray[np.int64]) -> None:
        """The same in columns. claim_of: of each announcement, index into claims; when: int64[3, n], time, frame and
        conversation."""
        numbers = {claim: number for number, claim in enumerate(self.claims)}
        own = np.array([numbers.setdefault(claim, len(numbers)) for claim in claims], np.int64)
        room = MAX_ANNOUNCEMENTS - self.said.shape[1]
        self.refused += max(len(claim_of) - room, 0)
        self.claims = list(numbers)
        self.said = np.concatenate([self.said, np.stack([own[claim_of], *when])[:, : max(room, 0)]], axis=1)

    def settle(self) -> None:
        """Work out how long each announcement holds. Neither their order nor repetitions matter."""
        used = sorted(np.flatnonzero(np.bincount(self.said[0])).tolist(), key=self.claims.__getitem__)
        rank = np.zeros(len(self.claims), np.int64)
        rank[used] = np.arange(len(used))
        self.claims = [self.claims[number] for number in used]
        claim, time, frame, conversation = rank[self.said[0]], *self.said[1:]
        order = np.lexsort((claim, conversation, frame, self._preference[claim], time))
        said = np.stack([claim, time, frame, conversation])[:, order]
        fresh = np.ones(len(order), np.bool_)
        fresh[1:] = (said[:, 1:] != said[:, :-1]).any(axis=0)
        self.said = said[:, fresh]
        self._held = _held(self.claims, self.said)
        self._filed = _Filed.of(self.claims, self.said)
        self.refused += int((~self._filed.by_peer[self.said[0]]).sum())

    def condense(self, most: int) -> None:
        """Forget, beyond `most`, all but the newest of each thing told. It can be asked for after `settle`."""
        if self.said.shape[1] > most:
            kept = list(self._newest().values())
            self.said, self._held = self.said[:, kept], self._held[:, kept]

    def _newest(self) -> dict[tuple[Any, ...], int]:
        """The newest announcement of each (server, transport, port, interface, kind): its index in said."""
        keys = [(*claim.endpoint, claim.uuid, claim.version, claim.first_kind) for claim in self.claims]
        return {keys[claim]: index for index, claim in enumerate(self.said[0].tolist())}

    @property
    def endpoints(self) -> list[Endpoint]:
        """Every (server, transport, port) that something was said about, by the peer or under an alias."""
        return self._filed.endpoints

    def at(
        self, ports: NDArray[np.int64], times: NDArray[np.int64], asking: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What held on each port at its time, best first; of what was told several times, the nearest.

        ports: index into endpoints; asking: number of the conversation that wants to know; what it said itself is left
        out. Returns of all that held, in the order of the questions, the number of the question and the index into
        said. Best first: kind (`model.RESOLUTION_KINDS`), then the last one before that time, then the first after.
        """
        parts = [slice(start, start + ASKED_AT_ONCE) for start in range(0, max(len(ports), 1), ASKED_AT_ONCE)]
        held = [self._at(ports[part], times[part], asking[part]) for part in parts]
        questions = [question + part.start for part, (question, _) in zip(parts, held, strict=True)]
        return np.concatenate(questions), np.concatenate([index for _, index in held])

    def _at(
        self, ports: NDArray[np.int64], times: NDArray[np.int64], asking: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        since, until = self._held
        question, told, before, after = self._filed.around(ports, times, asking)
        time = times[question]
        holds = [(index >= 0) & (since[index] <= time) & (time < until[index]) for index in (before, after)]
        index = np.where(holds[0], before, after)
        which = np.flatnonzero(holds[0] | holds[1])
        question, told, index, time = (each[which] for each in (question, told, index, time))
        claim, when = self.said[:2, index]
        later = when > time
        distance = np.where(later, when - time, time - when).view(np.uint64)
        order = np.lexsort((told, distance, later, self._preference[claim], question))
        return question[order], index[order]

    @property
    def _preference(self) -> NDArray[np.int64]:
        """Of each claim, by its kind: a lower number outweighs a higher one."""
        return np.array([PREFERENCE[claim.kind] for claim in self.claims], np.int64)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by server, port and time."""
        held = zip(self.announcements, *self._held.tolist(), self._filed.by_peer[self.said[0]].tolist(), strict=True)
        entries = [Entry(*entry) for *entry, filed in held if filed]
        return iter(sorted(entries, key=lambda entry: entry.announcement.claim.endpoint))

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
        said = []
        for number, line in enumerate(lines, 1):
            try:
                said += [_from_record(json.loads(line))] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}:{number}: not an entry of an endpoint map: {error}") from error
        learnt.add(said)
        return learnt

    def save(self, path: Path) -> None:
        """Write what is known as JSON lines, the newest of each (server, transport, port, interface, kind).

        Raises OSError; what was there before is then still there.
        """
        newest, announcements = self._newest(), self.announcements
        lines = [json.dumps(_to_record(announcements[newest[key]])) for key in sorted(newest)]
        partial = path.with_name(path.name + ".part")
        try:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise


@lru_cache(maxsize=4096)
def reachable(address: str) -> str:
    """An announced address as the table of addresses spells it; "" if a peer can't have it (0.0.0.0, loopback)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return "" if parsed.is_unspecified or parsed.is_loopback else str(parsed)


# ---- what was told of each port --------------------------------------------------------------

_ByTold = dict[Endpoint, dict[Told, list[int]]]
"""Numbers of the claims about each port by what they tell."""


class _Filed(NamedTuple):
    """What was said, by port, by what it tells, and by time.

    endpoints: the ports. tolds: int64, number of the first thing told of each, and how many there are. by_peer: bool,
    whether each claim is filed under the server that made it. moments: int64, all times. keys: int64, thing told and
    index into moments as one number, sorted. told, conversation: int64, of each key; said: int64, its index into
    `EndpointMap.said`; previous, following: int64, where others than its conversation said something before and after.
    All but keys end with one of no told thing.
    """

    endpoints: list[Endpoint]
    tolds: NDArray[np.int64]
    by_peer: NDArray[np.bool_]
    moments: NDArray[np.int64]
    keys: NDArray[np.int64]
    told: NDArray[np.int64]
    conversation: NDArray[np.int64]
    said: NDArray[np.int64]
    previous: NDArray[np.int64]
    following: NDArray[np.int64]

    @classmethod
    def of(cls, claims: Sequence[Claim], said: NDArray[np.int64]) -> _Filed:
        """File what was said, which is in order."""
        filed = _by_port(claims, dict.fromkeys(said[0].tolist()))
        tolds, told_of = [0], np.full((2, len(claims)), -1)
        for (server, _, _), at_port in filed.items():
            for number, thing in enumerate(sorted(at_port), tolds[-1]):
                for claim in at_port[thing]:
                    told_of[int(claims[claim].server != server), claim] = number
            tolds.append(tolds[-1] + len(at_port))
        told = told_of[:, said[0]].ravel()
        order = np.argsort(told, kind="stable")
        order = order[np.searchsorted(told[order], 0) :]
        told, index = told[order], order % said.shape[1]
        moments, when = np.unique(said[1], return_inverse=True)
        keys = told * (len(moments) + 1) + when[index]
        told, index = np.append(told, -1), np.append(index, -1)
        conversation = np.append(said[3, index[:-1]], NEVER)
        starts = np.flatnonzero(np.append(True, (np.diff(told) != 0) | (np.diff(conversation) != 0)))
        lengths = np.diff(starts, append=len(told))
        return cls(
            list(filed), np.array(tolds), told_of[0] >= 0, moments, keys, told, conversation, index,
            np.repeat(starts - 1, lengths), np.repeat(starts + lengths, lengths),
        )  # fmt: skip

    def around(
        self, ports: NDArray[np.int64], times: NDArray[np.int64], asking: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What others than the asking said last before each time and first after it, of each thing told of the port.

        Returns the number of the question, the thing told, and two indexes into `EndpointMap.said`, -1 for nothing.
        """
        question = np.repeat(np.arange(len(ports)), np.diff(self.tolds)[ports])
        told = members(np.diff(self.tolds), ports)
        moment = np.searchsorted(self.moments, times, side="right")
        after = np.searchsorted(self.keys, told * (len(self.moments) + 1) + moment[question])
        before, asker = after - 1, asking[question]
        before = np.where(self.conversation[before] == asker, self.previous[before], before)
        after = np.where(self.conversation[after] == asker, self.following[after], after)
        last, first = (np.where(self.told[each] == told, self.said[each], -1) for each in (before, after))
        return question, told, last, first


def _by_port(claims: Sequence[Claim], numbers: Iterable[int]) -> _ByTold:
    """File the claims with these numbers; what is told under an alias counts where no peer tells anything."""
    at: _ByTold = {}
    aliases: _ByTold = {}
    for number in numbers:
        claim = claims[number]
        _file(at, claim.endpoint, claim.told, number)
        alias = reachable(claim.address) if claim.address != claim.server else ""
        if alias not in ("", claim.server):
            _file(aliases, (alias, claim.transport, claim.port), claim.told, number)
    return aliases | at


def _file(filed: _ByTold, endpoint: Endpoint, told: Told, number: int) -> None:
    """Put a claim with those of its port, unless too much was told of it already."""
    at_port = filed.setdefault(endpoint, {})
    if told in at_port or len(at_port) < MAX_TOLD_OF_PORT:
        at_port.setdefault(told, []).append(number)


# ---- how long an announcement holds ----------------------------------------------------------


def _held(claims: Sequence[Claim], said: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[2, n]: since when and until when each announcement holds: from the last answer of the mapper before it that
    leaves the port out to the next one after it."""
    groups: dict[tuple[str, str, bool, str], int] = {}
    group_of = [groups.setdefault((*each.endpoint[:2], each.over_http, each.uuid), len(groups)) for each in claims]
    ports: dict[tuple[int, int], int] = {}
    port_of = [ports.setdefault((group, each.port), len(ports)) for group, each in zip(group_of, claims, strict=True)]
    group, port = (np.array(each, np.int64)[said[0]] for each in (group_of, port_of))
    moments, when = np.unique(said[1], return_inverse=True)
    own = group * len(moments) + when
    naming, times = _answers(claims, said, group, own)
    answers, answer = np.unique(times, return_inverse=True)
    step = len(answers) + 2  # so that numbers of a port and an answer are never next to those of another port
    named = np.sort(np.append(port[naming] * step + answer, -2))
    starts = np.flatnonzero(np.diff(named, prepend=-4) > 1)
    first, last = named[starts], named[np.append(starts[1:], len(named)) - 1]
    before, after = np.searchsorted(answers, own) - 1, np.searchsorted(answers, own, side="right")
    ends = []
    for neighbour, beyond, never in ((before, first - 1, -NEVER), (after, last + 1, NEVER)):
        key = port * step + neighbour
        run = np.searchsorted(first, key, side="right") - 1
        left_out = np.where(last[run] >= key, beyond[run], key) - port * step
        answer = np.append(answers, -1)[left_out]
        ends.append(np.where(answer // len(moments) == group, moments[answer % len(moments)], never))
    return np.stack(ends)


def _answers(
    claims: Sequence[Claim], said: NDArray[np.int64], group: NDArray[np.int64], times: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which announcements are the endpoint mapper's, and the times of its answers. group, times: of all announcements.

    A lookup lists an interface's ports over several calls, which do not contradict each other: all that
    one conversation looked up is taken for one answer, at the time of the last.
    """
    kinds = [each.first_kind for each in claims]
    naming = np.flatnonzero(np.array([kind in MAPPER_ANSWERS for kind in kinds], np.bool_)[said[0]])
    listed = np.flatnonzero(np.array([kind == "ept_lookup" for kind in kinds], np.bool_)[said[0]])
    lookups = list(zip(group[listed].tolist(), said[3, listed].tolist(), strict=True))
    last = dict(zip(lookups, times[listed].tolist(), strict=True))
    answered = times.copy()
    answered[listed] = [last[lookup] for lookup in lookups]
    return naming, answered[naming]


# ---- the file ----------------------------------------------------------------------------------


def _to_record(announcement: Announcement) -> dict[str, Any]:
    claim = announcement.claim
    server, transport, port, uuid, version, _, address, annotation, _, over_http = claim
    return {
        "server": server,
        "transport": transport,
        "port": port,
        "uuid": uuid,
        "version": version,
        "kind": claim.first_kind,
        "time": announcement.time,
        "address": address,
        "annotation": annotation,
    } | ({"over_http": True} if over_http else {})


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
    claim = Claim(
        server=str(ipaddress.ip_address(_text(record, "server"))),
        transport=transport,
        port=_whole(record, "port", 1, 65_535),
        uuid=str(UUID(uuid)) if uuid else "",
        version=_text(record, "version"),
        kind="endpoint-map-file",
        address=_text(record, "address"),
        annotation=_text(record, "annotation"),
        learnt_as=kind,
        over_http=record.get("over_http") is True,
    )
    return Announcement(claim, _whole(record, "time", -NEVER, NEVER))


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
