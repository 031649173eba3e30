# SPDX-License-Identifier: Apache-2.0
"""The end of a process that torchrun started."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """In a process of torchrun, end it by `SystemExit` without taking the interpreter apart.

    Threads of gloo may still hold tensors of their last collective while the interpreter ends; a thread that then asks
    for the interpreter's lock is ended in the midst of C++ and aborts the process. torchrun would call a finished run
    failed, and start it again. So what belongs to an end is done here: other threads, exit functions, what was printed.
    The system does the rest.
    """
    try:
        yield
    except SystemExit as end:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            raise
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
