# SPDX-License-Identifier: Apache-2.0
"""How a kernel is compiled: when first called, once, kept on disk, and known to `warmup`.

Numba's disk cache asks only whether the kernel's own file changed. A kernel here is named after a digest of its file
and of every file of this package that it imports, so a change in a device function compiles its users again, and two
versions of the package on one machine never share code. Where the package's folder is read-only Numba keeps the cache
in the user's cache folder (or in NUMBA_CACHE_DIR).
"""

import ast
import contextlib
import functools
import gc
import hashlib
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import compiler, lowering, typed_passes
from numba.core.compiler_machinery import register_pass
from numba.core.dispatcher import Dispatcher

from steepest.kernels._llvm import host_has
from steepest.kernels._team import TeamEntry

_PACKAGE = __name__.rpartition(".")[0]
_KERNELS: dict[str, "Kernel"] = {}
#: Compiled kernels by `run`, for who must know more than how to call them.
BY_RUN: dict[Callable[..., Any], "Kernel"] = {}
_COMPILING = threading.RLock()

# A fork must not happen while another thread compiles: the child would inherit locks that nobody releases.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_COMPILING.acquire, after_in_parent=_COMPILING.release, after_in_child=_COMPILING.release
    )


class _Lower(lowering.Lower):
    """Lets LLVM vectorize loops in 512 bits where the processor has them.

    For Intel's it prefers 256, which halves what a loop within the caches does per cycle. Loops of device functions are
    vectorized before those are inlined, so they are lowered here, too.
    """

    def setup_function(self, fndesc: Any) -> None:
        super().setup_function(fndesc)
        if host_has("avx512f"):
            # llvmlite's own `add` knows no attributes with values.
            set.add(self.function.attributes, '"prefer-vector-width"="512"')


@register_pass(mutates_CFG=True, analysis_only=False)
class _NativeLowering(typed_passes.BaseNativeLowering):
    _name = "native_lowering_of_a_kernel"

    @property
    def lowering_class(self) -> Any:
        return _Lower


class _Compiler(compiler.CompilerBase):
    """Numba's pipeline with `_NativeLowering` in place of its own."""

    def define_pipelines(self) -> list[Any]:
        passes = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        ours = {typed_passes.NativeLowering: _NativeLowering}
        passes.passes = [(ours.get(one, one), text) for one, text in passes.passes]
        passes.finalize()
        return [passes]


