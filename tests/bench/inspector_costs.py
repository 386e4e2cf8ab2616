"""What each inspector costs: reading a typical conversation of its protocol, and refusing everybody else's.

Run as a program: `PYTHONPATH=tests python -m bench.inspector_costs`. Microseconds of one core, best of five.
"""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat

from inspectors import hellos
from inspectors.playbook import tcp, udp
from inspectors.test_directory import answer, bind, framed, kdc_answer, kdc_request, question, search
from inspectors.test_framed import CONFIRM, CONNECT, INVITE, PREAMBLE, SDP, nns, tpkt, voice
from inspectors.test_lines import GREETING, HELLO, KEYWORDS, SERVER_HELLO

from classifier.inspectors import TCP, UDP, inspect
from classifier.inspectors.base import Dialogue

NAME = "_ldap._tcp.gc._msdcs.contoso.com"
TARGET = b"\0\0\0\1\x0c\xc4\3dc1\7contoso\3com\0"
TLS13 = hellos.record(hellos.server_hello(extensions=hellos.TLS13)) + hellos.CHANGE + hellos.SECRET

TYPICAL = {
    "tls hello, client only": tcp(HELLO),
    "tls hello, both sides": tcp(HELLO, TLS13),
    "tls with a certificate": tcp(HELLO, SERVER_HELLO),
    "dns question": udp([question(NAME, 33)]),
    "dns question and answer": udp([question(NAME, 33)], [answer(NAME, 33, TARGET)]),
    "http request and answer": tcp(
        b"GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\nUser-Agent: Mozilla/5.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer: Microsoft-IIS/7.5\r\nContent-Length: 0\r\n\r\n",
    ),
    "smtp greeting": tcp(b"", GREETING),
    "smtp up to STARTTLS": tcp(b"EHLO a\r\nSTARTTLS\r\n" + HELLO, GREETING + KEYWORDS + b"220 2.0.0 ready\r\n" + TLS13),
    "pop3 login": tcp(b"USER a\r\nPASS b\r\nQUIT\r\n", b"+OK ready\r\n+OK\r\n+OK\r\n"),
    "imap4 login": tcp(b"1 LOGIN a b\r\n2 LOGOUT\r\n", b"* OK ready\r\n1 OK done\r\n"),
    "nntp greeting": tcp(b"MODE READER\r\n", b"200 NNTP Service ready\r\n"),
    "ldap bind and search": tcp(bind(b"\x80\0") + search(b"CN=Configuration"), b"0\x0c\2\1\1a\7\n\1\0\4\0\4\0"),
    "kerberos over tcp": tcp(framed(kdc_request(0x6C, (b"SMTPSVC", b"hub"))), framed(kdc_answer(0x6D))),
    "sip redirect": tcp(INVITE, b"SIP/2.0 302 Moved\r\nContact: <sip:um:5065>\r\n\r\n"),
    "sip with sdp": udp([INVITE], [b"SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\n\r\n" + SDP]),
    "net.tcp": tcp(PREAMBLE + b"\x09\x15application/negotiate" + nns(b"NTLMSSP\0\1\0\0\0"), b"\x0a"),
    "x400": tcp(CONNECT + tpkt(b"\2\xf0\x80\x0d\x20" + bytes(20)), CONFIRM),
    "rtp": udp(voice(16), voice(16)),
    "ssh": tcp(b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"),
}

STRANGERS = tcp(bytes(range(200, 256)) * 4, bytes(range(100, 200))), udp([bytes(range(200, 256))], [bytes(range(99))])


def cost(ask: Callable[[Dialogue], object], dialogue: Dialogue) -> float:
    """Microseconds of one call."""
    return min(repeat(lambda: ask(dialogue), number=2000, repeat=5)) / 2000 * 1e6


def main() -> None:
    """Print the two tables."""
    inspectors = dict((*UDP, *TCP))
    for name, dialogue in TYPICAL.items():
        word = name.split()[0].rstrip(",")
        print(
            f"{name:26} its own inspector {cost(inspectors[word], dialogue):6.1f}   all {cost(inspect, dialogue):6.1f}"
        )
    for dialogue, listed in zip(STRANGERS, (TCP, UDP), strict=True):
        print(f"\nunknown over {dialogue.transport}: all {cost(inspect, dialogue):.1f}")
        print("  " + ", ".join(f"{name} {cost(ask, dialogue):.1f}" for name, ask in listed))


if __name__ == "__main__":
    main()
