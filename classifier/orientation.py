"""Who is client and who is server, and how that was found.

Methods in order: the sender of the SYN; the receiver of a SYN-ACK; what the payload proves; a port that was
handed out; a known port; who was seen first. Works on all conversations at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier import model
from classifier.compiled import Records, i64, kernel
from classifier.conversations import ConversationTable
from classifier.streams import SENT_SYN, SENT_SYN_ACK

METHOD: Final = {name: code for code, name in enumerate(model.ORIENTATIONS)}

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

    def decide(self, index: int | NDArray[np.int64], client: int | NDArray[np.int8], method: str) -> None:
        """Settle conversations that no SYN has settled."""
        self.client[index], self.method[index] = client, METHOD[method]

    @property
    def proven(self) -> NDArray[np.bool_]:
        """Conversations in which the handshake told client from server."""
        return self.method <= METHOD["syn-ack"]


def first_look(table: ConversationTable, service_ports: NDArray[np.bool_]) -> Orientation:
    """Orientation before any payload was read.

    service_ports: bool[65536], ports that signatures name.
    """
    rank = service_ports.astype(np.uint8) * 2
    rank[list(COMMON_SERVICES)] = 2
    rank[:WELL_KNOWN] = np.maximum(rank[:WELL_KNOWN], 1)
    looked = Orientation(np.empty(table.count, np.int8), np.empty(table.count, np.int8))
    codes = METHOD["syn"], METHOD["syn-ack"], METHOD["known-port"], METHOD["first-seen"]
    _look(table.rows, table.store.flows, rank, codes, looked.client, looked.method)
    return looked


@kernel
def _look(
    rows: Records, flows: Records, rank: NDArray[np.uint8], codes: tuple[int, int, int, int],
    client: NDArray[np.int8], method: NDArray[np.int8],
) -> None:  # fmt: skip
    """Orient conversations. rank: uint8[65536], how much a port looks like a service's; codes: of the methods tried;
    client, method: get the answer."""
    syn, syn_ack, known_port, first_seen = codes
    for index in range(len(client)):
        row, ahead, back = rows[index], i64(flows[2 * index].flags), i64(flows[2 * index + 1].flags)
        a, b = rank[row.a_port], rank[row.b_port]
        if (ahead | back) & SENT_SYN:  # in a simultaneous open the first sender asked
            both = ahead & back & SENT_SYN
            client[index], method[index] = i64(row.first_flow) if both else i64(back & SENT_SYN != 0), syn
        elif (ahead | back) & SENT_SYN_ACK:
            client[index], method[index] = back & SENT_SYN_ACK == 0, syn_ack
        elif a != b:
            client[index], method[index] = a > b, known_port
        else:
            client[index], method[index] = row.first_flow, first_seen
