"""Shards: many files in a few tar archives, as WebDataset packs them, read without unpacking.

A folder that holds only archives is read as if it held their members: ``ROOT/NAME`` is the member NAME of one of
``ROOT/*.tar``. The places of members are read once from the archives' headers, and kept in ``ROOT/shards.index``. From
a web server the index is fetched, and only the bytes of the members.

A member's name is only a name. It is the path that ``tar`` would unpack, without a leading ``/`` and without ``..``. No
file is ever opened by it. If several archives have the same name, names include the archive: ``a.jpg`` of ``x.tar``
becomes ``a~x.jpg``. As in WebDataset, ``a.cls`` may hold the class of ``a.jpg``.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import tarfile
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from omnimae.data.storage.backends import RangeBackend, find_backend
from omnimae.data.storage.local import Span, is_there
from omnimae.data.storage.patience import UNREACHABLE, lost_root, remember_root
from omnimae.data.tables import Columns, StringTable, parse_table, stored

INDEX = 'shards.index'
WRITE_INDEX = 'Write it beside the archives with: tools/prepare_dataset.py shard --root FOLDER'
LISTS = ('.txt', '.csv', '.json', '.jsonl', '.tsv', '.md')  # files that may be beside archives
PACKED = ('.tar.gz', '.tgz', '.tar.bz2', '.tbz2', '.tar.xz', '.txz', '.tar.zst', '.tar.lz4')
LARGE = 2**24  # bytes; decoders read only the parts that they need of a larger member
MAX_OPEN = 64  # archives that a process keeps open
UNPACK = (
    'so its members cannot be read in place. Decompress it (gunzip, unxz, zstd -d): its files are compressed already.'
)

_lock = threading.RLock()
_known: dict[str, Shards] = {}  # by the root


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    begin: int  # of its bytes
    size: int  # bytes
    time: int  # of its last change, in seconds


def is_sharded(folder: str) -> bool:
    """Whether a local folder holds archives and no other data.

    Raises:
        OSError: its storage is away.
    """
    packed, archives = [], False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.lower()
                if lies_beside(name):
                    continue
                if name.endswith(PACKED):
                    packed.append(entry.name)
                elif name.endswith('.tar') and entry.is_file():
                    archives = True
                else:
                    return False
    except UNREACHABLE:
        return False
    if packed:
        raise ValueError(
            f'{os.path.join(folder, min(packed))} is compressed, {UNPACK} The folder has {len(packed)} such archives.'
        )
    return archives


def lies_beside(name: str) -> bool:
    """Whether a file or folder may be beside archives because it is not data."""
    name = name.lower()
    return name.startswith('.') or name == INDEX or name.endswith((*LISTS, '.part'))


def root_of(path: str) -> str | None:
    """The folder of archives that a local path is in, or that it is."""
    while not is_there(path, S_ISDIR):
        parent = os.path.dirname(path)
        if parent == path:
            return None
        path = parent or '.'
    return path if is_sharded(path) else None


class ShardsBackend(RangeBackend, name='shards'):
    """Members of archives by address. Other addresses are files beside the archives, such as lists."""

    is_thread_safe = True

    def get_range(self, filepath: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file, or fewer if it ends before."""
        shards, name = _locate(filepath)
        row = shards.find(name)
        return find_backend(filepath).get(filepath)[start:stop] if row is None else shards.read(row, start, stop)

    def exists(self, filepath: str) -> bool:
        """Whether the member, or the file beside the archives, exists."""
        shards, name = _locate(filepath)
        if shards.find(name) is not None or shards.has_folder(name):
            return True
        return find_backend(filepath).exists(filepath)

    def isdir(self, filepath: str) -> bool:
        """Whether this is the folder of the archives, as it is now on disk, or a folder in them."""
        global _known
        before = _known
        shards, name = _locate(filepath)
        if shards.root in before and '://' not in filepath:
            with _lock:
                _known = {root: known for root, known in _known.items() if known is not shards}
            shards, name = _locate(filepath)
        return not name or shards.has_folder(name)

    def list_dir_or_file(self, filepath: str, list_dir: bool = False, recursive: bool = True) -> Iterator[str]:
        """Names of the members below a folder, relative to it."""
        shards, name = _locate(filepath)
        return shards.names_below(name)

    def labels(self, root: str, names: Sequence[str]) -> list[str | None] | None:
        """The text of each member's .cls file; None if no archive has such files."""
        shards, folder = _locate(root)
        if shards.label is None:
            return None
        texts = [*shards.label_texts, None]
        codes = dict(zip(shards.names, shards.label.tolist(), strict=True))
        return [texts[codes.get(f'{folder}/{name}' if folder else name, -1)] for name in names]

    def large_member(self, filepath: str) -> Span | None:
        """The place of a large member, of which a decoder reads parts; None for other files, which are read at once."""
        shards, name = _locate(filepath)
        row = shards.find(name)
        return None if row is None else shards.span(row, filepath)

    def archive_of(self, filepath: str) -> str:
        """The archive that holds a member."""
        shards, name = _locate(filepath)
        row = shards.find(name)
        return filepath if row is None else shards.archives[shards.archive[row]]


