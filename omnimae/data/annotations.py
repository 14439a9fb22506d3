"""The files of a source: rows from folders or lists, their labels, and spans in long videos."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from omnimae.data import storage
from omnimae.data.media.extensions import heif_hint
from omnimae.data.tables import Columns, StringTable, decode, digest, encode, stored
from omnimae.structures import as_utf8

BLANK = ' \t\r'  # stripped from lines; names may contain any other white space
GAP = '[ \t]+'  # between path and label, in regular expressions
PART = 2**20  # bytes of a list that are parsed at once
STORED_FROM = 2**22  # bytes; a shorter list is not stored: it is read in a fraction of a second
OUTSIDE = 'The path leaves root. Correct it, or set allow_outside=True if you trust the list.'
WHOLE_FILE = (0.0, math.inf)  # the span of a row without one, if others have one


class Rows(NamedTuple):
    """The files of a source.

    Attributes:
        paths: relative to the source's root.
        labels: a class index each, or None.
        classes: names of the classes if known.
        spans: (start, stop) in seconds each, or None for whole files.
        ids: a unique name each; None if the paths are the names.
        partners: folder -> path of each row's file there, for sources of several folders.
    """

    paths: Sequence[str]
    labels: Sequence[int] | NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    spans: NDArray[np.float64] | None = None
    ids: Sequence[str] | None = None
    partners: Mapping[str, Sequence[str]] = {}


def scan_folder(
    root: str, extensions: Sequence[str], *, classes: Sequence[str] | None = None, backend_args: dict | None = None
) -> Rows:
    """All files below ``root``, sorted. Its sub-folders are the classes, unless a file is in ``root`` itself.

    The .cls files of shards are labels too: class indices or names.
    """
    paths, others = _scan(root, extensions, backend_args)
    beside = storage.labels_beside(root, paths, backend_args)
    if beside is not None:
        return _with_labels_beside(root, paths, beside, classes)
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


def _with_labels_beside(
    root: str, paths: list[str], beside: Sequence[str | None], classes: Sequence[str] | None
) -> Rows:
    texts = [text for text in beside if text is not None]
    if len(texts) < len(beside):
        path = paths[beside.index(None)]
        raise ValueError(f'root={root!r}: {path!r} has no .cls file, and {len(texts)} others have one. Complete them.')
    known = None if classes is None else tuple(classes)
    if known is None and not all(re.fullmatch('[0-9]{1,18}', text) for text in set(texts)):
        known = tuple(sorted(set(texts)))
    index = {name: label for label, name in enumerate(known or ())}
    try:
        return Rows(paths, [index[text] if text in index else _int64(text) for text in texts], known)
    except ValueError:
        path, text = next(pair for pair in zip(paths, texts, strict=True) if pair[1] not in index)
        raise ValueError(f'root={root!r}: the label {text!r} of {path!r} is not in classes. Add it.') from None


def scan_files(root: str, extensions: Sequence[str], backend_args: dict | None = None) -> list[str]:
    """Sorted paths, relative to ``root``, of all files below it with these endings in upper or lower case.

    Names that begin with a dot are left out. The log counts the other files.
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
        raise storage.NoFilesError(
            f'root={root!r} holds no file that ends in {", ".join(extensions)}; it holds {count_endings(others)}. '
            'Correct root or extensions.'
        )
    if others:
        print_log(f'{root}: files passed over: {count_endings(others)}', 'current', logging.WARNING)
    return sorted(paths), others


def count_endings(paths: Sequence[str]) -> str:
    """How many files have each ending, in words, with the first file of the most frequent one."""
    counts = Counter(_ending(path) for path in paths)
    endings = sorted(counts, key=lambda ending: (-counts[ending], ending))
    told = [f'{ending} {counts[ending]}' for ending in endings[:10]] or ['nothing']
    if endings:
        first = min(path for path in paths if _ending(path) == endings[0])
        told[0] += f' ({first if len(first) <= 60 else f".../{os.path.basename(first)}"})'
    hint = max((heif_hint(f'x{ending}') for ending in endings), default='')
    text = ', '.join(told) + (', ...' if len(endings) > 10 else '') + hint
    return text.encode(errors='backslashreplace').decode()  # a name need not be text


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower() or 'no ending'


