"""Every exception this package raises on purpose.

A user's mistake (`UsageError`) and a damaged input (`Damage`) are told apart because the
command answers them with different exit statuses (2 and 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class ExflowError(Exception):
    """Base of all errors raised on purpose; its text is meant for a person."""


class UsageError(ExflowError):
    """What was asked for cannot be done: wrong option, missing file, broken signature."""


class RulebookError(UsageError):
    """The signatures are broken; the text lists every issue with file and line."""


class MissingToolError(UsageError):
    """An optional helper (tshark, for one) is needed for this call and not installed."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One place where an input was cut short or corrupt. Not raised: reading goes on.

    file: the capture as the user named it; byte: offset in it (uncompressed); reason: one line.
    """

    file: str
    byte: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: byte {self.byte}: {self.reason}"


def nearest(word: object, vocabulary: Iterable[str]) -> str:
    """The word of a vocabulary that somebody may have meant who wrote another one; "" if none is near."""
    import difflib  # only mistakes need it

    folded = {known.lower(): known for known in vocabulary}
    near = difflib.get_close_matches(str(word).lower(), folded, 1)
    return folded[near[0]] if near else ""


def hint(word: object, vocabulary: Iterable[str]) -> str:
    """How an error about an unknown word ends: with the one that may have been meant, if any."""
    near = nearest(word, vocabulary)
    return f"; did you mean {near!r}?" if near else ""
