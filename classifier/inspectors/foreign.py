"""Protocols that are never Exchange's, known well enough not to be mistaken for something of it.

One table, one small test a protocol; nothing is read beyond what proves it. A protocol worth more than that
gets a module of its own (see `example`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from classifier.inspectors import der
from classifier.inspectors.base import NOT_THIS, Answer, Dialogue, Evidence, FirstOctets, Place, Side

Test = Callable[[bytes], bool]


class Foreign(NamedTuple):
    """client, server: what proves the protocol in the first bytes (datagram) of that side; None proves nothing.
    first: the octets that these may begin with.

    Where the two tests differ, the one that holds tells the orientation.
    """

    protocol: str
    transport: Literal["tcp", "udp"]
    first: bytes
    client: Test | None
    server: Test | None = None


def _begins(pattern: bytes) -> Test:
    compiled = re.compile(pattern, re.S)
    return lambda data: compiled.match(data) is not None


# ---- tests that are more than a pattern ------------------------------------------------------------


def _is_remote_desktop(data: bytes) -> bool:
    """A connection request with a routing cookie or RDP_NEG_REQ at its end (MS-RDPBCGR 2.2.1.1)."""
    if data[:2] != b"\3\0" or data[5:6] != b"\xe0":
        return False
    whole = data[: int.from_bytes(data[2:4], "big")]
    return b"Cookie: mstshash=" in whole or b"Cookie: msts=" in whole or whole[-8:-4] == b"\1\0\x08\0"


_WITH_NTP_VERSION: Final = bytes(octet for octet in range(256) if octet & 0x38)


def _is_ntp_request(data: bytes) -> bool:
    return (_is_ntp(data) and data[0] & 7 in (1, 3)) or (_is_ntp_control(data) and not data[1] & 0x80)


def _is_ntp_answer(data: bytes) -> bool:
    return (_is_ntp(data) and data[0] & 7 in (2, 4, 5)) or (_is_ntp_control(data) and data[1] & 0x80 != 0)


def _is_ntp_control(data: bytes) -> bool:
    """RFC 9327 section 2: mode 6, then at 10 how many octets of data follow."""
    if len(data) < 12 or data[0] & 0xC7 != 0x06 or not data[0] & 0x38:
        return False
    return 0 <= len(data) - 12 - int.from_bytes(data[10:12], "big") <= 24


def _is_ntp(data: bytes) -> bool:
    """RFC 5905 section 7.3: version, stratum, poll and precision in their ranges; extensions in words of 4 octets."""
    if len(data) < 48 or len(data) % 4 or len(data) > 1024:
        return False
    version, stratum, poll, precision = data[0] >> 3 & 7, data[1], data[2], data[3]
    return 1 <= version <= 4 and stratum <= 16 and (poll <= 17 or poll >= 250) and (precision == 0 or precision > 200)


def _snmp_pdu(data: bytes) -> int:
    """Tag of the PDU of an SNMPv1 or v2c message, 0x30 for v3, 0 for none (RFC 1157 section 4, RFC 3412 section 6)."""
    outer = der.header(data)
    if outer is None or outer[0] != 0x30 or outer[2] != len(data):
        return 0
    parts = list(der.values(data[outer[1] :]))
    if len(parts) < 3 or parts[0][0] != 0x02 or parts[0][1] not in (b"\0", b"\1", b"\3"):
        return 0
    if parts[0][1] == b"\3":
        return 0x30 if parts[1][0] == 0x30 and parts[2][0] == 0x04 else 0
    return parts[2][0] if parts[1][0] == 0x04 and 0xA0 <= parts[2][0] <= 0xA8 else 0


def _is_stun(data: bytes) -> bool:
    """RFC 8489 section 5: two zero bits, the magic cookie, and the length of what follows."""
    return (
        len(data) >= 20 and data[0] < 0x40 and data[4:8] == b"\x21\x12\xa4\x42"
        and int.from_bytes(data[2:4], "big") + 20 == len(data)
    )  # fmt: skip


def _is_rtcp(data: bytes) -> bool:
    """A compound packet whose lengths add up, reports first (RFC 3550 section 6.1)."""
    at = 0
    while at + 8 <= len(data):
        if data[at] & 0xC0 != 0x80 or not 200 <= data[at + 1] <= (201 if at == 0 else 207):
            return False
        at += 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
    return at > 0 and at == len(data)


def _is_quic(data: bytes) -> bool:
    """A long header of a known version whose connection ids fit (RFC 9000 section 17.2)."""
    if len(data) < 7 or data[0] & 0x80 == 0:
        return False
    version = data[1:5]
    known = version in (b"\0\0\0\1", b"\x6b\x33\x43\xcf") or version[:3] == b"\xff\0\0" or version[:1] == b"Q"
    return known and data[5] <= 20


def _is_dhcp(data: bytes, operation: int) -> bool:
    """RFC 2131 section 2: operation, hardware type and address length, and the cookie at 236."""
    return len(data) >= 240 and data[0] == operation and data[2] <= 16 and data[236:240] == b"\x63\x82\x53\x63"


FOREIGN: Final = (
    Foreign("rdp", "tcp", b"\3", _is_remote_desktop),
    Foreign(
        "ftp",
        "tcp",
        b"FSAU2",
        _begins(
            rb"(?:FEAT|SYST|AUTH (?:TLS|SSL)|USER [^\r\n]{1,64}\r?\nPASS [^\r\n]{0,64}\r?\n(?:SYST|TYPE|PWD|PASV))\b"
        ),
        _begins(rb"220[ -](?:[^\r\n]{0,200}(?:FTP|FileZilla)|.{0,600}?\n331[ -])"),
    ),
    Foreign("telnet", "tcp", b"\xff", _begins(rb"(?:\xff[\xfb-\xfe][\x00-\x31]|\xff\xfa[^\xff]{1,64}\xff\xf0){1,}")),
    Foreign(
        "x11",
        "tcp",
        b"lB\0\1\2",
        _begins(rb"(?:l\0\x0b\0[\0-\1]\0|B\0\0\x0b\0[\0-\1])"),
        _begins(rb"[\0-\2].(?:\x0b\0\0\0|\0\x0b\0\0)..(?!\0\0\0\0)"),
    ),
    Foreign("quic", "udp", bytes(range(0x80, 0x100)), _is_quic),
    Foreign("dhcp", "udp", b"\1\2", lambda data: _is_dhcp(data, 1), lambda data: _is_dhcp(data, 2)),
    Foreign(
        "snmp",
        "udp",
        b"\x30",
        lambda data: _snmp_pdu(data) in (0xA0, 0xA1, 0xA3, 0xA5, 0x30),
        lambda data: _snmp_pdu(data) == 0xA2,
    ),
    Foreign(
        "ssdp",
        "udp",
        b"MNH",
        _begins(rb"(?:M-SEARCH|NOTIFY) \* HTTP/1\.[01]\r\n"),
        _begins(rb"HTTP/1\.[01] 200 "),
    ),
    Foreign(
        "stun",
        "udp",
        bytes(range(0x40)),
        lambda data: _is_stun(data) and not data[0] & 1,
        lambda data: _is_stun(data) and bool(data[0] & 1),
    ),
    Foreign("rtcp", "udp", bytes(range(0x80, 0xC0)), _is_rtcp),
    Foreign("ntp", "udp", _WITH_NTP_VERSION, _is_ntp_request, _is_ntp_answer),
)
"""X11's client says its byte order and protocol 11; its server's answer has the same number (X protocol, 8)."""

FIRST_OCTETS: Final = {
    transport: FirstOctets(b"".join(row.first for row in FOREIGN if row.transport == transport))
    for transport in ("tcp", "udp")
}
"""By transport."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """The first row of the table that one side's first bytes prove."""
    ours, theirs = dialogue.to_server.head, dialogue.to_client.head
    for row in FOREIGN:
        if row.transport == dialogue.transport and (found := _match(row, ours, theirs)) is not None:
            return found
    return NOT_THIS


def _match(row: Foreign, ours: bytes, theirs: bytes) -> Evidence | None:
    for turned, client, server in ((False, ours, theirs), (True, theirs, ours)):
        asked = row.client is not None and bool(client) and row.client(client)
        answered = row.server is not None and bool(server) and row.server(server)
        if asked or answered:
            side = Side.TO_SERVER if bool(asked) != turned else Side.TO_CLIENT
            return Evidence(row.protocol, Place(side, 0), turned if row.server else None)
    return None
