"""Voice: SIPp as gateway and as UM server, over TCP and (stunnel's) TLS: 302 to a worker's port, RTP both ways."""

from __future__ import annotations

from typing import Any

from captures.lab import servers
from captures.lab.laboratory import Laboratory, scenario
from captures.lab.truth import Announced
from captures.makers.mail import roles
from captures.makers.scene import Host, Truth
from captures.makers.voice_and_web import PHONE, PHONE_NOTES, UM_SERVER

FOREIGN: dict[str, Any] = {"absence": ("not-exchange", "unmatched", "encrypted")}
WORKER, MEDIA, GATEWAY_MEDIA = 5065, 31_620, 20_100
SECURED = ((5061, 6061), (5066, 6066))
"""Ports of UM with TLS, and the ports behind them on UM's own loopback."""

SESSION = """v=0
o=- 1 1 IN IP4 [local_ip]
s=call
c=IN IP4 [media_ip]
t=0 0
m=audio %s RTP/AVP 0
a=rtpmap:0 PCMU/8000
"""
HEADERS = """Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:gw@[local_ip]>;tag=[pid]gw[call_number]
To: <sip:5000@[remote_ip]>{tag}
Call-ID: [call_id]
Contact: <sip:[local_ip]:[local_port];transport=TCP>
Max-Forwards: 70
CSeq: {number} {verb}
"""
ANSWER = """[last_Via:]
[last_From:]
[last_To:];tag=[pid]um[call_number]
[last_Call-ID:]
[last_CSeq:]
Server: {product}
"""


def request(verb: str, number: int, body: str = "") -> str:
    """A request of the gateway; after the first it has the server's tag."""
    head = HEADERS.format(verb=verb, number=number, tag="" if verb == "INVITE" else "[peer_tag_param]")
    return message(f"{verb} sip:5000@[remote_ip]:[remote_port];transport=TCP SIP/2.0\n{head}", body)


def answer(status: str, product: str, body: str = "", more: str = "") -> str:
    """An answer of the server."""
    return message(f"SIP/2.0 {status}\n{ANSWER.format(product=product)}{more}", body)


def message(head: str, body: str) -> str:
    kind = "Content-Type: application/sdp\n" if body else ""
    return f"<send><![CDATA[\n\n{head}{kind}Content-Length: [len]\n\n{body}\n]]></send>\n"


def script(*parts: str) -> str:
    """A SIPp scenario."""
    return f'<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="voice">\n{"".join(parts)}</scenario>\n'


MOVED = '<recv response="302"/>\n'
PLAY = '<nop><action><exec rtp_stream="voice.ulaw,1,0,PCMU/8000"/></action></nop>\n<pause milliseconds="1200"/>\n'
ASKED = '<recv request="INVITE"/>\n'


def redirecting(target: str) -> str:
    contact = f"Contact: <sip:{target}>\n"
    return script(ASKED, answer("302 Moved Temporarily", UM_SERVER, more=contact), '<recv request="ACK"/>\n')


def accepting(product: str) -> str:
    return script(
        ASKED, answer("200 OK", product, SESSION % "[media_port]", "Contact: <sip:[local_ip]:[local_port]>\n"),
        '<recv request="ACK"/>\n<recv request="BYE"/>\n', answer("200 OK", product),
    )  # fmt: skip


OFFER = request("INVITE", 1, SESSION % "[rtpstream_audio_port]")
REDIRECTED = script(OFFER, MOVED, request("ACK", 1))
TALK = script(OFFER, '<recv response="200"/>\n', request("ACK", 1), PLAY, request("BYE", 2), '<recv response="200"/>\n')


