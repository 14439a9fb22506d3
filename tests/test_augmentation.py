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
from omnimae.data.datasets import collate_clips
from omnimae.data.randaugment import POLICIES, RandAugment, Strength, rotation, warp
from omnimae.models import augment
from omnimae.models.augment import MixupCutMix, RandomErasing
from omnimae.models.preprocessor import ClipPreprocessor
from omnimae.registry import MODELS, TRANSFORMS

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
    up = warp(clip, rotation(clip, 90), Strength(1, 1, None))
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
    draws = [transform.draw(rng) for _ in range(3000)]
    drawn = [pair for draw in draws for pair in draw]
    assert abs(len(drawn) / len(draws) - num_layers / 2) < 0.06  # each with probability 0.5
    names, counts = np.unique([name for name, _ in drawn], return_counts=True)
    assert len(names) == num_operations
    assert counts.max() / counts.min() < 1.5
    assert any(len({name for name, _ in draw}) < len(draw) for draw in draws) == repeats
    shares = np.array([strength.share for _, strength in drawn])
    clipped = np.random.default_rng(1).normal(magnitude, 0.5, 100_000).clip(0, 10)
    assert abs(shares.mean() * 10 - clipped.mean()) < 0.03
    assert abs(shares.std() * 10 - clipped.std()) < 0.03
    assert {abs(strength.signed) for _, strength in drawn} == set(shares)
    assert abs(np.mean([strength.signed > 0 for _, strength in drawn]) - 0.5) < 0.03
    share = np.mean([strength.resample == BICUBIC for _, strength in drawn])
    assert abs(share - (0.5 if repeats else 0)) < 0.03


@pytest.mark.parametrize(('interpolation', 'resample'), [('bilinear', BILINEAR), ('bicubic', BICUBIC)])
def test_filter_and_fill_are_those_asked_for(interpolation, resample):
    """MAE's: timm gives its operations one filter, and the mean colour in levels."""
    fill = (124, 116, 104)
    transform = RandAugment(
        policy='timm', magnitude=9, num_layers=4, prob=1, interpolation=interpolation, fill=fill, magnitude_std=0
    )
    picture = smooth_clip(1, 24, 32)
    seen = set()
    for seed in range(40):
        for name, strength in transform.draw(np.random.default_rng(seed)):
            assert (strength.resample, strength.fill) == (resample, fill)
            if name == 'TranslateX':
                matrix = (1, 0, 0.45 * strength.signed * 32, 0, 1, 0)
                expected = Image.fromarray(picture[0]).transform((32, 24), AFFINE, matrix, resample, fillcolor=fill)
                np.testing.assert_array_equal(TIMM[name](picture, strength)[0], np.asarray(expected))
                seen.add(strength.signed)
    assert seen == {-0.9, 0.9}
    with pytest.raises(ValueError, match="policy='pytorchvideo' has no interpolation='bicubic'"):
        RandAugment(policy='pytorchvideo', magnitude=9, num_layers=2, interpolation='bicubic')
    with pytest.raises(ValueError, match=r'fill=\(300, 0, 0\) is not RGB. Give three levels from 0 to 255'):
        RandAugment(policy='timm', magnitude=9, num_layers=2, fill=(300, 0, 0))


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
            "num_layers=15 cannot be drawn with policy='pytorchvideo'",
        ),
        (dict(num_layers=0), 'num_layers=0 cannot be drawn'),
        (dict(magnitude=11), r'magnitude=11 is not in 0\.\.10, or magnitude_std=0\.5 is negative'),
        (dict(prob=2), r'prob=2 is not in 0\.\.1'),
    ],
)
def test_wrong_arguments_of_randaugment_say_the_remedy(change: dict, message: str):
    cfg = dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2)
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build({**cfg, **change})


@pytest.mark.parametrize('clip', [np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 8, 8, 3), np.float32)])
def test_randaugment_refuses_what_is_no_uint8_rgb(clip: np.ndarray):
    """Also where nothing is drawn: a map beside the picture would otherwise fail after some steps."""
    with pytest.raises(ValueError, match=rf'takes uint8 RGB, not {clip.dtype} .*, {clip.shape[-1]}\)'):
        RandAugment(policy='timm', magnitude=9, num_layers=2, prob=0)(clip, np.random.default_rng(0))


