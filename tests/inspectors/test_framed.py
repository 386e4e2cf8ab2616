"""SIP, RTP, X.400, net.tcp, NegotiateStream, NetBIOS, heartbeats and what is foreign."""

from __future__ import annotations

import pytest
from inspectors import hellos
from inspectors.playbook import tcp, udp, values

from classifier.inspectors import (
    example,
    foreign,
    heartbeat,
    inspect,
    nego_stream,
    net_tcp,
    netbios_names,
    rtp,
    sip,
    x400,
)
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Evidence

INVITE = b"INVITE sip:5555@um.contoso.com SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.9\r\nContent-Length: 0\r\n\r\n"
SDP = (
    b"v=0\r\nc=IN IP4 10.0.0.7\r\nm=audio 49170 RTP/SAVP 0\r\n"
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\nm=video 0 RTP/AVP 31\r\n"
)
NTLM1 = b"NTLMSSP\0\1\0\0\0\x07\x82\x08\xa2" + bytes(16)


def _found(answer: Evidence | Answer) -> Evidence:
    assert isinstance(answer, Evidence), answer
    return answer


@pytest.mark.parametrize("turned", [False, True])
def test_sip_redirect(turned: bool) -> None:
    answer = (
        b"SIP/2.0 302 Moved Temporarily\r\nServer: RTCC/4.0.0.0 MSExchangeUM/14.03.0123.003\r\n"
        b"Contact: <sip:um1.contoso.com:5065;transport=TCP>\r\nContent-Length: 0\r\n\r\n"
    )
    found = _found(sip.inspect(tcp(INVITE, answer, turned=turned)))
    assert found.reversed is turned
    (handout,) = found.handouts
    assert (handout.kind, handout.transport, handout.port, handout.host) == (
        "sip-redirect",
        "tcp",
        5065,
        "um1.contoso.com",
    )
    assert values(found, "sip.server") == ["RTCC/4.0.0.0 MSExchangeUM/14.03.0123.003"]
    assert values(found, "sip.method") == ["INVITE"]
    assert values(found, "sip.status") == ["302"]


@pytest.mark.parametrize(
    ("contact", "expected"),
    [
        (b"<sip:a@10.0.0.5:5067>", ("tcp", 5067, "10.0.0.5", "")),
        (b"sip:[fd00::1]:5065;transport=udp", ("udp", 5065, "fd00::1", "")),
        (b"<sips:um>", ("tcp", 5061, "", "um")),
        (b"<sip:um;transport=tls>", ("tcp", 5061, "", "um")),
        (b"<sip:um:99999>", None),
        (b"tel:1", None),
    ],
)
def test_contacts(contact: bytes, expected: tuple[str, int, str, str] | None) -> None:
    found = _found(sip.inspect(tcp(INVITE, b"SIP/2.0 302 Moved\r\nm: " + contact + b"\r\n\r\n")))
    got = [(h.transport, h.port, h.address, h.host) for h in found.handouts]
    assert got == ([expected] if expected else [])


@pytest.mark.parametrize("over", ["tcp", "udp"])
def test_media(over: str) -> None:
    answer = b"SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(SDP) + SDP
    dialogue = tcp(INVITE, answer) if over == "tcp" else udp([INVITE], [answer])
    found = _found(sip.inspect(dialogue))
    (handout,) = found.handouts
    assert (handout.kind, handout.transport, handout.port, handout.address) == ("sdp", "udp", 49170, "10.0.0.7")
    assert handout.annotation == "audio RTP/SAVP AES_CM_128_HMAC_SHA1_80"
    assert values(found, "sdp.media") == ["audio RTP/SAVP", "video RTP/AVP"]
    assert values(found, "sdp.crypto") == ["AES_CM_128_HMAC_SHA1_80"]


def test_sip_is_asked_to_wait() -> None:
    assert sip.inspect(tcp(b"INVITE sip:a")) is WAIT
    assert sip.inspect(tcp(b"GET / HTTP/1.1\r\n")) is NOT_THIS


# ---- RTP -------------------------------------------------------------------------------------


def voice(count: int, first: int = 65534, kind: int = 0, source: int = 7) -> list[bytes]:
    return [
        bytes((0x80, kind)) + ((first + i) & 0xFFFF).to_bytes(2, "big") + (160 * i).to_bytes(4, "big")
        + source.to_bytes(4, "big") + bytes(160)
        for i in range(count)
    ]  # fmt: skip


