"""How kernels are compiled, and the words their types are written with.

A kernel is a function that Numba compiles to machine code, once per machine and version, and that runs without
the interpreter's lock. Numba checks no bounds: a kernel checks every length itself, and the tests run all of
them with NUMBA_BOUNDSCHECK=1.

Reference counts are atomic and cost more than most of what a kernel does with a packet, so kernels don't count
references: arrays are made by their callers, which hold them meanwhile. The few that make arrays are `allocating`.

Compiled code is kept in the user's cache folder, under a name made from the sources of all kernels and of the
constants that they take in: Numba by itself notices a change of a kernel's own file only.

Type checkers know neither the fields of a record nor how Numba joins integers of several widths. `Record` and
`Records` say where the first is meant; `i64` and the like convert exactly as numpy's scalars do, and are plain
integers to a type checker.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

CONSTANTS: Final = ("fields.py", "limits.py", "packets.py")
"""Modules without kernels whose constants kernels may take in."""


def kernel_sources() -> dict[Path, bytes]:
    """What compiled kernels depend on: the text of each module that has kernels or hands them constants."""
    package = Path(__file__).parent
    texts = {path: path.read_bytes() for path in sorted([*package.glob("*.py"), *package.glob("sources/*.py")])}
    has_kernels = b"\nfrom classifier.compiled import"
    return {path: text for path, text in texts.items() if has_kernels in text or path.name in CONSTANTS}


def _folder() -> Path:
    """Where the compiled kernels of exactly these sources are kept."""
    digest = hashlib.sha256(f"{sys.version_info} boundscheck={os.environ.get('NUMBA_BOUNDSCHECK')}".encode())
    for text in (*kernel_sources().values(), Path(__file__).read_bytes()):
        digest.update(text)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "exflow" / f"kernels-{digest.hexdigest()[:16]}"


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


FOLDER: Final = Path(os.environ.get("NUMBA_CACHE_DIR") or _folder())
"""Cache of compiled kernels; NUMBA_CACHE_DIR in the environment names another one."""

CACHED: Final = _usable(FOLDER)
"""Whether compiled kernels can be kept; if not, every run compiles them."""


def compiles_now() -> bool:
    """Whether the first use of the kernels will compile them, which takes about half a minute."""
    return not CACHED or not any(FOLDER.rglob("*.nbi"))


Record: TypeAlias = Any
"""One row of a structured array: fields are attributes inside a kernel."""

Records: TypeAlias = Any
"""A structured array."""

Column: TypeAlias = Any
"""An array of numbers that a kernel reads or writes; the docstring beside it says its dtype."""

_F = TypeVar("_F")

if TYPE_CHECKING:

    def kernel(function: _F) -> _F:
        """Compile a function; see the module."""
        return function

    def allocating(function: _F) -> _F:
        """The same for one that makes arrays of its own."""
        return function

    def inlined(function: _F) -> _F:
        """The same for a small function that is made part of its callers."""
        return function

    def be16(data: Any, p: int) -> int:
        """Two bytes at data[p], network order, as a signed integer; the caller has checked that they are there."""
        return int(data[p]) << 8 | int(data[p + 1])

    def be32(data: Any, p: int) -> int:
        """Four bytes at data[p], likewise."""
        return be16(data, p) << 16 | be16(data, p + 2)

    def be64(data: Any, p: int) -> int:
        """Eight bytes at data[p], as an unsigned integer."""
        return be32(data, p) << 32 | be32(data, p + 4)

    def copy(target: Any, at: int, source: Any, start: int, length: int) -> None:
        """target[at : at + length] = source[start : start + length] of octets that don't overlap, all inside."""

    def prefetch(array: Any, index: int) -> None:
        """Tell the processor that array[index] will be used soon; the caller has checked that it is there."""

    def i32(value: Any) -> int:
        """As a signed 32-bit integer."""
        return int(value)

    def i64(value: Any) -> int:
        """As a signed 64-bit integer."""
        return int(value)

    def u8(value: Any) -> int:
        """As an octet."""
        return int(value)

    def u16(value: Any) -> int:
        """As an unsigned 16-bit integer."""
        return int(value)

    def u32(value: Any) -> int:
        """As an unsigned 32-bit integer."""
        return int(value)

    def u64(value: Any) -> int:
        """As an unsigned 64-bit integer."""
        return int(value)

else:

    def _compiled(function, **options):
        before, config.CACHE_DIR = config.CACHE_DIR, str(FOLDER) if CACHED else config.CACHE_DIR
        try:
            return njit(cache=CACHED, nogil=True, **options)(function)
        finally:
            config.CACHE_DIR = before

    def kernel(function):
        """Compile a function; see the module."""
        return _compiled(function, _nrt=False)

    def allocating(function):
        """The same for one that makes arrays of its own."""
        return _compiled(function, _nrt=True)

    def inlined(function):
        """The same for a small function that is made part of its callers."""
        return _compiled(function, inline="always")

    i32, i64, u8, u16, u32, u64 = np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64

    def _load(bits):
        """One unaligned load and a byte swap, which LLVM does not always make of single bytes."""

        @intrinsic
        def load(_context, data, p):
            def code(context, builder, signature, arguments):
                array = arrayobj.make_array(signature.args[0])(context, builder, arguments[0])
                word = ir.IntType(bits)
                place = builder.bitcast(builder.gep(array.data, [arguments[1]]), word.as_pointer())
                value = builder.bswap(builder.load(place, align=1))
                return value if bits == 64 else builder.zext(value, ir.IntType(64))

            return (types.uint64 if bits == 64 else types.int64)(data, types.int64), code

        return load

    @intrinsic
    def prefetch(_context, array, index):
        """Have the cache lines of array[index] brought in, for reading and writing."""

        def code(context, builder, signature, arguments):
            data = arrayobj.make_array(signature.args[0])(context, builder, arguments[0])
            octet, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            place = builder.bitcast(builder.gep(data.data, [arguments[1]]), octet)
            kind = ir.FunctionType(ir.VoidType(), [octet, number, number, number])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
            for line in range(0, size, 64):
                at = builder.gep(place, [ir.Constant(ir.IntType(64), line)])
                builder.call(hint, [at, number(1), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(array, types.int64), code

    if config.BOUNDSCHECK:

        @inlined
        def be16(data, p):
            """Two bytes, one by one, so that their indexes are checked."""
            return (i64(data[p]) << 8) | i64(data[p + 1])

        @inlined
        def be32(data, p):
            """Four, likewise."""
            return (be16(data, p) << 16) | be16(data, p + 2)

        @inlined
        def be64(data, p):
            """Eight, likewise."""
            return (u64(be32(data, p)) << u64(32)) | u64(be32(data, p + 4))

        @kernel
        def copy(target, at, source, start, length):
            """Octet by octet, likewise."""
            for i in range(length):
                target[at + i] = source[start + i]

    else:
        be16, be32, be64 = _load(16), _load(32), _load(64)

        @intrinsic
        def copy(_context, target, at, source, start, length):
            """Copy octets that don't overlap; the caller has checked both ends."""

            def code(context, builder, signature, arguments):
                places = [
                    builder.gep(arrayobj.make_array(kind)(context, builder, array).data, [index])
                    for kind, array, index in zip(signature.args[:4:2], arguments[:4:2], arguments[1:4:2], strict=True)
                ]
                cgutils.raw_memcpy(builder, *places, arguments[4], 1)
                return context.get_dummy_value()

            return types.void(target, types.int64, source, types.int64, types.int64), code

