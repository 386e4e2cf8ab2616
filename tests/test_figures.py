"""Figures: what they count against pandas, that every text is whole and by itself, and strangers' strings in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import samples
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from shipped import result_of

import classifier
import classifier.fields
from classifier import figures, limits
from classifier.figures.style import Drawing, styled
from classifier.hostmap import HostMap
from classifier.result import Result
from tests.bench.make_capture import main as make_capture

CAPTURES = Path(__file__).parents[1] / "captures"
ALL = [getattr(figures, name) for name in figures.__all__]


def shipped(name: str) -> Result:
    path = CAPTURES / name
    inventory = path.with_suffix(".inventory.toml")
    return classifier.classify(path, inventory=inventory if inventory.exists() else None, jobs=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """From two hosts to more than three hundred."""
    large = tmp_path_factory.mktemp("large") / "large.pcap"
    make_capture(["-o", str(large), "--conversations", "1500", "--packets", "30000"])
    return {
        "two hosts": shipped("lab/rpc-restart.pcap"),
        "ticket": shipped("ticket-49734.pcapng"),
        "organisation": shipped("who-is-who-mapi.pcapng"),
        "hundreds": classifier.classify(large, jobs=2),
    }


def texts(figure: Drawing) -> list[Text]:
    return [each for each in figure.findobj(Text) if isinstance(each, Text) and each.get_visible() and each.get_text()]


def drawn(figure: Drawing) -> list[tuple[str, Any]]:
    """Every text and the pixels it takes."""
    with styled():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [(each, each.get_window_extent(canvas.get_renderer())) for each in texts(figure)]
    outside = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in beyond(axis)}
    return [(each.get_text(), box) for each, box in boxes if each not in outside and box.width]


def beyond(axis: Any) -> list[Text]:
    """Labels of ticks outside of what an axis shows, which are made and not drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("which", ["two hosts", "ticket", "organisation", "hundreds"])
