"""Hosts and what goes between them, gathered so that a person can take it in: the content of a map.

Owns which hosts share a box and where boxes and arrows go, in inches. Must not know how they are drawn, nor how
roles are found. Columns go from those who ask to those who are asked: clients, access, transport, mailboxes,
directory. Up to `limits.MAP_HOSTS` hosts have boxes of their own; above that, hosts with the same roles share one.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Final, NamedTuple

import numpy as np

from classifier.fields import Coded
from classifier.limits import MAP_HOSTS, MAP_KINDS, MAP_SHARED
from classifier.overview import names
from classifier.result import Result

_COLUMNS: Final = (
    ("outlook", "mapi-client", "browser", "eas-device", "web-service-client", "smtp-client", "pop3-client",
     "imap4-client", "nntp-client", "admin-workstation", "internet-mta", "ip-gateway"),
    ("client-access", "front-end", "edge-transport", "exchange-online", "unified-messaging"),
    ("hub-transport", "exchange-server", "ocs-lync", "x400-mta", "nntp-server"),
    ("mailbox", "back-end"),
    ("active-directory", "dns-server", "ad-rms", "witness-server"),
)  # fmt: skip
_COLUMN: Final = {role: column for column, roles in enumerate(_COLUMNS) for role in roles}

Point = tuple[float, float]


class Box(NamedTuple):
    """A host, or several. addresses: in numerical order; name: of a single host, or ""; mixed: whether not each of
    them has all of the roles."""

    addresses: tuple[str, ...]
    name: str
    roles: tuple[str, ...]
    column: int
    mixed: bool = False


class Arrow(NamedTuple):
    """Conversations of one label from clients in a box to servers in a box (indexes); label: as `overview.names`."""

    client: int
    server: int
    label: int
    conversations: int


class HostMap(NamedTuple):
    """All of it. labels: what arrows are called, and whether that is a data path."""

    boxes: list[Box]
    arrows: list[Arrow]
    labels: list[str]
    labelled: list[bool]

    @classmethod
    def of(cls, result: Result) -> HostMap:
        """Gather the hosts of a result."""
        codes, labels, labelled = names(result)
        numbers: dict[str, int] = {}
        sides = [_numbered(result, f"{side}_ip", numbers) for side in ("client", "server")]
        counted = Counter(
            {tuple(row): count for row, count in _distinct(np.stack([*sides, codes]))} if len(result) else {}
        )
        hosts = list(numbers)
        roles = _roles(result)
        box_of, boxes = _gathered(hosts, roles, {row["address"]: row.get("name") or "" for row in result.host_rows},
                                  {client for client, _, _ in counted})  # fmt: skip
        arrows: Counter[tuple[int, int, int]] = Counter()
        for (client, server, label), count in counted.items():
            arrows[box_of[client], box_of[server], label] += count
        listed = [Arrow(*ends, count) for ends, count in sorted(arrows.items())]
        return cls(boxes, listed, labels, labelled)


def _numbered(result: Result, name: str, numbers: dict[str, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    column = result.columns[name]
    assert isinstance(column, Coded)
    used = np.bincount(column.codes, minlength=len(column.values)).tolist() if len(column.codes) else []
    own = [numbers.setdefault(value, len(numbers)) if count else -1
           for value, count in zip(column.values, used, strict=False)]  # fmt: skip
    return np.array(own, np.int64)[column.codes] if own else np.empty(0, np.int64)


def _distinct(rows: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Iterable[tuple[list[int], int]]:
    found, counts = np.unique(rows, axis=1, return_counts=True)
    return zip(found.T.tolist(), counts.tolist(), strict=True)


def _roles(result: Result) -> dict[str, tuple[str, ...]]:
    """Roles of every host: what is known of it, else what labels make it."""
    seen: dict[str, set[str]] = defaultdict(set)
    for side in ("client", "server"):
        address, role = result.columns[f"{side}_ip"], result.columns[f"{side}_role"]
        assert isinstance(address, Coded)
        assert isinstance(role, Coded)
        if len(address.codes):
            for (host, word), _ in _distinct(np.stack([address.codes, role.codes]).astype(np.int64)):
                if role.values[word]:
                    seen[address.values[host]].add(role.values[word])
    known = {row["address"]: row["roles"] for row in result.host_rows if row["roles"]}
    return {host: tuple(sorted(roles)) for host, roles in {**seen, **known}.items()}


def _gathered(
    hosts: Sequence[str], roles: Mapping[str, tuple[str, ...]], called: Mapping[str, str], clients: set[int]
) -> tuple[list[int], list[Box]]:
    """The box of each host, and the boxes."""
    kinds: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
    for number, host in enumerate(hosts):
        own = roles.get(host, ())
        kinds[own, _column(own, number in clients)].append(number)
    few = len(hosts) <= MAP_HOSTS
    box_of: list[int] = [0] * len(hosts)
    boxes: list[Box] = []
    for own, column, mixed, members in _kinds(kinds, few):
        members.sort(key=lambda number: _order(hosts[number]))
        alone = few or (len(members) < MAP_SHARED and not mixed)
        for group in [[member] for member in members] if alone else [members]:
            for member in group:
                box_of[member] = len(boxes)
            addresses = tuple(hosts[member] for member in group)
            boxes.append(Box(addresses, called.get(addresses[0], "") if len(group) == 1 else "", own, column, mixed))
    return box_of, boxes


Kind = tuple[tuple[str, ...], int, bool, list[int]]
"""Roles, column, whether not each host has all of the roles, and the hosts."""


def _kinds(kinds: Mapping[tuple[tuple[str, ...], int], list[int]], few: bool) -> Iterator[Kind]:
    """Hosts by their roles; among many the rare combinations of a column are one kind."""
    for column in range(len(_COLUMNS)):
        here = sorted(((roles, hosts) for (roles, at), hosts in kinds.items() if at == column),
                      key=lambda kind: (-len(kind[1]), kind[0]))  # fmt: skip
        kept = len(here) if few or len(here) <= MAP_KINDS else MAP_KINDS - 1
        for roles, hosts in here[:kept]:
            yield roles, column, False, hosts
        if rest := here[kept:]:
            yield (
                tuple(sorted({role for roles, _ in rest for role in roles})),
                column,
                True,
                [host for _, hosts in rest for host in hosts],
            )


def _column(roles: tuple[str, ...], client: bool) -> int:
    """A host of several roles stands where the last of them does; one of none by what it does."""
    placed = [_COLUMN[role] for role in roles if role in _COLUMN]
    return max(placed) if placed else 0 if client else len(_COLUMNS) - 1


def _order(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


# ---- where everything goes ---------------------------------------------------------------------------


LINE: Final = 0.15
"""Height of a line of text in a box."""

_LANE: Final = 0.06
"""Between two arrows side by side."""

_GAP: Final = 0.16
_STREET: Final = 1.25
"""Between two columns, at least."""


@dataclass(slots=True)
class Layout:
    """Places in inches from the lower left. lefts, bottoms, heights: of each box; widths: of each column that has
    boxes; routes: the points of each arrow, at which it is level."""

    size: Point
    lefts: list[float]
    bottoms: list[float]
    heights: list[float]
    widths: list[float]
    routes: list[list[Point]] = field(default_factory=list)


def lay_out(content: HostMap, lines: Sequence[int], widths: Sequence[float]) -> Layout:
    """Place boxes of so many lines of text each that need so much width, and lead arrows around boxes."""
    used = sorted({box.column for box in content.boxes})
    rank = [used.index(box.column) for box in content.boxes]
    columns = [[i for i, own in enumerate(rank) if own == column] for column in range(len(used))]
    _untangle(columns, content.arrows, rank)
    heights = _heights(content, lines, rank)
    through = _ways_through(content.arrows, columns, rank, heights)
    wide = [max(widths[box] for box in boxes) for boxes in columns]
    starts = [0.0, *accumulate(width + _STREET for width in wide)]
    gaps = [[max(_GAP, _LANE * (len(lanes) + 1)) for lanes in column] for column in through]
    tall = [sum(heights[box] for box in boxes) + sum(gaps[column]) for column, boxes in enumerate(columns)]
    total = max(tall, default=0.0)
    laid = Layout((starts[-1] - _STREET, total), [0.0] * len(rank), [0.0] * len(rank), heights, wide)
    lane_y: dict[tuple[int, int], float] = {}
    for column, boxes in enumerate(columns):
        spare = (total - tall[column]) / (len(boxes) + 1)
        y = total
        for place in range(len(boxes) + 1):
            room = gaps[column][place] + spare
            for lane, arrow in enumerate(through[column][place]):
                lane_y[arrow, column] = y - room * (lane + 1) / (len(through[column][place]) + 1)
            y -= room
            if place < len(boxes):
                box = boxes[place]
                y -= heights[box]
                laid.lefts[box], laid.bottoms[box] = starts[column], y
    laid.routes = _routes(content.arrows, rank, laid, starts, lane_y)
    return laid


def _untangle(columns: list[list[int]], arrows: Sequence[Arrow], rank: Sequence[int]) -> None:
    """Order the boxes of each column by where their partners stand, so that fewer arrows cross."""
    partners: dict[int, list[int]] = defaultdict(list)
    for arrow in arrows:
        if rank[arrow.client] != rank[arrow.server]:
            partners[arrow.client].append(arrow.server)
            partners[arrow.server].append(arrow.client)
    height = {box: (place + 0.5) / len(boxes) for boxes in columns for place, box in enumerate(boxes)}
    for _ in range(4):
        for boxes in columns:
            middle = {
                box: sum(height[other] for other in partners[box] or [box]) / max(len(partners[box]), 1)
                for box in boxes
            }
            boxes.sort(key=lambda box: (middle[box], box))
            height |= {box: (place + 0.5) / len(boxes) for place, box in enumerate(boxes)}


def _sides(arrow: Arrow, rank: Sequence[int]) -> tuple[int, int]:
    """On which side of its boxes an arrow leaves and arrives: 0 left, 1 right."""
    client, server = rank[arrow.client], rank[arrow.server]
    return (1, 1) if client == server else (int(client < server), int(client > server))


def _heights(content: HostMap, lines: Sequence[int], rank: Sequence[int]) -> list[float]:
    ends: Counter[tuple[int, int]] = Counter()
    for arrow in content.arrows:
        leave, arrive = _sides(arrow, rank)
        ends[arrow.client, leave] += 1
        ends[arrow.server, arrive] += 1
    return [max(LINE * (count + 0.8), _LANE * (max(ends[box, 0], ends[box, 1]) + 1)) for box, count in enumerate(lines)]


def _ways_through(
    arrows: Sequence[Arrow], columns: list[list[int]], rank: Sequence[int], heights: Sequence[float]
) -> list[list[list[int]]]:
    """For each column and each gap in it (above, between, below boxes) the arrows that go through it."""
    place = {box: at for boxes in columns for at, box in enumerate(boxes)}
    through: list[list[list[int]]] = [[[] for _ in range(len(boxes) + 1)] for boxes in columns]
    for number, arrow in enumerate(arrows):
        one, other = arrow.client, arrow.server
        low, high = sorted((rank[one], rank[other]))
        for column in range(low + 1, high):
            share = abs(column - rank[one]) / (high - low)
            ends = [(place[box] + 0.5) / len(columns[rank[box]]) for box in (one, other)]
            wanted = ends[0] + (ends[1] - ends[0]) * share
            through[column][round(wanted * len(columns[column]))].append(number)
    for lanes in chain.from_iterable(through):
        lanes.sort(key=lambda number: _slope(arrows[number], rank, place, columns))
    return through


def _slope(arrow: Arrow, rank: Sequence[int], place: Mapping[int, int], columns: list[list[int]]) -> tuple[float, int]:
    ends = [(place[box] + 0.5) / len(columns[rank[box]]) for box in (arrow.client, arrow.server)]
    return sum(ends), arrow.label


def _routes(
    arrows: Sequence[Arrow], rank: Sequence[int], laid: Layout, starts: Sequence[float],
    lane_y: Mapping[tuple[int, int], float],
) -> list[list[Point]]:  # fmt: skip
    """Ends are spread over the sides of boxes, in the order of where the arrows go on to."""
    middles = [bottom + height / 2 for bottom, height in zip(laid.bottoms, laid.heights, strict=True)]
    at_side: dict[tuple[int, int], list[tuple[float, int, int]]] = defaultdict(list)
    for number, arrow in enumerate(arrows):
        client, server = rank[arrow.client], rank[arrow.server]
        step = (server > client) - (server < client)
        leave, arrive = _sides(arrow, rank)
        at_side[arrow.client, leave].append((lane_y.get((number, client + step), middles[arrow.server]), number, 0))
        at_side[arrow.server, arrive].append((lane_y.get((number, server - step), middles[arrow.client]), number, 1))
    ends: dict[tuple[int, int], Point] = {}
    for (box, side), waiting in at_side.items():
        for place, (_, number, end) in enumerate(sorted(waiting)):
            y = laid.bottoms[box] + laid.heights[box] * (place + 1) / (len(waiting) + 1)
            ends[number, end] = laid.lefts[box] + side * laid.widths[rank[box]], y
    routes = []
    for number, arrow in enumerate(arrows):
        client, server = rank[arrow.client], rank[arrow.server]
        step = 1 if server > client else -1
        route = [ends[number, 0]]
        for column in range(client + step, server, step) if client != server else ():
            left, right = starts[column], starts[column] + laid.widths[column]
            y = lane_y[number, column]
            route += [(left, y), (right, y)] if step > 0 else [(right, y), (left, y)]
        routes.append([*route, ends[number, 1]])
    return routes
