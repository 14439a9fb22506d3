"""Our backbone in MMPretrain and MMAction2 gives our Classifier's numbers; their data and transforms run in ours."""

from __future__ import annotations

import random
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from tiny_benchmarks import write_image, write_video

from omnimae import openmmlab
from omnimae.checkpoint import save_file
from omnimae.data.datasets import MixedDataset
from omnimae.openmmlab import OpenMMLabTransform
from omnimae.registry import DATASETS, MODELS
from omnimae.structures import Address

pytest.importorskip('mmpretrain', reason="needs pip install 'omnimae[openmmlab]'")
pytest.importorskip('mmaction', reason="needs pip install 'omnimae[openmmlab]'")

ROOT = Path(__file__).parents[1]
VIT = dict(type='SpatioTemporalViT', embed_dim=24, depth=2, num_heads=2, clip_size=(4, 32, 32))
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # ImageNet's, times 255


@pytest.fixture(scope='module')
def ours() -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(dict(type='Classifier', backbone=VIT, num_classes=5, head_init_std=1.0))
    torch.nn.init.normal_(model.norm.weight)
    return model.eval()


@pytest.fixture(scope='module')
def backbone(ours: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Their config of our backbone, with our checkpoint."""
    path = tmp_path_factory.mktemp('weights') / 'classifier.safetensors'
    save_file(ours.state_dict(), path, {})
    init = dict(type='omnimae.Checkpoint', checkpoint=str(path))
    return dict(type='omnimae.OpenMMLabBackbone', backbone=VIT, init_cfg=init)


def build(scope: str, cfg: dict) -> torch.nn.Module:
    """As their tools do."""
    with DefaultScope.overwrite_default_scope(scope):
        model = ROOT_MODELS.build(cfg)
        model.init_weights()
    return model.eval()


def image_classifier(backbone: dict) -> torch.nn.Module:
    head = dict(type='LinearClsHead', in_channels=24, num_classes=5)
    preprocessor = dict(mean=MEAN, std=STD, to_rgb=True)
    cfg = dict(type='ImageClassifier', backbone=backbone, head=head, data_preprocessor=preprocessor)
    return build('mmpretrain', cfg)


def recognizer(backbone: dict) -> torch.nn.Module:
    head = dict(type='TimeSformerHead', in_channels=24, num_classes=5, average_clips='prob')
    preprocessor = dict(type='ActionDataPreprocessor', mean=MEAN, std=STD, format_shape='NCTHW')
    cfg = dict(type='Recognizer3D', backbone=backbone, cls_head=head, data_preprocessor=preprocessor)
    return build('mmaction', cfg)


def test_mmpretrain_classifies_as_we_do(ours: torch.nn.Module, backbone: dict):
    theirs = image_classifier(backbone)
    theirs.head.fc.load_state_dict(ours.head.state_dict())
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    bgr = images.flip(1)
    with torch.no_grad():
        batch = theirs.data_preprocessor(dict(inputs=[*bgr]), False)
        scores = torch.stack([sample.pred_score for sample in theirs(**batch, mode='predict')])
        expected = ours.view_logits(images[:, :, None]).mean(1).softmax(-1)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_mmaction_classifies_as_we_do(ours: torch.nn.Module, backbone: dict):
    theirs = recognizer(backbone)
    from mmaction.structures import ActionDataSample

    theirs.cls_head.fc_cls.load_state_dict(ours.head.state_dict())
    clips = torch.randint(256, (2, 3, 3, 4, 32, 32), dtype=torch.uint8)  # two videos of three views
    with torch.no_grad():
        samples = [ActionDataSample() for _ in clips]
        batch = theirs.data_preprocessor(dict(inputs=[*clips], data_samples=samples), False)
        scores = torch.stack([sample.pred_score for sample in theirs(**batch, mode='predict')])
        expected = ours.view_logits(clips).softmax(-1).mean(1)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_maps_and_learning_rates_of_layers(backbone: dict):
    model = build('mmpretrain', {**backbone, 'out': 'map'})
    assert model(torch.zeros(2, 3, 32, 32))[0].shape == (2, 24, 2, 2)
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 24, 2, 2, 2)
    depths = {name: image_classifier(backbone).get_layer_depth(f'backbone.{name}') for name in ('norm.weight',)}
    names = ['backbone.patch_embed.weight', 'backbone.blocks.0.norm1.bias', 'backbone.blocks.1.mlp.fc1.weight']
    assert [model.get_layer_depth(name) for name in names] == [(0, 4), (1, 4), (2, 4)]
    assert depths == {'norm.weight': (3, 4)}


@pytest.mark.parametrize(
    ('installed', 'message'),
    [
        ({}, None),
        ({'mmcv': '2.1.0', 'mmcv-lite': '2.1.0'}, r'mmcv 2\.1\.0 and mmcv-lite 2\.1\.0; exactly one.*pip install'),
        ({'mmcv': '2.2.0'}, r'Found mmcv 2\.2\.0; exactly one of mmcv-lite and mmcv is needed, version 2\.1\.0'),
        ({'mmcv-lite': '2.1.0'}, None),
        ({'mmcv': '2.1.0+cu121'}, None),
    ],
)
def test_one_mmcv_of_the_right_version(monkeypatch: pytest.MonkeyPatch, installed: dict, message: str | None):
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, 'version', version)
    if message is None:
        openmmlab.check_mmcv()
    else:
        with pytest.raises(ImportError, match=message):
            openmmlab.check_mmcv()


# ---- theirs in ours ----


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data')
    lines = []
    for label, name in enumerate(('a', 'b')):
        for number in range(2):
            write_image(root / 'images' / name / f'{number}.jpg', label, number)
            write_video(root / 'videos' / f'{name}{number}.mp4', label, number)
            lines.append(f'{name}{number}.mp4 {label}\n')
    (root / 'list.txt').write_text(''.join(lines))
    return root


def test_their_datasets_are_sources(data: Path):
    crop = [dict(type='CenterCrop', size=32)]
    images = dict(type='mmpretrain.CustomDataset', data_root=str(data / 'images'))
    videos = dict(type='mmaction.VideoDataset', ann_file=f'{data}/list.txt', data_prefix=dict(video=f'{data}/videos'))
    mixed = MixedDataset(
        sources=dict(
            images=dict(type='OpenMMLabImages', dataset=images, transforms=crop),
            videos=dict(type='OpenMMLabVideos', dataset=videos, transforms=crop, num_frames=4, clip_seconds=1.0),
        )
    )
    own = dict(root=f'{data}/images', transforms=crop)
    expected = DATASETS.build(dict(type='ImageDataset', **own))
    assert mixed.sources[0].classes == ('a', 'b')
    for row in range(4):
        assert torch.equal(mixed[row]['clips']['rgb'], expected[row]['clips']['rgb'])
        assert mixed[row]['label'] == expected[row]['label']
    assert [mixed[row]['label'] for row in range(4, 8)] == [0, 0, 1, 1]
    assert mixed[4]['clips']['rgb'].shape == (1, 1, 3, 4, 32, 32)


def test_a_dataset_without_files_is_refused():
    class Numbers:
        metainfo: dict = {}

        def __init__(self, pipeline: list) -> None: ...

        def __len__(self) -> int:
            return 1

        def get_data_info(self, row: int) -> dict:
            return dict(img=np.zeros((2, 2, 3), np.uint8), gt_label=0)

    with pytest.raises(ValueError, match='dataset=Numbers lists no files'):
        DATASETS.build(dict(type='OpenMMLabImages', dataset=dict(type=Numbers)))


@pytest.mark.parametrize(
    'transform',
    [
        dict(type='mmpretrain.ColorJitter', brightness=0.9, contrast=0.9),
        dict(type='mmpretrain.RandomCrop', crop_size=16),
        dict(type='mmaction.RandomResizedCrop', area_range=(0.1, 0.5)),
        dict(type='mmaction.Flip', flip_ratio=0.5),
    ],
    ids=lambda transform: transform['type'],
)
def test_their_transforms_draw_from_our_seeds(transform: dict):
    clip = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8).repeat(3, 0)
    ours = OpenMMLabTransform(transform=transform)
    before = random.getstate(), np.random.get_state()[1].tolist()
    results = [ours(clip, np.random.default_rng(seed)) for seed in range(8)]
    assert all(np.array_equal(result[0], frame) for result in results for frame in result)  # one draw for all frames
    assert len({result.tobytes() for result in results}) > 1
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(ours(clip, np.random.default_rng(seed)), result)
    np.testing.assert_array_equal(ours(clip, None), ours(clip, None))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_an_image_of_theirs_is_bgr():
    """Mmcv turns colours into brightness by weights of each."""
    clip = np.zeros((1, 4, 4, 3), np.uint8)
    clip[..., 0] = 255  # red
    grey = OpenMMLabTransform(transform=dict(type='mmpretrain.ColorJitter', saturation=(0.0, 0.0)))
    assert grey(clip, np.random.default_rng(0))[0, 0, 0].tolist() == pytest.approx([76] * 3, abs=1)


def test_an_address_gives_the_same_sample(data: Path):
    jitter = dict(type='OpenMMLabTransform', transform=dict(type='mmpretrain.ColorJitter', brightness=0.9))
    crop = dict(type='RandomResizedCrop', size=32)
    source = DATASETS.build(dict(type='ImageDataset', root=f'{data}/images', transforms=[crop, jitter]))
    first, again, other = (source[Address(0, 1, seed)]['clips']['rgb'] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---- their tools ----

CONFIG = """
default_scope = '{scope}'
custom_imports = dict(imports=['omnimae.openmmlab'])
model = {model}
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
train_dataloader = dict(
    batch_size=2, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=True), dataset={dataset}
)
"""


@pytest.mark.slow
@pytest.mark.parametrize('scope', ['mmpretrain', 'mmaction'])
def test_their_tools_train_our_backbone(scope: str, backbone: dict, data: Path, tmp_path: Path):
    if scope == 'mmpretrain':
        head = dict(type='LinearClsHead', in_channels=24, num_classes=2)
        model = dict(type='ImageClassifier', backbone=backbone, head=head)
        model['data_preprocessor'] = dict(mean=MEAN, std=STD, to_rgb=True)
        steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]
        dataset = dict(type='CustomDataset', data_root=str(data / 'images'), pipeline=steps)
    else:
        head = dict(type='TimeSformerHead', in_channels=24, num_classes=2)
        model = dict(type='Recognizer3D', backbone=backbone, cls_head=head)
        model['data_preprocessor'] = dict(type='ActionDataPreprocessor', mean=MEAN, std=STD, format_shape='NCTHW')
        steps = [dict(type='PyAVInit'), dict(type='SampleFrames', clip_len=4, frame_interval=2, num_clips=1)]
        steps += [dict(type='PyAVDecode'), dict(type='Resize', scale=(32, 32), keep_ratio=False)]
        steps += [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
        prefix = dict(video=f'{data}/videos')
        dataset = dict(type='VideoDataset', ann_file=f'{data}/list.txt', data_prefix=prefix, pipeline=steps)
    (tmp_path / 'config.py').write_text(CONFIG.format(scope=scope, model=model, dataset=dataset))
    package = __import__(scope).__path__[0]
    command = [sys.executable, f'{package}/.mim/tools/train.py', 'config.py', '--work-dir', 'work']
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'work' / 'epoch_1.pth').exists()
