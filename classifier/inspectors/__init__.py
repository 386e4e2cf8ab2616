"""The inspectors: one protocol a module, and the order in which they are asked.

`TCP` and `UDP` are the visible lists. `inspect` asks those of the transport in their order and takes the first
evidence. The commonest stand first; a protocol that could be mistaken for another's beginning stands before it
(RPC over HTTP and what greets with `ncacn_http` before plain RPC and HTTP, Remote Desktop among `foreign` before
X.400), and those told by shape alone stand last.
"""

from __future__ import annotations

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
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, Inspect

TCP: Final[tuple[tuple[str, Inspect], ...]] = (
    ("tls", tls.inspect),
    ("smb", smb.inspect),
    ("ncacn-http", ncacn_http.inspect),
    ("rpc-over-http", rpc_http.inspect),
    ("dcerpc", dcerpc.inspect),
    ("http", http.inspect),
    ("smtp", smtp.inspect),
    ("ldap", ldap.inspect),
    ("kerberos", kerberos.inspect),
    ("pop3", pop3.inspect),
    ("imap4", imap4.inspect),
    ("nntp", nntp.inspect),
    ("sip", sip.inspect),
    ("net.tcp", net_tcp.inspect),
    ("nego-stream", nego_stream.inspect),
    ("link-state", link_state.inspect),
    ("ssh", example.inspect),
    ("foreign", foreign.inspect),
    ("x400", x400.inspect),
    ("dns", dns.inspect),
)

UDP: Final[tuple[tuple[str, Inspect], ...]] = (
    ("netbios-names", netbios_names.inspect),
    ("dns", dns.inspect),
    ("kerberos", kerberos.inspect),
    ("ldap", ldap.inspect),
    ("dcerpc", dcerpc.inspect),
    ("sip", sip.inspect),
    ("foreign", foreign.inspect),
    ("rtp", rtp.inspect),
    ("cluster-heartbeat", heartbeat.inspect_cluster),
    ("new-mail", heartbeat.inspect_new_mail),
)

IN_WORDS: Final = frozenset(
    ("ncacn-http", "rpc-over-http", "http", "smtp", "pop3", "imap4", "nntp", "sip", "link-state", "ssh")
)
"""Protocols whose streams begin with printable characters, or line ends, on one side at least."""

_WORDS: Final = frozenset(bytes((octet,)) for octet in (9, 10, 13, *range(0x20, 0x7F))) | {b""}
_NOT_IN_WORDS: Final = tuple(row for row in TCP if row[0] not in IN_WORDS)

INSPECTORS: Final = (*TCP, *(row for row in UDP if row not in TCP))
"""Each of them once."""

PORTS: Final = (3343, 5353, 5355, *sorted(tls.BEGIN_IN_CLEAR))
"""Ports that inspectors look at: the cluster's heartbeat, multicast DNS, LLMNR, those on which TLS is asked for in
clear. All they ask of others is whether they are below `FIRST_DYNAMIC`."""

FIRST_DYNAMIC: Final = heartbeat.FIRST_DYNAMIC


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """The first inspector's evidence; `WAIT` if none has any and one wants more bytes; else `NOT_THIS`."""
    answer: Answer = NOT_THIS
    for _, ask in _to_ask(dialogue):
        found = ask(dialogue)
        if isinstance(found, Evidence):
            return found
        if found is WAIT:
            answer = WAIT
    return answer


def _to_ask(dialogue: Dialogue) -> tuple[tuple[str, Inspect], ...]:
    """Those that can have an answer other than `NOT_THIS`; all of the transport, where a stream begins with a hole
    or goes on behind one."""
    if dialogue.transport == "udp":
        return UDP
    for chunks in (dialogue.to_server.chunks, dialogue.to_client.chunks):
        if chunks and (len(chunks) > 1 or chunks[0].offset or chunks[0].data[:1] in _WORDS):
            return TCP
    return _NOT_IN_WORDS
