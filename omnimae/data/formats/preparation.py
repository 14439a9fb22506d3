"""From a benchmark's annotation and files to the lists that training reads.

`prepare` checks the files, makes smaller copies of videos if asked, and writes below the root

- ``PREFIX_{train,val}_list_{images,videos}.txt``, lines as `annotations.read_list` reads them; of EPIC-Kitchens' test
  set, too, without labels;
- ``classes.txt``, a class name a line in the order of the labels, and for EPIC-Kitchens ``actions.csv``;
- ``left_out.csv``: what could not be used, and why;
- ``checked_files.jsonl``: what was found about each file, so that no good file is checked twice.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.utils import ProgressBar

from omnimae.data import storage
from omnimae.data.aligned import Modality, check_aligned_as, files_by_stem, read_aligned
from omnimae.data.annotations import read_lines
from omnimae.data.formats import BENCHMARKS
from omnimae.data.formats.annotation_files import Item
from omnimae.data.formats.parts import Part, merge_results, parts_of, remove_results, write_results
from omnimae.data.formats.reencode import reencode
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS
from omnimae.data.media.images import read_image


class Prepared(NamedTuple):
    """What `prepare` made.

    Attributes:
        kept: split -> number of samples in its list.
        left_out: split -> number of samples that could not be used.
        num_classes: how many classes the labels tell apart.
        report: the file that names what was left out, and why.
    """

    kept: dict[str, int]
    left_out: dict[str, int]
    num_classes: int
    report: Path


def prepare(
    name: str,
    root: str | Path,
    *,
    fold: int = 1,
    short_side: int | None = None,
    part: Part | None = None,
    merge: int | None = None,
    workers: int = 1,
) -> Prepared | int:
    """Read the annotation of a benchmark below ``root``, check its files and write its lists.

    Several machines that share ``root`` can do a ``part`` each. Then one of them merges what they found and writes the
    lists, which are those of a single machine.

    Args:
        name: a key of `BENCHMARKS`.
        root: folder of the benchmark.
        fold: which of several ways to split training and testing, counted from 1 as the authors do.
        short_side: write copies of the videos with a short side of at most so many pixels to ``videos_SIZE`` and list
            those; None lists the originals.
        part: check and copy these files only, and write no list.
        merge: take what so many parts found.
        workers: processes.

    Returns:
        What was made; of a part, how many files it has looked at.
    """
    benchmark, root = BENCHMARKS[name], Path(root)
    if not root.is_dir():
        raise ValueError(f'root={str(root)!r} is not a folder. {storage.REMEDY}')
    if short_side is not None and (short_side < 16 or benchmark.modality == 'image'):
        raise ValueError(f'short_side={short_side} is for videos, of 16 pixels at least. Leave it out for {name}.')
    if not 1 <= fold <= benchmark.num_folds:
        raise ValueError(f'fold={fold}, and {name} has {benchmark.num_folds}. Count from 1.')
    annotation = benchmark.read(root) if benchmark.num_folds == 1 else benchmark.read(root, fold)
    paths = sorted({item.path for items in annotation.splits.values() for item in items})
    about = [name, fold, short_side, paths]
    if merge is not None:
        found = merge_results(root, merge, about, paths)
        checks = {path: Check(*values) for path, values in found.items()}
        _merge_logs(root, merge, paths)
    else:
        mine = paths if part is None else part.take(paths)
        checks = _check_and_copy(root, mine, benchmark.modality, short_side, part, workers)
    if part is not None:
        write_results(root, part, about, checks)
        return len(checks)
    listed = {path: path for path in paths}
    if short_side is not None:
        listed |= {path: _copy_path(path, short_side) for path in paths if not checks[path].reason}
    left_out = {
        split: [(item, reason) for item in items if (reason := _why_not(item, checks[item.path]))]
        for split, items in annotation.splits.items()
    }
    report = root / 'left_out.csv'
    _write_csv(
        report,
        ('split', 'path', 'id', 'reason'),
        ((split, item.path, item.id, reason) for split, pairs in left_out.items() for item, reason in pairs),
    )
    kept = {}
    for split, items in annotation.splits.items():
        dropped = {item for item, _ in left_out[split]}
        rest = [item for item in items if item not in dropped]
        if not rest:
            item, why = left_out[split][0]
            raise ValueError(
                f'{split}: none of the {len(items)} samples can be used, the first for {str(root / item.path)!r}: '
                f'{why}. See {report}, and compare with the layout (--help).'
            )
        _write_lines(
            root / benchmark.list_name(split), (_line(item, listed[item.path], benchmark.list_root) for item in rest)
        )
        kept[split] = len(rest)
    _write_lines(root / 'classes.txt', annotation.classes)
    if annotation.actions:
        _write_csv(root / 'actions.csv', ('action', 'verb', 'noun'), annotation.actions)
    if merge is not None:
        remove_results(root, merge)
    return Prepared(kept, {split: len(pairs) for split, pairs in left_out.items()}, len(annotation.classes), report)


def _check_and_copy(
    root: Path, paths: Sequence[str], modality: str, short_side: int | None, part: Part | None, workers: int
) -> dict[str, Check]:
    """What is known about each file after it was checked and, where asked for, copied."""
    # a copy that can be made has been read to its end
    checks = check_files(root, paths, modality, in_full=short_side is None, part=part, workers=workers)
    if short_side is not None:
        copies = {path: _copy_path(path, short_side) for path in paths if not checks[path].reason}
        for path, failure in reencode_files(root, copies, short_side, workers=workers).items():
            checks[path] = checks[path]._replace(reason=failure)
    return checks


def _line(item: Item, path: str, list_root: str) -> str:
    """A line of a list; a copy goes by the name of its original."""
    original, path = os.path.relpath(item.path, list_root), os.path.relpath(path, list_root)
    span = '' if item.span is None else f' {item.span[0]:.3f} {item.span[1]:.3f}'
    name = item.id or (None if path == original else original)
    label = '' if item.label is None else f' {item.label}'
    return f'{path}{span}{label}' + ('' if name is None else f' id={name}')


def _copy_path(path: str, short_side: int) -> str:
    stem = os.path.splitext(path.removeprefix('videos/'))[0]
    return f'videos_{short_side}/{stem}.mp4'


def _why_not(item: Item, check: Check) -> str | None:
    if check.reason is None and item.span is not None and item.span[0] >= check.duration:
        return f'the span from {item.span[0]:.3f} s on lies outside, it lasts {check.duration:.3f} s'
    return check.reason


class PreparedAligned(NamedTuple):
    """What `prepare_aligned` found.

    Attributes:
        kept: number of samples that are whole.
        lacking: modality -> number of samples without a file of it.
        broken: number of complete samples with a file that cannot be used.
        list: the file that lists what was kept.
        report: the file that names the rest, and why.
    """

    kept: int
    lacking: dict[str, int]
    broken: int
    list: Path
    report: Path


def prepare_aligned(
    root: str | Path,
    modalities: Mapping[str, Mapping[str, Any]],
    *,
    aligned_as: str = 'stored',
    part: Part | None = None,
    merge: int | None = None,
    workers: int = 1,
) -> PreparedAligned | int:
    """Check that every picture below ``root`` has all its modalities, as an `AlignedDataset` reads them.

    Writes ``aligned_list.txt``, an ann_file of an `AlignedDataset`, and ``left_out.csv``.

    Args:
        root: folder of the modalities' folders.
        modalities: as of `AlignedDataset`.
        aligned_as: as of `AlignedDataset`.
        part: as of `prepare`.
        merge: as of `prepare`.
        workers: processes.
    """
    root = Path(root)
    check_aligned_as(aligned_as)
    known = {name: Modality.of(name, cfg) for name, cfg in modalities.items()}
    folders = {name: modality.folder for name, modality in known.items()}
    folders |= {f'{name}.valid': modality.valid for name, modality in known.items() if modality.valid is not None}
    found = {name: files_by_stem(str(root / folder), IMAGE_EXTENSIONS) for name, folder in folders.items()}
    stems = sorted(set().union(*found.values()))
    lacks = {stem: [name for name in folders if stem not in found[name]] for stem in stems}
    complete = [{folder: found[name][stem] for name, folder in folders.items()} for stem in stems if not lacks[stem]]
    first = next(iter(folders.values()))
    names = [files[first] for files in complete]
    about = [{name: [*modality] for name, modality in known.items()}, aligned_as, complete]
    checked: dict[str, str | None] = {}
    if merge is not None:
        checked = merge_results(root, merge, about, names)
    else:
        work = partial(_check_aligned, str(root), known, aligned_as)
        mine = complete if part is None else part.take(complete)
        for chunk, results in in_parallel(work, mine, 64, workers, 'Checking samples'):
            checked |= {files[first]: fault for files, fault in zip(chunk, results, strict=True)}
    if part is not None:
        write_results(root, part, about, checked)
        return len(checked)
    faults = {name: fault for name, fault in checked.items() if fault}
    report, kept = root / 'left_out.csv', [files[first] for files in complete if files[first] not in faults]
    lines = [(stem, f'no file of {", ".join(lacking)}') for stem, lacking in lacks.items() if lacking]
    _write_csv(report, ('sample', 'reason'), sorted([*lines, *faults.items()]))
    if not kept:
        raise ValueError(f'{root}: none of {len(stems)} samples is whole. See {report}.')
    listed = root / 'aligned_list.txt'
    _write_lines(listed, kept)
    if merge is not None:
        remove_results(root, merge)
    counts = {name: sum(name in lacking for lacking in lacks.values()) for name in folders}
    return PreparedAligned(len(kept), counts, len(faults), listed, report)


def _check_aligned(
    root: str, modalities: Mapping[str, Modality], aligned_as: str, samples: Sequence[Mapping[str, str]]
) -> list[str | None]:
    return [_fault_of(root, modalities, aligned_as, files) for files in samples]


def _fault_of(root: str, modalities: Mapping[str, Modality], aligned_as: str, files: Mapping[str, str]) -> str | None:
    """Why a sample, folder -> file, cannot be used."""
    try:
        maps = read_aligned(modalities, lambda folder: os.path.join(root, folder, files[folder]), aligned_as)
    except BrokenFileError as error:
        folder = os.path.relpath(error.path, root)
        name = next(name for name, m in modalities.items() if folder.startswith((f'{m.folder}/', f'{m.valid}/')))
        return f'{name}: {error.reason}'
    sizes = {name: 'x'.join(map(str, pixels.shape[1:3])) for name, pixels in maps.items()}
    return None if len(set(sizes.values())) == 1 else f'sizes differ: {sizes}'


# ---- Checks ----


class Check(NamedTuple):
    """What is known about a file.

    Attributes:
        duration: of a video, in seconds.
        reason: why it cannot be used, or None.
    """

    duration: float = 0.0
    reason: str | None = None


def check_files(
    root: Path,
    paths: Sequence[str],
    modality: str,
    *,
    in_full: bool = True,
    part: Part | None = None,
    workers: int = 1,
) -> dict[str, Check]:
    """Whether each file is there and can be read: every frame, or of videos without ``in_full`` the ends and the first.

    What training would refuse may lie in any frame. To decode all costs about what an epoch of training costs.

    A storage that is away ends it (StorageAwayError); run it again later.

    Results are appended to ``checked_files.jsonl`` as they come, those of a part to a file of its own. A good file of
    the same size and time as then is not checked again; one that could not be read is, for it may have been the
    network or a time limit.
    """
    log = root / 'checked_files.jsonl'
    storage.remember_root(str(root))
    known = _read_log(log)
    if part is not None:
        log = part.file(root, 'checked_files')
        known |= _read_log(log)
    stats = _stat_files(root, paths, workers)
    checks = {path: Check(reason='the file is missing') for path in paths if stats[path] is None}
    there = [path for path in paths if stats[path] is not None]
    for path in there:
        stat, check, was_in_full = known.get(path, (None, Check(), False))
        if stat == stats[path] and check.reason is None and (was_in_full or not in_full or modality == 'image'):
            checks[path] = check
    todo = [path for path in there if path not in checks]
    work = partial(_check_chunk, str(root), modality, in_full)
    with open(log, 'a', encoding='utf-8') as file:
        for chunk, results in in_parallel(work, todo, 64 if modality == 'image' else 8, workers, 'Checking files'):
            checks |= dict(zip(chunk, results, strict=True))
            rows = ((path, stats[path], *result, in_full) for path, result in zip(chunk, results, strict=True))
            file.write(''.join(f'{json.dumps(row)}\n' for row in rows))
            file.flush()
    return checks


def reencode_files(root: Path, copies: dict[str, str], short_side: int, *, workers: int = 1) -> dict[str, str]:
    """Make the copies (original -> copy) that are not there yet or are older -> the reasons why some cannot be made."""
    stats = _stat_files(root, [*copies, *copies.values()], workers)
    todo = [pair for pair in copies.items() if _is_older(stats[pair[1]], stats[pair[0]])]
    for folder in {(root / copy).parent for _, copy in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    work = partial(_reencode_chunk, str(root), short_side)
    for chunk, results in in_parallel(work, todo, 1, workers, f'Re-encoding to {short_side}'):
        reasons |= {path: reason for (path, _), reason in zip(chunk, results, strict=True) if reason}
    return reasons


def _is_older(copy: list[int] | None, original: list[int] | None) -> bool:
    return copy is None or (original is not None and copy[1] < original[1])


def _check_chunk(root: str, modality: str, in_full: bool, paths: Sequence[str]) -> list[Check]:
    return [_check(os.path.join(root, path), modality, in_full) for path in paths]


def _check(path: str, modality: str, in_full: bool) -> Check:
    try:
        if modality == 'image':
            read_image(path)
            return Check()
        with open_video(path) as video:
            if in_full:
                video.check()
            else:
                video.read(0.0, min(video.duration, 1.0), 1)
            return Check(video.duration)
    except BrokenFileError as error:
        return Check(reason=error.reason)


def _reencode_chunk(root: str, short_side: int, pairs: Sequence[tuple[str, str]]) -> list[str | None]:
    reasons: list[str | None] = []
    for path, copy in pairs:
        try:
            reencode(os.path.join(root, path), os.path.join(root, copy), short_side)
            reasons.append(None)
        except BrokenFileError as error:
            reasons.append(error.reason)
    return reasons


def _merge_logs(root: Path, count: int, paths: Sequence[str]) -> None:
    """Append what all parts noted to the log, in the order of one machine."""
    files = [file for part in parts_of(count) if (file := part.file(root, 'checked_files')).exists()]
    lines = {json.loads(line)[0]: line for file in files for line in read_lines(file) if line.endswith(']')}
    with open(root / 'checked_files.jsonl', 'a', encoding='utf-8') as log:
        log.write(''.join(f'{lines[path]}\n' for path in paths if path in lines))
    for file in files:
        file.unlink()


def _read_log(log: Path) -> dict[str, tuple[list[int], Check, bool]]:
    known = {}
    for line in read_lines(log) if log.exists() else ():
        try:
            path, stat, duration, reason, *in_full = json.loads(line)  # older logs have no last one
        except ValueError:  # the last line of a run that was killed
            continue
        known[path] = stat, Check(duration, reason), bool(in_full and in_full[0])
    return known


def _stat_files(root: Path, paths: Sequence[str], workers: int) -> dict[str, list[int] | None]:
    """Path -> [bytes, time of last change in ns], or None if there is no such file."""

    def stat(chunk: Sequence[str]) -> list[tuple[str, list[int] | None]]:
        return [(path, _stat(os.path.join(root, path))) for path in chunk]

    with ThreadPoolExecutor(workers) as pool:  # what takes time is a network, not this process
        return dict(pair for pairs in pool.map(stat, _chunks(paths, 1024)) for pair in pairs)


def _stat(path: str) -> list[int] | None:
    try:
        found = storage.insist(lambda: os.stat(path), path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def in_parallel(
    function: Callable[[Sequence], list], todo: Sequence, chunk_size: int, workers: int, what: str
) -> Iterator[tuple[Sequence, list]]:
    """Chunks of ``todo`` and what the function makes of each, in order, with a progress bar."""
    if not todo:
        return
    print(f'{what}: {len(todo)}', flush=True)
    bar = ProgressBar(len(todo))
    chunks = list(_chunks(todo, chunk_size))
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    try:
        for chunk, results in zip(chunks, (pool.map if pool else map)(function, chunks), strict=True):
            yield chunk, results
            bar.update(len(chunk))
    except BrokenProcessPool:
        raise ValueError(
            f'{what}: a process died, of too little memory or in a decoder. What is done is kept; run it again, with '
            'fewer --workers.'
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        print()


def _chunks(values: Sequence, size: int) -> Iterator[Sequence]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


# ---- Files that are written ----


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    part = file.with_name(f'{file.name}.part')
    with open(part, 'w', encoding='utf-8', errors='surrogateescape') as out:
        out.writelines(f'{line}\n' for line in lines)
    part.replace(file)


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    part = file.with_name(f'{file.name}.part')
    with open(part, 'w', newline='', encoding='utf-8', errors='surrogateescape') as out:
        writer = csv.writer(out, lineterminator='\n')
        writer.writerow(header)
        writer.writerows(rows)
    part.replace(file)
