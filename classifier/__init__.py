"""exflow: which documented Exchange data path each captured conversation is, and why.

    import classifier
    result = classifier.classify("trace.pcapng", inventory="hosts.toml")
    result.to_pandas()
    print(result[7].explain())

The house, in the order in which its rooms may import each other:

    errors limits model fields   the exceptions, every bound, the nouns, every column
    keeping compiled hashing     what runs keep for the next ones; how kernels are compiled; keyed hashes
    memory beside                what several processes share, and make ahead
    packets addresses sources/   captures -> batches of packets, in columns
    headers fragments            links, tunnels, IP, TCP and UDP -> one row about the innermost segment
    streams conversations        -> the table of conversations and the first bytes of each direction
    retirement assembly          which are over; packets of a capture set into one table, and who reads them when
    orientation                  who is client, who is server
    dialogues essence inspection bytes in order; which openings say the same; each is read once
    inspectors/                  one protocol a file: bytes -> evidence
    endpoints hosts              which port was handed out for what, when; what the user knows of hosts
    rules rulebook matching      what signatures/ say; evidence x rulebook -> matches
    verdicts rulecheck           matches -> one label, or the reason why there is none; the signatures' examples
    placement expectations       what the documents say of roles, ports and protection, against what was seen
    findings audit acceptance    what is a finding; which conversations have some; which ones the user accepts
    selection                    which conversations are meant
    labelling columns            what conversations tell of each other; everything -> columns
    result conclusion pipeline   what comes out; the order of the steps
    ended following              conversations over time: what is told again, what is forgotten
    sniffing sinks packet_ring   a running live capture, and where its reports and packets go
    decryption tools             TLS read with session keys; Wireshark's programs
    excerpt blocks extraction    their frames, by a second reading; pcapng with labels as comments
    profile                      a Wireshark profile for a result
    firewall                     what a firewall has to let in
    report/                      one HTML file for somebody else
    overview                     a result at a glance, for a notebook
    hostmap figures/             maps, timelines and bars of a result
    dissectors deep              one conversation in scapy and tshark
    arrow tables lines records   Parquet; pandas; JSON lines, CSV, the terminal
    cli/                         the command, a module for each group of commands

Importing the package loads none of them: each name below arrives with its first use.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier.errors import ExflowError, UsageError
    from classifier.pipeline import Settings
    from classifier.result import Conversation, Result

    AnyPath = str | os.PathLike[str]

__all__ = ["Conversation", "ExflowError", "Result", "Settings", "UsageError", "classify", "sniff"]

_HOME: Final = {
    "Conversation": "classifier.result",
    "ExflowError": "classifier.errors",
    "Result": "classifier.result",
    "Settings": "classifier.pipeline",
    "UsageError": "classifier.errors",
}


def classify(
    *captures: AnyPath,
    inventory: AnyPath | None = None,
    signatures: AnyPath | None = None,
    endpoint_map: AnyPath | None = None,
    policy: AnyPath | None = None,
    accept: AnyPath | None = None,
    keylog: AnyPath | None = None,
    jobs: int | None = None,
) -> Result:
    """Classify one capture set: every conversation in it, with its label or the reason why it has none.

    captures: files, folders (the captures in them) or "-" (standard input), taken together in time order.
    inventory: TOML of the hosts that the user knows. signatures: folder to use instead of the shipped one.
    endpoint_map: JSON lines of ports learnt in earlier runs, read and added to. policy: TOML of the user's own
    findings. accept: TOML of findings that the user lives with. keylog: session keys of TLS (SSLKEYLOGFILE), with which
    tshark decrypts; keys inside a pcapng are used without being asked for. jobs: how many
    threads and processes work at a time; None: as many as there are cores.
    Raises UsageError for a missing input or a broken signature. A damaged capture raises nothing: what is
    whole is in the result, what is not in its `damages`.
    """
    from classifier.pipeline import Settings, run

    settings = Settings(
        inventory=_path(inventory), signatures=_path(signatures), endpoint_map=_path(endpoint_map), jobs=jobs,
        policy=_path(policy), accept=_path(accept), keylog=_path(keylog),
    )  # fmt: skip
    return run([os.fspath(capture) for capture in captures], settings, None)


def sniff(
    interface: str,
    *,
    filter: str = "",
    duration: float | None = None,
    count: int | None = None,
    snaplen: int | None = None,
    inventory: AnyPath | None = None,
    signatures: AnyPath | None = None,
    endpoint_map: AnyPath | None = None,
) -> Iterator[Conversation]:
    """Listen to an interface and yield its conversations, labelled, as they are decided, revised and ended.

    Each has the fields of a result's conversations, and `event` (`new`, `update`, `end`; a later one of the same id
    replaces an earlier one) and `capture_loss`. filter: as of tcpdump. duration: seconds; count: packets; without
    them until the loop is left. snaplen: bytes kept of a packet. The others: as for `classify`.
    Raises UsageError, at the first step, for an unknown interface, a missing right to listen, a broken filter.
    """
    from classifier.pipeline import Settings
    from classifier.sniffing import Handover, Session, conversations
    from classifier.sources.live import Tap, listen

    settings = Settings(inventory=_path(inventory), signatures=_path(signatures), endpoint_map=_path(endpoint_map))
    tap = Tap(interface, filter) if snaplen is None else Tap(interface, filter, snaplen)
    source, handover = listen(tap, lambda line: None), Handover()
    try:
        session = Session(source, settings, [handover], duration=duration, count=count)
    except BaseException:
        source.close()
        raise
    yield from conversations(session, handover)


def _path(value: AnyPath | None) -> Path | None:
    return None if value is None else Path(value)


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