def test_every_text_is_whole_and_by_itself(
    results: dict[str, Result], which: str, draw: Callable[..., Drawing]
) -> None:
    figure = draw(results[which])
    shown = drawn(figure)
    assert shown
    line = min(box.height for text, box in shown if text.isprintable())
    for text, box in shown:
        assert box.height >= (text.count("\n") + 1) * line, f"lines of {text!r} run into each other"
        assert box.x0 >= -1 and box.y0 >= -1, f"{text!r} is cut"  # noqa: PT018
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, f"{text!r} is cut"  # noqa: PT018
    overlapping = [
        (one, other)
        for (one, a), (other, b) in combinations(shown, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
    ]
    assert not overlapping


def test_hundreds_of_hosts_are_gathered(results: dict[str, Result]) -> None:
    content = HostMap.of(results["hundreds"])
    frame = results["hundreds"].to_pandas()
    hosts = set(frame.client_ip) | set(frame.server_ip)
    assert len(hosts) > 300
    gathered = [address for box in content.boxes for address in box.addresses]
    assert sorted(gathered) == sorted(hosts)
    assert len(content.boxes) < 40
    assert sum(arrow.conversations for arrow in content.arrows) == len(frame)


def test_the_map_has_the_boxes_and_arrows_of_the_frame(results: dict[str, Result]) -> None:
    frame = results["ticket"].to_pandas()
    words = {text.get_text() for text in texts(figures.host_map(results["ticket"]))}
    assert set(frame.client_ip) | set(frame.server_ip) <= words
    assert set(frame.data_path.dropna()) <= words
    assert {"mailbox", "client-access", "mbx1.example.test", "no label"} <= words
    named = frame.data_path.where(frame.absence.isna(), frame.absence.astype(str))
    kinds = frame.assign(named=named.fillna("several")).groupby(["client_ip", "server_ip", "named"]).ngroups
    assert len([1 for each in figures.host_map(results["ticket"]).findobj(FancyArrowPatch)]) == kinds


def test_bytes_are_those_of_the_frame(results: dict[str, Result]) -> None:
    frame = results["ticket"].to_pandas()
    axes = figures.bytes_by_path(results["ticket"]).axes[0]
    widths = [sum(patch.get_width() for patch in bars) for bars in axes.containers]
    assert widths == [frame.bytes_to_server.sum(), frame.bytes_to_client.sum()]
    first = axes.get_yticklabels()[0].get_text()
    moved = frame.bytes_to_server + frame.bytes_to_client
    by_path = moved.groupby(frame.data_path.where(frame.absence.isna(), "none: " + frame.absence.astype(str))).sum()
    assert first == by_path.idxmax()


def test_what_is_unexplained_is_counted_by_port(results: dict[str, Result]) -> None:
    frame = results["hundreds"].to_pandas()
    without = frame[frame.absence.notna()]
    figure = figures.unexplained(results["hundreds"])
    axes = figure.axes[0]
    assert sum(patch.get_width() for patch in axes.patches) == len(without)
    port, transport = without.groupby(["server_port", "transport"], observed=True).size().idxmax()
    assert axes.get_yticklabels()[0].get_text() == f"{transport}/{port}"
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == set(without.absence.astype(str))
    assert axes.get_xlabel() == "conversations"


def test_a_timeline_has_a_bar_for_each_of_few_and_shades_of_many(results: dict[str, Result]) -> None:
    few = figures.timeline(results["ticket"])
    bars = sum(len(each.get_paths()) for each in few.axes[0].collections)
    assert bars == len(results["ticket"])
    many = figures.timeline(results["hundreds"])
    assert len(results["hundreds"]) > limits.TIMELINE_BARS
    assert "conversations under way within" in many.axes[1].get_ylabel()
    assert "time (UTC)" in many.axes[0].get_xlabel()
    assert sum(int(re.search(r"\((\d+)\)$", each.get_text())[1])  # type: ignore[index]
               for each in many.axes[0].get_yticklabels()) == len(results["hundreds"])  # fmt: skip


def test_a_restart_shows_as_two_ports_one_after_the_other(results: dict[str, Result]) -> None:
    axes = figures.endpoint_timeline(results["two hosts"]).axes[0]
    names = [each.get_text() for each in axes.get_yticklabels()]
    told = results["two hosts"].endpoints()
    ports = told[(told.name == "emsmdb") & (told.kind == "ept_map")].sort_values("first_seen").port.tolist()
    assert [name for name in names if " emsmdb " in name] == [f"10.10.1.21 emsmdb tcp/{port}" for port in ports]
    held = {int(line.get_ydata()[0]): line.get_xdata() for line in axes.lines if line.get_linewidth() == 5}  # type: ignore[index, call-overload]
    assert held[0][1] < held[1][0]


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_nothing_at_all_is_a_figure_too(draw: Callable[..., Drawing]) -> None:
    assert [text.get_text() for text in texts(draw(Result.empty()))]


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_a_figure_shows_itself(results: dict[str, Result], draw: Callable[..., Drawing]) -> None:
    figure = draw(results["ticket"])
    assert figure._repr_png_().startswith(b"\x89PNG")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(figure.svg()).iter()}
    assert "path" in tags
    assert not tags & {"script", "a", "foreignObject", "image"} - ({"image"} if "timeline" in draw.__name__ else set())


def test_strings_of_strangers_are_drawn_as_text() -> None:
    own = np.arange(len(samples.HOSTILE), dtype=np.int32)
    formulas = [f"$\\frac{{1}}{{0}}$ {text}" for text in samples.HOSTILE]
    odd = samples.result(len(own), data_path=classifier.fields.Coded(own, formulas))  # type: ignore[attr-defined]
    for result in (result_of("hostile-strings"), odd):
        for draw in ALL:
            figure = draw(result)
            shown = [text.get_text() for text in texts(figure)]
            assert all(text.replace("\n", "").isprintable() for text in shown)
            assert all(len(text) < 200 for text in shown)
            assert b"<script" not in figure.svg()
