"""SIP over TCP or UDP, and the SDP inside it: who talks, where a redirect points, which media ports are to come.

A redirect's Contact and an SDP's media lines hand out ports for conversations that follow (`Handout`).
Sources: RFC 3261 section 7 (messages) and 8.1.3.4 (redirects), RFC 4566 (SDP), RFC 4568 (a=crypto).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from string import ascii_letters
from typing import Final, Literal

from classifier import limits
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Handout, Place, Side
from classifier.inspectors.reading import Headers, Signs, headers, text

_REQUEST: Final = re.compile(rb"([A-Z]{3,12}) (sips?:[^\s]{1,1000}|tel:[^\s]{1,200}) SIP/2\.0\r?\n", re.I)
_RESPONSE: Final = re.compile(rb"SIP/2\.0 ([1-6][0-9]{2})(?: [^\r\n]*)?\r?\n")
_BEGINS: Final = re.compile(rb"(?:SIP/2\.0 |[A-Z]{3,12} (?:sips?|tel):)", re.I)

_SHORT: Final = {b"m": b"contact", b"l": b"content-length", b"c": b"content-type"}
"""Compact forms (RFC 3261 section 7.3.3) of the headers read here."""

_CONTACT: Final = re.compile(
    rb"sips?:(?:[^@>;]{0,256}@)?(\[[0-9a-fA-F:.]+\]|[^:;>\s\[\]]{1,255})(?::([0-9]{1,5}))?([^>]{0,400})", re.I
)
_MEDIA: Final = re.compile(rb"m=([a-z]{1,20}) ([0-9]{1,5})(?:/[0-9]{1,3})? (\S{1,40})")
_CONNECTION: Final = re.compile(rb"c=IN IP[46] ([0-9a-fA-F:.]{2,45})")
_CRYPTO: Final = re.compile(rb"a=crypto:[0-9]{1,9} ([A-Z0-9_]{1,60})")
_MAX_SDP: Final = 8 * limits.KIB
_SCHEMES: Final = {
    "ntlm": "ntlm", "kerberos": "kerberos", "digest": "digest", "basic": "basic", "tls-dsk": "certificate",
}  # fmt: skip


@dataclass(slots=True)
class _Call:
    """What is known while messages are read."""

    signs: Signs = field(default_factory=Signs)
    handouts: list[Handout] = field(default_factory=list)
    first: dict[Side, str] = field(default_factory=dict)
    scheme: str | None = None
    answered: bool = False


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with a request to a sip: or tel: address, or with a SIP status line."""
    return any(_BEGINS.match(data.lstrip(b"\r\n")) for data in (client[:64], server[:64]))


FIRST_OCTETS: Final = FirstOctets(b"\r\n" + ascii_letters.encode())
"""Methods and status lines, and the line ends that may precede them (RFC 3261 section 7.5)."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read the messages of both directions."""
    if not opens(dialogue.to_server.head, dialogue.to_client.head):
        return NOT_THIS
    call = _Call()
    for side in Side:
        for kind, start, data, at, offset in _messages(dialogue, side):
            call.first.setdefault(side, kind)
            _note(call, kind, start, data, at, Place(side, offset))
    if not call.first:
        return WAIT
    streamed = dialogue.transport == "tcp"
    return Evidence(
        "sip",
        call.signs.kept[0].place if call.signs.kept else Place(Side.TO_SERVER, 0),
        _reversed(call.first),
        handouts=tuple(call.handouts[: limits.MAX_SIGNS]),
        authentication=call.scheme or ("none" if call.answered else None),
        encryption="none",
        signs=tuple(call.signs.kept),
        gap=streamed and (dialogue.to_server.has_hole or dialogue.to_client.has_hole),
        limited=call.signs.full or (streamed and (dialogue.to_server.limited or dialogue.to_client.limited)),
    )


def _reversed(first: dict[Side, str]) -> bool | None:
    """The side whose first message is an answer serves; two sides that both began with requests prove nothing."""
    ours, theirs = first.get(Side.TO_SERVER), first.get(Side.TO_CLIENT)
    if ours == theirs:
        return None
    return ours == "answer" or (ours is None and theirs == "request")


