"""Transforms against torchvision, Pillow and float arithmetic, and against tables written by hand."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop as TorchvisionRandomResizedCrop

from omnimae.data import transforms
from omnimae.data.transforms import (
    CenterCrop,
    Flip,
    MultiScaleCrop,
    RandomResizedCrop,
    ResizeShort,
    ThreeCrop,
    random_box,
    resize,
    resize_short,
)
from omnimae.registry import TRANSFORMS


class TorchDraws:
    """Looks like a numpy Generator, draws like torchvision does."""

    def uniform(self, low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, low: int, high: int) -> int:
        return torch.randint(low, high, (1,)).item()


def smooth_clip(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A clip that looks like photographs: neighbouring pixels are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, 3, 9, 12)).astype(np.float32)
    clip = F.interpolate(torch.from_numpy(coarse), size=(height, width), mode='bilinear')
    return clip.permute(0, 2, 3, 1).round().byte().numpy()


def numbered(height: int, width: int, frames: int = 1) -> np.ndarray:
    """Each pixel tells its own row and column."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    return np.broadcast_to(frame, (frames, height, width, 3)).copy()


@pytest.mark.parametrize('scale', [(0.08, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize(('height', 'width'), [(375, 500), (256, 455), (240, 320), (1080, 1920), (64, 64), (3, 5)])
def test_random_box_is_torchvisions_draw_for_draw(height, width, scale):
    image = torch.empty(3, height, width)
    for seed in range(100):
        torch.manual_seed(seed)
        expected = TorchvisionRandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])
        torch.manual_seed(seed)
        assert tuple(random_box(height, width, scale, (3 / 4, 4 / 3), TorchDraws())) == tuple(map(int, expected))


@pytest.mark.parametrize(
    ('height', 'width', 'expected'),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (10, 12, (0, 0, 10, 12))],
)
def test_box_that_never_fits_is_the_largest_central_one(height, width, expected):
    class HugeDraws:
        count = 0

        def uniform(self, low, high):
            self.count += 1
            return 100.0  # ten times more than fits

    draws = HugeDraws()
    assert tuple(random_box(height, width, (0.5, 1), (3 / 4, 4 / 3), draws)) == expected
    assert draws.count == 2 * 10


# github.com/facebookresearch/mae, util/crop.py, run on an image of 500x375 with the seeds 0 to 5
CUT_BOXES = [
    (17, 80, 294, 343),
    (0, 66, 375, 358),
    (13, 54, 360, 336),
    (217, 343, 141, 112),
    (7, 52, 328, 340),
    (0, 93, 375, 357),
]


@pytest.mark.parametrize('seed', range(6))
def test_without_redraw_the_sides_are_cut_as_in_maes_linear_probe(seed):
    torch.manual_seed(seed)
    assert tuple(random_box(375, 500, (0.08, 1.0), (3 / 4, 4 / 3), TorchDraws(), redraw=False)) == CUT_BOXES[seed]
    crop = RandomResizedCrop(size=32, redraw=False)
    drawn = {crop(numbered(30, 60), np.random.default_rng(i)).tobytes() for i in range(40)}
    redrawn = {RandomResizedCrop(size=32)(numbered(30, 60), np.random.default_rng(i)).tobytes() for i in range(40)}
    assert drawn != redrawn


