"""Confusion matrices as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

MAX_COUNTED = 20  # classes: each cell shows its count
MAX_NAMED = 60  # classes: each row and column shows its name
NUM_PAIRS = 40  # of the most frequent confusions, listed beside a matrix without names


def confusion_picture(path: str | os.PathLike, matrix: np.ndarray, classes: Sequence[str]) -> None:
    """Draw (classes, classes) counts of true classes (rows) and predictions (columns), as shares of each row.

    A matrix of few classes has names and counts. One of many classes has a list of the most frequent confusions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as it takes long to import
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    size, names = len(matrix), [_short(name) for name in classes]
    side = min(max(4.5, 0.34 * size), 16) if size <= MAX_NAMED else 10
    figure = Figure((side + 2.5 if size <= MAX_NAMED else side + 6.5, side), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 1 if size <= MAX_NAMED else 2, width_ratios=None if size <= MAX_NAMED else [2, 1])
    axes = figure.add_subplot(grid[0])
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(
        shares, cmap='Blues', norm=PowerNorm(0.5 if size <= MAX_NAMED else 0.3, 0, 100), interpolation='nearest'
    )
    figure.colorbar(image, ax=axes, shrink=0.7, label='% of the true class', ticks=[0, 5, 20, 50, 100])
    axes.set(xlabel='predicted', ylabel='true')
    axes.set_title(f'{matrix.sum()} samples, {100 * matrix.trace() / max(matrix.sum(), 1):.1f} % correct')
    if size <= MAX_NAMED:
        font = 9 if size <= MAX_COUNTED else 8
        long = max(map(len, names)) > 3 or size > MAX_COUNTED
        axes.set_xticks(range(size), names, rotation=90 if long and size > 3 else 0, fontsize=font)
        axes.set_yticks(range(size), names, fontsize=font)
    if size <= MAX_COUNTED:
        for row, column in np.argwhere(matrix):
            ink = 'white' if shares[row, column] > 35 else 'black'
            axes.text(column, row, str(matrix[row, column]), ha='center', va='center', color=ink, fontsize=9)
    if size > MAX_NAMED:
        listing = figure.add_subplot(grid[1])
        listing.axis('off')
        lines = [
            f'{count:5}   {_short(classes[true])}  \N{RIGHTWARDS ARROW}  {_short(classes[other])}'
            for true, other, count in confused_pairs(matrix)[:NUM_PAIRS]
        ]
        text = '\n'.join(['Most frequent: true \N{RIGHTWARDS ARROW} predicted', '', *lines])
        listing.text(0, 1, text, va='top', fontsize=9, linespacing=1.35, parse_math=False)
    figure.savefig(path, dpi=110, bbox_inches='tight')


def confused_pairs(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """(classes, classes) -> (true class, predicted class, count) of the errors, most frequent first."""
    errors = matrix - np.diag(np.diag(matrix))
    found = [(int(true), int(other), int(errors[true, other])) for true, other in np.argwhere(errors)]
    return sorted(found, key=lambda pair: -pair[2])


def _short(name: str, length: int = 24) -> str:
    name = name.encode('utf-8', 'backslashreplace').decode().replace('$', r'\$')  # names of folders may be no text
    half = length // 2
    return name if len(name) <= length else f'{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}'
