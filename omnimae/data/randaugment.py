"""RandAugment (arXiv:1909.13719) of one clip, in the two variants of the recipes: timm's and PyTorchVideo's.

Own code, since MMPretrain's draws anew for every frame, from a generator that is not the sample's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from omnimae.data.transforms import is_rgb, needed_rng
from omnimae.registry import TRANSFORMS

LEVELS = np.arange(256)


class Strength(NamedTuple):
    """How strongly an operation acts, the same for all frames.

    Attributes:
        share: magnitude / 10, in 0..1.
        signed: the same, or negative.
        resample: Pillow's filter; None for OpenCV's bilinear one.
        fill: what shows where the frame has moved away.
    """

    share: float
    signed: float
    resample: Image.Resampling | None
    fill: tuple[int, ...] = (128, 128, 128)


def map_levels(clip: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(T, H, W, 3), (256,) or (256, 3) -> every value replaced by the table's; cut to 0..255, rounded down."""
    table = table.clip(0, 255).astype(np.uint8)
    flat = clip.reshape(-1, clip.shape[2], 3)
    return cv2.LUT(flat, table if table.ndim == 1 else table[None]).reshape(clip.shape)


def histogram(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (256, 3): how often each level occurs in each channel."""
    counts = [cv2.calcHist([frame], [channel], None, [256], [0, 256]) for channel in range(3)]
    return np.stack([count.ravel() for count in counts], 1).astype(np.int64)  # OpenCV 4 gives columns, 5 rows


def auto_contrast(clip: np.ndarray) -> np.ndarray:
    """Stretch each channel of each frame to 0..255."""
    return _per_frame(clip, [_stretching(histogram(frame)) for frame in clip])


def _stretching(counts: np.ndarray) -> np.ndarray:
    low, high = (counts > 0).argmax(0), _highest(counts)
    scale = 255 / np.maximum(high - low, 1)
    return np.where(high > low, LEVELS[:, None] * scale - low * scale, LEVELS[:, None])


def equalize(clip: np.ndarray) -> np.ndarray:
    """Make the levels of each channel of each frame equally frequent, as far as a table can."""
    return _per_frame(clip, [_equalizing(histogram(frame)) for frame in clip])


def _equalizing(counts: np.ndarray) -> np.ndarray:
    step = (counts.sum(0) - counts[_highest(counts), range(3)]) // 255
    below = counts.cumsum(0) - counts
    return np.where(step > 0, (step // 2 + below) // np.maximum(step, 1), LEVELS[:, None])


def _highest(counts: np.ndarray) -> np.ndarray:
    """(256, 3) -> (3,): the highest level that occurs."""
    return 255 - (counts[::-1] > 0).argmax(0)


def _per_frame(clip: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([map_levels(frame[None], table) for frame, table in zip(clip, tables, strict=True)])


def invert(clip: np.ndarray) -> np.ndarray:
    """Negative."""
    return 255 - clip


def posterize(clip: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper ``bits``."""
    return clip & np.uint8(256 - 2 ** (8 - bits))


def solarize(clip: np.ndarray, threshold: float) -> np.ndarray:
    """Invert what is not below the threshold."""
    return map_levels(clip, np.where(LEVELS < threshold, LEVELS, 255 - LEVELS))


def solarize_add(clip: np.ndarray, amount: int) -> np.ndarray:
    """Brighten what is below 128."""
    return map_levels(clip, np.where(LEVELS < 128, LEVELS + amount, LEVELS))


def brightness(clip: np.ndarray, factor: float) -> np.ndarray:
    """Move away from black (or towards it, ``factor`` < 1)."""
    return map_levels(clip, _blend(np.float32(0), LEVELS, factor))


def contrast(clip: np.ndarray, factor: float) -> np.ndarray:
    """Move away from the mean grey of the frame."""
    means = [np.float32(int(grey(frame).mean() + 0.5)) for frame in clip]
    return _per_frame(clip, [_blend(mean, LEVELS, factor) for mean in means])


def color(clip: np.ndarray, factor: float) -> np.ndarray:
    """Move away from grey."""
    return np.stack([_blend_frames(np.repeat(grey(frame)[..., None], 3, -1), frame, factor) for frame in clip])


def sharpness(clip: np.ndarray, factor: float) -> np.ndarray:
    """Move away from the smoothed frame; the outermost pixels are not smoothed."""
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
    """Away from ``start``, past ``end`` if ``factor`` > 1, in float32 as Pillow does it."""
    return start + np.float32(factor) * (end - start).astype(np.float32)


def _blend_frames(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    return _blend(start.astype(np.float32), end.astype(np.float32), factor).clip(0, 255).astype(np.uint8)


def warp(clip: np.ndarray, matrix: tuple[float, ...], strength: Strength) -> np.ndarray:
    """Pixel (x, y) of the result comes from (a x + b y + c, d x + e y + f), the corner of the frame being (0, 0)."""
    height, width = clip.shape[1:3]
    resample, fill = strength.resample, strength.fill
    if resample is not None:
        frames = (Image.fromarray(frame) for frame in clip)
        transform = Image.Transform.AFFINE
        return np.stack([np.asarray(f.transform(f.size, transform, matrix, resample, fillcolor=fill)) for f in frames])
    # Ten times faster than Pillow. Like PyTorch it mixes the fill into the outermost pixels; Pillow draws a hard edge.
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
    'AutoContrast': lambda clip, _: auto_contrast(clip),
    'Equalize': lambda clip, _: equalize(clip),
    'Invert': lambda clip, _: invert(clip),
    'Rotate': lambda clip, s: warp(clip, rotation(clip, 30 * s.signed), s),
    'Posterize': lambda clip, s: posterize(clip, 4 - int(4 * s.share)),
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
    """What is drawn from, and how.

    Attributes:
        operations: by name.
        replace: whether one operation may be drawn several times.
        resamples: filters, one of which is drawn for each operation.
    """

    operations: Mapping[str, Operation]
    replace: bool
    resamples: tuple[Image.Resampling | None, ...]


POLICIES = {
    'timm': Policy(
        _COMMON
        | {
            'Solarize': lambda clip, s: solarize(clip, 256 - int(256 * s.share)),
            'SolarizeAdd': lambda clip, s: solarize_add(clip, int(110 * s.share)),
        },
        replace=True,
        resamples=(Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
    ),
    'pytorchvideo': Policy(
        _COMMON | {'Solarize': lambda clip, s: solarize(clip, 255 * (1 - s.share))}, replace=False, resamples=(None,)
    ),
}


@TRANSFORMS.register_module()
class RandAugment:
    """Draw ``num_layers`` operations, each carried out with probability ``prob``; all frames get the same.

    Policy 'timm' is 'rand-m{magnitude}-n{num_layers}-mstd{magnitude_std}-inc1' of timm, which OmniMAE's release uses
    for images, and its siblings for clips too: 15 operations, drawn with replacement, bilinear or bicubic, and to the
    last bit Pillow's numbers. Policy 'pytorchvideo' is that of OmniMAE's release for clips: 14 operations, drawn
    without replacement, bilinear. PyTorchVideo computes in floating point; here every operation ends in whole levels,
    which is up to one level of 255 darker.

    Args:
        policy: 'timm' or 'pytorchvideo'.
        magnitude: mean strength, of 10.
        num_layers: operations per sample.
        magnitude_std: standard deviation of the strength, which is drawn for each operation and cut to 0..10.
        prob: of carrying out an operation.
        interpolation: 'bilinear' or 'bicubic', of the policy 'timm'; None draws one of the two for each operation.
        fill: RGB of what shows where the frame has moved away.
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
                f'magnitude={magnitude}, magnitude_std={magnitude_std} is no strength. Give 0 to 10, and 0 or more.'
            )
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} is not a probability. Give a number from 0 to 1.')
        if interpolation is not None:
            filters = {resample.name.lower(): resample for resample in self.policy.resamples if resample is not None}
            if interpolation not in filters:
                raise ValueError(
                    f'interpolation={interpolation!r} is none of policy={policy!r}. Choose one of '
                    f'{", ".join([*filters, "None"])}.'
                )
            self.policy = self.policy._replace(resamples=(filters[interpolation],))
        if len(fill) != 3 or not all(0 <= level <= 255 for level in fill):
            raise ValueError(f'fill={fill} is no RGB colour. Give three levels from 0 to 255.')
        self.magnitude, self.magnitude_std = magnitude, magnitude_std
        self.fill = tuple(fill)
        self.num_layers = num_layers
        self.prob = prob

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, 3) -> (T, H, W, 3)."""
        if clip.dtype != np.uint8 or not is_rgb(clip):
            raise ValueError(
                f'RandAugment is for uint8 RGB, and was given {clip.dtype} of shape {clip.shape}. Beside maps take '
                'ColorJitter.'
            )
        for name, strength in self.draw(needed_rng(rng, self)):
            clip = self.policy.operations[name](clip, strength)
        return clip

    def draw(self, rng: np.random.Generator) -> list[tuple[str, Strength]]:
        """The operations to carry out, and how strongly."""
        operations, replace, resamples = self.policy
        drawn = []
        for name in rng.choice(list(operations), self.num_layers, replace=replace).tolist():
            share = min(max(rng.normal(self.magnitude, self.magnitude_std), 0), 10) / 10
            signed = share * rng.choice((-1, 1))
            strength = Strength(share, signed, resamples[rng.integers(len(resamples))], self.fill)
            if rng.random() < self.prob:
                drawn.append((name, strength))
        return drawn
