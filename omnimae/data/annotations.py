"""Which files a source has: rows from folders or lists, their labels, and spans in long videos."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from omnimae.data import storage
from omnimae.data.media.extensions import heif_hint

BLANK = ' \t\r'  # around what a line holds; names may hold all other white space
GAP = '[ \t]+'  # between path and label, in regular expressions
WHOLE_FILE = (0.0, math.inf)  # the span of a row without one, in a list where others have one


class StringTable:
    """An unchanging list of strings in two flat buffers.

    Worker processes share them; of a Python list of millions of strings each worker makes its own copy in time, because
    counting references writes to every string.
    """

    def __init__(self, strings: Iterable[str]):
        encoded = [os.fsencode(string) for string in strings]
        self._bytes = b''.join(encoded)
        self._ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]])

    def digest(self) -> str:
        """The same for the same strings in the same order."""
        return digest(self._bytes, np.asarray(self._ends, '<i8').tobytes())


def digest(*parts: bytes) -> str:
    """Of bytes: 50 ms for a million paths."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


class Rows(NamedTuple):
    """The files of a source.

    Attributes:
        paths: relative to the source's root.
        labels: a class index each, or None.
        classes: names of the classes where known.
        spans: (start, stop) in seconds each, or None for whole files.
        ids: a name each, no two the same; None where the paths serve.
    """

    paths: list[str]
    labels: list[int] | None
    classes: tuple[str, ...] | None
    spans: list[tuple[float, float]] | None = None
    ids: list[str] | None = None


def scan_folder(
    root: str, extensions: Sequence[str], *, classes: Sequence[str] | None = None, backend_args: dict | None = None
) -> Rows:
    """All files below ``root``, sorted; its sub-folders are the classes, unless a file lies in ``root`` itself.

    Raises:
        ValueError: as of `scan_files`, folders that are not the given ``classes``, or, if none are given, a sub-folder
            without a file: its class would be missing, and others would take its number.
    """
    paths, others = _scan(root, extensions, backend_args)
    outside = next((path for path in paths if '/' not in path), None)
    if outside is not None and classes is not None:
        raise ValueError(f'root={root!r} has a file outside the class folders, {outside!r}. Move it, or drop classes.')
    if outside is not None:
        return Rows(paths, None, None)
    folders = [path.partition('/')[0] for path in paths]
    if classes is None:
        _check_none_is_empty(root, {*folders, *_folders_in(root, others, backend_args)} - {*folders}, others)
    classes = tuple(sorted(set(folders)) if classes is None else classes)
    index = {name: label for label, name in enumerate(classes)}
    if unknown := sorted(set(folders) - set(classes)):
        raise ValueError(f'root={root!r} has folders that are not in classes, {unknown[:3]}. Add them to classes.')
    return Rows(paths, [index[folder] for folder in folders], classes)


def scan_files(root: str, extensions: Sequence[str], backend_args: dict | None = None) -> list[str]:
    """Paths of all files below ``root`` with these endings in upper or lower case, relative to it, sorted.

    Names that begin with a dot are left out; what else is passed over is counted in the log.

    Raises:
        ValueError: no such folder, no file in it, or a link to a folder that it is in.
    """
    return _scan(root, extensions, backend_args)[0]


def _scan(root: str, extensions: Sequence[str], backend_args: dict | None) -> tuple[list[str], list[str]]:
    """-> the files with these endings, and the others."""
    suffixes = tuple(ending.lower() for ending in extensions)
    paths: list[str] = []
    others: list[str] = []
    for path in storage.list_files(root, backend_args):
        (paths if path.lower().endswith(suffixes) else others).append(path)
    if not paths:
        raise ValueError(
            f'root={root!r} holds no file that ends in {", ".join(extensions)}; it holds {_count_endings(others)}. '
            'Correct root or extensions.'
        )
    if others:
        print_log(f'{root}: passed over {len(others)} files: {_count_endings(others)}', 'current', logging.WARNING)
    return sorted(paths), others


def _count_endings(paths: Sequence[str]) -> str:
    counts = Counter(os.path.splitext(path)[1].lower() or 'no ending' for path in paths)
    endings = sorted(counts, key=lambda ending: (-counts[ending], ending))
    told = ', '.join(f'{ending} {counts[ending]}' for ending in endings[:10]) or 'nothing'
    told += ', ...' if len(endings) > 10 else ''
    told += max(heif_hint(f'x{ending}') for ending in counts) if counts else ''
    return told.encode(errors='backslashreplace').decode()  # a name need not be text


def _folders_in(root: str, files: Sequence[str], backend_args: dict | None) -> set[str]:
    """Sub-folders of ``root``; on storage without folders those of ``files``."""
    if storage.is_local(root, backend_args):
        with os.scandir(root) as entries:
            return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')}
    return {path.partition('/')[0] for path in files if '/' in path}


