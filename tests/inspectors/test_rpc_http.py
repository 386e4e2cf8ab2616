"""RPC over HTTP in clear: each connection alone, and both together."""

from __future__ import annotations

import struct
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspectors.rpc_writer import EMSMDB, NDR32, ack, bind, dialogue, pdu, request, response, stream, with_hole

from classifier.inspectors import rpc_http
from classifier.inspectors.base import NOT_THIS, WAIT, Chunk, Dialogue, Side, Stream

COOKIE, CHANNEL = bytes(range(16)), bytes(16)
NAMED = "03020100-0504-0706-0809-0a0b0c0d0e0f"
PATH = b"/rpc/rpcproxy.dll?mail.example.com:6001"


def rts(*commands, flags=0):
    return pdu(20, struct.pack("<HH", flags, len(commands)) + b"".join(commands), 0)


def command(kind, data=b""):
    return struct.pack("<I", kind) + data


NUMBER = struct.pack("<I", 1)
A1 = rts(command(6, NUMBER), command(3, COOKIE), command(3, CHANNEL), command(0, NUMBER))
B1 = rts(
    command(6, NUMBER),
    command(3, COOKIE),
    command(3, CHANNEL),
    command(4, NUMBER),
    command(5, NUMBER),
    command(12, CHANNEL),
)
A3 = rts(command(2, NUMBER))
C2 = rts(command(6, NUMBER), command(0, NUMBER), command(2, NUMBER))


def ask(method, length, path=PATH, more=b""):
    return (
        method
        + b" "
        + path
        + b" HTTP/1.1\r\nHost: owa.example.com\r\nUser-Agent: MSRPC\r\n"
        + more
        + b"Content-Length: %d\r\n\r\n" % length
    )


def answer(length=1 << 30):
    return b"HTTP/1.1 200 Success\r\nContent-Type: application/rpc\r\nContent-Length: %d\r\n\r\n" % length


def chunked(*pieces):
    coded = b"".join(b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces)
    return b"HTTP/1.1 200 Success\r\nContent-Type: application/rpc\r\nTransfer-Encoding: chunked\r\n\r\n" + coded


CALLS = [bind([(0, EMSMDB, "0.81", [NDR32])], call=2), request(11, bytes(40), call=3)]
ANSWERS = [ack([(0, NDR32)], call=2, address=b"6001"), response(bytes(40), call=3)]
INWARD = dialogue([ask(b"RPC_IN_DATA", 1 << 30), B1, *CALLS], [])
OUTWARD = dialogue([ask(b"RPC_OUT_DATA", len(A1)), A1], [answer(), A3, C2, *ANSWERS])


def signs(evidence, field):
    return [sign.value for sign in evidence.signs if sign.field == field]


def interfaces(evidence):
    return [(item.uuid, item.version, item.accepted, item.via) for item in evidence.interfaces]


def test_the_in_channel_alone():
    found = rpc_http.inspect(INWARD)
    assert (found.protocol, found.reversed) == ("rpc-over-http", False)
    assert interfaces(found) == [(EMSMDB, "0.81", None, "http")]
    assert found.interfaces[0].place.offset == len(ask(b"RPC_IN_DATA", 1 << 30)) + len(B1)
    assert found.virtual_connection == NAMED
    assert signs(found, "rpc.virtual-connection") == [NAMED]
    assert signs(found, "rpc.rts") == ["CONN/B1"]
    assert signs(found, "http.method") == ["RPC_IN_DATA"]
    assert signs(found, "http.path") == ["/rpc/rpcproxy.dll"]
    assert signs(found, "http.host") == ["owa.example.com"]
    (handout,) = found.handouts
    assert (handout.kind, handout.transport, handout.host, handout.port) == (
        "rpc-proxy",
        "http",
        "mail.example.com",
        6001,
    )


@pytest.mark.parametrize(
    "body", [answer() + A3 + C2 + b"".join(ANSWERS), chunked(A3 + C2, ANSWERS[0][:20], ANSWERS[0][20:], ANSWERS[1])]
)
def test_the_out_channel_alone(body):
    found = rpc_http.inspect(dialogue([ask(b"RPC_OUT_DATA", len(A1)), A1], [body]))
    assert interfaces(found) == []
    assert found.virtual_connection == NAMED
    assert signs(found, "rpc.rts") == ["CONN/A1", "CONN/A3", "CONN/C2"]
    assert [(item.kind, item.port) for item in found.handouts] == [("rpc-proxy", 6001), ("secondary-address", 6001)]


