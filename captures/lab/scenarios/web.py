"""The web: nginx with the virtual directories of Client Access, and one that is not Exchange; curl with key logs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captures.lab import servers
from captures.lab.laboratory import Laboratory, Recording, scenario
from captures.makers import rows_later, rpc
from captures.makers.documents import BETWEEN_CAS
from captures.makers.mail import roles
from captures.makers.organisation import PLACES
from captures.makers.scene import Host, Truth
from captures.makers.voice_and_web import ANY_WEB, CLIENT_HTTPS, OFFICE, WEB

CLIENT_ACCESS = """
    location /owa { add_header X-OWA-Version 14.1.218.13; return 200 "<title>Outlook Web App</title>"; }
    location /ecp { return 200 "<title>Exchange Control Panel</title>"; }
    location /EWS { add_header X-OWA-Version 14.1.218.13; return 200 "<s:Envelope/>"; }
    location /Microsoft-Server-ActiveSync { add_header MS-Server-ActiveSync 14.1; return 200; }
    location /Autodiscover { return 200 "<Autodiscover/>"; }
    location /OAB { return 200 "<OAB/>"; }
    location /PowerShell { return 200 "<s:Envelope/>"; }
"""
PROXY = """
    location /owa/elsewhere { proxy_ssl_verify off; proxy_pass https://%s/owa/; }
"""
PLAIN = """
    location / { return 200 "<title>Apples and pears</title>"; }
"""
OUTLOOKS_2010 = """
    location /rpc { default_type application/rpc; return 200; }
"""
OUTLOOKS_2016 = """
    add_header X-FEServer EX1;
    location /rpc { default_type application/rpc; return 200; }
    location /mapi {
      default_type application/mapi-http;
      add_header X-FEServer EX1;
      add_header X-ResponseCode 0;
      add_header X-ServerApplication Exchange/15.01.2507.006;
      return 200;
    }
"""
PYTHON_CLIENT = (sys.executable, "-m", "captures.lab.programs.web_client")
SOAP = ("-H", "Content-Type: text/xml; charset=utf-8", "--data")
ELSEWHERE = "/owa/elsewhere/"
PUBLIC = "mail.example.test"
USER = f"example\\alice:{servers.PASSWORD}"
FOREIGN: dict[str, Any] = {"absence": ("not-exchange", "unmatched", "encrypted")}
OUTLOOK_ANYWHERE = {"2010": "cas-outlook-anywhere", "2016": "client-outlook-anywhere"}
LATER_HTTPS = (
    *(path for _, path, *_ in rows_later.WEB), "client-outlook-anywhere", "client-rest-api", "hybrid-agent",
    "office-online-server",
)  # fmt: skip
"""What a client may ask of a server of 2013 or later on 443; with TLS no packet tells which."""
ROWS = {(PLACES[key][1], verb, target, agent): path for key, path, verb, target, agent, _ in WEB}
"""The row of a request, by client, method, target and program."""


def curl(lab: Laboratory, client: Host, server: Host, scheme: str, name: str, *words: str, target: str = "/") -> None:
    """One request to a server by its public name; session keys go into the file `keylog`."""
    where = ("--resolve", f"{name}:443:{server.address}", "--resolve", f"{name}:80:{server.address}")
    lab.call(client, "curl", "-sS", "-k", *where, *words, f"{scheme}://{name}{target}", env=keys(lab))


def keys(lab: Laboratory) -> dict[str, str]:
    """Where clients keep their session keys."""
    return {"SSLKEYLOGFILE": str(lab.folder / "keylog")}


def soap(call: str) -> str:
    """An envelope around one call."""
    return f"<s:Envelope><s:Body><{call}/></s:Body></s:Envelope>"


def requests(place: Path) -> Iterator[tuple[str, int, int, str, str, str]]:
    """What nginx's log has: client, its port, the server's port, method, target, program."""
    for line in (place / "access").read_text().splitlines():
        address, client_port, port, verb, target, agent = line.split("\t")
        yield address, int(client_port), int(port), verb, target, agent


@scenario(
    "web-client-access", "Client Access's virtual directories on nginx, in clear and with TLS", "nginx-light", "curl"
)
def client_access(lab: Laboratory) -> None:
    cas, other = lab.host("cas1"), lab.host("cas2")
    clients = {key: lab.host(key) for key, *_ in WEB}
    place = servers.nginx(lab, cas, CLIENT_ACCESS + PROXY % other.address, PUBLIC, "autodiscover.example.test")
    servers.nginx(lab, other, CLIENT_ACCESS)
    about = (
        "OWA, ECP, EWS, ActiveSync, Autodiscover, OAB, PowerShell on 80 and 443, by curl, web services also by Python; "
        "one Client Access proxies to another"
    )
    with lab.record("web-client-access", about) as recording:
        for scheme in ("http", "https"):
            for key, _, verb, target, agent, call in WEB:
                body = (*SOAP, soap(call)) if verb == "POST" else ()
                options = ("-u", USER, "-A", agent, "--http1.1", *body)
                curl(lab, clients[key], cas, scheme, PUBLIC, *options, target=target)
        for key, _, verb, target, agent, call in WEB:
            if key == "ews1":
                words = (verb, target, agent, USER, soap(call))
                lab.call(clients[key], *PYTHON_CLIENT, cas.address, PUBLIC, *words, env=keys(lab))
        curl(lab, clients["browser1"], cas, "https", PUBLIC, "-u", USER, target=ELSEWHERE)
    recording.keylog = (lab.folder / "keylog").read_text()
    by_address = {host.address: host for host in clients.values()}
    for address, client_port, port, verb, target, agent in requests(place):
        path = "cas-owa" if target == ELSEWHERE else ROWS[address, verb, target, agent]
        known = truth(by_address[address], path, port, f"{verb} {target}")
        lab.expect(recording, cas, port, known, client=by_address[address], client_port=client_port)
    lab.expect(recording, other, 443, Truth(
        "tls", data_paths=BETWEEN_CAS, also=CLIENT_HTTPS, roles=("client-access", "client-access"),
        certainty=("weak", "strong"), encryption=("tls-implicit",),
    ))  # fmt: skip


def truth(client: Host, path: str, port: int, request: str) -> Truth:
    """What is true of a request to Client Access; on 443 no packet tells which row it is."""
    both = client.role[0], "client-access"
    if port == 443:
        return Truth(
            "tls", data_paths=(path,), also=CLIENT_HTTPS, roles=both, certainty=("weak", "strong"),
            encryption=("tls-implicit",), note=request,
        )  # fmt: skip
    return Truth(
        "http", data_paths=(path,), also=ANY_WEB, roles=both, certainty=("strong", "certain"),
        authentication=("basic",), encryption=("none",), note=request,
    )  # fmt: skip


CHANNELS = (("RPC_OUT_DATA", rpc.rts(0, rpc.rts_command(6, 1))), ("RPC_IN_DATA", rpc.rts(0, rpc.rts_command(6, 1))))
PROXIED = "/rpc/rpcproxy.dll?mbx1.example.test:6001"
SESSION = "/mapi/emsmdb/?MailboxId=1@example.test"


@scenario("web-outlook", "Outlook opens RPC over HTTP on 2010 and 2016, MAPI over HTTP on 2016", "nginx-light", "curl")
def outlook(lab: Laboratory) -> None:
    client, cas, later = (lab.host(key) for key in ("outlook1", "cas1", "ex1"))
    sites = ((cas, OUTLOOKS_2010), (later, OUTLOOKS_2016))
    places = {host: servers.nginx(lab, host, site, PUBLIC) for host, site in sites}
    calls = {cas: [(verb, PROXIED, body) for verb, body in CHANNELS]}
    calls[later] = [*calls[cas], ("POST", SESSION, b"")]
    about = "curl as Outlook, on 80 (2010) and 443: both channels of RPC over HTTP, and Connect of MAPI over HTTP"
    with lab.record("web-outlook", about) as recording:
        for server, scheme in ((cas, "http"), (cas, "https"), (later, "https")):
            for verb, target, body in calls[server]:
                (lab.folder / "body").write_bytes(body)
                kind = ("-A", "MSRPC") if verb != "POST" else ("-A", OFFICE, "-H", "X-RequestType: Connect")
                options = ("-u", USER, "--http1.1", "-X", verb, "--data-binary", f"@{lab.folder}/body", *kind)
                curl(lab, client, server, scheme, PUBLIC, *options, target=target)
    recording.keylog = (lab.folder / "keylog").read_text()
    for server, place in places.items():
        for _, client_port, port, verb, target, _ in requests(place):
            known = of_outlook(client, server, port, verb, target)
            lab.expect(recording, server, port, known, client=client, client_port=client_port)


def of_outlook(client: Host, server: Host, port: int, verb: str, target: str) -> Truth:
    """What is true of a request of `outlook`."""
    version = server.version
    path = "client-mapi-http" if verb == "POST" else OUTLOOK_ANYWHERE[version]
    facts = {"data_paths": (path,), "roles": roles(client, server), "note": f"{verb} {target}"}
    if port == 443:
        also = CLIENT_HTTPS if version == "2010" else LATER_HTTPS
        return Truth("tls", also=also, certainty=("weak", "strong"), encryption=("tls-implicit",), **facts)
    return Truth(
        "rpc-over-http", also=ANY_WEB, certainty=("strong", "certain"), authentication=("basic",),
        encryption=("none",), **facts,
    )  # fmt: skip


@scenario("web-foreign", "nginx that has nothing to do with Exchange: HTTP, HTTPS, HTTP/2", "nginx-light", "curl")
def foreign(lab: Laboratory) -> None:
    client, server = lab.plug(Host("desk7", "10.30.0.7")), lab.plug(Host("web9", "10.30.0.9"))
    place = servers.nginx(lab, server, PLAIN, "www.example.org")
    with lab.record(
        "web-foreign", "nginx on 80 and 443, HTTP/1.1 and HTTP/2, a page and a form with a password"
    ) as recording:
        for words in (("--http1.1",), ("--http2",), ("--http1.1", "-u", USER, "--data", "apples=2")):
            for scheme in ("http", "https"):
                curl(lab, client, server, scheme, "www.example.org", *words)
    recording.keylog = (lab.folder / "keylog").read_text()
    tell(lab, recording, server, client, place)


def tell(lab: Laboratory, recording: Recording, server: Host, client: Host, place: Path) -> None:
    """Nothing of what nginx's log has is Exchange."""
    for _, client_port, port, verb, target, _ in requests(place):
        protocol, encryption = ("tls", "tls-implicit") if port == 443 else ("http", "none")
        known = Truth(protocol, encryption=(encryption,), note=f"{verb} {target}", **FOREIGN)
        lab.expect(recording, server, port, known, client=client, client_port=client_port)
