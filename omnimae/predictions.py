"""From a run to a table: the classes of images and videos as CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from omnimae.apis import Classification, ClassificationInferencer, datasets_of
from omnimae.checkpoint import replacing
from omnimae.inputs import Input, Item, list_inputs, several
from omnimae.registry import DATASETS
from omnimae.structures import check_out

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
    accuracy of all, of each modality and of each class is printed. It is told apart for files that were trained on.

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
    check_out(out, is_folder=False, name='out: ')
    if (ending := Path(out).suffix) not in ('', '.csv', '.txt', '.parquet'):
        raise ValueError(f'out={os.fspath(out)} ends in {ending!r}. Give a name that ends in .csv or .parquet.')
    if ending == '.parquet':
        import_parquet()  # an error now costs no hours
    inputs = [*several(inputs)]
    items = list_inputs(inputs)  # likewise
    classify = ClassificationInferencer(model, checkpoint, topk=topk, device=device, num_workers=num_workers)
    if Path(out).exists():
        print(f'{out} exists{_rows_in(out)}. It will be replaced at the end. To keep it, give another out.')
    _say_what_is_untrained(classify.cfg, items)
    folders = [str(Path(x).expanduser()) for x in inputs if isinstance(x, str | os.PathLike)]
    rows: list[Counted] = []
    errors: list[Classification] = []

    def counted() -> Iterator[Classification]:
        for result in classify.stream_items(items):
            if result.error is None:
                guess = result.guesses[0].name
                rows.append(Counted(_folder_of(result.input, folders), result.modality, guess, result.input))
            else:
                errors.append(result)
            yield result

    write_predictions(counted(), out, classify.topk)
    if errors:
        told = f'The first is {errors[0].input}: {errors[0].error}. The column error of {out} has all.'
        print(f'{len(errors)} of {len(items)} files could not be read. {told}')
    if rows and {row.label for row in rows} <= {*(classify.classes or ())}:
        trained_on = _trained_on(classify.cfg)
        seen = [row for row in rows if trained_on is not None and trained_on(row.path)]
        note = f'The model was trained on {len(seen) or "none"} of these {len(rows)} files.'
        if trained_on is None:
            note = 'Files of the training may be among them: its lists cannot be read here.'
        elif seen:
            note += ' Their accuracy says little about new files.'
        print(f'The folders are classes, so the accuracy is known. {note}\n{accuracy_table(rows, seen)}')
    return Path(out)


def _rows_in(out: str | os.PathLike) -> str:
    """' and has 600 rows' of a file that was written before."""
    if Path(out).suffix == '.parquet':
        return ''
    with open(out, 'rb') as file:
        return f' and has {max(sum(1 for _ in file) - 1, 0)} rows'


def _say_what_is_untrained(cfg: Config, items: Sequence[Item]) -> None:
    """Print how many inputs are of a modality that the classifier was not trained on."""
    trained = {modality for modality, _ in datasets_of(cfg, 'train_dataloader')} & {'image', 'video'}
    for modality in {'image', 'video'} - trained if trained else ():
        if count := sum(item.modality == modality for item in items):
            print(
                f'{count} of {len(items)} inputs are {modality}s. The classifier was trained on {min(trained)}s '
                'alone. Do not rely on their classes.'
            )


def _trained_on(cfg: Config) -> Callable[[str], bool] | None:
    """Whether a file was trained on, by the lists and folders of a config. None if these cannot be read here."""
    folders: list[str] = []
    files: set[str] = set()
    for _, source in datasets_of(cfg, 'train_dataloader'):
        root = os.path.expanduser(source['root'])
        if not os.path.isdir(root):
            return None
        if source.get('ann_file') is None:
            folders.append(os.path.join(os.path.realpath(root), ''))
            continue
        try:
            dataset = DATASETS.build({**source, 'transforms': []})
        except (OSError, ValueError):
            return None
        files |= {_resolved(os.path.join(root, path)) for path in dataset.paths}
    return (
        (lambda path: _resolved(path) in files or _resolved(path).startswith((*folders,))) if folders or files else None
    )


def _resolved(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(_realpath(folder), name)


_realpath = cache(os.path.realpath)  # many files have few folders


class Counted(NamedTuple):
    """A file in a folder per class: the name of the folder, 'image' or 'video', the predicted class, and its path."""

    label: str | None
    modality: str
    guess: str | None
    path: str = ''


def _folder_of(name: str, folders: Iterable[str]) -> str | None:
    """'cat' for 'photos/cat/1.jpg' and 'photos'."""
    below = next((name.removeprefix(x).lstrip(os.sep) for x in folders if name.startswith(os.path.join(x, ''))), '')
    return below.partition(os.sep)[0] if os.sep in below else None


def accuracy_table(rows: Sequence[Counted], seen: Sequence[Counted] = ()) -> str:
    """Accuracy of all files, of those trained on and of the others, of each modality, and of each class, in lines.

    ``seen`` are those trained on. A group that holds all or none is left out.
    """
    groups = {'all': [*rows]}
    if 0 < len(seen) < len(rows):
        groups |= {'trained on': [*seen], 'new': [*{*rows} - {*seen}]}
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
