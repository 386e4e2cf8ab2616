"""Kernels: functions that run as machine code, and without the interpreter's lock.

Numba compiles a kernel once per machine and version (`compiling`). The machine code is kept in the user's cache folder
(`machine_code`), and later runs never import Numba, which would take longer than a small capture needs in all.

A kernel takes integers, truth values, arrays and named tuples of those, writes into the arrays, and returns integers.
It neither makes arrays nor counts references (which are atomic, and cost more than most of what a kernel does with a
packet): its callers make them and hold them meanwhile. Numba checks no bounds: a kernel checks every length itself,
and tests run all of them with NUMBA_BOUNDSCHECK=1.

The name of the cache folder is made from all that the code depends on: the sources of all kernels and of the constants
that they take in, the versions of what compiles them, and the processor.

Type checkers know neither the fields of a record nor how Numba joins integers of several widths. `Record` and
`Records` say where the first is meant; `i64` and the like convert exactly as numpy's scalars do, and are plain
integers to a type checker.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import struct
import sys
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from classifier import keeping
from classifier.machine_code import Code

Record: TypeAlias = Any
"""One row of a structured array: fields are attributes inside a kernel."""

Records: TypeAlias = Any
"""A structured array."""

Column: TypeAlias = Any
"""An array of numbers that a kernel reads or writes; the docstring beside it says its dtype."""


# ---- where compiled code is kept -----------------------------------------------------------

OTHERS: Final = ("compiled.py", "machine_code.py", "fields.py", "limits.py", "packets.py")
"""Modules without kernels that make machine code, or whose constants kernels may take in."""


def kernel_sources() -> dict[Path, bytes]:
    """What compiled kernels depend on: the text of each module that has kernels or hands them constants."""
    package = Path(__file__).parent
    texts = {path: path.read_bytes() for path in sorted([*package.glob("*.py"), *package.glob("sources/*.py")])}
    has_kernels = b"\nfrom classifier.compiled import"
    return {path: text for path, text in texts.items() if has_kernels in text or path.name in OTHERS}


def _folder() -> Path:
    """Where the compiled kernels of exactly these sources are kept."""
    texts = [*kernel_sources().values()]
    for name in ("numba", "llvmlite"):
        found = importlib.util.find_spec(name)
        if found and found.origin:
            texts.append(Path(found.origin).with_name("_version.py").read_bytes())
    checks = os.environ.get("NUMBA_BOUNDSCHECK", "")
    digest = hashlib.sha256(f"{np.__version__} {sys.version_info[:2]} {_processor()} {checks}".encode())
    for text in texts:
        digest.update(text)
    return keeping.folder() / f"kernels-{digest.hexdigest()[:16]}"


def _processor() -> str:
    """What instructions the processor has: what Linux says of the first one, elsewhere LLVM."""
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:
            first = file.read(_CPUINFO).partition(b"\n\n")[0]
    except OSError:
        from llvmlite import binding

        return f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    telling = (b"vendor", b"cpu family", b"model", b"flags", b"CPU", b"Features")
    return str([line for line in first.splitlines() if line.startswith(telling)])


_CPUINFO: Final = 4096
"""Octets of /proc/cpuinfo that hold its first processor; the system makes no more than it is asked for."""


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


FOLDER: Final = _folder()
"""Cache of compiled kernels."""

CACHED: Final = _usable(FOLDER)
"""Whether compiled kernels can be kept; if not, every run compiles them."""


def compiles_now() -> bool:
    """Whether the first use of the kernels will compile them, which takes about half a minute."""
    return not CACHED or not any(FOLDER.glob("*.kernel"))


# ---- calling -------------------------------------------------------------------------------

Form: TypeAlias = tuple[Any, ...]
"""What arguments are, apart from their values: what a kernel is compiled for."""


class Kernel:
    """A function that is called as machine code, compiled and loaded when it is called first.

    function: its Python; inline: whether it is to be made part of the kernels that call it.
    """

    def __init__(self, function: Callable[..., Any], inline: bool = False) -> None:
        self.function, self.inline = function, inline
        self._ready: dict[Form, Callable[[bytes], Any]] = {}
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        """Run it. Raises TypeError for what no kernel takes."""
        form: list[Any] = []
        words: list[bytes] = []
        _lay_out(arguments, form, words)
        kind = tuple(form)
        ready = self._ready.get(kind)
        if ready is None:
            ready = self._ready[kind] = _callable(self.function.__qualname__, self._code(kind, arguments))
        return ready(b"".join(words))

    def _code(self, form: Form, arguments: tuple[Any, ...]) -> Code:
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        path = FOLDER / f"{name}-{hashlib.sha256(_spelled(form).encode()).hexdigest()[:12]}.kernel"
        if CACHED and path.exists():
            code: Code = keeping.kept(path)
            return code
        from classifier.compiling import compile_kernel

        code = compile_kernel(self, arguments)
        if CACHED:
            with suppress(OSError):  # a full disk: the next run compiles once more
                keeping.save(path, code)
        return code


_LaidOut: TypeAlias = tuple["weakref.ref[NDArray[Any]]", Form, bytes]

_LAID_OUT: Final[dict[int, _LaidOut]] = {}
"""Form and words of arrays that are alive, by their ids: most kernels get the same ones again and again."""


def _lay_out_array(array: NDArray[Any]) -> _LaidOut:
    number = id(array)
    words = 0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides
    alive = weakref.ref(array, lambda _: _LAID_OUT.pop(number, None))
    form = array.dtype, array.ndim, array.flags.c_contiguous
    laid_out = _LAID_OUT[number] = alive, form, struct.pack(f"={len(words)}q", *words)
    return laid_out


_WORD: Final = (1 << 64) - 1


def _lay_out(values: Iterable[Any], form: list[Any], words: list[bytes]) -> None:
    """Append the form of values, and the words (64 bits) by which machine code gets them.

    Those are Numba's: of an array two pointers that only reference counts need, then its size, item size, address,
    shape and strides; tuples are laid out one value behind the other.
    """
    for value in values:
        if isinstance(value, np.ndarray):
            known = _LAID_OUT.get(id(value))
            _, kind, place = known if known is not None and known[0]() is value else _lay_out_array(value)
            form.append(kind)
            words.append(place)
        elif isinstance(value, tuple):
            form += type(value), len(value)
            _lay_out(value, form, words)
        elif isinstance(value, bool | np.bool_):
            form.append(bool)
            words.append(int(value).to_bytes(8, sys.byteorder))
        elif isinstance(value, int | np.integer):
            form.append(int)
            words.append((int(value) & _WORD).to_bytes(8, sys.byteorder))
        else:
            raise TypeError(f"a kernel takes no {type(value).__name__}")


def _spelled(form: Form) -> str:
    return " ".join(each.__qualname__ if isinstance(each, type) else str(each) for each in form)


_Entry = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p, ctypes.c_void_p)

_NONE: Final = -2
"""Numba's status of a function that returned None."""


