"""What the laboratory knows about conversations, and how it becomes an entry of INDEX.toml.

A scenario says what is true of whoever talks to a port of a server: it started the server and the client and chose
their settings, or reads the server's own log. A conversation in the capture that nobody spoke for is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captures.lab.flows import End, Flow, flows
from captures.lab.network import LabError
from captures.makers.catalogue import stated
from captures.makers.scene import Truth


@dataclass(frozen=True)
class Announced:
    """A message that handed out a port: bytes first to last - 1 of what the server `speaker` said to `listener`.

    last 0: all that it said; the listener's port 0: in the newest connection before (the log tells no more).
    """

    kind: str
    speaker: End
    listener: End
    first: int = 0
    last: int = 0


@dataclass(frozen=True)
class Expected:
    """What is true of conversations with one server port; client and client_port narrow it down."""

    server: str
    port: int
    truth: Truth
    client: str = ""
    client_port: int = 0
    announced: Announced | None = None
    transport: str = "tcp"

    def about(self, flow: Flow) -> tuple[End, End] | None:
        """Client and server of the conversation, if this speaks of it."""
        if flow.transport != self.transport:
            return None
        for client, server in ((flow.opener, flow.other), (flow.other, flow.opener)):
            asked = self.client in ("", client[0]) and self.client_port in (0, client[1])
            if server == (self.server, self.port) and asked:
                return client, server
        return None

    @property
    def precision(self) -> int:
        return bool(self.client) + 2 * bool(self.client_port)


def conversations(capture: Path, expected: Sequence[Expected], damage: str = "") -> tuple[list[dict[str, Any]], int]:
    """The true facts of each conversation in a capture, in order of first frames; the number of frames.

    damage: what the recording takes away; it is the excuse of conversations of which something is lacking.
    """
    found, frames = flows(capture)
    entries, strangers = [], []
    for flow in found:
        best = max((item for item in expected if item.about(flow)), key=lambda item: item.precision, default=None)
        if best is None:
            strangers.append(f"{flow.transport} {flow.opener} {flow.other} from frame {flow.first_frame}")
            continue
        client, server = best.about(flow) or (flow.opener, flow.other)
        resolved = _resolved(best, flow, found)
        lacking = damage and (flow.transport == "udp" or not flow.whole() or bool(best.announced and not resolved))
        truth = replace(best.truth, resolved=resolved, hidden=damage if lacking else "")
        entries.append(stated(truth, flow.first_frame, flow.transport, list(client), list(server)))
    if strangers:
        raise LabError(f"{capture.name}: nobody spoke for " + "; ".join(strangers))
    return entries, frames


def _resolved(item: Expected, flow: Flow, found: Sequence[Flow]) -> dict[str, Any]:
    """`resolved_by`: the frames that carried the announcement, if the capture has them."""
    said = item.announced
    if said is None:
        return {}
    before = [
        other for other in found
        if other.first_frame < flow.first_frame and other.other == said.speaker and said.speaker in other.initial
        and said.listener in (other.opener, (other.opener[0], 0))
    ]  # fmt: skip
    if not before or not (frames := before[-1].frames(said.speaker, said.first, said.last)):
        return {}
    return {"kind": said.kind, "frames": list(frames)}
