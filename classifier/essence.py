"""What of an opening inspectors read: the same bytes with everything else blanked.

Two TLS hellos differ in their random numbers, two Kerberos requests in their tickets, two sealed RPC requests
in all they carry; what can be learnt from them is the same. `clean` blanks (writes zeros over) such bytes and
cuts off an encrypted rest, so that equal openings can be grouped and only one of each group is read by an
inspector (`inspection`). Blanking never changes a length, so what is found stands at the same offset in all.

Conservative: what is not understood, malformed or spread over odd boundaries stays as it is. A test holds that
every inspector finds the same in a dialogue and in its essence.

Sources: RFC 8446, 5246 (TLS); 1035 (DNS); 4120, X.690 (Kerberos, DER); 4511, 4121 (LDAP, SASL); [MS-NLMP] 2.2.1
(NTLM); C706 12.6 and [MS-RPCE] 2.2.2 (DCE/RPC); [MS-SMB2] 2.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifier.compiled import i64, inlined, kernel, on_stack, u64

Bytes = NDArray[np.uint8]

MAX_CALL_KINDS: Final = 32
"""Kinds of calls told apart in one association before every further one counts as new."""

HTTP_GREETING: Final = 14
"""Octets of "ncacn_http/1.0", which an RPC server says first on its ports for RPC over HTTP ([MS-RPCH] 2.1.2.1.1)."""

WHOLE_NAMES: Final = 0
TICKETS: Final = 1
"""How DER is cleaned: LDAP's octet strings are names and stay; Kerberos's are cipher text and go."""


@inlined
def _be(b: Bytes, p: int, size: int) -> int:
    value = i64(0)
    for i in range(size):
        value = (value << 8) | i64(b[p + i])
    return value


@inlined
def _le(b: Bytes, p: int, size: int) -> int:
    value = i64(0)
    for i in range(size):
        value |= i64(b[p + i]) << (8 * i)
    return value


@inlined
def _has_pair(b: Bytes, start: int, stop: int, first: int, second: int) -> bool:
    """Whether two octets stand at any place of [start, stop), the last of which has one more behind it.

    No early end and unsigned indexes (which Numba need not wrap), so that many places are looked at at a time.
    """
    found = False
    for p in range(u64(start), u64(max(start, stop))):
        found |= (b[p] == first) & (b[p + u64(1)] == second)
    return found


# ---- TLS ------------------------------------------------------------------------------------------


@kernel
def _clean_hello(b: Bytes, p: int, end: int, client: bool) -> None:
    """ClientHello or ServerHello body (RFC 8446 section 4.1): random numbers, session ids, key shares, tickets."""
    if p + 35 > end:
        return
    session = i64(b[p + 34])
    at = p + 35 + session
    if at + 3 > end:
        return
    if client:
        at += 2 + _be(b, at, 2)
        if at + 1 > end:
            return
        at += 1 + i64(b[at])
    else:
        at += 3
    if at + 2 <= end:
        extensions_end = at + 2 + _be(b, at, 2)
        if extensions_end > end:
            return
        at += 2
        while at + 4 <= extensions_end:
            kind, size = _be(b, at, 2), _be(b, at + 2, 2)
            if at + 4 + size > extensions_end:
                return
            if kind == 51 or kind == 41 or kind == 35:  # key_share, pre_shared_key, session_ticket
                b[at + 4 : at + 4 + size] = 0
            at += 4 + size
    if _be(b, p + 2, 4) != 0xCF21AD74:  # that one marks a HelloRetryRequest
        b[p + 2 : p + 34] = 0
    b[p + 35 : p + 35 + session] = 0


@kernel
def _clean_tls(b: Bytes, start: int, end: int) -> int:
    """TLS records: hellos without their random numbers, key exchanges blanked, cut where encryption begins.

    Where no handshake was captured the headers of all records stay: they are all that tells TLS.
    """
    p, greeted = start, False
    while p + 5 <= end:
        kind, size = b[p], _be(b, p + 3, 2)
        if b[p + 1] != 3 or kind < 20 or kind > 23:
            return end
        encrypted = kind == 20 or kind == 23
        if encrypted and greeted:
            return p + 1
        if encrypted:
            b[p + 5 : min(p + 5 + size, end)] = 0
            p += 5 + size
            continue
        if p + 5 + size > end:
            return end
        greeted |= kind == 22
        at, record_end = p + 5, p + 5 + size
        while kind == 22 and at + 4 <= record_end:
            message, length = b[at], _be(b, at + 1, 3)
            if at + 4 + length > record_end:
                return end
            if message == 1 or message == 2:
                _clean_hello(b, at + 4, at + 4 + length, message == 1)
            elif message == 12 or message == 16 or message == 15 or message == 4:
                b[at + 4 : at + 4 + length] = 0
            at += 4 + length
        p = record_end
    return end


# ---- NTLM and DER -----------------------------------------------------------------------------------


@kernel
def _clean_ntlm(b: Bytes, p: int, end: int) -> None:
    """An NTLM message ([MS-NLMP] 2.2.1): challenge, responses, session key, MIC and time stamps."""
    if p + 32 > end:
        return
    message = _le(b, p + 8, 4)
    if message == 2:
        b[p + 24 : p + 32] = 0
        if p + 48 <= end:
            size, at = _le(b, p + 40, 2), p + _le(b, p + 44, 4)
            stop = min(at + size, end)
            while at + 4 <= stop:
                kind, length = _le(b, at, 2), _le(b, at + 2, 2)
                if kind == 7 and at + 4 + length <= stop:  # MsvAvTimestamp
                    b[at + 4 : at + 4 + length] = 0
                if kind == 0:
                    break
                at += 4 + length
    elif message == 3 and p + 88 <= end:
        lowest = end
        for field in range(6):
            lowest = min(lowest, p + _le(b, p + 12 + 8 * field + 4, 4))
        for field in (0, 1, 5):
            size, at = _le(b, p + 12 + 8 * field, 2), p + _le(b, p + 12 + 8 * field + 4, 4)
            if at + size <= end and at >= p + 64:
                b[at : at + size] = 0
        if lowest >= p + 88:
            b[p + 72 : p + 88] = 0


@kernel
def _is_ntlm(b: Bytes, p: int, end: int) -> bool:
    return p + 12 <= end and _be(b, p, 4) == 0x4E544C4D and _be(b, p + 4, 4) == 0x53535000


@kernel
def _clean_der(b: Bytes, start: int, end: int, how: int) -> None:
    """A DER value: cipher text, nonces and times go; tags, lengths, names and small numbers stay.

    Constructed values are walked through in order, so no nesting needs to be remembered. A token inside an
    octet string is cleaned as a ticket whatever is around it.
    """
    p, names_from = start, start if how == WHOLE_NAMES else end
    while p + 2 <= end:
        tag, size, header = i64(b[p]), i64(b[p + 1]), 2
        tickets = p < names_from if how == WHOLE_NAMES else True
        if tag & 31 == 31:
            return
        if size & 0x80:
            octets = size & 0x7F
            if octets == 0 or octets > 3 or p + 2 + octets > end:
                return
            size, header = _be(b, p + 2, octets), 2 + octets
        content = p + header
        stop = content + size
        if stop > end:
            return
        if tag & 0x20:
            p = content
            if size >= 13 and b[content] == 6 and tickets and tag == 0x60:
                p = _behind_mechanism(b, content, stop)
            continue
        if _is_ntlm(b, content, stop):
            _clean_ntlm(b, content, stop)
        elif tag == 4 or tag == 0x87 or tag == 0x83:
            nested = size >= 16 and (
                b[content] == 0x60 or b[content] == 0xA1 or b[content] == 0x6E or b[content] == 0x6F
            )
            if nested and _spans(b, content, stop):
                names_from = max(names_from, stop)
                p = content
                continue
            if tickets and size > 8:
                b[content:stop] = 0
        elif tickets and ((tag == 2 and size >= 3) or tag == 0x18):
            b[content:stop] = 0
        p = stop


@kernel
def _behind_mechanism(b: Bytes, p: int, end: int) -> int:
    """Behind the mechanism of a GSS token, and Kerberos's two octets of token id behind that (RFC 4121 section 4.1)."""
    behind = p + 2 + i64(b[p + 1])
    if behind + 4 <= end and b[behind] <= 3 and b[behind + 1] == 0:
        return behind + 2
    return behind


