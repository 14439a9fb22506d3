"""From a folder of files to shards: tar archives that `storage.shards` reads as if the files lay there.

A folder of a million files is slow to copy and to list, and on network storage slow to read. Its archives are a few
hundred files. They hold images, videos and maps by their paths below the root, in order, so that samples, labels and
the order of rows are those of the folder. Lists beside the data are copied.
"""

from __future__ import annotations

import os
import shutil
import socket
import tarfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from omnimae.data import storage
from omnimae.data.formats.parts import Part, parts_of
from omnimae.data.formats.preparation import in_parallel
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from omnimae.data.storage.shards import LISTS, archives_of, index, lies_beside, scan

ENDINGS = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS, '.npy')
BLOCK = 512  # of a tar archive, in bytes


class File(NamedTuple):
    """A file to be packed.

    Attributes:
        name: relative to the root.
        size: in bytes.
        time: of its last change, in ns.
    """

    name: str
    size: int
    time: int


class Packed(NamedTuple):
    """What `pack` made.

    Attributes:
        files: how many are in the archives; of a part, in its archives.
        archives: how many there are; of a part, its own.
        written: how many were not there before.
        passed_over: how many files below the root are no data.
        copied: lists that lie beside the archives now.
    """

    files: int
    archives: int
    written: int
    passed_over: int
    copied: list[str]


def pack(
    root: str | Path,
    out: str | Path,
    *,
    size: int = 10**9,
    part: Part | None = None,
    merge: int | None = None,
    workers: int = 1,
) -> Packed:
    """Pack the data below ``root`` into archives in ``out``, and read each back.

    An interrupted run goes on: archives that hold the files as they are now are kept.

    Args:
        root: folder of the data.
        out: folder of the archives, outside of it.
        size: of an archive, in bytes. A larger file has one of its own.
        part: makes these archives only, and no index.
        merge: makes no archive: all of so many parts must have made theirs.
        workers: processes.
    """
    root, out = Path(root), Path(out)
    if storage.backend_args_of(str(root)) is not None:
        raise ValueError(f'root={str(root)!r} holds archives already. Leave --out away to write their index.')
    if (
        os.path.realpath(out) == os.path.realpath(root)
        or Path(os.path.realpath(root)) in Path(os.path.realpath(out)).parents
    ):
        raise ValueError(f'out={str(out)!r} lies in root={str(root)!r}. Give a folder outside of it.')
    plan, lists, passed_over = plan_of(root, size)
    numbered = [*enumerate(plan)]
    out.mkdir(parents=True, exist_ok=True)
    if others := sorted(name for name in os.listdir(out) if not (lies_beside(name) or name.lower().endswith('.tar'))):
        raise ValueError(
            f'out={str(out)!r} holds {others[0]!r}, so it would not be read as archives. Give an empty folder.'
        )
    if foreign := sorted(set(archives_of(str(out))) - {_name(number) for number, _ in numbered}):
        raise ValueError(
            f'{out / foreign[0]} is none of the {len(plan)} archives of these files and this size. Remove it, or give '
            'another --out.'
        )
    mine, written = numbered if part is None else [*part.take(numbered)], 0
    if merge is not None:
        _check_parts(out, numbered, merge)
    else:
        made = in_parallel(partial(_pack, root, out), mine, 1, workers, 'Packing')
        written = sum(sum(results) for _, results in made)
    if part is None:
        for left in out.glob('*.tar.*.part'):  # by a run that was killed
            left.unlink()
        for name in lists:
            shutil.copy2(root / name, out / f'{name}.part')
            os.replace(out / f'{name}.part', out / name)
        if index(str(out))['names'] != sorted(file.name for files in plan for file in files):
            raise ValueError(f'{out}: the archives hold other names than {root}. Report this.')
    return Packed(sum(len(files) for _, files in mine), len(mine), written, passed_over, lists if part is None else [])


