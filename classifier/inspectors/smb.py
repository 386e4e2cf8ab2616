"""SMB over NetBIOS session frames: shares, logons, protection, and RPC in named pipes.

Owns the choice between the versions and the evidence that both give. An SMB 1 negotiation may lead to SMB 2
on the same connection (MS-SMB2 3.3.5.3.1), so both readers see the streams where both magics occur.

Holes: `netbios_session.frames` finds the next frame that holds SMB; a pipe is resynchronised behind it as any
association.
"""

from __future__ import annotations

from typing import Final

from classifier.inspectors import dcerpc, smb1, smb2
from classifier.inspectors.base import NOT_THIS, WAIT, Answer, Dialogue, Evidence, FirstOctets, Side, Stream
from classifier.inspectors.netbios_session import KINDS, SESSION_REQUEST, Frame, find_frame, frames, name, opening
from classifier.inspectors.pipes import Session

FIRST_OCTETS: Final = FirstOctets(bytes(KINDS), resumes=True)


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read an SMB session; protocol `netbios-ssn` if there are session frames but no SMB in them."""
    streams = dialogue.to_server, dialogue.to_client
    openings = [_opening(stream) for stream in streams]
    if dialogue.transport != "tcp" or False in openings:
        return NOT_THIS
    if True not in openings:
        return WAIT if any(stream.chunks for stream in streams) else NOT_THIS
    swapped = _swapped(dialogue)
    session = Session(Side.TO_CLIENT if swapped else Side.TO_SERVER)
    requests, replies = dialogue.stream(session.client).chunks, dialogue.stream(session.server).chunks
    _read_names(session, dialogue.stream(session.client))
    for version in (smb2, smb1):
        if any(magic in chunk.data for magic in version.MAGICS for chunk in (*requests, *replies)):
            version.read(session, requests, replies)
    holds_smb = any(find_frame(chunk.data) >= 0 for chunk in (*requests, *replies))
    protocol = "smb" if holds_smb else "netbios-ssn"
    return dcerpc.evidence_of(session.findings(), protocol, swapped, streams)


def _opening(stream: Stream) -> bool | None:
    if not stream.chunks:
        return None
    first = stream.chunks[0]
    found = opening(first.data[:8])
    if found is not False or (stream.started and first.offset == 0):
        return found
    return any(find_frame(chunk.data) >= 0 for chunk in stream.chunks) or None


def _swapped(dialogue: Dialogue) -> bool | None:
    """True if the streams' first messages say that they are the wrong way round, None if they don't say."""
    for side in Side:
        for frame in frames(dialogue.stream(side).chunks):
            asks = _asks(frame)
            if asks is not None:
                return asks is not (side is Side.TO_SERVER)
    return None


def _asks(frame: Frame) -> bool | None:
    """Whether a frame comes from a client: by its kind, or by the reply flag of the SMB in it."""
    if frame.kind:
        return frame.kind == SESSION_REQUEST or None
    head = frame.data[frame.start : min(frame.start + 20, frame.end)]
    if head.startswith(smb2.MAGIC) and len(head) == 20 and head[4] == smb2.HEADER_SIZE:
        return not head[16] & smb2.RESPONSE
    if head.startswith(smb1.MAGIC) and len(head) > 9:
        return not head[9] & smb1.REPLY
    return None


def _read_names(session: Session, stream: Stream) -> None:
    """The names in a session request: who is called, who calls (RFC 1002 section 4.3.2)."""
    head = stream.head[:72]
    if len(head) == 72 and head[0] == SESSION_REQUEST:
        session.mark("netbios.called", name(head[4:38]), session.client, 0)
        session.mark("netbios.calling", name(head[38:72]), session.client, 0)
