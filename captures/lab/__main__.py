"""`python -m captures.lab [SCENARIO...]` (as root, on Linux): play scenarios, write captures, compare with exflow."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from captures.lab import comparison, packages, scenarios
from captures.lab.laboratory import SCENARIOS, Laboratory
from captures.lab.network import INTERRUPTIONS, LabError, Network, folder_of, sweep

HOME = Path(__file__).resolve().parent
HEADER = """# What was recorded in the laboratory: how, from which servers, and what is true of each conversation.
# Written by `python -m captures.lab`; ../README.md says what the fields mean. Labels come from the servers'
# configuration and logs, never from exflow.

"""


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    options = parse(argv)
    if os.geteuid() != 0 or sys.platform != "linux":
        print("captures.lab: needs root on Linux, for network namespaces", file=sys.stderr)
        return 2
    for number in INTERRUPTIONS:
        signal.signal(number, _stop)
    try:
        return work(options)
    except KeyboardInterrupt:
        print("captures.lab: interrupted; everything is cleaned up", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"captures.lab: {error}", file=sys.stderr)
        return 2


def work(options: argparse.Namespace) -> int:
    """Install what is asked for, play the scenarios, print the table; 0 if no label is wrong."""
    if options.install:
        packages.install()
    if lacking := packages.missing():
        print(f"captures.lab: not installed: {' '.join(lacking)}; --install installs them", file=sys.stderr)
        return 2
    sweep()
    folder = folder_of("kept" if options.keep else os.getpid())
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        played, failed = play(options.scenarios or sorted(SCENARIOS), options.out, folder)
    finally:
        if options.keep:
            print(f"logs and configurations: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        sweep()
    if not played:
        return 1
    wrong = comparison.table(options.out, played, sys.stdout)
    return int(bool(failed or wrong))


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    for module in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"captures.lab.scenarios.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m captures.lab", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"some of: {', '.join(sorted(SCENARIOS))}")
    parser.add_argument("--install", action="store_true", help="install the Debian packages first")
    parser.add_argument("--out", type=Path, default=HOME, help="where captures go (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep logs, configurations and key logs")
    options = parser.parse_args(argv)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    options.out = options.out.resolve()
    return options


def play(names: list[str], out: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Play scenarios one after the other; the captures that are in `out` now, and the scenarios that failed."""
    played: list[str] = []
    failed = []
    for name in names:
        begun, place = time.monotonic(), folder / name
        place.mkdir()
        place.chmod(0o755)
        try:
            with Network(place) as network:
                lab = Laboratory(SCENARIOS[name], network, out)
                SCENARIOS[name].play(lab)
            for recording in lab.recordings:
                write_index(out / "INDEX.toml", {recording.file: lab.entry(recording)})
                played.append(recording.file)
        except LabError as error:
            print(f"captures.lab: {name}: {error}", file=sys.stderr)
            failed.append(name)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return played, failed


def write_index(path: Path, entries: dict[str, str]) -> None:
    """Put new entries into INDEX.toml, in order of file names; others stay."""
    blocks = path.read_text().removeprefix(HEADER).split("[[capture]]\n")[1:] if path.exists() else []
    known = {block.split('"', 2)[1]: f"[[capture]]\n{block.rstrip()}\n" for block in blocks}
    known |= entries
    path.write_text(HEADER + "\n".join(known[file] for file in sorted(known)))


def _stop(number: int, frame: FrameType | None) -> None:
    """Interrupt, once: what follows is tidying up."""
    for sign in INTERRUPTIONS:
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
