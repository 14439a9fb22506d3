"""Our parts in MMPretrain and MMAction2, and theirs in ours; needs ``pip install 'omnimae[openmmlab]'``.

A config of theirs takes one of our backbones:

    custom_imports = dict(imports=['omnimae.openmmlab'])
    model = dict(
        backbone=dict(
            type='omnimae.OpenMMLabBackbone',
            backbone=dict(type='SpatioTemporalViT', arch='base'),
            init_cfg=dict(type='omnimae.Checkpoint', checkpoint=PATH_OR_URL),
        ),
        head=dict(type='LinearClsHead', in_channels=768, num_classes=1000),
    )

A config of ours imports the same, and has `OpenMMLabImages`, `OpenMMLabVideos` and `OpenMMLabTransform`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from omnimae.data.annotations import Rows
from omnimae.data.datasets import ImageDataset, VideoDataset
from omnimae.models.backbone import build_backbone
from omnimae.registry import DATASETS, MODELS, TRANSFORMS

MMCV_VERSION = '2.1.0'


def supply_modules() -> None:
    """Make ``mmaction.models`` importable by empty modules in place of two that fail.

    The wheel of MMAction2 1.2.0 has no DRN (mmaction2#2714), and its VindLU fails with transformers 5.
    """
    spec = find_spec('mmaction')
    if spec is None or spec.origin is None:
        return
    empty: dict[str, dict[str, Any]] = {}
    if not Path(spec.origin).parent.joinpath('models/localizers/drn').exists():
        empty.update({'localizers.drn': {}, 'localizers.drn.drn': dict(DRN=None)})
    if find_spec('transformers') and int(metadata.version('transformers').partition('.')[0]) >= 5:
        empty['multimodal.vindlu'] = {}
    for name, content in empty.items():
        module = ModuleType(f'mmaction.models.{name}')
        vars(module).update(content, __path__=[])
        sys.modules.setdefault(module.__name__, module)


def check_mmcv() -> None:
    """Check that at most one of mmcv-lite and mmcv is installed, in a version that both 1.2.0 packages accept.

    The two overwrite each other's files. MMAction2 refuses mmcv 2.2.

    Raises:
        ImportError: both, or another version.
    """
    found = {}
    for name in ('mmcv', 'mmcv-lite'):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if found and [version.split('+')[0] for version in found.values()] != [MMCV_VERSION]:
        installed = ' and '.join(f'{name} {version}' for name, version in found.items())
        raise ImportError(
            f'Found {installed}; exactly one of mmcv-lite and mmcv is needed, version {MMCV_VERSION}. '
            f'Run: pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite=={MMCV_VERSION}'
        )


supply_modules()
check_mmcv()


@MODELS.register_module()
class OpenMMLabBackbone(BaseModule):
    """A backbone of ours in MMPretrain's `ImageClassifier` and in MMAction2's `Recognizer3D`.

    Its output is the input of our Classifier's head: pooled tokens after a norm. Their preprocessor normalises inputs
    by ImageNet's mean and std, times 255. Their layer-wise learning rate decay works.

    Args:
        backbone: config of the encoder. Its final norm is off, as in a Classifier.
        out: 'pooled', (B, D), for heads with one linear layer; 'map', (B, D, t, h, w), for heads that pool themselves.
    """

    def __init__(self, *, backbone: dict, out: str = 'pooled', init_cfg: dict | None = None):
        super().__init__(init_cfg)
        if out not in ('pooled', 'map'):
            raise ValueError(f"out={out!r} is unknown. Choose 'pooled' or 'map'.")
        self.out = out
        with DefaultScope.overwrite_default_scope('omnimae'):
            self.backbone = build_backbone(
                backbone, 'OpenMMLabBackbone', *('embed_dim', 'pooled' if out == 'pooled' else 'feature_maps'),
                final_norm=False,
            )  # fmt: skip
        self.norm = nn.LayerNorm(self.backbone.embed_dim, eps=1e-6)

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor]:
        """Images (B, 3, H, W) -> features in a tuple, as MMPretrain has them; clips (B, 3, T, H, W) -> features."""
        is_image = inputs.dim() == 4
        clip = inputs[:, :, None] if is_image else inputs
        if self.out == 'pooled':
            features = self.norm(self.backbone.pooled(clip))
        else:
            last = self.backbone.num_layers - 1
            [features] = self.backbone.feature_maps({'rgb': clip}, [last], ['rgb'])
            features = self.norm(features.movedim(1, -1)).movedim(-1, 1)
            features = features[:, :, 0] if is_image else features
        return (features,) if is_image else features

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Parameter name -> its layer and the number of layers, for MMPretrain's layer-wise learning rate decay."""
        layers = self.backbone.num_layers + 2
        name = param_name.removeprefix(prefix)
        if not name.startswith('backbone.'):
            return layers - 1, layers
        return self.backbone.layer_of(name.removeprefix('backbone.')), layers


def rows_of(dataset: dict) -> Rows:
    """The files and labels that a dataset of theirs lists."""
    listed = DATASETS.build({'pipeline': [], **dataset})
    infos = [listed.get_data_info(row) for row in range(len(listed))]
    keys = [key for key in ('img_path', 'filename') if infos and key in infos[0]]
    if not keys:
        raise ValueError(
            f'dataset={type(listed).__name__} lists no files (img_path, filename). Use one that does, or write its '
            'samples to files.'
        )
    labels = [info.get('gt_label', info.get('label')) for info in infos]
    classes = listed.metainfo.get('classes')
    return Rows(
        [info[keys[0]] for info in infos],
        None if None in labels else [int(label) for label in labels],
        None if classes is None else tuple(classes),
    )


@DATASETS.register_module()
class OpenMMLabImages(ImageDataset):
    """Images that a dataset of MMPretrain lists: ``dataset=dict(type='mmpretrain.CustomDataset', data_root=...)``."""

    def __init__(self, *, dataset: dict, **options: Any):
        super().__init__(root='', ann_file=rows_of(dataset), **options)


@DATASETS.register_module()
class OpenMMLabVideos(VideoDataset):
    """Videos that a dataset of MMAction2 lists: ``dataset=dict(type='mmaction.VideoDataset', ann_file=...)``."""

    def __init__(self, *, dataset: dict, **options: Any):
        super().__init__(root='', ann_file=rows_of(dataset), **options)


@TRANSFORMS.register_module()
class OpenMMLabTransform:
    """A transform of MMPretrain, or mmcv, or MMAction2 among ours.

    Its randomness follows from ours, and is the same for all frames of a clip. In evaluation it always draws the same.

    Args:
        transform: config, such as ``dict(type='mmpretrain.ColorJitter', brightness=0.4)``.
    """

    def __init__(self, *, transform: dict):
        self.transform = TRANSFORMS.build(transform)
        self.takes_clips = type(self.transform).__module__.startswith('mmaction.')

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB -> the same, of another size where the transform changes it."""
        seed = 0 if rng is None else int(rng.integers(2**32))
        size = clip.shape[1:3]
        if self.takes_clips:
            with _seeded(seed):
                about = dict(img_shape=size, original_shape=size, modality='RGB', num_clips=1, clip_len=len(clip))
                return np.stack(self.transform(dict(imgs=[*clip], **about))['imgs'])
        frames = []
        for frame in clip:
            with _seeded(seed):  # images of theirs are BGR
                image = np.ascontiguousarray(frame[..., ::-1])
                result = self.transform(dict(img=image, img_shape=size, ori_shape=size))
            frames.append(result['img'][..., ::-1])
        return np.stack(frames)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give the global generators, which their transforms draw from, a state for a while."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
