"""A run small enough for tests, through the real components: config, pictures, videos, Runner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from omnimae.config import load_config
from omnimae.registry import HOOKS

T = TypeVar('T')

RUNTIME = Path(__file__).parents[1] / 'configs' / '_base_' / 'default_runtime.py'

# 20 pictures and 8 videos with 2 replicas, 8 samples a step: 3 + 2 steps an epoch, one of them half full.
PRETRAIN = """
_base_ = ['{runtime}']
model = dict(
    type='MaskedAutoencoder',
    backbone=dict(
        type='SpatioTemporalViT',
        embed_dim=24,
        depth=2,
        num_heads=2,
        patch_size=(2, 16, 16),
        clip_size=(4, 32, 32),
        drop_path_rate=0.2,
    ),
    head=dict(type='MAEHead', embed_dim=16, depth=1, num_heads=2),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5), video=dict(type='RandomMasking', ratio=0.75)),
)
crop = [dict(type='RandomResizedCrop', size=32)]
pictures = dict(type='ImageDataset', root='{data}/pictures', transforms=crop)
movies = dict(
    type='VideoDataset', root='{data}/movies', clip_seconds=0.5, num_frames=4, replicas=2, transforms=crop
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type='MixedDataset', sources=dict(pictures=pictures, movies=movies)),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=8),
    collate_fn=dict(type='collate_clips'),
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=2)
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""

# The same pictures in two classes.
CLASSIFY = """
_base_ = ['{runtime}']
model = dict(
    type='Classifier',
    backbone=dict(
        type='SpatioTemporalViT', embed_dim=24, depth=2, num_heads=2, patch_size=(2, 16, 16), clip_size=(4, 32, 32)
    ),
    num_classes=2,
    head_init_std=0.1,
)
pictures = dict(
    type='ImageDataset', root='{data}/pictures', transforms=[dict(type='RandomResizedCrop', size=32)]
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(type='MixedDataset', sources=dict(pictures=pictures)),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=8),
    collate_fn=dict(type='collate_clips'),
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=2)
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.75),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            pictures=dict(
                type='ImageDataset', root='{data}/pictures', transforms=[dict(type='CenterCrop', size=32)]
            )
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
test_cfg = dict(type='TestLoop')
test_evaluator = dict(type='ClipAccuracy', topk=(1,))
"""

# Behind one of these: a validation on its files, a sample a batch, so that every sample has its own masks.
EVALUATED = """
centre = [dict(type='CenterCrop', size=32)]
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type='MixedDataset', sources=dict({sources})),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_cfg = dict(type='ValLoop')
val_evaluator = dict({metric})
"""
RECONSTRUCTED = EVALUATED.format(
    sources='pictures=dict(pictures, transforms=centre), movies=dict(movies, transforms=centre)',
    metric="type='ReconstructionLoss'",
)
COUNTED = EVALUATED.format(
    sources='pictures=dict(pictures, transforms=centre)', metric="type='ClipAccuracy', topk=(1,)"
)

_number = itertools.count()


@HOOKS.register_module()
class LossesHook(Hook):
    """Keeps the loss of every step."""

    def before_train(self, runner: Runner) -> None:
        self.losses: dict[int, float] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict | None = None) -> None:
        self.losses[runner.iter] = outputs['loss'].item()


def hook_of(runner: Runner, kind: type[T]) -> T:
    """The first hook of a class."""
    return next(hook for hook in runner.hooks if type(hook) is kind)


def losses_of(runner: Runner) -> dict[int, float]:
    """What `LossesHook` has kept."""
    return hook_of(runner, LossesHook).losses


def write_data(folder: Path, num_pictures: int = 20, num_movies: int = 8) -> Path:
    """Pictures of noise in two classes, and videos of noise that moves."""
    rng = np.random.default_rng(0)
    for index in range(num_pictures):
        path = folder / 'pictures' / 'ab'[index % 2] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    (folder / 'movies').mkdir(parents=True)
    for index in range(num_movies):
        _write_movie(folder / 'movies' / f'{index}.mp4', rng.integers(0, 256, (48, 64, 3), np.uint8))
    return folder


def _write_movie(path: Path, picture: np.ndarray) -> None:
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], 'yuv420p'
        for shift in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, shift, 1), 'rgb24')))
        container.mux(stream.encode(None))


def write_config(path: Path, text: str, data: Path, more: str = '') -> Path:
    """Fill in a config of this module; ``more`` is added at its end."""
    path.write_text(text.replace('{runtime}', str(RUNTIME)).replace('{data}', str(data)) + more)
    return path


def build_runner(config: Path, work_dir: Path, options: dict[str, Any] | None = None) -> Runner:
    """A Runner of its own name: MMEngine keeps one message hub for all runs of one name and second."""
    cfg = load_config(config, options)
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'run{next(_number)}'
    return Runner.from_cfg(cfg)
