"""Transforms of one clip: uint8 RGB (T, H, W, 3) -> the same. All frames get the same change.

Those that move pixels also take maps (T, H, W, 1) of any dtype: depth or classes. An image is a clip of one frame.

A transform is called as ``transform(clip, rng)``. All its randomness comes from ``rng``, which follows from the
sample's address. Evaluation passes None and allows no random transform.

Recipes: OmniMAE (arXiv:2206.08356), B.1 and B.2, and the numbers of its release.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnimae.registry import TRANSFORMS

INTERPOLATIONS = ('bilinear', 'bilinear_antialias', 'bicubic')


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


def is_rgb(clip: np.ndarray) -> bool:
    """Whether it is RGB, and no map of depth or classes."""
    return clip.shape[-1] == 3


def resize(clip: np.ndarray, height: int, width: int, interpolation: str, depth: str = 'nearest') -> np.ndarray:
    """(T, H, W, 3) -> (T, height, width, 3), uint8; pixel centres are at half integers.

    A map, (T, H, W, 1), takes the nearest pixel. With ``depth='bicubic'`` depth (int16, int32) is filtered as Pillow
    filters it, unless some of it is unknown (negative).

    'bilinear' mixes the four nearest pixels at any scale, without antialiasing, as the release does with clips.
    'bicubic' is antialiased as in Pillow, as the release does with images. So is 'bilinear_antialias'.
    """
    if not is_rgb(clip):
        if depth == 'bicubic' and clip.dtype != np.uint8 and clip.min() >= 0:
            largest = np.iinfo(np.uint8 if clip.dtype == np.int16 else np.uint16).max
            values = _antialiased(torch.from_numpy(clip.astype(np.float32)), height, width, 'bicubic')
            return values.round().clamp(0, largest).numpy().astype(clip.dtype)
        rows, columns = (_nearest(*lengths) for lengths in zip(clip.shape[1:3], (height, width), strict=True))
        return clip[:, rows][:, :, columns]
    if interpolation == 'bilinear':
        # 8 times as fast as PyTorch on a crop of a 1080p clip, and closer to floating point.
        resized = np.empty((len(clip), height, width, 3), np.uint8)
        for frame, out in zip(clip, resized, strict=True):
            cv2.resize(frame, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
        return resized
    # Pillow's filter in a quarter of its time. On ImageNet crops 97 % of the values are Pillow's and the mean
    # difference is 0.03. Rarely, where the filter overshoots 0 or 255 between its two passes, it is up to 10.
    # The copy is for the strides. With those of image[None] PyTorch's result is channels-first, and what follows slow.
    frames = torch.from_numpy(np.array(clip, order='C'))
    return _antialiased(frames, height, width, interpolation.removesuffix('_antialias')).numpy()


def _antialiased(frames: Tensor, height: int, width: int, mode: str) -> Tensor:
    frames = F.interpolate(frames.permute(0, 3, 1, 2), size=(height, width), mode=mode, antialias=True)
    return frames.permute(0, 2, 3, 1)


def _nearest(length: int, size: int) -> np.ndarray:
    return (2 * np.arange(size) + 1) * length // (2 * size)


def resize_short(clip: np.ndarray, size: int, interpolation: str, depth: str = 'nearest') -> np.ndarray:
    """(T, H, W, 3) -> the same with a short side of ``size``; the long side is rounded down."""
    height, width = clip.shape[1:3]
    if height < width:
        return resize(clip, size, size * width // height, interpolation, depth)
    return resize(clip, size * height // width, size, interpolation, depth)


def random_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
    redraw: bool = True,
) -> Box:
    """A box of a random share of the area and a random aspect ratio: torchvision's rule, draw for draw.

    If ten draws do not fit, the box is the largest central one with an aspect ratio within ``ratio``. Without
    ``redraw`` the first draw is taken, and a side that does not fit is cut: BYOL's rule (arXiv:2006.07733).
    """
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not redraw:
            w, h = min(w, width), min(h, height)
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return Box((height - h) // 2, (width - w) // 2, h, w)


@TRANSFORMS.register_module()
class RandomResizedCrop:
    """Cut a random box and resize it to ``size``, in one resampling.

    The release first resizes a clip to a short side of 256. These are two resamplings, with the same distribution of
    boxes up to rounding. ``short_side=256`` does exactly that.

    Args:
        size: of the result; one number for a square, or (height, width).
        scale: range of the box's area as a share of the frame's.
        ratio: range of the box's width / height.
        interpolation: 'bilinear' (no antialiasing, the recipe for clips) or 'bicubic' (antialiased, the recipe for
            images).
        short_side: first resize to this short side, bilinear; None cuts from the original frame.
        redraw: whether a box that does not fit is drawn again, or cut; see `random_box`.
        depth: filter of depth, see `resize`: 'nearest', or 'bicubic' as in MultiMAE's pretraining.
    """

    def __init__(
        self,
        *,
        size: int | tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = 'bilinear',
        short_side: int | None = None,
        redraw: bool = True,
        depth: str = 'nearest',
    ):
        check_interpolation(interpolation, depth)
        check_ranges(scale=scale, ratio=ratio)
        if scale[1] > 1:
            raise ValueError(f'scale={tuple(scale)} asks for more than the whole frame. Give shares of at most 1.')
        self.height, self.width = _height_width(size)
        self.scale, self.ratio = scale, ratio
        self.interpolation = interpolation
        self.short_side = short_side
        self.redraw, self.depth = redraw, depth

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, 3) -> (T, height, width, 3)."""
        if self.short_side is not None:
            clip = resize_short(clip, self.short_side, 'bilinear')
        frame_height, frame_width = clip.shape[1:3]
        box = random_box(frame_height, frame_width, self.scale, self.ratio, needed_rng(rng, self), self.redraw)
        crop = clip[:, box.top : box.top + box.height, box.left : box.left + box.width]
        return resize(crop, self.height, self.width, self.interpolation, self.depth)


