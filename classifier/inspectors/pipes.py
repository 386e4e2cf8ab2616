"""What an SMB session tells: its shares and logons, and the RPC associations in its named pipes.

Owns the byte streams of pipes, put together from the messages that write and read them, and the step from
there to findings. It knows neither version of SMB; `smb1` and `smb2` fill a `Session`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from classifier import limits
from classifier.inspectors import association, dcerpc, gssapi, pdus
from classifier.inspectors.base import Place, Side
from classifier.inspectors.carried import Carried
from classifier.inspectors.reading import Signs


class Pipe:
    """A named pipe with RPC in it. name: "" if its opening was not seen."""

    __slots__ = ("halves", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.halves = (Carried(), Carried())

    @property
    def via(self) -> str:
        """How an interface in it says where it came from."""
        return f"\\PIPE\\{self.name}" if self.name else "\\PIPE"


class Session:
    """What the messages of a session told so far. client: the side of the dialogue that asks."""

    def __init__(self, client: Side) -> None:
        self.client = client
        self.server = Side(1 - client)
        self.signs = Signs()
        self.tokens: list[gssapi.Token] = []
        self.names: dict[Hashable, str] = {}
        self.pipes: dict[Hashable, Pipe | None] = {}
        self.authentication: str | None = None
        self.signed = False
        self.unsigned = False
        self.encrypted = False
        self.limited = False

    def mark(self, field: str, value: str, side: Side, offset: int) -> None:
        """Note a sign."""
        self.signs.add(field, value, Place(side, offset))

    def token(self, data: bytes, side: Side, offset: int) -> None:
        """Read a logon's token."""
        if data and len(self.tokens) < limits.MAX_CONTEXTS:
            token = gssapi.read_token(data)
            self.tokens.append(token)
            for field, value in token.signs:
                self.mark(field, value, side, offset)

    def opened(self, handle: Hashable, name: str, share: str, offset: int) -> None:
        """Note that a handle stands for a file or pipe of that name. share: where, "" if not known."""
        name = name.strip("\\/\0")
        name = name[5:] if name[:5].upper() == "PIPE\\" else name
        self._retire(handle)
        if len(self.names) < limits.MAX_CALLS:
            self.names[handle] = name[: limits.MAX_TEXT]
        if share.upper().endswith("IPC$"):
            self.mark("smb.pipe", name, self.client, offset)

    def pipe(self, handle: Hashable, data: bytes) -> Pipe | None:
        """The pipe behind a handle, if it carries RPC, which its first bytes decide."""
        if handle not in self.pipes:
            if len(self.pipes) >= limits.MAX_PIPES:
                self.limited = True
                return None
            carries = pdus.opening(data) not in (pdus.ALIEN, None)
            self.pipes[handle] = Pipe(self.names.get(handle, "")) if carries else None
        return self.pipes[handle]

    def _retire(self, handle: Hashable) -> None:
        """Keep the pipe of a handle whose number is used again."""
        former = self.pipes.pop(handle, None)
        if former is not None:
            self.pipes["former", len(self.pipes)] = former

    def findings(self) -> dcerpc.Findings:
        """All associations in the pipes, and what the session itself tells."""
        total = dcerpc.Findings(limited=self.limited or self.signs.full)
        for pipe in self.pipes.values():
            if pipe is not None:
                self._add(total, pipe)
        total.signs = self.signs.kept + total.signs
        total.authentication = self.authentication or self._logon() or total.authentication
        total.encryption = self._protection(total.encryption)
        return total

    def _add(self, total: dcerpc.Findings, pipe: Pipe) -> None:
        rpc = association.Association(dcerpc.WANTED, self.client)
        count = rpc.read_client(pipe.halves[0].chunks()) + rpc.read_server(pipe.halves[1].chunks())
        if not count:
            return

        def locate(side: Side, offset: int) -> Place:
            return Place(side, pipe.halves[0 if side is self.client else 1].origin(offset))

        found = dcerpc.conclude(rpc, pipe.via, locate)
        total.interfaces += found.interfaces
        total.queries += found.queries
        total.handouts += found.handouts
        total.signs += found.signs
        total.limited |= found.limited
        total.authentication = total.authentication or found.authentication
        total.encryption = max(total.encryption, found.encryption, key=_strength)
        self.mark("smb.pipe", pipe.name, self.client, pipe.halves[0].origin(0))

    def _logon(self) -> str | None:
        if not self.tokens:
            return None
        return gssapi.settle(self.tokens) or "negotiate"

    def _protection(self, of_pipes: str | None) -> str | None:
        """The stronger of what the session and the associations in its pipes do."""
        own = "smb3" if self.encrypted else "smb-sign" if self.signed else "none" if self.unsigned else None
        return max(own, of_pipes, key=_strength)


_STRENGTHS: Final = (None, "none", "rpc-integrity", "smb-sign", "rpc-privacy", "smb3")


def _strength(encryption: str | None) -> int:
    return _STRENGTHS.index(encryption)
