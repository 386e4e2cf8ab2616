"""Race exflow against its peers: `python -m tests.bench.race FILE... [--rounds 5]`.

Every tool that is installed reads the same file as a whole process, one after the other, round after round, so
that a slow minute of the machine hits all of them. The table shows medians, how many times exflow's they are, and
the largest resident memory of the process or one of its children (`wait4`; children aren't added up). Below it the
machine, and how busy it was with other things: figures of a busy machine compare tools, and say nothing else.
What a run writes is new: to empty a file of the run before would mean to wait until the disk has all of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

NFSTREAM = "from nfstream import NFStreamer as N; import sys; print(sum(1 for _ in N(source=sys.argv[1])))"


@dataclass
class Runner:
    """One competitor: its command for a file, and what its runs cost (seconds, bytes).

    scratch: the folder that it writes into.
    """

    name: str
    command: Sequence[str]
    scratch: Path
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    failed: int = 0

    def run(self) -> None:
        """One run, its output thrown away."""
        for left in self.scratch.iterdir():
            left.unlink()
        os.sync()
        began = time.perf_counter()
        status, usage = spawn(self.command)
        self.seconds.append(time.perf_counter() - began)
        self.memory.append(usage)
        self.failed += status != 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def spawn(command: Sequence[str]) -> tuple[int, int]:
    """Exit status and peak resident bytes of a command."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    child = os.posix_spawnp(command[0], list(command), os.environ, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def competitors(capture: str, scratch: Path, nfstream: str) -> list[Runner]:
    """Whatever of them is installed here. nfstream: the Python that may have it."""
    jsonl, parquet = (f"{scratch}/out.{suffix}" for suffix in ("jsonl", "parquet"))
    exflow = shutil.which("exflow", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "exflow"
    runners = [
        Runner("cat", ["cat", capture], scratch),
        Runner("exflow, JSON lines", [exflow, "classify", capture, "-o", jsonl], scratch),
        Runner("exflow, Parquet", [exflow, "classify", capture, "-o", parquet], scratch),
        Runner("capinfos", ["capinfos", "-c", capture], scratch),
        Runner("ndpiReader", ["ndpiReader", "-i", capture, "-q"], scratch),
        Runner("tshark -z conv,tcp", ["tshark", "-q", "-z", "conv,tcp", "-r", capture], scratch),
        Runner("suricata", ["suricata", "-r", capture, "-l", str(scratch)], scratch),
    ]
    if spawn([nfstream, "-c", "import nfstream"])[0] == 0:
        runners.append(Runner("nfstream", [nfstream, "-c", NFSTREAM, capture], scratch))
    return [runner for runner in runners if shutil.which(runner.command[0])]


def race(runners: Sequence[Runner], rounds: int, console: Console) -> None:
    """Round after round; one more before the first warms the page cache and the compiled kernels."""
    for runner in runners[:3]:
        spawn(runner.command)
    for number in range(rounds):
        for runner in runners:
            with console.status(f"round {number + 1} of {rounds}: {runner.name}"):
                runner.run()


def results(capture: str, runners: Sequence[Runner]) -> Table:
    """The table of medians."""
    size = Path(capture).stat().st_size
    own = next((runner.median for runner in runners if runner.name.startswith("exflow")), None)
    table = Table(title=f"{capture}: {size / 1e9:.2f} GB, median of {len(runners[0].seconds)} rounds")
    for heading in ("tool", "seconds", "best", "times exflow", "MB/s", "peak MB", ""):
        table.add_column(heading, justify="left" if heading in ("tool", "") else "right")
    for runner in sorted(runners, key=lambda runner: runner.median):
        table.add_row(
            runner.name,
            f"{runner.median:.2f}",
            f"{min(runner.seconds):.2f}",
            f"{runner.median / own:.2f}" if own else "",
            f"{size / runner.median / 1e6:,.0f}",
            f"{max(runner.memory) / 1e6:,.0f}",
            f"{runner.failed} failed" if runner.failed else "",
        )
    return table


VERSIONS = {
    "exflow, JSON lines": ["--version"],
    "tshark -z conv,tcp": ["--version"],
    "ndpiReader": ["-h"],
    "suricata": ["-V"],
    "nfstream": ["-c", "import nfstream; print('nfstream', nfstream.__version__)"],
}
"""How each tool tells its version; ndpiReader does among its help."""


def version(runner: Runner) -> str:
    """The line with a tool's version, empty if it tells none."""
    if runner.name not in VERSIONS:
        return ""
    done = subprocess.run([runner.command[0], *VERSIONS[runner.name]], capture_output=True, text=True, check=False)
    return next((line.strip() for line in done.stdout.splitlines() if re.search(r"\d\.\d", line)), "")


def machine() -> str:
    """What ran the race, and the processes that waited for a processor beside it."""
    said = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in said if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} x {model}, {memory:.0f} GB, Linux {platform.release()}; load {os.getloadavg()[1]:.1f}"


def main(argv: Sequence[str]) -> None:
    """Race on each file and print a table for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.race", description=__doc__)
    parser.add_argument("captures", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="only tools whose name begins so")
    parser.add_argument("--nfstream", default=sys.executable, metavar="PYTHON", help="the Python that has nfstream")
    options = parser.parse_args(argv)
    console = Console()
    for capture in options.captures:
        with tempfile.TemporaryDirectory() as scratch:
            runners = competitors(capture, Path(scratch), options.nfstream)
            if options.only:
                runners = [runner for runner in runners if runner.name.startswith(tuple(options.only))]
            race(runners, options.rounds, console)
        console.print(results(capture, runners))
        console.print(machine(), *filter(None, map(version, runners)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
