"""Datagrams without documented bytes, told by their shape: cluster heartbeats and new-mail notifications.

Asked last, when every protocol with bytes of its own has refused. A port belongs to the shape here, since there
is nothing else; what the label makes of it is decided from what else the two hosts do.
Sources: Windows' service overview (cluster service: 3343/udp); MS-OXCRPC 3.1.4.5, EcRRegisterPushNotification:
the client chooses the octets which the server sends back to it when mail has come. It may choose up to 16;
Outlook has always chosen 8, and other sizes are too common among strangers' datagrams.
"""

from __future__ import annotations

from typing import Final

from classifier.inspectors.base import ANY_OCTET, NOT_THIS, WAIT, Answer, Dialogue, Evidence, Place, Side, Stream

_CLUSTER_PORT: Final = 3343
_MAX_HEARTBEAT: Final = 512
_LOOKED_AT: Final = 16

_CONTEXT_SIZE: Final = 8
FIRST_DYNAMIC: Final = 1024
"""Where ports begin that are not given to a service by IANA (RFC 6335 section 6: system ports end at 1023)."""

FIRST_OCTETS: Final = ANY_OCTET


def inspect_cluster(dialogue: Dialogue) -> Evidence | Answer:
    """Both ports 3343, and small datagrams, in each direction of at most two sizes."""
    if dialogue.transport != "udp" or not dialogue.server_port == dialogue.client_port == _CLUSTER_PORT:
        return NOT_THIS
    streams = [stream for stream in (dialogue.to_server, dialogue.to_client) if stream.chunks]
    if not all(_is_steady(stream) for stream in streams):
        return NOT_THIS
    if sum(len(stream.chunks) for stream in streams) < 2:
        return WAIT
    return Evidence("cluster-heartbeat", Place(Side.TO_SERVER if dialogue.to_server.chunks else Side.TO_CLIENT, 0))


def _is_steady(stream: Stream) -> bool:
    sizes = {len(chunk.data) for chunk in stream.chunks[:_LOOKED_AT]}
    return len(sizes) <= 2 and min(sizes) > 0 and max(sizes) <= _MAX_HEARTBEAT


def inspect_new_mail(dialogue: Dialogue) -> Evidence | Answer:
    """Datagrams in one direction only, all of the same eight octets, between two dynamic ports.

    The server of the mail sends them to a port on which Outlook listens: who sent first, asks.
    """
    if dialogue.transport != "udp" or min(dialogue.server_port, dialogue.client_port) < FIRST_DYNAMIC:
        return NOT_THIS
    sides = [side for side in Side if dialogue.stream(side).chunks]
    if len(sides) != 1:
        return NOT_THIS
    contents = {chunk.data for chunk in dialogue.stream(sides[0]).chunks[:_LOOKED_AT]}
    if len(contents) != 1 or len(next(iter(contents))) != _CONTEXT_SIZE:
        return NOT_THIS
    return Evidence("new-mail", Place(sides[0], 0))
