"""Every exception this package raises on purpose.

A user's mistake (`UsageError`) and a damaged input (`Damage`) are told apart because the
command answers them with different exit statuses (2 and 1).
"""

from __future__ import annotations

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
