"""The map of hosts and roles with their data paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import log10
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from classifier.figures.style import COLOURS, FAINT, INK, SIZE, Drawing, inches, nothing, shown, styled
from classifier.hostmap import LINE, Arrow, Box, HostMap, Layout, Point, lay_out
from classifier.limits import MAP_ARROWS, MAP_PATHS
from classifier.result import Result

_TINTS: Final = ("#f2f2f2", "#e3eef7", "#e4f3ec", "#fdf0dc", "#f6e7ef")
"""Of the columns, pale enough for black text."""

_LINES: Final = ("-", (0, (5, 2)), (0, (1, 1.2)))
_MARGIN: Final = 0.25
_TITLE: Final = 0.3
_ENTRY: Final = 0.18
_LONGEST: Final = 34
"""Characters of a line in a box."""

Look = tuple[str, Any]
"""Colour and line style."""


def host_map(result: Result) -> Drawing:
    """Who talks with whom, as which data path: a box for each host or group of hosts, an arrow from client to server.

    Names, addresses and roles stand in the boxes; the legend names the paths of the arrows, the commonest in colours
    and line styles of their own. An arrow's width goes with the logarithm of its conversations.
    """
    content = HostMap.of(result)
    if not content.boxes:
        return nothing("no conversations, so no hosts")
    with styled():
        return _drawn(_joined(content))


def _joined(content: HostMap) -> HostMap:
    """The commonest paths keep their names; the others become one, and so do the reasons for no label."""
    counts: Counter[int] = Counter()
    for arrow in content.arrows:
        counts[arrow.label] += arrow.conversations if content.labelled[arrow.label] else 0
    kept = [label for label, count in counts.most_common(MAP_PATHS) if count]
    names = [content.labels[label] for label in kept]
    place = {label: at for at, label in enumerate(kept)}
    joined: Counter[tuple[int, int, int]] = Counter()
    for arrow in content.arrows:
        at = place.get(arrow.label, len(kept) if content.labelled[arrow.label] else len(kept) + 1)
        joined[arrow.client, arrow.server, at] += arrow.conversations
    labels = [*names, "other data paths", "no label"]
    if len(joined) > MAP_ARROWS:
        joined = _thinned(joined, len(kept))
    arrows = [Arrow(*ends, count) for ends, count in sorted(joined.items())]
    return HostMap(content.boxes, arrows, labels, [True] * (len(names) + 1) + [False])


def _thinned(arrows: Counter[tuple[int, int, int]], others: int) -> Counter[tuple[int, int, int]]:
    """The two commonest paths of each pair of boxes; what else they say to each other joins the other paths."""
    kept: Counter[tuple[int, int, int]] = Counter()
    taken: Counter[tuple[int, int]] = Counter()
    for (client, server, label), count in arrows.most_common():
        named = label < others
        own = not named or taken[client, server] < 2
        taken[client, server] += named
        kept[client, server, label if own else others] += count
    return kept


def _drawn(content: HostMap) -> Drawing:
    written = [_lines(box) for box in content.boxes]
    widths = [max(inches(line, SIZE, place == 0) for place, line in enumerate(lines)) + 0.24 for lines in written]
    laid = lay_out(content, [len(lines) for lines in written], [max(width, 1.1) for width in widths])
    used = sorted({arrow.label for arrow in content.arrows})
    entries = [shown(content.labels[label]) for label in used]
    pitch = max(map(inches, entries), default=0.0) + 0.75
    width = max(laid.size[0] + 2 * _MARGIN + _bulge(content), 6.5)
    columns = max(int((width - 2 * _MARGIN) / pitch), 1)
    rows = -(-len(entries) // columns)
    legend = _ENTRY * (rows + 1) + _MARGIN
    height = laid.size[1] + 2 * _MARGIN + _TITLE + legend
    figure = Drawing(figsize=(width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, width - _MARGIN)
    axes.set_ylim(-_MARGIN - legend, height - _MARGIN - legend)
    looks = _looks(content)
    for arrow, route in zip(content.arrows, laid.routes, strict=True):
        _draw_arrow(axes, arrow, route, looks[arrow.label])
    for number, box in enumerate(content.boxes):
        _draw_box(axes, box, written[number], laid, number)
    hosts = sum(len(box.addresses) for box in content.boxes)
    title = f"{hosts} hosts, {sum(each.conversations for each in content.arrows)} conversations"
    axes.text(0, laid.size[1] + _MARGIN + _TITLE - 0.2, title, size=10.0, va="center")
    _draw_legend(axes, entries, [looks[label] for label in used], columns, pitch)
    return figure


def _lines(box: Box) -> list[str]:
    """What stands in a box: who, where, what."""
    roles = _wrapped(box.roles, box.mixed) or ["no known role"]
    if len(box.addresses) == 1:
        return [shown(text, _LONGEST) for text in (box.name, box.addresses[0]) if text] + roles
    first, last = box.addresses[0], box.addresses[-1]
    span = f"{first} to {last}"
    where = [span] if len(span) <= _LONGEST else [first, f"to {last}"]
    return [f"{len(box.addresses)} hosts", *(shown(text, _LONGEST + 6) for text in where), *roles]


def _wrapped(roles: Sequence[str], mixed: bool) -> list[str]:
    lines = ["some of:"] if mixed else []
    for role in roles:
        if lines and not lines[-1].endswith(":") and len(lines[-1]) + len(role) + 2 <= _LONGEST:
            lines[-1] += f", {role}"
        else:
            lines.append(role)
    return lines


def _looks(content: HostMap) -> list[Look]:
    named = len(content.labels) - 2
    looks: list[Look] = [(COLOURS[at % len(COLOURS)], _LINES[at // len(COLOURS)]) for at in range(named)]
    return [*looks, (INK, (0, (3, 1, 1, 1))), (FAINT, (0, (1, 2)))]


def _bulge(content: HostMap) -> float:
    """Room at the right for arrows that come back to their own column."""
    last = max(box.column for box in content.boxes)
    columns = [{content.boxes[end].column for end in arrow[:2]} for arrow in content.arrows]
    return 0.7 if {last} in columns else 0.0


def _draw_arrow(axes: Axes, arrow: Arrow, route: list[Point], look: Look) -> None:
    points, codes = [route[0]], [Path.MOVETO]
    for at, (here, there) in enumerate(pairwise(route)):
        if at % 2:  # level, past the boxes of a column
            points.append(there)
            codes.append(Path.LINETO)
            continue
        same = abs(here[0] - there[0]) < 1e-6
        reach = 0.25 + min(0.12 * abs(here[1] - there[1]), 0.45) if same else (there[0] - here[0]) / 2
        points += [(here[0] + reach, here[1]), (there[0] + (reach if same else -reach), there[1]), there]
        codes += [Path.CURVE4] * 3
    colour, style = look
    axes.add_patch(
        FancyArrowPatch(
            path=Path(points, codes),
            arrowstyle="-|>",
            mutation_scale=7,
            color=colour,
            linestyle=style,
            shrinkA=0,
            shrinkB=0,
            linewidth=0.9 + 0.6 * log10(arrow.conversations),
            capstyle="butt",
            zorder=1,
        )
    )


def _draw_box(axes: Axes, box: Box, lines: list[str], laid: Layout, number: int) -> None:
    columns = sorted(set(laid.lefts))
    left, bottom, height = laid.lefts[number], laid.bottoms[number], laid.heights[number]
    width = laid.widths[columns.index(left)]
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=_TINTS[box.column],
            edgecolor=INK,
            linewidth=0.7,
            zorder=2,
        )
    )
    top = bottom + height / 2 + LINE * (len(lines) - 1) / 2
    for place, line in enumerate(lines):
        weight = "normal" if place else "bold"
        axes.text(left + width / 2, top - place * LINE, line, ha="center", va="center", weight=weight, zorder=3)


def _draw_legend(axes: Axes, entries: list[str], looks: list[Look], columns: int, pitch: float) -> None:
    heading = "data path of the arrows, from client to server; the wider, the more conversations"
    axes.text(0, -_MARGIN - 0.02, heading, va="center", weight="bold")
    rows = -(-len(entries) // columns)
    for place, (entry, (colour, style)) in enumerate(zip(entries, looks, strict=True)):
        x, y = place // rows * pitch, -_MARGIN - _ENTRY * (place % rows + 1) - 0.02
        axes.add_line(Line2D([x, x + 0.42], [y, y], color=colour, linestyle=style, linewidth=1.8))
        axes.text(x + 0.5, y, entry, va="center")
