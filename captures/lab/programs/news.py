"""NNTP (RFC 3977): a small server, in clear and with TLS, and a client that reads, or hands an article on.

    python -m captures.lab.programs.news serve ADDRESS GREETING CERTIFICATE KEY
    python -m captures.lab.programs.news read|feed SERVER PORT

Ports: 119, and 563 with TLS.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
import threading

ANSWERS = {
    "MODE": "200 Posting Allowed",
    "GROUP": "211 1 1 1 example.test",
    "ARTICLE": "220 1 <1@example.test> article",
    "IHAVE": "335 send article to be transferred",
    "CAPABILITIES": "101 Capability list:",
    "QUIT": "205 closing connection",
}
BODIES = {
    "ARTICLE": ("From: a@example.test", "Newsgroups: example.test", "Subject: lunch", "", "Today at noon?", "."),
    "CAPABILITIES": ("VERSION 2", "READER", "IHAVE", "."),
}
ARTICLE = "From: a@example.test\r\nNewsgroups: example.test\r\nMessage-ID: <1@example.test>\r\n\r\nNoon?\r\n."
SESSIONS = {
    "read": ("CAPABILITIES", "MODE READER", "GROUP example.test", "ARTICLE 1", "QUIT"),
    "feed": ("CAPABILITIES", "IHAVE <1@example.test>", ARTICLE, "QUIT"),
}


class Talk(socketserver.StreamRequestHandler):
    """One connection, to its QUIT."""

    def handle(self) -> None:
        self.say(self.server.greeting)  # type: ignore[attr-defined]
        while line := self.line():
            verb = line.split()[0].upper()
            self.say(ANSWERS.get(verb, "500 what?"), *BODIES.get(verb, ()))
            if verb == "IHAVE":
                while self.line() != ".":
                    pass
                self.say("235 article transferred")
            if verb == "QUIT":
                return

    def line(self) -> str:
        return self.rfile.readline().decode().rstrip("\r\n")

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


class Server(socketserver.ThreadingTCPServer):
    """One port. greeting: its first line; context: TLS, or None."""

    allow_reuse_address = True

    def __init__(self, ends: tuple[str, int], greeting: str, context: ssl.SSLContext | None) -> None:
        super().__init__(ends, Talk)
        self.greeting, self.context = greeting, context

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, peer = super().get_request()
        return (self.context.wrap_socket(connection, server_side=True) if self.context else connection), peer


def serve(address: str, greeting: str, certificate: str, key: str) -> None:
    """Serve for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for port, protection in ((119, None), (563, context)):
        threading.Thread(target=Server((address, port), greeting, protection).serve_forever).start()


def main(what: str, server: str, port: str) -> None:
    """One session of a client."""
    connection = socket.create_connection((server, int(port)))
    if int(port) == 563:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    stream = connection.makefile("rwb")
    stream.readline()
    for line in SESSIONS[what]:
        stream.write(f"{line}\r\n".encode())
        stream.flush()
        heard = stream.readline().decode()
        if not heard.startswith(("1", "2", "3")):
            raise SystemExit(f"{line}: {heard}")
        while line.split()[0] in BODIES and stream.readline() != b".\r\n":
            pass


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "serve" else main(*sys.argv[1:])
