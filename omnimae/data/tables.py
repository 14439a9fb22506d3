"""Columns of many strings and numbers, in memory or mapped from a file that all processes of a machine share.

`stored` keeps the content of a long list or of many archives, so each machine parses it once, not each rank.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

MAGIC = b'omnimae table 1\n'
ALIGNMENT = 64  # bytes, at which each column begins


class StringTable(Sequence[str]):
    """An immutable list of strings in two flat buffers.

    Worker processes share them. Each worker would copy a Python list of strings, because counting references writes to
    every string.

    Attributes:
        text: all strings joined, in UTF-8; other bytes are kept as they are.
        ends: end of each string in ``text``.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __init__(self, strings: Iterable[str]):
        self._set_bytes([encode(string) for string in strings])

    def _set_bytes(self, strings: Sequence[bytes]) -> None:
        self.text = np.frombuffer(b''.join(strings), np.uint8)
        self.ends = np.fromiter(map(len, strings), np.int64).cumsum()

    @classmethod
    def of(cls, strings: Iterable[str]) -> StringTable:
        """The strings as a table; a table is returned as it is."""
        return strings if isinstance(strings, cls) else cls(strings)

    @classmethod
    def of_bytes(cls, strings: Sequence[bytes]) -> StringTable:
        """The table of strings that are encoded, see `encode`."""
        table = cls(())
        table._set_bytes(strings)
        return table

    @classmethod
    def joined(cls, tables: Sequence[StringTable]) -> StringTable:
        """The strings of all tables."""
        starts = np.cumsum([0, *(len(table.text) for table in tables)])
        ends = np.concatenate([table.ends + start for table, start in zip(tables, starts, strict=False)])
        return cls.of_buffers(np.concatenate([table.text for table in tables]), ends)

    @classmethod
    def of_buffers(cls, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> StringTable:
        """The table with these attributes."""
        bounds = np.concatenate([[0], ends, [len(text)]])
        if (bounds[1:] < bounds[:-1]).any() or bounds[-2] != bounds[-1]:
            raise ValueError('the ends of its strings are wrong')
        table = cls(())
        table.text, table.ends = text, ends
        return table

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return decode(self.text[start : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        text = self.text.tobytes()
        for start, end in pairwise([0, *self.ends.tolist()]):
            yield decode(text[start:end])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def digest(self) -> str:
        """Digest of the strings and their order."""
        return digest(self.text, np.asarray(self.ends, '<i8'))

    def __repr__(self) -> str:
        return f'{type(self).__name__}({[*self[:3]]}{", ..." if len(self) > 3 else ""})'


def digest(*parts: Any) -> str:
    """Digest of bytes or buffers: 50 ms for a million paths."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def encode(text: str) -> bytes:
    """A file name -> its bytes on disk."""
    return text.encode('utf-8', 'surrogateescape')


def decode(text: bytes) -> str:
    """The inverse of `encode`."""
    return text.decode('utf-8', 'surrogateescape')


Columns: TypeAlias = dict[str, Any]  # name -> StringTable, array, or None


def write_table(file: str | os.PathLike, about: Any, columns: Columns) -> None:
    """Write columns at once, so that no reader sees half of them.

    Args:
        file: where to.
        about: what JSON can say, for `read_table`.
        columns: name -> `StringTable`, array, or None.

    Raises:
        OSError: it cannot be written.
    """
    arrays: dict[str, NDArray] = {}
    for name, column in columns.items():
        if isinstance(column, StringTable):
            arrays |= {f'{name}.text': column.text, f'{name}.ends': column.ends}
        elif column is not None:
            arrays[name] = column
    layout, size = {}, 0
    for name, array in arrays.items():
        layout[name] = array.dtype.str, array.shape, size
        size += _padded(array.nbytes)
    head = json.dumps(dict(about=about, names=[*columns], arrays=layout)).encode()
    start = _padded(len(MAGIC) + 16 + len(head))
    head = MAGIC + np.array([start, size], '<i8').tobytes() + head
    with replacing(file, 'wb') as out:
        out.write(head.ljust(start))
        for array in arrays.values():
            out.write(np.ascontiguousarray(array).data)
            out.write(bytes(_padded(array.nbytes) - array.nbytes))


@contextmanager
def replacing(file: str | os.PathLike, mode: str = 'w', **options: Any) -> Iterator[Any]:
    """Open a new file that replaces ``file`` when it is complete, so that no reader sees half of it."""
    part = f'{file}.{socket.gethostname()}.{os.getpid()}.part'
    try:
        with open(part, mode, **options) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    finally:
        Path(part).unlink(missing_ok=True)


def read_table(file: str | os.PathLike, about: Any) -> Columns | None:
    """The columns of a file, mapped into memory; None if there is no such file, or ``about`` differs.

    Files that are not on a local disk are read, because a mapped page that a network does not give ends the process.
    """
    try:
        is_on_disk = os.major(os.stat(file).st_dev) != 0
        return parse_table(
            np.asarray(np.memmap(file, np.uint8, 'r')) if is_on_disk else np.fromfile(file, np.uint8), about
        )
    except (OSError, ValueError):
        return None


def parse_table(data: bytes | NDArray[np.uint8], about: Any = None) -> Columns | None:
    """Bytes of a table -> its columns; None if they are no table, or ``about`` differs."""
    data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    try:
        start, size = np.frombuffer(data[len(MAGIC) : len(MAGIC) + 16].tobytes(), '<i8').tolist()
        if data[: len(MAGIC)].tobytes() != MAGIC or start + size != len(data):
            return None
        told = json.loads(data[len(MAGIC) + 16 : start].tobytes())
        if about is not None and told['about'] != json.loads(json.dumps(about)):
            return None
        arrays = {}
        for name, (kind, shape, begin) in told['arrays'].items():
            dtype = np.dtype(kind)
            end = start + begin + dtype.itemsize * int(np.prod(shape))
            arrays[name] = data[start + begin : end].view(dtype).reshape(shape)
        return {name: _column(name, arrays) for name in told['names']}
    except (ValueError, KeyError, TypeError, SyntaxError):  # SyntaxError is NumPy's for a dtype
        return None


def _column(name: str, arrays: Mapping[str, NDArray]) -> Any:
    if f'{name}.text' in arrays:
        return StringTable.of_buffers(arrays[f'{name}.text'], arrays[f'{name}.ends'])
    return arrays.get(name)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def stored(
    beside: str, about: Mapping[str, Any], make: Callable[[], Columns], check: Callable[[Columns], bool] | None = None
) -> Columns:
    """The columns of ``make``, stored in a file for the next time and for other processes of this machine.

    Args:
        beside: the file. If it cannot be written, a file in $XDG_CACHE_HOME/omnimae, or none.
        about: what the columns depend on. A file with another ``about`` is replaced.
        make: makes the columns.
        check: whether to trust the columns of a file.
    """
    beside = os.path.abspath(beside)
    cache = _cache_folder()
    places = [beside] + [f'{cache}/{digest(encode(beside))}.table'] * (cache is not None)

    def find() -> Columns | None:
        for place in places:
            columns = read_table(place, about)
            if columns is not None and (check is None or check(columns)):
                return columns
        return None

    found = find()
    if found is None:
        with _alone(digest(encode(beside))):
            found = find()
            if found is None:
                found = _keep(make(), about, places)
    return found


def _keep(columns: Columns, about: Any, places: Sequence[str]) -> Columns:
    """The columns, mapped from the first place where they can be written."""
    reason = ''
    for place in places:
        try:
            if place != places[0]:
                os.makedirs(os.path.dirname(place), exist_ok=True)
            write_table(place, about, columns)
        except OSError as error:
            reason = reason or f'{places[0]} cannot be written ({error.strerror})'
            continue
        if reason:
            print_log(f'{reason}, so its rows are stored in {place}.', 'current', logging.WARNING)
        return read_table(place, about) or columns
    print_log(f'{reason}, so every rank parses it at each start.', 'current', logging.WARNING)
    return columns


def _cache_folder() -> Path | None:
    """None for a user without a home, as in a container with an arbitrary user id."""
    try:
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'omnimae'
    except RuntimeError:
        return None


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process of this machine at a time. The lock is local: shared folders may not support locks."""
    folder = os.path.join(tempfile.gettempdir(), f'omnimae-{os.getuid()}')
    opened: int | None = None
    with suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        opened = os.open(os.path.join(folder, f'{name}.lock'), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        fcntl.flock(opened, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if opened is not None:
            os.close(opened)