@TRANSFORMS.register_module()
class MultiScaleCrop:
    """Cut a box of one of few sizes at one of 13 places and resize it: what VideoMAE pretrains with (arXiv:1507.02159).

    Height and width are shares of the frame's short side, equal or neighbours in ``scales``. A side within 3 pixels of
    ``size`` becomes ``size`` if that fits (the release goes past the frame). The places are the corners, the centres of
    the sides, the centre, and the four half-way between centre and corner. The release resizes with Pillow, so this is
    antialiased.

    Args:
        size: of the result; one number for a square, or (height, width).
        scales: shares, in order.
    """

    def __init__(self, *, size: int | tuple[int, int], scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)):
        if not scales or min(scales) <= 0 or max(scales) > 1:
            raise ValueError(f'scales={tuple(scales)} are not shares of the short side. Give numbers up to 1.')
        self.height, self.width = _height_width(size)
        indices = range(len(scales))
        self.pairs = [(scales[i], scales[j]) for i in indices for j in indices if abs(i - j) <= 1]

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, 3) -> (T, height, width, 3)."""
        rng = needed_rng(rng, self)
        frame_height, frame_width = clip.shape[1:3]
        short = min(frame_height, frame_width)
        shares = self.pairs[rng.integers(len(self.pairs))]
        height = _snapped(int(short * shares[0]), self.height, frame_height)
        width = _snapped(int(short * shares[1]), self.width, frame_width)
        y, x = _PLACES[rng.integers(len(_PLACES))]  # in quarters of the margin
        top, left = (frame_height - height) // 4 * y, (frame_width - width) // 4 * x
        crop = clip[:, top : top + height, left : left + width]
        return resize(crop, self.height, self.width, 'bilinear_antialias')


def _snapped(length: int, size: int, largest: int) -> int:
    return size if abs(length - size) < 3 and size <= largest else max(length, 1)


_PLACES = [(y, x) for y in range(5) for x in range(5) if y % 2 == x % 2]


@TRANSFORMS.register_module()
class Flip:
    """Mirror the whole clip left to right with probability ``prob``."""

    def __init__(self, *, prob: float = 0.5):
        check_shares(prob=prob)
        self.prob = prob

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, 3) -> (T, H, W, 3)."""
        if needed_rng(rng, self).random() >= self.prob:
            return clip
        # OpenCV mirrors one picture, so the frames are stacked vertically. NumPy takes forty times as long.
        rows = np.ascontiguousarray(clip).reshape(-1, *clip.shape[2:])
        return cv2.flip(rows, 1).reshape(clip.shape)


