"""Chosen conversations as pcapng: with labels as comments on the frames that prove them, and names of hosts.

Owns what is said of a frame and of a host. Must not know how frames are found (`excerpt`) or conversations chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from classifier import blocks
from classifier.excerpt import Excerpt, Packet
from classifier.limits import COMMENT_LENGTH, FRAME_COMMENTS, HOST_NAME_LENGTH
from classifier.records import fact_text, finding_text, interface_text, resolution_text, safe, summary
from classifier.result import Result

Place = tuple[str, int]
"""File and number of a frame."""


def with_announcers(result: Result, ids: Iterable[int]) -> list[int]:
    """The ids, and those of the conversations that handed out their server ports."""
    wanted = sorted(set(ids))
    sources = (result[each].resolved_by for each in wanted)
    return sorted({*wanted, *(each["conversation"] for each in sources if each and each["conversation"])})


def write(result: Result, ids: Iterable[int], out: IO[bytes], *, announcers: bool = True) -> int:
    """Write the frames of these conversations, and of those that announced their ports. Returns how many.

    Raises UsageError when a capture can't be read again, OSError as `out` does.
    """
    wanted = with_announcers(result, ids) if announcers else sorted(set(ids))
    excerpt = Excerpt.of(result, wanted)
    comments = _comments(result, wanted)
    out.write(blocks.section())
    out.write(blocks.names(host_names(result, wanted)))
    described: dict[int, int] = {}
    for packet in excerpt.packets():
        if packet.interface not in described:
            described[packet.interface] = len(described)
            out.write(blocks.interface(packet.link, packet.digits, safe(packet.file)))
        out.write(_block(packet, described[packet.interface], comments.get((packet.file, packet.number), [])))
    return len(excerpt)


def _block(packet: Packet, interface: int, comments: list[str]) -> bytes:
    shown = comments[:FRAME_COMMENTS]
    if len(comments) > len(shown):
        shown.append(f"exflow: {len(comments) - len(shown)} more about this frame")
    return blocks.packet(interface, packet.time // 10 ** (9 - packet.digits), packet.data, packet.wire, shown)


def _comments(result: Result, ids: Iterable[int]) -> dict[Place, list[str]]:
    """What is said of each frame, safe to show, without repetitions."""
    said: dict[Place, dict[str, None]] = {}
    for each in ids:
        for place, text in _remarks(result[each].to_dict()):
            said.setdefault(place, {})[_cut(f"exflow {each}: {safe(text)}", COMMENT_LENGTH)] = None
    return {place: list(texts) for place, texts in said.items()}


def _remarks(record: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """The label on the first frame, every piece of evidence and every finding on its own."""
    file = record["file"]
    yield (file, record["first_frame"]), f"{summary(record)}; from frame {record['first_frame']} of {file}"
    for fact in record["evidence"]:
        if fact["frame"] is not None:
            yield (fact["file"] or file, fact["frame"]), fact_text(fact)
    told = {(fact["kind"], fact["frame"]) for fact in record["evidence"]}
    source = record["resolved_by"]
    if source and source["frame"] is not None and ("announcement", source["frame"]) not in told:
        yield (source["file"] or file, source["frame"]), f"port handed out by {resolution_text(source)}"
    for bound in record["rpc_interfaces"]:
        if bound["frame"] is not None and ("interface", bound["frame"]) not in told:
            yield (file, bound["frame"]), interface_text(bound)
    for finding in record["findings"]:
        if finding["frame"] is not None:
            yield (file, finding["frame"]), finding_text(finding)


def host_names(result: Result, ids: Iterable[int]) -> Iterator[tuple[str, str]]:
    """A name for each host of these conversations of which a name or a role is known: `mbx1(mailbox)`."""
    hosts = {row["address"]: row for row in result.host_rows}
    roles: dict[str, dict[str, None]] = {}
    for each in map(result.__getitem__, ids):
        for side in ("client", "server"):
            address, role = getattr(each, f"{side}_ip"), getattr(each, f"{side}_role")
            known = roles.setdefault(address, dict.fromkeys(hosts.get(address, {}).get("roles") or ()))
            known |= {role: None} if role else {}
    for address, words in roles.items():
        name = hosts.get(address, {}).get("name")
        if name or words:
            shown = safe(name or address).replace(" ", "_") + (f"({','.join(words)})" if words else "")
            yield address, _cut(shown, HOST_NAME_LENGTH)


def _cut(text: str, size: int) -> str:
    """The text within so many bytes of UTF-8."""
    data = text.encode()
    return text if len(data) <= size else data[: size - 3].decode(errors="ignore") + "\N{HORIZONTAL ELLIPSIS}"
