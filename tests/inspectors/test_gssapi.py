"""Tokens: mechanisms and names in clear, and nothing that bytes could do to the reader."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier import limits
from classifier.inspectors import gssapi

SPNEGO = bytes.fromhex("2b0601050502")
KERBEROS = bytes.fromhex("2a864886f712010202")
MS_KERBEROS = bytes.fromhex("2a864882f712010202")
NTLM = bytes.fromhex("2b06010401823702020a")


def der(tag, *contents):
    data = b"".join(contents)
    size = bytes([len(data)]) if len(data) < 128 else b"\x82" + struct.pack(">H", len(data))
    return bytes([tag]) + size + data


def ap_req(realm=b"EXAMPLE.COM", names=(b"exchangeMDB", b"mail.example.com"), etype=18):
    sname = der(0x30, der(0xA0, der(2, b"\2")), der(0xA1, der(0x30, *(der(0x1B, name) for name in names))))
    sealed = der(0x30, der(0xA0, der(2, bytes([etype]))), der(0xA2, der(4, bytes(200))))
    ticket = der(
        0x61, der(0x30, der(0xA0, der(2, b"\5")), der(0xA1, der(0x1B, realm)), der(0xA2, sname), der(0xA3, sealed))
    )
    parts = der(0xA0, der(2, b"\5")), der(0xA1, der(2, b"\x0e")), der(0xA2, der(3, bytes(5))), der(0xA3, ticket)
    return der(0x6E, der(0x30, *parts))


def framed(oid, inner):
    return der(0x60, der(6, oid), inner)


def init(mechanisms, token):
    listed = der(0x30, *(der(6, oid) for oid in mechanisms))
    return framed(SPNEGO, der(0xA0, der(0x30, der(0xA0, listed), der(0xA2, der(4, token)))))


def authenticate(user="alice", domain="EXAMPLE", workstation="OUTLOOK1"):
    fixed, payload, fields = 72, b"", b""
    for text in ("", "", domain, user, workstation, ""):
        raw = text.encode("utf-16-le")
        fields += struct.pack("<HHI", len(raw), len(raw), fixed + len(payload))
        payload += raw
    return b"NTLMSSP\0" + struct.pack("<I", 3) + fields + struct.pack("<I", 1) + bytes(8) + payload


def signs(token):
    return dict(token.signs)


def test_kerberos_in_spnego():
    token = gssapi.read_token(init([MS_KERBEROS, KERBEROS, NTLM], framed(KERBEROS, b"\1\0" + ap_req())))
    assert (token.mechanism, token.chosen, token.offered) == ("kerberos", None, ("kerberos", "kerberos", "ntlm"))
    assert signs(token) == {
        "kerberos.service": "exchangeMDB/mail.example.com",
        "kerberos.realm": "EXAMPLE.COM",
        "kerberos.etype": "aes256-cts",
    }


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: framed(KERBEROS, b"\1\0" + inner)])
def test_kerberos_bare(wrap):
    assert signs(gssapi.read_token(wrap(ap_req(etype=23))))["kerberos.etype"] == "rc4-hmac"


def test_names_of_an_ntlm_authenticate():
    token = gssapi.read_token(authenticate())
    assert token.mechanism == "ntlm"
    assert signs(token) == {"ntlm.user": "alice", "ntlm.domain": "EXAMPLE", "ntlm.workstation": "OUTLOOK1"}


def test_names_cut_off_are_not_given_in_part():
    assert "ntlm.workstation" not in signs(gssapi.read_token(authenticate()[:-3]))


def test_names_of_an_ntlm_challenge():
    info = b"".join(
        struct.pack("<HH", kind, 2 * len(name)) + name.encode("utf-16-le")
        for kind, name in ((2, "EXAMPLE"), (1, "MAIL"), (4, "example.com"), (3, "mail.example.com"), (0, ""))
    )
    data = b"NTLMSSP\0" + struct.pack("<IHHII", 2, 0, 0, 56, 1) + bytes(16)
    data += struct.pack("<HHI", len(info), len(info), 56) + bytes(8) + info
    assert signs(gssapi.read_token(data)) == {
        "ntlm.server-domain": "EXAMPLE",
        "ntlm.server": "MAIL",
        "ntlm.server-dns-domain": "example.com",
        "ntlm.server-dns": "mail.example.com",
    }


def test_the_server_settles_the_mechanism():
    first = gssapi.read_token(init([KERBEROS, NTLM], framed(KERBEROS, b"\1\0" + ap_req())))
    answer = gssapi.read_token(der(0xA1, der(0x30, der(0xA0, der(10, b"\1")), der(0xA1, der(6, NTLM)))))
    assert gssapi.settle([first]) == "kerberos"
    assert gssapi.settle([first, answer]) == "ntlm"
    assert gssapi.settle([]) is None


def test_a_token_that_is_too_large_is_left_alone():
    assert gssapi.read_token(gssapi.NTLM_MAGIC + bytes(limits.MAX_TOKEN)) == gssapi.NOTHING


def test_spnego_in_spnego_ends():
    token = b""
    for _ in range(3000):
        token = init([NTLM], token)[:60000]
    gssapi.read_token(token)


@given(st.binary(max_size=300))
def test_no_bytes_raise(data):
    for magic in (b"", gssapi.NTLM_MAGIC, b"\x60", b"\xa0", b"\xa1", b"\x6e"):
        gssapi.read_token(magic + data)


@given(
    st.sampled_from([init([NTLM], authenticate()), init([KERBEROS], framed(KERBEROS, b"\1\0" + ap_req()))]),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=6),
    st.integers(0, 500),
)
def test_changed_and_cut_tokens_never_raise(token, changes, size):
    data = bytearray(token)
    for at, value in changes:
        data[at % len(data)] = value
    gssapi.read_token(bytes(data)[:size])


def test_a_kerberos_ticket_written_by_impacket():
    asn1 = pytest.importorskip("impacket.krb5.asn1")
    encoder = pytest.importorskip("pyasn1.codec.der.encoder")
    request = asn1.AP_REQ()
    request["pvno"], request["msg-type"], request["ap-options"] = 5, 14, "0" * 32
    request["ticket"]["tkt-vno"], request["ticket"]["realm"] = 5, "EXAMPLE.COM"
    request["ticket"]["sname"]["name-type"] = 2
    request["ticket"]["sname"]["name-string"].extend(["ldap", "dc1"])
    request["ticket"]["enc-part"]["etype"], request["ticket"]["enc-part"]["cipher"] = 17, bytes(30)
    request["authenticator"]["etype"], request["authenticator"]["cipher"] = 17, bytes(30)
    assert signs(gssapi.read_token(encoder.encode(request))) == {
        "kerberos.service": "ldap/dc1",
        "kerberos.realm": "EXAMPLE.COM",
        "kerberos.etype": "aes128-cts",
    }
