"""The table at the end: what the command `exflow` says of the captures, beside what is true.

A label is right if it holds all that the truth names and nothing that the truth excludes; missing if it says
nothing where the truth has a label; wrong otherwise. Where the truth is hidden from a reader of the capture, a label is
also right that names some of it, or that calls itself weak and names more. The tests (tests/test_lab.py) compare every
field.
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
    """Print the table of these captures, then what is missing and why; the number of wrong labels."""
    index = tomllib.loads((folder / "INDEX.toml").read_text())["capture"]
    rows = [(entry["file"], judged(folder, entry)) for entry in index if entry["file"] in files]
    width = max([len(file) for file, _ in rows] + [8])
    print(f"{'SCENARIO':{width}} CONVERSATIONS RIGHT WRONG MISSING", file=out)
    everything = ("total", [row for _, found in rows for row in found])
    for file, found in (*rows, everything):
        counted = Counter(word for word, _, _ in found)
        line = f"{file.removesuffix('.pcap'):{width}} {len(found):13} {counted['right']:5} {counted['wrong']:5}"
        print(f"{line} {counted['missing']:7}", file=out)
    for file, found in rows:
        for word, truth, answer in found:
            if word != "right":
                print(f"{word}: {file}, frame {truth['first_frame']}, {reason(truth, answer)}", file=out)
    return sum(word == "wrong" for _, found in rows for word, _, _ in found)


Judged = tuple[str, dict[str, Any], dict[str, Any] | None]


def judged(folder: Path, entry: dict[str, Any]) -> list[Judged]:
    """Each conversation of a capture: right, wrong or missing; its truth; what exflow says."""
    program = Path(sys.executable).with_name("exflow")
    words = [str(program), "classify", str(folder / entry["file"]), "--format", "jsonl"]
    if "inventory" in entry:
        words += ["--inventory", str(folder / entry["inventory"])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        print(done.stderr, file=sys.stderr)
    said = {(line["transport"], line["first_frame"]): line for line in map(json.loads, done.stdout.splitlines())}
    answers = [(truth, said.get((truth["transport"], truth["first_frame"]))) for truth in entry["conversation"]]
    return [(verdict(truth, answer), truth, answer) for truth, answer in answers]


def reason(truth: dict[str, Any], answer: dict[str, Any] | None) -> str:
    """What is true and what is said, and why a reader may not see it."""
    is_true = ", ".join(truth.get("data_paths", ())) or "no label"
    said = "not found" if answer is None else ", ".join(answer["data_paths"]) or answer["absence"]
    return f"port {truth['server'][1]}: {is_true}; exflow: {said}; {truth.get('hidden', 'all of it is in the capture')}"


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
    if truth.get("hidden"):
        return "right" if said <= allowed or (wanted <= said and answer["certainty"] == "weak") else "wrong"
    return "right" if wanted <= said <= allowed else "wrong"
