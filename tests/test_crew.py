"""Processes that inspect beside this one: what is found, and its order, don't depend on them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from classifier import crew, inspectors
from classifier.crew import Crew
from classifier.inspectors.base import Answer, Chunk, Dialogue, Evidence, Stream

SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
SMTP = b"220 mail.example.com Microsoft ESMTP MAIL Service ready\r\n"
HELLO = b"EHLO client%d.example.com\r\n"


def stream(data: bytes) -> Stream:
    return Stream((Chunk(0, data),) if data else ())


def dialogues(number: int) -> list[Dialogue]:
    """Of several protocols, of none, and cut short."""
    chance = random.Random(2)
    kinds = ((SSH, SSH), (HELLO, SMTP), (b"", SMTP[:9]), (b"\x16\x03\x01", b""))
    return [
        Dialogue("tcp", stream(asked.replace(b"%d", b"%d" % index)), stream(said), 25, 50_000)
        for index in range(number)
        for asked, said in [kinds[index % 5] if index % 5 < 4 else (chance.randbytes(200), chance.randbytes(99))]
    ]


@pytest.fixture
def called() -> Iterator[Crew]:
    """Two others, started and ready."""
    with Crew(3) as both:
        both.call()
        yield both


def test_order_and_answers_are_those_of_one_process(called: Crew) -> None:
    asked = dialogues(3000)
    expected = list(map(inspectors.inspect, asked))
    assert len(set(map(type, expected))) == 2  # evidence, and answers without
    for _ in range(2):
        assert called.inspect(iter(asked)) == expected
    assert called.inspect(iter([])) == []


def test_others_take_part(called: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process reads is not read here."""
    mine: list[Dialogue] = []

    def slowly(dialogue: Dialogue) -> Evidence | Answer:
        time.sleep(0.002)
        mine.append(dialogue)
        return found[dialogue]

    asked = dialogues(2000)
    found = {dialogue: inspectors.inspect(dialogue) for dialogue in asked}
    monkeypatch.setattr(crew.inspectors, "inspect", slowly)
    assert called.inspect(iter(asked)) == [found[each] for each in asked]
    assert len(mine) < len(asked) - 256


@pytest.mark.parametrize("signal", ["before", "meanwhile"])
def test_work_of_a_lost_process_is_done_here(called: Crew, signal: str) -> None:
    asked = dialogues(3000)

    def told() -> Iterator[Dialogue]:
        for index, dialogue in enumerate(asked):
            if index == (0 if signal == "before" else 700):
                for mate in called._mates:
                    mate.process.kill()
            yield dialogue

    assert called.inspect(told()) == list(map(inspectors.inspect, asked))
    assert not called._mates


def test_large_dialogues_and_large_answers_do_not_block(called: Crew) -> None:
    """More than the buffers between the processes hold, in both directions."""
    folded = b"".join(b"250-KEYWORD%05d\r\n" % index for index in range(300)) + b"250 OK\r\n"
    asked = [
        Dialogue("tcp", stream(HELLO % index + b"\0" * 20_000), stream(SMTP + folded), 25, 50_000)
        for index in range(300)
    ]
    assert called.inspect(iter(asked)) == list(map(inspectors.inspect, asked))


def test_nobody_stays_behind() -> None:
    with Crew(3) as both:
        both.call()
        processes = [mate.process for mate in both._mates]
        assert len(processes) == 2
        assert all(process.poll() is None for process in processes)
    assert all(process.returncode is not None for process in processes)


def test_one_job_starts_nobody() -> None:
    with Crew(1) as alone:
        alone.call()
        assert not alone._mates


def test_a_system_that_starts_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crew.sys, "executable", str(tmp_path / "none"))
    with Crew(4) as alone:
        alone.call()
        asked = dialogues(100)
        assert alone.inspect(iter(asked)) == list(map(inspectors.inspect, asked))
