"""Augmentation of normalised batches on the device: erasing and mixing, right for images and clips alike.

Boxes and shares are drawn on the host, noise on the device; like DropPath they follow from (seed, step, rank) when
StepSeedHook runs. The recipes' numbers are in arXiv:2206.08356, B.2, Tables 4 and 5, and the OmniMAE release.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Beta

from omnimae.registry import MODELS


@MODELS.register_module()
class RandomErasing:
    """Replace a random box of a sample, with probability ``prob``; all frames lose the same box (arXiv:1708.04896).

    The release erases images to black, and clips to unit normal noise *in normalised units*, which uint8 cannot hold.
    So both happen here, after the normalisation, and not in the loader.

    Args:
        fill: 'black', or 'noise' that is fresh in every pixel, channel and frame.
        prob: of erasing a sample.
        area: range of the box's share of the frame.
        ratio: range of the box's height / width. Its logarithm is uniform.
    """

    def __init__(
        self,
        *,
        fill: str,
        prob: float = 0.25,
        area: tuple[float, float] = (0.02, 1 / 3),
        ratio: tuple[float, float] = (0.3, 1 / 0.3),
    ):
        if fill not in ('black', 'noise'):
            raise ValueError(f"fill={fill!r} is unknown. Choose 'black' or 'noise'.")
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} is not a probability. Give a number from 0 to 1.')
        if not 0 < area[0] <= area[1] < 1:
            raise ValueError(f'area={tuple(area)} is no range of shares of the frame. Give (low, high) within 0..1.')
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'ratio={tuple(ratio)} is not a range of positive numbers. Give (low, high).')
        self.fill, self.prob = fill, prob
        self.area, self.ratio = area, ratio

    def __call__(self, clip: Tensor, black: Tensor) -> None:
        """(B, C, T, H, W) normalised, changed in place; (C, 1, 1, 1): black in the same units."""
        for sample in clip:
            if torch.rand(()) >= self.prob:
                continue
            top, left, height, width = self.draw_box(*clip.shape[-2:])
            box = sample[..., top : top + height, left : left + width]
            if self.fill == 'noise':
                box.normal_()
            else:
                box.copy_(black.expand_as(box))

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a box in a frame of this size. Its size is 0 if ten draws do not fit."""
        for _ in range(10):
            area = height * width * _uniform(*self.area)
            ratio = math.exp(_uniform(*map(math.log, self.ratio)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                return _integer(height - h + 1), _integer(width - w + 1), h, w
        return 0, 0, 0, 0


@MODELS.register_module()
class MixupCutMix:
    """Mix every sample with the one at the same place of the reversed batch, in the same way over the whole batch.

    Mixup (arXiv:1710.09412) mixes all pixels: share * own + (1 - share) * other. CutMix (arXiv:1905.04899) takes a box
    from the other sample, the same in all frames. Its share is the area outside the box. (MMPretrain's CutMix cuts time
    and height of a clip.) Targets are mixed with the same share. With an odd number of samples the middle one is mixed
    with the first. (timm refuses such a batch. The release leaves its last sample as it is, without label smoothing.) A
    single sample stays as it is. EpochTrainLoop refuses micro-batches of one.

    Each micro-batch of each rank draws for itself, as each GPU does in the releases.

    Args:
        mixup_alpha: shares of mixup are drawn from Beta(alpha, alpha).
        cutmix_alpha: the same for CutMix.
        switch_prob: probability of CutMix instead of mixup.
    """

    def __init__(self, *, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, switch_prob: float = 0.5):
        for name, alpha in dict(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha).items():
            if alpha <= 0:
                raise ValueError(
                    f'{name}={alpha} is not positive. Choose between mixup and CutMix by switch_prob (0: mixup alone).'
                )
        if not 0 <= switch_prob <= 1:
            raise ValueError(f'switch_prob={switch_prob} is not a probability. Give a number from 0 to 1.')
        self.mixup_alpha, self.cutmix_alpha, self.switch_prob = mixup_alpha, cutmix_alpha, switch_prob

    def __call__(self, clip: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T, H, W) normalised, (B, classes) -> the same, mixed; ``clip`` may be changed in place."""
        if torch.rand(()) < self.switch_prob:
            top, bottom, left, right = self.draw_box(*clip.shape[-2:])
            box = clip[..., top:bottom, left:right]
            box.copy_(_partners(box))
            share = 1 - (bottom - top) * (right - left) / (clip.shape[-2] * clip.shape[-1])
        else:
            share = Beta(self.mixup_alpha, self.mixup_alpha).sample().item()
            clip = _partners(clip).lerp_(clip, share)
        return clip, _partners(targets).lerp_(targets, share)

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, bottom, left, right of a box around any pixel, with the frame's aspect ratio, cut at its edge."""
        side = math.sqrt(1 - Beta(self.cutmix_alpha, self.cutmix_alpha).sample().item())
        return *_span(int(height * side), height), *_span(int(width * side), width)


def _partners(x: Tensor) -> Tensor:
    """(B, ...) -> for each row a copy of the one that it is mixed with."""
    partners = x.flip(0)
    if len(x) % 2:
        partners[len(x) // 2] = x[0]
    return partners


def _span(size: int, length: int) -> tuple[int, int]:
    centre = _integer(length)
    return max(centre - size // 2, 0), min(centre + size // 2, length)  # an odd size loses a pixel, as in timm


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), dtype=torch.float64).item()


def _integer(end: int) -> int:
    return int(torch.randint(end, ()))
