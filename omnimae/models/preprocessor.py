"""Between loader and model: moves a batch to the device and owns the pixel statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from omnimae.registry import MODELS
from omnimae.structures import Batch

MODEL_INPUTS = ('clip', 'modality', 'labels', 'masks')


@MODELS.register_module()
class ClipPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device, augment it in training, normalise pixels when asked.

    The only place that knows mean and std. Without ``erasing`` and ``mixing`` clips stay uint8 RGB; with them those of
    training become normalised, and with ``mixing`` labels become targets (B, classes). A floating clip counts as
    normalised already.

    Args:
        mean, std: per RGB channel, of pixels in 0..1.
        erasing: config of a `RandomErasing`.
        mixing: config of a `MixupCutMix`, which follows the erasing.
        num_classes: of the model; the Classifier says it.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        erasing: dict | None = None,
        mixing: dict | None = None,
        num_classes: int | None = None,
    ):
        super().__init__(non_blocking=True)
        self.register_buffer('mean', torch.tensor(mean), persistent=False)
        self.register_buffer('std', torch.tensor(std), persistent=False)
        self.erasing = None if erasing is None else MODELS.build(erasing)
        self.mixing = None if mixing is None else MODELS.build(mixing)
        self.num_classes = num_classes

    def forward(self, data: Batch, training: bool = False) -> dict:
        """A batch of the loader -> the arguments of the model's ``forward``, on its device.

        Raises:
            ValueError: a label that is none of the model's classes, or no labels to mix.
        """
        if 'labels' in data and self.num_classes is not None:
            self._check_labels(data)
        inputs = self.cast_data({key: value for key, value in data.items() if key in MODEL_INPUTS})
        if training and (self.erasing or self.mixing):
            self._augment(inputs)
        return inputs

    def _augment(self, inputs: dict) -> None:
        clip = inputs['clip']
        clip = clip.clone() if clip.is_floating_point() else self.normalize(clip)  # it will be changed in place
        if self.erasing:
            black = torch.zeros(3, 1, 1, 1, dtype=torch.uint8, device=clip.device)
            self.erasing(clip, black=self.normalize(black))
        if self.mixing:
            if 'labels' not in inputs or self.num_classes is None:
                raise ValueError(
                    'model.data_preprocessor.mixing mixes labels, and this batch or model has none. Remove it, or '
                    'train a Classifier on a dataset with an ann_file with labels, or with a folder per class.'
                )
            targets = F.one_hot(inputs['labels'], self.num_classes).float()
            clip, inputs['labels'] = self.mixing(clip, targets)
        inputs['clip'] = clip

    def _check_labels(self, data: Batch) -> None:
        # Before they go to the GPU, where a wrong one ends the process with an assertion that names nothing.
        labels = data['labels'].tolist()
        for index, label in enumerate(labels):
            if not 0 <= label < self.num_classes:
                raise ValueError(
                    f"The label {label} of {data['ids'][index]!r} is none of the model's {self.num_classes} classes, "
                    'counted from 0. Set model.num_classes to the number of classes, or correct the labels.'
                )

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
