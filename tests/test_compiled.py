"""Kernels with and without bounds checks are compiled apart, and the checks are really in the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEYOND = '''
import sys
import numpy as np
from classifier import compiled
from classifier.compiled import be16, be32, be64, copy, i64, kernel


@kernel
def one(data, p):
    """One octet."""
    return i64(data[p])


@kernel
def two(data, p):
    """Two octets."""
    return be16(data, p)


@kernel
def four(data, p):
    """Four octets."""
    return be32(data, p)


@kernel
def eight(data, p):
    """Eight octets."""
    return i64(be64(data, p))


@kernel
def put(data, p):
    """Two octets copied, from the middle of the array."""
    copy(data, p, data, 8, 2)
    return i64(p)


data = np.zeros(64, np.uint8)[:20]
print(compiled.FOLDER)
for width, read in ((1, one), (2, two), (4, four), (8, eight), (2, put)):
    read(data, 20 - width)
    try:
        read(data, 21 - width)
    except IndexError:
        print(read.__name__)
'''


@pytest.mark.kernels
def test_bounds_checks_are_in_the_code(tmp_path: Path) -> None:
    """An octet behind an array is refused with checks, and only with them; neither takes the other's code."""
    (tmp_path / "beyond.py").write_text(BEYOND)
    places = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    plain = {name: value for name, value in os.environ.items() if name != "NUMBA_BOUNDSCHECK"} | places

    def said(environment: dict[str, str]) -> list[str]:
        command = [sys.executable, str(tmp_path / "beyond.py")]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    checked = plain | {"NUMBA_BOUNDSCHECK": "1"}
    folder, *refused = said(checked)
    other, *unchecked = said(plain)
    assert (refused, unchecked) == (["one", "two", "four", "eight", "put"], [])
    assert folder != other
    assert [len(list(Path(each).glob("*.kernel"))) for each in (folder, other)] == [5, 5]
    assert said(checked) == [folder, *refused]
