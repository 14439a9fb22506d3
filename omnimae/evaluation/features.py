"""Frozen features in files, and k-NN on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .npz import read_npz, write_npz
from .scores import accuracy, without_zeros

INDEX = 'index.json'  # of a folder of shards: file name -> how many samples, in the order of the data set
MAX_SIMILARITIES = 2**27  # that are held at once: 512 MiB


class Features(NamedTuple):
    """Frozen features of S samples.

    Attributes:
        ids: (S,) names of the samples.
        labels: (S,) class indices. Empty if the samples have none.
        features: (S, D) float32, not normalised to unit length.
    """

    ids: np.ndarray
    labels: np.ndarray
    features: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write an .npz file, see `load_features`."""
        write_npz(path, self._asdict())


def load_features(path: str | Path) -> Features:
    """Read a file of features, or a folder of such files, listed in its index."""
    if not Path(path).is_dir():
        return Features(**read_npz(path, Features._fields))
    index = Path(path, INDEX)
    shards = json.loads(index.read_text())['shards'] if index.exists() else None
    if shards is None:
        raise ValueError(
            f'{path} does not hold all features: its {INDEX} lists no shards. Run extract_features.py again, which '
            'goes on where it was stopped.'
        )
    parts = [Features(**read_npz(Path(path, name), Features._fields)) for name, size in shards.items() if size]
    return Features(*map(np.concatenate, zip(*parts, strict=True)))


def knn(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """(Q, D), (S, D), (S,) -> (Q, classes). Weighted votes of the ``k`` nearest samples of the bank, as in DINO.

    The similarity s is the cosine. A vote has the weight exp(s / temperature) (arXiv:2104.14294, section 4.1; weights:
    arXiv:1805.01978, section 3.4). The votes of a query are normalised to a sum of 1. If only some of several equally
    near samples are among the ``k``, all of them share the remaining places. So with identical features the classes get
    their shares of the bank, in any order.
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
        similarities = part @ bank.T
        nearest, rows = similarities.topk(k, dim=1)
        weights = (nearest / temperature).softmax(1)
        found = weights.new_zeros(len(part), num_classes).scatter_add_(1, labels[rows], weights)
        for row in ((similarities >= nearest[:, -1:]).sum(1) > k).nonzero()[:, 0].tolist():
            found[row] = _shared_votes(similarities[row], nearest[row], labels, num_classes, temperature)
        votes.append(found)
    return torch.cat(votes)


def _shared_votes(
    similarities: Tensor, nearest: Tensor, labels: Tensor, num_classes: int, temperature: float
) -> Tensor:
    """(S,), (k,), (S,) -> (classes,). Votes if more samples are as near as the last of ``nearest``."""
    near, level = similarities > nearest[-1], similarities == nearest[-1]
    places = (len(nearest) - near.sum()) / level.sum()  # for each of the equally near
    weights = ((similarities - nearest[0]) / temperature).exp() * (near + level * places)
    return weights.new_zeros(num_classes).scatter_add_(0, labels, weights) / weights.sum()


def knn_accuracy(
    bank: Features, queries: Features, *, k: int = 20, temperature: float = 0.07, topk: Sequence[int] | None = (1,)
) -> dict[str, float]:
    """-> the accuracies of the queries' classes by `knn`, in percent; a class without a vote is in no top k."""
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
    return accuracy(without_zeros(votes.numpy()), queries.labels, topk)
