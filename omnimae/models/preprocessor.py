"""Between loader and model: moves a batch to the device and owns the pixel statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from omnimae.registry import MODELS
from omnimae.structures import Batch

MODEL_INPUTS = ('clip', 'modality', 'labels', 'masks')


@MODELS.register_module()
class ClipPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device; normalise pixels when asked. The only place that knows mean and std.

    Clips stay uint8 RGB. A floating clip counts as normalised already.

    Args:
        mean, std: per RGB channel, of pixels in 0..1.
    """

    def __init__(self, *, mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.229, 0.224, 0.225)):
        super().__init__(non_blocking=True)
        self.register_buffer('mean', torch.tensor(mean), persistent=False)
        self.register_buffer('std', torch.tensor(std), persistent=False)

    def forward(self, data: Batch, training: bool = False) -> dict:
        """A batch of the loader -> the arguments of the model's ``forward``, on its device."""
        return self.cast_data({key: data[key] for key in MODEL_INPUTS if key in data})

    def normalize(self, clip: Tensor) -> Tensor:
        """(..., C, T, H, W) -> the same, floating and normalised."""
        return self._normalize(clip, self.mean.view(-1, 1, 1, 1), self.std.view(-1, 1, 1, 1))

    def normalize_patches(self, patches: Tensor) -> Tensor:
        """(B, K, P), channel fastest -> the same, floating and normalised."""
        return self._normalize(patches.unflatten(-1, (-1, 3)), self.mean, self.std).flatten(-2)

    def pixels_of_patches(self, patches: Tensor) -> Tensor:
        """(B, M, P), channel fastest, uint8 or normalised -> pixels in 0..1."""
        if patches.dtype == torch.uint8:
            return patches / 255
        return (patches.unflatten(-1, (-1, 3)) * self.std + self.mean).flatten(-2)

    @staticmethod
    def _normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return (pixels / 255 - mean) / std if pixels.dtype == torch.uint8 else pixels
