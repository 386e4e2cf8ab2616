"""The inspectors: one protocol a module, and the order in which they are asked.

`TCP` and `UDP` are the visible lists. `inspect` asks those of the transport in their order, but for those whose
`FIRST_OCTETS` say that they would refuse, and takes the first evidence. The commonest stand first; a protocol that
could be mistaken for another's beginning stands before it (RPC over HTTP and what greets with `ncacn_http` before
plain RPC and HTTP, Remote Desktop among `foreign` before X.400), and those told by shape alone stand last.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from classifier.inspectors import (
    dcerpc,
    dns,
    example,
    foreign,
    heartbeat,
    http,
    imap4,
    kerberos,
    ldap,
    link_state,
    ncacn_http,
    nego_stream,
    net_tcp,
    netbios_names,
    nntp,
    pop3,
    rpc_http,
    rtp,
    sip,
    smb,
    smtp,
    tls,
    x400,
)
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, Inspect, Inspector

TCP: Final[tuple[Inspector, ...]] = (
    Inspector("tls", tls.inspect, tls.FIRST_OCTETS),
    Inspector("smb", smb.inspect, smb.FIRST_OCTETS),
    Inspector("ncacn-http", ncacn_http.inspect, ncacn_http.FIRST_OCTETS),
    Inspector("rpc-over-http", rpc_http.inspect, rpc_http.FIRST_OCTETS),
    Inspector("dcerpc", dcerpc.inspect, dcerpc.FIRST_OCTETS),
    Inspector("http", http.inspect, http.FIRST_OCTETS),
    Inspector("smtp", smtp.inspect, smtp.FIRST_OCTETS),
    Inspector("ldap", ldap.inspect, ldap.FIRST_OCTETS),
    Inspector("kerberos", kerberos.inspect, kerberos.FIRST_OCTETS),
    Inspector("pop3", pop3.inspect, pop3.FIRST_OCTETS),
    Inspector("imap4", imap4.inspect, imap4.FIRST_OCTETS),
    Inspector("nntp", nntp.inspect, nntp.FIRST_OCTETS),
    Inspector("sip", sip.inspect, sip.FIRST_OCTETS),
    Inspector("net.tcp", net_tcp.inspect, net_tcp.FIRST_OCTETS),
    Inspector("nego-stream", nego_stream.inspect, nego_stream.FIRST_OCTETS),
    Inspector("link-state", link_state.inspect, link_state.FIRST_OCTETS),
    Inspector("ssh", example.inspect, example.FIRST_OCTETS),
    Inspector("foreign", foreign.inspect, foreign.FIRST_OCTETS["tcp"]),
    Inspector("x400", x400.inspect, x400.FIRST_OCTETS),
    Inspector("dns", dns.inspect, dns.FIRST_OCTETS),
)

UDP: Final[tuple[Inspector, ...]] = (
    Inspector("netbios-names", netbios_names.inspect, netbios_names.FIRST_OCTETS),
    Inspector("dns", dns.inspect, dns.FIRST_OCTETS),
    Inspector("kerberos", kerberos.inspect, kerberos.FIRST_OCTETS),
    Inspector("ldap", ldap.inspect, ldap.FIRST_OCTETS),
    Inspector("dcerpc", dcerpc.inspect, dcerpc.FIRST_OCTETS),
    Inspector("sip", sip.inspect, sip.FIRST_OCTETS),
    Inspector("foreign", foreign.inspect, foreign.FIRST_OCTETS["udp"]),
    Inspector("rtp", rtp.inspect, rtp.FIRST_OCTETS),
    Inspector("cluster-heartbeat", heartbeat.inspect_cluster, heartbeat.FIRST_OCTETS),
    Inspector("new-mail", heartbeat.inspect_new_mail, heartbeat.FIRST_OCTETS),
)

INSPECTORS: Final = {row.name: row.inspect for row in (*TCP, *UDP)}
"""Each of them once, by name."""

PORTS: Final = (3343, 5353, 5355, *sorted(tls.BEGIN_IN_CLEAR))
"""Ports that inspectors look at: the cluster's heartbeat, multicast DNS, LLMNR, those on which TLS is asked for in
clear. All they ask of others is whether they are below `FIRST_DYNAMIC`."""

FIRST_DYNAMIC: Final = heartbeat.FIRST_DYNAMIC


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """The first inspector's evidence; `WAIT` if none has any and one wants more bytes; else `NOT_THIS`."""
    answer: Answer = NOT_THIS
    for ask in to_ask(dialogue):
        found = ask(dialogue)
        if isinstance(found, Evidence):
            return found
        if found is WAIT:
            answer = WAIT
    return answer


def to_ask(dialogue: Dialogue) -> tuple[Inspect, ...]:
    """Those of the transport that can have an answer other than `NOT_THIS` (`FirstOctets`), in their order."""
    listed = _LISTED[dialogue.transport]
    chosen = 0
    for stream in (dialogue.to_server, dialogue.to_client):
        if not stream.chunks:
            continue
        head = stream.head
        if head:
            chosen |= listed.by_octet[head[0]]
        in_one = dialogue.transport == "udp" or len(stream.chunks) == 1
        if not (head and in_one and stream.started):
            chosen |= listed.resuming
    return listed.choose(chosen or listed.resuming)


class _Listed:
    """The list of one transport, with what is known of first octets. In a choice, bit n stands for row n."""

    def __init__(self, rows: tuple[Inspector, ...]) -> None:
        self.rows = rows
        self.by_octet = [0] * 256
        self.resuming = 0
        for bit, row in enumerate(rows):
            for octet in row.first.octets:
                self.by_octet[octet] |= 1 << bit
            self.resuming |= row.first.resumes << bit
        self.choose = cache(self._choose)

    def _choose(self, chosen: int) -> tuple[Inspect, ...]:
        return tuple(row.inspect for bit, row in enumerate(self.rows) if chosen >> bit & 1)


_LISTED: Final = {"tcp": _Listed(TCP), "udp": _Listed(UDP)}
