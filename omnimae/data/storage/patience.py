"""When a storage does not answer: wait, try again, and give up in the end.

Only its content makes a file broken. Errors of the storage (a lost network file system, a busy server) say nothing
about the file, so the read is repeated with growing pauses. Two variables of the environment limit this:

- ``OMNIMAE_STORAGE_PATIENCE``: seconds after the first failure of a read, 120 by default.
- ``OMNIMAE_STORAGE_TIMEOUT``: seconds without a byte after which a read over a network fails, 30 by default.
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
WITNESSES = 8  # files that are read to judge a missing one
AWAY = {
    getattr(errno, name)
    for name in (
        *('EIO', 'ESTALE', 'ETIMEDOUT', 'ENOTCONN', 'ESHUTDOWN', 'EREMOTEIO', 'ENOLINK', 'ECOMM', 'EPROTO', 'EPIPE'),
        *('EHOSTDOWN', 'EHOSTUNREACH', 'ENETDOWN', 'ENETUNREACH', 'ENETRESET', 'ECONNREFUSED', 'ECONNRESET'),
        *('ECONNABORTED', 'ENODEV', 'ENXIO', 'ENOMEDIUM', 'EKEYEXPIRED', 'EAGAIN', 'EBUSY', 'ENOLCK'),
        *('EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS'),  # errors of this machine, not of the file
    )
    if hasattr(errno, name)
}
UNREACHABLE = (FileNotFoundError, NotADirectoryError, PermissionError)  # of a file, or of the whole root


class Root(NamedTuple):
    """A local folder in which data were found."""

    device: int  # its file system
    can_be_listed: bool  # files can be read by name without this


class Roots(dict[str, Root]):
    """Roots of this process by path. Pickling them adds them to the roots of the other process."""

    def __reduce__(self) -> tuple:
        return _join_roots, (dict(self),)


def _join_roots(roots: dict[str, Root]) -> Roots:
    ROOTS.update(roots)
    return ROOTS


ROOTS = Roots()
_random = random.Random()  # its own, so that a pause changes no random number of the training
_read_well: dict[str, deque[str]] = {}  # storage -> the files that were read last
_latest = ['']  # the last of them all


def timeout() -> float:
    """Seconds without an answer after which a read over a network fails."""
    return max(seconds_of('OMNIMAE_STORAGE_TIMEOUT', 30.0), 0.001)


def remember_root(root: str) -> None:
    """Note that this local folder has data. When it is gone, they are away, not missing."""
    if os.path.isdir(root):
        ROOTS[root.rstrip('/')] = Root(os.stat(root).st_dev, os.access(root, os.R_OK))


def insist(attempt: Callable[[], T], path: str, *, probe: Callable[[str], object] | None = None) -> T:
    """What ``attempt`` returns, repeated while the storage of ``path`` is away.

    Args:
        attempt: reads the file.
        path: its path or address.
        probe: reads a little of another file of the storage, past all caches, or raises. If another file can be read in
            the end, as on a disk with one bad sector, the file is broken. If a file is missing and so are all that were
            read last, the storage is away.

    Raises:
        StorageAwayError: the storage did not come back in time.
        OSError: an error of the file itself.
        ValueError: the patience is not a number.
    """
    is_first = path != _latest[0]  # a decoder reads a file many times
    if is_first:
        storage_patience()  # a wrong value is an error at once
    try:
        result = attempt()
    except Exception as error:
        if not is_away(error, path, probe):
            raise
        result = _insist(attempt, path, error, probe)
    if probe is not None and is_first:
        _latest[0] = path
        _read_well.setdefault(storage_of(path), deque(maxlen=WITNESSES)).append(path)
    return result


def _insist(attempt: Callable[[], T], path: str, error: Exception, probe: Callable[[str], object] | None) -> T:
    limit = storage_patience()
    storage, begin, pause, count = lost_root(path) or storage_of(path), time.monotonic(), FIRST_PAUSE, 1
    told = f'Storage {storage} is away, trying again for {limit:g} s: {path}: {reason_of(error)}'
    _note_outage(storage, time.time(), told)
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
            _note_outage(storage, 0.0, f'Storage {storage} is back after {time.monotonic() - begin:.1f} s.')
            return result
    seconds = time.monotonic() - begin
    if isinstance(error, OSError) and not isinstance(error, UNREACHABLE) and _others_can_be_read(path, probe):
        _note_outage(storage, 0.0, f'{path} cannot be read, but other files of {storage} can: the file is broken.')
        tried = f'{reason_of(error)}, {count} times in {seconds:.1f} s, but others can be read'
        raise OSError(error.errno or errno.EIO, tried) from error
    _note_outage(storage, 0.0)
    what = f'Storage {storage} is away, as seen from {socket.gethostname()}'
    tried = f'{count} reads of {path} failed in {seconds:.1f} s, the last one with: {reason_of(error)}'
    raise StorageAwayError(
        f'{what}: {tried}. Go on when it is back. '
        f'To wait longer, set OMNIMAE_STORAGE_PATIENCE (now {limit:g} seconds). '
        'If only this file fails, list it in a text file, and name that in the config: skip=FILE of its dataset.'
    ) from error


def is_away(error: Exception, path: str, probe: Callable[[str], object] | None = None) -> bool:
    """Whether this is an error of the storage, not of the file at ``path``."""
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
    """The name of a storage: the scheme and host of an address, or the root of a local file."""
    scheme, _, rest = path.partition('://')
    if rest:
        return f'{scheme}://{rest.partition("/")[0]}'
    return _root_of(path) or os.path.dirname(os.path.abspath(path))


def _root_of(path: str) -> str | None:
    return max((root for root in ROOTS if path.startswith(f'{root}/') or path == root), key=len, default=None)


def lost_root(path: str) -> str | None:
    """The root that is gone, or is a mount point without its file system; else None."""
    if '://' in path:
        return None
    if (root := _root_of(path)) is not None:
        return root if _is_gone(root, ROOTS[root]) else None
    # Copies of files may be beside the root. They are away with it, and so is their folder.
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
    """Whether a folder is empty or cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _others_can_be_read(path: str, probe: Callable[[str], object] | None) -> bool:
    if probe is None:
        return False
    others = _witnesses(path)
    if '://' not in path:  # from the same folder, because others may be links to other disks
        try:
            with os.scandir(os.path.dirname(path) or '.') as entries:
                others = [entry.path for _, entry in zip(range(8), entries, strict=False) if entry.is_file()]
        except FileNotFoundError:  # a folder in an archive
            pass
        except OSError:
            return False
    return _any_can_be_read((other for other in others if other != path), probe)


def _witnesses(path: str) -> list[str]:
    """Other files of its storage that were read last, the latest first."""
    return [other for other in reversed([*_read_well.get(storage_of(path), ())]) if other != path]


def _any_can_be_read(paths: Iterable[str], probe: Callable[[str], object]) -> bool:
    for path in paths:
        try:
            probe(path)
        except Exception:  # of any type that a backend has
            continue
        return True
    return False


# Since when each storage is away, by hash. Forked processes share it, so each outage is logged once.
_away_since = mmap.mmap(-1, 8 * 256)


def _note_outage(storage: str, since: float, message: str = '') -> None:
    """Note since when a storage is away, 0 if it is back, and log it unless another process did."""
    place = zlib.crc32(storage.encode(errors='surrogateescape')) * 8 % len(_away_since)
    [before] = struct.unpack_from('d', _away_since, place)
    struct.pack_into('d', _away_since, place, since)
    if message and bool(before) != bool(since):
        print_log(message, 'current', logging.WARNING)
