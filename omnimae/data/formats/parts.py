"""Work on many files by several machines: each does a part, and one of them merges the results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from omnimae.data.tables import digest, replacing

T = TypeVar('T')


class Part(NamedTuple):
    """A share of the work."""

    number: int  # from 1
    total: int  # shares

    @classmethod
    def of(cls, text: str) -> Part:
        """The part that '3/16' names."""
        words = re.fullmatch('([0-9]{1,6})/([0-9]{1,6})', text)
        part = cls(*map(int, words.groups())) if words else cls(0, 0)
        if not 1 <= part.number <= part.total:
            raise ValueError(f'part={text!r} is not a part. Write 3/16 for the third of sixteen.')
        return part

    def take(self, values: Sequence[T]) -> Sequence[T]:
        """Every ``total``-th value: those of this part."""
        return values[self.number - 1 :: self.total]

    def __str__(self) -> str:
        return f'{self.number}/{self.total}'

    def file(self, root: Path, name: str) -> Path:
        """A file of this part only."""
        return root / f'{name}.{self.number}-of-{self.total}.jsonl'


def parts_of(count: int) -> list[Part]:
    """All parts."""
    if count < 1:
        raise ValueError(f'merge={count} is not a number of parts. Give the number after the slash of --part.')
    return [Part(number, count) for number in range(1, count + 1)]


def work_in_parts(
    root: Path,
    values: Mapping[str, T],
    about: Any,
    work: Callable[[Sequence[T]], dict[str, Any]],
    *,
    part: Part | None,
    merge: int | None,
) -> dict[str, Any]:
    """The results of ``work``, a JSON value for each name: of all values, of one part, or merged from all parts.

    A part keeps its results in a file. The file exists when the part is complete.

    Args:
        root: folder of the files.
        values: what to work on, by name.
        about: what the results depend on. Parts with another value are not merged.
        work: values -> results by name, in the same order.
        part: work on this part only.
        merge: merge the results of so many parts.
    """
    key, names = digest(json.dumps(about).encode()), [*values]
    if merge is not None:
        return _merge_results(root, merge, key, names)
    if part is None:
        return work([*values.values()])
    results = work([values[name] for name in part.take(names)])
    with replacing(part.file(root, 'part'), encoding='utf-8') as out:
        out.writelines(f'{json.dumps(row)}\n' for row in (key, *results.items()))
    return results


def _merge_results(root: Path, count: int, expected: str, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    missing, others = [], []
    for part in parts_of(count):
        file = part.file(root, 'part')
        if not file.exists():
            missing.append(str(part))
            continue
        key, *rows = map(json.loads, file.read_text(encoding='utf-8').splitlines())
        if key != expected or [name for name, _ in rows] != [*part.take(names)]:
            others.append(str(part))
        found |= rows
    if missing:
        raise ValueError(f'{root}: parts {", ".join(missing)} are missing. Run them with --part, then merge again.')
    if others:
        raise ValueError(
            f'{root}: parts {", ".join(others)} were made of other files or with other options. Run them again, with '
            'the same options as the merge.'
        )
    return {name: found[name] for name in names}


def remove_results(root: Path, count: int) -> None:
    """Remove the files of the parts after the merge."""
    for part in parts_of(count):
        part.file(root, 'part').unlink(missing_ok=True)
