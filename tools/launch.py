"""PyTorch's torchrun, except that ranks have time to save. dist_train.sh starts it.

torchrun passes SIGINT, SIGHUP and SIGTERM to the ranks, kills them after 30 seconds, and exits with 1. SIGUSR1 kills
torchrun alone, and the ranks train on. Here ranks get SIGUSR1, too. They have TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds
(default 120), because a checkpoint of 8 GB can take longer than 30. The exit code is 75 or 130 if all ranks exit with
it (see tools/train.py), else 1. A second Ctrl-C kills them at once, with exit code 130.

Machines meet by the environment variables NNODES, NODE_RANK, MASTER_ADDR and PORT, within MEET_TIMEOUT seconds (120).
With MAX_RESTARTS=N a failure restarts the ranks of all machines with --resume, at most N times. A signal does not.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

from omnimae.stopping import INTERRUPTED, PREEMPTED, SIGNALS, heard, listen

if __name__ == '__main__':
    listen()  # the imports take seconds

from torch.distributed import DistNetworkError, Store, TCPStore, run
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import (
    RendezvousConnectionError,
    RendezvousInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from omnimae.meeting import HOST, PORT, ROUND, check_port, unreachable, whole_number

_start, _close = PContext.start, PContext.close
_assign, _start_workers, _monitor = (
    LocalElasticAgent._assign_worker_ranks,
    LocalElasticAgent._start_workers,
    LocalElasticAgent._monitor_workers,
)
_find, _find_again = StaticTCPRendezvous.next_rendezvous, DynamicRendezvousHandler.next_rendezvous
_starts = itertools.count()
_codes: list[int] = []  # exit codes of ranks that were signalled


def start(ranks: PContext) -> None:
    """Start the ranks. Then torchrun handles signals. A second start follows a failure and resumes."""
    signal.set_wakeup_fd(-1)
    if next(_starts):
        ranks.args = {rank: (*words, '--resume') for rank, words in ranks.args.items()}
    _codes.clear()
    _start(ranks)


def close(ranks: PContext, death_sig: signal.Signals | None = None, timeout: int = 120) -> None:
    """Pass a signal on and wait for the ranks. Meanwhile only Ctrl-C has an effect."""
    if death_sig is not None:
        for number in heard():
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: _kill(ranks))
    _signal(ranks, signal.SIGCONT)  # a stopped process handles no other signal
    _close(ranks, death_sig, timeout)
    _codes.extend(rank.proc.poll() or 0 for rank in ranks.subprocess_handlers.values())


def _kill(ranks: PContext) -> NoReturn:
    _signal(ranks, signal.SIGKILL)
    for rank in ranks.subprocess_handlers.values():
        rank.proc.wait()
    print(
        f'SIGINT a second time, so the ranks were killed: the exit code is {INTERRUPTED}. What was not saved is lost. '
        'If there is a checkpoint, go on from the last one with the same command and --resume.',
        file=sys.stderr,
        flush=True,
    )
    os._exit(INTERRUPTED)


def _signal(ranks: PContext, number: signal.Signals) -> None:
    for rank in ranks.subprocess_handlers.values():
        if rank.proc.poll() is None:
            os.killpg(rank.proc.pid, number)


def exit_code(codes: Collection[int]) -> int:
    """Exit code of the ranks if all failed ranks ended by a signal, even before they could handle it; else 1."""
    ended = {-number: INTERRUPTED if number == signal.SIGINT else PREEMPTED for number in SIGNALS}
    failed = {ended.get(code, code) for code in codes} - {0}
    return failed.pop() if len(failed) == 1 and failed <= {PREEMPTED, INTERRUPTED} else 1


def find(machines: StaticTCPRendezvous) -> RendezvousInfo:
    """As torchrun, but `assign` reports missing machines."""
    if machines._store is None:
        is_host, host, port = machines.rank == 0, machines.master_addr, machines.master_port
        machines._store = TCPStore(host, port, None, is_host, machines.timeout, False, multi_tenant=True)
    return _find(machines)


def find_again(machines: DynamicRendezvousHandler) -> RendezvousInfo:
    """As torchrun, but the main machine announces the store again, for machines that are new."""
    machines._bootstrap_store_info = None
    return _find_again(machines)


def assign(agent: LocalElasticAgent, store: Store, rank: int, size: int, spec: Any) -> Any:
    """Number the ranks when all machines have come.

    Raises:
        RuntimeError: a machine is missing, came twice, or has another NNODES.
    """
    seconds = _meet_timeout(os.environ)
    own = f'{socket.gethostname()} {os.getpid()} {size}'
    host, process, _ = store.compare_set(f'machine/{rank}', '', own).decode().split()
    if own != f'{host} {process} {size}':
        raise RuntimeError(
            f'NODE_RANK={rank} is there already: process {process} on {host}. Number the machines 0, 1, ...'
        )
    keys = [f'machine/{other}' for other in range(size)]
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except RuntimeError as error:
        missing = [str(other) for other, key in enumerate(keys) if not store.check([key])]
        raise RuntimeError(
            f'{size - len(missing)} of NNODES={size} machines have come within {seconds} s, but not NODE_RANK='
            f'{", ".join(missing)}. Start dist_train.sh there, too, or wait longer with MEET_TIMEOUT=SECONDS.'
        ) from error
    for other, (host, _, number) in enumerate(text.decode().split() for text in store.multi_get(keys)):
        if number != str(size):
            raise RuntimeError(
                f'NNODES={size} here, and NNODES={number} on {host} (NODE_RANK={other}). Set one number.'
            )
    return _assign(agent, store, rank, size, spec)


def start_workers(agent: LocalElasticAgent, group: WorkerGroup) -> Any:
    """Give the ranks of all machines the same id of this start. Their counts of restarts may differ."""
    assert group.store is not None
    if group.group_rank == 0:
        group.store.set('round', uuid.uuid4().hex)
    os.environ[ROUND] = group.store.get('round').decode()
    return _start_workers(agent, group)


def monitor(agent: LocalElasticAgent, group: WorkerGroup) -> RunResult:
    """As torchrun, but ranks that a signal ended are not restarted."""
    result = _monitor(agent, group)
    codes = [failure.exitcode for failure in result.failures.values()]
    if result.state == WorkerState.FAILED and exit_code(codes) != 1:
        agent._remaining_restarts = 0
    return result


def rendezvous(env: Mapping[str, str]) -> list[str]:
    """Arguments of torchrun for the place where machines meet.

    Raises:
        RuntimeError: the port is in use.
        ValueError: a variable is missing or no valid number.
    """
    nodes, restarts = whole_number(env, 'NNODES', 1, least=1), whole_number(env, 'MAX_RESTARTS', 0)
    needed = ('NODE_RANK', 'MASTER_ADDR') if nodes > 1 else ()
    if missing := [name for name in needed if not env.get(name)]:
        raise ValueError(
            f'NNODES={nodes}, and {" and ".join(missing)} not set. Set on each machine its NODE_RANK (0, 1, ...), and '
            'MASTER_ADDR, the name of the one with NODE_RANK=0.'
        )
    node = whole_number(env, 'NODE_RANK', 0, most=nodes - 1)
    words = ['--max-restarts', str(restarts)]
    if nodes == 1 and not env.get('PORT'):
        return ['--standalone', *words]  # at a free port
    host, seconds = env.get('MASTER_ADDR') or HOST, _meet_timeout(env)
    port = whole_number(env, 'PORT', PORT, most=65535)
    if node == 0:
        check_port(port, 'PORT')
    words += ['--nnodes', str(nodes)]
    if not restarts:  # ranks are numbered by NODE_RANK
        where = ['--master-addr', host, '--master-port', str(port)]
        return [*words, '--node-rank', str(node), *where, '--rdzv-conf', f'timeout={seconds}']
    conf = f'is_host={int(node == 0)},join_timeout={seconds},read_timeout={seconds}'
    words += ['--rdzv-backend', 'c10d', '--rdzv-endpoint', f'{host}:{port}', '--rdzv-id', f'{host}:{port}']
    return [*words, '--rdzv-conf', conf, '--local-addr', _own_address(host)]


def _own_address(host: str) -> str:
    """Address by which this machine reaches the main one. Others may not know its name."""
    with suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(address)  # sends nothing
                return probe.getsockname()[0]
    return socket.gethostname()


def _meet_timeout(env: Mapping[str, str]) -> int:
    return whole_number(env, 'MEET_TIMEOUT', 120, least=1)


PATCHES: dict[type, dict[str, Callable]] = {
    PContext: dict(start=start, close=close),
    StaticTCPRendezvous: dict(next_rendezvous=find),
    DynamicRendezvousHandler: dict(next_rendezvous=find_again),
    LocalElasticAgent: dict(_assign_worker_ranks=assign, _start_workers=start_workers, _monitor_workers=monitor),
}


def main() -> None:
    """Launch."""
    seconds = os.environ.get('TORCH_ELASTIC_SHUTDOWN_TIMEOUT') or '120'
    os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'] = seconds
    close.__defaults__ = (None, int(seconds))  # torch 2.14 reads the variable itself, 2.11 does not
    for kind, functions in PATCHES.items():
        for name, function in functions.items():
            setattr(kind, name, function)
    try:
        sys.argv[1:1] = ['--signals-to-handle', ','.join(number.name for number in heard()), *rendezvous(os.environ)]
        run.main()
    except SignalException as error:
        code = INTERRUPTED if error.sigval == signal.SIGINT else PREEMPTED
        sys.exit(exit_code(_codes or [code]))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code([failure.exitcode for failure in error.failures.values()]))
    except (DistNetworkError, RendezvousConnectionError) as error:
        sys.exit(f'{unreachable(os.environ, _meet_timeout(os.environ))} ({error})')
    except RendezvousTimeoutError:
        seconds, nodes = _meet_timeout(os.environ), os.environ.get('NNODES', 1)
        sys.exit(
            f'Not all of NNODES={nodes} machines have come within {seconds} s. Start dist_train.sh on each, or wait '
            'longer with MEET_TIMEOUT=SECONDS.'
        )
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
