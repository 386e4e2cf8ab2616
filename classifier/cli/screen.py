"""The live view of a capture in a terminal: conversations, hosts, findings, rates and losses, driven by keys.

Plain text and colours only, so that it works over SSH. It keeps the newest conversations; a file keeps all.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from classifier.records import safe

if TYPE_CHECKING:
    from classifier.following import Report
    from classifier.sniffing import Session

KEPT: Final = 2000
"""Conversations that the view remembers."""

KEYS: Final = "q quit  v view  s sort  r reverse  / filter  p pause"
VIEWS: Final = ("conversations", "hosts", "findings")

Row = dict[str, Any]

SORTS: Final[dict[str, Callable[[Row], Any]]] = {
    "last seen": lambda row: row["end"],
    "bytes": lambda row: row["bytes_to_server"] + row["bytes_to_client"],
    "packets": lambda row: row["packets_to_server"] + row["packets_to_client"],
    "server": lambda row: (row["server_ip"], row["server_port"]),
    "data path": lambda row: row["data_path"] or "",
}


class Screen:
    """A sink that is looked at. `say` shows a line at the bottom; `watch` draws and reads keys until the end."""

    name = "screen"

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self.rows: OrderedDict[int, Row] = OrderedDict()
        self.said: deque[str] = deque(maxlen=2)
        self.view, self.sort, self.reverse, self.paused = 0, 0, True, False
        self.filter, self.typing = "", False
        self._rates: deque[tuple[float, int]] = deque(maxlen=12)

    # ---- as a sink ---------------------------------------------------------------------------

    def write(self, report: Report) -> None:
        """Remember the newest conversations of a report."""
        if self.paused:
            return
        for row in list(report)[-KEPT:]:
            self.rows[row.id] = row.to_dict()
            self.rows.move_to_end(row.id)
        while len(self.rows) > KEPT:
            self.rows.popitem(last=False)

    def tick(self) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """Nothing is open."""

    def say(self, line: str) -> None:
        """Show a line for the user."""
        self.said.append(safe(line))

    # ---- keys ----------------------------------------------------------------------------------

    def press(self, key: str) -> bool:
        """Act on a key. False if it asks to quit."""
        if self.typing:
            self._type(key)
        elif key == "q":
            return False
        elif key == "v":
            self.view = (self.view + 1) % len(VIEWS)
        elif key == "s":
            self.sort = (self.sort + 1) % len(SORTS)
        elif key == "r":
            self.reverse = not self.reverse
        elif key == "p":
            self.paused = not self.paused
        elif key == "/":
            self.filter, self.typing = "", True
        return True

    def _type(self, key: str) -> None:
        if key in "\r\n\x1b":
            self.typing = False
        elif key in "\x7f\b":
            self.filter = self.filter[:-1]
        elif key.isprintable():
            self.filter += key

    # ---- what is seen --------------------------------------------------------------------------

    def watch(self, session: Session) -> None:
        """Draw until the capture has ended and all is written."""
        console = Console()
        with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while not session.ended(0):
                live.update(self.draw(session.counters, console.height), refresh=True)
                for key in pressed(0.5):
                    if not self.press(key):
                        self.say("ending: what was seen is being written")
                        session.stop()

    def draw(self, counters: dict[str, int], height: int) -> Group:
        """The whole picture."""
        room = max(height - 7 - len(self.said), 3)
        rows = [row for row in list(self.rows.values()) if self._wanted(row)]
        rows.sort(key=list(SORTS.values())[self.sort], reverse=self.reverse)
        body = (_conversations, _hosts, _findings)[self.view](rows, room)
        state = f"{VIEWS[self.view]} by {list(SORTS)[self.sort]}{' (paused)' if self.paused else ''}"
        wanted = f"   filter: {safe(self.filter)}{'_' if self.typing else ''}" if self.filter or self.typing else ""
        return Group(
            Text(f"exflow on {safe(self.interface)}   {state}{wanted}", style="bold", no_wrap=True),
            Text(self._figures(counters), no_wrap=True, style="red" if _losses(counters) else ""),
            body,
            *(Text(line, style="yellow", no_wrap=True) for line in self.said),
            Text(KEYS, style="reverse", no_wrap=True),
        )

    def _figures(self, counters: dict[str, int]) -> str:
        self._rates.append((time.monotonic(), counters["packets_received"]))
        (start, before), (now, packets) = self._rates[0], self._rates[-1]
        rate = (packets - before) / (now - start) if now > start else 0.0
        return (
            f"{packets:,} packets  {rate:,.0f}/s   {counters['conversations']:,} conversations   lost: "
            f"kernel {counters['packets_dropped_by_kernel']:,}  interface {counters['packets_dropped_by_interface']:,}"
            f"  ended early {counters['conversations_evicted']:,}  records {counters['records_not_written']:,}"
        )

    def _wanted(self, row: Row) -> bool:
        """Whether each word of the filter stands somewhere in what is shown of a row."""
        text = " ".join(map(str, _cells(row))).lower()
        return all(word in text for word in self.filter.lower().split())


def _losses(counters: dict[str, int]) -> int:
    return sum(number for name, number in counters.items() if "dropped" in name or "not_written" in name)


def _cells(row: Row) -> list[str]:
    label = row["data_path"] or " or ".join(row["data_paths"][:2]) or f"none: {row['absence']}"
    return [
        str(row["id"]), row["event"], f"{row['client_ip']}:{row['client_port']}",
        f"{row['server_ip']}:{row['server_port']}/{row['transport']}", row["protocol"] or "-", label,
        row["certainty"] or "-", f"{row['bytes_to_server'] + row['bytes_to_client']:,}",
    ]  # fmt: skip


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    return table


def _conversations(rows: list[Row], room: int) -> Table:
    names = ("ID", "EVENT", "CLIENT", "SERVER", "PROTOCOL", "DATA PATH", "CERTAINTY", "BYTES")
    return _table(names, [_cells(row) for row in rows[:room]])


def _hosts(rows: list[Row], room: int) -> Table:
    talks: Counter[str] = Counter()
    size: Counter[str] = Counter()
    roles: dict[str, set[str]] = {}
    for row in rows:
        for side in ("client", "server"):
            address = row[f"{side}_ip"]
            talks[address] += 1
            size[address] += row["bytes_to_server"] + row["bytes_to_client"]
            roles.setdefault(address, set()).update({row[f"{side}_role"]} - {None})
    shown = [[host, f"{number:,}", f"{size[host]:,}", ", ".join(sorted(roles[host])) or "-"]
             for host, number in talks.most_common(room)]  # fmt: skip
    return _table(("HOST", "CONVERSATIONS", "BYTES", "ROLES"), shown)


def _findings(rows: list[Row], room: int) -> Table:
    found = [[str(row["id"]), finding["severity"], finding["text"]] for row in rows for finding in row["findings"]]
    return _table(("ID", "SEVERITY", "FINDING"), found[:room])


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed: a function that waits so many seconds for some."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(timeout: float) -> str:
        if not select.select([fd], [], [], timeout)[0]:
            return ""
        try:
            return os.read(fd, 64).decode(errors="ignore") or "q"
        except OSError:  # the terminal went away
            return "q"

    tty.setcbreak(fd)
    try:
        yield pressed
    finally:
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
