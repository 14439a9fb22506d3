"""Transforms of RGB together with its maps: depth, or a class for every pixel.

They are called as those of `transforms`, once for each modality, with generators of the same seed. So geometry changes
in the same way for all. Changes of colour leave maps alone. A map has one channel. It is resized to the nearest pixel
and padded with "unknown": -1 in depth (int16, int32), 255 in classes (uint8). RGB is padded with grey.

Recipes: MultiMAE (arXiv:2204.01678), the numbers of its release.
"""

from __future__ import annotations

import cv2
import numpy as np

from omnimae.data.randaugment import LEVELS, brightness, color, contrast, grey, map_levels
from omnimae.data.transforms import check_interpolation, check_ranges, check_shares, is_rgb, needed_rng, resize
from omnimae.registry import TRANSFORMS
from omnimae.structures import UNKNOWN_CLASS, UNKNOWN_DEPTH

GREY = 128


def padded(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, H, W, C) -> (T, at least height, at least width, C), with padding at the bottom and on the right."""
    room = [(0, 0), (0, max(height - clip.shape[1], 0)), (0, max(width - clip.shape[2], 0)), (0, 0)]
    if not np.any(room):
        return clip
    value = GREY if is_rgb(clip) else UNKNOWN_CLASS if clip.dtype == np.uint8 else UNKNOWN_DEPTH
    return np.pad(clip, room, constant_values=value)


def resize_long(clip: np.ndarray, size: float, interpolation: str) -> np.ndarray:
    """(T, H, W, C) -> the same with a long side of ``size``, sides rounded."""
    height, width = clip.shape[1:3]
    scale = size / max(height, width)
    return resize(clip, max(round(height * scale), 1), max(round(width * scale), 1), interpolation)


@TRANSFORMS.register_module()
class LargeScaleJitter:
    """Resize the long side to ``size`` times a random factor (arXiv:2012.07177), in one resampling.

    Args:
        size: in pixels.
        scale: range of the factor.
        interpolation: of RGB, as in `RandomResizedCrop`.
    """

    def __init__(self, *, size: int, scale: tuple[float, float] = (0.1, 2.0), interpolation: str = 'bilinear'):
        check_interpolation(interpolation)
        check_ranges(scale=scale)
        self.size, self.scale, self.interpolation = size, scale, interpolation

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, C) -> (T, h, w, C)."""
        return resize_long(clip, self.size * needed_rng(rng, self).uniform(*self.scale), self.interpolation)


@TRANSFORMS.register_module()
class RandomCrop:
    """Cut a square of ``size`` at a random place. A smaller clip is padded first, see `padded`."""

    def __init__(self, *, size: int):
        self.size = size

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, C) -> (T, size, size, C)."""
        rng = needed_rng(rng, self)
        clip = padded(clip, self.size, self.size)
        top, left = (int(rng.integers(length - self.size + 1)) for length in clip.shape[1:3])
        return clip[:, top : top + self.size, left : left + self.size]


@TRANSFORMS.register_module()
class ResizeLong:
    """Resize to a long side of ``size`` and pad to a square, see `padded`."""

    def __init__(self, *, size: int, interpolation: str = 'bilinear'):
        check_interpolation(interpolation)
        self.size, self.interpolation = size, interpolation

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """(T, H, W, C) -> (T, size, size, C)."""
        return padded(resize_long(clip, self.size, self.interpolation), self.size, self.size)


@TRANSFORMS.register_module()
class ColorJitter:
    """Change brightness, contrast, saturation and hue of RGB, in random order and with probability ``prob``.

    Args:
        brightness, contrast, saturation: a factor is drawn from 1 - value to 1 + value.
        hue: a rotation of the hue, in turns, is drawn from -hue to hue.
        grey_prob: probability of becoming grey afterwards.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        prob: float = 0.5,
        grey_prob: float = 0.0,
    ):
        self.strengths = (brightness, contrast, saturation, hue)
        check_shares(brightness=brightness, contrast=contrast, saturation=saturation, prob=prob, grey_prob=grey_prob)
        if not 0 <= hue <= 0.5:
            raise ValueError(f'hue={hue} is not in 0..0.5. Give such a number.')
        self.prob, self.grey_prob = prob, grey_prob

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, C) -> (T, H, W, C)."""
        rng = needed_rng(rng, self)
        if not is_rgb(clip):
            return clip
        if rng.random() < self.prob:
            changes = [brightness, contrast, color, turn_hue]
            centres = (1, 1, 1, 0)
            for i in rng.permutation(4):
                if self.strengths[i]:
                    clip = changes[i](clip, centres[i] + rng.uniform(-self.strengths[i], self.strengths[i]))
        if rng.random() < self.grey_prob:
            clip = np.stack([grey(frame) for frame in clip])[..., None].repeat(3, -1)
        return clip


def turn_hue(clip: np.ndarray, turn: float) -> np.ndarray:
    """Rotate the hue by this share of a turn."""
    table = np.stack([(LEVELS + round(180 * turn)) % 180, LEVELS, LEVELS], 1)  # hue is in 0..179
    hsv = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2HSV) for frame in clip])
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_HSV2RGB) for frame in map_levels(hsv, table)])
