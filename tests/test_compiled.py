"""Kernels with and without bounds checks are compiled apart, and the checks are really in the code."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding
from numpy.typing import NDArray

from classifier import compiled, keeping
from classifier.compiled import Kernel, copy, i64, kernel, u64
from classifier.compiling import compile_kernel, laid_out
from classifier.machine_code import Image, ObjectFile

BEYOND = '''
import sys
import numpy as np
from classifier import compiled
from classifier.compiled import be16, be32, be64, copy, i64, kernel, move


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
def shift(data, p):
    """Two octets moved by one, to the end of the array."""
    move(data, p, p - 1, 2)
    return i64(p)


@kernel
def put(data, p):
    """Two octets copied, from the middle of the array."""
    copy(data, p, data, 8, 2)
    return i64(p)


data = np.zeros(64, np.uint8)[:20]
print(compiled.FOLDER)
for width, read in ((1, one), (2, two), (4, four), (8, eight), (2, put), (2, shift)):
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
    assert (refused, unchecked) == (["one", "two", "four", "eight", "put", "shift"], [])
    assert folder != other
    assert [len(list(Path(each).glob("*.kernel"))) for each in (folder, other)] == [6, 6]
    assert said(checked) == [folder, *refused]


@kernel
def _spread(data: NDArray[np.uint8], at: int, size: int) -> tuple[int, int]:
    """Move octets, clear where they were, and look one up in a table: calls of the C library, and constants."""
    copy(data, at, data, 0, size)
    data[:size] = 0
    kind = (3, 1, 4, 1, 5, 9, 2, 6)[size & 7]
    return kind, i64(data[at])


@kernel
def _is_odd(value: int) -> bool:
    return value & 1 == 1


@kernel
def _highest(value: int) -> int:
    return u64(value) | u64(1 << 63)


@kernel
def _clear(data: NDArray[np.uint8]) -> None:
    data[:] = 0


@pytest.mark.kernels
@pytest.mark.parametrize("system", ["linux", "elsewhere"])
def test_machine_code_is_loaded_with_and_without_llvm(
    system: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a kernel does and returns is the same whoever loads it, and whether it was kept meanwhile."""
    if system == "linux" and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("machine code is laid out on Linux on x86-64")
    monkeypatch.setattr(sys, "platform", system)

    def call(function: Kernel, *arguments: Any) -> Any:
        code = compile_kernel(function, arguments)
        assert isinstance(code.machine, Image if system == "linux" else ObjectFile)
        keeping.save(tmp_path / "one.kernel", code)
        kind, words = list[Any](), list[bytes]()
        compiled._lay_out(arguments, kind, words)
        return compiled._callable("one", keeping.kept(tmp_path / "one.kernel"))(b"".join(words))

    data = np.arange(1, 201, dtype=np.uint8)
    assert call(_spread, data, 100, 77) == (9, 1)
    assert data.tolist() == [0] * 77 + list(range(78, 101)) + list(range(1, 78)) + list(range(178, 201))
    assert [call(_is_odd, value) for value in (-1, 2)] == [True, False]
    assert call(_highest, 5) == (1 << 63) + 5
    assert call(_clear, data) is None
    assert not data.any()


def test_what_is_no_absolute_address_is_left_to_llvm() -> None:
    """Code that is made for a place near others is not laid out."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("machine code is laid out on Linux on x86-64")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    text = "declare i32 @getpid() define i32 @f() nounwind { %p = call i32 @getpid() ret i32 %p }"
    module = binding.parse_assembly(text)
    target = binding.Target.from_default_triple()
    machines = [target.create_target_machine(codemodel=model, reloc="static") for model in ("small", "large")]
    near, image = (laid_out(ObjectFile(machine.emit_object(module), "f")) for machine in machines)
    assert near is None
    assert image is not None
    assert ctypes.CFUNCTYPE(ctypes.c_int32)(image.load())() == os.getpid()
