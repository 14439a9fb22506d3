"""RandAugment (arXiv:1909.13719) of one clip, in the two variants of the recipes: timm's and PyTorchVideo's.

MMPretrain's draws anew for every frame, and not from the sample's generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from omnimae.data.transforms import check_shares, is_rgb, needed_rng
from omnimae.registry import TRANSFORMS

LEVELS = np.arange(256)


class Strength(NamedTuple):
    """Strength of an operation, the same for all frames.

    Attributes:
        share: magnitude / 10, in 0..1.
        signed: the same with a random sign.
        resample: Pillow's filter; None for OpenCV's bilinear one.
        fill: RGB of pixels from outside the frame.
    """

    share: float
    signed: float
    resample: Image.Resampling | None
    fill: tuple[int, ...] = (128, 128, 128)


def map_levels(clip: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(T, H, W, 3), (256,) or (256, 3) -> each level replaced by the table's, clipped to 0..255 and rounded down."""
    table = table.clip(0, 255).astype(np.uint8)
    flat = clip.reshape(-1, clip.shape[2], 3)
    return cv2.LUT(flat, table if table.ndim == 1 else table[None]).reshape(clip.shape)


def _levels(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) -> (256, 3), how often each level occurs in each channel; (3,), the highest that occurs."""
    counts = [cv2.calcHist([frame], [channel], None, [256], [0, 256]) for channel in range(3)]
    histogram = np.stack([count.ravel() for count in counts], 1).astype(np.int64)  # OpenCV 4 gives columns, 5 rows
    return histogram, 255 - (histogram[::-1] > 0).argmax(0)


def _stretching(frame: np.ndarray) -> np.ndarray:
    """Table that stretches each channel to 0..255."""
    counts, high = _levels(frame)
    low = (counts > 0).argmax(0)
    scale = 255 / np.maximum(high - low, 1)
    return np.where(high > low, LEVELS[:, None] * scale - low * scale, LEVELS[:, None])


def _equalizing(frame: np.ndarray) -> np.ndarray:
    """Table that makes the levels of each channel as equally frequent as a table can."""
    counts, high = _levels(frame)
    step = (counts.sum(0) - counts[high, range(3)]) // 255
    below = counts.cumsum(0) - counts
    return np.where(step > 0, (step // 2 + below) // np.maximum(step, 1), LEVELS[:, None])


def _per_frame(clip: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([map_levels(frame[None], table_of(frame)) for frame in clip])


def _solarized(clip: np.ndarray, threshold: float) -> np.ndarray:
    return map_levels(clip, np.where(LEVELS < threshold, LEVELS, 255 - LEVELS))


def brightness(clip: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black; ``factor`` > 1 moves away from it."""
    return map_levels(clip, _blend(np.float32(0), LEVELS, factor))