def _messages(dialogue: Dialogue, side: Side) -> Iterator[tuple[str, str, bytes, int, int]]:
    """("request" or "answer", method or status, data, offset of its headers, stream offset) of each message."""
    for chunk in dialogue.stream(side).chunks[: limits.MAX_COMMANDS]:
        data, at = chunk.data, 0
        for _ in range(limits.MAX_COMMANDS):
            while data[at : at + 1] in (b"\r", b"\n"):
                at += 1
            request = _REQUEST.match(data, at)
            found = request or _RESPONSE.match(data, at)
            if found is None:
                break
            yield "request" if request else "answer", text(found[1]), data, found.end(), chunk.offset + at
            lines, end, whole = headers(data, found.end())
            length = _get(lines, b"content-length")
            if not whole or dialogue.transport == "udp" or not length.isdigit() or len(length) > 9:
                break
            at = end + int(length)


def _get(lines: Headers, name: bytes) -> bytes:
    return next((value for key, value in lines if _SHORT.get(key, key) == name), b"")


def _note(call: _Call, kind: str, start: str, data: bytes, at: int, place: Place) -> None:
    lines, end, _ = headers(data, at)
    call.signs.add("sip.method" if kind == "request" else "sip.status", start, place)
    call.answered = call.answered or (kind == "answer" and start.startswith("2"))
    contact = _get(lines, b"contact")
    for name in (b"server", b"user-agent"):
        call.signs.add(f"sip.{name.decode()}", text(_get(lines, name)), place)
    call.signs.add("sip.contact", text(contact), place)
    if kind == "answer" and start in ("301", "302"):
        _note_redirect(call, contact, place)
    scheme = text(_get(lines, b"authorization") or _get(lines, b"proxy-authorization")).partition(" ")[0].lower()
    call.scheme = _SCHEMES.get(scheme, call.scheme)
    if b"sdp" in _get(lines, b"content-type").lower():
        _note_media(call, data[end : end + _MAX_SDP], place)


def _note_redirect(call: _Call, contact: bytes, place: Place) -> None:
    """Where the next connection goes (RFC 3261 section 8.1.3.4); without a port it's 5060, or 5061 for TLS."""
    found = _CONTACT.search(contact)
    if found is None:
        return
    parameters = found[3].lower()
    secure = contact[found.start() : found.start() + 5].lower() == b"sips:" or b"transport=tls" in parameters
    transport: Literal["tcp", "udp"] = "udp" if b"transport=udp" in parameters else "tcp"
    port = int(found[2]) if found[2] else 5061 if secure else 5060
    host = text(found[1].strip(b"[]"))
    numeric = re.fullmatch(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*", host) is not None
    if 0 < port < 65536:
        address, name = (host, "") if numeric else ("", host)
        call.handouts.append(Handout("sip-redirect", transport, port, place, address=address, host=name))


def _note_media(call: _Call, body: bytes, place: Place) -> None:
    """Each m= line with the address of its own c= line, or else the session's (RFC 4566 section 5.7)."""
    session, *parts = re.split(rb"(?=^m=)", body, maxsplit=32, flags=re.M)
    shared = _CONNECTION.search(session)
    for part in parts:
        found, own = _MEDIA.match(part), _CONNECTION.search(part) or shared
        if found is None:
            continue
        media = f"{text(found[1])} {text(found[3])}"
        call.signs.add("sdp.media", media, place)
        suites = [text(suite) for suite in _CRYPTO.findall(part)[:8]]
        for suite in suites:
            call.signs.add("sdp.crypto", suite, place)
        if 0 < int(found[2]) < 65536 and len(call.handouts) < limits.MAX_SIGNS:
            transport: Literal["tcp", "udp"] = "tcp" if b"TCP" in found[3] else "udp"
            address = text(own[1]) if own else ""
            told = " ".join((media, *suites))
            call.handouts.append(Handout("sdp", transport, int(found[2]), place, address=address, annotation=told))
