"""Moves batches from the loader to the device, and owns the pixel statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import UNKNOWN_CLASS, Batch, check_pixel_statistics, with_clips

STEP_INPUTS = ('features', 'shares', 'largest_error')  # what a model's ``begin_step`` may add
MODEL_INPUTS = ('clips', 'modality', 'labels', 'masks', *STEP_INPUTS)


@MODELS.register_module()
class ClipPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device, augment it in training, normalise pixels when asked.

    The only owner of mean and std. Without ``erasing`` and ``mixing`` clips stay uint8 RGB. With them training clips
    are normalised. With ``mixing`` labels become targets (B, classes). A floating clip counts as normalised.

    Args:
        mean, std: per RGB channel, of pixels in 0..1.
        erasing: config of a `RandomErasing`.
        mixing: config of a `MixupCutMix`, which follows the erasing.
        num_classes: of the model. The Classifier sets it.
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
        check_pixel_statistics('ClipPreprocessor', mean, std)
        self.register_buffer('mean', torch.tensor(mean), persistent=False)
        self.register_buffer('std', torch.tensor(std), persistent=False)
        self.erasing = None if erasing is None else MODELS.build(erasing)
        self.mixing = None if mixing is None else MODELS.build(mixing)
        self.num_classes = num_classes

    def forward(self, data: Batch, training: bool = False) -> dict:
        """A batch of the loader -> the arguments of the model's ``forward``, on its device."""
        inputs = self.move(data)
        if clips := inputs.pop('clips', None):
            if clips.keys() != {'rgb'}:
                raise ValueError(
                    f'A {type(self).__name__} takes one RGB clip, and the batch has {list(clips)}. Set '
                    "model.data_preprocessor.type='MultiModalPreprocessor', or read RGB alone."
                )
            inputs['clip'] = clips['rgb']
        if training and (self.erasing or self.mixing) and 'features' not in data:
            self._augment(inputs)
        return inputs

    def move(self, data: Batch) -> dict:
        """The model's inputs in a batch, on its device. Labels are checked on the host first."""
        if self.num_classes is not None and _is_on_host(data.get('labels')):
            _check_labels(data, self.num_classes)
        return self.cast_data({key: value for key, value in with_clips(data).items() if key in MODEL_INPUTS})

    def _augment(self, inputs: dict) -> None:
        clip = inputs['clip']
        clip = clip.clone() if clip.is_floating_point() else self.normalize(clip)  # it will be changed in place
        if self.erasing:
            black = torch.zeros(3, 1, 1, 1, dtype=torch.uint8, device=clip.device)
            self.erasing(clip, black=self.normalize(black))
        if self.mixing:
            if 'labels' not in inputs or self.num_classes is None:
                raise ValueError(
                    'model.data_preprocessor.mixing mixes labels, and this batch or model has none. Set it to '
                    'None, or train a Classifier on a dataset with an ann_file with labels, or with a folder per class.'
                )
            targets = F.one_hot(inputs['labels'], self.num_classes).float()
            clip, inputs['labels'] = self.mixing(clip, targets)
        inputs['clip'] = clip

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


def _is_on_host(tensor: Tensor | None) -> bool:
    """Whether there are values to check. Those on the device are checked already, and reading them would wait."""
    return tensor is not None and tensor.device.type == 'cpu'


def _check_labels(data: Batch, num_classes: int) -> None:
    # On a GPU a wrong one ends the process with an assertion that names no sample.
    for name, label in zip(data['ids'], data['labels'].tolist(), strict=True):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"The label {label} of {name!r} is none of the model's {num_classes} classes, counted from 0. Set "
                'model.num_classes to the number of classes, or correct the labels.'
            )


