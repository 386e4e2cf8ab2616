"""TLS: versions, names, certificates, JA4, and what is left when the beginning is missing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from inspectors import hellos
from inspectors.playbook import stream, tcp, values

from classifier.inspectors import tls
from classifier.inspectors.base import NOT_THIS, WAIT, Dialogue, Evidence


def _read(client: bytes, server: bytes = b"", *, turned: bool = False) -> Evidence:
    found = tls.inspect(tcp(client, server, turned=turned))
    assert isinstance(found, Evidence)
    return found


@pytest.mark.parametrize("turned", [False, True])
def test_tls13(turned: bool) -> None:
    client = hellos.record(hellos.client_hello(hellos.chrome_extensions("Mail.Example.com")))
    server = hellos.record(hellos.server_hello(extensions=hellos.TLS13, cipher="1301")) + hellos.CHANGE + hellos.SECRET
    found = _read(client, server, turned=turned)
    assert (found.tls_version, found.tls_sni, found.reversed) == ("TLSv1.3", "mail.example.com", turned)
    assert (found.encryption, found.authentication) == ("tls-implicit", "unknown-encrypted")
    assert values(found, "tls.cipher") == ["TLS_AES_128_GCM_SHA256"]
    assert values(found, "tls.alpn") == ["h2", "http/1.1"]


def test_ja4_is_that_of_foxios_example() -> None:
    assert _read(hellos.record(hellos.client_hello(hellos.chrome_extensions()))).ja4 == (
        "t13d1516h2_8daaf6152771_e5627efa2ab1"
    )


@pytest.mark.parametrize(
    ("extensions", "version", "beginning"),
    [
        (None, b"\3\0", "ts3i150000_8daaf6152771_000000000000"),
        (b"", b"\3\1", "t10i150000_8daaf6152771_000000000000"),
        (hellos.alpn(b"h"), b"\3\3", "t12i1501hh_8daaf6152771_000000000000"),
        (hellos.alpn(b"\xab"), b"\3\3", "t12i1501ab_8daaf6152771_000000000000"),
        (hellos.alpn(b"\x20a\x7f"), b"\3\3", "t12i15012f_8daaf6152771_000000000000"),
        (hellos.server_name("a"), b"\3\2", "t11d150100_8daaf6152771_000000000000"),
    ],
)
def test_ja4_at_its_edges(extensions: bytes | None, version: bytes, beginning: str) -> None:
    assert _read(hellos.record(hellos.client_hello(extensions, version=version))).ja4 == beginning


def test_certificates_of_both_sides() -> None:
    server = hellos.certificate("EX1", alternatives=("ex1", "ex1.contoso.com"))
    client = hellos.certificate("EDGE1", issuer="Contoso CA")
    found = _read(
        hellos.record(hellos.client_hello(b"")) + hellos.record(hellos.chain(client)),
        hellos.record(hellos.server_hello(), hellos.chain(server), hellos.message(13, b"\1\1\0\0")),
    )
    assert found.authentication == "certificate"
    assert found.tls_version == "TLSv1.2"
    assert values(found, "tls.certificate-subject") == ["CN=EX1"]
    assert values(found, "tls.certificate-san") == ["ex1", "ex1.contoso.com"]
    assert values(found, "tls.certificate-self-signed") == ["server"]
    assert values(found, "tls.client-certificate") == ["CN=EDGE1"]
    begins, ends = (values(found, f"tls.certificate-not-{end}")[0] for end in ("before", "after"))
    assert datetime.fromisoformat(ends) - datetime.fromisoformat(begins) == timedelta(days=1)


def test_an_empty_client_certificate_proves_nobody() -> None:
    assert _read(hellos.record(hellos.client_hello(b"")) + hellos.record(hellos.chain())).authentication == (
        "unknown-encrypted"
    )


@pytest.mark.parametrize("size", [1, 7, 100])
def test_messages_in_any_split_over_records(size: int) -> None:
    whole = hellos.client_hello(hellos.chrome_extensions())
    split = b"".join(hellos.record(whole[at : at + size]) for at in range(0, len(whole), size))
    assert tls.read_client_hello(next(tls.messages(split, 0))[1]) is not None


def test_hello_in_the_shape_of_ssl2() -> None:
    hello = b"\1\3\1\0\6\0\0\0\x10" + bytes.fromhex("000004010080") + bytes(16)
    data = bytes((0x80, len(hello))) + hello
    found = _read(data, hellos.record(hellos.server_hello(b"\3\1", "0004")))
    assert (found.tls_version, found.ja4, found.reversed) == ("TLSv1.0", None, False)
    assert values(found, "tls.cipher") == ["TLS_RSA_WITH_RC4_128_MD5"]
    assert tls.inspect(tcp(data[:5] + b"\0\7" + data[7:])) is NOT_THIS


def test_server_alone() -> None:
    found = _read(b"", hellos.record(hellos.server_hello(), hellos.chain(hellos.certificate("EX1"))))
    assert (found.reversed, found.tls_version, found.tls_sni) == (False, "TLSv1.2", None)


def test_from_the_middle() -> None:
    found = tls.inspect(tcp(hellos.SECRET * 2, hellos.SECRET, turned=True))
    assert isinstance(found, Evidence)
    assert (found.reversed, found.authentication) == (None, "unknown-encrypted")
    assert tls.inspect(tcp(hellos.SECRET)) is WAIT
    assert tls.inspect(tcp(hellos.SECRET + b"\x17\x03\x03\xff\xff")) is NOT_THIS
    assert tls.inspect(tcp(hellos.SECRET, b"220 not this\r\n")) is NOT_THIS


def test_too_short() -> None:
    assert tls.inspect(tcp(b"\x16\3\1")) is WAIT
    assert tls.inspect(tcp(b"\x16\1\0")) is NOT_THIS
    assert tls.inspect(tcp(b"GET / HTTP/1.1\r\n")) is NOT_THIS


def test_a_hole_is_told_and_what_was_before_it_is_kept() -> None:
    hello = hellos.record(hellos.client_hello(hellos.chrome_extensions()))
    found = tls.inspect(Dialogue("tcp", stream(hello), stream(hellos.record(hellos.server_hello())[:20], (5, b"rest"))))
    assert isinstance(found, Evidence)
    assert found.gap
    assert found.tls_sni == "mail.example.com"


def test_a_broken_certificate_is_none() -> None:
    found = _read(
        hellos.record(hellos.client_hello(b"")), hellos.record(hellos.server_hello(), hellos.chain(b"\x30\3abc"))
    )
    assert values(found, "tls.certificate-subject") == []
