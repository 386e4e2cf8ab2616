"""Figures that compare: bytes by data path, and what is unexplained by server port."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from classifier import model
from classifier.fields import Coded, Numbers
from classifier.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    Drawing,
    legend_below,
    name_rows,
    nothing,
    panel,
    styled,
)
from classifier.limits import FIGURE_ROWS
from classifier.overview import names
from classifier.result import Result

_REASON_LOOKS: Final[dict[str, dict[str, Any]]] = {
    reason: {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
    for reason, colour, hatch in zip(model.ABSENCES, (*COLOURS, GREY, INK), ("", "///", "...") * 3, strict=False)
}


def bytes_by_path(result: Result) -> Drawing:
    """How many bytes, on the wire, each data path moved in each direction; what has no label by its reason."""
    if not len(result):
        return nothing("no conversations, so no bytes")
    codes, labels, _ = names(result)
    moved = []
    for way in ("server", "client"):
        column = result.columns[f"bytes_to_{way}"]
        assert isinstance(column, Numbers)
        moved.append(np.bincount(codes, column.values, minlength=len(labels)))
    order = np.argsort(-(moved[0] + moved[1]), kind="stable")
    kept, rest = order[:FIGURE_ROWS], order[FIGURE_ROWS:]
    rows = [(labels[at], moved[0][at], moved[1][at]) for at in kept]
    if len(rest):
        rows.append((f"{len(rest)} other labels", moved[0][rest].sum(), moved[1][rest].sum()))
    with styled():
        figure, axes = panel(len(rows))
        name_rows(axes, [name for name, _, _ in rows])
        places = range(len(rows))
        there, back = [row[1] for row in rows], [row[2] for row in rows]
        axes.barh(places, there, 0.72, color=BLUE)
        axes.barh(places, back, 0.72, left=there, color=ORANGE)
        for place, (_, out, home) in enumerate(rows):
            _at_end(axes, place, out + home, _size(out + home))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
        axes.set_xlabel("bytes on the wire, whole frames")
        axes.set_title("Bytes by data path")
        ways = [Patch(color=BLUE, label="client to server"), Patch(color=ORANGE, label="server to client")]
        legend_below(figure, ways, "direction")
    return figure


def unexplained(result: Result) -> Drawing:
    """Conversations without a label by server port, the most first, and why they have none."""
    counted, servers = _without_label(result)
    if not counted:
        return nothing("every conversation has a label" if len(result) else "no conversations")
    order = sorted(counted, key=lambda port: (-sum(counted[port].values()), port))
    kept, rest = order[:FIGURE_ROWS], order[FIGURE_ROWS:]
    rows = [(f"{port[0]}/{port[1]}", counted[port], servers[port]) for port in kept]
    if rest:
        together = sum((counted[port] for port in rest), Counter[str]())
        rows.append((f"{len(rest)} other ports", together, set().union(*(servers[port] for port in rest))))
    with styled():
        figure, axes = panel(len(rows), below=1.1)
        name_rows(axes, [name for name, _, _ in rows])
        for place, (_, reasons, hosts) in enumerate(rows):
            left = 0
            for reason, look in _REASON_LOOKS.items():
                if reasons[reason]:
                    axes.barh(place, reasons[reason], 0.72, left=left, **look)
                    left += reasons[reason]
            _at_end(axes, place, left, f"{left} to {len(hosts)} host{'s' * (len(hosts) != 1)}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("conversations")
        axes.set_title("Conversations without a label, by server port")
        seen = set().union(*(reasons.keys() for _, reasons, _ in rows))
        handles = [Patch(**look, label=reason) for reason, look in _REASON_LOOKS.items() if reason in seen]
        legend_below(figure, handles, "no label because")
    return figure


Port = tuple[str, int]


def _without_label(result: Result) -> tuple[dict[Port, Counter[str]], dict[Port, set[str]]]:
    """For each server port the reasons with their counts, and the servers."""
    absence, transport, server = (result.columns[name] for name in ("absence", "transport", "server_ip"))
    port = result.columns["server_port"]
    assert isinstance(absence, Coded)
    assert isinstance(transport, Coded)
    assert isinstance(server, Coded)
    assert isinstance(port, Numbers)
    counted: dict[Port, Counter[str]] = defaultdict(Counter)
    servers: dict[Port, set[str]] = defaultdict(set)
    if len(result):
        rows = np.stack([absence.codes, transport.codes, server.codes, port.values]).astype(np.int64)
        found, counts = np.unique(rows, axis=1, return_counts=True)
        for (why, how, where, number), count in zip(found.T.tolist(), counts.tolist(), strict=True):
            if absence.values[why]:
                counted[transport.values[how], number][absence.values[why]] += count
                servers[transport.values[how], number].add(server.values[where])
    return counted, servers


def _at_end(axes: Axes, place: int, value: float, text: str) -> None:
    axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, max(axes.get_xlim()[1], value * 1.2))


def _size(count: float) -> str:
    """Bytes in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
