"""A few seconds of fuzzing of each kind, and whatever was found or suspected once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.engine import Fuzzer, Target, mutate
from tests.fuzz.targets import TARGETS, dialogues, read_dialogue, write_dialogue

FOUND = sorted((Path(__file__).parent / "found").glob("*.bin"))

FEW = {"capture": 150, "packets": 500}
"""Mutated inputs of a test run, besides the seeds; of inspectors fewer, since there are many of them."""


def some_seeds(target: Target, wanted: int = 40) -> list[bytes]:
    """Some of a target's seeds, spread over all of them."""
    seeds = list(target.seeds(()))
    return seeds[:: max(len(seeds) // wanted, 1)]


OF_KERNELS = [pytest.param(name, marks=pytest.mark.kernels) if name in FEW else name for name in TARGETS]


@pytest.mark.parametrize("name", OF_KERNELS)
def test_nothing_breaks(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    fuzzer = Fuzzer(target, tmp_path, random.Random(1))
    for seed in some_seeds(target):
        fuzzer.take(seed)
    for _ in range(FEW.get(name, 100)):
        one, other = (fuzzer.chance.choice(fuzzer.corpus) for _ in range(2))
        fuzzer.take(mutate(one, other, target.words, fuzzer.chance))
    assert fuzzer.findings == {}
    assert fuzzer.features


@pytest.mark.kernels
@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_passes(path: Path) -> None:
    began = time.process_time()
    assert list(TARGETS[path.stem.rpartition("-")[0]].run(path.read_bytes())) is not None
    assert time.process_time() - began < 60


def test_a_defect_is_found_once_and_kept(tmp_path: Path) -> None:
    def fails(data: bytes) -> Iterator[str]:
        yield "ran"
        if b"\x00" in data:
            raise IndexError

    fuzzer = Fuzzer(Target("x", fails, lambda _: [b"abc"], (b"\x00",)), tmp_path, random.Random(1))
    fuzzer.fuzz(0.5)
    (origin,) = fuzzer.findings
    (kept,) = tmp_path.glob("*.bin")
    assert origin.startswith("IndexError in fails")
    assert b"\x00" in kept.read_bytes()
    assert fuzzer.runs > 100


def test_dialogues_are_written_as_they_are_read() -> None:
    whole = [each for each in dialogues(()) if not each.to_server.has_hole and not each.to_client.has_hole]
    assert len(whole) > 100
    for each in whole:
        read = read_dialogue(write_dialogue(each))
        assert (read.transport, read.oriented) == (each.transport, each.oriented)
        assert (read.to_server.head, read.to_client.head) == (each.to_server.head, each.to_client.head)