@kernel
def _spans(b: Bytes, p: int, end: int) -> bool:
    """Whether one DER value fills these bytes exactly."""
    size, header = i64(b[p + 1]), 2
    if size & 0x80:
        octets = size & 0x7F
        if octets == 0 or octets > 3 or p + 2 + octets > end:
            return False
        size, header = _be(b, p + 2, octets), 2 + octets
    return p + header + size == end


@kernel
def _clean_token(b: Bytes, p: int, end: int) -> None:
    if _is_ntlm(b, p, end):
        _clean_ntlm(b, p, end)
    elif p + 2 <= end and _spans(b, p, end):
        _clean_der(b, p, end, TICKETS)


@kernel
def _clean_ldap(b: Bytes, start: int, end: int) -> int:
    """LDAP messages, and the SASL buffers that follow a bind (RFC 4511 section 5.1, RFC 4121 section 4.2.6.2)."""
    p = start
    while p + 6 <= end:
        if b[p] == 0x30:
            size, header = i64(b[p + 1]), 2
            if size & 0x80:
                octets = size & 0x7F
                if octets == 0 or octets > 4 or p + 2 + octets > end:
                    return end
                size, header = _be(b, p + 2, octets), 2 + octets
            if p + header + size > end:
                return end
            _clean_der(b, p, p + header + size, WHOLE_NAMES)
            p += header + size
        else:
            size = _be(b, p, 4)
            if size < 16 or size > 0xFFFFFF or p + 4 + size > end:
                return end
            at = p + 4
            if (b[at] == 5 and b[at + 1] == 4 and b[at + 2] & 2) or (
                _le(b, at, 4) == 1 and size > 16 and b[at + 16] != 0x30
            ):  # sealed Kerberos wrap token
                b[at + 4 : at + size] = 0
            p = at + size
    return end


