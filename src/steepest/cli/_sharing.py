# SPDX-License-Identifier: Apache-2.0
"""Beside other programs, threads that wait give their processor away.

Threads of OpenMP that have no work spin, ready for the next operator. Where another program wants that processor, the
one spins while the other waits: with one such program on two cores a training run falls to a third of its speed.
Spinning shortly costs an idle machine up to a tenth, and gives a busy one almost twice the speed (docs/training.md).
"""

import os
import sys

#: Set by a user, each of them says how to wait; libgomp reads them once, when torch is loaded.
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
#: Rounds of libgomp's loop before a thread sleeps; it takes 300,000 by itself.
ROUNDS = "1000"


def share_processors() -> None:
    """Let waiting threads sleep soon if other programs keep some of our processors busy now.

    Looks for a tenth of a second, but only if something ran in the last minute. Does nothing once torch is loaded,
    where the user has set one of `SETTINGS`, and on systems that do not tell which processors are ours.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SETTINGS) or not hasattr(os, "sched_getaffinity"):
        return
    if os.getloadavg()[0] < 0.3:
        return
    import psutil

    free = (psutil.cpu_count() or 1) * (1 - psutil.cpu_percent(0.1) / 100)
    if free < len(os.sched_getaffinity(0)) - 0.5:
        os.environ["GOMP_SPINCOUNT"] = ROUNDS
