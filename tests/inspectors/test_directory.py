"""LDAP, Kerberos and DNS: what a client asks the directory for."""

from __future__ import annotations

import pytest
from inspectors import hellos
from inspectors.playbook import everything, stream, tcp, udp, values

from classifier.inspectors import dns, kerberos, ldap
from classifier.inspectors.base import NOT_THIS, WAIT, Chunk, Dialogue, Evidence, Stream


def der(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    size = len(body)
    head = bytes((size,)) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + head + body


def message(operation: bytes, number: int = 1) -> bytes:
    return der(0x30, der(2, bytes((number,))), operation)


def bind(choice: bytes, name: bytes = b"") -> bytes:
    return message(der(0x60, der(2, b"\3"), der(4, name), choice))


def search(base: bytes, rest: bytes = b"", attributes: tuple[bytes, ...] = ()) -> bytes:
    numbers = der(10, b"\2"), der(10, b"\0"), der(2, b"\0"), der(2, b"\0"), der(1, b"\0")
    return message(
        der(
            0x63, der(4, base), *numbers, rest or der(0x87, b"objectClass"), der(0x30, *(der(4, a) for a in attributes))
        )
    )


BOUND = message(der(0x61, der(10, b"\0"), der(4), der(4)))
NTLM1 = b"NTLMSSP\0\1\0\0\0\x07\x82\x08\xa2" + bytes(16)


def _ldap(client: bytes, server: bytes = b"", *, turned: bool = False) -> Evidence:
    found = ldap.inspect(tcp(client, server, turned=turned))
    assert isinstance(found, Evidence), found
    return found


@pytest.mark.parametrize(
    ("request_", "kind", "authentication"),
    [
        (bind(der(0x80, b"hunter2"), b"cn=a"), "simple", "basic"),
        (bind(der(0x80)), "anonymous", "anonymous"),
        (bind(der(0xA3, der(4, b"GSS-SPNEGO"), der(4, NTLM1))), "sasl GSS-SPNEGO", "ntlm"),
        (bind(der(0xA3, der(4, b"GSSAPI"))), "sasl GSSAPI", "kerberos"),
        (bind(der(0xA3, der(4, b"EXTERNAL"))), "sasl EXTERNAL", "certificate"),
        (bind(der(0x8A, NTLM1)), "sicily", "ntlm"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_binds(request_: bytes, kind: str, authentication: str, turned: bool) -> None:
    found = _ldap(request_, BOUND, turned=turned)
    assert values(found, "ldap.bind") == [kind]
    assert (found.authentication, found.encryption, found.reversed) == (authentication, "none", turned)
    assert "hunter2" not in everything(found)


def test_searches_name_exchange() -> None:
    base = b"CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=com"
    found = _ldap(bind(der(0x80)) + search(base, der(0xA3, der(4, b"objectClass"), der(4, b"msExchExchangeServer"))))
    assert values(found, "ldap.base-dn") == [base.decode()]
    assert values(found, "ldap.attribute") == ["msExchExchangeServer"]


def test_root_dse() -> None:
    attribute = der(0x30, der(4, b"dnsHostName"), der(0x31, der(4, b"dc1.contoso.com")))
    found = _ldap(search(b""), message(der(0x64, der(4), der(0x30, attribute))))
    assert values(found, "ldap.base-dn") == ["rootDSE"]
    assert values(found, "ldap.dnshostname") == ["dc1.contoso.com"]


@pytest.mark.parametrize(
    ("token", "protection"),
    [
        (b"\x05\x04\x06\xff" + bytes(40), "sasl-seal"),
        (b"\x05\x04\x04\xff" + bytes(40), "sasl-sign"),
        (b"\1\0\0\0" + bytes(12) + b"\x9a\xbc" + bytes(20), "sasl-seal"),
        (b"\1\0\0\0" + bytes(12) + search(b"")[:30], "sasl-sign"),
        (der(0x60, der(6, bytes.fromhex("2a864886f712010202")), b"\2\1\x11\0\x10\0\xff\xff", bytes(24)), "sasl-seal"),
    ],
)
def test_wrapped_buffers(token: bytes, protection: str) -> None:
    buffer = len(token).to_bytes(4, "big") + token
    request = bind(der(0xA3, der(4, b"GSSAPI")))
    assert _ldap(request + buffer * 2, BOUND + buffer).encryption == protection
    middle = _ldap(buffer, buffer)
    assert (middle.encryption, middle.reversed, middle.authentication) == (protection, None, "unknown-encrypted")


def test_start_tls() -> None:
    request = message(der(0x77, der(0x80, b"1.3.6.1.4.1.1466.20037")))
    answer = message(der(0x78, der(10, b"\0"), der(4), der(4)))
    found = _ldap(
        request + hellos.record(hellos.client_hello(hellos.chrome_extensions("dc1"))),
        answer + hellos.record(hellos.server_hello()),
    )
    assert (found.encryption, found.tls_sni, found.tls_version) == ("tls-upgrade", "dc1", "TLSv1.2")
    assert values(found, "ldap.starttls") == ["1.3.6.1.4.1.1466.20037"]


def test_cldap_and_what_is_not_ldap() -> None:
    found = ldap.inspect(udp([search(b"", attributes=(b"Netlogon",))], [message(der(0x64, der(4), der(0x30)))]))
    assert isinstance(found, Evidence)
    assert values(found, "ldap.attribute") == ["Netlogon"]
    assert ldap.inspect(tcp(b"\x30\x0c")) is WAIT
    assert ldap.inspect(tcp(der(0x30, der(2, b"\1"), der(4, b"public")))) is NOT_THIS


# ---- Kerberos --------------------------------------------------------------------------------


def principal(*parts: bytes) -> bytes:
    return der(0x30, der(0xA0, der(2, b"\2")), der(0xA1, der(0x30, *(der(0x1B, part) for part in parts))))


def kdc_request(tag: int, service: tuple[bytes, ...], client: bytes = b"") -> bytes:
    body = der(0xA0, der(3, b"\0\1\2\3\4")) + (der(0xA1, principal(client)) if client else b"")
    body += der(0xA2, der(0x1B, b"CONTOSO.COM")) + der(0xA3, principal(*service))
    body += der(0xA8, der(0x30, der(2, b"\x12"), der(2, b"\x17")))
    number = der(2, bytes((tag & 31,)))
    return der(tag, der(0x30, der(0xA1, der(2, b"\5")), der(0xA2, number), der(0xA4, der(0x30, body))))


def kdc_answer(tag: int) -> bytes:
    ticket = (
        der(0xA0, der(2, b"\5"))
        + der(0xA1, der(0x1B, b"CONTOSO.COM"))
        + der(0xA2, principal(b"SMTPSVC", b"hub.contoso.com"))
    )
    ticket += der(0xA3, der(0x30, der(0xA0, der(2, b"\x12"))))
    names = der(0xA3, der(0x1B, b"CONTOSO.COM")) + der(0xA4, principal(b"EX2$"))
    return der(
        tag,
        der(
            0x30,
            der(0xA0, der(2, b"\5")),
            der(0xA1, der(2, bytes((tag & 31,)))),
            names,
            der(0xA5, der(0x61, der(0x30, ticket))),
        ),
    )


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def test_kerberos_behind_a_length_that_no_message_has() -> None:
    data = framed(kdc_request(0x6C, (b"SMTPSVC", b"hub")))
    assert isinstance(kerberos.inspect(tcp(data)), Evidence)
    assert kerberos.inspect(tcp(b"\1" + data[1:])) is NOT_THIS


@pytest.mark.parametrize("turned", [False, True])
def test_kerberos(turned: bool) -> None:
    request, answer = kdc_request(0x6C, (b"SMTPSVC", b"hub.contoso.com")), kdc_answer(0x6D)
    streams = tcp(framed(request), framed(answer), turned=turned)
    datagrams = udp([answer], [request]) if turned else udp([request], [answer])
    for dialogue in (streams, datagrams):
        found = kerberos.inspect(dialogue)
        assert isinstance(found, Evidence)
        assert (found.protocol, found.reversed, found.authentication) == ("kerberos", turned, "kerberos")
        assert values(found, "kerberos.service") == ["SMTPSVC/hub.contoso.com"]
        assert values(found, "kerberos.client") == ["EX2$"]
        assert values(found, "kerberos.etype") == ["aes256-cts"]
        assert values(found, "kerberos.etype-offered") == ["aes256-cts", "rc4-hmac"]
        assert values(found, "kerberos.realm") == ["CONTOSO.COM"]


def test_kerberos_client_and_error() -> None:
    error = der(
        0x7E,
        der(
            0x30,
            der(0xA0, der(2, b"\5")),
            der(0xA1, der(2, b"\x1e")),
            der(0xA6, der(2, b"\x19")),
            der(0xA9, der(0x1B, b"C")),
        ),
    )
    found = kerberos.inspect(udp([kdc_request(0x6A, (b"krbtgt", b"CONTOSO.COM"), b"ann")], [error]))
    assert values(found, "kerberos.client") == ["ann"]
    assert values(found, "kerberos.error") == ["25"]
    assert kerberos.inspect(tcp(b"\0\0\1")) is WAIT
    assert kerberos.inspect(tcp(b"\0\0\1\0" + b"\x30" * 40)) is NOT_THIS


# ---- DNS -------------------------------------------------------------------------------------


def name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\0"


def question(asked: str, kind: int) -> bytes:
    return bytes.fromhex("123401000001000000000000") + name(asked) + kind.to_bytes(2, "big") + b"\0\1"


def answer(asked: str, kind: int, data: bytes, answered: int | None = None) -> bytes:
    record = b"\xc0\x0c" + (answered or kind).to_bytes(2, "big") + b"\0\1\0\0\0\1" + len(data).to_bytes(2, "big") + data
    return bytes.fromhex("123481800001000100000000") + name(asked) + kind.to_bytes(2, "big") + b"\0\1" + record


@pytest.mark.parametrize(
    ("asked", "kind", "data", "text"),
    [
        (
            "_ldap._tcp.GC._msdcs.contoso.com",
            33,
            b"\0\0\0\1\x0c\xc4" + name("dc1.contoso.com"),
            "SRV dc1.contoso.com:3268",
        ),
        ("_autodiscover._tcp.a.com", 33, b"\0\0\0\0\x01\xbb" + name("mail.a.com"), "SRV mail.a.com:443"),
        ("contoso.com", 15, b"\0\x0a" + name("mx.contoso.com"), "MX mx.contoso.com"),
        ("ex1.contoso.com", 1, b"\x0a\0\0\5", "A 10.0.0.5"),
        ("ex1.contoso.com", 28, bytes(15) + b"\1", "AAAA 0000:0000:0000:0000:0000:0000:0000:0001"),
    ],
)
@pytest.mark.parametrize("prefixed", [False, True])
def test_dns(asked: str, kind: int, data: bytes, text: str, prefixed: bool) -> None:
    client, server = question(asked, kind), answer(asked, kind, data)
    if prefixed:
        dialogue = tcp(len(client).to_bytes(2, "big") + client, len(server).to_bytes(2, "big") + server)
    else:
        dialogue = udp([client], [server])
    found = dns.inspect(dialogue)
    assert isinstance(found, Evidence)
    assert found.reversed is False
    assert values(found, "dns.query") == [f"{asked.lower()} {text.split()[0]}"]
    assert values(found, "dns.answer") == [f"{asked.lower()} {text}"]


def test_dns_orientation_and_cousins() -> None:
    found = dns.inspect(udp([answer("a.b", 1, b"\1\2\3\4")]))
    assert isinstance(found, Evidence)
    assert found.reversed is True
    for port, protocol in ((5353, "mdns"), (5355, "llmnr"), (53, "dns")):
        found = dns.inspect(udp([question("a.local", 1)], ports=(port, 50000)))
        assert isinstance(found, Evidence)
        assert found.protocol == protocol


@pytest.mark.parametrize("broken", [b"\xc0\x0c", b"\xc0\xff", b"\x40", b"\x3fshort", b"\3abc", b""])
def test_dns_names_that_are_none(broken: bytes) -> None:
    header = bytes.fromhex("123401000001000000000000")
    assert dns.inspect(udp([header + broken])) is NOT_THIS


def test_dns_over_tcp_waits_for_the_whole_message() -> None:
    data = question("a.b", 1)
    assert dns.inspect(tcp(len(data).to_bytes(2, "big") + data[:-2])) is WAIT
    assert dns.inspect(Dialogue("tcp", Stream((Chunk(5, data),)), stream())) is NOT_THIS
