"""The cores that servers and load generators run on: one half each, so that how the scheduler mixes them does not change
what a server costs."""

import contextlib
import os

ALL = sorted(os.sched_getaffinity(0))
# With one core they share it.
OF_SERVERS = ALL[: max(1, len(ALL) // 2)]
OF_LOAD = ALL[len(ALL) // 2 :]


@contextlib.contextmanager
def only(cores):
    """What is started within, and this program, run on `cores` alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def available():
    """The cores of what is started now."""
    return sorted(os.sched_getaffinity(0))
