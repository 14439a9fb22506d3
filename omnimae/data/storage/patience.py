"""What is done while a storage does not answer: wait, try again, and give up in the end.

A file is broken by its content alone. Errors of the storage (a network file system that is gone, a server that is busy)
say nothing of it, so the read is repeated with growing pauses. Two variables of the environment say for how long:

- ``OMNIMAE_STORAGE_PATIENCE``: seconds from the first failure of a read on, 120 by default;
- ``OMNIMAE_STORAGE_TIMEOUT``: seconds without a byte after which a read over a network has failed, 30 by default.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import random
import socket
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError  # that of Python from 3.11 on
from typing import NamedTuple, TypeVar

from mmengine.logging import print_log

from omnimae.stopping import StorageAwayError, seconds_of, storage_patience

T = TypeVar('T')

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds; each is twice the one before
WITNESSES = 8  # files that are asked for when another one is missing
AWAY = {
    getattr(errno, name)
    for name in (
        *('EIO', 'ESTALE', 'ETIMEDOUT', 'ENOTCONN', 'ESHUTDOWN', 'EREMOTEIO', 'ENOLINK', 'ECOMM', 'EPROTO', 'EPIPE'),
        *('EHOSTDOWN', 'EHOSTUNREACH', 'ENETDOWN', 'ENETUNREACH', 'ENETRESET', 'ECONNREFUSED', 'ECONNRESET'),
        *('ECONNABORTED', 'ENODEV', 'ENXIO', 'ENOMEDIUM', 'EKEYEXPIRED', 'EAGAIN', 'EBUSY', 'ENOLCK'),
        *('EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS'),  # of this machine, but no more of the file
    )
    if hasattr(errno, name)
}
UNREACHABLE = (FileNotFoundError, NotADirectoryError, PermissionError)  # of a file, or of the whole root


class Root(NamedTuple):
    """A local folder in which data were found.

    Attributes:
        device: its file system.
        can_be_listed: it need not, to give files by their names.
    """

    device: int
    can_be_listed: bool


class Roots(dict[str, Root]):
    """Roots by path, of this process. A process that is not forked from it gets them with what it is sent."""

    def __reduce__(self) -> tuple:
        return _join_roots, (dict(self),)


def _join_roots(roots: dict[str, Root]) -> Roots:
    ROOTS.update(roots)
    return ROOTS


ROOTS = Roots()
_random = random.Random()  # of its own: a pause changes no random number of the training
_read_well: dict[str, deque[str]] = {}  # storage -> files of it that were read last


def timeout() -> float:
    """Seconds without an answer after which a read over a network has failed."""
    return max(seconds_of('OMNIMAE_STORAGE_TIMEOUT', 30.0), 0.001)


def remember_root(root: str) -> None:
    """Note that there are data in this local folder: when it is gone, they are away, and not missing."""
    if os.path.isdir(root):
        ROOTS[root.rstrip('/')] = Root(os.stat(root).st_dev, os.access(root, os.R_OK))


def insist(attempt: Callable[[], T], path: str, *, probe: Callable[[str], object] | None = None) -> T:
    """What ``attempt`` returns, repeated while the storage of ``path`` is away.

    Args:
        attempt: reads the file.
        path: its path or address.
        probe: reads a little of another file of that storage, past all caches, or raises. Where another one can be read
            in the end, as on a disk with one bad sector, the file is the fault. Where a file is missing, and so are
            all that were read last, the storage is.

    Raises:
        StorageAwayError: the storage did not come back in time.
        OSError: of the file itself.
        ValueError: the patience is no number.
    """
    limit = storage_patience()
    try:
        result = attempt()
    except Exception as error:
        if not is_away(error, path, probe):
            raise
        result = _insist(attempt, path, error, probe, limit)
    if probe is not None:
        known = _read_well.setdefault(storage_of(path), deque(maxlen=WITNESSES))
        if not known or known[-1] != path:
            known.append(path)
    return result


def _insist(
    attempt: Callable[[], T], path: str, error: Exception, probe: Callable[[str], object] | None, limit: float
) -> T:
    storage, begin, pause, count = lost_root(path) or storage_of(path), time.monotonic(), FIRST_PAUSE, 1
    _outages.begin(storage, f'Storage {storage} is away, trying again for {limit:g} s: {path}: {reason_of(error)}')
    while (left := begin + limit - time.monotonic()) > 0:
        asked = getattr(error, 'retry_after', 0.0)
        time.sleep(min(max(pause * _random.uniform(0.5, 1.0), asked), left))
        pause, count = min(2 * pause, LONGEST_PAUSE), count + 1
        try:
            result = attempt()
        except Exception as latest:
            if not is_away(latest, path, probe):
                raise
            error = latest
        else:
            _outages.end(storage, f'Storage {storage} is back after {time.monotonic() - begin:.1f} s.')
            return result
    seconds = time.monotonic() - begin
    if isinstance(error, OSError) and not isinstance(error, UNREACHABLE) and _others_can_be_read(path, probe):
        _outages.end(storage, f'{path} cannot be read, but other files of {storage} can: the file is broken.')
        raise OSError(
            error.errno or errno.EIO, f'{reason_of(error)}, {count} times in {seconds:.1f} s, and others can be read'
        ) from error
    _outages.forget(storage)
    raise StorageAwayError(
        f'Storage {storage} is away, as seen from {socket.gethostname()}: {count} reads of {path} failed in '
        f'{seconds:.1f} s, the last one for: {reason_of(error)}. Go on with --resume when it is back. To wait longer, '
        f'set OMNIMAE_STORAGE_PATIENCE (now {limit:g} seconds). If it is this file alone, name it in a file for skip=.'
    ) from error


def is_away(error: Exception, path: str, probe: Callable[[str], object] | None = None) -> bool:
    """Whether an error is of the storage, and not of the file at ``path``."""
    if isinstance(error, UNREACHABLE):
        others = _witnesses(path)
        return lost_root(path) is not None or (
            probe is not None and bool(others) and not _any_can_be_read(others, probe)
        )
    if isinstance(error, TimeoutError | FutureTimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in AWAY


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ' '.join(text.split()) or type(error).__name__


def storage_of(path: str) -> str:
    """The name by which a storage is called: the begin of an address, or the root that a local file is in."""
    scheme, _, rest = path.partition('://')
    if rest:
        return f'{scheme}://{rest.partition("/")[0]}'
    return _root_of(path) or os.path.dirname(os.path.abspath(path))


def _root_of(path: str) -> str | None:
    return max((root for root in ROOTS if path.startswith(f'{root}/') or path == root), key=len, default=None)


def lost_root(path: str) -> str | None:
    """The folder of data that is no longer there, or a mount point without its file system; else None."""
    if '://' in path:
        return None
    if (root := _root_of(path)) is not None:
        return root if _is_gone(root, ROOTS[root]) else None
    # Copies of files may lie beside the root, and are away with it, and so is their folder.
    beside = [root for root in ROOTS if (parent := os.path.dirname(root)) and path.startswith(f'{parent}/')]
    if not beside or not _is_empty(os.path.dirname(path)):
        return None
    return next((root for root in beside if _is_gone(root, ROOTS[root])), None)


def _is_gone(root: str, then: Root) -> bool:
    try:
        is_other = os.stat(root).st_dev != then.device
    except OSError:
        return True
    if not then.can_be_listed:
        return is_other
    return not os.access(root, os.R_OK) or (is_other and _is_empty(root))


def _is_empty(folder: str) -> bool:
    """Whether nothing is in a folder, as far as it can be listed."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _others_can_be_read(path: str, probe: Callable[[str], object] | None) -> bool:
    if probe is None:
        return False
    others = _witnesses(path)
    if '://' not in path:  # of the same folder, for others may be links to other disks
        try:
            with os.scandir(os.path.dirname(path) or '.') as entries:
                others = [entry.path for _, entry in zip(range(8), entries, strict=False) if entry.is_file()]
        except FileNotFoundError:  # a folder in an archive
            pass
        except OSError:
            return False
    return _any_can_be_read((other for other in others if other != path), probe)