def _locate(path: str) -> tuple[Shards, str]:
    """The shards of an address, and the name in them."""
    global _known
    path = path.rstrip('/') if '://' in path else os.path.abspath(path)
    for root, shards in _known.items():
        if path.startswith(f'{root}/') or path == root:
            return shards, path[len(root) + 1 :]
    with _lock:
        shards = Shards.at(path)
        _known = {**_known, shards.root: shards}  # a new dict, because another thread may iterate over the old one
    return shards, path[len(shards.root) + 1 :]


class Shards:
    """The members of all archives of a folder.

    Args:
        root: the folder.
        columns: of `index`.
    """

    def __init__(self, root: str, columns: Columns):
        self.root = root
        self.names: StringTable = columns['names']
        self.archive, self.begins, self.sizes = columns['archive'], columns['begins'], columns['sizes']
        if elsewhere := [name for name in columns['archives'] if '/' in name]:
            raise ValueError(
                f'{root}/{INDEX} names the archive {elsewhere[0]!r}, which is in another folder. {WRITE_INDEX}'
            )
        self.archives = [posixpath.join(root, name) for name in columns['archives']]
        self.stats = columns['stats']
        self.label, self.label_texts = columns['label'], columns['labels']

    @classmethod
    def at(cls, path: str) -> Shards:
        """The shards of an address.

        Raises:
            OSError: an archive or the index cannot be read.
        """
        if '://' in path:
            return cls._of_server(path)
        root = root_of(path)
        if root is None and lost_root(path) is not None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if root is None:
            raise ValueError(f'{path!r} is not a folder of .tar files, nor in one. Correct root or backend_args.')
        remember_root(root)
        return cls(root, index(root))

    @classmethod
    def _of_server(cls, path: str) -> Shards:
        root = path
        while '://' in posixpath.dirname(root):
            address = f'{root}/{INDEX}'
            try:
                columns = parse_table(find_backend(address).get(address))
            except FileNotFoundError:
                root = posixpath.dirname(root)
                continue
            if columns is None:
                raise ValueError(f'{address} is not an index of shards. {WRITE_INDEX}')
            shards = cls(root, columns)
            with ThreadPoolExecutor(16) as threads:
                [*threads.map(_check_on_server, shards.archives, shards.stats[:, 0].tolist())]
            return shards
        raise ValueError(
            f'{path}: no {INDEX} is in this folder or above it. Archives on a server need it. {WRITE_INDEX}'
        )

    def find(self, name: str) -> int | None:
        """The row of a member."""
        row = bisect_left(self.names, name)
        return row if row < len(self.names) and self.names[row] == name else None

    def has_folder(self, name: str) -> bool:
        """Whether a member's name begins with this folder."""
        row = bisect_left(self.names, f'{name}/')
        return row < len(self.names) and self.names[row].startswith(f'{name}/')

    def names_below(self, folder: str) -> Iterator[str]:
        """Names in a folder, relative to it, in order, without those that begin with a dot."""
        prefix = f'{folder}/' if folder else ''
        rows = range(bisect_left(self.names, prefix), len(self.names))
        for name in (self.names[row] for row in rows) if folder else self.names:  # the table is faster as a whole
            if not name.startswith(prefix):
                return
            name = name[len(prefix) :]
            if not name.startswith('.') and '/.' not in name:
                yield name

    def read(self, row: int, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a member.

        Raises:
            OSError: the archive is gone, or differs from that of the index.
        """
        size = int(self.sizes[row])
        stop = size if stop is None else min(stop, size)
        if start >= stop:
            return b''
        number, begin = int(self.archive[row]), int(self.begins[row])
        path, stat = self.archives[number], self.stats[number]
        if '://' in path:
            data = find_backend(path).get_range(path, begin + start, begin + stop)
        else:
            data = _read_archive(path, stat, begin + start, stop - start)
        if len(data) < stop - start:
            raise OSError(errno.EINVAL, f'ends in the middle of {self.names[row]!r}, but was longer before', path)
        return data

    def span(self, row: int, address: str) -> Span | None:
        """See `ShardsBackend.large_member`."""
        number, size = int(self.archive[row]), int(self.sizes[row])
        path = self.archives[number]
        if size <= LARGE or '://' in path:
            return None
        found = os.stat(path)
        _check_unchanged(path, found, self.stats[number])
        return Span(address, path, int(self.begins[row]), size)


def _check_on_server(address: str, size: int) -> None:
    """An archive must exist, be read in parts, and have the size that the index states."""
    backend = find_backend(address)
    try:
        found = backend.size(address) if hasattr(backend, 'size') else None
    except FileNotFoundError:
        raise ValueError(f'{address} does not exist, but {INDEX} beside it names it. Copy both again.') from None
    if found not in (None, size):
        raise ValueError(f'{address} has {found} bytes, but {size} in {INDEX} beside it. {WRITE_INDEX}')


def _read_archive(path: str, stat: Sequence[int], begin: int, size: int) -> bytes:
    """Bytes of an archive that has this size and this time of change, or fewer if it ends before."""
    with _lock:
        file = _open_archive(path, *map(int, stat))
    parts = []
    try:
        while size and (part := os.pread(file.number, size, begin)):  # it may give less than all
            parts.append(part)
            begin, size = begin + len(part), size - len(part)
    except OSError:  # a stale handle stays stale, so the next attempt opens the file again
        _open_archive.cache_clear()
        raise
    return parts[0] if len(parts) == 1 else b''.join(parts)


@lru_cache(MAX_OPEN)
def _open_archive(path: str, size: int, time: int) -> _File:
    """An open archive. Threads share it, and processes after a fork."""
    return _File(path, (size, time))


class _File:
    """An open archive. It is closed when its last user is gone."""

    number = -1

    def __init__(self, path: str, stat: Sequence[int]):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        _check_unchanged(path, os.fstat(self.number), stat)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def _check_unchanged(path: str, found: os.stat_result, stat: Sequence[int]) -> None:
    if [found.st_size, found.st_mtime_ns] != [*map(int, stat)]:
        raise OSError(errno.EINVAL, 'has changed since training began to read it. Stop and resume the training', path)


def _forget_lock() -> None:
    """A thread of the parent may hold it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)


