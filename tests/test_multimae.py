"""MultiMAE: tokenizers, masks, heads, losses and files, held against the release and a plain path written anew."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from test_datasets import write_video

from omnimae.checkpoint import convert
from omnimae.data.aligned import AlignedVideoDataset
from omnimae.data.video import BrokenFileError
from omnimae.layouts import export_multimae
from omnimae.registry import MODELS
from omnimae.structures import Address, Masks

SHARED_DATA = os.environ.get('OMNIMAE_SHARED_DATA')


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def multimae(backbone: dict, decoder: dict, clip_size: tuple = (1, 32, 32), patch: tuple = (1, 8, 8), **kwargs):
    """Make a model of three modalities and four tasks; maps of classes have a quarter of the height and width."""
    shared = dict(patch_size=patch, clip_size=clip_size)
    quarter = {key: (x[0], x[1] // 4, x[2] // 4) for key, x in shared.items()}
    tokenizers = dict(
        rgb=dict(type='PatchTokenizer', channels=3, **shared),
        depth=dict(type='PatchTokenizer', channels=1, **shared),
        semseg=dict(type='ClassMapTokenizer', num_classes=133, **quarter),
    )
    head = dict(type='CrossAttentionHead', **decoder)
    parts = dict(
        backbone=dict(type='MultiModalViT', tokenizers=tokenizers, **backbone),
        head=dict(
            rgb=dict(head, error='mse'),
            depth=dict(head, error='l1'),
            semseg=dict(head, error='cross_entropy'),
            norm_rgb=dict(head, modality='rgb', error='mse', target=dict(type='PixelTarget', normalize='patch')),
        ),
        mask_generator=dict(type='DirichletMasking', num_visible=8),
    )
    return MODELS.build(dict(type='MultiMAE', **{**parts, **kwargs}))


# --- against the release ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED_DATA, reason='set OMNIMAE_SHARED_DATA to a folder beside golden/')
def test_outputs_and_losses_equal_the_release():
    golden = np.load(Path(SHARED_DATA).parent / 'golden' / 'multimae_tiny.npz')
    theirs = {key[11:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith('state_dict/')}
    size = dict(clip_size=(1, 64, 64), patch=(1, 16, 16))
    model = multimae(dict(embed_dim=48, depth=2, num_heads=4), dict(embed_dim=32, num_heads=4), **size)
    for name, x in convert({'model': theirs}).items():
        if name.endswith('pos_embed'):  # the published tables are our fixed ones
            torch.testing.assert_close(x, model.state_dict()[name], rtol=0, atol=1e-6)
    model.load_state_dict(convert({'model': theirs}))
    back = export_multimae(model.state_dict())
    assert all(torch.equal(back.pop(name), x) for name, x in theirs.items())
    assert not back
    clips = {name: torch.from_numpy(golden[f'x/{name}']).unsqueeze(2) for name in ('rgb', 'depth')}
    clips['semseg'] = torch.from_numpy(golden['x/semseg'])[:, None, None]
    masks = Masks.from_hidden(torch.cat([torch.from_numpy(golden[f'masks/{name}']).bool() for name in clips], 1))
    rows, losses = model.predict(clips, masks), model(clips, masks)
    for task, error in dict(rgb='mse', depth='l1', semseg='cross_entropy', norm_rgb='mse').items():
        patches = torch.stack([row['patches'][task] for row in rows])
        side = 4 if task == 'semseg' else 16
        image = patches.view(3, 4, 4, side, side, -1).permute(0, 5, 1, 3, 2, 4).reshape(3, -1, 4 * side, 4 * side)
        torch.testing.assert_close(image, torch.from_numpy(golden[f'out/{task}']), rtol=0, atol=1e-5)
        assert losses[f'{error}_{task}'].item() == pytest.approx(float(golden[f'losses/{task}']), rel=1e-6)
    total = sum(float(golden[f'losses/{task}']) for task in ('rgb', 'depth', 'semseg', 'norm_rgb'))
    assert losses['loss'].item() == pytest.approx(total, rel=1e-6)


def test_parameters_are_the_published_ones():
    with torch.device('meta'):
        model = multimae(dict(arch='base'), {}, clip_size=(1, 224, 224), patch=(1, 16, 16))
    dim, d = 768, 256
    block = lambda n: 4 * n + (n * 3 * n + 3 * n) + (n * n + n) + (n * 4 * n + 4 * n) + (4 * n * n + n)  # noqa: E731
    tokenizers = {
        'rgb': 3 * 256 * dim + dim,
        'depth': 256 * dim + dim,
        'semseg': 133 * 64 + 64 * 16 * dim + dim,
    }
    attention = (d * d + d) + (d * 2 * d + 2 * d) + (d * d + d)
    decoder = (dim * d + d) + d + 3 * d + 3 * 2 * d + attention + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * block(d)
    outputs = {'rgb': 768, 'depth': 256, 'semseg': 133 * 16, 'norm_rgb': 768}
    heads = {task: decoder + n * d + n for task, n in outputs.items()}

    def count(module: torch.nn.Module) -> int:
        return sum(x.numel() for x in module.parameters())

    assert count(model.backbone.blocks) == 12 * block(dim) == 85_054_464
    assert {name: count(x) for name, x in model.backbone.tokenizers.items()} == tokenizers
    assert {task: count(x) for task, x in model.head.items()} == heads
    assert count(model) == 12 * block(dim) + dim + sum(tokenizers.values()) + sum(heads.values()) == 97_917_072
    rounded = [round(n / 1e6, 2) for n in (*tokenizers.values(), *heads.values())]
    assert rounded == [0.59, 0.20, 0.80, 2.77, 2.63, 3.11, 2.77]


# --- videos beside maps ----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def clips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frame i is the grey 4 i, beside depth of 100 i with a row number, and classes of i."""
    root = tmp_path_factory.mktemp('clips')
    write_video(root / 'rgb' / 'walk' / 'a.mp4', num_frames=30)
    frames = np.arange(30)[:, None, None] * np.ones((1, 48, 64), int)
    for name, maps in dict(depth=(100 * frames).astype(np.uint16), semseg=frames.astype(np.uint8)).items():
        (root / name / 'walk').mkdir(parents=True)
        np.save(root / name / 'walk' / 'a.npy', maps)
    return root


