"""Processes that inspect dialogues beside this one.

Inspectors are pure functions, and Python runs one at a time in a process. So dialogues are handed to others in
small portions, and this process works along until none is left: whoever is ready takes the next. What is found and
its order do not depend on how many work, nor on who reads what. A process that can't be started or is lost is no
error: its portions are read here.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from classifier import inspectors
from classifier.inspectors.base import NOT_THIS, Answer, Dialogue, Evidence
from classifier.limits import MAX_PROCESSES

if TYPE_CHECKING:
    import subprocess
    from multiprocessing.connection import Connection

Found = Evidence | Answer

_PORTION: Final = 128
"""Dialogues handed over at a time, some 10 ms of work; never two portions to one process, since both sides could
then write and nobody read."""

_OWN_PORTION: Final = 16
"""Dialogues read here before looking who is ready again."""

_STANDARD_INPUT: Final = 0

_LOST: Final = (OSError, EOFError, pickle.UnpicklingError)


@dataclass(slots=True)
class _Portion:
    """Dialogues, and the place of the first among the results."""

    place: int
    dialogues: list[Dialogue]


@dataclass(slots=True)
class _Mate:
    """One other process. busy: the portion that it has not answered."""

    process: subprocess.Popen[bytes]
    line: Connection
    busy: _Portion | None = None

    @classmethod
    def start(cls) -> _Mate:
        """Raises OSError."""
        import subprocess  # few captures are so large
        from multiprocessing.connection import Pipe

        ours, theirs = Pipe()
        with theirs:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(_ROOT), os.environ.get("PYTHONPATH", "")))}
            process = subprocess.Popen(
                [sys.executable, "-m", "classifier.crew"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        return cls(process, ours)

    def leave(self) -> None:
        """Let it go: it holds nothing."""
        self.line.close()
        self.process.kill()
        self.process.wait()


_ROOT: Final = Path(__file__).resolve().parents[1]


class Crew:
    """This process and up to jobs - 1 others, started when they are called; use it as a context."""

    def __init__(self, jobs: int = 1) -> None:
        self._others = min(jobs, MAX_PROCESSES) - 1 if sys.executable and os.name == "posix" else 0
        self._mates: list[_Mate] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for mate in self._mates:
            mate.leave()
        self._mates, self._others = [], 0

    def call(self) -> None:
        """Start the others, if they are not there."""
        while self._others > 0:
            self._others -= 1
            with suppress(OSError):
                self._mates.append(_Mate.start())

    def inspect(self, dialogues: Iterator[Dialogue]) -> list[Found]:
        """What each dialogue says, in their order."""
        found: list[Found] = []
        while True:
            for mate in list(self._mates):
                if mate.busy is None or mate.line.poll():
                    self._attend(mate, dialogues, found)
            own = _take(dialogues, _OWN_PORTION, found)
            if not own.dialogues:
                break
            _read(own, found)
        for mate in list(self._mates):
            if mate.busy:
                self._attend(mate, dialogues, found)
        return found

    def _attend(self, mate: _Mate, dialogues: Iterator[Dialogue], found: list[Found]) -> None:
        """Take what a process has answered, and give it more; if it is lost, do its work."""
        try:
            if mate.busy:
                _fill(found, mate.busy, mate.line.recv())
                mate.busy = None
            portion = _take(dialogues, _PORTION, found)
            if portion.dialogues:
                mate.busy = portion
                mate.line.send(portion.dialogues)
        except _LOST:
            self._mates.remove(mate)
            mate.leave()
            if mate.busy:
                _read(mate.busy, found)


def _take(dialogues: Iterator[Dialogue], most: int, found: list[Found]) -> _Portion:
    """The next portion, with room made for its results."""
    portion = _Portion(len(found), list(islice(dialogues, most)))
    found.extend([NOT_THIS] * len(portion.dialogues))
    return portion


def _read(portion: _Portion, found: list[Found]) -> None:
    _fill(found, portion, list(map(inspectors.inspect, portion.dialogues)))


def _fill(found: list[Found], portion: _Portion, answers: list[Found]) -> None:
    found[portion.place : portion.place + len(portion.dialogues)] = answers


def _serve(line: Connection) -> None:
    """What another process does: answer portions until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted is the one that asks
    while True:
        try:
            portion: list[Dialogue] = line.recv()
        except EOFError:
            return
        line.send(list(map(inspectors.inspect, portion)))


if __name__ == "__main__":
    from multiprocessing.connection import Connection

    gc.disable()
    _serve(Connection(_STANDARD_INPUT))
