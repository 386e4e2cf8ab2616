"""Machine code of kernels, as it is kept and loaded.

`compiling` lays an object file out once: all its sections one behind the other, with only addresses missing that are
known when it is loaded. That takes some microseconds; LLVM, whose import would be a third of the time of a small
capture, loads what could not be laid out (other systems and processors than Linux on x86-64).
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from llvmlite import binding

WORD: Final = 8
"""Octets of an address."""

_PROT_READ, _PROT_EXEC = 1, 4
"""Of mprotect(2)."""


class Image(NamedTuple):
    """Code and constants as they lie in memory.

    entry: offset of the function to call. own: offsets of addresses inside the image, which hold an offset in it.
    foreign: offsets of addresses of functions of the C library, by name.
    """

    content: bytes
    entry: int
    own: tuple[int, ...]
    foreign: dict[str, tuple[int, ...]]

    def load(self) -> int:
        """Put it into memory for good; returns the address of its function. Raises OSError."""
        size = -(-len(self.content) // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[: len(self.content)] = self.content
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        bases = dict.fromkeys(self.own, start)
        for name, offsets in self.foreign.items():
            bases |= dict.fromkeys(offsets, _address(name))
        for offset, base in bases.items():
            place = slice(offset, offset + WORD)
            memory[place] = (int.from_bytes(memory[place], "little") + base).to_bytes(WORD, "little")
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), _PROT_READ | _PROT_EXEC):
            raise OSError("the system lets no memory be executed")
        _LOADED.append(memory)
        return start + self.entry


_LOADED: Final[list[mmap.mmap]] = []
"""What was loaded lives as long as the process."""


def _address(name: str) -> int:
    """Address of a function of the C library. Raises AttributeError."""
    return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0


class ObjectFile(NamedTuple):
    """An object file for LLVM to load. symbol: the name of the function to call."""

    content: bytes
    symbol: str

    def load(self) -> int:
        """Put it into memory for good; returns the address of its function."""
        from llvmlite import binding

        engine = _engine()
        engine.add_object_file(binding.ObjectFileRef.from_data(self.content))
        engine.finalize_object()
        return int(engine.get_function_address(self.symbol))


@cache
def _engine() -> binding.ExecutionEngine:
    """LLVM as a loader of object files; it lives as long as the process."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


class Code(NamedTuple):
    """One kernel for one form of arguments: int32 (const int64 *words, void *returned).

    words: what the arguments are; returned: a place for what the kernel returns. Itself it returns Numba's status.
    kind: C type of what the kernel returns (`ctypes`), "" for nothing; width: how many of them, 0 for one that stands
    alone.
    """

    kind: str
    width: int
    machine: Image | ObjectFile
