"""Pictures of maps: classes and depth, alone or beside what a DensePredictor predicts."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnimae.structures import UNKNOWN_CLASS, only_view
from omnimae.visualization.sheets import Row, of_one_size, sheet


@torch.no_grad()
def predictions_sheet(model: Any, samples: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """Draw inputs, truth and prediction of a DensePredictor for samples with a target, one row each.

    Each class has its own colour. Depth is grey from the minimum to the maximum of the truth. Black is unknown.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    rows = []
    for sample in samples:
        clips = {name: only_view(clip)[:1] for name, clip in sample['clips'].items()}
        [prediction] = model.predict({name: clip.to(device) for name, clip in clips.items()})[0].values()
        truth = sample['target'][0, 0, 0]
        panels = [map_picture(clip[0, :, 0]) for clip in clips.values()]
        panels += [map_picture(x.cpu()[None], like=truth) for x in (truth, prediction)]
        rows.append(Row(of_one_size(panels), caption=sample['id']))
    model.train(training)
    return sheet(title, rows, [*samples[0]['clips'], 'truth', 'prediction'])


def map_picture(pixels: Tensor, like: Tensor | None = None) -> np.ndarray:
    """(C, H, W) RGB, classes (uint8) or depth -> (H, W, 3) uint8. Depth is scaled to the extremes of ``like``."""
    if len(pixels) == 3:
        return pixels.permute(1, 2, 0).numpy()
    if pixels.dtype == torch.uint8:
        colours = palette(UNKNOWN_CLASS)[pixels[0].long()]
    else:
        known = pixels if like is None else like
        known = known[known >= 0].float()
        grey = greys(pixels[0], known if len(known) else torch.tensor([0.0, 1.0]))
        colours = torch.where(pixels[0] < 0, 0, 0.1 + 0.9 * grey)[..., None].expand(-1, -1, 3)
    return (colours * 255).round().to(torch.uint8).numpy()


def greys(values: Tensor, like: Tensor) -> Tensor:
    """Scale values to 0..1, from the minimum to the maximum of ``like``."""
    low, high = like.min(), like.max()
    return ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def palette(num_classes: int) -> Tensor:
    """-> (num_classes + 1, 3) in 0..1: distinct colours, far apart for neighbouring classes. The last is black."""
    rows = [
        colorsys.hsv_to_rgb(i * 0.618 % 1, (0.85, 0.5)[i // 2 % 2], (0.95, 0.65)[i % 2]) for i in range(num_classes)
    ]
    return torch.tensor([*rows, (0.0, 0.0, 0.0)])