def plan_of(root: Path, size: int) -> tuple[list[list[File]], list[str], int]:
    """Which files each archive holds, the lists that lie beside the data, and how many other files there are."""
    if size < 1:
        raise ValueError(f'size={size} is not positive. Give bytes, or 1GB.')
    names = sorted(storage.list_files(str(root)))
    data = [name for name in names if name.lower().endswith(ENDINGS)]
    lists = [name for name in names if '/' not in name and name.lower().endswith(LISTS)]
    if not data:
        raise ValueError(f'root={str(root)!r} holds no image, video or .npy file. Correct it.')
    plan: list[list[File]] = []
    room = 0
    for name in data:
        found = _stat(root / name)
        file = File(name, found.st_size, found.st_mtime_ns)
        needed = BLOCK + -(-file.size // BLOCK) * BLOCK
        if needed > room:
            plan.append([])
            room = size
        plan[-1].append(file)
        room -= needed
    return plan, lists, len(names) - len(data) - len(lists)


def _stat(path: Path) -> os.stat_result:
    try:
        return storage.insist(lambda: os.stat(path), str(path))
    except FileNotFoundError:
        raise ValueError(f'{path} is missing, or a link to nothing. Remove it, and give lists without it.') from None


def _name(number: int) -> str:
    return f'{number:06}.tar'


def _check_parts(out: Path, numbered: Sequence[tuple[int, list[File]]], total: int) -> None:
    missing = {number: files for number, files in numbered if not _holds(out / _name(number), files)}
    parts = [str(part) for part in parts_of(total) if {number for number, _ in part.take(numbered)} & {*missing}]
    if missing:
        raise ValueError(
            f'{out}: {len(missing)} of {len(numbered)} archives are missing or hold other files, the first is '
            f'{_name(min(missing))}. Run --part {", ".join(parts)} again, then merge.'
        )


def _pack(root: Path, out: Path, chunk: Sequence[tuple[int, list[File]]]) -> list[bool]:
    """Write the archives that are not there yet -> which ones these were."""
    return [
        not _holds(out / _name(number), files) and _write(root, out / _name(number), files) for number, files in chunk
    ]


def _holds(archive: Path, files: Sequence[File]) -> bool:
    try:
        members, others = scan(str(archive))
    except (OSError, ValueError):
        return False
    told = [(member.name, member.size, member.time) for member in members]
    return not others and told == [(file.name, file.size, _seconds(file)) for file in files]


def _write(root: Path, archive: Path, files: Sequence[File]) -> bool:
    unfinished = f'{archive}.{socket.gethostname()}.{os.getpid()}.part'
    try:
        with open(unfinished, 'wb') as out:
            sums = _write_members(root, out, files)
            out.flush()
            os.fsync(out.fileno())
        _compare(unfinished, files, sums)
        # Its time follows from the files, so that archives of several machines are the same, and so are their indices.
        newest = max(file.time for file in files)
        os.utime(unfinished, ns=(newest, newest))
        os.replace(unfinished, archive)
    except OSError as error:
        raise ValueError(f'{archive} cannot be written: {error.strerror or error}') from error
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return True


def _write_members(root: Path, out: BinaryIO, files: Sequence[File]) -> list[int]:
    """-> the checksum of each file."""
    sums = []
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT, encoding='utf-8') as archive:
        for file in files:
            info = tarfile.TarInfo(file.name)
            info.size, info.mtime = file.size, _seconds(file)
            with storage.LocalFile(str(root / file.name)) as opened:
                summed = _Summed(opened)
                try:
                    archive.addfile(info, summed)  # type: ignore[arg-type]  # it reads, and nothing else
                except OSError as error:
                    if opened.error is not None and not isinstance(opened.error, OSError):
                        raise opened.error from None
                    if opened.error is None and error.errno is not None:
                        raise  # of the archive
                    raise ValueError(f'{root / file.name} cannot be packed: {error}') from None
            found = _stat(root / file.name)
            if (found.st_size, found.st_mtime_ns) != file[1:]:
                raise ValueError(f'{root / file.name} changes while it is packed. Run it again when it does not.')
            sums.append(summed.sum)
    return sums


def _compare(archive: str, files: Sequence[File], sums: Sequence[int]) -> None:
    """Read all members back, from the disk where that can be asked for."""
    members, _ = scan(archive)
    with open(archive, 'rb') as opened:
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for member, file, expected in zip(members, files, sums, strict=True):
            opened.seek(member.begin)
            left, found = member.size, 0
            while left and (data := opened.read(min(left, 2**20))):
                left, found = left - len(data), zlib.crc32(data, found)
            if (member.name, member.size, found) != (file.name, file.size, expected):
                raise ValueError(f'{archive}: {file.name!r} does not read back as it was written. Check the disk.')


class _Summed:
    """A file that is read once, and its checksum."""

    def __init__(self, file: storage.LocalFile):
        self.file, self.sum = file, 0

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        data = self.file.read(size)
        self.sum = zlib.crc32(data, self.sum)
        return data


def _seconds(file: File) -> int:
    return file.time // 10**9
