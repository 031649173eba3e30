# SPDX-License-Identifier: Apache-2.0
"""Where `--task module:function` looks for the module."""

import sys


def modules_from_here() -> None:
    """Let modules of the current folder be imported, as `python -m` does, which starts the runs."""
    if "" not in sys.path:
        sys.path.insert(0, "")
