"""HTTP/1: requests, answers, and the headers by which Exchange's web services tell themselves.

Owns message framing (also for other readers: `read_head`), knows no data path. Bodies are jumped over, but
for a look at the beginning of SOAP. RPC over HTTP, which looks like HTTP without an end, is another module's.
Sources: RFC 9112, RFC 9110 section 11 (authentication), RFC 4559 (Negotiate), MS-ASHTTP, MS-OXCMAPIHTTP.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final, NamedTuple

from classifier import limits
from classifier.inspectors import gssapi
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Place, Side, Stream
from classifier.inspectors.reading import Headers, Signs, headers, text

_REQUEST: Final = re.compile(rb"([A-Z][A-Z_-]{1,30}) ([^\r\n]{1,8000}) HTTP/[12]\.[01]\r?\n")
_RESPONSE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_REQUEST_BEGINS: Final = re.compile(rb"[A-Z][A-Z_-]{1,30} [!-~]")
_LONG_TARGET: Final = re.compile(rb"[A-Z]{3,20} /\S{120}")
"""A request line whose end was not kept: no other protocol has a path this long behind such a verb."""

_OTHERS: Final = (b"RPC_IN_DATA ", b"RPC_OUT_DATA ", b"RPC_CONNECT ")
"""Verbs of MS-RPCH section 2.1: `rpc_http` reads them."""

_BODILESS: Final = frozenset((204, 304))
_FORMS: Final = ("/auth.owa", "/owaauth.dll")
"""Where the forms of Outlook Web App and of its 2003 ancestor are posted to."""
_FORMS_COOKIE: Final = b"cadata"
"""Begins the names of the cookies that stand for that form from then on (cadata; cadataTTL, cadataKey and so on)."""

_SCHEMES: Final = {
    "basic": "basic", "digest": "digest", "ntlm": "ntlm", "negotiate": "negotiate", "kerberos": "kerberos",
    "bearer": "bearer",
}  # fmt: skip

_VALUES: Final = frozenset(
    b"x-owa-version x-feserver x-beserver x-diaginfo x-calculatedbetarget x-backendhttpstatus x-serverapplication "
    b"x-clientapplication x-requesttype x-responsecode ms-server-activesync x-ms-server-activesync x-powered-by "
    b"ms-asprotocolversion ms-asprotocolversions msasproxyuri x-owa-proxyuri content-type user-agent server "
    b"host".split()
)
"""Headers whose value says which product, version, host or service this is; each becomes a sign `http.<name>`."""

_SEALED: Final = re.compile(r"multipart/encrypted.*http-(?:kerberos|spnego|credssp)-session-encrypted", re.I | re.S)
"""MS-WSMV section 2.2.9.1: WS-Management bodies sealed with the key of the authentication."""

_OPERATION: Final = re.compile(rb"<(?:[\w-]+:)?Body\b[^>]{0,400}>\s{0,100}<(?:[\w-]+:)?([A-Za-z]\w{0,80})")
_VERSION_INFO: Final = re.compile(rb"ServerVersionInfo\b([^>]{0,400})")
_VERSION_PART: Final = re.compile(rb'(?:MajorVersion|MinorVersion|MajorBuildNumber|MinorBuildNumber)="(\d{1,6})"')
_BODY_LOOK: Final = 4096
"""Bytes of a body looked into for its SOAP operation."""


class Head(NamedTuple):
    """Start line and headers of one message.

    method, target: of a request, b"" in an answer; status: of an answer, 0 in a request.
    headers: (name in lower case, value). end: offset of the body in the data read; whole: the blank line was there.
    """

    method: bytes
    target: bytes
    status: int
    headers: Headers
    end: int
    whole: bool

    def get(self, name: bytes) -> bytes:
        """Value of the first header of that name, b"" without one."""
        return next((value for key, value in self.headers if key == name), b"")


def read_head(data: bytes, at: int = 0) -> Head | None:
    """The message head that begins at this offset, None if none does. Lines not whole are left out."""
    request = _REQUEST.match(data, at)
    response = None if request else _RESPONSE.match(data, at)
    if request is None and response is None:
        return None
    start = (request or response).end()  # type: ignore[union-attr]
    found, end, whole = headers(data, start)
    if request:
        return Head(request[1], request[2], 0, found, end, whole)
    return Head(b"", b"", int(response[1]) if response else 0, found, end, whole)


# ---- the inspector ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Talk:
    """What is known while messages are read.

    whole: the headers of all requests were there to their end. cookies: a request had some, which may prove a user.
    """

    signs: Signs
    tokens: list[gssapi.Token]
    requests: int = 0
    answers: int = 0
    scheme: str | None = None
    served: bool = False
    whole: bool = True
    cookies: bool = False
    sealed: bool = False


def opens(client: bytes, server: bytes) -> bool:
    """Whether one side begins with a request line or a status line."""
    return _opens(client) or _opens(server)


def _opens(data: bytes) -> bool:
    return bool(data) and (b"HTTP/".startswith(data[:5]) or _REQUEST_BEGINS.match(data) is not None)


FIRST_OCTETS: Final = FirstOctets(ascii_uppercase.encode(), resumes=True)
"""Verbs; a status line."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read all messages of both sides; after a hole go on where a message begins."""
    chunks = (*dialogue.to_server.chunks, *dialogue.to_client.chunks)
    if dialogue.transport != "tcp" or not any(_opens(chunk.data) for chunk in chunks):
        return NOT_THIS
    talk = _Talk(Signs(), [])
    requesting = [_read_side(dialogue, side, talk) for side in (Side.TO_SERVER, Side.TO_CLIENT)]
    if talk.requests + talk.answers == 0:
        return _undecided(dialogue.to_server.head, dialogue.to_client.head)
    if any(_is_another(dialogue.stream(side), found) for side, found in zip(Side, requesting, strict=True)):
        return NOT_THIS
    asking = [dialogue.stream(side) for side, found in zip(Side, requesting, strict=True) if found]
    talk.whole = talk.whole and all(stream.started and not stream.has_hole for stream in asking)
    holes = dialogue.to_server.has_hole or dialogue.to_client.has_hole
    return Evidence(
        "http",
        talk.signs.kept[0].place if talk.signs.kept else Place(Side.TO_SERVER, 0),
        requesting[Side.TO_CLIENT] is True or requesting[Side.TO_SERVER] is False,
        authentication=_authentication(talk),
        encryption="sasl-seal" if talk.sealed else "none",
        signs=tuple(talk.signs.kept),
        gap=holes,
        limited=talk.signs.full or dialogue.to_server.limited or dialogue.to_client.limited,
    )


