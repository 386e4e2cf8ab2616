"""What is made ahead of who asks for it: by a thread, or by a process that works beside this one.

Threads share everything, and Python's lock: they serve where the work is done outside of Python. A forked process
shares what it was born with and the arrays of `memory`; the rest goes through a pipe. It is only forked where nobody
else is at work in this process, since whoever held a lock then would hold it in the child for ever.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

from classifier.errors import ExflowError
from classifier.limits import MIB

_T = TypeVar("_T")
_R = TypeVar("_R")

_PATIENCE: Final = 0.2
"""Seconds after which whoever waits looks whether it still should."""


class Ahead(Iterator[_T], Generic[_T]):
    """The items of a generator, made by a thread, up to two ahead, until it is closed.

    Two locks are the two halves of a handshake: who makes waits for room, who asks waits for an item.
    """

    def __init__(self, items: Generator[_T, None, None]) -> None:
        self._items, self._stop = items, False
        self._item: _T | None = None
        self._error: BaseException | None = None
        self._room, self._ready = threading.Lock(), threading.Lock()
        self._ready.acquire()
        threading.Thread(target=self._make, name="exflow-ahead", daemon=True).start()

    def __next__(self) -> _T:
        self._ready.acquire()
        if self._error is not None:
            self._ready.release()
            raise self._error
        item, self._item = self._item, None
        self._room.release()
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """No more is asked for. The thread may be blocked by a silent pipe: nobody waits for it."""
        self._stop = True

    def _make(self) -> None:
        with closing(self._items):
            error: BaseException | None = None
            while error is None:
                item = None
                try:
                    item = next(self._items)
                except BaseException as raised:
                    error = raised
                while not self._room.acquire(timeout=_PATIENCE):
                    if self._stop:
                        return
                self._item, self._error = item, error
                self._ready.release()


def can_fork() -> bool:
    """Whether a process can be forked off safely: on Linux, from a process with a single thread."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:  # no /proc
        return False


class Beside(Iterator[_T], Generic[_T, _R]):
    """The items of a generator, made by a forked process; StopIteration has what the generator returned.

    idle: called for each item, and now and then while one is waited for.
    """

    def __init__(self, make: Callable[[], Generator[_T, None, _R]], idle: Callable[[], None]) -> None:
        """make: called in the forked process. Raises OSError if none can be forked."""
        from fcntl import F_SETPIPE_SZ, fcntl  # where no process can be forked, there may be none

        _bury()
        self._idle, self._ended = idle, False
        self._pipe, writing = os.pipe()
        with suppress(OSError):  # who has many pipes gets no large one
            fcntl(writing, F_SETPIPE_SZ, MIB)
        try:
            self._child = os.fork()
        except OSError:
            os.close(self._pipe)
            os.close(writing)
            raise
        if not self._child:
            try:
                os.close(self._pipe)
                _tell(make, writing)
            finally:
                os._exit(0)  # whatever happens, it must not go on as its parent
        os.close(writing)
        self._waiting = select.poll()
        self._waiting.register(self._pipe, select.POLLIN)

    def __next__(self) -> _T:
        told = False
        while not told:
            told = bool(self._waiting.poll(1000 * _PATIENCE))
            self._idle()
        kind, value = pickle.loads(self._exactly(int.from_bytes(self._exactly(_SIZE))))
        if kind == _ITEM:
            item: _T = value
            return item
        self._ended = True
        if kind == _ERROR:
            raise value
        raise StopIteration(value)

    def _exactly(self, size: int) -> bytearray:
        """So many bytes of what is told."""
        told = bytearray()
        while len(told) < size:
            piece = os.read(self._pipe, size - len(told))
            if not piece:
                raise ExflowError("a process that works beside this one was lost, perhaps for want of memory")
            told += piece
        return told

    def close(self) -> None:
        """No more is asked for. Who has told all is about to leave: nobody waits until its memory is given back."""
        os.close(self._pipe)
        if not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        _leaving.append(self._child)
        _bury(wait=not self._ended)


_leaving: Final[list[int]] = []
"""Forked processes that are about to end; they stay on the system's list until somebody asks how they ended."""


def _bury(wait: bool = False) -> None:
    """Ask, of those that have ended, or of all of them when they have."""
    for child in tuple(_leaving):
        try:
            if os.waitpid(child, 0 if wait else os.WNOHANG)[0]:
                _leaving.remove(child)
        except ChildProcessError:  # where SIGCHLD is ignored, nobody is left to ask
            _leaving.remove(child)


def forked(make: Callable[[], Generator[_T, None, _R]], idle: Callable[[], None], jobs: int) -> Beside[_T, _R] | None:
    """`Beside`, where two jobs may be done at a time and a process can be forked."""
    if jobs > 1 and can_fork():
        with suppress(OSError):
            return Beside(make, idle)
    return None


def soon(work: Callable[[], _R], jobs: int) -> Callable[[], _R]:
    """Have work done by a thread, where two jobs may be done at a time: what waits for its outcome, or else does it.

    For what machine code does outside of Python's lock. An error there is met again by who asks for the outcome.
    """
    if jobs == 1:
        return work
    done: list[_R] = []

    def do() -> None:
        with suppress(Exception):
            done.append(work())

    thread = threading.Thread(target=do, name="exflow-kernels", daemon=True)
    thread.start()

    def outcome() -> _R:
        thread.join()
        return done[0] if done else work()

    return outcome


def let_go(things: list[Any]) -> None:
    """Empty a list in a thread: where it holds large memory that nobody else knows, to give it back takes a while."""
    threading.Thread(target=things.clear, name="exflow-freeing", daemon=True).start()


@contextmanager
def meanwhile(work: Callable[[], _R], jobs: int) -> Iterator[Callable[[], _R]]:
    """A context in which work is done by a forked process, where there can be one: what waits for its outcome, or else
    does it now."""

    def nothing_but_an_end() -> Generator[None, None, _R]:
        yield from ()
        return work()

    other = forked(nothing_but_an_end, lambda: None, jobs)
    if other is None:
        yield work
        return
    with closing(other):
        yield partial(_end_of, other)


def _end_of(made: Beside[None, _R]) -> _R:
    try:
        raise AssertionError(next(made))
    except StopIteration as end:
        told: _R = end.value
        return told


_ITEM, _ERROR, _END = range(3)

_SIZE: Final = 8
"""Bytes of a message's length, which goes before it."""

_PR_SET_PDEATHSIG: Final = 1
"""Of prctl(2): a signal for when the parent is gone."""


def _tell(make: Callable[[], Generator[Any, None, Any]], pipe: int) -> None:
    """What the forked process does: tell the items, then how they ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted is the one that asks
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    items = make()
    with suppress(BrokenPipeError), open(pipe, "wb") as out:

        def tell(kind: int, value: Any) -> None:
            message = pickle.dumps((kind, value))
            out.write(len(message).to_bytes(_SIZE) + message)
            out.flush()

        try:
            while True:
                tell(_ITEM, next(items))
        except StopIteration as end:
            tell(_END, end.value)
        except Exception as error:
            tell(_ERROR, error)