def contrast(clip: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey of the frame."""
    return _per_frame(clip, lambda frame: _blend(np.float32(int(grey(frame).mean() + 0.5)), LEVELS, factor))


def color(clip: np.ndarray, factor: float) -> np.ndarray:
    """Blend with grey."""
    return np.stack([_blend_frames(np.repeat(grey(frame)[..., None], 3, -1), frame, factor) for frame in clip])


def sharpness(clip: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the smoothed frame; the outermost pixels are not smoothed."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    result = clip.copy()
    for frame, sharpened in zip(clip, result, strict=True):
        smooth = cv2.filter2D(frame, -1, kernel)
        sharpened[1:-1, 1:-1] = _blend_frames(smooth[1:-1, 1:-1], frame[1:-1, 1:-1], factor)
    return result


def grey(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W): luma as Pillow rounds it."""
    red, green, blue = (frame[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def _blend(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    """From ``start`` (0) to ``end`` (1) and beyond, in float32 as Pillow does it."""
    return start + np.float32(factor) * (end - start).astype(np.float32)


def _blend_frames(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    return _blend(start.astype(np.float32), end.astype(np.float32), factor).clip(0, 255).astype(np.uint8)


def warp(clip: np.ndarray, matrix: tuple[float, ...], strength: Strength) -> np.ndarray:
    """Pixel (x, y) of the result is that at (a x + b y + c, d x + e y + f); the corner of the frame is (0, 0)."""
    height, width = clip.shape[1:3]
    resample, fill = strength.resample, strength.fill
    if resample is not None:
        frames = (Image.fromarray(frame) for frame in clip)
        transform = Image.Transform.AFFINE
        return np.stack([np.asarray(f.transform(f.size, transform, matrix, resample, fillcolor=fill)) for f in frames])
    # Ten times as fast as Pillow. Like PyTorch it mixes the fill into the outermost pixels; Pillow has a hard edge.
    a, b, c, d, e, f = matrix
    centres = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])  # OpenCV counts from pixel centres
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([cv2.warpAffine(f, centres, (width, height), flags=flags, borderValue=fill) for f in clip])


def rotation(clip: np.ndarray, degrees: float) -> tuple[float, ...]:
    """Matrix of a counter-clockwise turn about the middle."""
    y, x = clip.shape[1] / 2, clip.shape[2] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


Operation = Callable[[np.ndarray, Strength], np.ndarray]

_COMMON: dict[str, Operation] = {
    'AutoContrast': lambda clip, _: _per_frame(clip, _stretching),
    'Equalize': lambda clip, _: _per_frame(clip, _equalizing),
    'Invert': lambda clip, _: 255 - clip,
    'Rotate': lambda clip, s: warp(clip, rotation(clip, 30 * s.signed), s),
    'Posterize': lambda clip, s: clip & np.uint8(256 - 2 ** (4 + int(4 * s.share))),  # keeps the upper bits
    'Color': lambda clip, s: color(clip, 1 + 0.9 * s.signed),
    'Contrast': lambda clip, s: contrast(clip, 1 + 0.9 * s.signed),
    'Brightness': lambda clip, s: brightness(clip, 1 + 0.9 * s.signed),
    'Sharpness': lambda clip, s: sharpness(clip, 1 + 0.9 * s.signed),
    'ShearX': lambda clip, s: warp(clip, (1, 0.3 * s.signed, 0, 0, 1, 0), s),
    'ShearY': lambda clip, s: warp(clip, (1, 0, 0, 0.3 * s.signed, 1, 0), s),
    'TranslateX': lambda clip, s: warp(clip, (1, 0, 0.45 * s.signed * clip.shape[2], 0, 1, 0), s),
    'TranslateY': lambda clip, s: warp(clip, (1, 0, 0, 0, 1, 0.45 * s.signed * clip.shape[1]), s),
}


class Policy(NamedTuple):
    """The operations and how they are drawn.

    Attributes:
        operations: by name.
        replace: whether an operation may be drawn several times.
        resamples: filters; one is drawn for each operation.
    """

    operations: Mapping[str, Operation]
    replace: bool
    resamples: tuple[Image.Resampling | None, ...]


POLICIES = {
    'timm': Policy(
        _COMMON
        | {
            'Solarize': lambda clip, s: _solarized(clip, 256 - int(256 * s.share)),
            'SolarizeAdd': lambda clip, s: map_levels(clip, LEVELS + int(110 * s.share) * (LEVELS < 128)),
        },
        replace=True,
        resamples=(Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
    ),
    'pytorchvideo': Policy(
        _COMMON | {'Solarize': lambda clip, s: _solarized(clip, 255 * (1 - s.share))}, replace=False, resamples=(None,)
    ),
}


@TRANSFORMS.register_module()
class RandAugment:
    """Draw ``num_layers`` operations and apply each with probability ``prob``. All frames get the same.

    Policy 'timm' is timm's 'rand-m{magnitude}-n{num_layers}-mstd{magnitude_std}-inc1'. OmniMAE's release uses it for
    images, and its siblings for clips too. It draws from 15 operations with replacement, bilinear or bicubic. Its
    numbers are Pillow's to the last bit. Policy 'pytorchvideo' is that of OmniMAE's release for clips. It draws from 14
    operations without replacement, bilinear. PyTorchVideo computes in floating point. Here every operation ends in
    whole levels, up to one level of 255 darker.

    Args:
        policy: 'timm' or 'pytorchvideo'.
        magnitude: mean strength, of 10.
        num_layers: operations per sample.
        magnitude_std: std of the strength, which is drawn for each operation and clipped to 0..10.
        prob: of applying an operation.
        interpolation: 'bilinear' or 'bicubic', of the policy 'timm'; None draws one of the two for each operation.
        fill: RGB of pixels from outside the frame.
    """

    def __init__(
        self,
        *,
        policy: str,
        magnitude: float,
        num_layers: int,
        magnitude_std: float = 0.5,
        prob: float = 0.5,
        interpolation: str | None = None,
        fill: tuple[int, int, int] = (128, 128, 128),
    ):
        if policy not in POLICIES:
            raise ValueError(f'policy={policy!r} is unknown. Choose one of {", ".join(POLICIES)}.')
        self.policy = POLICIES[policy]
        most = math.inf if self.policy.replace else len(self.policy.operations)
        if not 1 <= num_layers <= most:
            raise ValueError(f'num_layers={num_layers} cannot be drawn with policy={policy!r}. Give 1 to {most}.')
        if not 0 <= magnitude <= 10 or magnitude_std < 0:
            raise ValueError(
                f'magnitude={magnitude} is not in 0..10, or magnitude_std={magnitude_std} is negative. Correct them.'
            )
        check_shares(prob=prob)
        if interpolation is not None:
            filters = {resample.name.lower(): resample for resample in self.policy.resamples if resample is not None}
            if interpolation not in filters:
                raise ValueError(
                    f'policy={policy!r} has no interpolation={interpolation!r}. Choose one of '
                    f'{", ".join([*filters, "None"])}.'
                )
            self.policy = self.policy._replace(resamples=(filters[interpolation],))
        if len(fill) != 3 or not all(0 <= level <= 255 for level in fill):
            raise ValueError(f'fill={fill} is not RGB. Give three levels from 0 to 255.')
        self.magnitude, self.magnitude_std = magnitude, magnitude_std
        self.fill = tuple(fill)
        self.num_layers = num_layers
        self.prob = prob

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, 3) -> (T, H, W, 3)."""
        if clip.dtype != np.uint8 or not is_rgb(clip):
            raise ValueError(
                f'RandAugment takes uint8 RGB, not {clip.dtype} of shape {clip.shape}. For samples with maps use '
                'ColorJitter.'
            )
        for name, strength in self.draw(needed_rng(rng, self)):
            clip = self.policy.operations[name](clip, strength)
        return clip

    def draw(self, rng: np.random.Generator) -> list[tuple[str, Strength]]:
        """Names and strengths of the operations to apply."""
        operations, replace, resamples = self.policy
        drawn = []
        for name in rng.choice(list(operations), self.num_layers, replace=replace).tolist():
            share = min(max(rng.normal(self.magnitude, self.magnitude_std), 0), 10) / 10
            signed = share * rng.choice((-1, 1))
            strength = Strength(share, signed, resamples[rng.integers(len(resamples))], self.fill)
            if rng.random() < self.prob:
                drawn.append((name, strength))
        return drawn
