"""RandAugment against Pillow and PyTorch, operation by operation; erasing and mixing of batches; the loss behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from omnimae.data import randaugment
from omnimae.data.randaugment import POLICIES, RandAugment, Strength, rotation, warp
from omnimae.registry import TRANSFORMS

TIMM, PYTORCHVIDEO = POLICIES['timm'].operations, POLICIES['pytorchvideo'].operations
BILINEAR, BICUBIC = POLICIES['timm'].resamples


def smooth_clip(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A clip that looks like photographs, and uses neither the darkest nor the lightest levels."""
    coarse = np.random.default_rng(seed).integers(20, 230, (frames, 3, 9, 12)).astype(np.float32)
    clip = F.interpolate(torch.from_numpy(coarse), size=(height, width), mode='bilinear')
    return np.ascontiguousarray(clip.permute(0, 2, 3, 1).round().byte().numpy())


# ---------------------------------------------------------------------------------------------------------------------
# RandAugment

# What timm 1.0 does with Pillow at m9, negative sign; the numbers of its functions are written out.
AFFINE = Image.Transform.AFFINE
MADE_BY_PILLOW = {
    'AutoContrast': ImageOps.autocontrast,
    'Equalize': ImageOps.equalize,
    'Invert': ImageOps.invert,
    'Rotate': lambda image: image.rotate(-27, BICUBIC, fillcolor=(128, 128, 128)),
    'Posterize': lambda image: ImageOps.posterize(image, 1),
    'Solarize': lambda image: ImageOps.solarize(image, 26),
    'SolarizeAdd': lambda image: image.point([min(i + 99, 255) if i < 128 else i for i in range(256)] * 3),
    'Color': lambda image: ImageEnhance.Color(image).enhance(0.19),
    'Contrast': lambda image: ImageEnhance.Contrast(image).enhance(0.19),
    'Brightness': lambda image: ImageEnhance.Brightness(image).enhance(0.19),
    'Sharpness': lambda image: ImageEnhance.Sharpness(image).enhance(0.19),
    'ShearX': lambda image: moved(image, (1, -0.27, 0, 0, 1, 0)),
    'ShearY': lambda image: moved(image, (1, 0, 0, -0.27, 1, 0)),
    'TranslateX': lambda image: moved(image, (1, 0, -0.405 * image.width, 0, 1, 0)),
    'TranslateY': lambda image: moved(image, (1, 0, 0, 0, 1, -0.405 * image.height)),
}


def moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, AFFINE, matrix, BICUBIC, fillcolor=(128, 128, 128))


@pytest.mark.parametrize('name', MADE_BY_PILLOW)
def test_operations_on_images_are_pillows_to_the_last_bit(name: str):
    assert TIMM.keys() == MADE_BY_PILLOW.keys()
    pictures = [smooth_clip(1, 50, 70, seed)[0] for seed in range(3)]
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for picture in [*pictures, noise, np.full((8, 8, 3), 77, np.uint8)]:
        kept = picture.copy()
        [result] = TIMM[name](picture[None], Strength(0.9, -0.9, BICUBIC))
        np.testing.assert_array_equal(result, np.asarray(MADE_BY_PILLOW[name](Image.fromarray(picture))))
        np.testing.assert_array_equal(picture, kept)


@pytest.mark.parametrize('factor', [0.37, 1.63])
@pytest.mark.parametrize('name', ['Color', 'Contrast', 'Brightness', 'Sharpness'])
def test_enhancing_and_weakening_are_pillows_to_the_last_bit(name: str, factor: float):
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    [result] = getattr(randaugment, name.lower())(picture[None], factor)
    expected = getattr(ImageEnhance, name)(Image.fromarray(picture)).enhance(factor)
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_two_frames_by_hand():
    """Levels 10 and 20 in the first frame, 0 and 255 in the second."""
    clip = np.array([[[10, 20]], [[0, 255]]], np.uint8)[..., None].repeat(3, -1)
    strength = Strength(0.7, 0.7, None)
    table = {
        'AutoContrast': [[0, 255], [0, 255]],
        'Invert': [[245, 235], [255, 0]],
        'Posterize': [[0, 0], [0, 192]],  # 4 - int(2.8) = 2 bits
        'Brightness': [[16, 32], [0, 255]],  # 1.63 times
        'Solarize': [[10, 20], [0, 0]],  # from 255 x 0.3 = 76.5 on
        'Contrast': [[6, 23], [0, 255]],  # away from 15: 15 -+ 8.15; the second frame's grey is 128
        'Color': [[10, 20], [0, 255]],  # grey stays
    }
    for name, expected in table.items():
        assert PYTORCHVIDEO[name](clip, strength)[..., 0].reshape(2, 2).tolist() == expected, name


