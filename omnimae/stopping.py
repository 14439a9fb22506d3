"""Why a run stops before its end, and what its exit code says.

Imports nothing slow: tools listen before they import more.

A signal that comes before training has nothing to save, so it ends the process at once. In training the PreemptionHook
saves. A second Ctrl-C ends the process at once, whatever it waits for.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import NoReturn

PREEMPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, "temporary failure, try again": go on with --resume
INTERRUPTED = 128 + signal.SIGINT  # exit code: somebody pressed Ctrl-C; --resume goes on, too
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)

PR_SET_PDEATHSIG = 1  # linux/prctl.h

saving = threading.Event()  # set while the training answers signals itself


class WaitEnded(BaseException):
    """Leaves the wait for data. No Exception, which readers of files would take for a broken file."""


class StorageAwayError(Exception):
    """A storage did not answer in the time that it is given. That says nothing of its files: try again later.

    A training saves and ends with ``code``. The message is the only argument: so a loader's worker can hand it on.
    """

    code = PREEMPTED


class StorageRefusedError(StorageAwayError):
    """A storage answers, but does not let us read. Trying again would not help, so it is said at once."""

    code = 1


def storage_patience() -> float:
    """Seconds for which reading a file is repeated while its storage does not answer."""
    return seconds_of('OMNIMAE_STORAGE_PATIENCE', 120.0)


def seconds_of(variable: str, default: float) -> float:
    """The number of seconds in a variable of the environment."""
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f'{variable}={text!r} is no number of seconds. Give one, such as {default:g}.')
    return seconds


def heard() -> list[signal.Signals]:
    """Those of SIGNALS that whoever started this process did not switch off: ``nohup`` does so with SIGHUP."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def listen() -> None:
    """Answer signals from now on, also while the main thread waits in C for other ranks or for a GPU."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in heard():
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_leave_to_parent)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def follow_launcher() -> None:
    """Get SIGTERM when torchrun dies, also by SIGKILL: else its ranks train on, and nobody sees them."""
    if sys.platform == 'linux' and 'TORCHELASTIC_RUN_ID' in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _leave_to_parent() -> None:
    """A child is ended by its parent; Ctrl-C and what clusters send reach it, too."""
    signal.set_wakeup_fd(-1)
    for number in heard():
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


def _watch(pipe: int) -> None:
    interrupts = 0
    while True:
        number = os.read(pipe, 1)[0]
        interrupts += number == signal.SIGINT
        if number not in SIGNALS or (saving.is_set() and (number != signal.SIGINT or interrupts < 2)):
            continue
        code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        why = 'before there was anything new to save' if interrupts < 2 else 'a second time, so nothing more is saved'
        os.write(2, f'{signal.Signals(number).name} {why}: the exit code is {code}. Go on with --resume.\n'.encode())
        os._exit(code)


def exit_now(code: int) -> NoReturn:
    """End this process with an exit code, whatever its threads do."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.2)  # a rank that is gone resets the connections from which others still read the barrier
    os._exit(code)
