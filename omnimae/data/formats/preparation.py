"""From a benchmark's annotation and files to the lists that training reads.

`prepare` checks the files and makes smaller copies of videos if asked. It writes below the root:

- ``PREFIX_{train,val}_list_{images,videos}.txt``: lines for `annotations.read_list`. EPIC-Kitchens' test set has a list
  too, without labels.
- ``classes.txt``: a class name a line, in the order of the labels. EPIC-Kitchens also has ``actions.csv``.
- ``left_out.csv``: samples that cannot be used, with the reasons.
- ``checked_files.jsonl``: the result for each file, so that no good file is checked twice.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmengine.utils import ProgressBar

from omnimae.data import storage
from omnimae.data.aligned import Modality, check_aligned_as, files_by_stem, read_aligned
from omnimae.data.annotations import read_lines
from omnimae.data.formats import BENCHMARKS
from omnimae.data.formats.annotation_files import Item
from omnimae.data.formats.parts import Part, parts_of, remove_results, work_in_parts
from omnimae.data.formats.reencode import COPIES, reencode
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS
from omnimae.data.media.images import read_image
from omnimae.data.tables import replacing

T = TypeVar('T')
Result = TypeVar('Result')


class Prepared(NamedTuple):
    """What `prepare` made."""

    kept: dict[str, int]  # split -> number of samples in its list
    left_out: dict[str, int]  # split -> number of samples that cannot be used
    num_classes: int  # of the annotation
    report: Path  # the file of samples that are left out, with reasons


def prepare(
    name: str,
    root: str | Path,
    *,
    fold: int = 1,
    short_side: int | None = None,
    codec: str = 'h264',
    part: Part | None = None,
    merge: int | None = None,
    workers: int = 1,
) -> Prepared | int:
    """Read the annotation of a benchmark below ``root``, check its files and write its lists.

    Several machines that share ``root`` can do a ``part`` each. Then one of them merges the results and writes the
    lists. They are the same as those of a single machine.

    Args:
        name: a key of `BENCHMARKS`.
        root: folder of the benchmark.
        fold: which of the authors' splits into training and testing, from 1.
        short_side: list copies of the videos in ``videos_SIZE`` with a short side of at most so many pixels. None lists
            the originals.
        codec: of the copies, a key of `reencode.COPIES`. 'mjpeg' copies are in ``videos_SIZE_mjpeg``.
        part: only check and copy these files. No list is written.
        merge: merge the results of so many parts.
        workers: processes.

    Returns:
        What was made. For a part, the number of its files.
    """
    benchmark, root = BENCHMARKS[name], Path(root)
    if not root.is_dir():
        raise ValueError(f'root={str(root)!r} is not a folder. {storage.REMEDY}')
    if short_side is not None and (short_side < 16 or benchmark.modality == 'image'):
        raise ValueError(f'short_side={short_side} is for videos, of at least 16 pixels. Leave it out for {name}.')
    if codec not in COPIES or (short_side is None and codec != 'h264'):
        raise ValueError(f'codec={codec!r} is for copies, one of {list(COPIES)}. Give short_side, too.')
    if not 1 <= fold <= benchmark.num_folds:
        raise ValueError(f'fold={fold} is not one of the {benchmark.num_folds} of {name}. Count from 1.')
    annotation = benchmark.read(root) if benchmark.num_folds == 1 else benchmark.read(root, fold)
    paths = sorted({item.path for items in annotation.splits.values() for item in items})
    about = [name, fold, short_side, codec, paths]

    def check(mine: Sequence[str]) -> dict[str, Check]:
        # to make a copy, a video is decoded to its end
        checks = check_files(root, mine, benchmark.modality, in_full=short_side is None, part=part, workers=workers)
        if short_side is not None:
            copies = {path: _copy_path(path, short_side, codec) for path in mine if not checks[path].reason}
            for path, failure in reencode_files(root, copies, short_side, codec=codec, workers=workers).items():
                checks[path] = checks[path]._replace(reason=failure)
        return checks

    found = work_in_parts(root, dict(zip(paths, paths, strict=True)), about, check, part=part, merge=merge)
    if part is not None:
        return len(found)
    checks = {path: Check(*values) for path, values in found.items()}
    if merge is not None:
        _merge_logs(root, merge, paths)
    listed = {path: path for path in paths}
    if short_side is not None:
        listed |= {path: _copy_path(path, short_side, codec) for path in paths if not checks[path].reason}
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
                f'{split}: none of the {len(items)} samples can be used. The first, {str(root / item.path)!r}: '
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


def _line(item: Item, path: str, list_root: str) -> str:
    """A line of a list. The id of a copy is the path of its original."""
    original, path = os.path.relpath(item.path, list_root), os.path.relpath(path, list_root)
    span = '' if item.span is None else f' {item.span[0]:.3f} {item.span[1]:.3f}'
    name = item.id or (None if path == original else original)
    label = '' if item.label is None else f' {item.label}'
    return f'{path}{span}{label}' + ('' if name is None else f' id={name}')


def _copy_path(path: str, short_side: int, codec: str) -> str:
    """Each kind of copies has its own folder, so that none takes another for its own."""
    stem = os.path.splitext(path.removeprefix('videos/'))[0]
    folder = f'videos_{short_side}' + ('' if codec == 'h264' else f'_{codec}')
    return f'{folder}/{stem}{COPIES[codec].ending}'


def _why_not(item: Item, check: Check) -> str | None:
    if check.reason is None and item.span is not None and item.span[0] >= check.duration:
        return f'the span begins at {item.span[0]:.3f} s, but the video lasts {check.duration:.3f} s'
    return check.reason


class PreparedAligned(NamedTuple):
    """What `prepare_aligned` found."""

    kept: int  # samples that are whole
    lacking: dict[str, int]  # modality -> number of samples without a file of it
    broken: int  # complete samples with a file that cannot be used
    list: Path  # the file that lists the whole samples
    report: Path  # the file of the other samples, with reasons


def prepare_aligned(
    root: str | Path,
    modalities: Mapping[str, Mapping[str, Any]],
    *,
    aligned_as: str = 'stored',
    part: Part | None = None,
    merge: int | None = None,
    workers: int = 1,
) -> PreparedAligned | int:
    """Check that every picture below ``root`` has all modalities of an `AlignedDataset`.

    Writes ``aligned_list.txt``, an ann_file of an `AlignedDataset`, and ``left_out.csv``.

    Args:
        root: folder of the modalities' folders.
        modalities: of the `AlignedDataset`.
        aligned_as: of the `AlignedDataset`.
        part: as in `prepare`.
        merge: as in `prepare`.
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
    samples = {files[first]: files for files in complete}
    about = [{name: [*modality] for name, modality in known.items()}, aligned_as, complete]

    def check(mine: Sequence[dict[str, str]]) -> dict[str, str | None]:
        check_one = partial(_fault_of, str(root), known, aligned_as)
        return {files[first]: fault for files, fault in in_parallel(check_one, mine, 64, workers, 'Checking samples')}

    checked = work_in_parts(root, samples, about, check, part=part, merge=merge)
    if part is not None:
        return len(checked)
    faults = {name: fault for name, fault in checked.items() if fault}
    report, kept = root / 'left_out.csv', [name for name in samples if name not in faults]
    lines = [(stem, f'no file of {", ".join(lacking)}') for stem, lacking in lacks.items() if lacking]
    _write_csv(report, ('sample', 'reason'), sorted([*lines, *faults.items()]))
    if not kept:
        raise ValueError(f'{root}: none of the {len(stems)} samples is whole. See {report}.')
    listed = root / 'aligned_list.txt'
    _write_lines(listed, kept)
    if merge is not None:
        remove_results(root, merge)
    counts = {name: sum(name in lacking for lacking in lacks.values()) for name in folders}
    return PreparedAligned(len(kept), counts, len(faults), listed, report)