def _is_another(stream: Stream, requesting: bool | None) -> bool:
    """RPC over HTTP, or a side that began with something else (a banner, say, that a browser got to see)."""
    silent = requesting is None and stream.started and not _LONG_TARGET.match(stream.head)
    return stream.head.startswith(_OTHERS) or (silent and b"\n" in stream.head)


def _undecided(ours: bytes, theirs: bytes) -> Evidence | Answer:
    for turned, data in enumerate((ours, theirs)):
        if _LONG_TARGET.match(data):
            return Evidence("http", Place(Side(turned), 0), bool(turned), limited=True)
    begun = [_REQUEST_BEGINS.match(data) or b"HTTP/1.1 "[: len(data)] == data[:9] for data in (ours, theirs) if data]
    short = all(b"\n" not in data and len(data) < limits.MAX_LINE for data in (ours, theirs))
    return WAIT if begun and all(begun) and short else NOT_THIS


def _read_side(dialogue: Dialogue, side: Side, talk: _Talk) -> bool | None:
    """Read one stream; True if it holds requests, False if answers, None if no message was found."""
    requesting: bool | None = None
    for count, (head, data, offset) in enumerate(_messages(dialogue.stream(side))):
        if count >= limits.MAX_COMMANDS:
            talk.signs.full = True
            break
        requesting = bool(head.method)
        place = Place(side, offset)
        if requesting:
            talk.requests += 1
            _note_request(talk, head, place)
        else:
            talk.answers += 1
            _note_answer(talk, head, place)
        _note_headers(talk, head, place)
        _note_body(talk, head, data[head.end : head.end + _BODY_LOOK], place)
    return requesting


def _messages(stream: Stream) -> Iterator[tuple[Head, bytes, int]]:
    """Heads in order with the chunk they are in and their stream offset; bodies are jumped over, also over holes."""
    due = 0
    for chunk in stream.chunks:
        at = max(due - chunk.offset, 0)
        while at < len(chunk.data):
            head = read_head(chunk.data, at)
            if head is None:
                break
            yield head, chunk.data, chunk.offset + at
            at = _body_end(chunk.data, head)
        due = chunk.offset + at


def _body_end(data: bytes, head: Head) -> int:
    """Offset behind the body (RFC 9112 section 6.3). Where nothing tells its length it ends with the stream."""
    if not head.whole:
        return len(data)
    if head.get(b"transfer-encoding").lower().endswith(b"chunked"):
        return _behind_chunks(data, head.end)
    length = head.get(b"content-length")
    if length.isdigit() and len(length) < 16 and head.status not in _BODILESS:
        jump = head.end + int(length)
        return head.end if _RESPONSE.match(data, head.end) and head.status else jump  # the answer to a HEAD
    return head.end


def _behind_chunks(data: bytes, at: int) -> int:
    """RFC 9112 section 7.1: hexadecimal size, data, until a size of 0 and a blank line."""
    for _ in range(limits.MAX_COMMANDS):
        line_end = data.find(b"\n", at, at + 256)
        size = data[at:line_end].split(b";")[0].strip() if line_end >= 0 else b""
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
            return len(data)
        at = line_end + 1 + int(size, 16) + 2
        if int(size, 16) == 0:
            return at
    return len(data)


