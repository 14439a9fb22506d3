"""PyTorch's torchrun, which lets its ranks save and exits as they do; dist_train.sh starts it, with its arguments.

torchrun hands SIGINT, SIGHUP and SIGTERM on to the ranks, kills those that still run after 30 seconds, and exits with
1. A SIGUSR1 kills it alone, and the ranks train on. Here ranks get SIGUSR1, too. They have as many seconds as
TORCH_ELASTIC_SHUTDOWN_TIMEOUT says, 120 if nothing does: a checkpoint of 8 GB can take longer than 30. A second Ctrl-C
kills them at once. The exit code is 75 or 130 where all ranks left with it (see tools/train.py), else 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection

from omnimae.stopping import INTERRUPTED, PREEMPTED, SIGNALS, heard, listen

if __name__ == '__main__':
    listen()  # the imports take seconds

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

_start, _close = PContext.start, PContext.close
_codes: list[int] = []  # exit codes of ranks that were signalled


def start(ranks: PContext) -> None:
    """Start the ranks; from now on torchrun answers signals."""
    signal.set_wakeup_fd(-1)
    _start(ranks)


def close(ranks: PContext, death_sig: signal.Signals | None = None, timeout: int = 120) -> None:
    """Hand a signal on and wait for the ranks, whatever comes meanwhile, but for Ctrl-C."""
    if death_sig is not None:
        for number in heard():
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: _kill(ranks))
    _close(ranks, death_sig, timeout)
    _codes.extend(rank.proc.poll() or 0 for rank in ranks.subprocess_handlers.values())


def _kill(ranks: PContext) -> None:
    for rank in ranks.subprocess_handlers.values():
        if rank.proc.poll() is None:
            os.killpg(rank.proc.pid, signal.SIGKILL)


def exit_code(codes: Collection[int]) -> int:
    """That of the ranks, if all that failed left because of a signal: some before they could listen to it."""
    ended = {-number: INTERRUPTED if number == signal.SIGINT else PREEMPTED for number in SIGNALS}
    failed = {ended.get(code, code) for code in codes} - {0}
    return failed.pop() if len(failed) == 1 and failed <= {PREEMPTED, INTERRUPTED} else 1


def main() -> None:
    """Launch."""
    seconds = os.environ.setdefault('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '120')
    close.__defaults__ = (None, int(seconds))  # torch 2.14 reads the variable itself, 2.11 does not
    PContext.start, PContext.close = start, close  # type: ignore[method-assign]
    sys.argv[1:1] = ['--signals-to-handle', ','.join(number.name for number in heard())]
    try:
        run.main()
    except SignalException as error:
        code = INTERRUPTED if error.sigval == signal.SIGINT else PREEMPTED
        sys.exit(exit_code(_codes or [code]))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code([failure.exitcode for failure in error.failures.values()]))


if __name__ == '__main__':
    main()
