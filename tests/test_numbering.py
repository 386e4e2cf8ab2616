"""Equal things get equal numbers, in order of appearance."""

from __future__ import annotations

import numpy as np
import pytest

from classifier.numbering import Distinct, distinct_rows


def test_values_are_numbered_as_they_come() -> None:
    numbers = Distinct[str]()
    assert [numbers.code(each) for each in "abacb"] == [0, 1, 0, 2, 1]
    assert numbers.values == ["a", "b", "c"]


@pytest.mark.kernels
@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 5000])
@pytest.mark.parametrize("width", [1, 2, 6])
@pytest.mark.parametrize("most", [1, 7, 2**62])
def test_rows_are_numbered_as_a_dictionary_would(count: int, width: int, most: int) -> None:
    random = np.random.default_rng(count * 100 + width)
    columns = [random.integers(-most, most, count) for _ in range(width)]
    columns[0] = columns[0].astype(np.int32)  # any integers, and truth values
    columns[-1] = columns[-1] > 0 if width > 2 else columns[-1]
    numbers = Distinct[tuple[int, ...]]()
    expected = [numbers.code(row) for row in zip(*(each.tolist() for each in columns), strict=True)]
    codes, first = distinct_rows(columns)
    assert codes.tolist() == expected
    assert first.tolist() == [expected.index(number) for number in range(len(numbers.values))]
    assert (codes.dtype, first.dtype) == (np.int32, np.int64)


@pytest.mark.kernels
def test_rows_that_differ_only_by_high_bits_stay_apart() -> None:
    high = np.arange(4096, dtype=np.int64) << 50
    codes, first = distinct_rows((high, high))
    assert codes.tolist() == first.tolist() == list(range(4096))
