"""Figures over time: conversations by data path, and the endpoint map with ports that come and go."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.dates import AutoDateLocator
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from classifier.fields import NO_TIME, Coded, Numbers, Times
from classifier.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    VERMILLION,
    Drawing,
    legend_below,
    name_rows,
    nothing,
    panel,
    shown,
    styled,
)
from classifier.limits import FIGURE_ROWS, FIGURE_TEXT, TIMELINE_BARS
from classifier.overview import names
from classifier.result import Result

_CERTAINTY_COLOURS: Final = {"certain": BLUE, "strong": GREEN, "weak": ORANGE, None: GREY}
_SHADES: Final = LinearSegmentedColormap.from_list("exflow", ["#9ecae1", "#2171b5", "#08203f"])
"""One hue, from light to dark: told apart by whoever sees light and dark."""

_DAY: Final = 86_400 * 10**9
_BINS: Final = 240
_LANES: Final = 6

Days = NDArray[np.float64]
"""Days since 1970, as matplotlib counts time."""


# ---- conversations -----------------------------------------------------------------------------------


def timeline(result: Result) -> Drawing:
    """When conversations of each data path began and ended; what has no label by its reason.

    Up to `limits.TIMELINE_BARS` conversations each is a bar, its colour the certainty; more are counted: the darker,
    the more were under way.
    """
    if not len(result):
        return nothing("no conversations")
    codes, labels, labelled = names(result)
    start, end = _days(result, "start"), _days(result, "end")
    order = np.argsort(-np.bincount(codes, minlength=len(labels)), kind="stable").tolist()
    first = np.full(len(labels), np.inf)
    np.minimum.at(first, codes, start)
    kept = sorted(order[:FIGURE_ROWS], key=lambda at: (not labelled[at], first[at]))
    row_of = np.full(len(labels), len(kept))
    row_of[kept] = np.arange(len(kept))
    rows = row_of[codes]
    others = [f"{len(order) - len(kept)} other labels"] if len(order) > len(kept) else []
    counts = np.bincount(rows, minlength=len(kept) + len(others)).tolist()
    called = [*(labels[at] for at in kept), *others]
    listed = [f"{shown(name, 2 * FIGURE_TEXT)} ({count})" for name, count in zip(called, counts, strict=True)]
    with styled():
        figure, axes = panel(len(listed))
        name_rows(axes, listed)
        axes.set_title("Conversations by data path; how many in brackets")
        _time_axis(axes, start.min(), end.max())
        if len(result) <= TIMELINE_BARS:
            _draw_bars(figure, axes, result, rows, start, end)
        else:
            _draw_density(figure, axes, rows, start, end, len(listed))
    return figure


def _draw_bars(figure: Drawing, axes: Axes, result: Result, rows: NDArray[np.int64], start: Days, end: Days) -> None:
    column = result.columns["certainty"]
    assert isinstance(column, Coded)
    certainty = [column.values[code] for code in column.codes.tolist()]
    low, high = axes.get_xlim()
    least = (high - low) / 400
    lanes = _lanes(rows, start, np.maximum(end, start + least * 2))
    for which, colour in _CERTAINTY_COLOURS.items():
        shapes = []
        for at in range(len(rows)):
            if certainty[at] != which:
                continue
            lane, many = lanes[at]
            top = rows[at] - 0.4 + 0.8 * lane / many
            left, right, bottom = start[at], max(end[at], start[at] + least), top + 0.8 / many * 0.85
            shapes.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        axes.add_collection(PolyCollection(shapes, facecolors=colour, linewidths=0), autolim=False)
    seen = [word for word in _CERTAINTY_COLOURS if word in certainty]
    patches = [Patch(color=_CERTAINTY_COLOURS[word], label=word or "no label") for word in seen]
    legend_below(figure, patches, "certainty of the label")


def _lanes(rows: NDArray[np.int64], start: Days, end: Days) -> list[tuple[int, int]]:
    """For each conversation its lane in its row, and how many lanes that row has; at most `_LANES`, then they share."""
    free: dict[int, list[float]] = defaultdict(list)
    lanes = [0] * len(rows)
    for at in np.argsort(start, kind="stable").tolist():
        ends = free[int(rows[at])]
        lane = next((lane for lane, until in enumerate(ends) if until <= start[at]), None)
        if lane is None and len(ends) < _LANES:
            lane = len(ends)
            ends.append(0.0)
        lane = int(np.argmin(ends)) if lane is None else lane
        lanes[at], ends[lane] = lane, max(ends[lane], float(end[at]))
    return [(lane, len(free[int(row)])) for lane, row in zip(lanes, rows.tolist(), strict=True)]


def _draw_density(figure: Drawing, axes: Axes, rows: NDArray[np.int64], start: Days, end: Days, count: int) -> None:
    low, high = axes.get_xlim()
    edges = np.linspace(low, high, _BINS + 1)
    first = np.clip(np.searchsorted(edges, start, side="right") - 1, 0, _BINS - 1)
    last = np.clip(np.searchsorted(edges, end, side="right") - 1, 0, _BINS - 1)
    change = np.zeros((count, _BINS + 1))
    np.add.at(change, (rows, first), 1)
    np.add.at(change, (rows, last + 1), -1)
    under_way = np.ma.masked_less(np.cumsum(change, axis=1)[:, :-1], 1)
    bounds = np.arange(count + 1) - 0.5
    most = max(float(under_way.max()), 2.0)
    image = axes.pcolormesh(edges, bounds, under_way, cmap=_SHADES, norm=LogNorm(1, most), rasterized=True)
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03)
    steps = [step * 10**power for power in range(7) for step in (1, 2, 5) if step * 10**power <= most]
    bar.set_ticks(steps, labels=[str(step) for step in steps])
    bar.minorticks_off()
    bar.set_label(f"conversations under way within {_duration((high - low) * 86_400 / _BINS)}")


def _duration(seconds: float) -> str:
    for unit, factor in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} \N{MICRO SIGN}s"


# ---- the endpoint map --------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """A port of a service, in days. first, last: told; until: when another was told in its stead, or the end."""

    port: int
    first: float
    last: float
    until: float
    announced: bool


@dataclass(slots=True)
class _Service:
    """An interface on a server. ports: each with when it was first and last told, in days, and by whom."""

    server: str
    transport: str
    name: str
    ports: dict[int, list[Any]] = field(default_factory=dict)

    def add(self, port: int, first: float, last: float, announced: bool) -> None:
        """One row of the endpoint map."""
        known = self.ports.setdefault(port, [first, last, False])
        self.ports[port] = [min(known[0], first), max(known[1], last), known[2] or announced]

    def segments(self, end: float) -> list[_Segment]:
        """Its ports in the order of time."""
        spans = sorted((first, last, port, announced) for port, (first, last, announced) in self.ports.items())
        later = [min((first for first, *_ in spans if first > last), default=end) for _, last, _, _ in spans]
        return [_Segment(port, first, last, until, announced)
                for (first, last, port, announced), until in zip(spans, later, strict=True)]  # fmt: skip

    def place(self, port: int) -> tuple[str, str, int]:
        """Server, transport and port."""
        return self.server, self.transport, port


_BINDS: Final = ("bind", "secondary-address")


def endpoint_timeline(result: Result) -> Drawing:
    """Which port each RPC interface had on each server, and when: a service that restarts comes back on another one.

    A row for each port: thick from the first to the last time it was told, thin until another port of the same service
    was told or the capture ends; a tick for each conversation with it. Services that changed ports stand first.
    """
    services = _services(result)
    if not services or not len(result):
        return nothing("no port was handed out")
    begin, end = float(_days(result, "start").min()), float(_days(result, "end").max())
    order = sorted(services, key=lambda each: (-len(each.ports), each.server, each.name))
    rows = [(service, segment) for service in order for segment in service.segments(end)]
    kept = rows[:FIGURE_ROWS]
    used = _conversations_at(result, {service.place(segment.port) for service, segment in kept})
    of = f"{len(kept)} of {len(rows)}" if len(rows) > len(kept) else f"{len(rows)}"
    with styled():
        figure, axes = panel(len(kept), below=1.1)
        name_rows(axes, [f"{own.server} {own.name} {own.transport}/{segment.port}" for own, segment in kept])
        axes.set_title(f"Ports that were handed out: {of}, services that changed theirs first")
        _time_axis(axes, begin, end)
        for row, (service, segment) in enumerate(kept):
            _draw_segment(axes, row, segment, used[service.place(segment.port)])
            if row and kept[row - 1][0] is not service:
                axes.axhline(row - 0.5, color="#dddddd", linewidth=0.6, zorder=0)
        legend_below(figure, [
            Line2D([], [], color=BLUE, linewidth=5, label="announced, by the endpoint mapper or others"),
            Line2D([], [], color=VERMILLION, linewidth=5, label="seen in a bind only"),
            Line2D([], [], color=GREY, linewidth=1.2, label="not told again, until the service had another port"),
            Line2D([], [], color=INK, linestyle="", marker="|", markersize=7, label="a conversation begins"),
        ], "what is known of a port", columns=2)  # fmt: skip
    return figure


def _services(result: Result) -> list[_Service]:
    services: dict[tuple[str, str, str], _Service] = {}
    for row in result.endpoint_rows:
        if row.get("port") is None or row.get("first_seen") is None:
            continue
        name = row.get("name") or row.get("uuid") or row["kind"]
        who = row["server_ip"], row["transport"], name
        first, last = row["first_seen"], row.get("last_seen")
        told = first / _DAY, (first if last is None else last) / _DAY
        services.setdefault(who, _Service(*who)).add(row["port"], *told, row["kind"] not in _BINDS)
    return list(services.values())


def _conversations_at(result: Result, wanted: set[tuple[str, str, int]]) -> dict[tuple[str, str, int], Days]:
    """When conversations with those servers and ports began."""
    server, transport, port = (result.columns[name] for name in ("server_ip", "transport", "server_port"))
    assert isinstance(server, Coded)
    assert isinstance(transport, Coded)
    assert isinstance(port, Numbers)
    start = _days(result, "start")
    found: dict[tuple[str, str, int], Days] = {}
    for address, how, number in wanted:
        here = port.values == number
        here &= np.isin(server.codes, [at for at, value in enumerate(server.values) if value == address])
        here &= np.isin(transport.codes, [at for at, value in enumerate(transport.values) if value == how])
        found[address, how, number] = start[here]
    return found


def _draw_segment(axes: Axes, row: int, segment: _Segment, begun: Days) -> None:
    low, high = axes.get_xlim()
    told = max(segment.last, segment.first + (high - low) / 250)
    colour = BLUE if segment.announced else VERMILLION
    axes.plot([segment.last, max(segment.until, segment.last)], [row, row], color=GREY, linewidth=1.2)
    axes.plot([segment.first, told], [row, row], color=colour, linewidth=5, solid_capstyle="butt")
    axes.plot(begun, np.full(len(begun), row), linestyle="", marker="|", markersize=8, markeredgewidth=0.9, color=INK)


# ---- time --------------------------------------------------------------------------------------------


def _days(result: Result, name: str) -> Days:
    column = result.columns[name]
    assert isinstance(column, Times)
    return np.where(column.ns == NO_TIME, 0, column.ns) / _DAY


def _time_axis(axes: Axes, begin: float, end: float) -> None:
    """UTC from begin to end, at least a tenth of a second, with a little air."""
    room = max(end - begin, 0.1 / 86_400)
    axes.set_xlim(begin - room * 0.02, begin + room * 1.02)
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=8, tz=UTC))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(FuncFormatter(lambda days, _: _moment(days, room)))
    axes.set_xlabel(f"time (UTC), from {datetime.fromtimestamp(begin * 86_400, UTC):%Y-%m-%d %H:%M:%S}")


def _moment(days: float, room: float) -> str:
    """A time as finely as so many days on one axis need."""
    moment = datetime.fromtimestamp(round(days * 86_400, 6), UTC)
    if room > 2:
        return f"{moment:%Y-%m-%d %H:%M}" if room < 8 else f"{moment:%Y-%m-%d}"
    if room * 86_400 > 600:
        return f"{moment:%H:%M}"
    if room * 86_400 > 4:
        return f"{moment:%H:%M:%S}"
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