def test_random_boxes_have_the_areas_and_positions_of_the_rule():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(1000, 1000, (0.2, 0.5), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    area = height * width / 1e6
    assert 0.199 < area.min() < 0.203
    assert 0.497 < area.max() < 0.501
    assert abs(area.mean() - 0.35) < 0.005
    assert abs(np.log(width / height).mean()) < 0.01
    assert abs((left / (1000 - width)).mean() - 0.5) < 0.02
    assert abs((top / (1000 - height)).mean() - 0.5) < 0.02


def test_bilinear_is_the_release_s_without_antialiasing_up_to_rounding():
    clip = smooth_clip(3, 120, 160)
    clip[:, 40, :] = 255 - clip[:, 40, :]  # a line of one pixel, which antialiasing would soften
    for height, width in [(224, 224), (50, 30), (64, 85)]:
        frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
        expected = F.interpolate(frames, size=(height, width), mode='bilinear', align_corners=False)
        result = resize(clip, height, width, 'bilinear')
        assert result.dtype == np.uint8
        assert np.abs(result - expected.permute(0, 2, 3, 1).numpy()).max() <= 1


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear_antialias'])
@pytest.mark.parametrize(('height', 'width'), [(224, 224), (40, 60)])
def test_antialiased_filters_are_pillows_up_to_rounding(height, width, interpolation):
    clip = smooth_clip(2, 131, 170)
    clip[:, 60, :] = 255 - clip[:, 60, :]
    result = resize(clip, height, width, interpolation)
    resample = Image.Resampling[interpolation.removesuffix('_antialias').upper()]
    for frame, resized in zip(clip, result, strict=True):
        expected = np.asarray(Image.fromarray(frame).resize((width, height), resample))
        difference = np.abs(resized.astype(int) - expected)
        assert difference.max() <= 2
        assert difference.mean() < 0.05


# Pillow 9.5 as MultiMAE calls it: a PNG of 16 bits, cut at (3, 2, 24, 19), resized to 7x6 with the default filter
FILTERED_DEPTH = [
    [5828, 7838, 9240, 25414, 34922, 36324, 38334],
    [8544, 10554, 11956, 28130, 37638, 39040, 41050],
    [11432, 13442, 14844, 31018, 40526, 41928, 43938],
    [14262, 16272, 17674, 33848, 43356, 44758, 46768],
    [17150, 19160, 20562, 36736, 46244, 47646, 49656],
    [19866, 21876, 23278, 39452, 48960, 50362, 52372],
]


def test_depth_is_filtered_as_pillow_filters_it_and_classes_never():
    y, x = np.mgrid[:20, :26]
    depth = (1000 * y + 700 * x + np.where(x > 12, 20000, 0)).astype(np.int32)[None, ..., None]
    crop = depth[:, 2:19, 3:24]
    result = resize(crop, 6, 7, 'bicubic', 'bicubic')
    assert (result.dtype, result.shape) == (np.int32, (1, 6, 7, 1))
    assert np.abs(result[0, ..., 0] - np.array(FILTERED_DEPTH)).max() <= 1
    assert set(resize(crop, 6, 7, 'bicubic').ravel()) <= set(crop.ravel())
    some = crop.copy()
    some[0, 0, 0] = -1  # not known
    assert set(resize(some, 6, 7, 'bicubic', 'bicubic').ravel()) <= set(some.ravel())
    classes = np.random.default_rng(0).integers(0, 9, crop.shape, np.uint8)
    assert set(resize(classes, 6, 7, 'bicubic', 'bicubic').ravel()) <= set(classes.ravel())
    for transform in (RandomResizedCrop(size=6, depth='bicubic'), ResizeShort(size=6, depth='bicubic')):
        assert not set(transform(crop, np.random.default_rng(0)).ravel()) <= set(crop.ravel())
    edge = np.where(x > 12, 255, 0).astype(np.int16)[None, ..., None]  # 8 bits
    bounds = resize(edge, 40, 52, 'bicubic', 'bicubic')
    assert (bounds.dtype, bounds.min(), bounds.max()) == (np.int16, 0, 255)
    with pytest.raises(ValueError, match="depth='bilinear' is unknown. Choose 'nearest' or 'bicubic'"):
        ResizeShort(size=6, depth='bilinear')


def test_bicubic_antialiases_and_bilinear_does_not():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::8] = 255  # one bright column of eight
    assert resize(stripes, 8, 8, 'bicubic').std() < 30
    assert resize(stripes, 8, 8, 'bilinear_antialias').std() < 30
    assert set(np.unique(resize(stripes, 8, 8, 'bilinear'))) == {0}


@pytest.mark.parametrize(
    ('height', 'width', 'expected'),
    [(240, 426, (256, 454)), (426, 240, (454, 256)), (100, 100, (256, 256)), (1080, 1920, (256, 455))],
)
def test_short_side_is_exact_and_the_long_side_rounded_down(height, width, expected):
    assert resize_short(np.zeros((1, height, width, 3), np.uint8), 256, 'bilinear').shape == (1, *expected, 3)


def test_crop_in_one_resampling_is_cut_then_resize():
    clip = smooth_clip(4, 90, 130)
    transform = RandomResizedCrop(size=(48, 32), scale=(0.3, 0.8), interpolation='bilinear')
    top, left, height, width = random_box(90, 130, (0.3, 0.8), (3 / 4, 4 / 3), np.random.default_rng(7))
    expected = resize(clip[:, top : top + height, left : left + width], 48, 32, 'bilinear')
    np.testing.assert_array_equal(transform(clip, np.random.default_rng(7)), expected)


def test_exact_two_step_path_cuts_from_the_resized_clip():
    clip = smooth_clip(2, 90, 130)
    transform = RandomResizedCrop(size=48, short_side=256)
    top, left, height, width = random_box(256, 369, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(7))
    resized = resize(clip, 256, 369, 'bilinear')
    expected = resize(resized[:, top : top + height, left : left + width], 48, 48, 'bilinear')
    np.testing.assert_array_equal(transform(clip, np.random.default_rng(7)), expected)


def test_one_and_two_step_paths_show_nearly_the_same_picture():
    clip = smooth_clip(1, 240, 426)
    one = RandomResizedCrop(size=64, scale=(0.5, 1))
    two = RandomResizedCrop(size=64, scale=(0.5, 1), short_side=256)
    for seed in range(5):
        a, b = (t(clip, np.random.default_rng(seed)).astype(int) for t in (one, two))
        assert np.abs(a - b).mean() < 2


