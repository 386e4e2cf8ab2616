"""Captures in formats of others, turned into pcapng by Wireshark's tools while they are read.

Owns which formats those are. Wireshark takes many things for captures, and text for some; only formats that hold
packets of networks are converted. Nothing is written to disk. Must not know pcapng. What runs the tools is loaded when
they are needed: packets are waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from classifier.errors import MissingToolError, UsageError

FORMATS: Final = frozenset(
    (
        "5views", "aethra", "capsa", "commview-ncf", "commview-ncfx", "cosine", "dbs-etherwatch", "erf",
        "etl", "eyesdn", "iptrace_1", "iptrace_2", "iseries", "lanalyzer", "netmon1", "netmon2",
        "netscreen", "nettl", "ngsniffer", "ngwsniffer_1_1", "ngwsniffer_2_0", "nstrace10", "nstrace20",
        "nstrace30", "nstrace35", "observer", "peekclassic56", "peekclassic7", "peektagged", "radcom",
        "shomiti", "snoop", "visual", "vms",
    )
)  # fmt: skip
"""Names that captype has for them."""

MAGICS: Final = (b"GMBU", b"RTSS", b"snoo", b"TRSN", b"\xaa\xaa\xaa\xaa", b"\x05VNF", b"Obse", b"\x7fver", b"ipto")
"""First four bytes of NetMon 2 and 1, snoop, Sniffer, 5View, Visual, Observer, Peek and iptrace; ERF and ETL have
none. A file of a folder is taken for a capture by its first bytes alone."""


def format_of(path: str) -> str | None:
    """Which of the formats a file has. Raises MissingToolError without the tool that tells."""
    from classifier import tools

    try:
        told = tools.run("captype", path).strip().rpartition(": ")[2]
    except MissingToolError:
        raise
    except UsageError:  # what it can't make sense of
        return None
    return told if told in FORMATS else None


@contextmanager
def as_pcapng(path: str, form: str) -> Iterator[IO[bytes]]:
    """A file of that format as pcapng, read as it comes. Raises UsageError when it can't be converted to its end.

    Of ERF, which has its own link type, Ethernet records are of use.
    """
    from classifier import tools

    link = ("-T", "ether") if form == "erf" else ()
    with tools.output("editcap", "-F", "pcapng", *link, path, "-") as stream:
        yield stream
