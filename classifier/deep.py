"""A deep look at one conversation: its packets (scapy), its dissection (tshark through pyshark), what both sides said.

The only module that imports pyshark. All three read the captures a second time (`excerpt`).
Must not know how the conversation got its label.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from classifier import tools
from classifier.dissectors import decode_as
from classifier.errors import UsageError
from classifier.excerpt import Excerpt
from classifier.extraction import write
from classifier.limits import FOLLOW_BYTES, TOOL_SECONDS
from classifier.records import safe
from classifier.result import Result

if TYPE_CHECKING:
    from scapy.plist import PacketList

View = Literal["text", "hex"]


def packets(result: Result, conversation_id: int) -> PacketList:
    """The frames as scapy packets, with time and length on the wire; of an unknown link type as Raw."""
    from scapy.config import conf
    from scapy.layers import all as _layers  # noqa: F401 # link types are known once their layers are loaded
    from scapy.packet import Raw
    from scapy.plist import PacketList
    from scapy.utils import EDecimal

    made = []
    for each in Excerpt.of(result, [conversation_id]).packets():
        packet = conf.l2types.num2layer.get(each.link, Raw)(each.data)
        packet.time, packet.wirelen = EDecimal(each.time) / 10**9, each.wire
        made.append(packet)
    return PacketList(made, name=f"conversation {conversation_id}")


def dissect(result: Result, conversation_id: int, display_filter: str | None = None) -> list[Any]:
    """The frames as pyshark packets; the server port goes to the dissector that the label names.

    display_filter: only frames that it holds for, in Wireshark's language. Raises UsageError for a broken one.
    """
    import pyshark

    known = decode_as(result[conversation_id].to_dict())
    with _extract(result, conversation_id) as path:
        if display_filter is not None:
            _tshark(path, "-c", "1", "-Y", display_filter)  # pyshark says nothing of a broken one

        def read() -> list[Any]:
            loop = asyncio.new_event_loop()
            options = {"decode_as": known, "display_filter": display_filter, "eventloop": loop}
            capture = pyshark.FileCapture(str(path), **options)
            packets: list[Any] = []
            try:
                loop.run_until_complete(capture.packets_from_tshark(packets.append, close_tshark=False))
                loop.run_until_complete(_ended(capture))
                return packets
            finally:
                capture.close()
                loop.close()

        with ThreadPoolExecutor(1) as pool:  # a notebook has a running loop in its own thread
            return pool.submit(read).result()


async def _ended(capture: Any) -> None:
    """Wait for tshark, which has said all: pyshark would kill it as it ends, and asyncio then misses its status."""
    ending = [asyncio.ensure_future(process.wait()) for process in capture._running_processes]
    if ending:
        await asyncio.wait(ending, timeout=TOOL_SECONDS)


def follow(result: Result, conversation_id: int, view: View = "text") -> str:
    """What both sides said, in order, as text or hex; safe to print. Ends at `limits.FOLLOW_BYTES`, and says so."""
    if view not in ("text", "hex"):
        raise UsageError(f"no view {view!r}; there are text and hex")
    record = result[conversation_id].to_dict()
    server = f"{record['server_ip']}:{record['server_port']}"
    lines, left = [], FOLLOW_BYTES
    for sender, data in _stream(result, conversation_id, record["transport"]):
        by_server = sender.replace("[", "").replace("]", "") == server
        lines.append(f"{'server' if by_server else 'client'}, {len(data)} bytes:")
        lines += _hex(data[:left]) if view == "hex" else _text(data[:left])
        left -= len(data)
        if left <= 0:
            return "\n".join([*lines, f"(ends here, at {FOLLOW_BYTES} bytes)"])
    return "\n".join(lines)


def _text(data: bytes) -> list[str]:
    return [f"  {safe(line)}" for line in data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")]


def _hex(data: bytes) -> list[str]:
    rows = ((at, data[at : at + 16]) for at in range(0, len(data), 16))
    return [f"  {at:06x}  {row.hex(' '):47}  {re.sub(r'[^ -~]', '.', row.decode('latin-1'))}" for at, row in rows]


_NODE: Final = re.compile(r"Node [01]: (\S+)")


def _stream(result: Result, conversation_id: int, transport: str) -> Iterator[tuple[str, bytes]]:
    """Sender (address:port) and bytes of each piece, as `tshark -z follow` puts them in order."""
    with _extract(result, conversation_id) as path:
        told = _tshark(path, "-q", "-z", f"follow,{transport},raw,0")
    nodes = _NODE.findall(told)
    for line in told.splitlines():
        if len(nodes) == 2 and re.fullmatch(r"\t?([0-9a-f]{2})+", line):
            yield nodes[line.startswith("\t")], bytes.fromhex(line)


def _tshark(path: Path, *arguments: str) -> str:
    return tools.run("tshark", "-n", "-r", str(path), *arguments)


@contextmanager
def _extract(result: Result, conversation_id: int) -> Iterator[Path]:
    """The conversation alone, in a file of its own for as long as it is needed."""
    tools.find("tshark")
    with tools.scratch(f"conversation-{conversation_id}.pcapng") as path:
        with path.open("wb") as file:
            write(result, [conversation_id], file, announcers=False)
        yield path