def clips_of(root: Path, **more) -> AlignedVideoDataset:
    modalities = dict(rgb={}, depth={}, semseg=dict(kind='classes', num_classes=30, stride=4))
    crop = [dict(type='RandomResizedCrop', size=16)] if more.pop('train', False) else []
    settings = dict(modalities=modalities, clip_seconds=2.0, num_frames=8, transforms=crop)
    return AlignedVideoDataset(root=str(root), **{**settings, **more})


@pytest.mark.parametrize('sampling', ['dense', 'sparse'])
def test_frames_of_all_modalities_are_of_the_same_time(clips_root, sampling):
    for seed in range(20):
        clips = clips_of(clips_root, sampling=sampling, replicas=2, train=True)[Address(0, 0, seed)]['clips']
        assert {name: tuple(x.shape) for name, x in clips.items()} == {
            'rgb': (2, 3, 8, 16, 16), 'depth': (2, 1, 8, 16, 16), 'semseg': (2, 1, 8, 4, 4),
        }  # fmt: skip
        numbers = clips['semseg'][0, 0, :, 0, 0].int()
        assert (clips['depth'][0, 0, :, 0, 0] == 100 * numbers).all()
        assert ((clips['rgb'].float().mean((0, 1, 3, 4)) / 4).round() == numbers).all()
        assert numbers.diff().min() >= 0
    assert (clips['depth'].dtype, clips['semseg'].dtype) == (torch.int32, torch.uint8)


def test_testing_takes_the_same_clip_every_time(clips_root):
    source = clips_of(clips_root)
    assert torch.equal(source[0]['clips']['depth'], source[0]['clips']['depth'])
    assert source[0]['clips']['semseg'][0, 0, :, 0, 0].tolist() == [0, 2, 5, 8, 10, 13, 16, 19]
    assert (source[0]['modality'], source[0]['label'], len(source)) == ('video', 0, 1)


def test_only_the_frames_of_the_clip_are_read(clips_root, monkeypatch):
    opened = []
    load = np.load
    monkeypatch.setattr(np, 'load', lambda *args, **kwargs: opened.append(load(*args, **kwargs)) or opened[-1])
    clips_of(clips_root)[0]
    assert [type(array) for array in opened] == [np.memmap, np.memmap]


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((30, 48, 64), np.float32), r'float32 \(30, 48, 64\), and maps are whole numbers'),
        (np.zeros((48, 64), np.uint8), r'uint8 \(48, 64\), and maps are whole numbers'),
        (np.full((30, 48, 64), 30, np.uint8), 'has the class 30, and num_classes=30'),
        (np.zeros((30, 48, 60), np.uint8), r'different sizes, \[\(48, 60\), \(48, 64\)\]'),
        (np.array([[['pickled']]], object), 'Python objects in dtype'),
        (None, 'No data left'),
    ],
)
def test_arrays_that_are_no_maps(clips_root, tmp_path, array, message):
    for name in ('rgb', 'depth'):
        (tmp_path / name).symlink_to(clips_root / name)
    (tmp_path / 'semseg' / 'walk').mkdir(parents=True)
    if array is None:
        (tmp_path / 'semseg' / 'walk' / 'a.npy').touch()
    else:
        np.save(tmp_path / 'semseg' / 'walk' / 'a.npy', array)
    with pytest.raises(BrokenFileError, match=message):
        clips_of(tmp_path)[0]


def test_modalities_of_video_that_cannot_be_used(clips_root):
    for modalities in (dict(depth={}), dict(rgb={}, depth=dict(valid='semseg'))):
        with pytest.raises(ValueError, match="name one of kind='rgb' first, whose videos tell the time, and none with"):
            clips_of(clips_root, modalities=modalities)
