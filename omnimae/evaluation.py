"""What scores and features say: accuracy over views, EPIC-Kitchens verbs and nouns, k-NN, and the files of both."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from torch import Tensor

from omnimae.registry import METRICS

MAX_SIMILARITIES = 2**27  # that are held at once: 512 MiB


@METRICS.register_module()
class ReconstructionLoss(BaseMetric):
    """Mean reconstruction loss per modality, over samples that were not trained on."""

    default_prefix = 'reconstruction'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep (modality, loss) of each sample."""
        self.results += [(sample['modality'], float(sample['loss'])) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {modality: mean loss}."""
        losses = defaultdict(list)
        for modality, loss in results:
            losses[modality].append(loss)
        return {modality: float(np.mean(values)) for modality, values in sorted(losses.items())}


# ---------------------------------------------------------------------------------------------------------------------
# Scores


class Scores(NamedTuple):
    """What a classifier says about S samples, views averaged already.

    Attributes:
        ids: (S,) names of the samples.
        labels: (S,) class indices.
        scores: (S, classes) logits, averaged over views.
        probabilities: (S, classes) the softmax of each view's logits, averaged over views.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write an .npz file, see `load_scores`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'wb') as file:  # NumPy would add .npz to a path that ends in something else
            np.savez_compressed(file, **self._asdict())


class Actions(NamedTuple):
    """Of which verb and noun each action of EPIC-Kitchens-100 is made: (A,) verb and noun indices."""

    verbs: np.ndarray
    nouns: np.ndarray


def load_scores(paths: Sequence[str | Path]) -> Scores:
    """Read the file of a test, or average those of several tests of the same samples (an ensemble).

    Raises:
        ValueError: a file that holds something else, or files of different samples or classes.
    """
    files = [Scores(**_read_npz(path, Scores._fields)) for path in paths]
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


def load_actions(path: str | Path) -> Actions:
    """Read ``actions.csv``: a header ``action,verb,noun``, then three indices a line, each action once.

    Raises:
        ValueError: no such file, another header, or lines that do not number the actions 0, 1, 2, ...
    """
    try:
        lines = list(csv.reader(Path(path).read_text(encoding='utf-8').splitlines()))
    except FileNotFoundError:
        raise ValueError(f'actions={str(path)!r} does not exist. prepare_dataset.py ek100 writes it.') from None
    if not lines or lines[0] != ['action', 'verb', 'noun']:
        raise ValueError(f"{path}: line 1 is {lines[:1]}, not 'action,verb,noun'. Let prepare_dataset.py write it.")
    try:
        table = np.array([[int(action), int(verb), int(noun)] for action, verb, noun in lines[1:]])
        table = table[table[:, 0].argsort()]
    except (ValueError, IndexError):
        raise ValueError(f'{path}: every line must hold three whole numbers, action,verb,noun. Correct it.') from None
    if (table[:, 0] != np.arange(len(table))).any():
        raise ValueError(f'{path}: the {len(table)} actions are not numbered from 0 without gaps. Correct it.')
    return Actions(table[:, 1], table[:, 2])


def accuracy(scores: np.ndarray, labels: np.ndarray, topk: Sequence[int] = (1, 5)) -> dict[str, float]:
    """(S, classes), (S,) -> top-k accuracies and the mean over classes of the top-1, in percent.

    Of equal scores the lower class comes first; a class without samples does not count in the mean.

    Raises:
        ValueError: fewer classes than the largest k, a label that is none of the classes, or scores that are NaN.
    """
    if max(topk) > scores.shape[1]:
        raise ValueError(f'topk={tuple(topk)} asks for more than the {scores.shape[1]} classes there are. Lower topk.')
    if labels.max() >= scores.shape[1]:
        raise ValueError(
            f'A label is {labels.max()}, but there are scores for {scores.shape[1]} classes, counted from 0. '
            'Correct the labels, or num_classes of the model.'
        )
    if (wrong := np.isnan(scores).any(1)).any():  # they would all count as the first class
        raise ValueError(
            f'The scores of {wrong.sum()} of {len(scores)} samples are NaN, first of sample {wrong.argmax()}. Test in '
            'bfloat16 or float32, or take a checkpoint from before the training diverged.'
        )
    ranked = np.argsort(-scores, axis=1, kind='stable')[:, : max(topk)]
    hits = ranked == labels[:, None]
    result = {f'top{k}': 100 * float(hits[:, :k].any(1).mean()) for k in topk}
    per_class = [hits[labels == label, 0].mean() for label in np.unique(labels)]
    return {**result, 'mean_class': 100 * float(np.mean(per_class))}


def marginal(probabilities: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(S, A) of actions, (A,) the verb (or noun) of each -> (S, verbs): the sum over the actions with that verb."""
    sums = np.zeros((len(probabilities), parts.max() + 1), np.float64)
    np.add.at(sums.T, parts, probabilities.T)
    return sums


def count(
    scores: Scores, *, topk: Sequence[int] = (1, 5), softmax: bool = False, actions: Actions | None = None
) -> dict[str, float]:
    """-> {'top1', 'top5', ..., 'mean_class'} and, with ``actions``, {'verb_top1', 'noun_top1', ...}; in percent.

    With ``actions`` the classes are actions, so 'top1' is the action accuracy. Verbs and nouns are scored by what the
    model says of actions, not by heads of their own: the probability of a verb is the sum of those of its actions,
    whatever their nouns, from the probabilities averaged over views.

    Args:
        scores: of the samples.
        topk: which k to count.
        softmax: rank the classes by the averaged probabilities; the release ranks them by the averaged logits.
        actions: verbs and nouns of the actions.

    Raises:
        ValueError: fewer classes than the largest k, or another number of actions than of classes.
    """
    result = accuracy(scores.probabilities if softmax else scores.scores, scores.labels, topk)
    if actions is None:
        return result
    if len(actions.verbs) != scores.scores.shape[1]:
        raise ValueError(
            f'There are {len(actions.verbs)} actions and scores for {scores.scores.shape[1]} classes. '
            'Give the actions.csv that the labels were made with.'
        )
    for name, parts in zip(('verb', 'noun'), actions, strict=True):
        found = accuracy(marginal(scores.probabilities, parts), parts[scores.labels], topk)
        result |= {f'{name}_top{k}': found[f'top{k}'] for k in topk}
    return result


@METRICS.register_module()
class ClipAccuracy(BaseMetric):
    """Top-k and mean class accuracy of view-averaged scores, in percent; see `count`.

    Args:
        topk: which k to report.
        softmax: rank by probabilities averaged over views in place of logits.
        actions: path of EPIC-Kitchens-100's ``actions.csv``: the classes are actions; verbs and nouns are reported too.
        out_file: also write ids, labels and scores of all samples there (.npz), to be scored again without the model.

    Raises:
        ValueError: samples without labels, fewer classes than the largest k, or a wrong ``actions`` file.
    """

    default_prefix = 'accuracy'

    def __init__(
        self,
        *,
        topk: Sequence[int] = (1, 5),
        softmax: bool = False,
        actions: str | None = None,
        out_file: str | None = None,
        collect_device: str = 'cpu',
    ):
        super().__init__(collect_device)
        self.topk = tuple(topk)
        self.softmax = softmax
        self.actions = None if actions is None else load_actions(actions)
        self.out_file = out_file

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Class names of each source, which the loop hands over before anything runs."""
        counts = [len(classes) for classes in dataset_meta.values() if classes is not None]
        if counts and max(self.topk) > min(counts):
            raise ValueError(
                f'ClipAccuracy: topk={self.topk} asks for more than the {min(counts)} classes there are. Lower topk.'
            )
        self._dataset_meta = dataset_meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep (id, label, scores, probabilities) of each sample."""
        if 'labels' not in data_batch:
            raise ValueError(
                f'ClipAccuracy needs labels, and {data_batch["ids"][0]} has none. Give the dataset labels.'
            )
        rows = [[sample[key].float().cpu().numpy() for key in ('scores', 'probabilities')] for sample in data_samples]
        self.results += [
            (name, label, *row)
            for name, label, row in zip(data_batch['ids'], data_batch['labels'].tolist(), rows, strict=True)
        ]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> what `count` gives."""
        scores = Scores(*map(np.array, zip(*results, strict=True)))
        if self.out_file:
            scores.save(self.out_file)
        return count(scores, topk=self.topk, softmax=self.softmax, actions=self.actions)


# ---------------------------------------------------------------------------------------------------------------------
# Features


class Features(NamedTuple):
    """Frozen features of S samples.

    Attributes:
        ids: (S,) names of the samples.
        labels: (S,) class indices; empty where the samples have none.
        features: (S, D) float32, not normalised to a length of 1.
    """

    ids: np.ndarray
    labels: np.ndarray
    features: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write an .npz file, see `load_features`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'wb') as file:
            np.savez(file, **self._asdict())


def load_features(path: str | Path) -> Features:
    """Read a file of features.

    Raises:
        ValueError: no such file, or one that holds something else.
    """
    return Features(**_read_npz(path, Features._fields))


def knn(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """(Q, D), (S, D), (S,) -> (Q, classes): weighted votes of the ``k`` nearest samples of the bank, as in DINO.

    Near is a high cosine similarity s, and a vote weighs exp(s / temperature); arXiv:2104.14294, section 4.1 (weights:
    arXiv:1805.01978, section 3.4). The votes of a query are divided by their sum, so they read as probabilities.

    Raises:
        ValueError: a bank of fewer than ``k`` samples, or with a label that is none of the classes.
    """
    if k > len(bank):
        raise ValueError(f'k={k} neighbours are more than the {len(bank)} samples of the bank. Lower k.')
    if (largest := int(labels.max())) >= num_classes:
        raise ValueError(
            f'The bank has the label {largest}, counted from 0, and num_classes={num_classes}. Set num_classes='
            f'{largest + 1}, or correct the labels.'
        )
    bank = F.normalize(bank.float(), dim=1)
    votes = []
    for part in F.normalize(queries.float(), dim=1).split(max(MAX_SIMILARITIES // len(bank), 1)):
        nearest, rows = (part @ bank.T).topk(k, dim=1)
        weights = (nearest / temperature).softmax(1)
        votes.append(weights.new_zeros(len(part), num_classes).scatter_add_(1, labels[rows], weights))
    return torch.cat(votes)


def knn_accuracy(
    bank: Features, queries: Features, *, k: int = 20, temperature: float = 0.07, topk: Sequence[int] = (1,)
) -> dict[str, float]:
    """-> the accuracies of the queries' classes by `knn`, in percent.

    Raises:
        ValueError: features without labels or of different models, or fewer samples than ``k``.
    """
    for name, part in dict(bank=bank, queries=queries).items():
        if not len(part.labels):
            raise ValueError(f'The {name} have no labels, which k-NN needs. Extract them from labelled data.')
    if bank.features.shape[1] != queries.features.shape[1]:
        raise ValueError(
            f'Features of {bank.features.shape[1]} and of {queries.features.shape[1]} numbers cannot be compared. '
            'Extract both with one model.'
        )
    num_classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    asked, known, labels = map(torch.from_numpy, (queries.features, bank.features, bank.labels))
    votes = knn(asked, known, labels, num_classes, k=k, temperature=temperature)
    return accuracy(votes.numpy(), queries.labels, topk)


def _read_npz(path: str | Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return {key: file[key] for key in keys}
    except FileNotFoundError:
        raise ValueError(f'{path} does not exist.') from None
    except (KeyError, ValueError, OSError, TypeError, AttributeError, EOFError, BadZipFile) as error:  # cut off, .npy
        raise ValueError(f'{path} does not hold {", ".join(keys)} ({error}). Give a file of our tools.') from None
