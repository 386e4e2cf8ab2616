""".NET NegotiateStream, bare or inside .NET message framing, with scapy's SPNEGO and NTLM: a server and a client.

    python -m captures.lab.programs.nego_stream serve ADDRESS PORT[:VIA]...
    python -m captures.lab.programs.nego_stream ask SERVER PORT[:VIA]

With VIA a preamble comes first, which asks for the upgrade (MC-NMF 2.2.3); without, the handshake at once (MS-NNS
2.2.1). Then sealed messages (2.2.2) go both ways. The account is alice's. The server prints one JSON object for each
connection that it served: `{"client": [address, port], "port": port}`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
from typing import Any, BinaryIO

from scapy.layers.gssapi import GSS_C_FLAGS, GSS_S_COMPLETE, GSSAPI_BLOB
from scapy.layers.ntlm import NTLMSSP, MD4le
from scapy.layers.spnego import SPNEGOSSP

DONE, IN_PROGRESS = 0x14, 0x16
PASSWORD, DOMAIN = "not-a-secret", "example.test"
PREAMBLE = b"\x00\x01\x00\x01\x02\x02"
"""Version 1.0, mode duplex, then the record of the Via."""
UPGRADE, UPGRADED = b"\x09", b"\x0a"
NEGOTIATE = b"application/negotiate"
SIZES = (320, 2_400, 90)
WISHES = (
    GSS_C_FLAGS.GSS_C_MUTUAL_FLAG | GSS_C_FLAGS.GSS_C_REPLAY_FLAG | GSS_C_FLAGS.GSS_C_SEQUENCE_FLAG
    | GSS_C_FLAGS.GSS_C_INTEG_FLAG | GSS_C_FLAGS.GSS_C_CONF_FLAG
)  # fmt: skip


class Stream:
    """One side of a connection: handshake frames, then sealed messages."""

    def __init__(self, connection: socket.socket, package: Any, *, accepts: bool) -> None:
        self.connection, self.package, self.accepts = connection, package, accepts
        self.file: BinaryIO = connection.makefile("rb")
        self.context: Any = None

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise SystemExit("the other side hung up")
        return data

    def step(self, token: bytes | None) -> tuple[bytes, bool]:
        """Feed the package; its answer, and whether it is done."""
        blob = GSSAPI_BLOB(token) if token else None
        if self.accepts:
            self.context, answer, status = self.package.GSS_Accept_sec_context(self.context, blob)
        else:
            self.context, answer, status = self.package.GSS_Init_sec_context(self.context, blob, req_flags=WISHES)
        return bytes(answer) if answer else b"", status == GSS_S_COMPLETE

    def shake_hands(self) -> None:
        """The client speaks first; who is done says so with its last token, and the other side needs no more words."""
        done = False
        if not self.accepts:
            token, done = self.step(None)
            self.say(IN_PROGRESS, token)
        while not done:
            kind, received = self.hear()
            token, done = self.step(received)
            if token or kind != DONE:
                self.say(DONE if done else IN_PROGRESS, token)

    def say(self, kind: int, token: bytes) -> None:
        self.connection.sendall(struct.pack(">BBBH", kind, 1, 0, len(token)) + token)

    def hear(self) -> tuple[int, bytes]:
        kind, _, _, size = struct.unpack(">BBBH", self.read(5))
        return kind, self.read(size)

    def send(self, data: bytes) -> None:
        sealed = bytes(self.package.GSS_Wrap(self.context, data, True))
        self.connection.sendall(struct.pack("<I", len(sealed)) + sealed)

    def receive(self) -> bytes:
        return self.read(struct.unpack("<I", self.read(4))[0])


def serve(address: str, *services: str) -> None:
    """Serve for ever, a thread for each port and connection."""
    for service in services:
        port, _, via = service.partition(":")
        listener = socket.create_server((address, int(port)))
        threading.Thread(target=accept, args=(listener, int(port), bool(via))).start()


def accept(listener: socket.socket, port: int, framed: bool) -> None:
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=attend, args=(connection, peer, port, framed), daemon=True).start()


def attend(connection: socket.socket, peer: tuple[str, int], port: int, framed: bool) -> None:
    package = SPNEGOSSP([NTLMSSP(IDENTITIES={"alice": MD4le(PASSWORD)}, DOMAIN_FQDN=DOMAIN, DOMAIN_NB_NAME="EXAMPLE")])
    stream = Stream(connection, package, accepts=True)
    if framed:
        head = stream.read(len(PREAMBLE) + 1)
        stream.read(head[-1] + 2)  # the Via, and the record of the encoding
        stream.read(2 + len(NEGOTIATE))
        connection.sendall(UPGRADED)
    stream.shake_hands()
    for size in SIZES:
        stream.receive()
        stream.send(os.urandom(size))
    connection.close()
    print(json.dumps({"client": peer[:2], "port": port}), flush=True)


def ask(server: str, service: str) -> None:
    """One connection."""
    port, _, via = service.partition(":")
    connection = socket.create_connection((server, int(port)))
    stream = Stream(connection, SPNEGOSSP([NTLMSSP(UPN=f"alice@{DOMAIN}", PASSWORD=PASSWORD)]), accepts=False)
    if via:
        connection.sendall(PREAMBLE + bytes([len(via)]) + via.encode() + b"\x03\x08")
        connection.sendall(UPGRADE + bytes([len(NEGOTIATE)]) + NEGOTIATE)
        if stream.read(1) != UPGRADED:
            raise SystemExit("no upgrade")
    stream.shake_hands()
    for size in SIZES:
        stream.send(os.urandom(size))
        stream.receive()
    connection.close()


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
