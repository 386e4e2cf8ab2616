"""Wireshark's programs, run for what they do better: decryption, dissection, formats of captures.

The only module that starts another program. Must not know what is asked of them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Timer
from typing import IO, Final

from classifier.errors import MissingToolError, UsageError
from classifier.limits import TOOL_SECONDS

_COMMON: Final = "wireshark-common or wireshark-cli"
_PACKAGES: Final = {"captype": _COMMON, "editcap": _COMMON, "tshark": "tshark or wireshark-cli"}


def find(tool: str) -> str:
    """The program's path. Raises MissingToolError, which names the packages that have it."""
    path = shutil.which(tool)
    if path is None:
        raise MissingToolError(f"{tool} is not installed; packages that have it are called {_PACKAGES[tool]}")
    return path


def run(tool: str, *arguments: str) -> str:
    """What it prints. Raises MissingToolError, and UsageError when it refuses or takes longer than anybody waits."""
    return "".join(lines(tool, *arguments))


def lines(tool: str, *arguments: str) -> Iterator[str]:
    """What it prints, line by line as it comes; raises as `run`. Nothing of it is kept."""
    command = [find(tool), *arguments]
    with (
        TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, encoding="utf-8", errors="replace"
        ) as process,
    ):
        late = Timer(TOOL_SECONDS, process.kill)
        late.start()
        try:
            yield from process.stdout or ()
            status = process.wait()
        finally:
            ended = not late.is_alive()
            late.cancel()
            process.kill()
        if ended:
            raise UsageError(f"{tool} took more than {TOOL_SECONDS} seconds")
        if status:
            raise UsageError(f"{tool} refused: {_words(said) or f'status {status}'}")


def _words(said: IO[bytes]) -> str:
    """The beginning of what a program complained of."""
    said.seek(0)
    return " ".join(said.read(4096).decode("utf-8", "replace").split())


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A file of that name in a folder of its own, for as long as it is needed; nobody else can read it."""
    with TemporaryDirectory(prefix="exflow-") as folder:
        yield Path(folder) / name


@contextmanager
def output(tool: str, *arguments: str) -> Iterator[IO[bytes]]:
    """What it writes, as a stream of bytes; reading may stop anywhere.

    Raises UsageError for whatever it complains of, since editcap has status 0 for a capture that is cut short.
    """
    with TemporaryFile() as said, subprocess.Popen(
        [find(tool), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, bufsize=0
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout
            ended = not process.stdout.read(1)
            status = process.wait() if ended else 0
        finally:
            process.stdout.close()
            process.kill()
        words = _words(said) if ended else ""
        if status or words:
            raise UsageError(words or f"{tool}: status {status}")
