"""SMB 2.1 messages ([MS-SMB2] 2.2) and the exchanges in which shares and named pipes are opened."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from captures.makers import tokens
from captures.makers.scene import Tcp

NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, CLOSE, READ, WRITE, IOCTL = 0, 1, 3, 5, 6, 8, 9, 11
PIPE_TRANSCEIVE = 0x0011C017
MORE_PROCESSING, PENDING = 0xC0000016, 0x00000103
SESSION_ID = 0x0000_4400_0000_0051
FILE_ID = bytes.fromhex("5100000000000000a900000001000000")


def message(
    command: int,
    body: bytes,
    number: int,
    *,
    reply: bool = False,
    status: int = 0,
    tree: int = 0,
    session: int = SESSION_ID,
) -> bytes:
    """One message behind its direct-TCP length."""
    head = b"\xfeSMB" + struct.pack(
        "<HHIHHIIQIIQ", 64, 1, status, command, 31, int(reply), 0, number, 0xFEFF, tree, session
    )
    data = head + bytes(16) + body
    return struct.pack(">I", len(data)) + data


class Session:
    """A dialogue on port 445, numbered messages both ways."""

    def __init__(self, tcp: Tcp, *, dialect: int = 0x0210, user: str = "administrator", kerberos: bool = False) -> None:
        self.tcp, self.number, self.tree = tcp, 0, 0
        self._negotiate(dialect)
        if kerberos:
            self._log_on_with_kerberos()
        else:
            self._log_on_with_ntlm(user)

    def exchange(self, command: int, question: bytes, answer: bytes, status: int = 0) -> None:
        """One request and its reply."""
        session = 0 if command == NEGOTIATE else SESSION_ID
        where = {"tree": self.tree, "session": session}
        self.tcp.ask(message(command, question, self.number, **where))
        self.tcp.answer(message(command, answer, self.number, reply=True, status=status, **where))
        self.number += 1

    def _negotiate(self, dialect: int) -> None:
        guid = self.tcp.scene.noise(16)
        question = struct.pack("<HHHHI", 36, 2, 1, 0, 0x7F) + guid + bytes(8) + struct.pack("<HH", 0x0202, 0x0210)
        offer = tokens.spnego_init(b"", (tokens.MS_KERBEROS, tokens.KERBEROS, tokens.NTLMSSP))
        answer = struct.pack("<HHHH", 65, 1, dialect, 0) + self.tcp.scene.noise(16)
        answer += struct.pack(
            "<IIIIQQHHI", 7, 1 << 16, 1 << 16, 1 << 16, 129_338_604_000_000_000, 0, 128, len(offer), 0
        )
        self.exchange(NEGOTIATE, question, answer + offer)

    def _set_up(self, token: bytes, reply: bytes, status: int) -> None:
        question = struct.pack("<HBBIIHHQ", 25, 0, 1, 1, 0, 88, len(token), 0) + token
        self.exchange(SESSION_SETUP, question, struct.pack("<HHHH", 9, 0, 72, len(reply)) + reply, status)

    def _log_on_with_ntlm(self, user: str) -> None:
        noise, server = self.tcp.scene.noise, self.tcp.server
        challenge = tokens.ntlm_challenge(noise, server.name, server.fqdn)
        first = tokens.spnego_init(tokens.ntlm_negotiate(), (tokens.NTLMSSP,))
        self._set_up(first, tokens.spnego_response(challenge, tokens.NTLMSSP), MORE_PROCESSING)
        last = tokens.ntlm_authenticate(noise, user, self.tcp.client.name)
        self._set_up(tokens.spnego_response(last), tokens.spnego_response(state=0), 0)

    def _log_on_with_kerberos(self) -> None:
        noise = self.tcp.scene.noise
        request = tokens.ap_req(noise, f"cifs/{self.tcp.server.fqdn}")
        reply = tokens.gss_kerberos(tokens.ap_rep(noise), b"\x02\x00")
        first = tokens.spnego_init(tokens.gss_kerberos(request))
        self._set_up(first, tokens.spnego_response(reply, tokens.MS_KERBEROS, 0), 0)

    def connect(self, share: str) -> None:
        """Connect to a share of the server."""
        path = f"\\\\{self.tcp.server.fqdn}\\{share}".encode("utf-16-le")
        kind = 2 if share == "IPC$" else 1
        self.tree += 1
        self.exchange(
            TREE_CONNECT,
            struct.pack("<HHHH", 9, 0, 72, len(path)) + path,
            struct.pack("<HBBIII", 16, kind, 0, 0, 0, 0x001F01FF),
        )

    def create(self, name: str) -> None:
        """Open a file or a pipe."""
        path = name.encode("utf-16-le")
        question = struct.pack("<HBBIQQIIIIIHHII", 57, 0, 0, 2, 0, 0, 0x12019F, 0, 7, 1, 0x400000, 120, len(path), 0, 0)
        answer = struct.pack("<HBBIQQQQQQII", 89, 0, 0, 1, *(129_338_604_000_000_000,) * 4, 4096, 0, 0x80, 0)
        self.exchange(CREATE, question + path, answer + FILE_ID + bytes(8))

    def write(self, data: bytes) -> None:
        question = struct.pack("<HHIQ", 49, 112, len(data), 0) + FILE_ID + struct.pack("<IIHHI", 0, 0, 0, 0, 0) + data
        self.exchange(WRITE, question, struct.pack("<HHIIHH", 17, 0, len(data), 0, 0, 0))

    def read(self, data: bytes) -> None:
        """The server's data."""
        question = struct.pack("<HBBIQ", 49, 80, 0, 1024, 0) + FILE_ID + struct.pack("<IIIHHB", 0, 0, 0, 0, 0, 0)
        self.exchange(READ, question, struct.pack("<HBBIII", 17, 80, 0, len(data), 0, 0) + data)

    def transceive(self, question: bytes, answer: bytes) -> None:
        """FSCTL_PIPE_TRANSCEIVE: write and read in one message each."""
        head = struct.pack("<HHI", 57, 0, PIPE_TRANSCEIVE) + FILE_ID
        asked = head + struct.pack("<IIIIIIII", 120, len(question), 0, 0, 0, 1024, 1, 0) + question
        head = struct.pack("<HHI", 49, 0, PIPE_TRANSCEIVE) + FILE_ID
        said = head + struct.pack("<IIIIII", 112, 0, 112, len(answer), 0, 0) + answer
        self.exchange(IOCTL, asked, said)

    def close(self) -> None:
        body = struct.pack("<HHI", 24, 0, 0) + FILE_ID
        self.exchange(CLOSE, body, struct.pack("<HHI", 60, 0, 0) + bytes(52))


def pipe(
    tcp: Tcp, name: str, bind: bytes, bind_ack: bytes, exchanges: Sequence[tuple[bytes, bytes]], **how: object
) -> None:
    """Open a named pipe, bind with WRITE and READ, call with FSCTL_PIPE_TRANSCEIVE."""
    session = Session(tcp, **how)
    session.connect("IPC$")
    session.create(name)
    session.write(bind)
    session.read(bind_ack)
    for question, answer in exchanges:
        session.transceive(question, answer)
    session.close()
