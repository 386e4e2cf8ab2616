"""The captures that ship with the project."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import classifier
from classifier.result import Result

CAPTURES = Path(__file__).resolve().parents[1] / "captures"


@cache
def result_of(name: str) -> Result:
    """The result for one of them, with its inventory if it has one; made once."""
    capture = next(path for path in CAPTURES.glob(f"{name}.pcap*"))
    inventory = CAPTURES / f"{name}.inventory.toml"
    return classifier.classify(capture, inventory=inventory if inventory.exists() else None)
