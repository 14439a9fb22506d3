"""Signals that stop a run, and its exit codes.

This module imports nothing slow, because tools handle signals before they import more.

A tool that trains calls `listen`, every other one `start_tool`. Before training there is nothing to save, so a signal
ends the process at once. In training the PreemptionHook saves. Ctrl-C ends other tools. A second Ctrl-C ends any
process at once. No tool answers Ctrl-C with a traceback.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

PREEMPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, "temporary failure, try again" with --resume
INTERRUPTED = 128 + signal.SIGINT  # exit code after Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)

PR_SET_PDEATHSIG = 1  # linux/prctl.h

saving = threading.Event()  # set while the PreemptionHook handles signals
saved = threading.Event()  # set if this training has a checkpoint to go on from
watching = threading.Event()  # set if a thread answers signals at once, see `listen`
_command = 'the same command and'


class WaitEnded(BaseException):
    """Ends the wait for data. It is no Exception, which file readers would take for a broken file."""


class StorageAwayError(Exception):
    """A storage did not answer in time. Its files may be fine: try again later.

    A training saves and ends with ``code``. The message is the only argument, so that a loader's worker can pass it on.
    """

    code = PREEMPTED


class StorageRefusedError(StorageAwayError):
    """A storage refuses to let us read. This is raised at once, because trying again does not help."""

    code = 1


@contextmanager
def named_command(command: str) -> Iterator[None]:
    """Let messages advise this command, which takes ``--resume`` and ``--cfg-options``."""
    global _command
    before, _command = _command, command
    try:
        yield
    finally:
        _command = before


def command_with(*options: str) -> str:
    """The command that a message advises: 'the same command and --resume', or a whole one, see `named_command`."""
    flags = {word for word in shlex.split(_command) if word.startswith('--')} - {'--cfg-options'}
    return ' '.join([_command, *(shlex.quote(option) for option in options if option not in flags)])


def storage_patience() -> float:
    """Seconds for which reading is retried while a storage does not answer."""
    return seconds_of('OMNIMAE_STORAGE_PATIENCE', 120.0)


def seconds_of(variable: str, default: float) -> float:
    """Number of seconds in an environment variable."""
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f'{variable}={text!r} is no number of seconds. Give one, such as {default:g}.')
    return seconds


def heard() -> list[signal.Signals]:
    """SIGNALS without those that the parent process has set to be ignored, as ``nohup`` does with SIGHUP."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def start_tool(stopped: str = 'The same command starts anew.') -> None:
    """Begin a tool that does not train, before its imports. Ctrl-C ends it with one line and `INTERRUPTED`.

    The tool first removes its unfinished files. A second Ctrl-C does not wait for that. Workers leave Ctrl-C to this
    process.

    Args:
        stopped: what the line says after the name of the tool: what is kept, and how to go on.
    """
    say_start()
    if signal.SIGINT not in heard():
        return
    show, interrupted = sys.excepthook, threading.Event()

    def end() -> NoReturn:
        for process in _end_workers():
            process.join(1.0)
        if is_first_rank():
            _tell(f'{Path(sys.argv[0]).name}: stopped by Ctrl-C. {stopped}')
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # a second signal may come while it is flushed
                stream.flush()
        os._exit(INTERRUPTED)

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, lambda *_: end())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes workers that end for failures
        threading.excepthook = lambda *_: None  # of a thread that misses its workers
        _end_workers()  # else a pool waits for them
        if _is_importing(frame):
            end()  # some packages turn a KeyboardInterrupt into an error of their own
        raise KeyboardInterrupt

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if interrupted.is_set() or issubclass(kind, KeyboardInterrupt):
            end()
        show(kind, error, trace)

    signal.signal(signal.SIGINT, interrupt)
    sys.excepthook = report
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))


def _end_workers() -> list[Any]:
    """End the processes of loaders and pools -> these processes."""
    # the module may just be being imported
    children: list[Any] = getattr(sys.modules.get('multiprocessing'), 'active_children', list)()
    for process in children:
        process.terminate()
    return children


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith('<frozen importlib'):
        frame = frame.f_back
    return frame is not None


def listen() -> None:
    """Handle signals from now on, even while the main thread waits in C for other ranks or for a GPU."""
    say_start()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in heard():
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watching.set()
    os.register_at_fork(after_in_child=_leave_to_parent)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def say_start() -> None:
    """Print the first line of a tool, before its imports. Of several ranks the first prints.

    MMEngine imports pkg_resources, whose warning helps no user of a tool.
    """
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    if is_first_rank():
        print('omnimae: loading PyTorch and MMEngine, which takes some seconds.', file=sys.stderr, flush=True)


def say_saving(number: int) -> None:
    """Print at once that a signal was heard in training. The step may take minutes. Of several ranks the first prints.

    A signal handler may call this.
    """
    if is_first_rank():
        more = ' Once more stops at once, and loses what is not saved.' if number == signal.SIGINT else ''
        _tell(f'{signal.Signals(number).name}: saving, after this step at the latest.{more}')


def is_first_rank() -> bool:
    """Whether this is the first of the ranks, also before they have met."""
    return not {os.environ.get('RANK', '0'), os.environ.get('SLURM_PROCID', '0')} - {'0', ''}


def _tell(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        os.write(2, f'{line}\n'.encode())


def follow_launcher() -> None:
    """Get SIGTERM when torchrun dies, even by SIGKILL. Otherwise its ranks would train on unseen."""
    if sys.platform == 'linux' and 'TORCHELASTIC_RUN_ID' in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _leave_to_parent() -> None:
    """Let the parent end a forked child, which gets Ctrl-C and a cluster's signals, too."""
    signal.set_wakeup_fd(-1)
    for number in heard():
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


def _watch(pipe: int) -> None:
    interrupts = 0
    while True:
        number = os.read(pipe, 1)[0]
        interrupts += number == signal.SIGINT
        if number not in SIGNALS:
            continue
        if saving.is_set() and (number != signal.SIGINT or interrupts < 2):
            say_saving(number)
            continue
        code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        why, advice = 'before there was anything new to save', 'The same command starts again.'
        if interrupts > 1:
            why = 'a second time, so nothing more is saved'
            advice = 'There is no checkpoint to go on from: the same command starts anew.'
            if saved.is_set():
                advice = f'Go on from the last checkpoint with {command_with("--resume")}.'
        _tell(f'{signal.Signals(number).name} {why}: the exit code is {code}. {advice}')
        os._exit(code)


def exit_now(code: int) -> NoReturn:
    """End this process and all its threads with an exit code."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.2)  # other ranks may still read the barrier from our connections
    os._exit(code)
