# SPDX-License-Identifier: Apache-2.0
"""Kernels on the threads that torch's own operators use: its OpenMP team, entered without the GIL.

The team's threads spin for a while after each parallel region, so that between two operators they are awake, and a
region costs a few microseconds where waking a Python thread costs twenty or more. To share the team also keeps two sets
of threads from competing for the same processors. libgomp's entry `GOMP_parallel` takes a plain C function; one is
compiled here for each signature, which unpacks the arguments and takes pieces until none is left.
"""

import ctypes
import functools
import os
import struct
import threading
from collections.abc import Callable
from typing import Any, final

import torch  # noqa: F401  loads the library that is looked for
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_TARGET: Any = cpu_target.target_context
#: Words before the arguments: kernel, total, size of a piece, number of pieces, workers, offset of the flags.
_HEAD = 6
_FORMATS = {types.float32: "f4x", types.float64: "d"}

# A team belongs to the process that made it: its threads are not there after a fork.
_usable = True
_free = threading.Lock()


def _after_fork() -> None:
    global _usable, _free
    _usable, _free = False, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _library() -> tuple[Callable[..., None], int] | None:
    """Return libgomp's entry and the address of `omp_get_thread_num`; None where torch uses no libgomp."""
    try:
        library = ctypes.CDLL(None)
        enter, number = library.GOMP_parallel, library.omp_get_thread_num
    except (AttributeError, OSError, TypeError):
        return None
    enter.restype = None
    enter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    address = ctypes.cast(number, ctypes.c_void_p).value
    return None if address is None else (enter, address)


@final
class TeamEntry:
    """A compiled kernel that a team can run.

    Args:
        dispatcher: Numba's, with one compiled signature that returns nothing and ends in start and stop.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        (compiled,) = dispatcher.overloads.values()
        self._address: int = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        signature = tuple(compiled.signature.args)
        scalars = [one for argument in signature[:-2] for one in _scalars(argument)]
        self._words = _HEAD + len(scalars)
        self._pack = struct.Struct(f"={_HEAD}q" + "".join(_FORMATS.get(one, "q") for one in scalars)).pack_into
        self._unpacker = _unpacker(signature)

    def run(self, args: tuple[Any, ...], pieces: tuple[int, int, int], workers: int, threads: int) -> bool:
        """Run the kernel on all pieces.

        Args:
            args: All of the kernel's but start and stop.
            pieces: Total, size of each piece but the last, and number of pieces.
            workers: Threads that take pieces, at most `threads`.
            threads: Of the team, always as many as torch uses: libgomp ends and starts threads when the number changes.

        Returns:
            Whether it ran; not if another thread's work is with the team, or there is none.
        """
        library = _library()
        if library is None or not _usable or not _free.acquire(blocking=False):
            return False
        try:
            words = self._words
            memory = bytearray(8 * words + 4 * pieces[2])
            flat: list[Any] = []
            for argument in args:
                if isinstance(argument, tuple):
                    flat += argument
                else:
                    flat.append(argument)
            self._pack(memory, 0, self._address, *pieces, workers, 8 * words, *flat)
            library[0](self._unpacker, ctypes.addressof(ctypes.c_char.from_buffer(memory)), threads, 0)
        finally:
            _free.release()
        return True


def _scalars(argument: types.Type) -> list[types.Type]:
    return list(argument) if isinstance(argument, types.BaseTuple) else [argument]  # pyright: ignore[reportArgumentType]


@functools.cache
@global_compiler_lock
def _unpacker(signature: tuple[types.Type, ...]) -> int:
    """Return the address of a C function that runs a kernel of this signature on pieces until none is left."""
    library = _library()
    assert library is not None
    code = _TARGET.codegen().create_library("steepest_team")
    module = code.create_ir_module("steepest_team")
    name = "steepest_team_" + "_".join(str(argument) for argument in signature)
    name = "".join(letter if letter.isalnum() else "_" for letter in name)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64.as_pointer()]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    _write(builder, function, signature, library[1])
    code.add_ir_module(module)
    code.finalize()
    _KEPT.append(code)
    return code.get_pointer_to_function(name)


#: Machine code lives as long as its library.
_KEPT: list[Any] = []


def _write(builder: Any, function: Any, signature: tuple[types.Type, ...], number_of_thread: int) -> None:
    words = function.args[0]

    def word(index: int, kind: Any = _I64) -> Any:
        place = builder.gep(words, [_I64(index)])
        return builder.load(builder.bitcast(place, kind.as_pointer()))

    kernel, total, size, count, workers, offset = (word(index) for index in range(_HEAD))
    kernel_type = _TARGET.call_conv.get_function_type(types.none, signature)
    kernel = builder.inttoptr(kernel, kernel_type.as_pointer())
    arguments, index = [], _HEAD
    for argument in signature[:-2]:
        values = []
        for one in _scalars(argument):
            values.append(word(index, _TARGET.get_value_type(one)))
            index += 1
        is_tuple = isinstance(argument, types.BaseTuple)
        arguments.append(_TARGET.make_tuple(builder, argument, values) if is_tuple else values[0])
    flags = builder.inttoptr(builder.add(builder.ptrtoint(words, _I64), offset), _I32.as_pointer())

    thread_type = ir.FunctionType(_I32, []).as_pointer()
    worker = builder.zext(builder.call(builder.inttoptr(_I64(number_of_thread), thread_type), []), _I64)
    with cgutils.if_unlikely(builder, builder.icmp_signed(">=", worker, workers)):
        builder.ret_void()
    # Own pieces first, in pairs of workers that meet in the middle: `_pool._order` says the same in Python.
    even = builder.icmp_signed("==", builder.and_(worker, _I64(1)), _I64(0))
    one = _I64(1)
    first = builder.sdiv(builder.mul(count, worker), workers)
    last = builder.sub(builder.sdiv(builder.mul(count, builder.add(worker, one)), workers), one)
    with cgutils.for_range(builder, count) as loop:
        up = builder.add(first, loop.index)
        down = builder.add(builder.sub(last, loop.index), count)
        mine = builder.srem(builder.select(even, up, down), count)
        taken = builder.atomic_rmw("xchg", builder.gep(flags, [mine]), _I32(1), "monotonic")
        with builder.if_then(builder.icmp_signed("==", taken, _I32(0))):
            start = builder.mul(mine, size)
            end = builder.add(start, size)
            stop = builder.select(builder.icmp_signed("<", end, total), end, total)
            _TARGET.call_conv.call_function(builder, kernel, types.none, signature, [*arguments, start, stop])
    builder.ret_void()