# ---- DNS -----------------------------------------------------------------------------------------------


@kernel
def _behind_name(b: Bytes, p: int, end: int) -> int:
    """Behind a domain name (RFC 1035 section 4.1.4), or -1. A pointer into the message's header is no name."""
    for _ in range(128):
        if p >= end:
            return -1
        size = i64(b[p])
        if size == 0:
            return p + 1
        if size & 0xC0 == 0xC0:
            return p + 2 if p + 2 <= end and _be(b, p, 2) >= 0xC00C else -1
        if size & 0xC0:
            return -1
        p += 1 + size
    return -1


@kernel
def _clean_dns(b: Bytes, start: int, end: int) -> int:
    """One DNS message: its id and the times to live of its records, if there are any and all are whole."""
    if end - start < 12 or b[start + 4] != 0 or b[start + 5] > 4:
        return end
    questions, records = _be(b, start + 4, 2), _be(b, start + 6, 2) + _be(b, start + 8, 2) + _be(b, start + 10, 2)
    p = start + 12
    for _ in range(questions):
        p = _behind_name(b, p, end)
        if p < 0 or p + 4 > end:
            return end
        p += 4
    answers = p
    for _ in range(records):
        p = _behind_name(b, p, end)
        if p < 0 or p + 10 > end or p + 10 + _be(b, p + 8, 2) > end:
            return end
        p += 10 + _be(b, p + 8, 2)
    if p != end or p == start + 12:
        return end
    p = answers
    for _ in range(records):
        p = _behind_name(b, p, end)
        b[p + 4 : p + 8] = 0
        p += 10 + _be(b, p + 8, 2)
    b[start : start + 2] = 0
    return end


# ---- DCE/RPC ---------------------------------------------------------------------------------------------


@kernel
def _clean_own_port(b: Bytes, p: int, end: int, port: int, little: bool) -> None:
    """A bind_ack's secondary address, if it is the port that the PDU comes from (C706 section 12.6.4.4)."""
    size = _le(b, p, 2) if little else _be(b, p, 2)
    if size < 2 or size > 6 or p + 2 + size > end:
        return
    value = 0
    for at in range(p + 2, p + 1 + size):
        if b[at] < 48 or b[at] > 57:
            return
        value = 10 * value + i64(b[at]) - 48
    if value == port:
        b[p + 2 : p + 1 + size] = 0