@pytest.mark.parametrize("in_first", [True, False])
def test_both_together(in_first):
    inward, outward = rpc_http.inspect(INWARD), rpc_http.inspect(OUTWARD)
    joined = rpc_http.join(inward, outward) if in_first else rpc_http.join(outward, inward)[::-1]
    for found in joined:
        assert interfaces(found) == [(EMSMDB, "0.81", True, "http")]
        assert ("rpc-proxy", 6001, EMSMDB) in {(item.kind, item.port, item.uuid) for item in found.handouts}
    assert joined[0].interfaces[0].place == inward.interfaces[0].place
    assert signs(joined[0], "http.method") == ["RPC_IN_DATA"]
    assert signs(joined[1], "http.method") == ["RPC_OUT_DATA"]
    assert joined[1].handouts[-1].place.side is Side.TO_CLIENT


def test_strangers_are_not_joined():
    other = rpc_http.inspect(dialogue([ask(b"RPC_OUT_DATA", len(A1)), A1.replace(COOKIE, CHANNEL)], [answer()]))
    inward = rpc_http.inspect(INWARD)
    assert rpc_http.join(inward, other) == (inward, other)
    assert rpc_http.join(inward, inward) == (inward, inward)


def test_the_refused_attempt_before_is_passed_over():
    token = b64encode(b"NTLMSSP\0\3\0\0\0" + bytes(60))
    refused = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 5\r\n\r\nnever"
    asked = [
        ask(b"RPC_IN_DATA", 0),
        ask(b"RPC_IN_DATA", 1 << 30, more=b"Authorization: NTLM " + token + b"\r\n"),
        B1,
        *CALLS,
    ]
    found = rpc_http.inspect(dialogue(asked, [refused]))
    assert found.authentication == "ntlm"
    assert [item[0] for item in interfaces(found)] == [EMSMDB]


def test_basic_is_told_but_never_kept():
    found = rpc_http.inspect(dialogue([ask(b"RPC_IN_DATA", 9, more=b"Authorization: Basic YWxpY2U6c2VjcmV0\r\n")], []))
    assert (found.authentication, found.encryption) == ("basic", "none")
    assert not any("secret" in sign.value or "YWxp" in sign.value for sign in found.signs)


@pytest.mark.parametrize("path", [b"/rpcwithcert/rpcproxy.dll?3f0c@example.com:6004", b"/rpc/rpcproxy.dll?mail:6004"])
def test_proxy_paths(path):
    found = rpc_http.inspect(dialogue([ask(b"RPC_IN_DATA", 9, path)], []))
    assert [item.port for item in found.handouts] == [6004]


@pytest.mark.parametrize("path", [b"/rpc/rpcproxy.dll", b"/rpc/rpcproxy.dll?mail:99999", b"/rpc/rpcproxy.dll?mail:"])
def test_paths_without_a_target(path):
    assert rpc_http.inspect(dialogue([ask(b"RPC_IN_DATA", 9, path)], [])).handouts == ()


def test_version_1_goes_both_ways_on_one_connection():
    asked = [b"RPC_CONNECT mail.example.com:6001 HTTP/1.1\r\n\r\n", *CALLS]
    told = [b"HTTP/1.1 200 Connection established\r\n\r\n", b"ncacn_http/1.0", *ANSWERS]
    found = rpc_http.inspect(dialogue(asked, told))
    assert interfaces(found) == [(EMSMDB, "0.81", True, "http")]
    assert ("rpc-proxy", 6001, EMSMDB) in {(item.kind, item.port, item.uuid) for item in found.handouts}


def test_the_verbs_tell_the_client():
    found = rpc_http.inspect(Dialogue("tcp", OUTWARD.to_client, OUTWARD.to_server, oriented=False))
    assert found.reversed is True


@pytest.mark.parametrize("head", [b"R", b"RPC_", b"RPC_IN_DAT"])
def test_a_verb_begun(head):
    assert rpc_http.inspect(dialogue([head], [])) is WAIT


def test_other_http():
    assert rpc_http.inspect(dialogue([b"GET / HTTP/1.1\r\n\r\n"], [b"HTTP/1.1 200 OK\r\n\r\n"])) is NOT_THIS


@given(st.integers(0, 500), st.integers(1, 200))
def test_holes_never_raise_or_invent(start, length):
    found = rpc_http.inspect(Dialogue("tcp", with_hole(INWARD.to_server, start, start + length), Stream()))
    if found not in (NOT_THIS, WAIT):
        assert {item[0] for item in interfaces(found)} <= {EMSMDB}


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise(data, as_body):
    head = ask(b"RPC_OUT_DATA", 10) if as_body else b"RPC_IN_DATA "
    rpc_http.inspect(Dialogue("tcp", stream(head, data), Stream((Chunk(0, chunked() + data),))))
