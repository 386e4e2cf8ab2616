"""The loop: take an input that did something new, change it, run it, keep it if it does something new again.

Knows inputs as bytes and outcomes as sets of features (lines run, kinds of result), and nothing of what a target
does. An exception is written down with its input, once for each place it comes from, and the loop goes on; so is
an input that takes too long. One that never ends, or kills the process, is left in `running.bin`.
"""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LARGEST = 256 * 1024
"""Bytes of an input; larger ones are cut."""

LARGEST_CORPUS = 20_000
"""Inputs kept for having done something new."""

SLOW_S = 5.0
"""Processor seconds of one input that are worth a note."""

HANGS_S = 120.0
"""Processor seconds after which an input is taken for endless, and the run for dead; compiling takes half of them."""

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 20, 31, 32, 63, 64, 100, 127, 128, 255, 256, 511, 512, 1023, 1024, 1500, 4095,
           4096, 32767, 32768, 65534, 65535, 65536, 262144, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip
"""Values at which lengths and counters turn over."""

Features = Iterable[Hashable]


@dataclass(frozen=True)
class Target:
    """run: one input → what happened; raises what is a defect. seeds: inputs to begin with; words: to put into them."""

    name: str
    run: Callable[[bytes], Features]
    seeds: Callable[[Sequence[Path]], Iterable[bytes]]
    words: tuple[bytes, ...] = ()


# ---- changing bytes ----------------------------------------------------------------------


def mutate(data: bytes, other: bytes, words: Sequence[bytes], chance: random.Random) -> bytes:
    """The input with a handful of changes; other: one to take pieces from."""
    changed = bytearray(data)
    for _ in range(1 << chance.randrange(5)):
        chance.choice(CHANGES)(changed, other, words, chance)
    return bytes(changed[:LARGEST])


def _place(data: bytearray, chance: random.Random) -> int:
    """Somewhere in the input; the beginning, where headers are, half of the time."""
    return chance.randrange(min(len(data), 256) if chance.random() < 0.5 else len(data)) if data else 0


