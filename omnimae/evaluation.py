"""What scores, maps and features say: accuracy over views, EPIC-Kitchens verbs and nouns, mIoU, depth, k-NN."""

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
from PIL import Image
from torch import Tensor

from omnimae.registry import METRICS
from omnimae.structures import UNKNOWN_CLASS

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
# Maps


@METRICS.register_module()
class SegmentationScore(BaseMetric):
    """mIoU, mean class accuracy and pixel accuracy over all pixels of all samples that have a class, in percent.

    As in MMSegmentation: areas are summed over the samples first. The IoU of a class is that of its pixels predicted
    and labelled; the accuracy of a class is the share of its pixels that is right. A class that is neither predicted
    nor labelled has no part in mIoU, one that is not labelled none in the mean accuracy.

    Args:
        out_dir: also write each prediction there, as 8-bit PNG of the model's classes, named after its sample.
    """

    default_prefix = 'segmentation'

    def __init__(self, *, out_dir: str | None = None, collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.out_dir = out_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the areas of each sample, (3, classes): right, predicted and labelled pixels."""
        for name, target, sample in zip(data_batch['ids'], _targets(self, data_batch), data_samples, strict=True):
            classes = _same_size(name, sample['classes'], target)
            if self.out_dir is not None:
                _write_map(self.out_dir, name, classes)
            known = target != UNKNOWN_CLASS
            predicted, labelled = classes[known], target[known]
            groups = [predicted[predicted == labelled], predicted, labelled]
            self.results.append(np.stack([np.bincount(group, minlength=UNKNOWN_CLASS) for group in groups]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {'mIoU', 'mAcc', 'aAcc'}.

        Raises:
            ValueError: no pixel has a class.
        """
        right, predicted, labelled = np.sum(results, 0)
        if not labelled.any():
            raise ValueError('SegmentationScore: no pixel of the tested samples has a class. Check the maps of target.')
        seen, exists = predicted + labelled > 0, labelled > 0
        return {
            'mIoU': 100 * float((right[seen] / (predicted + labelled - right)[seen]).mean()),
            'mAcc': 100 * float((right[exists] / labelled[exists]).mean()),
            'aAcc': 100 * float(right.sum() / labelled.sum()),
        }


@METRICS.register_module()
class DepthScore(BaseMetric):
    """How far predicted depth is from the true one, over all pixels of all samples whose depth is known.

    delta1, delta2 and delta3 are the shares, in percent, of pixels where the larger of prediction / truth and truth /
    prediction is below 1.25, 1.25^2 and 1.25^3; rmse is in the unit of the files, rel the mean of |error| / truth. (The
    release of MultiMAE takes them of each batch, and the mean over batches.)

    Args:
        out_dir: also write each prediction there, as 16-bit PNG in the unit of the files, named after its sample.
    """

    default_prefix = 'depth'
    floor = 1e-6  # of depth in a ratio, as in the release

    def __init__(self, *, out_dir: str | None = None, collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.out_dir = out_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the sums of each sample: pixels, those within each ratio, squared and relative errors."""
        for name, target, sample in zip(data_batch['ids'], _targets(self, data_batch), data_samples, strict=True):
            depth = _same_size(name, sample['depth'], target)
            if self.out_dir is not None:
                _write_map(self.out_dir, name, depth.round().clip(0, 2**16 - 1).astype(np.uint16))
            known = target >= 0
            depth, truth = depth[known].astype(np.float64), target[known].astype(np.float64)
            error, safe = np.abs(depth - truth), np.maximum(truth, self.floor)
            ratio = np.maximum(depth / safe, truth / np.maximum(depth, self.floor))
            within = [(ratio < 1.25**power).sum() for power in (1, 2, 3)]
            self.results.append(np.array([len(truth), *within, np.square(error).sum(), (error / safe).sum()]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {'delta1', 'delta2', 'delta3', 'rmse', 'rel'}.

        Raises:
            ValueError: the depth of no pixel is known.
        """
        number, *within, squared, relative = np.sum(results, 0)
        if not number:
            raise ValueError(
                'DepthScore: the tested samples have no pixel of known depth. Check the target, and valid.'
            )
        deltas = {f'delta{power}': 100 * float(count / number) for power, count in enumerate(within, start=1)}
        return {**deltas, 'rmse': float(np.sqrt(squared / number)), 'rel': float(relative / number)}


def _targets(metric: BaseMetric, data_batch: dict) -> np.ndarray:
    """The batch's (B, 1, T=1, H, W) -> (B, H, W).

    Raises:
        ValueError: there is none.
    """
    if 'target' not in data_batch:
        raise ValueError(
            f'{type(metric).__name__} needs the true maps, and {data_batch["ids"][0]} has none. Set target of the '
            'dataset.'
        )
    return data_batch['target'][:, 0, 0].cpu().numpy()


def _same_size(name: str, result: Tensor, target: np.ndarray) -> np.ndarray:
    if result.shape != target.shape:
        raise ValueError(
            f'The prediction for {name} has {tuple(result.shape)} pixels, the truth {target.shape}. Leave stride out '
            'for the target.'
        )
    return result.cpu().numpy()


def _write_map(folder: str, name: str, pixels: np.ndarray) -> None:
    parts = [part for part in Path(name).parts if part not in ('..', '/')]  # a list may name files outside its root
    path = Path(folder, *parts).with_suffix('.png')
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


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
