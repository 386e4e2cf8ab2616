"""What Wireshark has to be told of a conversation: which dissector reads its server port.

Dissector names are tshark's (`tshark -G decodes`). Must not know how tshark is run or a profile is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_OF_PROTOCOL: Final = {
    "dcerpc": "dcerpc", "epm": "dcerpc", "rpc-over-http": "http", "http": "http", "tls": "tls", "smtp": "smtp",
    "pop3": "pop", "imap4": "imap", "nntp": "nntp", "ldap": "ldap", "kerberos": "kerberos", "dns": "dns",
    "smb": "nbss", "netbios-ssn": "nbss", "sip": "sip", "rtp": "rtp", "x400": "tpkt", "net.tcp": "mc-nmf",
}  # fmt: skip
"""Protocols of records that Wireshark has a dissector for."""


LISTED_AS: Final = {
    "dcerpc": "DCERPC", "http": "HTTP", "tls": "TLS", "smtp": "SMTP", "pop": "POP", "imap": "IMAP", "nntp": "NNTP",
    "ldap": "LDAP", "kerberos": "KRB5", "dns": "DNS", "nbss": "NBSS", "sip": "SIP", "rtp": "RTP", "tpkt": "TPKT",
    "mc-nmf": "MC-NMF",
}  # fmt: skip
"""Dissectors by what a profile calls them: the short names of `tshark -G protocols`."""


def dissector(record: Mapping[str, Any]) -> str | None:
    """The dissector for the server port of a conversation: by its payload, else by who handed the port out."""
    if record["protocol"] is not None:
        return _OF_PROTOCOL.get(record["protocol"])
    source = record["resolved_by"]
    return "dcerpc" if source and source["uuid"] else None


def decode_as(record: Mapping[str, Any]) -> dict[str, str]:
    """The same as pyshark and `tshark -d` take it: `{"tcp.port==49734": "dcerpc"}`; {} where none is known."""
    name = dissector(record)
    return {f"{record['transport']}.port=={record['server_port']}": name} if name else {}
