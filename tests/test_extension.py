"""The example of a user's own mask generator and dataset: it works from outside the package, and it trains."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import ROOT, TOOLS, command, environment
from tiny_run import write_data

from omnimae.data.media.errors import BrokenFileError
from omnimae.structures import Address, Grid

EXAMPLE = ROOT / 'examples' / 'outside_extension'
LOADER = dict(num_workers=0, persistent_workers=False)


@pytest.fixture(scope='module')
def my_parts():
    sys.path.insert(0, str(EXAMPLE))
    try:
        import my_parts
    finally:
        sys.path.remove(str(EXAMPLE))
    return my_parts


def write_arrays(folder: Path) -> Path:
    """Write three videos of 20, 17 and 16 frames; every frame holds its own number."""
    folder.mkdir()
    for length in (20, 17, 16):
        frames = np.arange(length, dtype=np.uint8)[:, None, None, None]
        np.save(folder / f'{length}.npy', np.broadcast_to(frames, (length, 40, 48, 3)))
    return folder


def test_band_masking(my_parts):
    grid = Grid(2, 4, 3)
    masks = my_parts.BandMasking(rows=2)(64, grid, 'cpu')
    assert my_parts.BandMasking(rows=2).num_hidden(grid) == masks.decode.shape[1] == 12
    bands = {tuple(row.tolist()) for row in masks.visible}
    first_slices = [(0, 1, 2, 3, 4, 5), (3, 4, 5, 6, 7, 8), (6, 7, 8, 9, 10, 11)]
    assert bands == {(*tokens, *(token + 12 for token in tokens)) for tokens in first_slices}


@pytest.mark.parametrize('rows', [0, 4])
def test_band_masking_refuses_useless_bands(my_parts, rows):
    with pytest.raises(ValueError, match=rf'rows={rows} must lie between 0 and the 4 rows'):
        my_parts.BandMasking(rows=rows).num_hidden(Grid(1, 4, 4))


def test_array_videos(my_parts, tmp_path):
    dataset = my_parts.ArrayVideos(root=str(write_arrays(tmp_path / 'arrays')), num_frames=16, replicas=2)
    assert len(dataset) == 3
    starts = set()
    for seed in range(40):
        sample = dataset[Address(0, 2, seed)]  # 20 frames
        numbers = sample['clips']['rgb'][:, 0, :, 0, 0]
        assert torch.equal(numbers, numbers[:, :1] + torch.arange(16))
        starts.update(numbers[:, 0].tolist())
    assert starts == {0, 1, 2, 3, 4}
    assert torch.equal(dataset[2]['clips']['rgb'][0, 0, 0, :, 0, 0], torch.arange(16).byte())


def test_array_videos_refuse_short_and_broken_files(my_parts, tmp_path):
    folder = write_arrays(tmp_path / 'arrays')
    (folder / '16.npy').write_bytes(b'no array')
    dataset = my_parts.ArrayVideos(root=str(folder), num_frames=18)
    with pytest.raises(BrokenFileError, match=r'16\.npy: '):
        dataset[0]
    with pytest.raises(BrokenFileError, match=r'17\.npy: 17 frames, 18 are needed'):
        dataset[1]
    sample = dataset[Address(0, 1, 0)]
    assert sample['id'] == '20.npy'
    assert {Path(path).name for path, _ in sample['failures']} <= {'16.npy', '17.npy'}


def test_example_trains(tmp_path):
    """As its docstring says to run it, in a process of its own, with a narrow model and small clips."""
    data = write_data(tmp_path / 'data', num_pictures=8, num_movies=1)
    write_arrays(data / 'arrays')
    options = dict(
        **{
            'model.backbone.embed_dim': 32,
            'model.backbone.depth': 1,
            'model.backbone.num_heads': 2,
            'model.backbone.clip_size': '(16,64,64)',
            'model.head.embed_dim': 32,
            'model.head.depth': 1,
            'model.head.num_heads': 2,
            'train_dataloader.batch_size': 4,
            'train_dataloader.batch_sampler.global_batch_size': 4,
            'train_cfg.max_epochs': 1,
            'param_scheduler.warmup_epochs': 0,
            'default_hooks.logger.interval': 1,
        },
        **{f'{split}_dataloader.{key}': value for split in ('train', 'val') for key, value in LOADER.items()},
        **{f'train_dataloader.dataset.sources.{name}.transforms.0.size': 64 for name in ('images', 'videos')},
        **{
            f'val_dataloader.dataset.sources.{name}.transforms.{number}.size': 64
            for name in ('images', 'videos')
            for number in (0, 1)
        },
    )
    work = tmp_path / 'work'
    env = environment(
        OMNIMAE_IMAGES=str(data / 'pictures'),
        OMNIMAE_ARRAYS=str(data / 'arrays'),
        PYTHONPATH=f'{EXAMPLE.relative_to(ROOT)}{os.pathsep}{ROOT}',
    )
    words = ['examples/outside_extension/pretrain.py', '--work-dir', work, '--cfg-options']
    command(TOOLS / 'train.py', *words, *(f'{key}={value}' for key, value in options.items()), output=tmp_path, env=env)
    [scalars] = work.glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [step['loss'] for step in steps if 'loss' in step]
    assert len(losses) == 2 + 3  # 8 images by 4; 3 videos of 4 crops by 4
    assert all(map(math.isfinite, losses))
    assert {'mse_image', 'mse_video'} <= steps[4].keys()
