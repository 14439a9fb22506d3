"""A user's own labelled images and videos, through the config to copy and the commands that its docstring gives."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from programs import ROOT, TOOLS, command, environment, run_program
from tiny_benchmarks import write_image, write_video

from omnimae.apis import get_model
from omnimae.checkpoint import load_weights, save_file
from omnimae.config import infer_num_classes, load_config
from omnimae.data.datasets import MixedDataset
from omnimae.engine import EvaluationRunner, find_run, load_config_for
from omnimae.own_data import finetune
from omnimae.registry import DATASETS, MODELS

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
    with pytest.raises(ValueError, match=r'k=20 neighbours are more than the . .* --cfg-options test_cfg\.k=[35]$'):
        EvaluationRunner.from_cfg(cfg).test()
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


# ---- Own runs ----

OWN_RUN = """\
_base_ = 'omnimae::custom/{base}.py'
model = dict(
    backbone=dict(arch=None, embed_dim=24, depth=2, num_heads=3, patch_size=(2, 32, 32)),
    data_preprocessor=dict(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)),
    {more}
)
"""
OF_RUN = {
    'model.backbone.arch': None,
    'model.backbone.embed_dim': 24,
    'model.backbone.num_heads': 3,
    'model.backbone.patch_size': (2, 32, 32),
    'model.data_preprocessor.mean': (0.4, 0.4, 0.4),
}


def write_run(folder: Path, *, classifies: bool) -> Path:
    """What a run leaves: its config, weights, and a log."""
    (folder / '20260101').mkdir(parents=True)
    (folder / '20260101/20260101.log').touch()
    base, more = ('finetune_images', 'num_classes=3') if classifies else ('pretrain_images', 'head=dict(embed_dim=16)')
    (folder / 'config.py').write_text(OWN_RUN.format(base=base, more=more))
    file = folder / 'epoch_1_raw.safetensors'
    with DefaultScope.overwrite_default_scope('omnimae'):
        model = MODELS.build({**load_config(folder / 'config.py').model, 'init_cfg': None})
    save_file(model.state_dict(), file, {})
    return file


@pytest.mark.parametrize('config', ['knn_images', 'linear_videos', 'finetune', 'segmentation'])
@pytest.mark.parametrize('classifies', [False, True])
def test_a_config_follows_an_own_run(tmp_path, monkeypatch, config, classifies):
    told: list[str] = []
    monkeypatch.setattr('omnimae.engine.following.print_log', lambda line, *_: told.append(line))
    file = write_run(tmp_path / 'run', classifies=classifies)
    for number, checkpoint in enumerate((file, file.parent)):
        monkeypatch.setenv('OMNIMAE_CHECKPOINT', str(file.parent))  # k-NN has no init_cfg
        cfg = load_config_for(f'custom/{config}', checkpoint if config == 'knn_images' or number == 0 else None)
        assert told[number].startswith(f'custom/{config} follows {file.parent}/config.py: model.backbone.arch=None ')
        assert ' model.backbone.patch_size=2,32,32' in told[number]
        expected = {key: x for key, x in OF_RUN.items() if config != 'segmentation' or 'mean' not in key}
        assert {key: get(cfg, key) for key in expected} == expected
        if (norm := get(cfg, 'model.norm')) is not None:
            assert norm == ('pooled' if classifies else 'token')
        cfg.model.init_cfg = None
        if 'num_classes' in cfg.model:
            cfg.model.num_classes = 3
        load_weights(MODELS.build(cfg.model), file, complete=config == 'knn_images')


def get(cfg: Config, key: str) -> Any:
    """The value of a dotted key, None without one."""
    return functools.reduce(lambda place, word: (place or {}).get(word), key.split('.'), dict(cfg.items()))


def test_what_does_not_follow_a_run(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr('omnimae.engine.following.print_log', lambda line, *_: told.append(line))
    run = write_run(tmp_path / 'run', classifies=False).parent
    given = {'model.backbone.patch_size': [2, 16, 16], 'model.backbone.num_heads': 2}
    cfg = load_config_for('custom/knn_images', run, given)
    assert (cfg.model.backbone.embed_dim, cfg.model.backbone.num_heads) == (24, 2)
    assert 'patch_size' not in told.pop()
    published = load_config_for('omnimae/knn/vit-b_in1k', run)
    assert published.model.backbone.arch == 'base'
    with pytest.raises(ValueError, match='has embed_dim=24, .* Choose .* that size, or the config in .*run.$'):
        load_weights(MODELS.build(published.model), run, complete=True)
    shutil.copytree(run, tmp_path / 'downloads')  # with a program of somebody, which is not run
    shutil.rmtree(tmp_path / 'downloads/20260101')
    (tmp_path / 'downloads/config.py').write_text('raise SystemExit')
    weights = tmp_path / 'downloads/epoch_1_raw.safetensors'
    assert load_config_for('custom/knn_images', weights).model.backbone.arch == 'base'
    assert load_config_for('custom/knn_images', 'https://example.org/a.torch').model.backbone.arch == 'base'
    assert not told
    (run / 'config.py').write_text('a = (')
    assert load_config_for('custom/knn_images', run).model.backbone.arch == 'base'
    assert re.search(r'run/config\.py is no config that can be followed: .*never closed', told.pop())


def test_a_pretraining_follows_an_own_run(tmp_path, monkeypatch):
    file = write_run(tmp_path / 'run', classifies=False)
    told: list[str] = []
    monkeypatch.setattr('omnimae.engine.following.print_log', lambda line, *_: told.append(line))
    monkeypatch.chdir(tmp_path)  # where there is no configs/
    model = get_model('custom/pretrain', file, device='cpu')
    assert told[0].startswith('custom/pretrain.py follows ')
    assert (model.backbone.embed_dim, model.head.decoder_embed.out_features) == (24, 16)
    monkeypatch.setenv('OMNIMAE_CHECKPOINT', str(file.parent))
    assert load_config_for('custom/pretrain_from_released', None).model.head.embed_dim == 16
    calls: list[tuple] = []
    monkeypatch.setattr('omnimae.own_data._run', lambda *args: calls.append(args))
    for name in ('cat', 'dog'):
        for number in range(2):
            write_image(tmp_path / f'data/{name}/{number}.jpg', number, number)
    finetune(tmp_path / 'data', checkpoint=file.parent)
    model = calls[0][1]['model']
    assert model['backbone'] == dict(
        arch=None, embed_dim=24, depth=2, num_heads=3, patch_size=(2, 32, 32), clip_size=(16, 224, 224)
    )
    assert model['data_preprocessor'] == dict(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), mixing=None)


@pytest.mark.parametrize('classifies', [False, True])
def test_knn_of_an_own_run(labelled, tmp_path, classifies):
    """Its folder is enough, and no loader asks for more workers than there are cores."""
    run = write_run(tmp_path / 'run', classifies=classifies).parent
    options = ('--work-dir', tmp_path / 'work', '--cfg-options', 'test_cfg.k=1')
    env = environment(OMNIMAE_LABELLED=str(labelled))
    said = command(TOOLS / 'test.py', 'custom/knn_images', run, *options, output=tmp_path / 'said', env=env)
    assert 'accuracy/top1: 100.0' in said
    assert 'worker processes' not in said
    assert said.count('follows') == 1


def test_a_run_without_a_checkpoint_says_when_it_saves(tmp_path):
    write_run(tmp_path / 'run', classifies=False).unlink()
    message = (
        r'run is the folder of a run that has not saved a checkpoint yet\. It saves every 10 epochs, every 15 minutes, '
        r'at its end and when Ctrl-C stops it\. Wait for one, or start it again: omnimae train .*config\.py --resume$'
    )
    for call in (find_run, functools.partial(load_config_for, 'omnimae/knn/vit-b_in1k')):
        with pytest.raises(ValueError, match=message):
            call(tmp_path / 'run')


def test_a_pretraining_has_the_commands_that_judge_it(tmp_path):
    run = write_run(tmp_path / 'my run', classifies=False).parent
    said = run_program(TOOLS / 'test.py', run, output=tmp_path / 'said').stderr
    assert f"  omnimae test custom/knn_images '{run}'\n  OMNIMAE_CHECKPOINT='{run}' omnimae train custom/" in said
    assert f"\n  omnimae finetune DATA --checkpoint '{run}' --out classifier\n" in said