class Telephony:
    """SIPp's scripts of a scenario, and a second of G.711."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        (lab.folder / "voice.ulaw").write_bytes(bytes(range(0x80, 0x100)) * 63)

    def serve(self, host: Host, address: str, port: int, text: str) -> None:
        """A server on a port; it sends each RTP packet back."""
        path = self.lab.write(f"{host.name}-{port}.xml", text)
        media = (
            ("-mi", host.address, "-mp", str(MEDIA), "-rtp_echo") if "BYE" in text and address == host.address else ()
        )
        words = ("sipp", "-sf", str(path), "-t", "t1", "-i", address, "-p", str(port), *media, "-nostdin", "-aa")
        self.lab.start(host, *words, log=f"{host.name}-{port}.log")
        self.lab.listening(host, port)

    def call(self, host: Host, address: str, port: int, text: str) -> None:
        """One call."""
        own = "127.0.0.1" if address == "127.0.0.1" else host.address
        path = self.lab.write(f"{host.name}-{port}.xml", text)
        media = ("-mi", host.address, "-mp", str(GATEWAY_MEDIA))
        words = ("sipp", f"{address}:{port}", "-sf", str(path), "-t", "t1", "-i", own, *media, "-m", "1", "-nostdin")
        self.lab.call(host, *words, log=f"{host.name}-{port}-call.log")


def secured(lab: Laboratory, gateway: Host, um: Host) -> None:
    """stunnel on both: mutual TLS on UM's ports, in clear on each one's loopback."""
    for host, client in ((um, False), (gateway, True)):
        chain, key = servers.certificate(lab, host)
        lines = [
            "foreground = yes",
            "pid =",
            f"cert = {chain}",
            f"key = {key}",
            f"client = {'yes' if client else 'no'}",
        ]
        lines += [] if client else ["requireCert = yes", "verifyChain = no"]
        for number, inner in SECURED:
            ends = (f"127.0.0.1:{number}", f"{um.address}:{number}") if client else (
                f"{um.address}:{number}", f"127.0.0.1:{inner}")  # fmt: skip
            lines += [f"[sip{number}]", f"accept = {ends[0]}", f"connect = {ends[1]}"]
        path = lab.write(f"{host.name}-stunnel.conf", "\n".join([*lines, ""]))
        lab.start(host, "stunnel", str(path))
        lab.listening(host, *(number for number, _ in SECURED))


@scenario(
    "voice", "A gateway calls UM: 302 from 5060 to 5065, then RTP; the same on 5061 and 5066", "sip-tester", "stunnel4"
)
def voice(lab: Laboratory) -> None:
    gateway, um = lab.host("gateway1"), lab.host("um1")
    phone = Telephony(lab)
    for address, port, worker in ((um.address, 5060, WORKER), ("127.0.0.1", 6061, 5066)):
        phone.serve(um, address, port, redirecting(f"{um.address}:{worker};transport=TCP"))
    for address, port in ((um.address, WORKER), ("127.0.0.1", 6066)):
        phone.serve(um, address, port, accepting(UM_SERVER))
    secured(lab, gateway, um)
    about = "SIPp on both sides: INVITE on 5060, 302 to 5065, INVITE there, RTP; the same inside stunnel's TLS"
    with lab.record("voice", about, only="tcp or udp") as recording:
        phone.call(gateway, um.address, 5060, REDIRECTED)
        phone.call(gateway, um.address, WORKER, TALK)
        phone.call(gateway, "127.0.0.1", 5061, REDIRECTED)
        phone.call(gateway, "127.0.0.1", 5066, TALK)
    known = {"roles": roles(gateway, um), "data_paths": PHONE, "also": PHONE_NOTES}
    clear = Truth("sip", certainty=("strong", "certain"), encryption=("none",), **known)
    lab.expect(recording, um, 5060, clear)
    moved = Announced("sip-redirect", (um.address, 5060), (gateway.address, 0))
    lab.expect(recording, um, WORKER, clear, announced=moved)
    for number, _ in SECURED:
        lab.expect(recording, um, number, Truth(
            "tls", certainty=("weak", "strong"), encryption=("tls-implicit",),
            authentication=("certificate", "unknown-encrypted"), **known,
        ))  # fmt: skip
    offered = Announced("sdp", (um.address, WORKER), (gateway.address, 0))
    sound = Truth("rtp", certainty=("strong", "strong"), **known)
    lab.expect(recording, um, MEDIA, sound, announced=offered, transport="udp")


@scenario("voice-foreign", "SIP and RTP between strangers", "sip-tester")
def foreign(lab: Laboratory) -> None:
    caller, callee = lab.plug(Host("desk7", "10.30.0.7")), lab.plug(Host("phone9", "10.30.0.9"))
    phone = Telephony(lab)
    phone.serve(callee, callee.address, 5060, accepting("Kamailio (5.6.3 (x86_64/linux))"))
    with lab.record("voice-foreign", "SIPp on both sides, a call with RTP", only="tcp or udp") as recording:
        phone.call(caller, callee.address, 5060, TALK)
    lab.expect(recording, callee, 5060, Truth("sip", encryption=("none",), **FOREIGN))
    offered = Announced("sdp", (callee.address, 5060), (caller.address, 0))
    lab.expect(recording, callee, MEDIA, Truth("rtp", **FOREIGN), announced=offered, transport="udp")
