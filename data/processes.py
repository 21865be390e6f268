"""Processes: which one of a launch this is, and how one ends on SIGTERM, as `kill`, SLURM and preemption send it.

The command ends with one line and code 143. A training is not torn out of its step: it asks `TerminationNotice` at the
end of each.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # the exit code


class Terminated(SystemExit):
    """The end of a command after SIGTERM; ``line`` says so to the user."""

    def __init__(self, line: str = "terminated") -> None:
        super().__init__(TERMINATED)
        self.line = line


class TerminationNotice:
    """Notes a SIGTERM for later; a second one ends the process at once.

    But not within a moment: `timeout`, SLURM and launchers signal a process and its group, or pass on what both have.
    """

    MOMENT = 1.0  # seconds

    def __init__(self) -> None:
        self.given_at: float | None = None

    def __bool__(self) -> bool:
        return self.given_at is not None

    def __call__(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.given_at is None:
            self.given_at = now
        elif now - self.given_at > self.MOMENT:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


def raise_terminated(number: int, frame: Any) -> None:
    """The handler outside of training: the process ends where it is, as after Ctrl-C."""
    raise Terminated


@contextmanager
def on_sigterm(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let ``handler`` answer SIGTERM meanwhile; in a thread other than the main one, which gets no signals, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@cache
def kill_children_at_exit() -> None:
    """Has this process kill its daemonic children when it ends.

    A data worker inherits the handler of SIGTERM, and `TerminationNotice` takes it for one to everybody. But by SIGTERM
    multiprocessing ends the workers of a loader that an error has left behind, and then waits for them, for ever.
    """
    import multiprocessing.util  # noqa: F401  # its own function at exit is to be called after this one

    atexit.register(_kill_children)


def _kill_children() -> None:
    from multiprocessing import active_children

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error of its own
    for child in active_children():
        if child.daemon:
            child.kill()


def launch_rank(variable: str = "RANK") -> int | None:
    """Returns the rank that a launcher (deepspeed, torchrun) gave this process; None without a launcher.

    Args:
        variable: "RANK" among all processes, "LOCAL_RANK" among those of this machine.
    """
    return int(os.environ[variable]) if {variable, "WORLD_SIZE"} <= os.environ.keys() else None
