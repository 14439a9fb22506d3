"""A user's own labelled images and videos, through the config to copy and the commands that its docstring gives."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from programs import ROOT, TOOLS, command
from tiny_benchmarks import write_image, write_video

from omnimae.config import infer_num_classes, load_config
from omnimae.data.datasets import MixedDataset
from omnimae.engine import EvaluationRunner
from omnimae.registry import DATASETS

CONFIG = 'configs/custom/finetune.py'
CLASSES = ('alpha', 'beta', 'gamma')
SMALL = [
    'model.init_cfg=None',
    'model.backbone.embed_dim=24',
    'model.backbone.depth=1',
    'model.backbone.num_heads=2',
    'model.backbone.clip_size=(4,224,224)',
    *(f'{split}_dataloader.dataset.sources.videos.num_frames=4' for split in ('train', 'val', 'test')),
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val', 'test')
        for key in ('num_workers=0', 'persistent_workers=0')
    ),
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'param_scheduler.warmup_epochs=0',
    'optim_wrapper.dtype=None',
]


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images and a video of each of three classes, for training and for validation."""
    for split in ('train', 'val'):
        for label, name in enumerate(CLASSES):
            for number in range(2):
                write_image(tmp_path / 'images' / split / name / f'{number}.jpg', label, number)
            write_video(tmp_path / 'videos' / split / name / '0.mp4', label, label)
    monkeypatch.setenv('OMNIMAE_LABELLED', str(tmp_path))
    return tmp_path


def test_images_and_videos_train_and_test_one_classifier(labelled, tmp_path):
    work = tmp_path / 'work'
    run = functools.partial(command, output=tmp_path / 'said')
    run(TOOLS / 'train.py', CONFIG, '--work-dir', work, '--cfg-options', *SMALL)
    [scalars] = work.rglob('scalars.json')
    curves = set().union(*map(json.loads, scalars.read_text().splitlines()))
    assert {'top1', 'top1_image', 'top1_video', 'loss', 'cross_entropy_image', 'cross_entropy_video'} <= curves
    weights, out = work / 'epoch_1_raw.safetensors', work / 'new' / 'scores.json'
    for kind in ('images', 'videos'):  # the checkpoint knows the classes
        (labelled / kind / 'train').rename(labelled / f'{kind}_elsewhere')
    run(TOOLS / 'test.py', CONFIG, weights, '--work-dir', work, '--out', out, '--cfg-options', *SMALL)
    metrics = json.loads(out.read_text())
    places = ('accuracy/', 'accuracy/images/', 'accuracy/videos/')
    assert metrics.keys() == {f'{place}{key}' for place in places for key in ('top1', 'mean_class')}
    pooled = (6 * metrics['accuracy/images/top1'] + 3 * metrics['accuracy/videos/top1']) / 9
    assert metrics['accuracy/top1'] == pytest.approx(pooled)
    with np.load(out.with_suffix('.npz')) as file:
        assert file['scores'].shape == (9, 3)  # six images and three videos, three classes
        assert sorted(file['labels'].tolist()) == [0] * 3 + [1] * 3 + [2] * 3
    for kind in ('images', 'videos'):  # 'alpha', label 0 of the checkpoint, would be label 2 of these folders
        (labelled / kind / 'val' / 'alpha').rename(labelled / kind / 'val' / 'omega')
        shutil.copytree(labelled / kind / 'val', labelled / kind / 'train')
    message = 'has other classes than .*epoch_1_raw.safetensors: label 0 is .beta. here and .alpha. there'
    test = (TOOLS / 'test.py', CONFIG, weights, '--work-dir', work, '--cfg-options', *SMALL, 'model.num_classes=3')
    with pytest.raises(AssertionError, match=message):
        run(*test)


@pytest.mark.parametrize('kind', ['images', 'videos'])
def test_one_modality_alone_needs_no_folder_of_the_other(labelled, kind):
    shutil.rmtree(labelled / ('videos' if kind == 'images' else 'images'))
    cfg = load_config(ROOT / 'configs' / 'custom' / f'finetune_{kind}.py')
    infer_num_classes(cfg)
    assert cfg.model.num_classes == 3
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert MixedDataset(sources=loader.dataset.sources).names == (kind,)


def test_the_number_of_classes_is_that_of_the_data(labelled):
    cfg = load_config(ROOT / CONFIG)
    infer_num_classes(cfg)
    assert cfg.model.num_classes == 3
    cfg.model.num_classes = 7  # what a config says stands; HeadSizeHook compares
    infer_num_classes(cfg)
    assert cfg.model.num_classes == 7