def _fault_of(root: str, modalities: Mapping[str, Modality], aligned_as: str, files: Mapping[str, str]) -> str | None:
    """Why a sample (folder -> file) cannot be used; None if it can."""
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
    """The result for a file."""

    duration: float = 0.0  # of a video, in seconds
    reason: str | None = None  # why it cannot be used


def check_files(
    root: Path,
    paths: Sequence[str],
    modality: str,
    *,
    in_full: bool = True,
    part: Part | None = None,
    workers: int = 1,
) -> dict[str, Check]:
    """Check that each file exists and can be read.

    Every frame is decoded, for training may read any of them. This costs about as much as an epoch of training.
    Without ``in_full`` only the ends of videos and their first frames are read.

    Results are appended to ``checked_files.jsonl`` as they come, those of a part to its own file. A good file of
    unchanged size and time is not checked again. A broken one is, because a network or a time limit may be the cause.

    Raises:
        StorageAwayError: the storage does not answer. Run it again later.
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
        stat, known_check, was_in_full = known.get(path, (None, Check(), False))
        if stat == stats[path] and known_check.reason is None and (was_in_full or not in_full or modality == 'image'):
            checks[path] = known_check
    todo = [path for path in there if path not in checks]
    check = partial(_check_below, str(root), modality, in_full)
    chunk_size = 64 if modality == 'image' else 8
    with open(log, 'a', buffering=1, encoding='utf-8') as file:
        for path, result in in_parallel(check, todo, chunk_size, workers, 'Checking files'):
            checks[path] = result
            file.write(f'{json.dumps((path, stats[path], *result, in_full))}\n')
    return checks


def reencode_files(
    root: Path, copies: dict[str, str], short_side: int, *, codec: str = 'h264', workers: int = 1
) -> dict[str, str]:
    """Make the copies (original -> copy) that are missing or too old. Return the reasons why some cannot be made."""
    stats = _stat_files(root, [*copies, *copies.values()], workers)
    todo = [pair for pair in copies.items() if _is_older(stats[pair[1]], stats[pair[0]])]
    for folder in {(root / copy).parent for _, copy in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    work = partial(_reencode_below, str(root), short_side, codec)
    made = in_parallel(work, todo, 1, workers, f'Re-encoding to {short_side}')
    return {path: reason for (path, _), reason in made if reason}


def _is_older(copy: list[int] | None, original: list[int] | None) -> bool:
    return copy is None or (original is not None and copy[1] < original[1])


def _check_below(root: str, modality: str, in_full: bool, path: str) -> Check:
    return _check(os.path.join(root, path), modality, in_full)


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


def _reencode_below(root: str, short_side: int, codec: str, pair: tuple[str, str]) -> str | None:
    try:
        reencode(os.path.join(root, pair[0]), os.path.join(root, pair[1]), short_side, codec)
    except BrokenFileError as error:
        return error.reason
    return None


def _merge_logs(root: Path, count: int, paths: Sequence[str]) -> None:
    """Append the logs of all parts to the log, in the order of one machine."""
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
    """Path -> [bytes, time of last change in ns]; None if the file does not exist."""
    with ThreadPool(workers) as pool:  # the network takes the time, not this process
        return dict(zip(paths, pool.map(lambda path: _stat(os.path.join(root, path)), paths, 1024), strict=True))


def _stat(path: str) -> list[int] | None:
    try:
        found = storage.insist(lambda: os.stat(path), path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def in_parallel(
    function: Callable[[T], Result], todo: Sequence[T], chunk_size: int, workers: int, what: str
) -> Iterator[tuple[T, Result]]:
    """Each value of ``todo`` with its result, in order, with a progress bar. Processes get chunks of values."""
    if not todo:
        return
    print(f'{what}: {len(todo)}', flush=True)
    bar = ProgressBar(len(todo))
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    try:
        results = pool.map(function, todo, chunksize=chunk_size) if pool else map(function, todo)
        for count, pair in enumerate(zip(todo, results, strict=True), start=1):
            yield pair
            if count % chunk_size == 0 or count == len(todo):
                bar.update(count - bar.completed)
    except BrokenProcessPool:
        raise ValueError(
            f'{what}: a process died, because of too little memory or in a decoder. Finished work is kept. Run it '
            'again with fewer --workers.'
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        print()


# ---- Files that are written ----


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    with replacing(file, encoding='utf-8', errors='surrogateescape') as out:
        out.writelines(f'{line}\n' for line in lines)


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with replacing(file, newline='', encoding='utf-8', errors='surrogateescape') as out:
        csv.writer(out, lineterminator='\n').writerows([header, *rows])
