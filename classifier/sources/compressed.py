"""Compressed captures → the bytes in them, piece by piece: gzip, zstd, lz4, xz, bzip2, told by their first bytes.

Owns the bounds of decompression; knows nothing of captures. Members that follow one another are one input, as the
tools of each format have it. Formats: RFC 1952 (gzip), RFC 8878 (zstd), the LZ4 frame format 1.6, the .xz file
format 1.2, bzip2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from classifier.limits import COMPRESSED_BLOCK, COMPRESSED_PIECE, MAX_DECODER_LOG, MAX_EXPANSION, MAX_UNASKED_EXPANSION
from classifier.sources.reading import Input

MAGIC_BYTES: Final = 6
"""First bytes that tell every format."""


class Decoder(Protocol):
    """What the libraries have in common (the standard library's `bz2.BZ2Decompressor`)."""

    @property
    def eof(self) -> bool:
        """Whether the end of a member was met."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out without more going in."""

    @property
    def unused_data(self) -> bytes | None:
        """What went in behind the end; lz4 says None for nothing."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most max_length bytes of output. Raises the library's own error for what is corrupt."""


class Format(NamedTuple):
    """One format. magics: first bytes of a member; padded: zeros may follow a member (tapes, the .xz format)."""

    name: str
    magics: tuple[bytes, ...]
    decoder: Callable[[], Decoder]
    padded: bool = False

    def begins(self, data: bytes) -> bool:
        """Whether a member begins so."""
        return data.startswith(self.magics)


def _gzip() -> Decoder:
    from isal import igzip_lib

    decoder: Decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decoder


def _zstd() -> Decoder:
    from backports import zstd

    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_DECODER_LOG})


def _lz4() -> Decoder:
    from lz4.frame import LZ4FrameDecompressor

    decoder: Decoder = LZ4FrameDecompressor()
    return decoder


def _xz() -> Decoder:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << MAX_DECODER_LOG)


def _bzip2() -> Decoder:
    import bz2

    return bz2.BZ2Decompressor()


_SKIPPED = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))
"""Frames of user data, without output (RFC 8878 section 3.1.2); zstd and lz4 have the same ones."""

FORMATS: Final = (
    Format("gzip", (b"\x1f\x8b\x08",), _gzip, padded=True),
    Format("zstd", (b"\x28\xb5\x2f\xfd", *_SKIPPED), _zstd),
    Format("lz4", (b"\x04\x22\x4d\x18", *_SKIPPED), _lz4),
    Format("xz", (b"\xfd7zXZ\x00",), _xz, padded=True),
    Format("bzip2", (b"BZh",), _bzip2),
)


def content_of(compressed: Input) -> Input:
    """What is in an input: itself if its first bytes tell of no compression."""
    head = compressed.peek(MAGIC_BYTES)
    known = next((known for known in FORMATS if known.begins(head)), None)
    return Decompressed(known, compressed) if known else compressed


class Decompressed(Input):
    """The content of a compressed input, as an input itself.

    consumed, produced: bytes taken in and given out. beyond_limit: whether it ended for swelling beyond
    `limits.MAX_EXPANSION`.
    """

    def __init__(self, known: Format, compressed: Input) -> None:
        super().__init__(compressed)
        self._format, self._known = known, b""
        self._block = memoryview(bytearray(COMPRESSED_BLOCK))
        self._decoder = known.decoder()
        self.consumed = self.produced = 0

    def _read(self, buffer: Any) -> int:
        while not self.failure and (not self._decoder.eof or self._next_member()):
            data = self._step(len(buffer))
            if data:
                buffer[: len(data)] = data
                self.produced += len(data)
                return len(data)
        return 0

    def _step(self, room: int) -> bytes:
        piece = b""
        if self._decoder.needs_input:
            piece = self._piece()
            if not piece:
                return self._failed(f"{self._format.name} data cut short")
        allowed = max(MAX_UNASKED_EXPANSION, MAX_EXPANSION * self.consumed) - self.produced
        if allowed <= 0:
            self.beyond_limit = True
            return self._failed(f"{self._format.name} data swells more than {MAX_EXPANSION} times, given up")
        try:
            data = self._decoder.decompress(piece, min(room, allowed))
        except Exception as error:  # each library has errors of its own, and some raise plain ones
            return self._failed(f"{self._format.name} data corrupt ({' '.join(str(error).split())})")
        if not data and not piece and not self._decoder.eof and not self._decoder.needs_input:
            return self._failed(f"{self._format.name} data corrupt (nothing comes of it)")
        return data

    def _next_member(self) -> bool:
        """Whether another member follows the one that ended; it's begun then."""
        rest = self._decoder.unused_data or b""
        self.consumed -= len(rest)
        self._known = rest + self._known
        while True:
            if self._format.padded:
                self._known = self._known.lstrip(b"\0")
            if len(self._known) >= MAGIC_BYTES or not self._more():
                break
        if not self._known:
            return False
        if not self._format.begins(self._known):
            self._failed(f"{self._format.name} data followed by something else")
            return False
        self._decoder = self._format.decoder()
        return True

    def _piece(self) -> bytes:
        """The next bytes for the decoder; few at a time, since those that are found corrupt are lost as a whole."""
        if not self._known:
            self._more()
        piece, self._known = self._known[:COMPRESSED_PIECE], self._known[COMPRESSED_PIECE:]
        self.consumed += len(piece)
        return piece

    def _more(self) -> bool:
        """Read on; False at the end of the input."""
        got = self._raw.readinto(self._block) or 0
        self._known += self._block[:got]
        return got > 0

    def _failed(self, reason: str) -> bytes:
        self.failure = reason
        return b""