# ---- what one message says -------------------------------------------------------------------


def _note_request(talk: _Talk, head: Head, place: Place) -> None:
    path = _path(head.target)
    talk.whole = talk.whole and head.whole
    talk.signs.add("http.method", text(head.method), place)
    talk.signs.add("http.path", path, place)
    if head.method == b"POST" and path.lower().endswith(_FORMS):
        talk.scheme = "forms"
    for cookie in head.get(b"cookie").split(b";", 32)[:32]:
        talk.cookies = talk.cookies or bool(cookie.strip())
        if cookie.strip().startswith(_FORMS_COOKIE):
            talk.scheme = talk.scheme or "forms"
    credentials = head.get(b"authorization")
    if credentials:
        scheme, blob = scheme_of(credentials)
        talk.signs.add("http.authorization", scheme, place)
        talk.scheme = _SCHEMES.get(scheme.lower(), talk.scheme)
        _note_token(talk, scheme, blob, place)


def scheme_of(value: bytes) -> tuple[str, bytes]:
    """Scheme and the rest of an Authorization or WWW-Authenticate value (RFC 9110 section 11.4)."""
    scheme, _, rest = value.partition(b" ")
    return text(scheme), rest


def _path(target: bytes) -> str:
    """The path of a request target in any of its forms (RFC 9112 section 3.2), without query."""
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
        target = b"/" + target.partition(b"//")[2].partition(b"/")[2]
    return text(target.partition(b"?")[0])


def _note_token(talk: _Talk, scheme: str, blob: bytes, place: Place) -> None:
    """Tokens of Negotiate and NTLM; Basic holds a password and is never decoded."""
    if scheme.lower() not in ("negotiate", "ntlm", "kerberos") or not 0 < len(blob) <= limits.MAX_TOKEN:
        return
    try:
        token = gssapi.read_token(b64decode(blob.strip(), validate=True))
    except (Error, ValueError):
        return
    if len(talk.tokens) < limits.MAX_CONTEXTS:
        talk.tokens.append(token)
    for name, value in token.signs:
        talk.signs.add(name, value, place)


def _note_answer(talk: _Talk, head: Head, place: Place) -> None:
    talk.signs.add("http.status", str(head.status), place)
    talk.served = talk.served or 200 <= head.status < 300
    for name, value in head.headers:
        if name == b"www-authenticate":
            scheme, rest = scheme_of(value)
            talk.signs.add("http.authenticate", scheme.rstrip(","), place)
            _note_token(talk, scheme, rest, place)
            _note_bearer(talk, scheme, rest, place)


def _note_bearer(talk: _Talk, scheme: str, rest: bytes, place: Place) -> None:
    """Bearer client_id="00000002-0000-0ff1-ce00-000000000000" is Exchange's own (MS-SPS2SAUTH section 2.2)."""
    found = re.search(rb'client_id="([^"]{1,100})"', rest) if scheme.lower() == "bearer" else None
    if found:
        talk.signs.add("http.bearer-client-id", text(found[1]), place)


def _note_headers(talk: _Talk, head: Head, place: Place) -> None:
    for name, value in head.headers:
        if name.startswith((b"x-", b"ms-", b"msas")):
            talk.signs.add("http.header", text(name), place)
        if name in _VALUES:
            talk.signs.add(f"http.{text(name)}", text(value), place)
        elif name in (b"cookie", b"set-cookie"):
            for cookie in value.split(b";" if name == b"cookie" else b"\n", 32)[:32]:
                talk.signs.add("http.cookie", text(cookie.partition(b"=")[0].strip()), place)
        elif name == b"soapaction":
            talk.signs.add("http.soap-action", text(value.strip(b'"')), place)
    talk.sealed = talk.sealed or _SEALED.search(text(head.get(b"content-type"))) is not None


def _note_body(talk: _Talk, head: Head, body: bytes, place: Place) -> None:
    """The SOAP operation of a request, the server's version in an answer (Exchange Web Services schema)."""
    if b"xml" not in head.get(b"content-type"):
        return
    operation = _OPERATION.search(body)
    if operation:
        talk.signs.add("http.soap-operation", text(operation[1]), place)
    version = _VERSION_INFO.search(body)
    if version:
        talk.signs.add("http.server-version", ".".join(text(p) for p in _VERSION_PART.findall(version[1])), place)


def _authentication(talk: _Talk) -> str | None:
    """What was used; anonymous if the server served requests that showed nothing, all of them seen from the first on.

    Negotiate and NTLM prove a connection, not a request (MS-N2HT, MS-NTHT); a cookie may stand for an earlier proof.
    """
    if talk.scheme in ("negotiate", "ntlm", "kerberos"):
        return gssapi.settle(talk.tokens) or talk.scheme
    nothing = talk.whole and not talk.cookies
    return talk.scheme or ("anonymous" if talk.requests and talk.served and nothing else None)