def _check_none_is_empty(root: str, empty: set[str], others: Sequence[str]) -> None:
    if empty:
        name = min(empty)
        held = _count_endings([path for path in others if path.startswith(f'{name}/')])
        raise ValueError(
            f'root={root!r}: the class folder {name!r}, the first of {len(empty)}, has no file of the wanted endings; '
            f'it holds {held}. Remove it, add the ending to extensions, or give classes or an ann_file.'
        )


def read_lines(file: str | os.PathLike, backend_args: dict | None = None) -> list[str]:
    """The lines of a text file in UTF-8, without the line feeds that end them.

    Names of files may hold whatever else ends a line for `str.splitlines`, and bytes that are no UTF-8: these stay what
    `os.fsdecode` makes of them.
    """
    return storage.read(file, backend_args).decode('utf-8-sig', 'surrogateescape').split('\n')


def read_classes(file: str, *, backend_args: dict | None = None) -> tuple[str, ...]:
    """The class names in a text file, one a line.

    Raises:
        ValueError: no such file, no name in it, or a name that stands there twice.
    """
    try:
        lines = read_lines(file, backend_args)
    except FileNotFoundError:
        raise ValueError(
            f'classes={file!r} does not exist. Correct it, or write one class name a line there; for a benchmark '
            'tools/prepare_dataset.py does.'
        ) from None
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip(BLANK)
        if name in numbers:
            raise ValueError(f'{file}, line {number}: the class {name!r} stands in line {numbers[name]} too. Drop one.')
        if name:
            numbers[name] = number
    if not numbers:
        raise ValueError(f'classes={file!r} has no lines. Write one class name a line.')
    return tuple(numbers)


class Row(NamedTuple):
    """One line of a list."""

    path: str
    label: int | None
    span: tuple[float, float] | None
    id: str | None


def read_list(
    ann_file: str,
    extensions: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    select: str | None = None,
    allow_outside: bool = False,
    backend_args: dict | None = None,
) -> Rows:
    """The rows of a text file with one ``path`` or ``path label`` a line.

    ``path start stop label`` is a span inside a long video, in seconds; ``path 0 -1``, as VideoMAE V2 writes it, is a
    whole one. ``id=NAME`` at the end of a line names the sample in results; by default that is its path, and for a span
    ``path start-stop``. With ``select`` only lines count that contain it.

    The path ends at the last known extension, so that paths and class names may hold spaces. A label is a class name
    when it is one of ``classes``, else a class index. A list may come from anywhere, so paths may leave the folder that
    they are relative to only with ``allow_outside``.

    Raises:
        ValueError: no such file, no line in it, or a wrong line.
    """
    pattern = re.compile(rf'(.*(?:{"|".join(map(re.escape, extensions))}))(?:{GAP}(.+))?', re.IGNORECASE)
    index = {name: label for label, name in enumerate(classes or ())}
    paths: list[str] = []
    labels: list[int | None] = []
    spans: list[tuple[float, float] | None] = []
    has_ids = False
    numbers: dict[str, int] = {}  # id -> line
    for number, line in _lines(ann_file, select, backend_args):
        try:
            row = _parse_line(line, pattern, extensions, index)
            if not allow_outside and is_outside(row.path):
                raise ValueError('The path leaves root. Correct it, or set allow_outside=True if you trust the list.')
            if paths and (row.label is None) != (labels[0] is None):
                raise ValueError('Some lines have a label and some have none. Give all or none a label.')
            name = _id_of(row)
            if name in numbers:
                raise ValueError(f'Its id {name!r} is that of line {numbers[name]} too. Drop one, or add id=NAME.')
        except ValueError as error:
            raise ValueError(f'{ann_file}, line {number}, {line!r}: {error}') from None
        paths.append(row.path)
        labels.append(row.label)
        spans.append(row.span)
        numbers[name] = number
        has_ids |= name != row.path
    return Rows(
        paths=paths,
        labels=[label for label in labels if label is not None] or None,
        classes=None if classes is None else tuple(classes),
        spans=[span or WHOLE_FILE for span in spans] if any(spans) else None,
        ids=list(numbers) if has_ids else None,
    )


