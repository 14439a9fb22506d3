"""Work on many files that several machines share out: each does a part, and one of them merges the results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from omnimae.data.tables import digest

T = TypeVar('T')


class Part(NamedTuple):
    """A share of the work.

    Attributes:
        number: counted from 1.
        total: how many shares there are.
    """

    number: int
    total: int

    @classmethod
    def of(cls, text: str) -> Part:
        """The part that '3/16' names."""
        words = re.fullmatch('([0-9]{1,6})/([0-9]{1,6})', text)
        part = cls(*map(int, words.groups())) if words else cls(0, 0)
        if not 1 <= part.number <= part.total:
            raise ValueError(f'part={text!r} is none. Write 3/16 for the third of sixteen.')
        return part

    def take(self, values: Sequence[T]) -> Sequence[T]:
        """This part of the values, of which all parts take turns."""
        return values[self.number - 1 :: self.total]

    def __str__(self) -> str:
        return f'{self.number}/{self.total}'

    def file(self, root: Path, name: str) -> Path:
        """A file of this part alone."""
        return root / f'{name}.{self.number}-of-{self.total}.jsonl'


def parts_of(count: int) -> list[Part]:
    """All parts."""
    if count < 1:
        raise ValueError(f'merge={count} is no number of parts. Give the number after the slash of --part.')
    return [Part(number, count) for number in range(1, count + 1)]


def write_results(root: Path, part: Part, about: Any, results: Mapping[str, Any]) -> None:
    """Keep what a part found, a JSON value for each name; the file is there when the part is complete."""
    file = part.file(root, 'part')
    unfinished = file.with_suffix('.part')
    with open(unfinished, 'w', encoding='utf-8') as out:
        out.write(f'{json.dumps(_key(about))}\n')
        out.writelines(f'{json.dumps(row)}\n' for row in results.items())
    unfinished.replace(file)


def merge_results(root: Path, count: int, about: Any, names: Sequence[str]) -> dict[str, Any]:
    """What all parts found, in the order of the names."""
    found: dict[str, Any] = {}
    missing, others = [], []
    for part in parts_of(count):
        file = part.file(root, 'part')
        if not file.exists():
            missing.append(str(part))
            continue
        key, *rows = map(json.loads, file.read_text(encoding='utf-8').splitlines())
        results = dict(rows)
        if key != _key(about) or [*results] != [*part.take(names)]:
            others.append(str(part))
        found |= results
    if missing:
        raise ValueError(f'{root}: parts {", ".join(missing)} are missing. Run them with --part, then merge again.')
    if others:
        raise ValueError(
            f'{root}: parts {", ".join(others)} were made of other files or with other options. Run them again, with '
            'the same options as the merge.'
        )
    return {name: found[name] for name in names}


def remove_results(root: Path, count: int) -> None:
    """Remove what the parts left, after the merge."""
    for part in parts_of(count):
        part.file(root, 'part').unlink(missing_ok=True)


def _key(about: Any) -> str:
    return digest(json.dumps(about).encode())
