"""Every inspector against arbitrary and mutated bytes, holes and segmentation: never an exception, never a lie."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from inspectors import hellos
from inspectors.playbook import check, check_who_is_not_asked, stream, tcp
from inspectors.test_directory import bind, der, framed, kdc_answer, kdc_request, question, search
from inspectors.test_framed import CONNECT, FOREIGN_TCP, FOREIGN_UDP, INVITE, PREAMBLE, SDP, nns, tpkt, voice
from inspectors.test_lines import GREETING, HELLO, KEYWORDS, SERVER_HELLO

from classifier.inspectors import INSPECTORS, inspect
from classifier.inspectors.base import NOT_THIS, Answer, Chunk, Dialogue, Evidence, Stream

SAMPLES = [
    HELLO + hellos.record(hellos.chain(hellos.certificate("EX1"))),
    SERVER_HELLO + hellos.CHANGE + hellos.SECRET,
    GREETING + KEYWORDS + b"220 2.0.0 SMTP server ready\r\n" + SERVER_HELLO,
    b"EHLO a\r\nX-EXPS GSSAPI YIIB\r\nMAIL FROM:<a@b>\r\nBDAT 3\r\nabcSTARTTLS\r\n" + HELLO,
    b"+OK The Microsoft Exchange POP3 service is ready.\r\n+OK\r\n",
    b"USER a\r\nPASS b\r\nSTLS\r\n" + HELLO,
    b"* OK The Microsoft Exchange IMAP4 service is ready.\r\n* CAPABILITY IMAP4 AUTH=NTLM\r\n",
    b"1 CAPABILITY\r\n2 AUTHENTICATE NTLM\r\nTlRMTVNTUAABAAAA\r\n3 LOGIN a b\r\n",
    b"200 NNTP Service ready\r\n",
    b"MODE READER\r\nAUTHINFO PASS x\r\n",
    b"POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM TlRMTVNTUAACAAAA\r\nContent-Length: 0\r\n\r\n",
    bind(der(0xA3, der(4, b"GSS-SPNEGO"), der(4, b"\x60\x03abc"))) + search(b"CN=Configuration"),
    framed(kdc_request(0x6C, (b"SMTPSVC", b"hub"))),
    framed(kdc_answer(0x6D)),
    kdc_answer(0x6D),
    question("_ldap._tcp.gc._msdcs.contoso.com", 33),
    INVITE,
    b"SIP/2.0 302 Moved\r\nContact: <sip:um:5065>\r\nContent-Type: application/sdp\r\n\r\n" + SDP,
    *voice(2),
    CONNECT + tpkt(b"\2\xf0\x80\x0d\x20" + bytes(20)),
    PREAMBLE + b"\x09\x15application/negotiate" + nns(b"NTLMSSP\0\1\0\0\0") + nns(b"", 0x14),
    nns(b"NTLMSSP\0\1\0\0\0") + nns(b"", 0x14),
    b"{0000004c} NODEINFO (5) {38}Version: 6.0.6249 Microsoft Routing Server ready\r\n",
    *(data for pair in FOREIGN_TCP.values() for data in pair),
    *FOREIGN_UDP.values(),
]  # fmt: skip

BEGINNINGS = [
    *(line + b"\r\n" for line in (
        b"HELO a", b"LHLO a", b"STARTTLS", b"X-ANONYMOUSTLS", b"MAIL FROM:<a@b>", b"RCPT TO:<a@b>", b"354 2.0.0 Go",
        b"421 4.3.2 No", b"550 5.7.1 No", b"APOP a b", b"CAPA", b"AUTH NTLM", b"-ERR No", b"* PREAUTH IMAP4rev1",
        b"CAPABILITIES", b"IHAVE <a@b>", b"CHECK <a@b>", b"TAKETHIS <a@b>", b"GROUP a.b", b"XOVER 1-2", b"LISTGROUP a",
        b"AUTHINFO USER a", b"502 a", b"NODEINFO", b"220 a NODEINFO", b"RPC_IN_DATA /rpc/rpcproxy.dll?a:593 HTTP/1.1",
        b"RPC_CONNECT a:593 HTTP/1.1", b"FEAT", b"SYST", b"AUTH TLS", b"USER a\r\nPASS b\r\nSYST",
        b"\r\nBYE sip:a SIP/2.0",
    )),
    b"HTTP/1.1 200 OK\r\nContent-Type: application/rpc\r\n\r\n", b"B\0\0\x0b\0\0", b"\1\0\x0b\0\0\0\0\0\1",
    b"\0\0\0\x20\5\4\6\xff" + bytes(24), b"\0\0\0\x20\1\0\0\0" + bytes(24),
    b"\x80\x2e\1\3\1\0\x15\0\0\0\x10" + bytes(37),
]  # fmt: skip
"""Of alternatives that no sample begins with: commands, replies, SASL buffers of LDAP, a hello of SSL 2.0."""

transports = st.sampled_from(("tcp", "udp"))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sample with a few octets changed, or cut, or with something put into it."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data[at:at] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """A few pieces with holes between some of them."""
    pieces = draw(st.lists(st.tuples(st.integers(0, 3), st.one_of(mutated(), st.binary(max_size=80))), max_size=3))
    return stream(*pieces, started=draw(st.booleans()))


def dialogues() -> st.SearchStrategy[Dialogue]:
    ports = st.sampled_from((25, 53, 3343, 5353, 40000))
    return st.builds(Dialogue, transports, streams(), streams(), ports, ports, st.booleans())


@settings(max_examples=600, deadline=None)
@given(dialogue=dialogues())
def test_no_bytes_raise(dialogue: Dialogue) -> None:
    """Each inspector is asked about each dialogue: making one takes a hundred times as long as asking."""
    for name, ask in INSPECTORS.items():
        note(name)
        check(ask(dialogue), dialogue)


@settings(max_examples=300, deadline=None)
@given(dialogue=dialogues())
def test_all_together(dialogue: Dialogue) -> None:
    check(inspect(dialogue), dialogue)


@settings(max_examples=600, deadline=None)
@given(dialogue=dialogues())
def test_who_is_not_asked_would_have_refused(dialogue: Dialogue) -> None:
    check_who_is_not_asked(dialogue)


@pytest.mark.parametrize("octet", range(256))
def test_no_first_octet_hides_a_protocol(octet: int) -> None:
    first = bytes((octet,))
    for data in (first, *(first + sample[1:] for sample in SAMPLES), *(first + sample for sample in SAMPLES)):
        for pair in ((stream(data), stream()), (stream(), stream(data)), (stream(data), stream(data))):
            check_who_is_not_asked(Dialogue("tcp", *pair, 40000, 50000))
            check_who_is_not_asked(Dialogue("udp", *pair, 40000, 50000))


@pytest.mark.parametrize("data", BEGINNINGS, ids=lambda _: "beginning")
def test_whose_beginning_this_is_is_asked(data: bytes) -> None:
    for written in (data, data.lower()):
        for dialogue in (tcp(written), tcp(written, turned=True)):
            check_who_is_not_asked(dialogue)
    assert any(ask(tcp(data)) is not NOT_THIS for ask in INSPECTORS.values())


def test_the_samples_are_recognised() -> None:
    """Else the mutations would be of nothing."""
    for data in SAMPLES:
        kinds: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
        answers = [inspect(Dialogue(kind, stream(data), stream(), 40000, 50000)) for kind in kinds]
        assert any(isinstance(answer, Evidence) or answer is Answer.WAIT for answer in answers) or not data, data[:40]


@pytest.mark.parametrize("data", [sample for sample in SAMPLES if len(sample) > 4], ids=lambda _: "sample")
def test_a_prefix_never_says_another_protocol(data: bytes) -> None:
    """The answer to the beginning of a stream is the whole one's, or wait, or (rarely) not this: never another's."""
    whole = inspect(Dialogue("tcp", stream(data), stream(), 40000, 50000))
    for end in range(1, len(data), max(len(data) // 60, 1)):
        part = inspect(Dialogue("tcp", stream(data[:end]), stream(), 40000, 50000))
        if isinstance(part, Evidence) and isinstance(whole, Evidence):
            assert part.protocol == whole.protocol, end


def test_nothing_depends_on_a_hole_behind_what_was_read() -> None:
    """Bytes behind a hole add nothing, and take nothing away, for protocols that stop there."""
    for data in SAMPLES:
        whole = inspect(Dialogue("tcp", stream(data), stream(), 40000, 50000))
        holed = inspect(
            Dialogue("tcp", Stream((Chunk(0, data), Chunk(len(data) + 7, b"\0" * 9))), stream(), 40000, 50000)
        )
        if isinstance(whole, Evidence) and isinstance(holed, Evidence):
            assert (whole.protocol, whole.signs) == (holed.protocol, holed.signs)