RANDOM = [
    RandomResizedCrop(size=24),
    RandomResizedCrop(size=24, interpolation='bicubic'),
    MultiScaleCrop(size=24),
    Flip(),
]
FIXED = [ResizeShort(size=24), CenterCrop(size=24), ThreeCrop(size=24)]


@settings(max_examples=25, deadline=None)
@given(transform=st.sampled_from(RANDOM), seed=st.integers(0, 2**32), frames=st.integers(2, 5))
def test_all_frames_get_the_same_change(transform, seed, frames):
    still = np.repeat(smooth_clip(1, 40, 52), frames, axis=0)
    result = transform(still, np.random.default_rng(seed))
    assert (result == result[:1]).all()
    alone = transform(still[:1], np.random.default_rng(seed))
    np.testing.assert_array_equal(result[:1], alone)


@pytest.mark.parametrize('transform', RANDOM, ids=lambda t: type(t).__name__)
def test_random_transforms_follow_their_generator_and_refuse_evaluation(transform):
    clip = smooth_clip(1, 40, 52)
    results = [transform(clip, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(results[0], results[1])
    assert any(not np.array_equal(results[0], other) for other in results[2:])
    with pytest.raises(ValueError, match=f'{type(transform).__name__} is random, but evaluation is not'):
        transform(clip, None)


@pytest.mark.parametrize('transform', RANDOM + FIXED, ids=lambda t: type(t).__name__)
def test_no_transform_writes_to_its_input(transform):
    clip = smooth_clip(2, 40, 52)
    kept = clip.copy()
    transform(clip, np.random.default_rng(0) if transform in RANDOM else None)
    np.testing.assert_array_equal(clip, kept)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_resized_images_lie_in_memory_as_they_are_read(interpolation):
    image = np.zeros((40, 60, 3), np.uint8)[None]  # as decode_image gives it: a first stride of 0
    for clip in (image, image[:, 3:30, 5:50]):
        assert resize(clip, 24, 32, interpolation).flags.c_contiguous


class Choices:
    """Looks like a numpy Generator, draws what it is told."""

    def __init__(self, *choices: int):
        self.choices = [*choices]

    def integers(self, high: int) -> int:
        assert self.choices[0] < high
        return self.choices.pop(0)


@pytest.mark.parametrize(
    ('choices', 'size', 'corner'),
    [
        ((0, 0), (100, 100), (0, 0)),
        ((1, 4), (100, 87), (0, 3 * 23)),  # the room of 93 in quarters
        ((2, 12), (87, 100), (4 * 3, 4 * 20)),
        ((9, 3), (66, 66), (8, 28)),
    ],
)
def test_multi_scale_crop(choices, size, corner):
    crop = MultiScaleCrop(size=size)(numbered(100, 180), Choices(*choices))
    np.testing.assert_array_equal(crop, numbered(100, 180)[:, corner[0] :, corner[1] :][:, : size[0], : size[1]])


def test_multi_scale_crops_have_ten_sizes_and_13_places():
    boxes = set()
    for pair, place in np.ndindex(10, 13):
        crop = MultiScaleCrop(size=40)(numbered(100, 180), Choices(pair, place))
        boxes.add(crop.tobytes())
    # a square of 100 and boxes of 100 x 87 have no room along the short side: 5 places each, the others all 13
    assert len(boxes) == 2 * 5 + 8 * 13
    for draw in ((10, 0), (0, 13)):
        with pytest.raises(AssertionError):
            MultiScaleCrop(size=40)(numbered(100, 180), Choices(*draw))


# github.com/MCG-NJU/VideoMAE, GroupMultiScaleCrop(224) run: sides of the crops by the frame's height and width. It
# also cuts 224 rows from a frame of 223, past its edge; ours end there.
@pytest.mark.parametrize(
    ('height', 'width', 'sides'),
    [
        (256, 340, [168, 192, 224, 256]),
        (240, 320, [158, 180, 210, 240]),
        (226, 301, [149, 169, 197, 224]),
        (223, 300, [147, 167, 195, 224]),
    ],
)
def test_multi_scale_crops_have_the_published_sizes_and_pillows_pixels(height, width, sides, monkeypatch):
    clip = smooth_clip(1, height, width)
    clip[:, ::8] = 255  # lines of one pixel, which antialiasing softens
    crops = []
    monkeypatch.setattr(transforms, 'resize', lambda crop, *rest: (crops.append(crop[0]), resize(crop, *rest))[1])
    for pair in range(10):
        [result] = MultiScaleCrop(size=224)(clip, Choices(pair, 5))
        difference = np.abs(result.astype(int) - Image.fromarray(crops[-1]).resize((224, 224), Image.BILINEAR))
        assert difference.max() <= 2
        assert difference.mean() < 0.1
    found = {crop.shape[:2] for crop in crops}
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    assert found == {(min(h, height), w) for h, w in pairs}


def test_flip_mirrors_columns_with_its_probability():
    clip = numbered(2, 3)
    np.testing.assert_array_equal(Flip(prob=1.0)(clip, np.random.default_rng(0))[0, 0, :, 1], [2, 1, 0])
    np.testing.assert_array_equal(Flip(prob=0.0)(clip, np.random.default_rng(0)), clip)
    rng = np.random.default_rng(0)
    share = np.mean([Flip(prob=0.25)(clip, rng)[0, 0, 0, 1] == 2 for _ in range(2000)])
    assert abs(share - 0.25) < 0.03


def test_flip_mirrors_every_frame_of_a_cut():
    clip = np.random.default_rng(0).integers(0, 256, (3, 9, 8, 3), dtype=np.uint8)
    for cut in (clip, clip[:, 2:7, 1:6]):
        np.testing.assert_array_equal(Flip(prob=1.0)(cut, np.random.default_rng(0)), cut[:, :, ::-1])


@pytest.mark.parametrize(
    ('height', 'width', 'first'),
    [(4, 7, (0, 2)), (7, 4, (2, 0)), (9, 4, (2, 0)), (5, 11, (0, 4))],  # half pixels round to even
)
def test_center_crop_takes_the_middle(height, width, first):
    crop = CenterCrop(size=4)(numbered(height, width))
    assert crop.shape == (1, 4, 4, 3)
    assert tuple(crop[0, 0, 0, :2]) == first


@pytest.mark.parametrize(
    ('height', 'width', 'corners'),
    [
        (4, 9, [(0, 0), (0, 3), (0, 5)]),  # left, centre at ceil(5 / 2), right
        (9, 4, [(0, 0), (3, 0), (5, 0)]),
        (4, 4, [(0, 0), (0, 0), (0, 0)]),
        (6, 9, [(1, 0), (1, 3), (1, 5)]),
    ],
)
def test_three_crops_lie_along_the_longer_side(height, width, corners):
    views = ThreeCrop(size=4)(numbered(height, width, frames=2))
    assert views.shape == (3, 2, 4, 4, 3)
    assert [tuple(view[1, 0, 0, :2]) for view in views] == corners


@pytest.mark.parametrize(('round_down', 'middle'), [(False, 37), (True, 36)])
def test_half_a_pixel_of_the_middle_crop(round_down, middle):
    """SlowFast's uniform_crop takes the ceiling, VideoMAE int(split * (width - 224) / 2)."""
    views = ThreeCrop(size=4, round_down=round_down)(numbered(4, 77))
    assert views[:, 0, 0, 0, 1].tolist() == [0, middle, 73]


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='RandomResizedCrop', size=0), r'size=0 is not positive. Give a number of pixels'),
        (dict(type='RandomResizedCrop', size=8, scale=(0.5, 1.5)), r'scale=\(0.5, 1.5\) asks for more than the whole'),
        (dict(type='RandomResizedCrop', size=8, scale=(0.5, 0.2)), r'scale=\(0.5, 0.2\) is not a range'),
        (dict(type='RandomResizedCrop', size=8, ratio=(0, 1)), r'ratio=\(0, 1\) is not a range'),
        (dict(type='RandomResizedCrop', size=8, interpolation='cubic'), "interpolation='cubic' is unknown. Choose one"),
        (dict(type='ResizeShort', size=8, interpolation='nearest'), "interpolation='nearest' is unknown. Choose one"),
        (dict(type='MultiScaleCrop', size=8, scales=(1, 1.2)), r'scales=\(1, 1.2\) are not shares of the short side'),
        (dict(type='Flip', prob=2), r'prob=2 is not in 0\.\.1'),
    ],
)
def test_wrong_arguments_say_the_remedy(cfg, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(cfg)


def test_crops_larger_than_the_clip_say_the_remedy():
    clip = numbered(20, 30)
    for transform in (CenterCrop(size=24), ThreeCrop(size=24)):
        with pytest.raises(ValueError, match=r'cannot cut 24x24 .* 20x30. Put ResizeShort\(size=24\) before it'):
            transform(clip)
    with pytest.raises(ValueError, match='ThreeCrop makes test views. Use RandomResizedCrop'):
        ThreeCrop(size=4)(clip, np.random.default_rng(0))


def test_every_transform_is_configured_by_name():
    ours = [cls for cls in TRANSFORMS.module_dict.values() if cls.__module__ == 'omnimae.data.transforms']
    assert len(ours) == 6
    for cls in ours:
        parameters = list(inspect.signature(cls).parameters.values())
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters), cls
