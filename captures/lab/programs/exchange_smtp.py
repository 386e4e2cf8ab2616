"""SMTP as a Hub or Edge Transport server of Exchange 2010 speaks it, with real TLS: a server, and a client that sends.

    python -m captures.lab.programs.exchange_smtp serve NAME ADDRESS CERTIFICATE KEY WORD...
    python -m captures.lab.programs.exchange_smtp send NAME SERVER VERB RECIPIENT [pause]

CERTIFICATE, KEY: files in PEM. WORD: what EHLO lists. VERB: X-ANONYMOUSTLS, STARTTLS or none. `pause`: say so before
the message, and wait for a line. The server prints one
JSON object for each connection that it served to its end, `{"client": [address, port], "tls": verb}`: the truth.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from email.utils import formatdate
from typing import BinaryIO

VERBS = ("STARTTLS", "X-ANONYMOUSTLS")
ANSWERS = {
    "MAIL": "250 2.1.0 Sender OK",
    "RCPT": "250 2.1.5 Recipient OK",
    "DATA": "354 Start mail input; end with <CRLF>.<CRLF>",
    "RSET": "250 2.0.0 Resetting",
    "QUIT": "221 2.0.0 Service closing transmission channel",
}
QUEUED = "250 2.6.0 <1@example.test> [InternalId=7] Queued mail for delivery"
MESSAGE = "From: a@example.test\r\nSubject: lunch\r\n\r\nToday at noon?\r\n."


class Session:
    """One connection, on either side; its stream is replaced when TLS begins."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stream: BinaryIO = connection.makefile("rb")

    def secure(self, context: ssl.SSLContext, *, server: bool) -> None:
        self.connection = context.wrap_socket(self.connection, server_side=server)
        self.stream = self.connection.makefile("rb")

    def say(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def line(self) -> str:
        return self.stream.readline().decode().rstrip("\r\n")

    def answer(self) -> str:
        """The last line of an answer (RFC 5321 4.2.1: no hyphen after the code)."""
        while (line := self.line())[3:4] == "-":
            pass
        return line


def serve(name: str, address: str, certificate: str, key: str, *words: str) -> None:
    """Serve for ever, one thread a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server((address, 25), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=attend, args=(connection, peer, name, context, words), daemon=True).start()


def attend(
    connection: socket.socket, peer: tuple[str, int], name: str, context: ssl.SSLContext, words: tuple[str, ...]
) -> None:
    """One session, to its QUIT."""
    session, used = Session(connection), "none"
    session.say(f"220 {name} Microsoft ESMTP MAIL Service ready at {formatdate()}")
    while line := session.line():
        verb = line.split()[0].upper()
        if verb in VERBS:
            session.say("220 2.0.0 SMTP server ready")
            session.secure(context, server=True)
            used, words = verb, tuple(word for word in words if word not in VERBS)
        elif verb == "EHLO":
            listed = [f"{name} Hello [{peer[0]}]", *words]
            session.say(*(f"250-{word}" for word in listed[:-1]), f"250 {listed[-1]}")
        else:
            session.say(ANSWERS.get(verb, "500 5.3.3 Unrecognized command"))
        if verb == "DATA":
            while session.line() != ".":
                pass
            session.say(QUEUED)
        if verb == "QUIT":
            break
    session.connection.close()
    print(json.dumps({"client": peer[:2], "tls": used}), flush=True)


def send(name: str, server: str, verb: str, recipient: str, pause: str = "") -> None:
    """Hand over one message."""
    session = Session(socket.create_connection((server, 25)))
    expect(session.answer(), "220")
    order(session, f"EHLO {name}", "250")
    if verb in VERBS:
        order(session, verb, "220")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        session.secure(context, server=False)
        order(session, f"EHLO {name}", "250")
    if pause:
        print("paused", flush=True)
        input()
    order(session, "MAIL FROM:<a@example.test>", "250")
    order(session, f"RCPT TO:<{recipient}>", "250")
    order(session, "DATA", "354")
    order(session, MESSAGE, "250")
    order(session, "QUIT", "221")
    session.connection.close()


def order(session: Session, line: str, code: str) -> None:
    session.say(line)
    expect(session.answer(), code)


def expect(answer: str, code: str) -> None:
    if not answer.startswith(code):
        raise SystemExit(f"{code} was expected, not: {answer}")


if __name__ == "__main__":
    {"serve": serve, "send": send}[sys.argv[1]](*sys.argv[2:])