def test_validation_has_the_classes_of_training_even_where_some_are_absent(labelled):
    for kind in ('images', 'videos'):
        (labelled / kind / 'val' / 'alpha').rename(labelled / f'{kind}_alpha')
    cfg = load_config(ROOT / CONFIG)
    infer_num_classes(cfg)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        for source in DATASETS.build(loader.dataset).sources:
            assert source.classes == CLASSES
            assert sorted({*source.labels.tolist()}) == [1, 2]
    (labelled / 'images' / 'val' / 'gamma').rename(labelled / 'images' / 'val' / 'delta')
    with pytest.raises(ValueError, match=r"images.val' has folders that are not in classes, \['delta'\]"):
        DATASETS.build(cfg.val_dataloader.dataset)


def test_data_without_labels_have_no_number_of_classes(labelled):
    for name in CLASSES:
        folder = labelled / 'images' / 'train' / name
        (folder / '0.jpg').rename(labelled / 'images' / 'train' / f'{name}.jpg')
    with pytest.raises(ValueError, match=r"source 'images' has no labels, which model\.num_classes=None needs"):
        infer_num_classes(load_config(ROOT / CONFIG))


# ---- Frozen features and maps ----


def small(name: str, work_dir: Path) -> Config:
    """A config of configs/custom with a tiny model and short clips, for one epoch, without weights."""
    cfg = load_config(ROOT / 'configs' / 'custom' / f'{name}.py')
    cfg.model.init_cfg = None
    cfg.model.backbone.update(arch=None, embed_dim=24, depth=1, num_heads=2, clip_size=(4, 224, 224))
    if cfg.model.type == 'AttentiveProbe':
        cfg.model.num_queries = 8
    if 'head' in cfg.model:
        cfg.model.head.update(embed_dim=96, depth=1)
    loaders = [cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')]
    for loader in filter(None, [*loaders, (cfg.get('test_cfg') or {}).get('bank_dataloader')]):
        loader.update(num_workers=0, persistent_workers=False, batch_size=1)
        for source in loader.dataset.sources.values():
            if 'num_frames' in source:
                source.num_frames = 4
    if cfg.get('train_cfg'):
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.train_dataloader.batch_sampler.global_batch_size = 2
        cfg.optim_wrapper.dtype, cfg.param_scheduler.warmup_epochs = None, 0
    cfg.work_dir = str(work_dir)
    infer_num_classes(cfg)
    return cfg


@pytest.mark.parametrize('kind', ['images', 'videos'])
def test_knn_counts_the_classes_of_the_training_folders(labelled, tmp_path, kind):
    shutil.rmtree(labelled / kind / 'val' / 'alpha')  # the first one: all others would be another class
    cfg = small(f'knn_{kind}', tmp_path / 'work')
    assert cfg.test_cfg.num_classes == 3
    cfg.test_cfg.update(k=1, dtype=None)
    [bank], [asked] = (
        DATASETS.build(loader.dataset).sources for loader in (cfg.test_cfg.bank_dataloader, cfg.test_dataloader)
    )
    assert (bank.classes, sorted({*asked.labels.tolist()})) == (CLASSES, [1, 2])
    metrics = EvaluationRunner.from_cfg(cfg).test()
    assert metrics['accuracy/top1'] == 100  # classes differ in colour


@pytest.mark.parametrize(('probe', 'kind'), [('linear', 'images'), ('linear', 'videos'), ('attentive', 'images')])
def test_a_probe_of_own_classes_trains(labelled, tmp_path, probe, kind):
    cfg = small(f'{probe}_{kind}', tmp_path / 'work')
    runner = EvaluationRunner.from_cfg(cfg)
    runner.train()
    assert runner.iter == (3 if kind == 'images' else 2)
    assert runner.model.head[-1].out_features == 3
    assert runner.test().keys() == {'accuracy/top1', 'accuracy/mean_class'}


def test_own_maps_train_a_segmentation(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for number in range(2):
            for folder, shape in (('images', (48, 64, 3)), ('labels', (48, 64))):
                path = tmp_path / split / folder / f'{number}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                high = 256 if folder == 'images' else 2
                Image.fromarray(rng.integers(0, high, shape, np.uint8)).save(path)
    monkeypatch.setenv('OMNIMAE_MAPS', str(tmp_path))
    cfg = small('segmentation', tmp_path / 'work')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        [source] = loader.dataset.sources.values()
        source.transforms = [dict(type='ResizeLong', size=64)]
    cfg.custom_hooks = []
    runner = EvaluationRunner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1
    assert 'segmentation/mIoU' in runner.test()