def _folders_in(root: str, files: Sequence[str], backend_args: dict | None) -> set[str]:
    """Sub-folders of ``root``; on storage without folders those of ``files``."""
    if storage.is_local(root, backend_args):
        with os.scandir(root) as entries:
            return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')}
    return {path.partition('/')[0] for path in files if '/' in path}


def _check_none_is_empty(root: str, empty: set[str], others: Sequence[str]) -> None:
    if empty:
        name = min(empty)
        held = count_endings([path for path in others if path.startswith(f'{name}/')])
        raise ValueError(
            f'root={root!r}: the class folder {name!r}, the first of {len(empty)}, has no file of the wanted endings; '
            f'it holds {held}. Remove it, add the ending to extensions, or give classes or an ann_file.'
        )


def read_lines(file: str | os.PathLike, backend_args: dict | None = None) -> list[str]:
    """The lines of a text file in UTF-8 or UTF-16, split at line feeds only.

    File names may contain the other line ends of `str.splitlines`. Bytes that are not UTF-8 are decoded as by
    `os.fsdecode`.
    """
    return decode(as_utf8(storage.read(file, backend_args))).split('\n')


def read_classes(file: str, *, backend_args: dict | None = None) -> tuple[str, ...]:
    """The class names in a text file, one a line."""
    try:
        lines = read_lines(file, backend_args)
    except FileNotFoundError:
        raise ValueError(
            f'classes={file!r} does not exist. Correct it, or write one class name a line there; for a benchmark '
            'tools/prepare_dataset.py does.'
        ) from None
    except IsADirectoryError:
        raise ValueError(f'classes={file!r} is a folder. Give a file with one class name a line.') from None
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip(BLANK)
        if name in numbers:
            raise ValueError(f'{file}, line {number}: the class {name!r} is in line {numbers[name]} too. Drop one.')
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
    name: str


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
    whole one. ``id=NAME`` at the end of a line names the sample in results. The default is its path, or ``path
    start-stop`` for a span. ``select`` keeps only the lines that contain it.

    A file that ends in ``.csv`` may also have commas or semicolons between them, quotes, and a header.

    The path ends at the last known extension, so paths and class names may contain spaces. A label is a class name if
    it is one of ``classes``, else a class index. Lists are not trusted: only with ``allow_outside`` may a path leave
    the folder that it is relative to.
    """
    parser = _LineParser(extensions, classes or (), allow_outside)

    def make() -> Columns:
        fast = _read_fast(_text_of(ann_file, backend_args, extensions), select, parser)
        return fast or _read_by_line(ann_file, select, parser.parse, backend_args, extensions)

    about = dict(extensions=extensions, classes=classes, select=select, allow_outside=allow_outside)
    return Rows(classes=None if classes is None else tuple(classes), **_stored(ann_file, about, make, backend_args))


def _read_by_line(
    ann_file: str,
    select: str | None,
    parse: Callable[[str], Row],
    backend_args: dict | None,
    extensions: Sequence[str] = (),
) -> Columns:
    """Columns of a list. An error names the line and its number."""
    rows: list[Row] = []
    numbers: dict[str, int] = {}  # id -> line
    for number, line in _lines(ann_file, select, backend_args, extensions):
        try:
            row = parse(line)
            if rows and (row.label is None) != (rows[0].label is None):
                raise ValueError('Some lines have a label and some have none. Give all or none a label.')
            if row.name in numbers:
                raise ValueError(
                    f'Its id {row.name!r} is that of line {numbers[row.name]} too. Drop one, or add id=NAME in a list '
                    'of files.'
                )
        except ValueError as error:
            raise ValueError(f'{ann_file}, line {number}, {line!r}: {error}') from None
        rows.append(row)
        numbers[row.name] = number
    return _columns(rows)


def _read_fast(text: bytes, select: str | None, parser: _LineParser) -> Columns | None:
    """Columns of a list, five times as fast and without millions of strings; None if any line is wrong."""
    parts: list[Columns] = []
    hashes: list[NDArray[np.int64]] = []
    begin = 0
    while begin < len(text):
        end = text.find(b'\n', begin + PART) + 1 or len(text)
        part, begin = text[begin:end], end
        if select is not None:
            part = b'\n'.join(line for line in part.split(b'\n') if encode(select) in line)
        try:
            found = parser.columns_of(part)
        except ValueError:
            return None
        if found is not None:
            parts.append(found[0])
            hashes.append(found[1])
    if not parts or len({part['labels'] is None for part in parts}) > 1:
        return None
    ascending = np.sort(np.concatenate(hashes))  # 30 times as fast as np.unique
    if (ascending[1:] == ascending[:-1]).any():
        return None  # an id occurs twice
    ids, spans = (any(part[name] is not None for part in parts) for name in ('ids', 'spans'))
    return dict(
        paths=StringTable.joined([part['paths'] for part in parts]),
        labels=None if parts[0]['labels'] is None else np.concatenate([part['labels'] for part in parts]),
        spans=np.concatenate([_or_whole(part['spans'], len(part['paths'])) for part in parts]) if spans else None,
        ids=StringTable.joined([part['ids'] or part['paths'] for part in parts]) if ids else None,
    )


def _or_whole(spans: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    return np.array([WHOLE_FILE] * count) if spans is None else spans


def _columns(rows: Sequence[Row]) -> Columns:
    """Rows of which all have a label or none has one, by column."""
    return dict(
        paths=StringTable(row.path for row in rows),
        labels=None if rows[0].label is None else np.array([row.label for row in rows], np.int64),
        spans=np.array([row.span or WHOLE_FILE for row in rows]) if any(row.span for row in rows) else None,
        ids=StringTable(row.name for row in rows) if any(row.name != row.path for row in rows) else None,
    )


def _stored(ann_file: str, about: Mapping[str, Any], make: Callable[[], Columns], backend_args: dict | None) -> Columns:
    """What ``make`` reads of a list. For a long list it is stored next to the list, see `tables.stored`."""
    if not storage.is_local(ann_file, backend_args):
        return make()
    try:
        stat = os.stat(ann_file)
    except OSError:
        return make()  # raises
    # A file written just now may change again within the resolution of its time stamp.
    if stat.st_size < STORED_FROM or time.time() - stat.st_mtime < 2:
        return make()
    folder, name = os.path.split(ann_file)
    file = os.path.join(folder, f'.{name}.{digest(json.dumps(about).encode())[:16]}.rows')
    return stored(
        file,
        dict(about, size=stat.st_size, time=stat.st_mtime_ns),
        make,
        lambda columns: about['allow_outside'] or _are_inside(columns['paths']),
    )


def _are_inside(paths: StringTable) -> bool:
    """Whether all paths stay in the folder that they are relative to. A stored list is not trusted either."""
    text = paths.text.tobytes()
    firsts = paths.text[np.concatenate([[0], paths.ends[:-1]])]
    return (
        not (firsts == ord('/')).any() and b'://' not in text and (b'..' not in text or not any(map(is_outside, paths)))
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
    """The rows of a text file with a folder of numbered pictures and some integers a line, as VideoMAE V2's.

    The spans are (number of the first picture, how many). Without 'start' the first is 1.

    Args:
        ann_file: the file.
        columns: what the numbers are, in order: 'total', and optionally 'start' and 'label'.
        classes: names of the classes if known.
        select: keeps only the lines that contain it.
        allow_outside: whether folders may be outside the one that they are relative to.
        backend_args: of ``mmengine.fileio``.
    """
    if len({*columns}) != len(columns) or not {'total'} <= {*columns} <= {'start', 'total', 'label'}:
        raise ValueError(f"columns={list(columns)} are not 'total' and some of 'start' and 'label', once each.")

    def parse(line: str) -> Row:
        words = re.fullmatch('(.+?)' + rf'{GAP}(\S+)' * len(columns), line)
        try:
            path, *values = words.groups() if words else ('',)
            numbers = dict(zip(columns, map(int, values), strict=True))
        except ValueError:
            raise ValueError(
                f'It is not "FOLDER {" ".join(columns)}" with whole numbers. Correct the line, or columns.'
            ) from None
        start, total = numbers.get('start', 1), numbers['total']
        if start < 0 or total < 1:
            raise ValueError(f'{total} pictures from number {start} on are none. Correct the line, or columns.')
        if not allow_outside and is_outside(path):
            raise ValueError(OUTSIDE)
        name = f'{path} {start}-{start + total}' if 'start' in columns else path
        return Row(path, numbers.get('label'), (float(start), float(total)), name)

    about = dict(columns=columns, select=select, allow_outside=allow_outside)
    columns_of = partial(_read_by_line, ann_file, select, parse, backend_args)
    return Rows(
        classes=None if classes is None else tuple(classes), **_stored(ann_file, about, columns_of, backend_args)
    )


def _lines(
    ann_file: str, select: str | None, backend_args: dict | None, extensions: Sequence[str] = ()
) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty and contains ``select``."""
    found = False
    for number, line in enumerate(decode(_text_of(ann_file, backend_args, extensions)).split('\n'), start=1):
        if line.strip(BLANK) and (select is None or select in line):
            found = True
            yield number, line.strip(BLANK)
    if not found:
        with_it = '' if select is None else f' with select={select!r}'
        raise ValueError(f'ann_file={ann_file!r} has no lines{with_it}. Write one "path" or "path label" a line.')


