"""What a classifier gets wrong: the confusion matrix and the worst samples of a test, as tables and pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnimae.evaluation import Scores, confusion_matrix
from omnimae.structures import with_clips, with_views
from omnimae.visualization.confusion import confusion_picture
from omnimae.visualization.sheets import Row, sheet

NUM_WORST = 24  # samples on the sheet
PER_ROW = 6
THUMBNAIL = 192  # pixels


def analyze(
    scores: Scores, dataset: Any, folder: Path, *, classes: Sequence[str] | None = None, softmax: bool = False
) -> list[Path]:
    """Write ``confusion.png``, ``confusion.csv``, ``wrong.csv`` and ``worst.png`` into a folder, and return them.

    ``wrong.csv`` lists all wrong samples, the most confident predictions first. ``worst.png`` shows the first ones of
    them, and is left out if nothing is wrong.

    Args:
        scores: of labelled samples.
        dataset: the `MixedDataset` of the test, which has the pictures.
        folder: it is created.
        classes: their names, by default those of the data, else their numbers.
        softmax: rank by probabilities averaged over views instead of logits.

    Raises:
        ValueError: no labels.
    """
    predicted = scores.ranked(softmax).argmax(1)
    matrix = confusion_matrix(predicted, scores.labels, scores.scores.shape[1])
    classes = classes or next(filter(None, dataset.metainfo.values()), None) or [*map(str, range(len(matrix)))]
    confidence = scores.probabilities[np.arange(len(predicted)), predicted]
    wrong = np.flatnonzero(predicted != scores.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind='stable')]
    sources = scores.sources if len(scores.sources) else np.full(len(predicted), '')
    rows = [
        (sources[i], scores.ids[i], classes[scores.labels[i]], classes[predicted[i]], f'{confidence[i]:.6f}')
        for i in wrong
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(
        folder / 'confusion.csv',
        [['true', *classes], *([name, *row] for name, row in zip(classes, matrix, strict=True))],
    )
    _write_table(folder / 'wrong.csv', [['source', 'input', 'true', 'predicted', 'score'], *rows])
    confusion_picture(folder / 'confusion.png', matrix, classes)
    files = [folder / name for name in ('confusion.png', 'confusion.csv', 'wrong.csv')]
    if rows:
        title = f'{len(rows)} of {len(predicted)} samples are wrong. The most confident of them:'
        worst_picture(dataset, rows[:NUM_WORST], title).save(folder / 'worst.png')
        files.append(folder / 'worst.png')
    return files


def worst_picture(dataset: Any, rows: Sequence[tuple], title: str) -> Image.Image:
    """Draw the samples of rows of ``wrong.csv`` with their true and predicted classes."""
    panels = thumbnails(dataset, [row[:2] for row in rows])
    notes = [f'{row[1]}: {row[2]}, predicted {row[3]} ({float(row[4]):.0%})' for row in rows]
    starts = range(0, len(rows), PER_ROW)
    return sheet(title, [Row(panels[i : i + PER_ROW], notes=notes[i : i + PER_ROW]) for i in starts])


def thumbnails(dataset: Any, keys: Sequence[tuple[str, str]]) -> list[np.ndarray]:
    """The middle frame of the middle view of each (source, id), as the model sees it; grey if it is not found."""
    found = {}
    for name, source, start in zip(dataset.names, dataset.sources, dataset.starts, strict=False):
        wanted = {own for origin, own in keys if origin in (name, '')}
        ids = getattr(source, 'ids', ()) if wanted else ()
        found.update({(name, own): int(start) + row for row, own in enumerate(ids) if own in wanted})
    return [_thumbnail(dataset, found.get((name, own))) for name, own in keys]


def _thumbnail(dataset: Any, row: int | None) -> np.ndarray:
    page = Image.new('RGB', (THUMBNAIL, THUMBNAIL), (235, 235, 235))
    clip = None if row is None else with_clips(dataset[row]).get('clips', {}).get('rgb')
    if clip is not None:
        views = with_views(clip)[0]
        view = views[len(views) // 2]
        image = Image.fromarray(view[:, view.shape[1] // 2].movedim(0, -1).numpy())
        image = image.resize([max(1, round(side * THUMBNAIL / max(image.size))) for side in image.size])
        page.paste(image, ((THUMBNAIL - image.width) // 2, (THUMBNAIL - image.height) // 2))
    return np.asarray(page)


def _write_table(path: Path, rows: Iterable[Iterable]) -> None:
    with open(path, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:  # names may be no text
        csv.writer(file).writerows(rows)
