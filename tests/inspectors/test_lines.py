"""SMTP, POP3, IMAP4 and NNTP: transcripts in, evidence out."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

import pytest
from inspectors import hellos
from inspectors.playbook import everything, stream, tcp, values

from classifier.inspectors import imap4, inspect, link_state, nntp, pop3, smtp
from classifier.inspectors.base import NOT_THIS, WAIT, Dialogue, Evidence

HELLO = hellos.record(hellos.client_hello(hellos.chrome_extensions("ex1.contoso.com")))
SERVER_HELLO = hellos.record(hellos.server_hello(), hellos.chain(hellos.certificate("EX1")))
NTLM1 = b64encode(b"NTLMSSP\0\1\0\0\0\x07\x82\x08\xa2" + bytes(16))
GREETING = b"220 ex1.contoso.com Microsoft ESMTP MAIL Service ready at Mon, 1 Jan 2024 00:00:00 +0000\r\n"
KEYWORDS = (
    b"250-ex1.contoso.com Hello [10.0.0.5]\r\n250-SIZE 10485760\r\n250-STARTTLS\r\n250-X-ANONYMOUSTLS\r\n"
    b"250-X-EXPS GSSAPI NTLM\r\n250-XEXCH50\r\n250-XRDST\r\n250 XSHADOW\r\n"
)


def _smtp(client: bytes, server: bytes, *, turned: bool = False) -> Evidence:
    found = smtp.inspect(tcp(client, server, turned=turned))
    assert isinstance(found, Evidence), found
    return found


@pytest.mark.parametrize("turned", [False, True])
def test_x_anonymoustls(turned: bool) -> None:
    client = b"EHLO ex2.contoso.com\r\nX-ANONYMOUSTLS\r\n" + HELLO
    server = GREETING + KEYWORDS + b"220 2.0.0 SMTP server ready\r\n" + SERVER_HELLO
    found = _smtp(client, server, turned=turned)
    assert (found.authentication, found.encryption, found.reversed) == ("exchange-server", "tls-upgrade", turned)
    assert (found.tls_version, found.tls_sni, found.ja4) == (
        "TLSv1.2", "ex1.contoso.com", "t13d1516h2_8daaf6152771_e5627efa2ab1",
    )  # fmt: skip
    assert values(found, "smtp.command") == ["EHLO", "X-ANONYMOUSTLS"]
    assert values(found, "smtp.helo") == ["ex2.contoso.com"]
    assert values(found, "smtp.ehlo") == [
        "SIZE 10485760", "STARTTLS", "X-ANONYMOUSTLS", "X-EXPS GSSAPI NTLM", "XEXCH50", "XRDST", "XSHADOW",
    ]  # fmt: skip
    assert values(found, "smtp.banner")[0].startswith("ex1.contoso.com Microsoft ESMTP MAIL Service ready at ")
    assert values(found, "tls.certificate-self-signed") == ["server"]


def test_starttls_with_certificates_of_both_sides_is_direct_trust() -> None:
    client = b"EHLO edge\r\nSTARTTLS\r\n" + HELLO + hellos.record(hellos.chain(hellos.certificate("EDGE1")))
    found = _smtp(client, GREETING + KEYWORDS + b"220 2.0.0 SMTP server ready\r\n" + SERVER_HELLO)
    assert (found.authentication, found.encryption) == ("direct-trust", "tls-upgrade")


def test_a_refused_upgrade_is_none() -> None:
    found = _smtp(b"EHLO a\r\nSTARTTLS\r\nMAIL FROM:<a@Foreign.example>\r\n", GREETING + KEYWORDS + b"454 4.7.0 no\r\n")
    assert (found.authentication, found.encryption) == ("anonymous", "none")
    assert values(found, "smtp.mail-from-domain") == ["foreign.example"]


def test_x_exps_in_clear_is_named_by_its_token() -> None:
    client = b"EHLO ex2\r\nX-EXPS NTLM " + NTLM1 + b"\r\n"
    assert _smtp(client, GREETING + KEYWORDS).authentication == "ntlm"
    assert _smtp(b"EHLO ex2\r\nX-EXPS GSSAPI\r\n", GREETING).authentication == "kerberos"
    found = _smtp(b"EHLO ex2\r\nX-EXPS EXCHANGEAUTH SHA256 abcd\r\n", GREETING)
    assert found.authentication == "exchange-server"
    assert "X-EXPS EXCHANGEAUTH" in values(found, "smtp.command")


def test_secrets_stay_out() -> None:
    """Also where a secret looks like a verb: base64 lines are upper case letters now and then."""
    client = b"EHLO a\r\nAUTH LOGIN\r\ndXNlcg==\r\nXSECRETPASS\r\nAUTH PLAIN AGZvbwBiYXI=\r\nMAIL FROM:<a@b.c>\r\n"
    server = GREETING + KEYWORDS + b"334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 2.7.0 ok\r\n"
    found = _smtp(client, server)
    assert found.authentication == "basic"
    assert not any(secret in everything(found) for secret in ("dXNlcg", "SECRET", "AGZv", "bar"))
    assert values(found, "smtp.command") == ["EHLO", "AUTH LOGIN", "AUTH PLAIN", "MAIL"]


def test_contents_are_jumped_over() -> None:
    mail = b"Received: from ex2 (10.0.0.2) by\r\n ex1.contoso.com with Microsoft SMTP Server (TLS) id 14.3.123.3;"
    client = (
        b"EHLO a\r\nMAIL FROM:<a@b.c>\r\nDATA\r\n" + mail + b"\r\n\r\nXSHADOW\r\n.\r\nBDAT 10 LAST\r\nEHLO wrong"
        b"XEXCH50 4 1\r\nXYZ\nQUIT\r\n"
    )
    server = (
        GREETING + KEYWORDS + b"250 2.6.0 <1@x> [InternalId=5, Hostname=EX3.contoso.com] Queued mail for delivery\r\n"
    )
    found = _smtp(client, server)
    assert values(found, "smtp.command") == ["EHLO", "MAIL", "DATA", "BDAT", "XEXCH50", "QUIT"]
    assert values(found, "smtp.queued") == ["EX3.contoso.com"]
    assert values(found, "smtp.received") == ["Microsoft SMTP Server id 14.3.123.3"]


@pytest.mark.parametrize(
    ("banner", "what"),
    [
        (b"220 a ESMTP Server (Microsoft Exchange Internet Mail Service 5.5.2653.13) ready\r\n", "5.5"),
        (b"220 a Microsoft ESMTP MAIL Service, Version: 6.0.3790.4675 ready at Mon\r\n", "2003"),
        (b"220 mx.example ESMTP Postfix\r\n", "foreign"),
    ],
)
def test_greeting_alone(banner: bytes, what: str) -> None:
    assert values(_smtp(b"", banner), "smtp.banner") == [banner[4:].strip().decode()]


def test_2003_words() -> None:
    server = (
        b"220 be1 Microsoft ESMTP MAIL Service, Version: 6.0.3790.0 ready\r\n250-be1 Hello\r\n250-8bitmime\r\n"
        b"250-X-EXPS GSSAPI NTLM LOGIN\r\n250-X-EXPS=LOGIN\r\n250-X-LINK2STATE\r\n250-XEXCH50\r\n250 OK\r\n"
    )
    found = _smtp(b"EHLO fe\r\nX-LINK2STATE LAST CHUNK={abc}\r\n", server)
    assert "X-LINK2STATE" in values(found, "smtp.ehlo")
    assert "X-LINK2STATE LAST" in values(found, "smtp.command")


def test_smtp_of_one_direction_or_from_the_middle() -> None:
    assert _smtp(b"EHLO a\r\nMAIL FROM:<a@b.c>\r\n", b"").reversed is False
    assert _smtp(b"", b"250 2.1.0 Sender OK\r\n250 2.1.5 Recipient OK\r\n").reversed is False
    found = _smtp(b"", b"220 2.0.0 SMTP server ready\r\n" + SERVER_HELLO)
    assert found.encryption == "tls-upgrade"


def test_what_is_not_smtp() -> None:
    assert smtp.inspect(tcp(b"USER a\r\n", b"220 host ready\r\n331 ok\r\n")) is NOT_THIS
    assert smtp.inspect(tcp(b"", b"220 host ready\r\n")) is WAIT
    assert smtp.inspect(tcp(b"", b"22")) is WAIT
    assert smtp.inspect(tcp(b"", b"HTTP/1.1 200 OK\r\n")) is NOT_THIS
    assert smtp.inspect(tcp(b"GET / HTTP/1.1\r\n", b"220 x SMTP\r\n".replace(b"SMTP", b"y"))) is NOT_THIS


def test_a_hole_in_smtp() -> None:
    found = smtp.inspect(Dialogue("tcp", stream(b"EHLO a\r\nMAIL FR", (10, b"DATA\r\n")), stream(GREETING)))
    assert isinstance(found, Evidence)
    assert found.gap
    assert values(found, "smtp.command") == ["EHLO"]


# ---- POP3, IMAP4, NNTP -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "greeting",
    [
        "Microsoft Exchange POP3 server version 5.5.2653.23 ready",
        "Microsoft Exchange Server 2003 POP3 server version 6.5.7638.1 ex1.contoso.com ready.",
        "Microsoft Exchange Server 2007 POP3 service ready",
        "The Microsoft Exchange POP3 service is ready. [TQBXAA==]",
    ],
)
def test_pop3_greeting_and_login(greeting: str) -> None:
    client = b"USER contoso\\ann\r\nPASS hunter2\r\nSTAT\r\nQUIT\r\n"
    found = pop3.inspect(tcp(client, f"+OK {greeting}\r\n+OK\r\n-ERR Logon failure\r\n".encode(), turned=True))
    assert isinstance(found, Evidence)
    assert (found.reversed, found.authentication, found.encryption) == (True, "basic", "none")
    assert values(found, "pop3.greeting") == [greeting]
    assert "hunter2" not in everything(found)


def test_pop3_stls_and_ntlm() -> None:
    found = pop3.inspect(
        tcp(b"CAPA\r\nSTLS\r\n" + HELLO, b"+OK ready\r\n+OK\r\nSTLS\r\n.\r\n+OK Begin\r\n" + SERVER_HELLO)
    )
    assert isinstance(found, Evidence)
    assert (found.encryption, found.authentication, found.tls_sni) == (
        "tls-upgrade", "unknown-encrypted", "ex1.contoso.com",
    )  # fmt: skip
    found = pop3.inspect(tcp(b"AUTH NTLM\r\n" + NTLM1 + b"\r\n", b"+OK ready\r\n+ \r\n"))
    assert isinstance(found, Evidence)
    assert found.authentication == "ntlm"


def test_pop3_is_neither_ftp_nor_nothing() -> None:
    assert pop3.inspect(tcp(b"USER a\r\nPASS b\r\n", b"220 ftp\r\n331 ok\r\n")) is NOT_THIS
    assert pop3.inspect(tcp(b"USER a\r\nPASS b\r\n")) is WAIT
    assert pop3.inspect(tcp(b"", b"+OK")) is WAIT


@pytest.mark.parametrize("turned", [False, True])
def test_imap4(turned: bool) -> None:
    server = (
        b"* OK The Microsoft Exchange IMAP4 service is ready.\r\n* CAPABILITY IMAP4 IMAP4rev1 AUTH=NTLM STARTTLS\r\n"
    )
    found = imap4.inspect(tcp(b"1 CAPABILITY\r\n2 LOGIN ann hunter2\r\n", server, turned=turned))
    assert isinstance(found, Evidence)
    assert (found.reversed, found.authentication) == (turned, "basic")
    assert values(found, "imap4.greeting") == ["OK The Microsoft Exchange IMAP4 service is ready."]
    assert values(found, "imap4.capability") == ["IMAP4", "IMAP4rev1", "AUTH=NTLM", "STARTTLS"]
    assert "hunter2" not in everything(found)


def test_imap4_upgrade_tokens_and_halves() -> None:
    found = imap4.inspect(tcp(b"a STARTTLS\r\n" + HELLO, b"* OK ready\r\na OK begin\r\n" + SERVER_HELLO))
    assert isinstance(found, Evidence)
    assert found.encryption == "tls-upgrade"
    found = imap4.inspect(tcp(b"a AUTHENTICATE NTLM\r\n" + NTLM1 + b"\r\n", b""))
    assert isinstance(found, Evidence)
    assert (found.authentication, found.reversed) == ("ntlm", False)
    assert imap4.inspect(tcp(b"", b"* 12 EXISTS\r\n")) is not NOT_THIS
    assert imap4.inspect(tcp(b"", b"* star\r\n")) is NOT_THIS


def test_nntp() -> None:
    found = nntp.inspect(
        tcp(b"MODE READER\r\nAUTHINFO USER a\r\nAUTHINFO PASS hunter2\r\n", b"200 NNTP Service 6.0.3790.0\r\n")
    )
    assert isinstance(found, Evidence)
    assert found.authentication == "basic"
    assert values(found, "nntp.greeting") == ["200 NNTP Service 6.0.3790.0"]
    assert "hunter2" not in everything(found)
    assert nntp.inspect(tcp(b"EHLO a\r\n", b"220 mx ESMTP\r\n")) is NOT_THIS


def test_link_state() -> None:
    greeting = b"{0000004c} NODEINFO (5) {38}Version: 6.0.6249 Microsoft Routing Server ready\r\n  "
    for turned in (False, True):
        found = link_state.inspect(tcp(b"", greeting, turned=turned))
        assert isinstance(found, Evidence)
        assert found.reversed is turned
        assert values(found, "link-state.greeting")[0].endswith("Microsoft Routing Server ready")
    assert link_state.inspect(tcp(b"", greeting[:30])) is WAIT


@pytest.mark.parametrize("ask", [smtp.inspect, pop3.inspect, imap4.inspect, nntp.inspect])
def test_other_text_is_refused(ask: Callable[[Dialogue], object]) -> None:
    for client, server in (
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"\0" * 40, b"\1" * 40),
    ):
        assert ask(tcp(client, server)) is NOT_THIS


def test_a_protocol_is_known_on_any_port() -> None:
    found = inspect(tcp(b"EHLO a\r\n", GREETING, port=135))
    assert isinstance(found, Evidence)
    assert found.protocol == "smtp"
