"""Metrics of class maps and depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from PIL import Image
from torch import Tensor

from omnimae.registry import METRICS
from omnimae.structures import UNKNOWN_CLASS


@METRICS.register_module()
class SegmentationScore(BaseMetric):
    """mIoU, mean class accuracy and pixel accuracy over all pixels of all samples that have a class, in percent.

    As in MMSegmentation, areas are summed over the samples first. The IoU of a class is that of its predicted and
    labelled pixels. Its accuracy is the share of its labelled pixels that are right. mIoU excludes classes that are
    neither predicted nor labelled. The mean accuracy excludes classes that are not labelled. A pixel predicted as 255
    (a tie, or NaN) is wrong.

    Args:
        out_dir: also write each prediction there, as 8-bit PNG of the model's classes, named after its sample.
    """

    default_prefix = 'segmentation'

    def __init__(self, *, out_dir: str | None = None):
        super().__init__()
        self.out_dir = out_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the right, predicted and labelled pixels of each class, (3, classes) for each sample."""
        for name, target, sample in zip(data_batch['ids'], _targets(self, data_batch), data_samples, strict=True):
            classes = _same_size(name, sample['classes'], target)
            if self.out_dir is not None:
                _write_map(self.out_dir, name, classes)
            known = target != UNKNOWN_CLASS
            predicted, labelled = classes[known], target[known]
            groups = [predicted[predicted == labelled], predicted, labelled]
            areas = [np.bincount(group, minlength=UNKNOWN_CLASS + 1)[:UNKNOWN_CLASS] for group in groups]
            self.results.append(np.stack(areas))

    def names_of(self, dataset: Any) -> set[str]:
        """What `compute_metrics` gives."""
        return {'mIoU', 'mAcc', 'aAcc'}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {'mIoU', 'mAcc', 'aAcc'}."""
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
    """Errors of predicted depth, over all pixels of all samples with known depth.

    delta1, delta2 and delta3 are the shares, in percent, of pixels where the larger of prediction / truth and truth /
    prediction is below 1.25, 1.25^2 and 1.25^3. A prediction of 0 or less never counts. rmse is in the unit of the
    files. rel is the mean of |error| / truth. (MultiMAE's release averages over batches. It counts a prediction of 0 or
    less as right where the truth is 0.)

    Args:
        out_dir: also write each prediction there, as 16-bit PNG in the unit of the files, named after its sample.
    """

    default_prefix = 'depth'
    floor = 1e-6  # of depth in a ratio, as in the release

    def __init__(self, *, out_dir: str | None = None):
        super().__init__()
        self.out_dir = out_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the sums of each sample: pixels, those within each ratio, squared and relative errors."""
        for name, target, sample in zip(data_batch['ids'], _targets(self, data_batch), data_samples, strict=True):
            depth = _same_size(name, sample['depth'], target)
            if self.out_dir is not None:
                _write_map(self.out_dir, name, depth.round().clip(0, 2**16 - 1).astype(np.uint16))
            known = target >= 0
            depth, truth = depth[known].astype(np.float64), target[known].astype(np.float64)
            if not np.isfinite(depth).all():
                raise ValueError(
                    f'DepthScore: the prediction for {name} is not finite. Take a checkpoint from before the training '
                    'diverged.'
                )
            error, safe = np.abs(depth - truth), np.maximum(truth, self.floor)
            ratio = np.maximum(depth / safe, truth / np.maximum(depth, self.floor))
            within = [((ratio < 1.25**power) & (depth > 0)).sum() for power in (1, 2, 3)]
            self.results.append(np.array([len(truth), *within, np.square(error).sum(), (error / safe).sum()]))

    def names_of(self, dataset: Any) -> set[str]:
        """What `compute_metrics` gives."""
        return {'delta1', 'delta2', 'delta3', 'rmse', 'rel'}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """-> {'delta1', 'delta2', 'delta3', 'rmse', 'rel'}."""
        number, *within, squared, relative = np.sum(results, 0)
        if not number:
            raise ValueError(
                'DepthScore: the tested samples have no pixel of known depth. Check the target, and valid.'
            )
        deltas = {f'delta{power}': 100 * float(count / number) for power, count in enumerate(within, start=1)}
        return {**deltas, 'rmse': float(np.sqrt(squared / number)), 'rel': float(relative / number)}


def _targets(metric: BaseMetric, data_batch: dict) -> np.ndarray:
    """The batch's (B, 1, T=1, H, W) -> (B, H, W)."""
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