def test_rtp() -> None:
    found = _found(rtp.inspect(udp(voice(5), voice(4, 7, 8, 9))))
    assert values(found, "rtp.payload-type") == ["PCMU", "PCMA"]
    assert rtp.inspect(udp(voice(2))) is WAIT
    assert rtp.inspect(udp(voice(2) + voice(2, 40000, 0, 8))) is NOT_THIS
    assert rtp.inspect(udp(voice(5), [b"something else, longer"])) is NOT_THIS
    assert rtp.inspect(udp(voice(5, kind=72))) is NOT_THIS


# ---- X.400 -----------------------------------------------------------------------------------


def tpkt(body: bytes) -> bytes:
    return b"\3\0" + (len(body) + 4).to_bytes(2, "big") + body


CONNECT = tpkt(b"\x10\xe0\0\0\0\1\0\xc1\3MTA\xc2\3MTB")
CONFIRM = tpkt(b"\x06\xd0\0\1\0\2\0")


@pytest.mark.parametrize("turned", [False, True])
def test_x400(turned: bool) -> None:
    session = tpkt(b"\2\xf0\x80\x0d\x20" + bytes(20) + b"\x06\4\x56\0\1\6")
    found = _found(x400.inspect(tcp(CONNECT + session, CONFIRM + tpkt(b"\2\xf0\x80\x0e\4abcd"), turned=turned)))
    assert found.reversed is turned
    assert values(found, "x400.calling-selector") == ["MTA"]
    assert values(found, "x400.called-selector") == ["MTB"]
    assert values(found, "x400.session") == ["CONNECT", "ACCEPT"]
    assert values(found, "x400.application-context") == ["mts-transfer"]


@pytest.mark.parametrize(
    "client",
    [
        CONNECT + tpkt(b"\2\xf0\x80\x32\1\0\0"),
        CONNECT + tpkt(b"\2\xf0\x80\x7f\x65\x82"),
        CONNECT + tpkt(b"\2\xf0\x80\x0d\x20\x28\xca\x22\2\3"),
        tpkt(b"\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0"),
        tpkt(b"\x08\2\x00\x01\5"),
    ],
)
def test_other_users_of_port_102_and_3389(client: bytes) -> None:
    assert x400.inspect(tcp(client, CONFIRM)) is NOT_THIS
    assert x400.inspect(tcp(CONNECT, CONFIRM)) is WAIT


# ---- .NET ------------------------------------------------------------------------------------

VIA = b"net.tcp://ex1.contoso.com/Microsoft.Exchange.MailboxReplicationService"
PREAMBLE = b"\0\1\0\1\2\2" + bytes((len(VIA),)) + VIA + b"\3\x08"


def nns(token: bytes, kind: int = 0x16) -> bytes:
    return bytes((kind, 1, 0)) + len(token).to_bytes(2, "big") + token


@pytest.mark.parametrize("turned", [False, True])
def test_net_tcp_with_negotiate(turned: bool) -> None:
    client = PREAMBLE + b"\x09\x15application/negotiate" + nns(NTLM1) + nns(b"", 0x14)
    found = _found(net_tcp.inspect(tcp(client, b"\x0a" + nns(b"", 0x14), turned=turned)))
    assert (found.authentication, found.encryption, found.reversed) == ("ntlm", "nego-stream", turned)
    assert values(found, "net.tcp.via") == [VIA.decode()]
    assert values(found, "net.tcp.upgrade") == ["application/negotiate"]


def test_net_tcp_with_tls_and_without() -> None:
    hello = hellos.record(hellos.client_hello(hellos.chrome_extensions("ex1")))
    client = PREAMBLE + b"\x09\x13application/ssl-tls" + hello
    found = _found(net_tcp.inspect(tcp(client, b"\x0a" + hellos.record(hellos.server_hello()))))
    assert (found.encryption, found.tls_sni, found.tls_version) == ("tls-upgrade", "ex1", "TLSv1.2")
    found = _found(net_tcp.inspect(tcp(PREAMBLE + b"\x0c\x06\x02ab", b"\x0b")))
    assert (found.encryption, found.authentication) == ("none", None)
    assert net_tcp.inspect(tcp(PREAMBLE[:12])) is WAIT
    assert net_tcp.inspect(tcp(PREAMBLE + b"\x0c", b"HTTP/1.1 400\r\n")) is NOT_THIS


