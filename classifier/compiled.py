"""How kernels are compiled, and the words their types are written with.

A kernel is a function that Numba compiles to machine code, once per machine (its cache lies beside the source
or in the user's cache folder), and that runs without the interpreter's lock. Numba checks no bounds: a kernel
checks every length itself, and the tests run all of them with NUMBA_BOUNDSCHECK=1.

Type checkers know neither the fields of a record nor how Numba joins integers of several widths. `Record` and
`Records` say where the first is meant; `i64` and the like convert exactly as numpy's scalars do, and are plain
integers to a type checker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numba import njit

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

    def inlined(function: _F) -> _F:
        """The same for a small function that is made part of its callers."""
        return function

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
    kernel = njit(cache=True, nogil=True)
    inlined = njit(cache=True, nogil=True, inline="always")
    i32, i64, u8, u16, u32, u64 = np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64
