"""Pictures beside maps: one geometry for all of them, what is not known stays so, files find their partners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from omnimae.data.aligned import AlignedDataset
from omnimae.data.datasets import MixedDataset, collate_clips
from omnimae.data.dense_transforms import turn_hue
from omnimae.data.formats.preparation import prepare_aligned
from omnimae.data.media.errors import BrokenImageError
from omnimae.data.media.images import read_stored_map
from omnimae.data.media.orientation import orient
from omnimae.data.transforms import resize
from omnimae.registry import TRANSFORMS
from omnimae.structures import Address

NUM, HEIGHT, WIDTH = 3, 40, 56
MODALITIES = dict(rgb={}, depth=dict(valid='mask_valid'), semseg=dict(kind='classes', reduce_zero_label=True))


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose maps can be told from them: the place of a pixel is in all of them.

    Red is its row, green its column; depth is 256 * row + column; its class is row // 8, and 255 in column 0.
    """
    root = tmp_path_factory.mktemp('aligned')
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    classes = np.where(column == 0, 255, row // 8)
    maps = dict(
        rgb=np.stack([row, column, 0 * row], -1).astype(np.uint8),
        depth=(256 * row + column).astype(np.uint16),
        semseg=classes.astype(np.uint8),
        mask_valid=np.where(column < WIDTH // 2, 255, 0).astype(np.uint8),
    )
    for number in range(NUM):
        for name, pixels in maps.items():
            path = root / name / 'all' / f'{number:04}.{"bmp" if name == "rgb" else "png"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def dataset(root: Path, *transforms: dict, **more) -> AlignedDataset:
    return AlignedDataset(root=str(root), modalities=more.pop('modalities', MODALITIES), transforms=transforms, **more)


def test_evaluation_sample_is_what_the_files_hold(root):
    sample = dataset(root, target='semseg')[1]
    rgb, depth = (sample['clips'][name][0, 0] for name in ('rgb', 'depth'))
    target = sample['target'][0, 0, 0]
    assert (sample['id'], sample['modality'], set(sample['clips'])) == ('all/0001.bmp', 'image', {'rgb', 'depth'})
    assert (rgb.shape, depth.shape) == ((3, 1, HEIGHT, WIDTH), (1, 1, HEIGHT, WIDTH))
    assert (rgb.dtype, depth.dtype, target.dtype) == (torch.uint8, torch.int32, torch.uint8)
    assert depth[0, 0, 2, :3].tolist() == [512, 513, 514]
    assert depth[0, 0, :, WIDTH // 2 :].unique().tolist() == [-1]  # where the mask says so
    assert target[:, 5].tolist() == [255] * 8 + [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8  # class 0 is none
    assert target[:, 0].unique().tolist() == [255]
    assert 'label' not in sample


@pytest.mark.parametrize(
    'transforms',
    [
        [dict(type='RandomResizedCrop', size=24, scale=(0.2, 1.0)), dict(type='Flip')],
        [dict(type='Flip'), dict(type='LargeScaleJitter', size=48), dict(type='RandomCrop', size=48)],
        [dict(type='ResizeShort', size=30), dict(type='RandomCrop', size=30)],
    ],
)
def test_every_modality_gets_the_same_geometry(root, transforms):
    """Depth and class of a pixel tell its place as its colours do, whatever was done to them."""
    modalities = dict(rgb={}, place=dict(kind='depth', folder='depth'), semseg=MODALITIES['semseg'])
    source = dataset(root, *transforms, modalities=modalities)
    seen = set()
    for seed in range(12):
        clips = {name: clip[0, :, 0].int() for name, clip in source[Address(0, 0, seed)]['clips'].items()}
        [place], [classes], (red, green, blue) = clips['place'], clips['semseg'], clips['rgb']
        known = place >= 0
        row, column = place // 256, place % 256
        assert known.any()
        assert ((red - row).abs() <= 1)[known].float().mean() > 0.9  # bilinear against nearest
        assert ((green - column).abs() <= 1)[known].float().mean() > 0.9
        assert torch.equal(classes[known], torch.where(column == 0, 255, (row // 8 - 1) % 256)[known])
        assert (blue[~known] == 128).all()
        assert (classes[~known] == 255).all()
        seen.add((tuple(row[known][[0, -1]].tolist()), tuple(column[known][[0, -1]].tolist())))
    assert len(seen) > 6


# Orientation ----------------------------------------------------------------------------------------------------------

UPRIGHT = np.arange(1, 13, dtype=np.uint8).reshape(4, 3)  # class and depth of a pixel tell its place, and so does red
BACK = {6: 8, 8: 6}  # turns back what these turn; the others do it themselves


def write_oriented(path: Path, upright: np.ndarray, orientation: int, tag: int | None) -> None:
    """Store a picture so that ``orientation`` makes it upright, and say ``tag`` in its EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = orient(np.atleast_3d(upright), BACK.get(orientation, orientation))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = tag
    options = {} if tag is None else dict(exif=exif)
    Image.fromarray(np.ascontiguousarray(stored.squeeze())).save(path, **options)


def oriented(root: Path, picture: tuple[int, int | None], map_: tuple[int, int | None], ending: str = 'png') -> None:
    """One sample: the orientation in which its picture and its map are stored, and what their EXIF says."""
    write_oriented(root / 'rgb' / f'a.{ending}', np.stack([UPRIGHT * 20, UPRIGHT * 0, UPRIGHT * 0], -1), *picture)
    write_oriented(root / 'semseg' / f'a.{ending}', UPRIGHT, *map_)
    write_oriented(root / 'depth' / f'a.{ending}', UPRIGHT, *map_)
    write_oriented(root / 'known' / f'a.{ending}', np.where(UPRIGHT > 6, 255, 0).astype(np.uint8), *map_)


SCENE = dict(rgb={}, semseg=dict(kind='classes'), depth=dict(valid='known'))


def check_scene(root: Path, aligned_as: str) -> None:
    """Training reads every modality upright, and the check of the data keeps the sample."""
    clips = {
        name: clip[0, 0, 0, 0]
        for name, clip in AlignedDataset(root=str(root), modalities=SCENE, aligned_as=aligned_as)[0]['clips'].items()
    }
    assert clips['rgb'].tolist() == (UPRIGHT * 20).tolist()
    assert clips['semseg'].tolist() == UPRIGHT.tolist()
    assert clips['depth'].tolist() == np.where(UPRIGHT > 6, UPRIGHT.astype(int), -1).tolist()
    assert prepare_aligned(root, SCENE, aligned_as=aligned_as).kept == 1


@pytest.mark.parametrize('orientation', range(1, 9))
def test_maps_of_stored_pixels_are_turned_with_their_picture(tmp_path, orientation):
    """As MultiMAE's release makes them, which ignores EXIF; it does not matter whether the maps repeat it."""
    for number, (tag, ending) in enumerate([(None, 'png'), (orientation, 'png'), (orientation, 'tif')]):
        oriented(tmp_path / str(number), (orientation, orientation), (orientation, tag), ending)
        check_scene(tmp_path / str(number), 'stored')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_maps_of_upright_pictures_are_turned_by_their_own_exif(tmp_path, orientation):
    for number, (map_, ending) in enumerate([((1, None), 'png'), ((5, 5), 'png'), ((6, 6), 'tif')]):
        oriented(tmp_path / str(number), (orientation, orientation), map_, ending)
        check_scene(tmp_path / str(number), 'upright')


def test_stored_is_the_default(tmp_path):
    oriented(tmp_path, (6, 6), (6, None))
    clips = AlignedDataset(root=str(tmp_path), modalities=SCENE)[0]['clips']
    assert clips['semseg'][0, 0, 0, 0].tolist() == UPRIGHT.tolist()


@pytest.mark.parametrize(
    ('picture', 'map_', 'aligned_as', 'message'),
    [
        ((6, 6), (1, None), 'stored', r"different sizes, \{'rgb': \(4, 3\), 'semseg': \(3, 4\).*aligned_as='stored'"),
        ((6, 6), (6, None), 'upright', r"different sizes, \{'rgb': \(4, 3\), 'semseg': \(3, 4\).*aligned_as='upright'"),
        ((2, 2), (3, 3), 'stored', r"semseg/a.png: its orientation is 3 and .* 2, .* Try 'upright'"),
        ((1, None), (3, 3), 'stored', r'its orientation is 3 and that of the picture 1'),
    ],
)
def test_orientations_that_do_not_agree_are_an_error(tmp_path, picture, map_, aligned_as, message):
    oriented(tmp_path, picture, map_)
    with pytest.raises(BrokenImageError, match=message):
        AlignedDataset(root=str(tmp_path), modalities=SCENE, aligned_as=aligned_as)[0]
    with pytest.raises(ValueError, match='none of the 1 samples is whole'):
        prepare_aligned(tmp_path, SCENE, aligned_as=aligned_as)


def test_the_picture_need_not_come_first(tmp_path):
    oriented(tmp_path, (8, 8), (8, None))
    modalities = {name: SCENE[name] for name in ('depth', 'rgb')}
    clips = AlignedDataset(root=str(tmp_path), modalities=modalities)[0]['clips']
    assert clips['rgb'][0, 0, 0, 0].tolist() == (UPRIGHT * 20).tolist()
    assert (clips['depth'][0, 0, 0, 0].numpy() == UPRIGHT)[UPRIGHT > 6].all()


def test_a_check_without_a_mask_says_so(tmp_path):
    oriented(tmp_path, (1, None), (1, None))
    (tmp_path / 'known' / 'a.png').rename(tmp_path / 'known' / 'b.png')
    with pytest.raises(ValueError, match='none of the 2 samples is whole'):
        prepare_aligned(tmp_path, SCENE)
    assert 'a,no file of depth.valid' in (tmp_path / 'left_out.csv').read_text()


def test_colours_change_alone(root):
    jitter = dict(type='ColorJitter', prob=1.0)
    plain, changed = (dataset(root, *parts)[Address(0, 0, 5)]['clips'] for parts in ([], [jitter]))
    assert not torch.equal(plain['rgb'], changed['rgb'])
    for name in ('depth', 'semseg'):
        assert torch.equal(plain[name], changed[name])


def test_a_sample_follows_from_its_address(root):
    crop = dict(type='RandomResizedCrop', size=16)
    source = dataset(root, crop, replicas=2)
    once, again, other = (source[Address(0, 1, seed)]['clips']['depth'] for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once[0], once[1])


def test_nearest_pixel_of_a_map():
    x = np.arange(8, dtype=np.int32).reshape(1, 1, 8, 1)
    assert resize(x, 1, 4, 'bicubic').ravel().tolist() == [1, 3, 5, 7]  # as Pillow takes it: the pixel at the centre
    assert resize(x, 1, 2, 'bicubic').ravel().tolist() == [2, 6]
    assert resize(x, 2, 8, 'bicubic').reshape(2, 8).tolist() == [list(range(8))] * 2
    rng = np.random.default_rng(0)
    for height, width in ((5, 9), (23, 40), (13, 17)):
        pixels = rng.integers(0, 256, (13, 17), np.uint8)
        pillow = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST))
        assert np.array_equal(resize(pixels[None, ..., None], height, width, 'bilinear')[0, ..., 0], pillow)


def test_padding_stands_at_the_bottom_and_on_the_right():
    crop = TRANSFORMS.build(dict(type='ResizeLong', size=4))
    clips = [np.ones((1, 1, 2, channels), dtype) for channels, dtype in ((3, np.uint8), (1, np.uint8), (1, np.int16))]
    for clip, value in zip(clips, (128, 255, -1), strict=True):
        assert crop(clip)[0, ..., 0].tolist() == [[1] * 4, [1] * 4, [value] * 4, [value] * 4]


def test_hue_turns_red_to_green():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert turn_hue(red, 1 / 3)[0, 0, 0].tolist() == [0, 200, 0]


def test_classes_are_shrunk_behind_the_transforms(root):
    modalities = dict(rgb={}, semseg=dict(kind='classes', stride=4))
    clips = dataset(root, modalities=modalities)[0]['clips']
    assert clips['semseg'].shape == (1, 1, 1, 1, HEIGHT // 4, WIDTH // 4)
    assert clips['semseg'][0, 0, 0, 0, :, 1].tolist() == [row // 8 for row in range(2, HEIGHT, 4)]


def test_batches_keep_modalities_apart(root):
    source = dict(
        type='AlignedDataset',
        root=str(root),
        modalities=MODALITIES,
        target='semseg',
        transforms=[dict(type='RandomResizedCrop', size=16)],
    )
    mixed = MixedDataset(sources=dict(aligned=source))
    batch = collate_clips([mixed[Address(0, row, 7)] for row in range(3)])
    assert {name: tuple(clip.shape) for name, clip in batch['clips'].items()} == {
        'rgb': (3, 3, 1, 16, 16),
        'depth': (3, 1, 1, 16, 16),
    }
    assert tuple(batch['target'].shape) == (3, 1, 1, 16, 16)
    assert len(batch['ids']) == 3


def test_folders_of_classes_are_labels(tmp_path):
    for name in ('rgb', 'depth'):
        for kind in ('cat', 'dog'):
            (tmp_path / name / kind).mkdir(parents=True)
            Image.new('L', (8, 8)).save(tmp_path / name / kind / '0.png')
    source = dataset(tmp_path, modalities=dict(rgb={}, depth={}))
    assert [source[row]['label'] for row in range(2)] == [0, 1]
    assert source[0]['clips']['depth'].dtype == torch.int16


def test_samples_whose_map_is_listed_are_skipped(root, tmp_path):
    listed = tmp_path / 'broken_files.txt'
    listed.write_text(f'{root}/depth/all/0001.png\tbroken\n')
    sample = dataset(root, skip=str(listed))[Address(0, 1, 7)]
    assert sample['failures'][0] == (f'{root}/depth/all/0001.png', f'is to be skipped, says {listed}')
    assert dataset(root, skip=str(listed))[Address(0, 2, 7)]['failures'] == []


def test_a_file_without_partner_is_refused(root, tmp_path):
    for name in ('rgb', 'depth'):
        (tmp_path / name).mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'rgb' / 'a.png')
    Image.new('L', (8, 8)).save(tmp_path / 'depth' / 'b.png')
    with pytest.raises(ValueError, match="depth' has no file for 'a' .* first of 1"):
        dataset(tmp_path, modalities=dict(rgb={}, depth={}))


def test_two_partners_are_refused(tmp_path):
    oriented(tmp_path, (1, None), (1, None))
    Image.new('L', (3, 4)).save(tmp_path / 'depth' / 'a.bmp')
    for use in (lambda: dataset(tmp_path, modalities=SCENE), lambda: prepare_aligned(tmp_path, SCENE)):
        with pytest.raises(ValueError, match="depth' has both 'a.bmp' and 'a.png', which differ only in the extension"):
            use()


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (dict(target='normals'), "target='normals'. The target must be one of them"),
        (dict(target='rgb', modalities=dict(rgb={})), 'at least one must remain'),
        (dict(aligned_as='exif'), "aligned_as='exif' is unknown. Choose 'stored' or 'upright'"),
        (dict(modalities=dict(rgb=dict(fodler='a'))), "modalities.rgb has no 'fodler'. Known are kind, folder, stride"),
        (dict(modalities=dict(heat={})), r"modalities.heat.kind='heat' is unknown. Choose one of 'rgb', 'depth'"),
        (dict(modalities=dict(rgb=dict(valid='mask_valid'))), "modalities.rgb.valid is for kind='depth', not 'rgb'"),
        (
            dict(modalities=dict(rgb={}, depth=dict(reduce_zero_label=True))),
            "modalities.depth.reduce_zero_label is for kind='classes', not 'depth'. Leave it out",
        ),
        (
            dict(modalities=dict(rgb={}, depth=dict(num_classes=3))),
            "modalities.depth.num_classes is for kind='classes', not 'depth'. Leave it out",
        ),
    ],
)
def test_arguments_that_cannot_be_used(root, more, message):
    with pytest.raises(ValueError, match=message):
        dataset(root, **more)


@pytest.mark.parametrize(
    ('pixels', 'modality', 'message'),
    [
        (np.zeros((8, 8, 3), np.uint8), dict(kind='depth'), 'has several channels, but a map has one'),
        (np.zeros((8, 9), np.uint8), dict(kind='depth'), r"different sizes, \{'rgb': \(8, 8\), 'other': \(8, 9\)\}"),
        (np.zeros((8, 8), np.uint16), dict(kind='classes'), 'store 8 bits'),
    ],
)
def test_maps_that_cannot_be_read(tmp_path, pixels, modality, message):
    for name, picture in dict(rgb=np.zeros((8, 8, 3), np.uint8), other=pixels).items():
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / '0.png')
    source = dataset(tmp_path, modalities=dict(rgb={}, other=modality))
    with pytest.raises(BrokenImageError, match=message):
        source[0]


def test_masks_of_one_bit_say_where_depth_is_known(tmp_path):
    known = np.arange(64).reshape(8, 8) % 3 > 0
    pictures = dict(rgb=np.zeros((8, 8, 3), np.uint8), depth=np.full((8, 8), 7, np.uint16), valid=known)
    for name, pixels in pictures.items():
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / '0.png')
    assert read_stored_map(str(tmp_path / 'valid' / '0.png')).pixels.dtype == bool
    depth = dataset(tmp_path, modalities=dict(rgb={}, depth=dict(valid='valid')))[0]['clips']['depth'][0]
    assert np.array_equal(depth[0, 0, 0].numpy() == 7, known)
    assert depth[0, 0, 0].numpy()[~known].max() == -1


def test_a_broken_map_is_no_map(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'\x89PNG')
    with pytest.raises(BrokenImageError, match='not an image'):
        read_stored_map(str(tmp_path / 'a.png'))


@pytest.mark.parametrize(
    ('transform', 'message'),
    [
        (dict(type='LargeScaleJitter', size=8, scale=(2, 1)), r'scale=\(2, 1\) is not a range'),
        (dict(type='LargeScaleJitter', size=8, interpolation='area'), "interpolation='area' is unknown"),
        (dict(type='ColorJitter', hue=0.7), 'hue=0.7 is not in 0..0.5'),
    ],
)
def test_transforms_refuse(transform, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(transform)


@pytest.mark.parametrize('name', ['LargeScaleJitter', 'RandomCrop', 'ColorJitter'])
def test_evaluation_is_not_random(name):
    transform = TRANSFORMS.build(dict(type=name, **({} if name == 'ColorJitter' else dict(size=8))))
    with pytest.raises(ValueError, match=f'{name} is random, but evaluation is not'):
        transform(np.zeros((1, 8, 8, 3), np.uint8), None)
