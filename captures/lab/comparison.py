"""The table at the end: what the command `exflow` says of the captures, beside what is true.

A label is right if it holds all that the truth names and nothing that the truth excludes; missing if it says
nothing where the truth has a label; wrong otherwise. The tests (tests/test_lab.py) compare every field.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO


def table(folder: Path, files: Sequence[str], out: TextIO) -> int:
    """Print the table of these captures; the number of wrong labels."""
    index = tomllib.loads((folder / "INDEX.toml").read_text())["capture"]
    rows = [(entry["file"], verdicts(folder, entry)) for entry in index if entry["file"] in files]
    width = max([len(file) for file, _ in rows] + [8])
    print(f"{'SCENARIO':{width}} CONVERSATIONS RIGHT WRONG MISSING", file=out)
    for file, counted in [*rows, ("total", sum((counted for _, counted in rows), Counter()))]:
        line = f"{file.removesuffix('.pcap'):{width}} {counted.total():13} {counted['right']:5} {counted['wrong']:5}"
        print(f"{line} {counted['missing']:7}", file=out)
    return sum(counted["wrong"] for _, counted in rows)


def verdicts(folder: Path, entry: dict[str, Any]) -> Counter[str]:
    """How many labels of a capture are right, wrong, missing."""
    words = ["exflow", "classify", str(folder / entry["file"]), "--format", "jsonl"]
    if "inventory" in entry:
        words += ["--inventory", str(folder / entry["inventory"])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        print(done.stderr, file=sys.stderr)
    said = {(line["transport"], line["first_frame"]): line for line in map(json.loads, done.stdout.splitlines())}
    return Counter(
        verdict(truth, said.get((truth["transport"], truth["first_frame"]))) for truth in entry["conversation"]
    )


def verdict(truth: dict[str, Any], answer: dict[str, Any] | None) -> str:
    """One conversation's label: right, wrong or missing."""
    if answer is None:
        return "missing"
    wanted, allowed = set(truth.get("data_paths", ())), {*truth.get("data_paths", ()), *truth.get("also", ())}
    said = set(answer["data_paths"])
    if not wanted:
        silent = not said or answer["certainty"] == "weak" or "absence" not in truth
        return "right" if silent else "wrong"
    if not said:
        return "missing"
    return "right" if wanted <= said <= allowed else "wrong"