def read_frame_list(
    ann_file: str,
    columns: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    select: str | None = None,
    allow_outside: bool = False,
    backend_args: dict | None = None,
) -> Rows:
    """The rows of a text file with a folder of numbered pictures and some whole numbers a line, as VideoMAE V2's.

    The spans are (number of the first picture, how many); the first is 1 where the list does not say.

    Args:
        ann_file: the file.
        columns: what the numbers are, 'total' and, where there, 'start' and 'label', in their order.
        classes: names of the classes, where known.
        select: only lines count that contain it.
        allow_outside: whether folders may lie outside the one that they are relative to.
        backend_args: of ``mmengine.fileio``.

    Raises:
        ValueError: no such file, no line in it, a wrong line, or wrong ``columns``.
    """
    if len({*columns}) != len(columns) or not {'total'} <= {*columns} <= {'start', 'total', 'label'}:
        raise ValueError(f"columns={list(columns)} are not 'total' and some of 'start' and 'label', once each.")
    paths, spans, labels = [], [], []
    places: dict[str, int] = {}  # id -> line
    for place, line in _lines(ann_file, select, backend_args):
        words = re.fullmatch('(.+?)' + rf'{GAP}(\S+)' * len(columns), line)
        try:
            path, *values = words.groups() if words else ('',)
            numbers = dict(zip(columns, map(int, values), strict=True))
        except ValueError:
            raise ValueError(
                f'{ann_file}, line {place}, {line!r}: it is not "FOLDER {" ".join(columns)}" with whole numbers. '
                'Correct the line, or columns.'
            ) from None
        start, total = numbers.get('start', 1), numbers['total']
        if start < 0 or total < 1:
            raise ValueError(f'{ann_file}, line {place}, {line!r}: {total} pictures from number {start} on are none.')
        if not allow_outside and is_outside(path):
            raise ValueError(
                f'{ann_file}, line {place}, {line!r}: The path leaves root. Correct it, or set allow_outside=True if '
                'you trust the list.'
            )
        name = f'{path} {start}-{start + total}' if 'start' in columns else path
        if name in places:
            raise ValueError(f'{ann_file}, line {place}, {line!r}: it stands in line {places[name]} too. Drop one.')
        places[name] = place
        paths.append(path)
        spans.append((float(start), float(total)))
        labels.append(numbers.get('label', 0))
    known = None if classes is None else tuple(classes)
    return Rows(paths, labels if 'label' in columns else None, known, spans, list(places))


def _lines(ann_file: str, select: str | None, backend_args: dict | None) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty and contains ``select``."""
    try:
        lines = read_lines(ann_file, backend_args)
    except FileNotFoundError:
        raise ValueError(f'ann_file={ann_file!r} does not exist. Correct it, or leave it out to scan root.') from None
    found = False
    for number, line in enumerate(lines, start=1):
        if line.strip(BLANK) and (select is None or select in line):
            found = True
            yield number, line.strip(BLANK)
    if not found:
        with_it = '' if select is None else f' with select={select!r}'
        raise ValueError(f'ann_file={ann_file!r} has no lines{with_it}. Write one "path" or "path label" a line.')


def is_outside(path: str) -> bool:
    """Whether a path is none below the folder that it is relative to."""
    return path.startswith('/') or '://' in path or ('..' in path and f'{os.path.normpath(path)}/'.startswith('../'))


def _parse_line(line: str, pattern: re.Pattern, extensions: Sequence[str], index: Mapping[str, int]) -> Row:
    match, name = pattern.fullmatch(line), None
    if named := re.fullmatch(rf'(.*?[^ \t]){GAP}id=(.+)', line):
        if without_id := pattern.fullmatch(named[1]):
            match, name = without_id, named[2]
    if match is None:
        hint = heif_hint(line.split(' ')[0])
        raise ValueError(
            f'The path does not end in one of {", ".join(extensions)}{hint}. Correct the line or extensions.'
        )
    path, rest = match.groups()
    if rest is None or rest in index:
        return Row(path, index.get(rest), None, name)
    span, label = _parse_span(rest)
    if label is None or label in index:
        return Row(path, None if label is None else index[label], span, name)
    try:
        return Row(path, int(label), span, name)
    except ValueError:
        remedy = 'Correct it' if index else 'Give classes=[...] to use names'
        raise ValueError(f'The label {label!r} is neither a class index nor one of classes. {remedy}.') from None


def _parse_span(text: str) -> tuple[tuple[float, float] | None, str | None]:
    """'start stop label' or 'label' -> (start, stop) or None, and the label."""
    try:
        first, second, *label = re.split(GAP, text, maxsplit=2)
        start, stop = float(first), float(second)
    except ValueError:
        return None, text
    if (start, stop) == (0, -1) and not label:
        return None, None
    if not 0 <= start < stop < math.inf:
        raise ValueError(
            f'The span from {first} to {second} s is none. Write "path start stop label" with 0 <= start < stop.'
        )
    return (start, stop), label[0] if label else None


def _id_of(row: Row) -> str:
    if row.id is not None or row.span is None:
        return row.id or row.path
    return f'{row.path} {row.span[0]:g}-{row.span[1]:g}'
