"""A Python client of web services: one request over TLS 1.2, with the session keys kept where SSLKEYLOGFILE says.

    python -m captures.lab.programs.web_client ADDRESS NAME VERB TARGET AGENT USER BODY
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import sys


def main(address: str, name: str, verb: str, target: str, agent: str, user: str, body: str) -> None:
    context = ssl.create_default_context()  # it takes SSLKEYLOGFILE from the environment
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # curl speaks 1.3
    connection = http.client.HTTPSConnection(name, context=context)
    connection.sock = context.wrap_socket(socket.create_connection((address, 443)), server_hostname=name)
    headers = {
        "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}", "User-Agent": agent,
        "Content-Type": "text/xml; charset=utf-8",
    }  # fmt: skip
    connection.request(verb, target, body.encode() or None, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != http.client.OK:
        raise SystemExit(f"{verb} {target}: {answer.status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