def test_randaugment_refuses_evaluation():
    with pytest.raises(ValueError, match='RandAugment is random, but evaluation is not'):
        RANDOM[0](smooth_clip(1, 8, 8), None)


# ---------------------------------------------------------------------------------------------------------------------
# Erasing and mixing

NUM_CLASSES = 5
ERASING = dict(type='RandomErasing', fill='noise')
MIXING = dict(type='MixupCutMix')


def batch(size: int, frames: int = 4, height: int = 24, width: int = 32, seed: int = 0) -> dict:
    """A batch as the loader makes it: uint8, channels last in memory."""
    rng = np.random.default_rng(seed)
    clip = torch.from_numpy(rng.integers(0, 256, (size, frames, height, width, 3), np.uint8)).movedim(-1, 1)
    labels = torch.from_numpy(rng.integers(0, NUM_CLASSES, size))
    return dict(clips=dict(rgb=clip), modality='video', labels=labels, ids=[f'{i}.mp4' for i in range(size)])


def boxes_of(changed: torch.Tensor) -> list[tuple[int, int, int, int] | None]:
    """(B, C, T, H, W) bool -> the box that is changed in each sample, in all its frames and channels alike."""
    boxes = []
    for sample in changed:
        assert (sample == sample[:1, :1]).all()
        rows, columns = torch.nonzero(sample[0, 0], as_tuple=True)
        if len(rows) == 0:
            boxes.append(None)
            continue
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        assert len(rows) == (bottom - top) * (right - left)
        boxes.append((int(top), int(left), int(bottom - top), int(right - left)))
    return boxes


@pytest.mark.parametrize('frames', [1, 4])
@pytest.mark.parametrize('fill', ['black', 'noise'])
def test_erasing_takes_the_same_box_from_all_frames_after_normalising(fill: str, frames: int):
    torch.manual_seed(0)
    preprocessor = ClipPreprocessor(erasing=dict(type='RandomErasing', fill=fill, prob=0.5))
    data = batch(64, frames)
    kept = data['clips']['rgb'].clone()
    result = preprocessor(data, training=True)['clip']
    before = preprocessor.normalize(data['clips']['rgb'])
    assert torch.equal(data['clips']['rgb'], kept)
    changed = result != before
    if fill == 'black':  # a pixel may have been black already
        black = (-preprocessor.mean / preprocessor.std).view(3, 1, 1, 1)
        changed = (result == black).all(1, keepdim=True).all(2, keepdim=True).expand_as(result)
        torch.testing.assert_close(result[~changed], before[~changed], rtol=0, atol=0)
    boxes = boxes_of(changed)
    assert 20 < sum(box is not None for box in boxes) < 44
    assert len(set(boxes)) > 20


def test_erased_noise_is_unit_normal_and_fresh_everywhere():
    torch.manual_seed(0)
    clip = torch.full((8, 3, 4, 64, 64), 100.0)
    RandomErasing(fill='noise', prob=1, area=(0.3, 0.4))(clip, torch.zeros(3, 1, 1, 1))
    noise = [sample[sample != 100].view(3, 4, -1) for sample in clip]
    values = torch.cat([part.flatten() for part in noise])
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert values.max() > 3  # beyond what a uint8 pixel can be
    for part in noise:  # not one frame or channel repeated
        assert abs(torch.corrcoef(part.flatten(0, 1)) - torch.eye(12)).max() < 0.15