def _callable(name: str, code: Code) -> Callable[[bytes], Any]:
    """What takes the words of the arguments of the kernel with that name, and returns what it returns."""
    call = _Entry(code.machine.load())
    place = getattr(ctypes, f"c_{code.kind or 'int64'}") * max(code.width, 1)

    def run(words: bytes) -> Any:
        returned = place()
        status = call(words, returned)
        if status not in (0, _NONE):
            raise IndexError(f"{name}: status {status}, with bounds checks on most likely an index out of bounds")
        if not code.kind:
            return None
        return tuple(returned) if code.width else returned[0]

    return run


# ---- words to write kernels with -----------------------------------------------------------

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
    kernel = Kernel

    def inlined(function):
        """The same for a small function that is made part of its callers."""
        return Kernel(function, inline=True)

    i32, i64, u8, u16, u32, u64 = np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64


# What follows is said here for readers and type checkers; `compiling` has the machine's instructions for it.


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
    target[at : at + length] = source[start : start + length]


def move(array: Any, at: int, start: int, length: int) -> None:
    """array[at : at + length] = array[start : start + length] of octets that may overlap, all inside."""
    array[at : at + length] = array[start : start + length]


def prefetch(array: Any, index: int) -> None:
    """Tell the processor that array[index] will be used soon; the caller has checked that it is there."""


def on_stack(words: int) -> NDArray[np.int64]:
    """A small array, int64[words], that lives as long as the call of a kernel. words: a constant."""
    return np.empty(words, np.int64)
