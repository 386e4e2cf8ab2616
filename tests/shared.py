"""The real captures and their answer key, which lie beside the project; tests that need them skip loudly without."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest

from classifier.assembly import assemble
from classifier.conclusion import Knowledge, conclude
from classifier.result import Result
from classifier.rulebook import load
from classifier.rules import Rulebook
from classifier.sources import CaptureSet

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "captures"

needed = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"REAL CAPTURES MISSING: {FOLDER} is not there")
"""For tests over the real captures."""


@cache
def classified(name: str) -> Result:
    """The result for one capture, by its name in the answer key, without any inventory; made once."""
    captures = CaptureSet.of([FOLDER / name])
    return conclude(captures, assemble(captures, jobs=1), Knowledge(rulebook()), jobs=1)


@cache
def rulebook() -> Rulebook:
    """The shipped signatures, read once."""
    return load()


def key(table: str) -> list[dict[str, str]]:
    """The rows of one table of the answer key."""
    with (FOLDER / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def captures(folder: str) -> list[str]:
    """Every capture below a folder, by name; files of no capture format that exflow reads are in it too."""
    return sorted(str(path.relative_to(FOLDER)) for path in (FOLDER / folder).rglob("*") if path.is_file())
