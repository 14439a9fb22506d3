"""Reading ahead: while one file is decoded, the next ones are read (OmniMAE, B.1, data loading).

A few threads of a loader's process read the bytes. The process itself decodes them, one sample after the other. So
order, random numbers and errors of broken files are the same as without reading ahead.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from omnimae.data import storage

READS_IN_FLIGHT = 16  # in a process by default: an image takes 1.4 ms to decode, so they hide 20 ms a read
MAX_BYTES = 128 * 2**20  # in each process: unused bytes, and those expected from the reads in flight
WHOLE = 16 * 2**20  # bytes; decoders read only parts of larger local files
HINT = 2**20  # bytes at both ends of larger files, with which decoders begin
IDLE = 1.0  # seconds after which a thread without work ends
FAST = 1e-3  # seconds a read; faster ones (files in memory) take less time than the threads
HEAD = 2**16  # bytes
PROBED = 64  # one of so many samples is not read ahead, to measure how long a read takes

File = tuple[str, Any]  # path and backend_args
Key = TypeVar('Key', bound=Hashable)
Sample = TypeVar('Sample')


@dataclass(eq=False, slots=True)
class _Read:
    """A file to read ahead."""

    file: File
    place: int = 0  # of the first sample that uses it, in the plan
    uses: int = 0  # samples that use it
    is_begun: bool = False  # its reading has begun, or is done
    done: threading.Event = field(default_factory=threading.Event)
    value: bytes | None = None  # its content; None if it is to be read in place
    error: BaseException | None = None  # raised instead

    @property
    def size(self) -> int:
        return len(self.value or b'')


class ReadAhead:
    """The reads of one process for the next samples.

    Memory is bounded: unused bytes and those expected from reads in flight are at most ``MAX_BYTES``. One read is in
    flight until the first one shows how large files are. Files larger than the bound are read when they are needed.
    Threads are daemons, so a read that hangs does not keep a process from ending. Nothing is read ahead while reads
    take less than ``FAST``.

    Args:
        num_threads: reads in flight, besides one that the process waits for.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._samples: dict[Any, list[_Read]] = {}  # by key, in the order in which they come
        self._reads: dict[tuple[str, str], _Read] = {}
        self._waiting: deque[_Read] = deque()
        self._place = 0  # in the plan, of the sample that comes next
        self._is_begun = True  # whether the plan is read ahead
        self._num_alive = self._num_idle = self._num_in_flight = self._bytes_unused = 0
        self._expected: float | None = None  # bytes of a file
        self._seconds = 0.0  # a read that is not ahead: running mean that halves with each one
        self._keys: list[Any] = []  # of the samples, in their order
        self._files_of: Callable[[Any], Sequence[File]] = lambda key: []

    def __reduce__(self) -> tuple:
        return ReadAhead, (self.num_threads,)

    def plan(self, keys: Iterable[Key], files_of: Callable[[Key], Sequence[File]]) -> None:
        """Begin to read the files of these samples, in their order. Forget other samples of the plan before."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._begin()
        self._keys, self._files_of = [*keys], files_of
        self._place, self._is_begun = 0, self._seconds > FAST
        self._begin_reads(self._keys if self._is_begun else [])

    def _begin_reads(self, keys: Sequence[Hashable]) -> None:
        with self._changed:
            old, before = self._samples, self._reads
            self._samples, self._reads, self._waiting = {}, {}, deque()
            for read in before.values():
                read.uses = 0
            for place, key in enumerate(keys, self._place):
                if key in self._samples or hash(key) % PROBED == PROBED - 1:
                    continue
                reads = old.get(key) or [self._read_of(file, before) for file in self._files_of(key)]
                self._samples[key] = reads
                for read in reads:
                    read.place = read.place if read.uses else place
                    read.uses += 1
                    self._reads[_name(*read.file)] = read
            self._waiting.extend(read for read in self._reads.values() if not read.is_begun)
            self._bytes_unused = sum(read.size for read in self._reads.values() if read.done.is_set())
            self._wake(len(self._waiting))

    def _read_of(self, file: File, before: dict[tuple[str, str], _Read]) -> _Read:
        name = _name(*file)
        return self._reads.get(name) or before.get(name) or _Read(file)

    def sample(self, key: Key, read_sample: Callable[[Key], Sample]) -> tuple[Sample, bool]:
        """Read a sample of the plan. `storage.read` finds what was read ahead for it. Then it is forgotten.

        Returns:
            The sample, and whether reading ahead is of use: one of its files was asked for, or they are unknown.
        """
        if not self._is_begun and self._seconds > FAST:
            self._is_begun = True
            self._begin_reads(self._keys[self._place :])
        reads = self._samples.get(key, [])
        asked: set[_Read] = set()

        def take(path: str | os.PathLike, backend_args: Any, in_place: bool) -> bytes | None:
            read = self._reads.get(_name(path, backend_args))
            if read is None:
                return self._read_now(os.fspath(path), backend_args, in_place)
            asked.add(read)
            return self._take(read)

        token = storage.READ_AHEAD.set(take)
        try:
            return read_sample(key), bool(asked) or not reads
        finally:
            storage.READ_AHEAD.reset(token)
            self._forget(key, reads)

    def _forget(self, key: Hashable, reads: Sequence[_Read]) -> None:
        with self._changed:
            self._samples.pop(key, None)
            self._place += 1
            for read in reads:
                read.uses -= 1
                if not read.uses and (self._reads.pop(_name(*read.file), None) is read) and read.done.is_set():
                    self._bytes_unused -= read.size
            self._wake(len(reads))

    def _take(self, read: _Read) -> bytes | None:
        with self._changed:
            is_begun, read.is_begun = read.is_begun, True
            self._num_in_flight += not is_begun
        if not is_begun:  # sooner than a thread would; in a context without `READ_AHEAD`
            Context().run(self._carry_out, read)
        read.done.wait()
        if read.error is not None:
            raise read.error
        return read.value

    def _read_now(self, path: str, backend_args: Any, in_place: bool) -> bytes | None:
        """Read a file that is not read ahead and measure the time. Only the head of a file to open in place is read."""
        begin = perf_counter()
        try:
            if not in_place:
                return Context().run(_content, path, backend_args)
            with suppress(OSError), open(path, 'rb') as file:
                file.read(HEAD)
            return None
        finally:
            self._seconds = (self._seconds + perf_counter() - begin) / 2

    def _carry_out(self, read: _Read) -> None:
        try:
            read.value = _content(*read.file)
        except BaseException as error:
            read.error = error
        with self._changed:
            self._num_in_flight -= 1
            if self._expected is None:
                self._changed.notify_all()
            self._expected = max(read.size, 0.9 * (self._expected or 0))  # so one large file is soon forgotten
            if self._reads.get(_name(*read.file)) is read:
                self._bytes_unused += read.size
            read.done.set()

    # ---- The threads ----

    def _work(self) -> None:
        while (read := self._next()) is not None:
            self._carry_out(read)

    def _next(self) -> _Read | None:
        with self._changed:
            self._num_idle += 1
            has_work = self._changed.wait_for(self._has_work, IDLE)
            self._num_idle -= 1
            if not has_work:
                self._num_alive -= 1
                return None
            read = self._waiting.popleft()
            read.is_begun = True
            self._num_in_flight += 1
            return read

    def _has_work(self) -> bool:
        while self._waiting and self._waiting[0].is_begun:
            self._waiting.popleft()
        if not self._waiting or self._waiting[0].place >= self._place + 2 * self.num_threads:
            return False
        if self._expected is None:
            return not self._num_in_flight
        return self._bytes_unused + (self._num_in_flight + 1) * self._expected <= MAX_BYTES

    def _wake(self, num_reads: int) -> None:
        self._changed.notify(num_reads)
        for _ in range(min(self.num_threads - self._num_alive, num_reads - self._num_idle)):
            try:
                threading.Thread(target=self._work, name='read ahead', daemon=True).start()
            except RuntimeError:  # a limit of the system; files are then read when they are needed
                return
            self._num_alive += 1


def _name(path: str | os.PathLike, backend_args: Any) -> tuple[str, str]:
    return os.fspath(path), repr(backend_args)


def _content(path: str, backend_args: Any) -> bytes | None:
    """The content of a file; None for a large local one, whose ends the system is asked to read."""
    if storage.is_local(path, backend_args):
        with suppress(OSError):  # those of `storage.read` say more
            if (size := os.stat(path).st_size) > WHOLE:
                with open(path, 'rb') as file:
                    for begin in (0, size - HINT) if hasattr(os, 'posix_fadvise') else ():
                        os.posix_fadvise(file.fileno(), begin, HINT, os.POSIX_FADV_WILLNEED)
                return None
    elif storage.place_in_archive(path, backend_args) is not None:
        return None
    return storage.read(path, backend_args)
