"""Scores of a classifier in files, and their accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .npz import read_npz, write_npz


class Scores(NamedTuple):
    """Scores of a classifier for S samples, averaged over views.

    Attributes:
        ids: (S,) names of the samples.
        labels: (S,) class indices. Empty if the samples have none.
        scores: (S, classes) logits, averaged over views.
        probabilities: (S, classes) the softmax of each view's logits, averaged over views.
        sources: (S,) names of the samples' sources. Empty if unknown.
        modalities: (S,) 'image' or 'video'. Empty if unknown.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    sources: np.ndarray = np.array([], str)
    modalities: np.ndarray = np.array([], str)

    def save(self, path: str | Path) -> None:
        """Write an .npz file, see `load_scores`."""
        write_npz(path, self._asdict(), compressed=True)

    def rows(self, which: np.ndarray) -> Scores:
        """The samples selected by ``which``, (S,) bool, for instance those of one source."""
        return Scores(self.ids[which], self.labels[which], self.scores[which], self.probabilities[which])

    def groups(self) -> dict[str, np.ndarray]:
        """Name of each group of `group_names` -> its rows, (S,) bool."""
        known = self.modalities if len(self.modalities) else np.full(len(self.sources), '')  # not in older files
        modalities = dict(zip(self.sources.tolist(), known.tolist(), strict=True))
        return {name: self.sources == name if name in modalities else known == name for name in group_names(modalities)}

    def ranked(self, softmax: bool) -> np.ndarray:
        """(S, classes) the averaged probabilities or logits that rank the classes."""
        return without_zeros(self.probabilities) if softmax else self.scores


def load_scores(paths: Sequence[str | Path]) -> Scores:
    """Read the file of a test, or average those of several tests of the same samples (an ensemble)."""
    files = [Scores(**read_npz(path, Scores._fields[:4], Scores._fields[4:])) for path in paths]
    first = files[0]
    for path, other in zip(paths[1:], files[1:], strict=True):
        same = [np.array_equal(getattr(first, key), getattr(other, key)) for key in ('ids', 'labels')]
        if not all(same) or first.scores.shape != other.scores.shape:
            raise ValueError(
                f'{path} has scores {other.scores.shape} of other samples or classes than {paths[0]} with '
                f'{first.scores.shape}. Average tests of one data set only.'
            )
    means = {key: np.mean([getattr(file, key) for file in files], 0) for key in ('scores', 'probabilities')}
    return first if len(files) == 1 else first._replace(**means)


def group_names(modalities: Mapping[str, Any]) -> list[str]:
    """Source -> modality -> the groups of samples that are counted apart: several sources, and several modalities.

    A modality with a single source goes by the name of the source.
    """
    names = [*modalities] if len(modalities) > 1 else []
    kinds = [*dict.fromkeys(modalities.values())]
    return [*dict.fromkeys([*(kinds if 1 < len(kinds) < len(names) else ()), *names])]


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(S,), (S,) class indices -> (classes, classes) counts: rows are true classes, columns predictions.

    Raises:
        ValueError: no labels.
    """
    if not len(labels):
        raise ValueError('There are no labels, so no confusion matrix. Test labelled data.')
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def without_zeros(probabilities: np.ndarray) -> np.ndarray:
    """Same scores, with -inf for a class without any probability or vote, see `accuracy`."""
    return np.where(probabilities > 0, probabilities, -np.inf)


def usual_topk(num_classes: int) -> tuple[int, ...]:
    """-> (1, 5), or (1,) with fewer than five classes."""
    return (1, 5) if num_classes >= 5 else (1,)


def accuracy(scores: np.ndarray, labels: np.ndarray, topk: Sequence[int] | None = None) -> dict[str, float]:
    """(S, classes), (S,) -> top-k accuracies and the mean over classes of the top-1, in percent.

    ``topk`` is 1 and 5 by default, and 1 alone with fewer than five classes.

    A sample counts as right only if that is certain. Fewer than k *other* classes may have a score as high as its
    label's or higher. The label's score must not be -inf, which means no evidence for the class. So a model with equal
    scores for all classes is never right. (torch.topk, and with it timm and torchmetrics, takes any of the tied
    classes, scikit-learn the last, DINO's k-NN classes without a vote in their order.) A class without samples does not
    count in the mean.
    """
    topk = usual_topk(scores.shape[1]) if topk is None else topk
    if max(topk) > scores.shape[1]:
        raise ValueError(f'topk={tuple(topk)} asks for more than the {scores.shape[1]} classes there are. Lower topk.')
    if not len(labels):
        raise ValueError('There are no samples with labels, so no accuracy. Test labelled data.')
    if (wrong := labels[(labels < 0) | (labels >= scores.shape[1])]).size:
        raise ValueError(
            f'A label is {wrong[0]}, but there are scores for {scores.shape[1]} classes, counted from 0. '
            'Correct the labels, or num_classes of the model.'
        )
    for what, found in (('NaN', np.isnan(scores).any(1)), ('infinite', (scores == np.inf).any(1))):
        if found.any():
            raise ValueError(
                f'The scores of {found.sum()} of {len(scores)} samples are {what}, first of sample {found.argmax()}. '
                'Test in bfloat16 or float32, or take a checkpoint from before the training diverged.'
            )
    own = np.take_along_axis(scores, labels[:, None], 1)
    ranks = np.where(own[:, 0] > -np.inf, (scores >= own).sum(1), scores.shape[1] + 1)
    result = {f'top{k}': 100 * float((ranks <= k).mean()) for k in topk}
    per_class = [(ranks[labels == label] == 1).mean() for label in np.unique(labels)]
    return {**result, 'mean_class': 100 * float(np.mean(per_class))}
