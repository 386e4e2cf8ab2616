"""Strangers put hostile strings wherever a packet has room for one: what a reader prints of them must stay text."""

from __future__ import annotations

from base64 import b64encode

from captures.makers import rpc, talk, tokens
from captures.makers.catalogue import story
from captures.makers.certificates import certificate
from captures.makers.scene import Host, Scene

SCRIPT = "<script>document.title='owned';window.owned=1</script>"
STRINGS = (
    "\x1b]0;owned\x07\x1b[31m",
    SCRIPT,
    "<img src=x onerror=window.owned=1>",
    "</script><svg onload=window.owned=1>",
    "{{7*7}}${7*7}",
    "' onmouseover='window.owned=1",
    "javascript:window.owned=1",
    "<!--<script>",
    "]]>",
    '=HYPERLINK("http://evil.test")',
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "[bold red]markup[/]",
    'quote " comma , semicolon ; backslash \\',
    "line\nbreak\r\n",
    "\u202egnp.exe\u2066",
    "\u2028\u2029\ufeff\x7f\x85\x9b31m",
    "caf\u00e9 \u4ea4\u6362 \U0001f4e7",
    "null\x00inside",
    "x" * 200,
)
"""Markup, escapes of terminals, formulas of spreadsheets, line ends, marks that reorder or hide text, long text."""


@story(
    "hostile-strings", "script tags, terminal escapes, formulas in SNI, certificates, HTTP, SMTP, NTLM names"
)
def hostile_strings(scene: Scene) -> None:
    client = scene.host(STRINGS[2], "10.66.0.1", "outlook")
    cas = scene.host(SCRIPT, "10.66.0.2", "client-access")
    hub = scene.host("=cmd()\x1b[31m\u202e.", "10.66.0.3", "hub-transport")
    for text in STRINGS:
        _web(scene, client, cas, text)
        _mail(scene, hub, cas, text)
        _mapi(scene, client, cas, text)
    _annotations(scene, client, cas)


def _line(text: str) -> str:
    """As it can stand in one line of text."""
    return text.replace("\r", "").replace("\n", "")


def _web(scene: Scene, client: Host, server: Host, text: str) -> None:
    tls = scene.tcp(client, server, 443)
    talk.tls(tls, text, certificate=certificate(scene.noise, text), records=[(tls.ask, 64)])
    tls.close()
    tls.is_("tls")
    http = scene.tcp(client, server, 80)
    line, proof = _line(text).replace(" ", "%20"), _authenticate(scene, text)
    http.ask(f"POST /EWS/Exchange.asmx?{line} HTTP/1.1\r\nHost: {line}\r\nUser-Agent: {line}\r\n"
             f"Authorization: NTLM {b64encode(proof).decode()}\r\n\r\n".encode())  # fmt: skip
    http.answer(f"HTTP/1.1 401 {line}\r\nServer: {line}\r\nWWW-Authenticate: Basic realm={line}\r\n\r\n".encode())
    http.close()
    http.is_("http")


def _mail(scene: Scene, client: Host, server: Host, text: str) -> None:
    smtp = scene.tcp(client, server, 25)
    smtp.answer(f"220 {_line(text)} Microsoft ESMTP MAIL Service ready\r\n".encode())
    smtp.ask(f"EHLO {_line(text)}\r\n".encode())
    smtp.answer(f"250-{_line(text)}\r\n250-X-ANONYMOUSTLS\r\n250 X-EXPS {_line(text)}\r\n".encode())
    smtp.close()
    smtp.is_("smtp")


def _mapi(scene: Scene, client: Host, server: Host, text: str) -> None:
    store = scene.tcp(client, server, 6005)
    challenge = tokens.ntlm_challenge(scene.noise, text, f"{text}.{text}", text)
    legs = (tokens.ntlm_negotiate(), challenge, _authenticate(scene, text))
    first, second, third = (rpc.Verifier(talk.NTLM, talk.PRIVACY, leg) for leg in legs)
    store.ask(rpc.bind([(rpc.EMSMDB, [rpc.NDR32])], verifier=first))
    store.answer(rpc.bind_ack([rpc.ACCEPTED], text, verifier=second))
    store.ask(rpc.pdu(rpc.AUTH3, bytes(4), call=1, verifier=third))
    store.close()
    store.is_("dcerpc", authentication=("ntlm",))


def _authenticate(scene: Scene, text: str) -> bytes:
    """The message in which NTLM's client names itself."""
    return tokens.ntlm_authenticate(scene.noise, text, text, text)


def _annotations(scene: Scene, client: Host, server: Host) -> None:
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    mapper.ask(rpc.request(rpc.EPT_LOOKUP, rpc.lookup_request(), call=2))
    entries = [
        (rpc.tower(rpc.EMSMDB, 6100 + number, server.address), text[:60])
        for number, text in enumerate(STRINGS)
        if "\0" not in text
    ]
    for piece in rpc.fragments(rpc.lookup_response(entries), rpc.MAX_FRAGMENT - 24, call=2):
        mapper.answer(piece)
    mapper.close()
    mapper.is_("epm")