@kernel
def reads_stubs(b: Bytes, start: int, end: int) -> bool:
    """Whether stubs of an association can tell anything: its client binds an interface that hands out ports
    (the endpoint mapper, OXID resolution, remote activation), or its bind was not captured."""
    p, bound = start, False
    while p + 16 <= end and b[p] == 5:
        little = b[p + 4] & 0xF0 != 0
        size = _le(b, p + 8, 2) if little else _be(b, p + 8, 2)
        if size < 16 or p + size > end:
            return True
        if b[p + 2] == 11 or b[p + 2] == 14:
            bound = True
            at, left = p + 28, i64(b[p + 24]) if size > 28 else 0
            while left > 0 and at + 24 <= p + size:
                uuid = _le(b, at + 4, 4) if little else _be(b, at + 4, 4)
                if uuid == 0xE1AF8308 or uuid == 0x99FCFEC4 or uuid == 0x000001A0 or uuid == 0x4D9F4AB8:
                    return True
                at += 24 + 20 * i64(b[at + 2])
                left -= 1
        elif not bound:
            return True
        p += size
    return not bound


@kernel
def _has_trailer(b: Bytes, start: int, end: int) -> bool:
    """Whether a verification trailer may stand in these stub bytes ([MS-RPCE] 2.2.2.13: its signature)."""
    if _has_pair(b, start, end - 7, 0x8A, 0xE3):
        for p in range(start, end - 7):
            if _be(b, p, 4) == 0x8AE31371:
                return True
    return False


@kernel
def _clean_rpc(b: Bytes, start: int, end: int, first_call: int, port: int, stubs: bool) -> int:
    """Connection-oriented PDUs: call ids counted from the first, groups, tokens, sealed stubs and signatures.

    Cut behind the last PDU that is more than another call of an operation (or answer) like one before it; of a
    call that is the first of its like only the header matters, with how it is protected in place of its length
    and what made its signature in place of its hint.
    """
    p, telling, kinds, last, last_trailer = start, start, 0, i64(-1), start
    known = on_stack(MAX_CALL_KINDS)
    while p + 16 <= end and b[p] == 5:
        little = b[p + 4] & 0xF0 != 0
        size = _le(b, p + 8, 2) if little else _be(b, p + 8, 2)
        token = _le(b, p + 10, 2) if little else _be(b, p + 10, 2)
        if size < 16 or p + size > end or (token and token + 8 > size - 16):
            return end
        kind, trailer = b[p + 2], p + size - token - 8
        novel = stubs or (kind != 0 and kind != 2) or size < 24 or b[p + 3] & 3 != 3
        if novel:
            last = -1
        else:
            like = (_be(b, p + 20, 4) << 24) | (kind << 16)
            if token:
                like |= (1 << 56) | _be(b, trailer, 2)
            for i in range(kinds):
                if known[i] == like:
                    break
            else:
                novel, last, last_trailer = True, p, trailer if token else p
                if kinds < MAX_CALL_KINDS:
                    known[kinds] = like
                    kinds += 1
        call = (_le(b, p + 12, 4) if little else _be(b, p + 12, 4)) - first_call
        for i in range(4):
            b[p + 12 + i] = (call >> (8 * i)) & 0xFF
        opening = kind == 11 or kind == 12 or kind == 14 or kind == 15
        if opening and size >= 26:
            b[p + 20 : p + 24] = 0
            if kind == 12 or kind == 15:
                _clean_own_port(b, p + 24, p + size, port, little)
        if token:
            if opening or kind == 16:
                _clean_token(b, trailer + 8, p + size)
            elif kind == 0 or kind == 2:  # the first octets say what made it (RFC 4121 4.2.6, [MS-NLMP] 2.2.2.9)
                b[trailer + 12 : p + size] = 0
        if (kind == 0 or kind == 2) and size >= 24:
            b[p + 16 : p + 20] = 0
            stub_end = trailer if token else p + size
            sealed = token != 0 and b[trailer + 1] == 6
            if stub_end > p + 24 and (sealed or not (stubs or _has_trailer(b, p + 24, stub_end))):
                b[p + 24 : stub_end] = 0
            elif not sealed and not stubs:
                novel, last = True, -1
        p += size
        if novel:
            telling = p
    if p < end and b[p] != 5:
        return end
    if last >= 0:
        telling = last + 24
        protected = last_trailer > last
        for i in range(2):
            b[last + 8 + i] = b[last_trailer + i] if protected else 0
        for i in range(4):
            at = last_trailer + 8 + i
            b[last + 16 + i] = b[at] if protected and at < end else 0
    return telling