def test_erased_boxes_have_the_published_areas_and_ratios():
    torch.manual_seed(0)
    erasing = RandomErasing(fill='black', prob=0.25, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))
    boxes = torch.tensor([erasing.draw_box(1000, 1000) for _ in range(3000)], dtype=torch.float64)
    top, left, height, width = boxes[boxes[:, 2] > 0].T
    assert len(height) == 3000
    area, ratio = height * width / 1e6, (height / width).log()
    assert 0.0199 < area.min() < 0.022
    assert 0.32 < area.max() < 0.334
    assert abs(area.mean() - 0.1767) < 0.006
    assert abs(ratio.mean()) < 0.05
    assert 1.1 < ratio.max() < 1.21
    for start, room in ((top, 1000 - height), (left, 1000 - width)):
        assert (start <= room).all()
        assert abs((start / room).mean() - 0.5) < 0.02
    clip = torch.ones(4000, 1, 1, 8, 8)
    erasing(clip, torch.zeros(1, 1, 1, 1))
    assert abs((clip.flatten(1).min(1).values == 0).float().mean() - 0.25) < 0.025


def test_a_box_that_never_fits_erases_nothing():
    clip = torch.ones(2, 3, 1, 4, 400)
    RandomErasing(fill='black', prob=1, area=(0.3, 0.3), ratio=(3, 3))(clip, torch.zeros(3, 1, 1, 1))
    assert (clip == 1).all()


