"""Metrics of classifiers and of reconstructions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from omnimae.registry import METRICS

from .epic import Actions, Subsets, check_actions, count_parts, load_actions, load_subsets
from .scores import Scores, accuracy, group_names, usual_topk


@METRICS.register_module()
class ReconstructionLoss(BaseMetric):
    """Mean reconstruction loss per modality, over held-out samples."""

    default_prefix = 'reconstruction'
    may_lack_samples = True  # files that cannot be read are left out

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep (modality, loss) of each sample."""
        self.results += [(sample['modality'], float(sample['loss'])) for sample in data_samples]

    def names_of(self, dataset: Any) -> set[str]:
        """Names that `compute_metrics` gives for a MixedDataset."""
        return {source.modality for source in dataset.sources}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {modality: mean loss}."""
        losses = defaultdict(list)
        for modality, loss in results:
            losses[modality].append(loss)
        return {modality: float(np.mean(values)) for modality, values in sorted(losses.items())}


def count(
    scores: Scores,
    *,
    topk: Sequence[int] | None = None,
    softmax: bool = False,
    actions: Actions | None = None,
    subsets: Subsets | None = None,
) -> dict[str, float]:
    """-> {'top1', 'top5', ..., 'mean_class'} and, with ``actions``, {'verb_top1', 'noun_top1', ...}; in percent.

    Each of several sources and each of several modalities has its own accuracy too, {'NAME/top1', ...}, see
    `group_names`. With ``actions`` the classes are actions, and 'top1' is the action accuracy. Verbs and nouns have no
    head. The probability of a verb is the sum of those of its actions, averaged over views.

    Args:
        scores: of the samples.
        topk: which k to count; by default 1 and 5, see `accuracy`.
        softmax: rank the classes by the averaged probabilities. The release ranks them by the averaged logits.
        actions: verbs and nouns of the actions.
        subsets: of EPIC-Kitchens-100, counted with ``actions``, see `epic.count_parts`.
    """
    result = accuracy(scores.ranked(softmax), scores.labels, topk)
    if actions is not None:
        check_actions(actions, scores)
        result |= count_parts(scores, actions, subsets or Subsets(), topk=topk, softmax=softmax)
    for name, rows in scores.groups().items():
        found = count(scores.rows(rows), topk=topk, softmax=softmax, actions=actions, subsets=subsets)
        result |= {f'{name}/{key}': value for key, value in found.items()}
    return result


@METRICS.register_module()
class ClipAccuracy(BaseMetric):
    """Top-k and mean class accuracy of view-averaged scores in percent, for all samples and each group, see `count`.

    Args:
        topk: which k to report; by default 1, and 5 if there are five classes or more.
        softmax: rank by probabilities averaged over views instead of logits.
        actions: path of EPIC-Kitchens-100's ``actions.csv``. The classes are then actions. Verbs and nouns are reported
            too. So are the subsets of the challenge if their official lists are next to it, see `load_subsets`.
        out_file: also write ids, labels and scores of all samples there (.npz), to be scored again without the model.
            Samples without labels, such as a challenge's test set, are only written.
    """

    default_prefix = 'accuracy'

    def __init__(
        self,
        *,
        topk: Sequence[int] | None = None,
        softmax: bool = False,
        actions: str | None = None,
        out_file: str | None = None,
    ):
        super().__init__()
        self.topk = None if topk is None else tuple(topk)
        self.softmax = softmax
        self.actions = None if actions is None else load_actions(actions)
        self.subsets = None if actions is None else load_subsets(Path(actions).parent)
        self.out_file = out_file

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Class names of each source. The loop sets them before anything runs."""
        for classes in dataset_meta.values():
            if classes is not None:
                self.check_size(len(classes))
        self._dataset_meta = dataset_meta

    def check_size(self, num_classes: int) -> None:
        """Refuse fewer classes than the largest k."""
        if self.topk is not None and max(self.topk) > num_classes:
            raise ValueError(
                f'ClipAccuracy: topk={self.topk} asks for more than the {num_classes} classes there are. Lower topk.'
            )

    def names_of(self, dataset: Any) -> set[str] | None:
        """Names that `count` gives for a MixedDataset. None with actions, whose parts are in files."""
        if self.actions is not None:
            return None
        sizes = [len(x.classes) for x in dataset.sources if getattr(x, 'classes', None)]
        topk = usual_topk(min(sizes, default=5)) if self.topk is None else self.topk
        own = {'mean_class', *(f'top{k}' for k in topk)}
        names = group_names({name: x.modality for name, x in zip(dataset.names, dataset.sources, strict=True)})
        return own | {f'{name}/{key}' for name in names for key in own}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep (id, label, scores, probabilities, source, modality) of each sample."""
        if 'labels' not in data_batch and self.out_file is None:
            raise ValueError(
                f'ClipAccuracy needs labels, and {data_batch["ids"][0]} has none. Give the dataset labels; or an '
                'out_file (tools/test.py --out), to write the scores alone.'
            )
        labels = data_batch['labels'].tolist() if 'labels' in data_batch else [None] * len(data_samples)
        rows = [[sample[key].float().cpu().numpy() for key in ('scores', 'probabilities')] for sample in data_samples]
        self.results += [
            (name, label, *row, data_batch.get('source', ''), data_batch.get('modality', ''))
            for name, label, row in zip(data_batch['ids'], labels, rows, strict=True)
        ]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> the result of `count`. Empty without labels."""
        ids, labels, *arrays = zip(*results, strict=True)
        known = [label for label in labels if label is not None]
        if len(known) not in (0, len(ids)):
            raise ValueError(
                f'{len(known)} of {len(ids)} samples have labels. Give all sources labels, or test them one by one.'
            )
        scores = Scores(np.array(ids), np.array(known, np.int64), *map(np.array, arrays))
        if self.out_file:
            scores.save(self.out_file)
        if not known:
            print_log(f'No labels, so no accuracy: the scores are in {self.out_file}.', 'current', logging.WARNING)
            return {}
        return count(scores, topk=self.topk, softmax=self.softmax, actions=self.actions, subsets=self.subsets)
