"""Fuzz for a while: `python -m tests.fuzz capture packets --minutes 60`; without a name, every target in turn.

Kernels run with bounds checks. Findings are written to the folder (input and traceback); status 1 if there are any.
What was mended goes into tests/fuzz/found, where every test run tries it again.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Fuzz the named targets one after the other, each for that many minutes of the processor."""
    os.environ["NUMBA_BOUNDSCHECK"] = "1"  # before the first kernel is imported
    from tests.fuzz.engine import Fuzzer
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time, for each target")
    parser.add_argument("--seeds", type=Path, action="append", default=[], metavar="FOLDER", help="more captures")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "exflow-fuzz")
    options = parser.parse_args(argv)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    found = 0
    for name in options.targets or TARGETS:
        fuzzer = Fuzzer(TARGETS[name], options.findings, random.Random(options.seed))
        began = time.process_time()
        fuzzer.fuzz(60 * options.minutes, options.seeds, lambda line: print(line, flush=True))
        print(f"{fuzzer} in {time.process_time() - began:.0f} s of the processor", flush=True)
        for origin, what in fuzzer.findings.items():
            print(f"  {origin}: {what.splitlines()[-1]}", flush=True)
        found += len(fuzzer.findings)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
