"""Kernels to object code, with Numba. Imported only on a machine that has not compiled them yet.

Inside a kernel the names of other kernels mean their Numba dispatchers, and the words of `compiled` the machine's
instructions: each function is compiled with globals of its own, in which these stand.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from io import BytesIO
from types import CodeType, FunctionType
from typing import Any, Final

import numpy as np
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_RELOC_TYPE_x64
from elftools.elf.relocation import RelocationSection
from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj
from numba.np.numpy_support import from_dtype

from classifier import compiled
from classifier.compiled import Kernel
from classifier.machine_code import WORD, Code, Image, ObjectFile


def compile_kernel(kernel: Kernel, arguments: tuple[Any, ...]) -> Code:
    """Machine code of a kernel for arguments like these.

    Raises numba.core.errors.NumbaError for what Numba can't compile, RuntimeError for what can't be run without
    Numba's own library.
    """
    dispatcher = _dispatcher(kernel)
    signature = tuple(_type(argument) for argument in arguments)
    dispatcher.compile(signature)
    made = dispatcher.overloads[signature]
    returned, count = made.signature.return_type, 0
    if isinstance(returned, types.UniTuple):
        returned, count = returned.dtype, returned.count
    if not isinstance(returned, types.Integer | types.Boolean | types.NoneType):
        raise RuntimeError(f"{kernel.function.__qualname__} returns {returned}")
    module, entry = _with_entry(made)
    foreign = {function.name for function in module.functions if function.is_declaration}
    if foreign := {name for name in foreign if not name.startswith("llvm.")}:
        raise RuntimeError(f"{kernel.function.__qualname__} needs {', '.join(sorted(foreign))}")
    name = "" if returned == types.none else "bool" if returned == types.boolean else returned.name
    file = ObjectFile(_optimized(module, entry), entry)
    return Code(name, count, laid_out(file) or file)


def _with_entry(made: Any) -> tuple[binding.ModuleRef, str]:
    """A module with a compiled function and all that it calls, and the name of one that calls it as `Code` has it."""
    called_type = made.target_context.call_conv.get_function_type(made.fndesc.restype, made.fndesc.argtypes)
    returned, reason, *arguments = called_type.args
    module, word, name = ir.Module(), ir.IntType(64), f"{made.fndesc.llvm_func_name}.entry"
    called = ir.Function(module, called_type, made.fndesc.llvm_func_name)
    entry = ir.Function(module, ir.FunctionType(ir.IntType(32), [word.as_pointer(), returned]), name)
    builder = ir.IRBuilder(entry.append_basic_block())
    values = []
    for number, kind in enumerate(arguments):
        value = builder.load(builder.gep(entry.args[0], [word(number)]))
        narrow = builder.inttoptr if isinstance(kind, ir.PointerType) else builder.trunc
        values.append(value if kind == word else narrow(value, kind))
    failed = cgutils.alloca_once(builder, reason.pointee)
    builder.ret(builder.call(called, [entry.args[1], failed, *values]))
    whole = binding.parse_assembly(str(module))
    whole.link_in(made.library._get_module_for_linking(), preserve=True)
    return whole, name


def _optimized(module: binding.ModuleRef, entry: str) -> bytes:
    """An object file of a module, for this processor, in which nothing is seen from outside but one function.

    So whatever is called from one place becomes part of its caller: a call with many arrays costs more than most of
    what a kernel does with a packet.
    """
    for function in module.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3,
        reloc="static", codemodel="large",
    )  # fmt: skip
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def laid_out(file: ObjectFile) -> Image | None:
    """The sections of an ELF file for x86-64 one behind the other, if nothing is missing in them but addresses.

    Sources: ELF, gABI 4.1 chapter 4; R_X86_64_64: System V ABI, AMD64 supplement, 4.4.1. Numba has code made for any
    place in memory ("large" code model), so that there is no other kind of relocation.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    elf = ELFFile(BytesIO(file.content))
    content, places = bytearray(), dict[int, int]()
    for number, section in enumerate(elf.iter_sections()):
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_size"]:
            content += bytes(-len(content) % section["sh_addralign"])
            places[number] = len(content)
            content += section.data()
    own, foreign = list[int](), dict[str, tuple[int, ...]]()
    symbols: Any = elf.get_section_by_name(".symtab")
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection) or section["sh_info"] not in places:
            continue
        for relocation in section.iter_relocations():
            if relocation["r_info_type"] != ENUM_RELOC_TYPE_x64["R_X86_64_64"]:
                return None
            symbol = symbols.get_symbol(relocation["r_info_sym"])
            at, home = places[section["sh_info"]] + relocation["r_offset"], symbol["st_shndx"]
            value = relocation["r_addend"]
            if home in places:
                own.append(at)
                value += places[home] + symbol["st_value"]
            elif home == "SHN_UNDEF" and hasattr(ctypes.CDLL(None), symbol.name):
                foreign[symbol.name] = (*foreign.get(symbol.name, ()), at)
            else:
                return None
            content[at : at + WORD] = value.to_bytes(WORD, "little", signed=True)
    called = symbols.get_symbol_by_name(file.symbol)[0]
    entry = places[called["st_shndx"]] + called["st_value"]
    return Image(bytes(content), entry, tuple(own), foreign)


