"""The nouns of the product and their closed vocabularies. No behaviour beyond looking things up.

The words are those of the field and of the contract with users; a word outside its
vocabulary is a defect wherever it appears (a signature, an inspector, a record).
"""

from __future__ import annotations

from typing import Final, get_args
from typing import Literal as L

TransportName = L["tcp", "udp"]

OrientationName = L["syn", "syn-ack", "endpoint-map", "payload", "known-port", "first-seen"]

CertaintyName = L["certain", "strong", "weak"]

AbsenceName = L["no-payload", "mid-stream", "encrypted", "truncated", "gap", "limit-hit", "not-exchange", "unmatched"]

AuthenticationName = L[
    "none", "anonymous", "ntlm", "kerberos", "negotiate", "basic", "digest", "forms", "certificate",
    "direct-trust", "exchange-server", "netlogon", "bearer", "unknown-encrypted",
]  # fmt: skip

EncryptionName = L[
    "none", "tls-implicit", "tls-upgrade", "rpc-integrity", "rpc-privacy", "sasl-sign", "sasl-seal",
    "nego-stream", "smb-sign", "smb3", "srtp", "ipsec",
]  # fmt: skip

RoleName = L[
    "hub-transport", "edge-transport", "mailbox", "client-access", "unified-messaging",
    "front-end", "back-end", "exchange-server", "exchange-online",
    "active-directory", "dns-server", "ad-rms", "witness-server", "ocs-lync", "ip-gateway", "internet-mta",
    "outlook", "mapi-client", "browser", "eas-device", "web-service-client",
    "smtp-client", "pop3-client", "imap4-client", "nntp-client", "nntp-server", "x400-mta", "admin-workstation",
]  # fmt: skip

VersionName = L["5.5", "2000", "2003", "2007", "2010", "2013", "2016", "2019", "SE"]

SeverityName = L["info", "low", "medium", "high", "critical"]

ResolutionKind = L[
    "ept_map", "ept_lookup", "oxid", "sdp", "sip-redirect", "rpc-proxy", "bind", "secondary-address",
    "endpoint-map-file", "static",
]  # fmt: skip
"""Who handed out a port, in order of preference."""

ProtocolName = L[
    "dcerpc", "epm", "ncacn-http", "rpc-over-http", "http", "tls", "smtp", "pop3", "imap4", "nntp", "ldap",
    "kerberos", "dns", "smb", "netbios-ssn", "sip", "rtp", "x400", "net.tcp", "nego-stream", "link-state",
    "cluster-heartbeat", "new-mail", "ssh", "rdp", "ftp", "quic", "dhcp", "ntp", "snmp", "mdns", "llmnr", "ssdp",
    "netbios-ns", "netbios-dgm", "rtcp", "stun", "telnet", "x11",
]  # fmt: skip

TRANSPORTS: Final[tuple[str, ...]] = get_args(TransportName)
ROLES: Final[tuple[str, ...]] = get_args(RoleName)
VERSIONS: Final[tuple[str, ...]] = get_args(VersionName)
PROTOCOLS: Final[tuple[str, ...]] = get_args(ProtocolName)
AUTHENTICATIONS: Final[tuple[str, ...]] = get_args(AuthenticationName)
ENCRYPTIONS: Final[tuple[str, ...]] = get_args(EncryptionName)
CERTAINTIES: Final[tuple[str, ...]] = get_args(CertaintyName)
ABSENCES: Final[tuple[str, ...]] = get_args(AbsenceName)
RESOLUTION_KINDS: Final[tuple[str, ...]] = get_args(ResolutionKind)
ORIENTATIONS: Final[tuple[str, ...]] = get_args(OrientationName)
SEVERITIES: Final[tuple[str, ...]] = get_args(SeverityName)

PERSONS: Final = frozenset(
    (
        "outlook", "mapi-client", "browser", "eas-device", "web-service-client",
        "smtp-client", "pop3-client", "imap4-client", "nntp-client", "admin-workstation",
    )
)  # fmt: skip
"""Roles that one person's machine plays side by side: knowing one of them excludes no other."""

EXCHANGE_ROLES: Final = frozenset(
    {
        "hub-transport",
        "edge-transport",
        "mailbox",
        "client-access",
        "unified-messaging",
        "front-end",
        "back-end",
        "exchange-server",
    }
)
"""Roles that an Exchange server of the organisation itself plays."""