@MODELS.register_module()
class MultiModalPreprocessor(BaseDataPreprocessor):
    """Move a batch of several modalities to the device, normalise each when asked. A lone clip is RGB.

    Args:
        modalities: name -> config of its preprocessor. One without, such as a map of classes, stays as it is.
        num_classes: of labels, or of pixels of the target. A Classifier or a DensePredictor sets it.
        target: whether the model predicts the target of a batch. A DensePredictor sets it.

    Attributes:
        input_classes: modality -> number of classes of its maps, where limited. The model sets it.
    """

    def __init__(
        self, *, modalities: Mapping[str, dict] | None = None, num_classes: int | None = None, target: bool = False
    ):
        super().__init__(non_blocking=True)
        if modalities is None:
            modalities = dict(rgb=dict(type='ClipPreprocessor'), depth=dict(type='DepthPreprocessor'))
        self.modalities = nn.ModuleDict({name: MODELS.build(cfg) for name, cfg in modalities.items()})
        self.num_classes = num_classes
        self.target = target
        self.input_classes: Mapping[str, int] = {}

    def forward(self, data: Batch, training: bool = False) -> dict:
        """As `move`: there is no augmentation."""
        return self.move(data)

    def move(self, data: Batch) -> dict:
        """A batch of the loader -> the arguments of the model's ``forward``, on its device, checked on the host before.

        Only a model with classes gets labels. Only a model that predicts it gets the target.
        """
        data = with_clips(data)
        keys = ['clips', 'masks', *STEP_INPUTS]
        self._check_inputs(data)
        if self.target:
            keys.append('target')
            if self.num_classes is not None and _is_on_host(data.get('target')):
                self._check_target(data)
        elif self.num_classes is not None and 'labels' in data:
            if _is_on_host(data['labels']):
                _check_labels(data, self.num_classes)
            keys.append('labels')
        return self.cast_data({key: value for key, value in data.items() if key in keys})

    def _check_inputs(self, data: Batch) -> None:
        for modality, num_classes in self.input_classes.items():
            if not _is_on_host(data.get('clips', {}).get(modality)):
                continue
            for name, largest in zip(data['ids'], data['clips'][modality].flatten(1).amax(1).tolist(), strict=True):
                if largest >= num_classes:
                    raise ValueError(
                        f'The {modality} of {name!r} has the class {largest}, none of the {num_classes} of '
                        f'its tokenizer, counted from 0. Set backbone.tokenizers.{modality}.padding_class=True if '
                        'pixels may have none, or correct the maps.'
                    )

    def _check_target(self, data: Batch) -> None:
        # On a GPU a wrong one ends the process with an assertion that names no sample.
        for name, target in zip(data['ids'], data['target'], strict=True):
            wrong = (target >= self.num_classes) & (target != UNKNOWN_CLASS)
            if wrong.any():
                raise ValueError(
                    f"The map of {name!r} has the class {target[wrong][0]}, none of the model's {self.num_classes}, "
                    f'counted from 0 ({UNKNOWN_CLASS}: none). Correct the maps, set reduce_zero_label if they count '
                    'from 1, or give the task another num_classes.'
                )

    def normalize(self, clips: Mapping[str, Tensor] | Tensor) -> dict[str, Tensor] | Tensor:
        """Modality -> (B, C, T, H, W), or a lone clip of RGB, integers as they are stored -> the same, normalised."""
        if isinstance(clips, Tensor):
            return self._normalize('rgb', clips)
        return {name: self._normalize(name, clip) for name, clip in clips.items()}

    def _normalize(self, modality: str, clip: Tensor) -> Tensor:
        normalizers: Any = self.modalities
        return normalizers[modality].normalize(clip) if modality in normalizers else clip


@MODELS.register_module()
class DepthPreprocessor(nn.Module):
    """Standardise depth with trimmed statistics (MultiMAE, arXiv:2204.01678, section 4).

    Mean and std are of each clip's values without its nearest and farthest. Negative values are unknown depth. They do
    not count, and become 0. (In the release's segmentation invalid pixels count in mean and std before they become 0.
    In its depth estimation they do not.)

    Args:
        trim: share of the values that is left out at each end.
    """

    eps = 1e-6  # on the variance, of depth in 0..1

    def __init__(self, *, trim: float = 0.1):
        super().__init__()
        if not 0 <= trim < 0.5:
            raise ValueError(f'DepthPreprocessor: trim={trim} leaves no values. Give a share from 0 to below 0.5.')
        self.trim = trim

    def normalize(self, clip: Tensor) -> Tensor:
        """(B, 1, T, H, W) -> the same, standardised.

        A floating clip counts as standardised. uint8 and int16 hold 8 bits of depth, other integers 16.
        """
        if clip.is_floating_point():
            return clip
        depth = clip / 2 ** (8 if clip.dtype in (torch.uint8, torch.int16) else 16)
        known = (clip >= 0).flatten(1)
        values = depth.flatten(1).masked_fill(~known, torch.inf).sort(1).values  # unknown ones come last
        count = known.sum(1, keepdim=True).double()
        place = torch.arange(values.shape[1], device=values.device)
        kept = (place >= (self.trim * count).long()) & (place < ((1 - self.trim) * count).long())
        number = kept.sum(1, keepdim=True)
        mean = values.masked_fill(~kept, 0).sum(1, keepdim=True) / number.clamp(min=1)
        variance = (values - mean).masked_fill(~kept, 0).square().sum(1, keepdim=True) / (number - 1).clamp(min=1)
        standardised = (depth.flatten(1) - mean) / (variance + self.eps).sqrt()
        return standardised.masked_fill(~known, 0).view_as(depth)