def made_by_pytorch(frames: torch.Tensor, matrix: tuple[float, ...]) -> torch.Tensor:
    """(T, 3, H, W) in 0..1: the affine map as PyTorchVideo makes it, by grid_sample, the fill mixed in at the edge."""
    _, _, height, width = frames.shape
    x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing='xy')
    a, b, c, d, e, f = matrix
    grid = torch.stack([(a * x + b * y + c) / width, (d * x + e * y + f) / height], -1) * 2 - 1
    both = torch.cat([frames, torch.ones_like(frames[:, :1])], 1)
    both = F.grid_sample(both, grid.float().expand(len(frames), -1, -1, -1), align_corners=False)
    colours, inside = both[:, :3], both[:, 3:]
    return colours + (1 - inside) * 128 / 255


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize(
    ('name', 'matrix'),
    [
        ('Rotate', lambda s, h, w: rotation(np.empty((1, h, w, 3)), 21 * s)),
        ('ShearX', lambda s, h, w: (1, 0.21 * s, 0, 0, 1, 0)),
        ('ShearY', lambda s, h, w: (1, 0, 0, 0.21 * s, 1, 0)),
        ('TranslateX', lambda s, h, w: (1, 0, 0.315 * s * w, 0, 1, 0)),
        ('TranslateY', lambda s, h, w: (1, 0, 0, 0, 1, 0.315 * s * h)),
    ],
)
def test_moves_of_clips_are_pytorchs_up_to_rounding(name: str, matrix, sign: int):
    clip = smooth_clip(2, 48, 64)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) / 255
    expected = made_by_pytorch(frames, matrix(sign, 48, 64)).permute(0, 2, 3, 1).numpy() * 255
    result = PYTORCHVIDEO[name](clip, Strength(0.7, 0.7 * sign, None))
    difference = np.abs(result - expected)
    assert difference.max() < 3  # OpenCV may interpolate in steps of 1/32 pixel
    assert difference.mean() < 0.5


def test_rotation_is_counter_clockwise():
    clip = np.zeros((1, 21, 21, 3), np.uint8)
    clip[:, 10, 15:] = 255  # a hand that points right
    up = warp(clip, rotation(clip, 90), None)
    assert up[0, :6, 10].min() == 255
    assert up[0, 12:].max() <= 128


RANDOM = [
    RandAugment(policy='timm', magnitude=9, num_layers=2),
    RandAugment(policy='pytorchvideo', magnitude=7, num_layers=4),
    RandAugment(policy='pytorchvideo', magnitude=9, num_layers=2),
]


@settings(max_examples=60, deadline=None)
@given(transform=st.sampled_from(RANDOM), seed=st.integers(0, 2**32), frames=st.integers(2, 4))
def test_all_frames_get_the_same_operations(transform: RandAugment, seed: int, frames: int):
    still = np.repeat(smooth_clip(1, 24, 32), frames, axis=0)
    kept = still.copy()
    result = transform(still, np.random.default_rng(seed))
    assert (result.dtype, result.shape) == (np.uint8, still.shape)
    assert (result == result[:1]).all()
    np.testing.assert_array_equal(transform(still[:1], np.random.default_rng(seed))[0], result[0])
    np.testing.assert_array_equal(still, kept)


@pytest.mark.parametrize(
    ('transform', 'magnitude', 'num_layers', 'num_operations', 'repeats'),
    [(RANDOM[0], 9, 2, 15, True), (RANDOM[1], 7, 4, 14, False), (RANDOM[2], 9, 2, 14, False)],
)
def test_draws_have_the_published_numbers(transform, magnitude, num_layers, num_operations, repeats):
    rng = np.random.default_rng(0)
    draws = [transform.draw(rng) for _ in range(6000)]
    drawn = [pair for draw in draws for pair in draw]
    assert abs(len(drawn) / len(draws) - num_layers / 2) < 0.05  # each with probability 0.5
    names, counts = np.unique([name for name, _ in drawn], return_counts=True)
    assert len(names) == num_operations
    assert counts.max() / counts.min() < 1.3
    assert any(len({name for name, _ in draw}) < len(draw) for draw in draws) == repeats
    shares = np.array([strength.share for _, strength in drawn])
    clipped = np.random.default_rng(1).normal(magnitude, 0.5, 100_000).clip(0, 10)
    assert abs(shares.mean() * 10 - clipped.mean()) < 0.03
    assert abs(shares.std() * 10 - clipped.std()) < 0.03
    assert {abs(strength.signed) for _, strength in drawn} == set(shares)
    assert abs(np.mean([strength.signed > 0 for _, strength in drawn]) - 0.5) < 0.03
    share = np.mean([strength.resample == BICUBIC for _, strength in drawn])
    assert abs(share - (0.5 if repeats else 0)) < 0.03


def test_no_operation_is_done_with_probability_zero_and_all_with_one():
    clip = smooth_clip(1, 24, 32)
    never = RandAugment(policy='timm', magnitude=9, num_layers=2, prob=0)
    np.testing.assert_array_equal(never(clip, np.random.default_rng(0)), clip)
    always = RandAugment(policy='pytorchvideo', magnitude=9, num_layers=14, prob=1)
    assert {name for name, _ in always.draw(np.random.default_rng(0))} == set(PYTORCHVIDEO)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(policy='autoaugment'), "policy='autoaugment' is unknown. Choose one of timm, pytorchvideo"),
        (
            dict(policy='pytorchvideo', num_layers=15),
            "num_layers=15 cannot be drawn with policy='pytorchvideo'. Give 1 to",
        ),
        (dict(num_layers=0), 'num_layers=0 cannot be drawn'),
        (dict(magnitude=11), 'magnitude=11, magnitude_std=0.5 is no strength. Give 0 to 10'),
        (dict(prob=2), 'prob=2 is not a probability'),
    ],
)
def test_wrong_arguments_of_randaugment_say_the_remedy(change: dict, message: str):
    cfg = dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2)
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build({**cfg, **change})


def test_randaugment_refuses_evaluation():
    with pytest.raises(ValueError, match='RandAugment is random, but evaluation is not'):
        RANDOM[0](smooth_clip(1, 8, 8), None)