@pytest.mark.parametrize('partners', [[0], [1, 0], [2, 0, 0], [3, 2, 1, 0], [4, 3, 0, 1, 0]])
def test_mixup_is_the_weighted_mean_with_the_reversed_batch(partners: list[int]):
    torch.manual_seed(0)
    preprocessor = ClipPreprocessor(mixing=dict(MIXING, switch_prob=0), num_classes=NUM_CLASSES)
    data = batch(len(partners))
    result = preprocessor(data, training=True)
    own = preprocessor.normalize(data['clips']['rgb'])
    other = own[partners]
    targets = F.one_hot(data['labels'], NUM_CLASSES).float()
    if len(partners) == 1:
        torch.testing.assert_close(result['clip'], own)
        torch.testing.assert_close(result['labels'], targets)
        return
    share = ((result['clip'] - other)[0] / (own - other)[0]).nanmedian()
    assert 0 < share < 1
    torch.testing.assert_close(result['clip'], share * own + (1 - share) * other, rtol=1e-4, atol=1e-5)
    mixed = share * targets + (1 - share) * targets[partners]
    torch.testing.assert_close(result['labels'], mixed, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 6),
    frames=st.sampled_from([1, 2, 4]),
    frame=st.tuples(st.integers(4, 40), st.integers(4, 40)),
)
def test_cutmix_cuts_in_space_alone_and_the_share_is_what_is_left(seed, size, frames, frame):
    torch.manual_seed(seed)
    data = batch(size, frames, *frame)
    shades = 32 * torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1, 1)  # no two alike
    data['clips']['rgb'] = data['clips']['rgb'] // 16 + shades
    data['labels'] = torch.arange(size) % NUM_CLASSES
    preprocessor = ClipPreprocessor(mixing=dict(MIXING, switch_prob=1), num_classes=NUM_CLASSES)
    kept = data['clips']['rgb'].clone()
    result = preprocessor(data, training=True)
    own = preprocessor.normalize(kept)
    assert torch.equal(data['clips']['rgb'], kept)
    changed = result['clip'] != own
    partners = [*reversed(range(size))]
    if size % 2:
        partners[size // 2] = 0
    assert torch.equal(result['clip'], torch.where(changed, own[partners], own))
    boxes = boxes_of(changed)
    assert len(set(boxes)) == 1  # one box for all
    for index, box in enumerate(boxes):
        area = 0 if box is None else box[2] * box[3]
        partner = int(data['labels'][partners[index]])
        if partner != data['labels'][index]:
            taken = result['labels'][index, partner].item()
            assert taken == pytest.approx(area / (frame[0] * frame[1]), abs=1e-6)
    torch.testing.assert_close(result['labels'].sum(1), torch.ones(size))


def test_shares_and_switches_have_the_published_distributions():
    torch.manual_seed(0)
    mixing = MixupCutMix(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
    targets = torch.eye(2)
    cuts, mixes = [], []
    for _ in range(2000):
        clip = torch.arange(2.0).view(2, 1, 1, 1, 1).repeat(1, 1, 1, 20, 20)
        mixed, shares = mixing(clip, targets)
        assert mixed[0].mean().item() == pytest.approx(shares[0, 1].item(), abs=1e-5)
        is_cut = ((mixed == 0) | (mixed == 1)).all()
        (cuts if is_cut else mixes).append(shares[0, 0].item())
    assert abs(len(cuts) / 2000 - 0.5) < 0.04
    mixes = np.array(mixes)
    assert abs(mixes.mean() - 0.5) < 0.03
    assert abs(mixes.var() - 1 / (4 * 2.6)) < 0.007  # of Beta(0.8, 0.8)
    boxes = np.array([mixing.draw_box(10_000, 5_000) for _ in range(2000)])
    inside = (boxes[:, 0] > 0) & (boxes[:, 1] < 10_000) & (boxes[:, 2] > 0) & (boxes[:, 3] < 5_000)
    heights, widths = (boxes[inside, 1] - boxes[inside, 0]), (boxes[inside, 3] - boxes[inside, 2])
    assert abs(heights - 2 * widths).max() <= 2  # the aspect ratio of the frame
    # A box of area a = side^2 ~ U(0, 1) lies within the frame with probability (1 - side)^2, in the mean 1/6.
    assert abs(inside.mean() - 1 / 6) < 0.03


# timm's rand_bbox: both halves of the box are rounded down, so one of an odd size loses a pixel
@pytest.mark.parametrize(
    ('size', 'centre', 'expected'),
    [(6, 10, (7, 13)), (7, 10, (7, 13)), (1, 10, (10, 10)), (9, 2, (0, 6)), (9, 18, (14, 20))],
)
def test_boxes_of_cutmix_have_an_even_size(size, centre, expected, monkeypatch):
    monkeypatch.setattr(augment, '_integer', lambda end: centre)
    assert augment._span(size, 20) == expected


def test_labels_of_replicas_are_repeated_and_mixed_with_their_own_clips():
    samples = [
        dict(
            clips=dict(rgb=torch.full((2, 3, 2, 8, 8), 40 * label, dtype=torch.uint8)),
            modality='video',
            label=label,
            id=str(label),
        )
        for label in range(4)
    ]
    data = collate_clips(samples)
    assert data['labels'].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    preprocessor = ClipPreprocessor(mean=(0, 0, 0), std=(1, 1, 1), mixing=MIXING, num_classes=4)
    for seed in range(6):
        torch.manual_seed(seed)
        result = preprocessor(data, training=True)
        brightness = result['clip'].mean((1, 2, 3, 4)) * 255 / 40
        torch.testing.assert_close(brightness, result['labels'] @ torch.arange(4.0), rtol=1e-4, atol=1e-4)


def test_uint8_and_normalised_batches_are_augmented_alike_and_follow_the_seed():
    preprocessor = ClipPreprocessor(erasing=dict(ERASING, prob=0.5), mixing=MIXING, num_classes=NUM_CLASSES)
    data = batch(6)
    floating = {**data, 'clips': {'rgb': preprocessor.normalize(data['clips']['rgb'])}}
    kept = floating['clips']['rgb'].clone()
    results = []
    for seed, given_batch in ((1, data), (1, floating), (2, data)):
        torch.manual_seed(seed)
        results.append(preprocessor(given_batch, training=True))
    for key in ('clip', 'labels'):
        assert torch.equal(results[0][key], results[1][key])
        assert not torch.equal(results[0][key], results[2][key])
    assert torch.equal(floating['clips']['rgb'], kept)
    assert results[0]['clip'].dtype == results[0]['labels'].dtype == torch.float32


def test_evaluation_is_neither_erased_nor_mixed():
    preprocessor = ClipPreprocessor(erasing=dict(ERASING, prob=1), mixing=MIXING, num_classes=NUM_CLASSES)
    data = batch(4)
    result = preprocessor(data)
    assert result['clip'] is data['clips']['rgb']
    assert torch.equal(result['labels'], data['labels'])


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(ERASING, fill='grey'), "fill='grey' is unknown. Choose 'black' or 'noise'"),
        (dict(ERASING, prob=1.5), r'prob=1.5 is not a probability'),
        (dict(ERASING, area=(0.5, 0.2)), r'area=\(0.5, 0.2\) is no range of shares'),
        (dict(ERASING, ratio=(0, 3)), r'ratio=\(0, 3\) is not a range of positive numbers'),
        (dict(MIXING, mixup_alpha=0), r'mixup_alpha=0 is not positive. Choose between mixup and CutMix by switch_prob'),
        (dict(MIXING, switch_prob=-1), r'switch_prob=-1 is not a probability'),
    ],
)
def test_wrong_arguments_of_batch_augmentation_say_the_remedy(cfg: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


# ---------------------------------------------------------------------------------------------------------------------
# Loss


def classifier(**kwargs) -> torch.nn.Module:
    backbone = dict(embed_dim=24, depth=1, num_heads=3, patch_size=(2, 8, 8), clip_size=(4, 24, 32))
    cfg = dict(type='Classifier', backbone=dict(type='SpatioTemporalViT', **backbone), num_classes=NUM_CLASSES)
    return MODELS.build({**cfg, 'head_init_std': 0.1, **kwargs})


@pytest.mark.parametrize('frames', [1, 4])
def test_mixed_targets_are_smoothed_like_labels(frames: int):
    """On: 1 - 0.1 + 0.1 / 5 = 0.92, off: 0.02, then mixed; the answer is the larger share."""
    mixing = dict(type='ClipPreprocessor', mixing=MIXING)
    model = classifier(label_smoothing=0.1, data_preprocessor=mixing)
    torch.manual_seed(3)
    data = {**batch(4, frames), 'labels': torch.tensor([0, 1, 2, 3])}
    inputs = model.data_preprocessor(data, training=True)
    share = inputs['labels'][0, 0]
    smoothed = torch.full((4, 5), 0.02).scatter(1, data['labels'][:, None], 0.92)
    targets = share * smoothed + (1 - share) * smoothed.flip(0)
    logits = model.logits(inputs['clip'])
    result = model(**inputs)
    assert result['loss'].item() == pytest.approx(-(targets * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)
    assert result['top1'].item() == 100 * (logits.argmax(1) == targets.argmax(1)).float().mean().item()


@pytest.mark.parametrize('answer', [0.0, 7.0, torch.nan])
def test_a_constant_model_is_right_nowhere(answer: float):
    probe = dict(type='LinearProbe', head_init_std=0.1)
    dense = MODELS.build(dict(type='SegmentationTask', num_classes=NUM_CLASSES))
    labels = torch.arange(NUM_CLASSES)
    for model in (classifier(), classifier(**probe)):
        model.logits = lambda clip: torch.full((5, NUM_CLASSES), answer)
        model.view_logits = lambda clip: torch.full((5, 1, NUM_CLASSES), answer)
        assert model.loss(torch.zeros(5), labels)['top1'] == 0
    output, target = torch.full((1, NUM_CLASSES, 1, 5), answer), labels.view(1, 1, 1, 1, 5).to(torch.uint8)
    assert dense.loss(output, target)['top1'] == 0
    assert dense.results(output)[0]['classes'].tolist() == [[255] * 5]
    output[:, 3] += 1
    assert dense.loss(output, target)['top1'] == (0 if torch.tensor(answer).isnan() else 20)


@pytest.mark.parametrize('training', [True, False])
def test_a_head_smaller_than_the_labels_is_refused_before_the_device(training: bool):
    data = {**batch(3), 'labels': torch.tensor([0, 5, 7])}
    message = "label 5 of '1.mp4' is none of the model's 5 classes, counted from 0. Set model.num_classes"
    with pytest.raises(ValueError, match=message):
        classifier().data_preprocessor(data, training=training)


def test_mixing_without_labels_is_refused():
    data = batch(2)
    del data['labels']
    model = classifier(data_preprocessor=dict(type='ClipPreprocessor', mixing=MIXING))
    with pytest.raises(ValueError, match='mixing mixes labels, and this batch or model has none. Set it to None'):
        model.data_preprocessor(data, training=True)