@kernel
def first_call_id(b: Bytes, start: int, end: int) -> int:
    """The call id of the first PDU, 0 if there is none."""
    if end - start < 16 or b[start] != 5:
        return 0
    return _le(b, start + 12, 4) if b[start + 4] & 0xF0 else _be(b, start + 12, 4)


# ---- SMB -------------------------------------------------------------------------------------------------


@kernel
def _clean_smb2(b: Bytes, start: int, end: int) -> int:
    """SMB2 messages behind NetBIOS lengths ([MS-SMB2] 2.2): signatures, GUIDs and times of negotiation, tokens."""
    p = start
    while p + 4 + 64 <= end and b[p] == 0 and _be(b, p + 4, 4) == 0xFE534D42:
        message, stop = p + 4, p + 4 + _be(b, p + 1, 3)
        if stop > end or stop < message + 64:
            return end
        command, answer, body = _le(b, message + 12, 2), b[message + 16] & 1, message + 64
        b[message + 48 : message + 64] = 0
        if command == 0 and not answer and body + 28 <= stop:
            b[body + 12 : body + 28] = 0
        elif command == 0 and body + 64 <= stop:
            b[body + 8 : body + 24] = 0
            b[body + 40 : body + 56] = 0
            _clean_blob(b, message, body + 56, stop)
        elif command == 1 and body + (8 if answer else 24) <= stop:
            _clean_blob(b, message, body + (4 if answer else 12), stop)
        p = stop
    return end


@kernel
def _clean_blob(b: Bytes, message: int, field: int, stop: int) -> None:
    """The security token that a message's offset and length fields point at."""
    at, size = message + _le(b, field, 2), _le(b, field + 2, 2)
    if message + 64 <= at and at + size <= stop and size:
        _clean_token(b, at, at + size)


# ---- which -----------------------------------------------------------------------------------------------


@kernel
def _text_then_tls(b: Bytes, start: int, end: int) -> int:
    """Lines, and a TLS handshake that a STARTTLS of some kind made of the connection."""
    if _has_pair(b, start + 1, end - 6, 0x16, 3):
        for p in range(start + 1, end - 6):
            if b[p] == 0x16 and b[p + 1] == 3 and b[p + 2] <= 4 and b[p - 1] == 0x0A and b[p + 5] <= 2:
                return _clean_tls(b, p, end)
    return end


@kernel
def clean(b: Bytes, start: int, end: int, tcp: bool, first_call: int, port: int, stubs: bool) -> int:
    """Blank what inspectors don't read of the opening in b[start:end]. Returns where what matters ends.

    first_call: `first_call_id` of the dialogue's client side (server side if there is no other). port: the
    port that sent these bytes. stubs: `reads_stubs` of the client side.
    """
    if end - start < 8:
        return end
    first, second = b[start], b[start + 1]
    if tcp and 20 <= first <= 23 and second == 3:
        return _clean_tls(b, start, end)
    if tcp and first == 5 and second <= 1:
        return _clean_rpc(b, start, end, first_call, port, stubs)
    if tcp and _be(b, start, 8) == 0x6E6361636E5F6874 and end - start >= HTTP_GREETING:  # "ncacn_ht"
        return _clean_rpc(b, start + HTTP_GREETING, end, first_call, -1, stubs)
    if first == 0x30:
        return _clean_ldap(b, start, end)
    if tcp and first == 0 and end - start >= 8 and _be(b, start + 4, 4) == 0xFE534D42:
        return _clean_smb2(b, start, end)
    body = start + 4 if tcp and first == 0 and second == 0 else start
    if 0x6A <= b[body] <= 0x7E and body + 2 <= end and _spans(b, body, end):
        _clean_der(b, body, end, TICKETS)
        return end
    if not tcp:
        return _clean_dns(b, start, end)
    if 0x20 <= first < 0x7F:
        return _text_then_tls(b, start, end)
    return end
