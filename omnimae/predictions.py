"""From a run to a table: the classes of images and videos as CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from omnimae.apis import Classification, ClassificationInferencer
from omnimae.checkpoint import replacing
from omnimae.inputs import Input, several

TEXT = 'utf-8', 'surrogateescape'  # file names may be no text


def predict(
    inputs: Input | Sequence[Input],
    model: str | os.PathLike | Config,
    out: str | os.PathLike = 'predictions.csv',
    *,
    checkpoint: str | os.PathLike | None = None,
    topk: int = 5,
    device: torch.device | str | None = None,
    num_workers: int = 0,
) -> Path:
    """Write the classes of images and videos to a CSV or Parquet file, see `write_predictions`.

    If all files are in folders named as the model's classes, such as 'photos/cat/1.jpg' of ``inputs='photos'``, the
    accuracy of all, of each modality and of each class is printed.

    Args:
        inputs: paths, folders and arrays, see `list_inputs`.
        model: folder of a fine-tuning, see `find_run`; or a config or a name in ``ZOO``, see `get_model`.
        out: the file. One that exists is replaced.
        checkpoint: weights to use instead of those that `find_run` chooses.
        topk: classes of a row.
        device: see `get_model`.
        num_workers: processes that read files.

    Returns:
        ``out``.

    Raises:
        ValueError: an ending that is unknown, no run, an input that does not exist, or no config of a classifier.
    """
    if (ending := Path(out).suffix) not in ('', '.csv', '.txt', '.parquet'):
        raise ValueError(f'out={os.fspath(out)} ends in {ending!r}. Give a name that ends in .csv or .parquet.')
    if ending == '.parquet':
        import_parquet()  # an error now costs no hours
    classify = ClassificationInferencer(model, checkpoint, topk=topk, device=device, num_workers=num_workers)
    folders = [str(Path(x).expanduser()) for x in several(inputs) if isinstance(x, str | os.PathLike)]
    rows: list[Counted] = []

    def counted() -> Iterator[Classification]:
        for result in classify.stream(inputs):
            if result.error is None:
                rows.append(Counted(_folder_of(result.input, folders), result.modality, result.guesses[0].name))
            yield result

    write_predictions(counted(), out, classify.topk)
    if rows and {row.label for row in rows} <= {*(classify.classes or ())}:
        print(f'The folders are classes, so the accuracy is known:\n{accuracy_table(rows)}')
    return Path(out)


class Counted(NamedTuple):
    """A file in a folder per class: the name of the folder, 'image' or 'video', and the predicted class."""

    label: str | None
    modality: str
    guess: str | None


def _folder_of(name: str, folders: Iterable[str]) -> str | None:
    """'cat' for 'photos/cat/1.jpg' and 'photos'."""
    below = next((name.removeprefix(x).lstrip(os.sep) for x in folders if name.startswith(os.path.join(x, ''))), '')
    return below.partition(os.sep)[0] if os.sep in below else None


def accuracy_table(rows: Sequence[Counted]) -> str:
    """Accuracy of all files, of each modality if there are several, and of each class, in lines."""
    groups = {'all': [*rows]}
    modalities = sorted({row.modality for row in rows})
    for name in modalities if len(modalities) > 1 else ():
        groups[f'{name}s'] = [row for row in rows if row.modality == name]
    for label in sorted({str(row.label) for row in rows}):
        groups[f'class {label}'] = [row for row in rows if row.label == label]
    width = max(map(len, groups))
    lines = [f'{"":{width}}  files  right  accuracy, %']
    for name, group in groups.items():
        right = sum(row.label == row.guess for row in group)
        lines.append(f'{name:{width}}  {len(group):5}  {right:5}  {100 * right / len(group):11.1f}')
    return '\n'.join(lines)


def write_predictions(results: Iterable[Classification], out: str | os.PathLike, topk: int = 5) -> int:
    """Write a row for each input: ``input,class,score,class_2,score_2,...,error``.

    ``input`` is the path as `list_inputs` gives it. ``class`` is the name of the most probable class, or its number if
    the names are unknown. ``score`` is its probability. An input that cannot be read has no class and an ``error``.
    Rows are written as they come, and the file appears when all are there. An ``out`` that ends in ``.parquet`` needs
    pyarrow. Its scores are numbers.

    Returns:
        The number of inputs that could not be read.
    """
    columns = [f'{name}{"" if rank == 0 else f"_{rank + 1}"}' for rank in range(topk) for name in ('class', 'score')]
    header, rows = ['input', *columns, 'error'], (_cells(result, topk) for result in results)
    broken = 0
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if Path(out).suffix == '.parquet':
        arrow, parquet = import_parquet()
        kinds = {name: arrow.float64() if name.startswith('score') else arrow.string() for name in header}
        kept = [*rows]
        with replacing(out) as unfinished:
            cells = [dict(zip(header, row, strict=True)) for row in kept]
            parquet.write_table(arrow.Table.from_pylist(cells, arrow.schema(kinds)), unfinished)
        return sum(row[-1] is not None for row in kept)
    with replacing(out) as unfinished, unfinished.open('w', -1, *TEXT, newline='') as file:
        table = csv.writer(file)
        table.writerow(header)
        for row in rows:
            broken += row[-1] is not None
            table.writerow([f'{cell:.6f}' if isinstance(cell, float) else cell for cell in row])
    return broken


def import_parquet() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module.

    Raises:
        ValueError: they are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError('A .parquet file needs pyarrow. Run `pip install pyarrow`, or write a .csv file.') from None
    return pyarrow, parquet


def _cells(result: Classification, topk: int) -> list[str | float | None]:
    cells: list[str | float | None] = [result.input]
    for label, name, probability in result.guesses:
        cells += [str(label) if name is None else name, probability]
    return [*cells, *[None] * (2 * topk + 1 - len(cells)), result.error]