# ---- Index ----


def archives_of(root: str) -> list[str]:
    """Names of the archives of a folder, sorted."""
    return sorted(name for name in os.listdir(root) if name.lower().endswith('.tar') and not name.startswith('.'))


def index(root: str) -> Columns:
    """The places of the members in the archives of a folder, from its index file or from the archives.

    Returns:
        ``names`` of all members, sorted, with ``archive``, ``begins`` and ``sizes``. ``label`` is -1 or an index into
        ``labels``, the different texts of .cls files. ``archives`` have ``stats``: size and time in ns.
    """
    archives = archives_of(root)
    stats = [(found.st_size, found.st_mtime_ns) for found in (os.stat(os.path.join(root, name)) for name in archives)]
    about = dict(archives=archives, stats=stats)
    file = os.path.join(root, INDEX)
    return stored(file, about, lambda: _index(root, archives, stats), lambda kept: kept['archives'] == archives)


def _index(root: str, archives: Sequence[str], stats: Sequence[tuple[int, int]]) -> Columns:
    rows: list[tuple[str, int, int, int]] = []  # name, archive, begin, size
    labels: dict[tuple[int, str], str] = {}  # (archive, name without ending) -> text of a .cls file
    skipped: Counter[str] = Counter()
    print_log(f'{root}: reading the headers of {len(archives)} archives, once', 'current')
    for number, name in enumerate(archives):
        path = os.path.join(root, name)
        members, others = scan(path)
        skipped += others
        with open(path, 'rb') as file:
            for member in members:
                stem, ending = os.path.splitext(member.name)
                if ending == '.cls':
                    data = os.pread(file.fileno(), min(member.size, 4096), member.begin)
                    labels[number, stem] = data.decode('utf-8', 'replace').strip()
                else:
                    rows.append((member.name, number, member.begin, member.size))
    if skipped:
        counts = ', '.join(f'{count} {kind}' for kind, count in sorted(skipped.items()))
        print_log(f'{root}: skipped members of the archives: {counts}', 'current', logging.WARNING)
    if not rows:
        raise ValueError(f'{root}: its {len(archives)} archives hold no file. Correct root.')
    codes = _codes_of(rows, labels)
    if len({name for name, *_ in rows}) < len(rows):
        rows = [(_with_archive(row[0], archives[row[1]]), *row[1:]) for row in rows]
        text = f'{root}: several archives have members of the same name, so names include the archive: {rows[0][0]!r}.'
        print_log(text, 'current')
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])
    if twice := next((rows[a][0] for a, b in pairwise(order) if rows[a][0] == rows[b][0]), None):
        raise ValueError(f'{root}: {twice!r} is in two archives of one name, such as x.tar and x.TAR. Rename one.')
    numbers = np.array([row[1:] for row in rows], np.int64)[order]
    return dict(
        names=StringTable(rows[row][0] for row in order),
        archive=numbers[:, 0].astype(np.int32),
        begins=numbers[:, 1],
        sizes=numbers[:, 2],
        label=np.array(codes, np.int32)[order] if labels else None,
        labels=StringTable(dict.fromkeys(labels.values())),
        archives=StringTable(archives),
        stats=np.array(stats, np.int64),
    )


