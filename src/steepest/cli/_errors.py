# SPDX-License-Identifier: Apache-2.0
"""What a user sees when something goes wrong: one line, a non-zero exit, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

#: What the library raises for something that the user can mend, a missing package included. Anything else is our
#: mistake and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ModuleNotFoundError)


@contextmanager
def exit_with_one_line(*, debug: bool = False) -> Iterator[None]:
    """Turn a user's mistake into `steepest: error: ...` on standard error and exit 2, an interrupt into exit 130.

    Args:
        debug: Let the exception through with its traceback.

    Yields:
        Nothing; wrap the whole command.

    Raises:
        SystemExit: With the status named above.
    """
    try:
        yield
    except BrokenPipeError:
        sys.exit(0)  # `steepest ... | head` is not an error
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_out_of_memory(error):
            raise
        _say("error: out of memory; use a smaller model, train.batch or context, or more train.accumulation")
        sys.exit(EXIT_BAD_INPUT)
    except USER_ERRORS as error:
        if debug:
            raise
        _say(f"error: {_one_line(error)}")
        sys.exit(EXIT_BAD_INPUT)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's allocator says it in a RuntimeError.
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _say(text: str) -> None:
    sys.stderr.write(f"steepest: {text}\n")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())
