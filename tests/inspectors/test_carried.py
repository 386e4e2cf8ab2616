"""Streams inside streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from classifier.inspectors.base import Chunk
from classifier.inspectors.carried import Carried


def test_pieces_become_one_stream_that_knows_where_each_byte_was():
    inner = Carried()
    inner.append(b"abc", 100, 0)
    inner.append(b"def", 200, 0)
    assert inner.chunks() == (Chunk(0, b"abcdef"),)
    assert [inner.origin(offset) for offset in range(6)] == [100, 101, 102, 200, 201, 202]


def test_a_hole_around_is_a_hole_inside():
    inner = Carried()
    inner.append(b"abc", 100, 0)
    inner.append(b"def", 200, 1)
    first, second = inner.chunks()
    assert (first.data, second.data) == (b"abc", b"def")
    assert second.offset > 65535 + len(first.data)
    assert inner.origin(second.offset) == 200


def test_missing_bytes_leave_room():
    inner = Carried()
    inner.append(b"abc", 100, 0, missing=5)
    inner.append(b"def", 200, 0)
    assert inner.chunks() == (Chunk(0, b"abc"), Chunk(8, b"def"))


def test_nothing():
    assert (Carried().chunks(), Carried().origin(5)) == ((), 0)


@given(st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 3), st.integers(0, 4)), max_size=12))
def test_no_byte_is_lost_and_chunks_never_touch(pieces):
    inner, at, holes = Carried(), 0, 0
    for data, more_holes, missing in pieces:
        holes += more_holes
        inner.append(data, at, holes, missing)
        at += len(data) + 10
    chunks = inner.chunks()
    assert b"".join(chunk.data for chunk in chunks) == b"".join(data for data, _, _ in pieces)
    ends = [chunk.offset + len(chunk.data) for chunk in chunks]
    assert all(end < chunk.offset for end, chunk in zip(ends, chunks[1:], strict=False))
