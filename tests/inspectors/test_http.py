"""HTTP: what requests and answers say, and that bodies, holes and other protocols don't confuse it."""

from __future__ import annotations

from base64 import b64encode

import pytest
from inspectors.playbook import everything, stream, tcp, values

from classifier.inspectors import http
from classifier.inspectors.base import NOT_THIS, WAIT, Dialogue, Evidence, Stream

ASKED = b"GET / HTTP/1.1\r\n\r\n"
NTLM1 = b64encode(b"NTLMSSP\0\1\0\0\0\x07\x82\x08\xa2" + bytes(16))


def _read(client: bytes, server: bytes = b"", *, turned: bool = False) -> Evidence:
    found = http.inspect(tcp(client, server, turned=turned))
    assert isinstance(found, Evidence), found
    return found


@pytest.mark.parametrize("turned", [False, True])
def test_ews_with_basic(turned: bool) -> None:
    body = b'<s:Envelope><s:Body><m:GetUserAvailabilityRequest xmlns="x"/></s:Body></s:Envelope>'
    client = (
        b"POST /EWS/Exchange.asmx?x=1 HTTP/1.1\r\nHost: mail.contoso.com\r\nUser-Agent: ASProxy/CrossSite\r\n"
        b"Authorization: Basic Zm9vOmh1bnRlcjI=\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    server = (
        b"HTTP/1.1 200 OK\r\nServer: Microsoft-IIS/7.5\r\nX-OWA-Version: 14.3.123.3\r\nX-FEServer: EX1\r\n"
        b"Content-Type: text/xml\r\nContent-Length: 90\r\n\r\n"
        b'<h:ServerVersionInfo MajorVersion="14" MinorVersion="3" MajorBuildNumber="123" MinorBuildNumber="4"/>'
    )
    found = _read(client + body, server, turned=turned)
    assert (found.authentication, found.encryption, found.reversed) == ("basic", "none", turned)
    expected = {
        "http.method": ["POST"], "http.path": ["/EWS/Exchange.asmx"], "http.host": ["mail.contoso.com"],
        "http.user-agent": ["ASProxy/CrossSite"], "http.authorization": ["Basic"], "http.status": ["200"],
        "http.server": ["Microsoft-IIS/7.5"], "http.x-owa-version": ["14.3.123.3"], "http.x-feserver": ["EX1"],
        "http.header": ["x-owa-version", "x-feserver"], "http.soap-operation": ["GetUserAvailabilityRequest"],
        "http.server-version": ["14.3.123.4"],
    }  # fmt: skip
    assert {name: values(found, name) for name in expected} == expected
    assert "Zm9v" not in everything(found)


def test_ntlm_is_named_and_offers_are_listed() -> None:
    client = b"GET /owa/ HTTP/1.1\r\n\r\nGET /owa/ HTTP/1.1\r\nAuthorization: Negotiate " + NTLM1 + b"\r\n\r\n"
    server = (
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n"
        b'WWW-Authenticate: Bearer client_id="00000002-0000-0ff1-ce00-000000000000"\r\nContent-Length: 2\r\n\r\nno'
    )
    found = _read(client, server)
    assert found.authentication == "ntlm"
    assert values(found, "http.authenticate") == ["Negotiate", "NTLM", "Bearer"]
    assert values(found, "http.bearer-client-id") == ["00000002-0000-0ff1-ce00-000000000000"]


@pytest.mark.parametrize(
    ("request_line", "answer", "expected"),
    [
        (b"POST /owa/auth.owa HTTP/1.1", b"HTTP/1.1 302 Found\r\n\r\n", "forms"),
        (b"POST /exchweb/bin/auth/owaauth.dll HTTP/1.1", b"", "forms"),
        (b"GET / HTTP/1.1", b"HTTP/1.1 200 OK\r\n\r\n", "anonymous"),
        (b"GET / HTTP/1.1", b"HTTP/1.1 404 No\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer abc", b"", "bearer"),
        (b"GET /owa/ HTTP/1.1\r\nCookie: UserContext=1; cadata=x", b"HTTP/1.1 200 OK\r\n\r\n", "forms"),
        (b"GET /owa/ HTTP/1.1\r\nCookie: UserContext=1", b"HTTP/1.1 200 OK\r\n\r\n", None),
    ],
)
def test_authentication(request_line: bytes, answer: bytes, expected: str | None) -> None:
    assert _read(request_line + b"\r\nHost: a\r\n\r\n", answer).authentication == expected


@pytest.mark.parametrize(
    "client",
    [stream(ASKED, started=False), stream(ASKED, (9, ASKED))],
    ids=["mid-stream", "hole"],
)
def test_a_connection_that_may_have_been_proven_before_is_not_anonymous(client: Stream) -> None:
    found = http.inspect(Dialogue("tcp", client, stream(b"HTTP/1.1 200 OK\r\n\r\n")))
    assert isinstance(found, Evidence)
    assert found.authentication is None


def test_sealed_remote_shell() -> None:
    kind = b'Content-Type: multipart/encrypted;protocol="application/HTTP-Kerberos-session-encrypted";boundary="x"\r\n'
    assert _read(b"POST /wsman HTTP/1.1\r\n" + kind + b"\r\n").encryption == "sasl-seal"


def test_bodies_are_jumped_over() -> None:
    body = b"GET /no HTTP/1.1\r\n\r\n"
    client = (
        b"PUT /1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n%sPOST /2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x;x\r\n%s\r\n0\r\n\r\nGET /3 HTTP/1.1\r\n\r\n" % (len(body), body, len(body), body)
    )
    assert values(_read(client), "http.path") == ["/1", "/2", "/3"]


def test_a_hole_inside_a_body_and_one_inside_headers() -> None:
    first = b"PUT /1 HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + bytes(40)
    found = http.inspect(Dialogue("tcp", stream(first, (30, bytes(30) + b"GET /2 HTTP/1.1\r\n\r\n")), stream()))
    assert isinstance(found, Evidence)
    assert values(found, "http.path") == ["/1", "/2"]
    assert found.gap
    found = http.inspect(
        Dialogue("tcp", stream(b"GET /1 HTTP/1.1\r\nHost:", (9, b"GET /2 HTTP/1.1\r\n\r\n")), stream())
    )
    assert isinstance(found, Evidence)
    assert values(found, "http.path") == ["/1", "/2"]


def test_answers_alone_and_absolute_targets() -> None:
    assert _read(b"", b"HTTP/1.1 200 OK\r\nX-DiagInfo: EX1\r\n\r\n").reversed is False
    found = _read(b"GET http://Mail.contoso.com/owa/?a=b HTTP/1.1\r\n\r\n")
    assert values(found, "http.path") == ["/owa/"]


def test_what_is_not_http() -> None:
    assert http.inspect(tcp(b"RPC_IN_DATA /rpc/rpcproxy.dll?a:6001 HTTP/1.1\r\n\r\n")) is NOT_THIS
    assert http.inspect(tcp(b"INVITE sip:a SIP/2.0\r\n")) is NOT_THIS
    assert http.inspect(tcp(b"GET /ow")) is WAIT
    assert http.inspect(tcp(b"", b"HTT")) is WAIT
    assert http.inspect(tcp(b"EHLO a\r\n")) is NOT_THIS
    assert isinstance(http.inspect(tcp(b"GET /" + b"a" * 1000)), Evidence)
