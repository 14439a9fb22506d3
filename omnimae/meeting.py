"""Rendezvous of ranks and machines, with errors that name the missing ones."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore

ROUND = 'OMNIMAE_ROUND'  # environment variable: id of one start or restart of all ranks by a launcher
HOST, PORT = '127.0.0.1', 29500  # default of the main machine


def meet(seconds: float) -> tuple[Store, list[str]]:
    """Connect to the store that all ranks share, and wait for all ranks.

    Args:
        seconds: time limit.

    Returns:
        The store, and the host of each rank.

    Raises:
        RuntimeError: the main rank's machine does not answer, its port is in use, or ranks are missing.
    """
    rank, size, end = int(os.environ['RANK']), int(os.environ['WORLD_SIZE']), time.monotonic() + seconds
    is_host = rank == 0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True'
    if is_host:
        check_port(int(os.environ['MASTER_PORT']), 'MASTER_PORT')
    store = connect(seconds, is_host=is_host)
    store.set(f'host/{rank}', socket.gethostname())
    keys = [f'host/{other}' for other in range(size)]
    try:
        store.wait(keys, timedelta(seconds=max(end - time.monotonic(), 1.0)))
    except RuntimeError as error:
        missing = [str(other) for other, key in enumerate(keys) if not store.check([key])]
        raise RuntimeError(
            f'{size - len(missing)} of {size} ranks have come to {_address(os.environ)} within {seconds:g} s, but not '
            f'rank {", ".join(missing[:8])}{", ..." * (len(missing) > 8)}. See why they did not start, or wait longer: '
            'env_cfg.dist_cfg.heartbeat is half of that time.'
        ) from error
    return store, [host.decode() for host in store.multi_get(keys)]


def connect(seconds: float, *, is_host: bool = False) -> Store:
    """Connect to the store of this run's ranks.

    Raises:
        RuntimeError: the main machine does not answer.
    """
    host, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    try:
        store = TCPStore(host, port, None, is_host, timedelta(seconds=seconds), False, multi_tenant=True)
    except RuntimeError as error:
        raise RuntimeError(unreachable(os.environ, seconds)) from error
    start = os.environ.get(ROUND) or os.environ.get('TORCHELASTIC_RESTART_COUNT', '')  # of torchrun without launch.py
    return PrefixStore(f'omnimae/{start}', store)


def check_port(port: int, name: str) -> None:
    """Check that a port of this machine is free.

    Raises:
        RuntimeError: it is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
        except OSError as error:
            raise RuntimeError(
                f'{name}={port} on {socket.gethostname()}: {error.strerror}. Set {name} to another port, the same on '
                'all machines. dist_train.sh on one machine finds a free one if PORT is not set.'
            ) from error


def whole_number(env: Mapping[str, str], name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
    """Number in an environment variable, ``default`` if it is not set or empty."""
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        raise ValueError(f'{name}={text!r}: give a whole number from {least}{"" if most is None else f" to {most}"}.')
    return int(text)


def unreachable(env: Mapping[str, str], seconds: float) -> str:
    """Error text for a main machine that cannot be reached."""
    try:
        socket.getaddrinfo(env.get('MASTER_ADDR') or HOST, None)
        why = 'nothing answers there'
    except OSError:
        why = f'{socket.gethostname()} does not know a machine of that name'
    return (
        f'{_address(env)} could not be reached within {seconds:g} s: {why}. Is it the machine of rank 0, has its part '
        'of the run started, and does its firewall let other machines in? Machines with several networks need '
        'GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME, too.'
    )


def _address(env: Mapping[str, str]) -> str:
    port = env.get('MASTER_PORT') or env.get('PORT') or PORT
    return f'MASTER_ADDR={env.get("MASTER_ADDR") or HOST}, port {port},'
