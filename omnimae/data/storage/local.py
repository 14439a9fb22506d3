"""Local files that decoders read in parts."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from omnimae.data.storage.patience import UNREACHABLE, insist

T = TypeVar('T')


class Span(NamedTuple):
    """A file inside another one, such as a member of an archive."""

    path: str  # its address
    held_by: str  # path of the other file
    begin: int  # of its bytes in the other file
    size: int  # bytes


class LocalFile(io.RawIOBase):
    """An open file whose reads are repeated while its storage is away. The decoder does not notice.

    A decoder may take an error for the end of the file and show something else. PyAV drops a BaseException. So after a
    read has failed for good, all others fail too, and the caller of the decoder looks at ``error``.

    Args:
        source: path of the file, or its place in another one.

    Attributes:
        name: the address for FFmpeg. Without 'file:' it would take the first half of 'a:b.mp4' for a protocol.
        error: of a read.

    Raises:
        OSError: there is no such file, or it cannot be read and others can.
        StorageAwayError: the storage did not come back in time.
    """

    def __init__(self, source: str | Span) -> None:
        path, self.path, self._begin, size = (source, source, 0, None) if isinstance(source, str) else source
        self.name = f'file:{path}'
        self._file: int | None = None
        self._place = 0
        self.error: BaseException | None = None
        self._size = self._insist(lambda file: os.fstat(file).st_size) if size is None else size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        size = max(self._size - self._place, 0) if size is None or size < 0 else size
        try:
            if self.error is not None:
                raise self.error
            data = self.read_at(self._place, size)
        except BaseException as error:
            self.error = error
            raise error if isinstance(error, OSError) else OSError(errno.EIO, str(error)) from error
        self._place += len(data)
        return data

    def read_at(self, place: int, size: int) -> bytes:
        """``size`` bytes from a place on, or fewer if the file ends before."""
        size = max(min(size, self._size - place), 0)
        return self._insist(lambda file: os.pread(file, size, self._begin + place))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another place."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def close(self) -> None:
        """Close the file."""
        self._close_file()
        super().close()

    def _insist(self, call: Callable[[int], T]) -> T:
        def attempt() -> T:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return call(self._file)
            except OSError:
                self._close_file()  # a stale handle stays stale, so the next attempt opens the file again
                raise

        return insist(attempt, self.path, probe=read_from_disk)

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


def is_there(path: str, is_kind: Callable[[int], bool] = bool) -> bool:
    """Like `os.path.exists`, or `os.path.isdir` with ``S_ISDIR``. Those return False on every error."""
    try:
        return is_kind(os.stat(path).st_mode)
    except UNREACHABLE:
        return False


def read_from_disk(path: str) -> None:
    """Read a byte of a file past the page cache. An empty file raises an OSError, because it shows nothing."""
    with open(path, 'rb') as file:
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if not file.read(1):
            raise OSError(errno.ENODATA, 'is empty', path)