def _text_of(ann_file: str, backend_args: dict | None, extensions: Sequence[str]) -> bytes:
    try:
        text = as_utf8(storage.read(ann_file, backend_args))
        return _without_commas(text, extensions) if ann_file.lower().endswith('.csv') else text
    except IsADirectoryError:
        raise ValueError(f'ann_file={ann_file!r} is a folder. Give it as root, and no ann_file to scan it.') from None
    except FileNotFoundError:
        raise ValueError(f'ann_file={ann_file!r} does not exist. Correct it, or leave it out to scan root.') from None


def _without_commas(text: bytes, extensions: Sequence[str]) -> bytes:
    """A table of a spreadsheet with a path and a label in the cell after it -> a list. Other texts stay."""
    lines = []
    for number, (cells, place) in enumerate(_cells(text, extensions, r'{path}"?([,;\t])')):
        is_header = place is None and number == 0
        lines.append('' if is_header else ' '.join(cells if place is None else cells[place : place + 2]))
    return encode('\n'.join(lines)) if lines else text


def _cells(text: bytes, extensions: Sequence[str], pattern: str) -> Iterator[tuple[list[str], int | None]]:
    """Cells of each row of a table, and the first that ends as a path does; nothing if no delimiter is found."""
    endings = tuple(ending.lower() for ending in extensions)
    pattern = pattern.format(path=f'(?:{"|".join(map(re.escape, endings))})')
    found = re.search(pattern, decode(text[:PART]), re.IGNORECASE)
    for row in csv.reader(decode(text).split('\n'), delimiter=found[1]) if endings and found else ():
        cells = [cell.strip() for cell in row]
        yield cells, next((k for k, cell in enumerate(cells) if cell.lower().endswith(endings)), None)


