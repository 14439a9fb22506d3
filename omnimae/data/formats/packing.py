"""From a folder of files to shards: tar archives that `storage.shards` reads like the folder.

A folder of a million files is slow to copy and to list, and slow to read from network storage. Its archives are a few
hundred files. They hold images, videos and maps under their paths below the root, in order. So samples, labels and the
order of rows are those of the folder. Lists in the root are copied.
"""

from __future__ import annotations

import os
import shutil
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
from omnimae.data.tables import replacing

ENDINGS = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS, '.npy')
BLOCK = 512  # of a tar archive, in bytes


class File(NamedTuple):
    """A file to pack."""

    name: str  # relative to the root
    size: int  # bytes
    time: int  # of its last change, in ns


class Packed(NamedTuple):
    """What `pack` made. Numbers of a part are those of its archives."""

    files: int  # in the archives
    archives: int
    written: int  # archives that did not exist before
    passed_over: int  # files below the root that are not data
    copied: list[str]  # lists that are now beside the archives


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

    An interrupted run continues: archives that hold the current files are kept.

    Args:
        root: folder of the data.
        out: folder of the archives, outside of the root.
        size: of an archive, in bytes. A larger file has its own archive.
        part: only make these archives. No index is written.
        merge: only write the index, after so many parts have made all archives.
        workers: processes.
    """
    root, out = Path(root), Path(out)
    if storage.backend_args_of(str(root)) is not None:
        raise ValueError(f'root={str(root)!r} already holds archives. Leave out --out to write their index.')
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f'out={str(out)!r} is in root={str(root)!r}. Give a folder outside of it.')
    plan, lists, passed_over = plan_of(root, size)
    numbered = [*enumerate(plan)]
    out.mkdir(parents=True, exist_ok=True)
    if others := sorted(name for name in os.listdir(out) if not (lies_beside(name) or name.lower().endswith('.tar'))):
        raise ValueError(
            f'out={str(out)!r} holds {others[0]!r}, so it would not be read as archives. Give an empty folder.'
        )
    if foreign := sorted(set(archives_of(str(out))) - {_name(number) for number, _ in numbered}):
        raise ValueError(
            f'{out / foreign[0]} is not one of the {len(plan)} archives of these files and this size. Remove it, or '
            'give another --out.'
        )
    mine, written = numbered if part is None else [*part.take(numbered)], 0
    if merge is not None:
        _check_parts(out, numbered, merge)
    else:
        written = sum(is_new for _, is_new in in_parallel(partial(_pack, root, out), mine, 1, workers, 'Packing'))
    if part is None:
        for left in out.glob('*.tar.*.part'):  # of a run that was killed
            left.unlink()
        for name in lists:
            shutil.copy2(root / name, out / f'{name}.part')
            os.replace(out / f'{name}.part', out / name)
        if index(str(out))['names'] != sorted(file.name for files in plan for file in files):
            raise ValueError(f'{out}: the archives hold other names than {root}. Report this.')
    return Packed(sum(len(files) for _, files in mine), len(mine), written, passed_over, lists if part is None else [])


def plan_of(root: Path, size: int) -> tuple[list[list[File]], list[str], int]:
    """The files of each archive, the lists beside the data, and the number of other files."""
    if size < 1:
        raise ValueError(f'size={size} is not positive. Give bytes, or 1GB.')
    names = sorted(storage.list_files(str(root)))
    data = [name for name in names if name.lower().endswith(ENDINGS)]
    lists = [name for name in names if '/' not in name and name.lower().endswith(LISTS)]
    if not data:
        raise ValueError(f'root={str(root)!r} holds no image, video or .npy file. Correct it.')
    plan: list[list[File]] = []
    left = 0  # bytes in the last archive
    for name in data:
        found = _stat(root / name)
        file = File(name, found.st_size, found.st_mtime_ns)
        needed = BLOCK + -(-file.size // BLOCK) * BLOCK
        if needed > left:
            plan.append([])
            left = size
        plan[-1].append(file)
        left -= needed
    return plan, lists, len(names) - len(data) - len(lists)


def _stat(path: Path) -> os.stat_result:
    try:
        return storage.insist(lambda: os.stat(path), str(path))
    except FileNotFoundError:
        raise ValueError(f'{path} is missing, or a broken link. Remove it, also from lists.') from None


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


def _pack(root: Path, out: Path, numbered: tuple[int, list[File]]) -> bool:
    """Write an archive that does not exist yet. Return whether it was written."""
    archive, files = out / _name(numbered[0]), numbered[1]
    if is_new := not _holds(archive, files):
        _write(root, archive, files)
    return is_new


def _holds(archive: Path, files: Sequence[File]) -> bool:
    try:
        members, others = scan(str(archive))
    except (OSError, ValueError):
        return False
    found = [(member.name, member.size, member.time) for member in members]
    return not others and found == [(file.name, file.size, _seconds(file)) for file in files]


def _write(root: Path, archive: Path, files: Sequence[File]) -> None:
    try:
        with replacing(archive, 'wb') as out:
            sums = _write_members(root, out, files)
            out.flush()
            os.fsync(out.fileno())
            _compare(out.name, files, sums)
            # Its time follows from the files, so archives of several machines are the same, and so are their indices.
            newest = max(file.time for file in files)
            os.utime(out.name, ns=(newest, newest))
    except OSError as error:
        raise ValueError(f'{archive} cannot be written: {error.strerror or error}') from error


def _write_members(root: Path, out: BinaryIO, files: Sequence[File]) -> list[int]:
    """Return the checksum of each file."""
    sums = []
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT, encoding='utf-8') as archive:
        for file in files:
            info = tarfile.TarInfo(file.name)
            info.size, info.mtime = file.size, _seconds(file)
            with storage.LocalFile(str(root / file.name)) as opened:
                summed = _Summed(opened)
                try:
                    archive.addfile(info, summed)  # type: ignore[arg-type]  # it can only be read
                except OSError as error:
                    if opened.error is not None and not isinstance(opened.error, OSError):
                        raise opened.error from None
                    if opened.error is None and error.errno is not None:
                        raise  # the archive's
                    raise ValueError(f'{root / file.name} cannot be packed: {error}') from None
            found = _stat(root / file.name)
            if (found.st_size, found.st_mtime_ns) != file[1:]:
                raise ValueError(f'{root / file.name} changes while it is packed. Run it again when it no longer does.')
            sums.append(summed.sum)
    return sums


def _compare(archive: str, files: Sequence[File], sums: Sequence[int]) -> None:
    """Read all members back, from the disk if the system allows it."""
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
                raise ValueError(f'{archive}: {file.name!r} reads back differently. Check the disk.')


class _Summed:
    """A file that is read once, with its checksum."""

    def __init__(self, file: storage.LocalFile):
        self.file, self.sum = file, 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self.file.read(size)
        self.sum = zlib.crc32(data, self.sum)
        return data


def _seconds(file: File) -> int:
    return file.time // 10**9