def _piece(data: bytes | bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    return bytes(data[start : start + chance.choice((1, 2, 4, 8, 16, 64, 256, 1500))])


def _flip(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] = chance.randrange(256)


def _number(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    size, at = chance.choice((1, 2, 4)), _place(data, chance)
    value = chance.choice(NUMBERS) % 256**size
    data[at : at + size] = value.to_bytes(size, chance.choice(("big", "little")))


def _add(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    size, at, order = chance.choice((1, 2, 4)), _place(data, chance), chance.choice(("big", "little"))
    value = int.from_bytes(data[at : at + size], order) + chance.randint(-16, 16)  # type: ignore[arg-type]
    data[at : at + size] = (value % 256**size).to_bytes(size, order)  # type: ignore[arg-type]


def _cut(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _remove(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 4, 8, 64, 1024))]


def _repeat(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = _piece(data, chance) * chance.choice((1, 1, 1, 2, 16, 200))


def _splice(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    at, piece = _place(data, chance), _piece(other, chance)
    data[at : at + chance.choice((0, len(piece)))] = piece


def _join(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    data[_place(data, chance) :] = other[chance.randrange(len(other) + 1) :]


def _word(data: bytearray, other: bytes, words: Sequence[bytes], chance: random.Random) -> None:
    if words:
        at, word = _place(data, chance), chance.choice(words)
        data[at : at + chance.choice((0, len(word)))] = word


CHANGES = (_flip, _byte, _number, _add, _cut, _remove, _repeat, _splice, _join, _word, _number, _flip)


# ---- the loop ------------------------------------------------------------------------------


@dataclass
class Fuzzer:
    """One run of one target. runs, corpus, features and findings tell how far it came."""

    target: Target
    folder: Path
    chance: random.Random = field(default_factory=random.Random)
    runs: int = 0
    corpus: list[bytes] = field(default_factory=list)
    features: set[Hashable] = field(default_factory=set)
    findings: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0
    _began: float = 0.0

    def fuzz(self, seconds: float, seeds: Sequence[Path] = (), tell: Callable[[str], None] = lambda _: None) -> None:
        """Run for that much processor time. seeds: folders of captures to begin with, besides the shipped ones."""
        with _Watched(self):
            for seed in self.target.seeds(seeds):
                self.take(seed)
            end = told = time.process_time()
            end += seconds
            while (now := time.process_time()) < end:
                parent, other = (self.chance.choice(self.corpus or [b""]) for _ in range(2))
                self.take(mutate(parent, other, self.target.words, self.chance))
                if now - told > 60:
                    told = now
                    tell(str(self))

    def take(self, data: bytes) -> None:
        """Run one input, and keep it if it does something new."""
        self.now_running(data)
        self.runs += 1
        seen, spent = self._run(data)
        if spent > SLOW_S:  # once more, since the first use of a kernel compiles it
            _, spent = self._run(data)
        self.slowest = max(self.slowest, spent)
        if spent > SLOW_S:
            self._found(data, "slow", f"{spent:.1f} s of the processor")
        if len(self.corpus) < LARGEST_CORPUS and not seen <= self.features:
            self.corpus.append(data)
        self.features |= seen

    def _run(self, data: bytes) -> tuple[set[Hashable], float]:
        """Features of the outcome, none if it was an exception, and processor seconds."""
        self._began = spent = time.process_time()
        try:
            seen = set(self.target.run(data))
        except Exception as error:
            seen = set()
            self._found(data, _origin(error), "".join(traceback.format_exception(error)))
        self._began = 0.0
        return seen, time.process_time() - spent

    def now_running(self, data: bytes) -> None:
        """Where the input under way is kept, in case it ends the process; replaced by `_Watched`."""

    def running_for(self) -> float:
        """Processor seconds since the input under way was begun; 0 between two."""
        began = self._began
        return time.process_time() - began if began else 0.0

    def _found(self, data: bytes, origin: str, what: str) -> None:
        if origin in self.findings:
            return
        self.findings[origin] = what
        self.folder.mkdir(parents=True, exist_ok=True)
        name = self.folder / f"{self.target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        name.with_suffix(".bin").write_bytes(data)
        name.with_suffix(".txt").write_text(f"{origin}\n{what}")

    def __str__(self) -> str:
        return (
            f"{self.target.name}: {self.runs} inputs, {len(self.corpus)} kept, {len(self.features)} features, "
            f"slowest {self.slowest:.2f} s, {len(self.findings)} findings"
        )


def _origin(error: BaseException) -> str:
    """Kind and place of an exception; what comes from the same place is found once."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.name}, {Path(last.filename).name} line {last.lineno}"


class _Watched:
    """Keeps the input under way in a mapped file, and ends the process if it never ends.

    Nothing else survives an endless kernel or a read outside the process's memory.
    """

    def __init__(self, fuzzer: Fuzzer) -> None:
        self._fuzzer, self._over = fuzzer, threading.Event()
        fuzzer.folder.mkdir(parents=True, exist_ok=True)
        self._path = fuzzer.folder / f"{fuzzer.target.name}-running.bin"

    def __enter__(self) -> None:
        with self._path.open("w+b") as file:
            file.truncate(8 + LARGEST)
            self._kept = mmap.mmap(file.fileno(), 8 + LARGEST)
        faulthandler.enable()
        self._fuzzer.now_running = self._keep  # type: ignore[method-assign]
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._kept.close()
        self._path.unlink()

    def _keep(self, data: bytes) -> None:
        data = data[:LARGEST]
        self._kept[: 8 + len(data)] = len(data).to_bytes(8, "little") + data

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            if self._fuzzer.running_for() > HANGS_S:
                faulthandler.dump_traceback()
                print(f"endless; its length and bytes are in {self._path}", file=sys.stderr, flush=True)
                os._exit(70)
