"""Every inspector against segmentation, and against its own protocol with a field that is something else.

The samples are split by field (`spoken.py`): segments end between fields and inside them, and a changed field has
neighbours that are still true, which random octets never have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from formats import frame, pcap
from hypothesis import given, settings
from hypothesis import strategies as st
from inspectors.playbook import check, check_who_is_not_asked
from inspectors.spoken import CLIENT, SERVER, TALKS, Said, Talk
from test_reassembly import ACK, FIN, PSH, SYN, Segment, packet

import classifier
from classifier.inspectors import INSPECTORS, inspect
from classifier.inspectors.base import NOT_THIS, Answer, Evidence
from classifier.limits import SPAN_WINDOW_NS
from classifier.result import Result

STREAMED = [talk for talk in TALKS if talk.transport == "tcp"]
ENOUGH = 32
"""Octets from which on a beginning that fits is no other protocol's; fewer fit several, or none yet."""


def named(talk: Talk) -> str:
    return f"{talk.inspector}-{talk.transport}"


def own(talk: Talk) -> Any:
    return INSPECTORS[talk.inspector]


def test_every_inspector_has_a_sample() -> None:
    assert {talk.inspector for talk in TALKS} == set(INSPECTORS)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("talk", TALKS, ids=named)
def test_a_sample_is_recognised_by_its_inspector(talk: Talk, turned: bool) -> None:
    dialogue = talk.dialogue(turned=turned)
    found = inspect(dialogue)
    assert isinstance(found, Evidence)
    assert found == own(talk)(dialogue)
    assert found.reversed in (None, turned)


# ---- segmentation ---------------------------------------------------------------------------------------------------


def beginning(talk: Talk, size: int) -> list[Said]:
    """The first octets of what both say, in the order in which they say it."""
    said = []
    for each in talk.said:
        if size > 0:
            said.append(Said(each.by, {"all": each.data[:size]}))
        size -= len(each.data)
    return said


@pytest.mark.parametrize("talk", STREAMED, ids=named)
@settings(max_examples=60)
@given(data=st.data(), turned=st.booleans())
def test_a_beginning_is_waited_for_or_recognised_and_stays_so(talk: Talk, data: st.DataObject, turned: bool) -> None:
    """Wherever a stream is cut: never another protocol's, and what was recognised isn't lost with the next octets."""
    sizes = sorted(data.draw(st.lists(st.integers(1, sum(len(each.data) for each in talk.said)), min_size=1)))
    recognised: set[str] = set()
    whole = inspect(talk.dialogue())
    assert isinstance(whole, Evidence)
    for size in sizes:
        dialogue = talk.dialogue(beginning(talk, size), turned=turned)
        for found in (own(talk)(dialogue), inspect(dialogue)):
            check(found, dialogue)
            if isinstance(found, Evidence):
                recognised.add(found.protocol)
            else:
                assert not recognised, size
                assert size < ENOUGH or found is not NOT_THIS, size
    assert recognised <= {whole.protocol, talk.inspector}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("talk", TALKS, ids=named)
def test_who_is_not_asked_about_a_beginning_would_have_refused_it(talk: Talk, turned: bool) -> None:
    """Wherever it is cut, with both sides or one alone."""
    for size in range(sum(len(each.data) for each in talk.said) + 1):
        said = beginning(talk, size)
        for heard in (said, *([each for each in said if each.by == by] for by in (CLIENT, SERVER))):
            check_who_is_not_asked(talk.dialogue(heard, turned=turned))


def segments(talk: Talk, chance: random.Random | None) -> Iterator[Segment]:
    """A connection that says this: message by message, or in pieces that come late and again.

    Pieces end at fields, or anywhere. What one side says before the other answers comes in any order.
    """
    next_, number = {True: 1_000, False: 2**32 - 50}, 0

    def segment(ours: bool, data: bytes = b"", flags: int = ACK) -> Segment:
        nonlocal number
        number += 1
        made = Segment(next_[ours], data, flags, next_[not ours], ours, number)
        next_[ours] = (next_[ours] + len(data) + bool(flags & (SYN | FIN))) % 2**32
        return made

    yield segment(True, flags=SYN)
    yield segment(False, flags=SYN | ACK)
    yield segment(True)
    flight: list[Segment] = []
    for each, following in zip(talk.said, [*talk.said[1:], None], strict=True):
        pieces = [each.data] if chance is None else list(cut(each, chance))
        flight += [segment(each.by == CLIENT, piece, ACK | PSH) for piece in pieces]
        if following is None or following.by != each.by:
            yield from flight if chance is None else disturbed(flight, chance)
            flight = []
    for ours in (True, False):
        yield segment(ours, flags=FIN | ACK)


