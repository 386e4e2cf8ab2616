"""What the inspectors say of every conversation of real captures, against tshark's protocol column.

Run as a program to print the table: `PYTHONPATH=tests python -m inspectors.confusion [folder or capture ...]`. The two
disagree on purpose in places: tshark guesses by port where this product refuses to.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from inspectors import extraction

from classifier.inspectors import inspect
from classifier.inspectors.base import Dialogue, Evidence

REAL = Path(__file__).parents[3] / "shared" / "captures" / "real"

NOTHING_ELSE = frozenset(("TCP", "UDP", "IPv4", "IPv6", "ICMP", "ARP", "SSL", ""))
"""Words of the column that say no more than the transport does."""


def opinion(words: Counter[str]) -> str:
    """tshark's most frequent word that says something."""
    telling = {word: count for word, count in words.items() if word not in NOTHING_ELSE}
    return max(telling, key=lambda word: telling[word]) if telling else "-"


def survey(capture: Path) -> Iterator[tuple[str, Dialogue, str, str]]:
    """(stream, dialogue, tshark's word, ours) of each conversation with payload."""
    words = extraction.dissected(capture).words
    for stream, conversation in extraction.conversations(capture).items():
        dialogue = conversation.dialogue()
        if dialogue.to_server.chunks or dialogue.to_client.chunks:
            answer = inspect(dialogue)
            ours = answer.protocol if isinstance(answer, Evidence) else answer.value
            yield stream, dialogue, opinion(words[stream]), ours


def captures(paths: list[Path]) -> list[Path]:
    """The captures in folders and files, in order."""
    return sorted(file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def main() -> None:
    """Print how often each pair of words came up, with a conversation to look at."""
    table: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], str] = {}
    for capture in captures([Path(name) for name in sys.argv[1:]] or [REAL]):
        for stream, _, theirs, ours in survey(capture):
            table[theirs, ours] += 1
            where.setdefault((theirs, ours), f"{capture}#{stream}")
    for (theirs, ours), count in sorted(table.items()):
        print(f"{theirs:20} {ours:18} {count:6}  {where[theirs, ours]}")


if __name__ == "__main__":
    main()