@pytest.mark.parametrize("turned", [False, True])
def test_nego_stream(turned: bool) -> None:
    found = _found(nego_stream.inspect(tcp(nns(NTLM1) + nns(b"", 0x14), nns(b"", 0x14), turned=turned)))
    assert (found.authentication, found.encryption, found.reversed) == ("ntlm", "nego-stream", turned)
    assert nego_stream.inspect(tcp(b"\x16\1\0")) is WAIT
    assert nego_stream.inspect(tcp(b"\x16\3\1\0\xff" + bytes(20))) is NOT_THIS


# ---- datagrams told by shape -----------------------------------------------------------------


def test_cluster_heartbeat() -> None:
    beats = [bytes(48)] * 3
    assert _found(inspect(udp(beats, beats, (3343, 3343)))).protocol == "cluster-heartbeat"
    assert heartbeat.inspect_cluster(udp(beats, beats, (3343, 50000))) is NOT_THIS
    assert heartbeat.inspect_cluster(udp([bytes(900)] * 3, ports=(3343, 3343))) is NOT_THIS
    assert heartbeat.inspect_cluster(udp(beats[:1], ports=(3343, 3343))) is WAIT


def test_new_mail() -> None:
    found = _found(inspect(udp([b"\x5a\x81\x23\x99\xfe\x01\x02\x77"] * 2, ports=(1095, 1234))))
    assert (found.protocol, found.reversed) == ("new-mail", None)
    assert heartbeat.inspect_new_mail(udp([bytes(8)], [bytes(8)], (1095, 1234))) is NOT_THIS
    assert heartbeat.inspect_new_mail(udp([bytes(8)], ports=(53, 1234))) is NOT_THIS


def test_netbios_names() -> None:
    coded = bytes(0x41 + part for octet in b"EX1            \x20" for part in (octet >> 4, octet & 15))
    query = bytes.fromhex("123401100001000000000000") + b"\x20" + coded + b"\0\0\x20\0\1"
    found = _found(inspect(udp([query], ports=(137, 137))))
    assert (found.protocol, values(found, "netbios.name")) == ("netbios-ns", ["EX1<20>"])
    datagram = b"\x11\x02\0\1\x0a\0\0\1\0\x8a\0\x50\0\0\x20" + coded + b"\0"
    assert _found(netbios_names.inspect(udp([datagram]))).protocol == "netbios-dgm"


# ---- foreign ---------------------------------------------------------------------------------

FOREIGN_TCP = {
    "rdp": (tpkt(b"\x2b\xe0\0\0\0\0\0Cookie: mstshash=user\r\n\1\0\x08\0\0\0\0\0"), b""),
    "ftp": (b"USER anonymous\r\nPASS x\r\n", b"220 ProFTPD ready\r\n331 ok\r\n"),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"),
    "telnet": (b"\xff\xfd\x03\xff\xfb\x18", b"\xff\xfd\x18\xff\xfd\x20"),
    "x11": (b"l\0\x0b\0\0\0\0\0\0\0\0\0", b""),
}
FOREIGN_UDP = {
    "quic": b"\xc3\0\0\0\1\x08abcdefgh" + bytes(1200),
    "dhcp": b"\1\1\6\0" + bytes(232) + b"\x63\x82\x53\x63\x35\1\1\xff",
    "snmp": bytes.fromhex("302602010104067075626c6963a019020101020100020100300e300c06082b060102010101000500"),
    "ssdp": b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n",
    "stun": b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12),
    "rtcp": b"\x80\xc9\0\1" + bytes(4),
    "ntp": b"\x23\0\6\xec" + bytes(44),
}


@pytest.mark.parametrize("protocol", FOREIGN_TCP)
def test_foreign_over_tcp(protocol: str) -> None:
    client, server = FOREIGN_TCP[protocol]
    for turned in (False, True):
        found = _found(inspect(tcp(client, server, turned=turned, port=25)))
        assert found.protocol == protocol
        assert found.reversed in (None, turned)


@pytest.mark.parametrize("protocol", FOREIGN_UDP)
def test_foreign_over_udp(protocol: str) -> None:
    assert _found(inspect(udp([FOREIGN_UDP[protocol]], ports=(53, 53)))).protocol == protocol


def test_no_payload_is_nothing() -> None:
    assert foreign.inspect(tcp()) is NOT_THIS
    assert example.inspect(tcp(b"SSH-2.0-")) is WAIT
    assert not isinstance(inspect(tcp()), Evidence)
    assert inspect(udp([])) is NOT_THIS
