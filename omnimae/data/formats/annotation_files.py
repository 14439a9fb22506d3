"""Reading annotation files: lists, CSV and JSON. Errors name the file and the place in it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from omnimae.data import storage
from omnimae.data.annotations import BLANK, is_outside, read_lines
from omnimae.data.tables import decode
from omnimae.structures import as_utf8

SPLITS = ('train', 'val')


class Item(NamedTuple):
    """A sample of an annotation."""

    path: str  # of its file, relative to the root of the benchmark, with slashes
    label: int | None  # class index; None if the authors do not publish it
    span: tuple[float, float] | None = None  # (start, stop) in seconds in a longer video; None is the whole file
    id: str | None = None  # its name in results; None is the path


class Annotation(NamedTuple):
    """The samples and classes of a benchmark."""

    splits: dict[str, list[Item]]  # 'train', 'val', and EPIC-Kitchens' 'test' if its videos exist
    classes: tuple[str, ...]  # names in the order of the labels
    actions: tuple[tuple[int, int, int], ...] = ()  # EPIC-Kitchens' (action, verb, noun), in the order of the labels


class Items:
    """Collects the items of one annotation file. A key may occur once."""

    def __init__(self, file: Path):
        self.file = file
        self.places: dict[Any, str] = {}
        self._items: list[Item] = []

    def add(self, place: str, key: Any, *item: Any) -> None:
        """Add the `Item` at ``place``."""
        if key in self.places:
            raise ValueError(f'{self.file}, {place}: {key!r} is also at {self.places[key]}. Remove one of the two.')
        if is_outside(item[0]):  # its copies would be outside, too
            raise ValueError(f'{self.file}, {place}: {item[0]!r} leaves the folder of the data. Correct the line.')
        self.places[key] = place
        self._items.append(Item(*item))

    @property
    def items(self) -> list[Item]:
        if not self._items:
            raise ValueError(f'{self.file} has no samples. Fetch it again.')
        return self._items


HELP = 'Put it there as it is distributed; --help shows the layout.'
ANNOTATIONS = ('', 'annotations/')  # where annotation files may be


def find_any(root: Path, *names: str, folders: Sequence[str] = ('',)) -> Path | None:
    """The first of the files or folders that exists, in the first of the folders; None if there is none."""
    paths = (root / f'{folder}{name}' for folder in folders for name in names)
    return next((path for path in paths if path.exists()), None)


def find(root: Path, *names: str, folders: Sequence[str] = ('',)) -> Path:
    """As `find_any`. A missing file raises a ValueError."""
    if (found := find_any(root, *names, folders=folders)) is None:
        wanted = [f'{folder}{name}' for folder in folders for name in names]
        raise ValueError(f'{root} has no {" or ".join(wanted[:4])}. {HELP}')
    return found


def class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise ValueError(f'{folder} is not a folder. {HELP}')
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != '.'))


def index_files(
    root: Path, folders: Iterable[str], extensions: Sequence[str], key: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Name without extension, or ``key`` of the path -> path, of the files in the folders. The first folder wins."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(storage.list_files(str(root / folder))) if (root / folder).is_dir() else ():
            if path.lower().endswith(tuple(extensions)):
                found.setdefault(stem_of(path) if key is None else key(path), f'{folder}/{path}')
    return found


def stem_of(path: str) -> str:
    """The name of a file without folder and extension."""
    return os.path.splitext(os.path.basename(path))[0]


def read_pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """(place, path, label) of each line; the label is the last word."""
    for number, line in enumerate(read_lines(file), start=1):
        if not (line := line.strip(BLANK)):
            continue
        path, _, label = line.rpartition(' ')
        if not path:
            raise ValueError(f'{file}, line {number}, {line!r} is not "PATH LABEL". Correct the line.')
        yield f'line {number}', path.strip(BLANK), label


def read_csv(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, column -> value) of each row."""
    reader = csv.DictReader(io.StringIO(decode(as_utf8(file.read_bytes())), newline=''))
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise ValueError(f'{file}, line 1: no column {", ".join(missing)}. Fetch it again, with its header.')
    for row in reader:
        if any(row[column] is None for column in columns):
            raise ValueError(f'{file}, line {reader.line_num}: too few columns. Correct the line.')
        yield reader.line_num, row


def read_names(file: Path | None, num_classes: int) -> dict[str, int]:
    """EPIC-Kitchens' names of verbs or nouns -> class. Without a file the names are the numbers."""
    if file is None:
        return {str(label): label for label in range(num_classes)}
    names: dict[str, int] = {}
    for number, row in read_csv(file, ('id', 'key')):
        if row['id'] != str(len(names)) or row['key'] in names:
            raise ValueError(
                f'{file}, line {number}: id {row["id"]} of {row["key"]!r} is out of order. Fetch it again.'
            )
        names[row['key']] = len(names)
    return names


def field_of(entry: Any, key: str, file: Path, place: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f'{file}, {place}: no {key!r}. Give the file as it is distributed, with labels.')
    return entry[key]


def read_json(file: Path) -> Any:
    try:
        return json.loads(as_utf8(file.read_bytes()))
    except ValueError as error:
        raise ValueError(f'{file} is not JSON: {error}. Fetch it again.') from None


def label_of(text: str, index: dict[str, int], file: Path, place: str, *, indices: bool = True) -> int:
    """A class name, or with ``indices`` a class index, -> class index."""
    if text in index:
        return index[text]
    if indices and text.isdecimal() and int(text) < len(index):
        return int(text)
    some = ', '.join(map(repr, islice(index, 3)))
    raise ValueError(
        f'{file}, {place}: the class {text!r} is not one of the {len(index)} known ({some}, ...). Correct it.'
    )


def span_of(start: str | float, stop: str | float, file: Path, place: str) -> tuple[float, float]:
    """Start and stop of a span, as written in a file -> seconds."""
    try:
        first, last = float(start), float(stop)
    except ValueError:
        raise ValueError(
            f'{file}, {place}: start {start!r} and stop {stop!r} are not both numbers. Correct it.'
        ) from None
    if not 0 <= first < last < math.inf:
        raise ValueError(f'{file}, {place}: stop {stop} is not after start {start}. Correct the line or remove it.')
    return first, last


def seconds_of(row: dict[str, str], column: str, file: Path, place: str) -> float:
    """HH:MM:SS.ss -> seconds."""
    try:
        hours, minutes, seconds = row[column].split(':')
        return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 6)
    except ValueError:
        raise ValueError(f'{file}, {place}: {column} {row[column]!r} is not HH:MM:SS.ss. Correct it.') from None
