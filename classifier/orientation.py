"""Who is client and who is server, and how that was found.

Methods in order: the sender of the SYN; the receiver of a SYN-ACK; what the payload proves; a port that was
handed out; a known port; who was seen first. Works on all conversations at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.conversations import ConversationTable
from classifier.model import ORIENTATIONS
from classifier.streams import SENT_SYN, SENT_SYN_ACK

METHOD: Final = {name: code for code, name in enumerate(ORIENTATIONS)}

WELL_KNOWN: Final = 1024
"""Ports below are given out by IANA to services (RFC 6335 section 6) and not to clients."""

COMMON_SERVICES: Final = frozenset(
    {1433, 1521, 1723, 3306, 3389, 5353, 5355, 5432, 5900, 5985, 5986, 8080, 8443, 9389, 47001}
)
"""Registered ports above that many networks see, for what no signature names."""


@dataclass(slots=True)
class Orientation:
    """client: int8, the flow (0 from a to b, 1 from b to a) that the client sends; method: int8, code in METHOD."""

    client: NDArray[np.int8]
    method: NDArray[np.int8]

    def decide(self, index: int, client: int, method: str) -> None:
        """Settle one conversation that no SYN has settled."""
        self.client[index], self.method[index] = client, METHOD[method]

    @property
    def proven(self) -> NDArray[np.bool_]:
        """Conversations in which the handshake told client from server."""
        return self.method <= METHOD["syn-ack"]


def first_look(table: ConversationTable, service_ports: NDArray[np.bool_]) -> Orientation:
    """Orientation before any payload was read.

    service_ports: bool[65536], ports that signatures name.
    """
    index, rows = np.arange(table.count), table.rows[: table.count]
    flags = table.store.flows["flags"]
    ahead, back = flags[2 * index], flags[2 * index + 1]
    known = service_ports.astype(np.int8) * 2
    known[list(COMMON_SERVICES)] = 2
    known[:WELL_KNOWN] = np.maximum(known[:WELL_KNOWN], 1)
    rank_a, rank_b = known[rows["a_port"]], known[rows["b_port"]]
    conditions = [
        (ahead & SENT_SYN) != 0, (back & SENT_SYN) != 0, (back & SENT_SYN_ACK) != 0, (ahead & SENT_SYN_ACK) != 0,
        rank_b > rank_a, rank_a > rank_b,
    ]  # fmt: skip
    both_syn = conditions[0] & conditions[1]  # simultaneous open: the first sender asked
    conditions[0] &= ~both_syn | (rows["first_flow"] == 0)
    methods = ["syn", "syn", "syn-ack", "syn-ack", "known-port", "known-port"]
    return Orientation(
        np.select(conditions, [0, 1, 0, 1, 0, 1], rows["first_flow"].astype(np.int64)).astype(np.int8),
        np.select(conditions, [METHOD[method] for method in methods], METHOD["first-seen"]).astype(np.int8),
    )