def _type(value: Any) -> types.Type:
    """Numba's type of an argument. Whether an array may be written makes no difference to machine code."""
    if isinstance(value, np.ndarray):
        return types.Array(from_dtype(value.dtype), value.ndim, "C" if value.flags.c_contiguous else "A")
    if isinstance(value, tuple):
        inside = [_type(each) for each in value]
        return types.Tuple(inside) if type(value) is tuple else types.NamedTuple(inside, type(value))
    return types.boolean if isinstance(value, bool | np.bool_) else types.int64


@cache
def _dispatcher(kernel: Kernel) -> Any:
    """Numba's own of a kernel, and of the kernels that it calls."""
    function = kernel.function
    names = {
        name: _in_kernels(function.__globals__[name])
        for name in _names(function.__code__)
        if name in function.__globals__
    }
    own = FunctionType(function.__code__, function.__globals__ | names, function.__name__, function.__defaults__)
    own.__module__, own.__qualname__ = function.__module__, function.__qualname__
    return njit(
        nogil=True,
        _nrt=False,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        inline="always" if kernel.inline else "never",
    )(own)


def _names(code: CodeType) -> set[str]:
    """Globals that a function may use."""
    inside = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inside)


def _in_kernels(value: Any) -> Any:
    if isinstance(value, Kernel):
        return _dispatcher(value)
    return OWN_WORDS.get(value, value) if isinstance(value, FunctionType) else value


# ---- instructions --------------------------------------------------------------------------


def _load(bits: int) -> Any:
    """One unaligned load and a byte swap, which LLVM does not always make of single bytes."""

    @intrinsic
    def load(_context, data, p):  # type: ignore[no-untyped-def]
        def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            array = arrayobj.make_array(signature.args[0])(context, builder, arguments[0])
            word = ir.IntType(bits)
            place = builder.bitcast(builder.gep(array.data, [arguments[1]]), word.as_pointer())
            value = builder.bswap(builder.load(place, align=1))
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return (types.uint64 if bits == 64 else types.int64)(data, types.int64), code

    return load


@intrinsic
def _prefetch(_context, array, index):  # type: ignore[no-untyped-def]
    """Have the cache lines of array[index] brought in, for reading and writing."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
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


@intrinsic
def _copy(_context, target, at, source, start, length):  # type: ignore[no-untyped-def]
    """Copy octets that don't overlap; the caller has checked both ends."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        places = [
            builder.gep(arrayobj.make_array(kind)(context, builder, array).data, [index])
            for kind, array, index in zip(signature.args[:4:2], arguments[:4:2], arguments[1:4:2], strict=True)
        ]
        cgutils.raw_memcpy(builder, *places, arguments[4], 1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), code


@intrinsic
def _move(_context, array, at, start, length):  # type: ignore[no-untyped-def]
    """Copy octets that may overlap; the caller has checked both ends."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = arrayobj.make_array(signature.args[0])(context, builder, arguments[0]).data
        places = [builder.gep(data, [index]) for index in arguments[1:3]]
        cgutils.raw_memmove(builder, *places, arguments[3], 1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64), code


@intrinsic(prefer_literal=True)
def _on_stack(_context, words):  # type: ignore[no-untyped-def]
    """An array whose memory is the stack's."""
    kind = types.Array(types.int64, 1, "C")

    def code(context, builder, signature, _arguments):  # type: ignore[no-untyped-def]
        word, count = ir.IntType(64), signature.args[0].literal_value
        memory = cgutils.alloca_once(builder, ir.ArrayType(word, count))
        array = arrayobj.make_array(kind)(context, builder)
        arrayobj.populate_array(
            array,
            data=builder.bitcast(memory, word.as_pointer()),
            shape=[word(count)],
            strides=[word(8)],
            itemsize=word(8),
            meminfo=None,
        )
        return array._getvalue()

    return (kind(words), code) if isinstance(words, types.IntegerLiteral) else None


def _checked(function: Any) -> Any:
    return njit(nogil=True, _nrt=False)(function)


@_checked
def _be16_checked(data, p):  # type: ignore[no-untyped-def]
    """Two bytes, one by one, so that their indexes are checked."""
    return (np.int64(data[p]) << 8) | np.int64(data[p + 1])


@_checked
def _be32_checked(data, p):  # type: ignore[no-untyped-def]
    """Four, likewise."""
    return (_be16_checked(data, p) << 16) | _be16_checked(data, p + 2)


@_checked
def _be64_checked(data, p):  # type: ignore[no-untyped-def]
    """Eight, likewise."""
    return (np.uint64(_be32_checked(data, p)) << np.uint64(32)) | np.uint64(_be32_checked(data, p + 4))


@_checked
def _copy_checked(target, at, source, start, length):  # type: ignore[no-untyped-def]
    """Octet by octet, likewise."""
    for i in range(length):
        target[at + i] = source[start + i]


@_checked
def _move_checked(array, at, start, length):  # type: ignore[no-untyped-def]
    """Octet by octet, likewise, from the end that is not written before it was read."""
    for i in range(length):
        place = i if at < start else length - 1 - i
        array[at + place] = array[start + place]


OWN_WORDS: Final[dict[Any, Any]] = {
    compiled.be16: _be16_checked if config.BOUNDSCHECK else _load(16),
    compiled.be32: _be32_checked if config.BOUNDSCHECK else _load(32),
    compiled.be64: _be64_checked if config.BOUNDSCHECK else _load(64),
    compiled.copy: _copy_checked if config.BOUNDSCHECK else _copy,
    compiled.move: _move_checked if config.BOUNDSCHECK else _move,
    compiled.prefetch: _prefetch,
    compiled.on_stack: _on_stack,
}
"""Functions of `compiled` and what they are in a kernel."""
