"""Captures → PacketBatches, chosen by content, several of them in the order of their time.

The names users give (files, folders, `-`) become one capture set here. Knows formats only to tell them
apart; each is read in a module of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Protocol, cast

from classifier.errors import Damage, MissingToolError, UsageError
from classifier.limits import KIB, READ_BLOCK
from classifier.packets import Frames, Interfaces, PacketBatch
from classifier.sources import converted, pcap, pcapng
from classifier.sources.compressed import content_of
from classifier.sources.merging import Start, merged
from classifier.sources.reading import Input, Readable, Window

STDIN = "-"
PEEK = 64 * KIB
MAGIC = 4
"""First bytes that tell a format of captures."""

_OWN_MAGICS = frozenset((*pcap.MAGICS, pcapng.MAGIC))
"""Of the formats that are read here."""

Progress = Callable[[int, int], None]
"""Called with bytes read so far and bytes in all (0 when unknown)."""


class Source(Protocol):
    """One open capture."""

    name: str
    window: Window

    def batches(self) -> Iterator[PacketBatch]:
        """Its packets in file order."""


@dataclass(slots=True)
class CaptureSet:
    """All captures of one run. damages grows while they are read.

    bytes_read, bytes_total: of the files as they are stored, compressed or not. beyond_limit: how many were given up
    for swelling beyond bounds. secrets: TLS key logs that the captures carry.
    """

    names: list[str]
    interfaces: Interfaces = field(default_factory=Interfaces)
    frames: Frames = field(default_factory=Frames)
    damages: list[Damage] = field(default_factory=list)
    bytes_read: int = 0
    bytes_total: int = 0
    beyond_limit: int = 0
    secrets: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, inputs: Iterable[str | Path]) -> CaptureSet:
        """Resolve files, folders and `-`.

        Raises UsageError when a name does not exist, a folder holds no capture, or `-` is not alone.
        """
        given = [str(name) for name in inputs]
        if STDIN in given and len(given) > 1:
            raise UsageError("standard input ('-') can't be one of several captures")
        names = [name for entry in given for name in _expand(entry)]
        if not names:
            raise UsageError("no capture given")
        total = sum(Path(name).stat().st_size for name in names if name != STDIN)
        return cls(list(dict.fromkeys(names)), bytes_total=total)

    def batches(self, progress: Progress | None = None) -> Iterator[PacketBatch]:
        """All packets of the set, merged by time."""
        starts = [self._start(name) for name in self.names] if len(self.names) > 1 else [0]
        in_time = sorted(zip(starts, self.names, strict=True), key=lambda entry: entry[0])
        opened = [Start(start, name, self.frames.open(name)) for start, name in in_time]
        for batch in merged(opened, self._read):
            yield batch
            if progress is not None:
                progress(self.bytes_read, self.bytes_total)

    def _start(self, name: str) -> int:
        """Time of a capture's first packet; one without any comes first. Leaves no trace."""
        scratch = CaptureSet([name])
        return next((int(batch.columns.time[0]) for batch in scratch._read(name, 1, PEEK)), 0)

    def _read(self, name: str, first_frame: int, capacity: int = READ_BLOCK) -> Iterator[PacketBatch]:
        """Packets of one capture, in the format that its first bytes name, or as others convert it."""
        with _binary(name) as stream:
            stored = Input(stream)
            content = content_of(stored)
            magic = content.peek(MAGIC)
            if magic in _OWN_MAGICS:
                yield from self._batches(name, stored, content, first_frame, capacity)
                return
        reason = content.failure or _no_capture(magic)
        if magic and name != STDIN and not content.failure:
            try:
                if form := converted.format_of(name):
                    yield from self._converted(name, form, first_frame, capacity)
                    return
            except MissingToolError as error:
                reason += f"; if it is a capture in another format: {error}"
        self.damages.append(Damage(name, 0, reason))

    def _converted(self, name: str, form: str, first_frame: int, capacity: int) -> Iterator[PacketBatch]:
        try:
            with converted.as_pcapng(name, form) as stream:
                content = Input(cast(Readable, stream))
                yield from self._batches(name, content, content, first_frame, capacity)
        except MissingToolError:
            raise
        except UsageError as error:
            self.damages.append(Damage(name, 0, f"converted from {form} in part: {error}"))

    def _batches(
        self, name: str, stored: Input, content: Input, first_frame: int, capacity: int
    ) -> Iterator[PacketBatch]:
        told = len(self.damages)
        source = self._source(name, content, first_frame, capacity)
        for batch in source.batches():
            self.bytes_read += stored.news()
            yield batch
        self.bytes_read += stored.news()
        self.beyond_limit += content.beyond_limit
        if content.failure and not any(content.failure in each.reason for each in self.damages[told:]):
            self.damages.append(Damage(name, source.window.offset, content.failure))

    def _source(self, name: str, content: Input, first_frame: int, capacity: int) -> Source:
        """The reader for what the first bytes say."""
        window = Window(content, capacity)
        if content.peek(MAGIC) in pcap.MAGICS:
            return pcap.PcapSource(name, window, self.interfaces, first_frame, self.damages)
        return pcapng.PcapngSource(name, window, self.interfaces, first_frame, self.damages, self.secrets)


def _expand(entry: str) -> list[str]:
    """A folder stands for the captures in it, at any depth."""
    if entry == STDIN:
        return [entry]
    path = Path(entry)
    if path.is_dir():
        found = sorted(str(child) for child in path.rglob("*") if child.is_file() and _looks_like_capture(child))
        if not found:
            raise UsageError(f"no capture in folder {entry}")
        return found
    if not path.exists():
        raise UsageError(f"no such file: {entry}")
    return [entry]


def _no_capture(magic: bytes) -> str:
    return f"not a capture: begins with {magic.hex(' ')}" if magic else "empty"


def _looks_like_capture(path: Path) -> bool:
    try:
        with path.open("rb", buffering=0) as stream:
            magic = content_of(Input(stream)).peek(MAGIC)
    except OSError:
        return False
    return magic in _OWN_MAGICS or magic in converted.MAGICS


def _binary(name: str) -> FileIO | BufferedReader:
    """The raw bytes of a file or of standard input. Raises UsageError if it can't be opened."""
    if name == STDIN:
        return _standard_input()
    try:
        return Path(name).open("rb", buffering=0)
    except OSError as error:
        raise UsageError(f"can't open {name}: {error.strerror}") from error


def _standard_input() -> FileIO | BufferedReader:
    """Standard input without Python's buffer, whose lock a blocked reading thread would hold for ever."""
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except (OSError, ValueError):  # a test's, or a notebook's, has no file behind it
        return cast(BufferedReader, sys.stdin.buffer)