def _witnesses(path: str) -> list[str]:
    """Other files of its storage that were read last, the last one first."""
    return [other for other in reversed([*_read_well.get(storage_of(path), ())]) if other != path]


def _any_can_be_read(paths: Iterable[str], probe: Callable[[str], object]) -> bool:
    for path in paths:
        try:
            probe(path)
        except Exception:  # of whatever type a backend has
            continue
        return True
    return False


class _Outages:
    """Since when a storage is away, for all processes that were forked from this one: it is said once."""

    SLOTS = 256

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * self.SLOTS)

    def begin(self, storage: str, message: str) -> None:
        """Log that it is away, unless another process did."""
        if not self._exchange(storage, time.time()):
            print_log(message, 'current', logging.WARNING)

    def end(self, storage: str, message: str) -> None:
        """Log that it is back, unless another process did."""
        if self._exchange(storage, 0.0):
            print_log(message, 'current', logging.WARNING)

    def forget(self, storage: str) -> None:
        """Whoever waits for it next says so again."""
        self._exchange(storage, 0.0)

    def _exchange(self, storage: str, now: float) -> float:
        place = zlib.crc32(storage.encode(errors='surrogateescape')) % self.SLOTS * 8
        [before] = struct.unpack_from('d', self._memory, place)
        struct.pack_into('d', self._memory, place, now)
        return before


_outages = _Outages()
