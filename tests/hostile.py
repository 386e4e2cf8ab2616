"""A capture in which strangers put hostile strings wherever they can: SNI, certificates, banners, HTTP, annotations."""

from __future__ import annotations

from pathlib import Path

from samples import HOSTILE

from captures.makers import files, rpc, talk
from captures.makers.certificates import certificate
from captures.makers.scene import Host, Scene

SCRIPT = "<script>document.title='owned';window.owned=1</script>"
MARKUP = (SCRIPT, "<img src=x onerror=window.owned=1>", "</script><svg onload=window.owned=1>", "{{7*7}}${7*7}",
          "' onmouseover='window.owned=1", "javascript:window.owned=1", "<!--<script>", "]]>")  # fmt: skip
STRINGS = (*MARKUP, *(text.encode("utf-8", "replace").decode()[:200] for text in HOSTILE if text))


def write(folder: Path) -> tuple[Path, Path]:
    """Write the capture and an inventory whose names are hostile too. Returns both paths."""
    scene = Scene("hostile")
    client = scene.host("client", "10.66.0.1", "outlook")
    cas, hub = scene.host("cas", "10.66.0.2", "client-access"), scene.host("hub", "10.66.0.3", "hub-transport")
    own = certificate(scene.noise, "mail.example.test")
    for text in STRINGS:
        _web(scene, client, cas, text, own)
        _mail(scene, hub, cas, text)
    _annotations(scene, client, cas)
    path, inventory = folder / "hostile <b>.pcap", folder / "hostile.toml"
    path.write_bytes(files.classic(scene.in_time()[0]))
    entries = [("10.66.0.1", "outlook", MARKUP[0]), ("10.66.0.2", "client-access", MARKUP[1]),
               ("10.66.0.3", "hub-transport", "=cmd()\x1b[31m\u202e")]  # fmt: skip
    inventory.write_text("".join(map(_entry, entries)))
    return path, inventory


def _entry(host: tuple[str, str, str]) -> str:
    address, role, name = host
    name = name.replace("\x1b", "\\u001b").replace('"', '\\"')
    return f'[[host]]\naddress = "{address}"\nrole = ["{role}"]\nname = "{name}"\n'


def _web(scene: Scene, client: Host, server: Host, text: str, own: bytes) -> None:
    tls = scene.tcp(client, server, 443)
    talk.tls(tls, text, certificate=own)
    tls.close()
    line = text.replace("\r", "").replace("\n", "").replace(" ", "%20")
    http = scene.tcp(client, server, 80)
    http.ask(f"POST /EWS/Exchange.asmx?{line} HTTP/1.1\r\nHost: {line}\r\nUser-Agent: {line}\r\n\r\n".encode())
    http.answer(f"HTTP/1.1 401 {line}\r\nServer: {line}\r\nWWW-Authenticate: Basic realm={line}\r\n\r\n".encode())
    http.close()


def _mail(scene: Scene, client: Host, server: Host, text: str) -> None:
    smtp = scene.tcp(client, server, 25)
    line = text.replace("\r", "").replace("\n", "")
    smtp.answer(f"220 {line} Microsoft ESMTP MAIL Service ready\r\n".encode())
    smtp.ask(f"EHLO {line}\r\n".encode())
    smtp.answer(f"250-{line}\r\n250-X-ANONYMOUSTLS\r\n250 X-EXPS {line}\r\n".encode())
    smtp.close()


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