def cut(said: Said, chance: random.Random) -> Iterator[bytes]:
    """The octets of a message, in pieces that end at some of the fields and inside others."""
    held = b""
    for value in said.fields.values():
        held += value
        while held and chance.random() < 0.5:
            size = len(held) if chance.random() < 0.5 else chance.randint(1, len(held))
            yield held[:size]
            held = held[size:]
    if held:
        yield held


def disturbed(flight: Sequence[Segment], chance: random.Random) -> list[Segment]:
    """In another order, some of them twice."""
    again = [each for each in flight if chance.random() < 0.2]
    late = [(index + chance.uniform(0, 4), each) for index, each in enumerate([*flight, *again])]
    return [each for _, each in sorted(late, key=lambda pair: pair[0])]


def classified(path: Path, chance: random.Random | None) -> Result:
    """All samples over TCP, one conversation each."""
    packets = [packet(each, 8_000 + number) for number, talk in enumerate(STREAMED) for each in segments(talk, chance)]
    frames = [frame(10**18 + index * 2 * SPAN_WINDOW_NS, each) for index, each in enumerate(packets)]
    path.write_bytes(pcap(frames, digits=9, link=101))
    return classifier.classify(path, jobs=1)


COUNTED = {
    "file", "first_frame", "last_frame", "frame", "start", "end", "missed_bytes",
    *(f"{what}_to_{side}" for what in ("packets", "bytes") for side in ("server", "client")),
}  # fmt: skip
"""What pieces and repetitions change."""


def told(value: Any) -> Any:
    """Everything that is said of a conversation, but for those."""
    if isinstance(value, dict):
        return {name: told(each) for name, each in value.items() if name not in COUNTED}
    return list(map(told, value)) if isinstance(value, list) else value


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    found = [talk.to_dict() for talk in classified(tmp_path_factory.mktemp("plain") / "plain.pcap", None)]
    assert [each["protocol"] for each in found] == [inspect(talk.dialogue()).protocol for talk in STREAMED]  # type: ignore[union-attr]
    return [told(each) for each in found]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_segments_in_any_pieces_and_order_say_the_same(
    plain: list[Any], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Through the whole way of a capture, for all inspectors at once: every word of the records but the counts."""
    result = classified(tmp_path_factory.mktemp("cut") / "cut.pcap", random.Random(seed))
    assert [talk.missed_bytes for talk in result] == [0] * len(STREAMED)
    assert [told(talk.to_dict()) for talk in result] == plain


# ---- fields ---------------------------------------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, talk: Talk) -> list[Said]:
    """What is said, with a few fields that are something else, left out, or there twice."""
    said = [Said(each.by, dict(each.fields)) for each in talk.said]
    for _ in range(draw(st.integers(1, 3))):
        fields = draw(st.sampled_from(said)).fields
        name = draw(st.sampled_from(sorted(fields)))
        value = fields[name]
        other = st.one_of(
            st.binary(min_size=len(value), max_size=len(value)), st.binary(max_size=2 * len(value) + 4),
            st.sampled_from([b"", value * 2, bytes(len(value)), b"\xff" * len(value), value[:-1]]),
        )  # fmt: skip
        fields[name] = draw(other)  # type: ignore[index]
    return said


@pytest.mark.parametrize("talk", TALKS, ids=named)
@settings(max_examples=100)
@given(data=st.data(), turned=st.booleans())
def test_a_changed_field_never_raises_and_keeps_to_the_contract(talk: Talk, data: st.DataObject, turned: bool) -> None:
    dialogue = talk.dialogue(data.draw(changed(talk)), turned=turned)
    check(own(talk)(dialogue), dialogue)
    found: Evidence | Answer = inspect(dialogue)
    check(found, dialogue)