def _codes_of(rows: Sequence[tuple[str, int, int, int]], labels: dict[tuple[int, str], str]) -> list[int]:
    """The number of each row's label among the different ones, or -1."""
    texts = {text: code for code, text in enumerate(dict.fromkeys(labels.values()))}

    def code(name: str, number: int) -> int:
        folder, file = posixpath.split(name)
        for stem in (os.path.splitext(name)[0], posixpath.join(folder, file.partition('.')[0])):  # a.jpg, a.seg.png
            if (number, stem) in labels:
                return texts[labels[number, stem]]
        return -1

    return [code(name, number) for name, number, *_ in rows]


def _with_archive(name: str, archive: str) -> str:
    folder, file = posixpath.split(name)
    stem, dot, ending = file.partition('.')
    return posixpath.join(folder, f'{stem}~{Path(archive).stem}{dot}{ending}')


def scan(path: str) -> tuple[list[Member], Counter[str]]:
    """The files in an archive, each name once, and the number of members of other kinds."""
    found: dict[str, Member] = {}
    skipped: Counter[str] = Counter()
    with open(path, 'rb') as file:
        head = file.read(6)
        if head[:2] == b'\x1f\x8b' or head[:3] == b'BZh' or head == b'\xfd7zXZ\0' or head[:4] == b'\x28\xb5\x2f\xfd':
            raise ValueError(f'{path} is compressed, {UNPACK}')
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode='r:', encoding='utf-8', errors='surrogateescape') as archive:
                while (info := archive.next()) is not None:
                    if info.size < 0:
                        raise tarfile.ReadError('a size below 0')
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep millions
                    name = unpacked_name(info.name)
                    if info.isdir():
                        continue
                    if not info.isreg() or info.issparse() or not name:
                        skipped[_kind_of(info)] += 1
                        continue
                    skipped['older members of a name'] += name in found
                    found[name] = Member(name, info.offset_data, info.size, int(info.mtime))
                end = archive.offset
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f'{path} is truncated, damaged or not a tar archive: {error}. Get it again.') from None
        file.seek(end)
        if file.read(512) != bytes(512):
            raise ValueError(f'{path} is truncated or damaged at byte {end}: it has no end mark there. Get it again.')
        while rest := file.read(2**20):
            if rest.strip(b'\0'):
                raise ValueError(
                    f'{path} continues after its end at byte {end}: joined archives. Give them as separate files.'
                )
    return [*found.values()], +skipped


def _kind_of(info: tarfile.TarInfo) -> str:
    if info.islnk() or info.issym():
        return 'links'
    if info.isdev():
        return 'devices and pipes'
    return 'sparse files' if info.issparse() else 'nameless or unknown members'


def unpacked_name(name: str) -> str:
    """The path to which ``tar`` would unpack a member, never above the folder of unpacking."""
    parts = [part for part in name.split('/') if part not in ('', '.')]
    below = len(parts) - parts[::-1].index('..') if '..' in parts else 0
    return '/'.join(parts[below:])