def read_labels(file: str | os.PathLike, extensions: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """Place, path, label and split ('' if it has none) of each row of a table with commas, semicolons or tabs.

    A header names the columns: label or class, and split. Without one the label is in the cell after the path, and the
    split in the next.

    Raises:
        ValueError: no table, or a row without path or label.
    """
    header: list[str] = []
    columns: list[int | None] = []
    number = 0
    text = as_utf8(Path(file).read_bytes())
    for number, (cells, place) in enumerate(_cells(text, extensions, '([,;\t])'), 1):
        if place is None and number == 1:
            header = [cell.lower() for cell in cells]
            names = (('label', 'class', 'category'), ('split', 'set', 'subset'))
            columns = [next((k for k, cell in enumerate(header) if cell in of), None) for of in names]
            if columns[0] is None:
                raise ValueError(f'{file} has the columns {", ".join(header)}. Name one of them label.')
        elif any(cells):
            at = columns or [None if place is None else place + k for k in (1, 2)]
            label, split = ('' if k is None else ''.join(cells[k : k + 1]) for k in at)
            if place is None or not label:
                row = ','.join(cells)
                raise ValueError(f'{file}, line {number}: {row!r} has no path of a known ending, or no label.')
            yield f'{file}, line {number}', cells[place], label, split
    if not number:
        raise ValueError(f'{file} has no row "path,label". Paths end in one of {", ".join(extensions)}.')


def encoding_hint(text: str) -> str:
    """A hint for messages about a line of a list that is not in UTF-8."""
    is_other = any('\udc80' <= character <= '\udcff' for character in text)
    return ' The list is not in UTF-8: save it as UTF-8.' if is_other else ''


def is_outside(path: str) -> bool:
    """Whether a path leaves the folder that it is relative to."""
    return path.startswith('/') or '://' in path or ('..' in path and f'{os.path.normpath(path)}/'.startswith('../'))


class _LineParser:
    """Reads the lines of a list, one at a time, or many simple ones at once.

    Args:
        extensions: of paths.
        classes: names of the labels.
        allow_outside: whether paths may leave the folder that they are relative to.
    """

    def __init__(self, extensions: Sequence[str], classes: Sequence[str], allow_outside: bool):
        self.extensions, self.allow_outside = extensions, allow_outside
        self.index = {name: label for label, name in enumerate(classes)}
        self.pattern = re.compile(rf'(.*(?:{"|".join(map(re.escape, extensions))}))(?:{GAP}(.+))?', re.IGNORECASE)
        # 'path' or 'path label' without blanks in them, inside of the root: no '..', '://' or leading '/'
        endings = b'|'.join(rb'(?<=%b)' % re.escape(encode(ending)) for ending in extensions)
        self.simple = re.compile(rb'^([^/\s]\S*)(?:%b)(?:[ \t]+(\S+))?[ \t\r]*$' % endings, re.M | re.I)
        self.known_labels: dict[bytes, int] = _Memo(self._parse_label)

    def parse(self, line: str) -> Row:
        """A line -> its row."""
        match, name = self.pattern.fullmatch(line), None
        if named := re.fullmatch(rf'(.*?[^ \t]){GAP}id=(.+)', line):
            if without_id := self.pattern.fullmatch(named[1]):
                match, name = without_id, named[2]
        if match is None:
            hint = heif_hint(line.split(' ')[0])
            raise ValueError(
                f'The path does not end in one of {", ".join(self.extensions)}{hint}. Correct the line or extensions.'
            )
        path, rest = match.groups()
        span, label = (None, rest) if rest is None or rest in self.index else _parse_span(rest)
        try:
            number = None if label is None else self.index[label] if label in self.index else _int64(label)
        except ValueError:
            remedy = 'Correct it' if self.index else 'Give classes=[...] to use names'
            remedy += f'.{encoding_hint(str(label))}'
            raise ValueError(f'The label {label!r} is neither a class index nor one of classes. {remedy}') from None
        if not self.allow_outside and is_outside(path):
            raise ValueError(OUTSIDE)
        return Row(path, number, span, name or (path if span is None else f'{path} {span[0]:g}-{span[1]:g}'))

    def columns_of(self, text: bytes) -> tuple[Columns, NDArray[np.int64]] | None:
        """Columns of some lines, and a hash of each id; None if all are empty."""
        found = self._simple_columns_of(text)
        if found is None:
            lines = (line.strip(BLANK) for line in decode(text).split('\n'))
            rows = [self.parse(line) for line in lines if line]
            if len({row.label is None for row in rows}) > 1:
                raise ValueError('some lines have a label and some have none')
            found = (_columns(rows), _hashes(encode(row.name) for row in rows)) if rows else None
        return found

    def _simple_columns_of(self, text: bytes) -> tuple[Columns, NDArray[np.int64]] | None:
        if b'..' in text or b'://' in text:
            return None
        found = self.simple.findall(text)
        if not found or len(found) != text.count(b'\n') + (not text.endswith(b'\n')):
            return None
        paths, labels = [path for path, _ in found], [label for _, label in found]  # zip takes ten times as long
        if not all(labels) and any(labels):
            return None
        try:
            numbers = np.fromiter(map(self.known_labels.__getitem__, labels), np.int64) if labels[0] else None
        except ValueError:
            return None
        return dict(paths=StringTable.of_bytes(paths), labels=numbers, spans=None, ids=None), _hashes(paths)

    def _parse_label(self, label: bytes) -> int:
        path = f'x{self.extensions[0]}'
        row = self.parse(f'{path} {decode(label)}')
        if row.label is None or row.path != path or row.name != path:
            raise ValueError(f'{label!r} is not only a label')
        return row.label


class _Memo(dict):
    """Calls a function once for each key."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__()
        self.function = function

    def __missing__(self, key: Any) -> Any:
        self[key] = value = self.function(key)
        return value


def _hashes(names: Iterable[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, names), np.int64)


def _int64(text: str) -> int:
    if not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f'{text} has more than 64 bits')
    return number


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