#: An entry for other languages, which nobody uses, would be compiled with every function.
_COMMON: dict[str, Any] = {
    "pipeline_class": _Compiler,
    "error_model": "numpy",
    "boundscheck": False,
    "nogil": True,
    "no_cfunc_wrapper": True,
}
_INSIDE: dict[str, Any] = {**_COMMON, "forceinline": True, "no_cpython_wrapper": True}
#: Decorator of a device function: inlined into the kernels that call it; Python cannot call it.
device: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(**_INSIDE)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for garbage: the compiler's many objects make it search all of torch's again and again.

    A fifth of the time of a compilation.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Kernel:
    """A loop over raw memory, compiled for one signature when first run.

    Args:
        function: The plain Python loop; its arguments are addresses and numbers.
        signature: Numba signature such as `"void(intp, intp, intp, intp)"`.
        name: Unique name.
        sources: Files that the machine code comes from; what they import from this package counts too.
        bound: What a template's placeholders stand for, in words: the same files can give other machine code.

    Attributes:
        run: The compiled function; it releases the GIL. Until the first call, a function that compiles. It is the
            machine code's own entry and skips Numba's choice of a signature, which costs more than a small tensor.
    """

    def __init__(
        self, function: Callable[..., Any], signature: str, name: str, sources: set[str], bound: str = ""
    ) -> None:
        if name in _KERNELS:
            raise ValueError(f"kernel names are unique, {name!r} is taken by {_KERNELS[name].function}")
        self.function = function
        self.signature = signature
        self.name = name
        self.sources = sources
        self.bound = bound
        self.run: Callable[..., Any] = self._compile_and_run
        self._dispatcher: Dispatcher | None = None
        _KERNELS[name] = self

    def __repr__(self) -> str:
        return f"Kernel({self.name!r}, compiled={self.compiled})"

    @property
    def compiled(self) -> bool:
        """Whether the machine code is in this process."""
        return self._dispatcher is not None

    @functools.cached_property
    def team_entry(self) -> TeamEntry:
        """What torch's threads can run of this kernel, which is compiled."""
        with _COMPILING:
            return TeamEntry(self.compile())

    def compile(self) -> Dispatcher:
        """Compile, or load from disk, and return Numba's dispatcher (for `inspect_asm`).

        Returns:
            The dispatcher; `run` calls its one compiled signature from now on.
        """
        with _COMPILING, _no_garbage_collection():
            if self._dispatcher is None:
                named = types.FunctionType(self.function.__code__, self.function.__globals__, self.name)
                named.__qualname__ = f"{self.name}_{source_digest(self.sources, self.bound)}"
                named.__module__ = self.function.__module__
                self._dispatcher = numba.njit(self.signature, cache=True, **_COMMON)(named)
                (compiled,) = self._dispatcher.overloads.values()
                BY_RUN[compiled.entry_point] = self
                self.run = compiled.entry_point
            return self._dispatcher

    def _compile_and_run(self, *args: Any) -> Any:
        self.compile()
        return self.run(*args)


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Register a loop as a kernel; its name is the function's, its sources the imports of its file.

    Args:
        signature: Numba signature; addresses and sizes are `intp`, scalars `float32`, `float64`.

    Returns:
        The decorator.
    """

    def register(function: Callable[..., Any]) -> Kernel:
        return Kernel(function, signature, function.__name__, {function.__code__.co_filename})

    return register


def specialize(template: Callable[..., Any], signature: str, name: str, **bindings: Any) -> Kernel:
    """Make a kernel of a template by giving its module-level placeholders their meaning.

    Numba cannot keep closures over device functions on disk; a copy of the template with other globals it can.

    Args:
        template: A loop that names the placeholders as globals.
        signature: As for `kernel`.
        name: Unique name of this kernel.
        **bindings: Placeholder name to device function or constant.

    Returns:
        The kernel.
    """
    function = types.FunctionType(template.__code__, {**template.__globals__, **bindings}, name)
    function.__module__ = template.__module__
    files = {template.__code__.co_filename}
    files |= {value.py_func.__code__.co_filename for value in bindings.values() if isinstance(value, Dispatcher)}
    bound = ", ".join(f"{key}={_described(value)}" for key, value in sorted(bindings.items()))
    return Kernel(function, signature, name, files, bound)


def _described(value: Any) -> str:
    return value.py_func.__qualname__ if isinstance(value, Dispatcher) else getattr(value, "__name__", repr(value))


def kernels() -> dict[str, Kernel]:
    """Return every registered kernel by name.

    Returns:
        A copy of the registry.
    """
    return dict(_KERNELS)


def warmup(report: Callable[[str, int, int], None] | None = None) -> int:
    """Compile every kernel of the package, or load it from the disk cache.

    Args:
        report: Called before each with its name, its number from 1, and how many there are.

    Returns:
        How many kernels are ready.
    """
    # Registers every kernel: the public functions, and what the layers above use.
    import steepest.functional  # noqa: F401
    import steepest.kernels.checksum  # noqa: F401
    import steepest.kernels.matrices  # noqa: F401
    import steepest.kernels.sinkhorn  # noqa: F401
    import steepest.kernels.updates  # noqa: F401

    waiting = list(_KERNELS.values())
    for number, one in enumerate(waiting, 1):
        if report is not None:
            report(one.name, number, len(waiting))
        one.compile()
    return len(waiting)


def source_digest(files: set[str], bound: str = "") -> str:
    """Return a digest of these files and of all of this package's files that they import, directly or not.

    Args:
        files: Paths of Python files whose imports have been executed.
        bound: What else decides the machine code.

    Returns:
        Twelve hexadecimal digits.
    """
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += _imported_files(current)
    digest = hashlib.sha256(bound.encode())
    for path in sorted(found, key=os.path.basename):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _imported_files(path: str) -> list[str]:
    names = set()
    for node in ast.parse(Path(path).read_bytes()).body:  # a kernel uses what its module imports
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(_PACKAGE):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & sys.modules.keys()) or {node.module}
    return [
        file
        for name in names
        if name.startswith(f"{_PACKAGE}.") and (file := getattr(sys.modules.get(name), "__file__", None))
    ]
