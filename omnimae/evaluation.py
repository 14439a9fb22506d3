"""Metrics: held-out reconstruction loss, accuracy over views, and the file of per-sample scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric

from omnimae.registry import METRICS


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


def accuracy(scores: np.ndarray, labels: np.ndarray, topk: Sequence[int] = (1, 5)) -> dict[str, float]:
    """(S, classes), (S,) -> top-k accuracies and the mean over classes of the top-1, in percent.

    Raises:
        ValueError: fewer classes than the largest k.
    """
    if max(topk) > scores.shape[1]:
        raise ValueError(f'topk={tuple(topk)} asks for more than the {scores.shape[1]} classes there are. Lower topk.')
    ranked = np.argsort(-scores, axis=1, kind='stable')[:, : max(topk)]
    hits = ranked == labels[:, None]
    result = {f'top{k}': 100 * float(hits[:, :k].any(1).mean()) for k in topk}
    per_class = [hits[labels == label, 0].mean() for label in np.unique(labels)]
    return {**result, 'mean_class': 100 * float(np.mean(per_class))}


@METRICS.register_module()
class ClipAccuracy(BaseMetric):
    """Top-k and mean class accuracy of view-averaged scores, in percent.

    Args:
        topk: which k to report.
        out_file: also write ids, labels and scores of all samples there (.npz), to be scored again without the model.

    Raises:
        ValueError: samples without labels, or fewer classes than the largest k.
    """

    default_prefix = 'accuracy'

    def __init__(self, *, topk: Sequence[int] = (1, 5), out_file: str | None = None, collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.topk = tuple(topk)
        self.out_file = out_file

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep (id, label, scores) of each sample."""
        if 'labels' not in data_batch:
            raise ValueError(
                f'ClipAccuracy needs labels, and {data_batch["ids"][0]} has none. Give the dataset labels.'
            )
        scores = [sample['scores'].float().cpu().numpy() for sample in data_samples]
        self.results += list(zip(data_batch['ids'], data_batch['labels'].tolist(), scores, strict=True))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {'top1', 'top5', ..., 'mean_class'}."""
        ids, labels, scores = zip(*results, strict=True)
        labels, scores = np.array(labels), np.stack(scores)
        if self.out_file:
            Path(self.out_file).parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(self.out_file, ids=np.array(ids), labels=labels, scores=scores)
        return accuracy(scores, labels, self.topk)