@TRANSFORMS.register_module()
class ResizeShort:
    """Resize to a short side of ``size``, keeping the aspect ratio; the long side is rounded down."""

    def __init__(self, *, size: int, interpolation: str = 'bilinear', depth: str = 'nearest'):
        check_interpolation(interpolation, depth)
        self.size = size
        self.interpolation, self.depth = interpolation, depth

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """(T, H, W, 3) -> (T, h, w, 3)."""
        return resize_short(clip, self.size, self.interpolation, self.depth)


@TRANSFORMS.register_module()
class CenterCrop:
    """Cut the middle of ``size``, one number for a square or (height, width)."""

    def __init__(self, *, size: int | tuple[int, int]):
        self.height, self.width = _height_width(size)

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """(T, H, W, 3) -> (T, height, width, 3)."""
        _check_covers(clip, self.height, self.width, self)
        # Half pixels round to even numbers, as in torchvision.
        top = round((clip.shape[1] - self.height) / 2)
        left = round((clip.shape[2] - self.width) / 2)
        return clip[:, top : top + self.height, left : left + self.width]


@TRANSFORMS.register_module()
class ThreeCrop:
    """Three square test views along the longer side: left, centre, right or top, centre, bottom.

    Args:
        size: of a view.
        round_down: whether a centre at half a pixel is rounded down, as in VideoMAE, or up, as in SlowFast.
    """

    def __init__(self, *, size: int, round_down: bool = False):
        self.size, self.round_down = size, round_down

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """(T, H, W, 3) -> (3, T, size, size, 3)."""
        if rng is not None:
            raise ValueError('ThreeCrop makes test views. Use RandomResizedCrop in the transforms of training.')
        _check_covers(clip, self.size, self.size, self)
        top, left = (self._offsets(length - self.size) for length in clip.shape[1:3])
        if clip.shape[1] > clip.shape[2]:
            left = left[1:2] * 3
        else:
            top = top[1:2] * 3
        return np.stack([clip[:, y : y + self.size, x : x + self.size] for y, x in zip(top, left, strict=True)])

    def _offsets(self, margin: int) -> tuple[int, int, int]:
        return 0, margin // 2 if self.round_down else (margin + 1) // 2, margin


def needed_rng(rng: np.random.Generator | None, transform: object) -> np.random.Generator:
    """``rng``. Without one, in evaluation, a ValueError."""
    if rng is None:
        name = type(transform).__name__
        raise ValueError(
            f'{name} is random, but evaluation is not. Use ResizeShort with CenterCrop or ThreeCrop there.'
        )
    return rng


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f'size={size} is not positive. Give a number of pixels, or (height, width).')
    return height, width


def check_interpolation(interpolation: str, depth: str = 'nearest') -> None:
    """Raise a ValueError for what `resize` does not know."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f'interpolation={interpolation!r} is unknown. Choose one of {", ".join(INTERPOLATIONS)}.')
    if depth not in ('nearest', 'bicubic'):
        raise ValueError(f"depth={depth!r} is unknown. Choose 'nearest' or 'bicubic'.")


def _check_covers(clip: np.ndarray, height: int, width: int, transform: object) -> None:
    if clip.shape[1] < height or clip.shape[2] < width:
        raise ValueError(
            f'{type(transform).__name__} cannot cut {height}x{width} (height x width) from a clip of '
            f'{clip.shape[1]}x{clip.shape[2]}. Put ResizeShort(size={max(height, width)}) before it.'
        )


def check_shares(**values: float) -> None:
    """Raise a ValueError for one that is not in 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f'{name}={value} is not in 0..1. Give such a number.')


def check_ranges(**values: tuple[float, float]) -> None:
    """Raise a ValueError for one that is no range of positive numbers."""
    for name, (low, high) in values.items():
        if not 0 < low <= high:
            raise ValueError(f'{name}={(low, high)} is not a range of positive numbers. Give (low, high).')
